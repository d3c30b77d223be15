"""A batch over four nodes, while nodes, the head and the engine are killed, frozen and cut off at random.

    cd tests && python -m nodes.faults                            # 10,000 tasks, 20 SIGKILLs: half an hour
    cd tests && python -m nodes.faults --tasks 500 --faults 18    # minutes

Simulated agents, each a real process in a container. At the end: each task was begun at most once, every one
that is not lost completed, what was spent is under the cap, nothing is left running. Then a batch is
cancelled, to see how long that takes. Prints a line of figures.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from cms.testing.script import call
from nodes.kit import Head, Host, Proxy, Server, eventually, sleeps, task

HEARTBEAT = 8.0
CAP = 0.25
#: Four of six are SIGKILLs.
KINDS = ("node", "head", "freeze", "engine", "daemon", "cut")


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

    def over(self) -> int:
        """How many tasks are over."""
        (batch,) = json.loads(self.head.ok("batches", "--json").out)["batches"]
        counts: dict[str, int] = batch["counts"]
        return sum(count for status, count in counts.items() if status not in ("waiting", "running"))

    def note_cpu(self) -> None:
        found = self.daemon(self.head)
        if found is not None:
            times = [found.cpu_times(), *(child.cpu_times() for child in found.children())]
            self.cpu += sum(each.user + each.system for each in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--slots", type=int, default=3, help="of each of the four nodes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="of faults, in turn")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cms-faults-") as folder:
        run = Trial(Path(folder), given.slots, given.seed)
        try:
            return trial(run, given)
        finally:
            for proxy in run.proxies:
                proxy.close()
            for host in (run.head, *run.hosts):
                host.leave()
            run.server.kill()


def trial(run: Trial, given: argparse.Namespace) -> int:
    marks = run.head.work_dir / "marks"
    marks.mkdir()
    tasks = [
        task(f"t{number}", call("Bash", command=f"echo x >> {marks}/t{number}; sleep 0.3"), maxCost=CAP)
        for number in range(given.tasks)
    ]
    began = time.monotonic()
    cap = CAP * (2 + given.faults) * len(run.hosts) * given.slots  # each fault may lose all that is at work
    file = run.head.file(tasks)
    run.head.ok("batch", "--file", file, "--on", run.url, "--detach", "--max-cost", f"{cap:g}")
    done: Counter[str] = Counter()
    for number, kind in zip(range(given.faults), cycle(given.kinds.split(",")), strict=False):
        share = (number + run.chance.random()) / given.faults  # of the work; so they come while there is some
        while run.over() < 0.95 * share * given.tasks:
            time.sleep(1)
        print(f"{time.monotonic() - began:6.1f} s  {kind:7} {run.over()} over", flush=True)
        run.fault(kind)
        done[kind] += 1
    while run.over() < given.tasks:
        time.sleep(1)
    eventually(lambda: run.head.show()["exitCode"] is not None, "the batch has ended", 36_000)
    took = time.monotonic() - began
    run.note_cpu()
    print(f"{given.tasks} tasks, {sum(done.values())} faults ({dict(done)}), {took:.0f} s")
    batch = run.head.show()
    ways = cancelled(run)
    bad, words = judged(run, batch, marks, cap)
    words += [
        f"{given.tasks / took:.2f} tasks a second",
        f"{1000 * run.cpu / given.tasks:.1f} ms of CPU of the head and its bridge a task",
        f"{median(ways):.2f} s from a cancel to a dead process tree, {max(ways):.2f} s at most",
    ]
    print("; ".join(words))
    return int(bad)


def judged(run: Trial, batch: dict[str, Any], marks: Path, cap: float) -> tuple[bool, list[str]]:
    """Whether anything is wrong, and what the trial has shown."""
    begun = {path.name: path.read_text().count("x") for path in marks.iterdir()}
    status = {each["name"]: each["status"] for each in batch["tasks"]}
    lost = sum(what == "lost" for what in status.values())
    twice = [name for name, times in begun.items() if times > 1]
    missed = [name for name, what in status.items() if what == "completed" and begun.get(name) != 1]
    # Cut off by a node's own people, a task may have changed something: it waits for a person.
    others = {
        each["name"]: (each["status"], each["error"])
        for each in batch["tasks"]
        if each["status"] not in ("completed", "lost", "interrupted")
    }
    for host in (run.head, *run.hosts):
        host.leave()
    left = [one for host in (run.head, *run.hosts) for one in (*host.survivors(), *host.sleepers())]
    charged = batch["totalCostUsd"] + lost * CAP
    for what, found in (("begun twice", twice), ("completed but not begun", missed), ("failed", others)):
        if found:
            print(f"  {what}: {found}")
    bad = bool(twice or missed or others or left or charged > cap)
    return bad, [
        "BAD" if bad else "good",
        f"begun twice {len(twice)} of {len(begun)}",
        f"{batch['counts']}",
        f"spent {batch['totalCostUsd']:.4f}, with {lost} lost at their caps {charged:.2f} of {cap:.2f}",
        f"left running {left or 'nothing'}",
    ]


def cancelled(run: Trial) -> list[float]:
    """Fill all slots, cancel; seconds until the process of each task was dead."""
    marks = run.head.work_dir / "long"
    marks.mkdir()
    slots = len(run.hosts) * run.slots
    tasks = [task(f"c{number}", sleeps(600, marks / f"c{number}"), maxCost=CAP) for number in range(slots)]
    file = run.head.file(tasks, "cancel.json")
    run.head.ok("batch", "--file", file, "--on", run.url, "--detach")
    eventually(lambda: len(list(marks.iterdir())) == slots, "all slots are at work", 120)
    alive = {pid for host in run.hosts for pid in host.sleepers()}
    asked = run.head.start("batch", "cancel", "cancel")
    began, ways = time.monotonic(), []
    while alive:
        dead = {pid for pid in alive if not psutil.pid_exists(pid)}
        ways += [time.monotonic() - began] * len(dead)
        alive -= dead
        assert time.monotonic() - began < 120, f"still alive: {alive}"
        time.sleep(0.01)
    asked.communicate(timeout=60)
    return ways


if __name__ == "__main__":
    os.environ.pop("CMS_HOME", None)
    sys.exit(main())
