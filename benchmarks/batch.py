"""What a batch costs its supervisor, and what becomes of it when the daemon is killed again and again.

    python benchmarks/batch.py                    # 100, 1,000 and 10,000 tasks; then 20 kills among 10,000
    python benchmarks/batch.py --sizes 100,1000 --kills 3 --kill-tasks 200

Simulated agents (real processes, no model). Printed for each size: wall time, the daemon's CPU time for each
task and for each event (a line that an agent wrote, or a task's start or end), its memory at the end, and how
much that grew over the second half of the run: a supervisor that leaks grows there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cms.config import load_settings
from cms.rpc.client import NoDaemon, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.testing.agent import write_launcher
from cms.testing.script import prompt, say

MIB = 2**20


class House:
    """A home with a daemon of its own."""

    def __init__(self, folder: Path, parallel: int, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.parallel = parallel
        (folder / "work").mkdir()
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("CMS_")},
            "HOME": str(folder),
            "CMS_HOME": str(folder / "cms"),
            "CMS_CLAUDE": str(write_launcher(folder / "claude")),
        }

    def cms(self, *words: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "cms", *words, "--json"],
            cwd=self.folder / "work",
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            return json.loads(done.stdout)
        except ValueError:
            raise SystemExit(f"cms {' '.join(words)}: {done.stdout}{done.stderr}") from None

    def daemon(self) -> psutil.Process:
        with connect(load_settings(self.env)) as client:
            return psutil.Process(client.daemon.pid)

    def start(self, tasks: int) -> str:
        path = self.folder / f"tasks-{tasks}.jsonl"
        with path.open("w") as file:
            for number in range(tasks):
                answer = say("done", cost_usd=0.001).after(self.seconds)
                one = {"name": f"t{number}", "prompt": prompt(f"Task {number}", answer)}
                file.write(json.dumps(one) + "\n")
        return str(
            self.cms(
                "batch", "--file", str(path), "--detach", "--max-parallel", str(self.parallel),
                "--stagger", "0.001s", "--out", str(self.folder / "out.jsonl"),
            )["id"]
        )  # fmt: skip

    def database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.folder / 'cms' / 'cms.db'}?mode=ro", uri=True)

    def ended(self, batch_id: str) -> int:
        with self.database() as db:
            row = db.execute(
                "SELECT sum(tasks) FROM batch_counts WHERE batch_id = ?"
                " AND status NOT IN ('waiting', 'running')",
                (batch_id,),
            ).fetchone()
        db.close()
        return row[0] or 0

    def stop(self) -> None:
        try:
            with connect(load_settings(self.env), start=False) as client:
                client.call(DAEMON_STOP, DaemonStopParams(grace=10.0))
                client.wait_until_gone(time.monotonic() + 30)
        except NoDaemon:
            pass


@contextmanager
def open_house(parallel: int, seconds: float) -> Iterator[House]:
    folder = Path(tempfile.mkdtemp(prefix="cms-bench-"))
    house = House(folder, parallel, seconds)
    try:
        yield house
    finally:
        house.stop()
        shutil.rmtree(folder, ignore_errors=True)


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(tasks: int, parallel: int, seconds: float) -> None:
    """One size: what the daemon took for it."""
    with open_house(parallel, seconds) as house:
        house.cms("list")
        daemon = house.daemon()
        before, began = cpu_of(daemon), time.monotonic()
        batch_id = house.start(tasks)
        half = peak = most = 0
        while (ended := house.ended(batch_id)) < tasks:
            most = max(most, len(daemon.children()))
            memory = daemon.memory_info().rss
            peak = max(peak, memory)
            if not half and ended >= tasks // 2:
                half = memory
            time.sleep(0.2)
        took, cpu = time.monotonic() - began, cpu_of(daemon) - before
        at_end = daemon.memory_info().rss
        with house.database() as db:
            lost = db.execute("SELECT count(*) FROM batch_tasks WHERE status <> 'completed'").fetchone()[0]
            twice = db.execute(
                "SELECT count(*) FROM (SELECT session_id FROM interactions WHERE state = 'done'"
                " GROUP BY session_id HAVING count(*) > 1)"
            ).fetchone()[0]
        db.close()
        lines = sum(path.read_bytes().count(b"\n") for path in (house.folder / "cms" / "raw").iterdir())
        events = lines + 2 * tasks
        print(
            f"{tasks:>6} tasks, {parallel} at once ({most} seen): {took:7.1f} s,"
            f" CPU of the daemon {1000 * cpu / tasks:6.2f} ms/task"
            f" = {1e6 * cpu / events:5.0f} us/event, memory {at_end / MIB:5.0f} MiB"
            f" (peak {peak / MIB:.0f}, second half {(at_end - (half or at_end)) / MIB:+.1f}),"
            f" not completed {lost}, twice {twice}",
            flush=True,
        )


def kill_again_and_again(tasks: int, parallel: int, seconds: float, kills: int, seed: int) -> None:
    """SIGKILL the daemon at random instants of a batch; in the end everything is done, once."""
    chance = random.Random(seed)
    with open_house(parallel, seconds) as house:
        began = time.monotonic()
        batch_id = house.start(tasks)
        marks = sorted(chance.sample(range(tasks // 50, tasks - tasks // 50), kills))
        for mark in marks:
            while house.ended(batch_id) < mark:
                time.sleep(0.02)
            time.sleep(chance.uniform(0, 0.3))
            daemon = house.daemon()
            os.kill(daemon.pid, signal.SIGKILL)
            while daemon.is_running() and daemon.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            house.cms("daemon", "status")
            house.cms("batches")  # any command starts the next daemon
        while house.ended(batch_id) < tasks:
            time.sleep(0.2)
        took = time.monotonic() - began
        shown = house.cms("batches")["batches"][0]
        results = (house.folder / "out.jsonl").read_text().splitlines()
        names = [json.loads(line)["name"] for line in results]
        with house.database() as db:
            twice = db.execute(
                "SELECT count(*) FROM (SELECT s.name FROM interactions AS i JOIN sessions AS s"
                " ON s.id = i.session_id WHERE i.state = 'done'"
                " GROUP BY substr(s.name, 1, instr(s.name || '~', '~') - 1) HAVING count(*) > 1)"
            ).fetchone()[0]
            whole = db.execute("PRAGMA integrity_check").fetchone()[0]
        db.close()
        print(
            f"{kills} kills of the daemon among {tasks} tasks: {took:.1f} s, {shown['status']}"
            f" {shown['counts']}, results {len(names)} lines of {len(set(names))} tasks,"
            f" answered twice {twice}, the store is {whole}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--parallel", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="that each task takes")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-tasks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for size in (int(word) for word in options.sizes.split(",") if word):
        measure(size, options.parallel, options.seconds)
    if options.kills:
        kill_again_and_again(
            options.kill_tasks, options.parallel, options.seconds, options.kills, options.seed
        )


if __name__ == "__main__":
    main()
