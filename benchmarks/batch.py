"""What a batch costs its supervisor, and what becomes of it when the daemon is killed again and again.

    python -m benchmarks.batch                    # 100, 1,000 and 10,000 tasks; then 20 kills among 10,000
    python -m benchmarks.batch --sizes 100,1000 --kills 3 --kill-tasks 200

Simulated agents (real processes, no model). Printed for each size: wall time, the daemon's CPU time for each
task and for each event (a line that an agent wrote, or a task's start or end), its memory at the end, and how
much that grew over the second half of the run: a supervisor that leaks grows there.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time

import psutil

from benchmarks.house import cpu_of, open_house

MIB = 2**20


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
