"""A batch over four nodes, while nodes, the head and the engine are killed, frozen and cut off at random.

    cd tests && python -m nodes.faults                                  # 10,000 tasks, 20 faults: hours
    cd tests && python -m nodes.faults --tasks 300 --faults 20          # minutes

Simulated agents, each a real process in a container. At the end: each task was begun at most once, every one
that is not lost completed, what was spent is under the cap, nothing is left running. Prints figures.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from cms.testing.script import call
from nodes.kit import Head, Host, Proxy, Server, eventually, task

HEARTBEAT = 8.0
KINDS = ("node", "head", "engine", "freeze", "cut", "daemon")


class Trial:
    """Four nodes, a head, an engine, and what is done to them."""

    def __init__(self, folder: Path, slots: int, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - a trial's luck
        (folder / "engine").mkdir()
        self.server = Server(folder / "engine")
        self.head = Head(folder / "head")
        self.hosts = [Host(folder / f"node-{number}") for number in range(4)]
        self.proxies = [Proxy(self.server.port) for _ in self.hosts]
        self.slots = slots
        self.url = self.server.url(HEARTBEAT)
        self.cpu = 0.0
        for host, proxy in zip(self.hosts, self.proxies, strict=True):
            host.start_node(self.url.replace(str(self.server.port), str(proxy.port)), slots=slots)

    def daemon(self, host: Host) -> psutil.Process | None:
        try:
            return psutil.Process(int((host.home / "daemon.lock").read_text().split()[0]))
        except (OSError, ValueError, IndexError, psutil.Error):
            return None

    def fault(self, kind: str) -> None:
        number = self.chance.randrange(len(self.hosts))
        host, proxy = self.hosts[number], self.proxies[number]
        if kind == "node":
            host.node.send_signal(signal.SIGKILL)
            host.node.wait()
            host.start_node(self.url.replace(str(self.server.port), str(proxy.port)), slots=self.slots)
        elif kind == "freeze":
            host.node.send_signal(signal.SIGSTOP)
            time.sleep(HEARTBEAT * 1.5)
            host.node.send_signal(signal.SIGCONT)
        elif kind == "cut":
            proxy.cut = True
            time.sleep(HEARTBEAT * 1.5)
            proxy.cut = False
        elif kind == "engine":
            self.server.kill()
            time.sleep(self.chance.uniform(0.0, 2.0))
            self.server.start()
        elif (found := self.daemon(self.head if kind == "head" else host)) is not None:
            if kind == "head":
                self.note_cpu()
            found.send_signal(signal.SIGKILL)
            eventually(lambda: not found.is_running(), "it is dead")
            if kind == "head":
                self.head.cms("batches")  # brings up the next one, which goes on

    def note_cpu(self) -> None:
        found = self.daemon(self.head)
        if found is not None:
            times = [found.cpu_times(), *(child.cpu_times() for child in found.children())]
            self.cpu += sum(each.user + each.system for each in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=6.0, help="seconds between two faults, about")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cms-faults-") as folder:
        return trial(Trial(Path(folder), given.slots, given.seed), given)


def trial(run: Trial, given: argparse.Namespace) -> int:
    marks = run.head.work_dir / "marks"
    marks.mkdir()
    tasks = [
        task(f"t{number}", call("Bash", command=f"echo x >> {marks}/t{number}; sleep 0.3"), maxCost=0.25)
        for number in range(given.tasks)
    ]
    began = time.monotonic()
    cap = 0.25 * (given.tasks + 50)
    file = run.head.file(tasks)
    run.head.ok("batch", "--file", file, "--on", run.url, "--detach", "--max-cost", f"{cap:g}")
    done: Counter[str] = Counter()
    for number in range(given.faults):
        time.sleep(run.chance.uniform(0.5, 1.5) * given.every)
        kind = KINDS[number % len(KINDS)]
        print(f"{time.monotonic() - began:6.1f} s  {kind:7} {run.head.counts()}", flush=True)
        run.fault(kind)
        done[kind] += 1
    eventually(lambda: run.head.show()["exitCode"] is not None, "the batch has ended", 36_000)
    took = time.monotonic() - began
    run.note_cpu()
    batch = run.head.show()
    begun = {path.name: path.read_text().count("x") for path in marks.iterdir()}
    status = {each["name"]: each["status"] for each in batch["tasks"]}
    twice = [name for name, times in begun.items() if times > 1]
    missed = [name for name, what in status.items() if what == "completed" and begun.get(name) != 1]
    running = [pid for host in run.hosts for pid in host.sleepers()]
    print(
        f"{given.tasks} tasks, {given.faults} faults ({dict(done)}): {batch['status']} {batch['counts']}"
        f"\n  {took:.0f} s, {given.tasks / took:.2f} tasks a second,"
        f" head and bridge {1000 * run.cpu / given.tasks:.1f} ms of CPU a task"
        f"\n  spent {batch['totalCostUsd']:.4f} of {cap:.2f}, exact {batch['costExact']};"
        f" begun twice {twice}, completed and not begun {missed}, still running {running}"
    )
    others = {
        each["name"]: each["error"][:150]
        for each in batch["tasks"]
        if each["status"] not in ("completed", "lost")
    }
    print("  neither completed nor lost:", others)
    for proxy in run.proxies:
        proxy.close()
    for host in (run.head, *run.hosts):
        host.leave()
    run.server.kill()
    left = [one for host in (run.head, *run.hosts) for one in host.survivors()]
    print("  left running at the end:", left)
    bad = bool(twice or missed or running or left or batch["totalCostUsd"] > cap)
    return int(bad or bool(set(status.values()) - {"completed", "lost", "interrupted"}))


if __name__ == "__main__":
    os.environ.pop("CMS_HOME", None)
    sys.exit(main())
