"""Sessions at work: what each costs the daemon, what a crash costs, and what cms costs a whole batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.figures import Figure
from benchmarks.house import House, cpu_of, open_house, real_claude
from cms.config import load_settings
from cms.rpc.client import NoDaemon, connect
from cms.rpc.sessions import SESSION_WATCH, WatchParams
from cms.testing.api import api_process
from cms.testing.script import prompt, say

RATE = 30  # lines a second of each session
_KIB = 1024


def figures(small: bool) -> list[Figure]:
    """Many sessions that stream, looked on at and not; then the daemon is killed among them."""
    count, seconds = (10, 3.0) if small else (60, 10.0)
    with open_house() as house:
        house.cms("list")
        daemon = house.daemon()
        some = count // 5  # with these comes what all share: modules, threads
        pieces = int(RATE * (4 * seconds + 20))
        _spawn(house, range(some), pieces)
        before = _private(daemon)
        _spawn(house, range(some, count), pieces)
        held = (_private(daemon) - before) / (count - some) / _KIB
        beside = _beside_agents(daemon) / count / _KIB
        alone, lines = _per_line(house, daemon, seconds)
        with _watchers(house, count):
            watched, _ = _per_line(house, daemon, seconds)
        first = _crash(house, daemon)
    streams = f"{count} sessions, {RATE} lines a second each"
    return [
        Figure(
            f"a streamed line in the daemon ({streams})",
            alone,
            "us of its processor time",
            goal=50,
            limit="the kernel and trio: a wake-up, a read and a write to the raw log for each line",
        ),
        Figure(
            f"the same, each with a watcher ({streams})",
            watched,
            "us",
            "nobody looks on",
            alone,
            1.3,
            limit="the kernel: a write for each note, 20 a second, and the wake-up of who reads it",
        ),
        Figure(f"lines that came in, of {count * RATE} wanted", lines, "lines/s"),
        Figure(
            "memory of the daemon for each live session",
            held,
            "KiB",
            goal=100,
            limit="a dozen of trio's tasks",
        ),
        Figure(
            "memory of what keeps each live session contained",
            beside,
            "KiB",
            goal=6500,  # a tenth of the terminal host that `claude --bg` has for each
            limit="two Pythons that have loaded nothing",
        ),
        Figure(
            f"SIGKILL of the daemon among {count} sessions, to the first answer of the next",
            first * 1000,
            "ms",
            goal=500,
            limit="the start of Python, and the kernel's end of all agents",
        ),
    ]


def _private(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)


def _beside_agents(daemon: psutil.Process) -> int:
    """Bytes of the processes that stand between the daemon and the agents; what they share by shares."""
    keepers = [
        one for one in daemon.children(recursive=True) if "cms: keeps one session" in str(one.cmdline())
    ]
    assert keepers
    return sum(int(one.memory_full_info().pss) for one in keepers)


def _spawn(house: House, numbers: range, pieces: int) -> None:
    """Sessions with these numbers, each in the middle of a reply of so many lines."""
    text = say("x" * pieces).chunked(1, 1 / RATE)
    for number in numbers:
        house.cms("spawn", f"s{number}", prompt("go", text), "--detach")
    _wait_streaming(house, numbers.stop)


def _raw(house: House) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (house.folder / "cms" / "raw").iterdir())


def _wait_streaming(house: House, count: int) -> None:
    give_up = time.monotonic() + 120
    raw = house.folder / "cms" / "raw"
    while sum(b"content_block_delta" in path.read_bytes() for path in raw.iterdir()) < count:
        assert time.monotonic() < give_up, "the sessions do not stream"
        time.sleep(0.2)


def _per_line(house: House, daemon: psutil.Process, seconds: float) -> tuple[float, float]:
    """Microseconds of the daemon's processor time for a line, and lines a second."""
    before, lines, began = cpu_of(daemon), _raw(house), time.monotonic()
    time.sleep(seconds)
    used, came, took = cpu_of(daemon) - before, _raw(house) - lines, time.monotonic() - began
    return used / came * 1e6, came / took


@contextmanager
def _watchers(house: House, count: int) -> Iterator[None]:
    """Somebody looks on at each session, with a connection of its own."""
    clients = []
    for number in range(count):
        client = connect(load_settings(house.env))
        clients.append(client)

        def watch(client=client, number=number) -> None:  # type: ignore[no-untyped-def]
            try:
                client.call(SESSION_WATCH, WatchParams(f"s{number}"), on_progress=lambda _: None)
            except Exception:  # noqa: S110 - it is hung up on
                pass

        threading.Thread(target=watch, daemon=True).start()
    time.sleep(0.5)
    try:
        yield
    finally:
        for client in clients:
            client.cancel()


def _crash(house: House, daemon: psutil.Process) -> float:
    """Seconds from the end of a daemon that is killed until another one has answered."""
    os.kill(daemon.pid, signal.SIGKILL)
    began = time.monotonic()
    while True:
        try:
            with connect(load_settings(house.env)):
                return time.monotonic() - began
        except NoDaemon:
            continue


# --- a batch ----------------------------------------------------------------------------------------


def overhead(small: bool) -> list[Figure]:
    """A batch beside `xargs -P` over bare `claude -p`: the same tasks, the real binary, a scripted model."""
    found = [_task_cpu(40 if small else 200)]
    claude = real_claude()
    if claude:
        with api_process() as api, open_house(api=api) as house:
            found.append(_beside_xargs(house, claude, tasks=4 if small else 20))
    return found


def _task_cpu(tasks: int) -> Figure:
    with open_house(parallel=4, seconds=0.2) as house:
        house.cms("list")
        daemon = house.daemon()
        before = cpu_of(daemon)
        batch = house.start(tasks)
        while house.ended(batch) < tasks:
            time.sleep(0.05)
        used = cpu_of(daemon) - before
    return Figure(
        "a task of a batch: the daemon's processor time",
        used / tasks * 1000,
        "ms",
        goal=12,
        limit="Python: starting a process, its container's proof, a dozen transactions",
    )


def _beside_xargs(house: House, claude: str, tasks: int, at_once: int = 2) -> Figure:
    asked = [prompt(f"Task {number}", say("done").after(2.0)) for number in range(tasks)]
    work = house.folder / "work"
    (work / "prompts").write_bytes(b"".join(one.encode() + b"\0" for one in asked))
    house.cms("list")
    bare = took = float("inf")
    for turn in range(2):  # in turns: the machine may be busier in one than in the other
        argv = ["xargs", "-0", "-P", str(at_once), "-n", "1", claude, "-p"]
        with (work / "prompts").open("rb") as prompts:
            began = time.monotonic()
            subprocess.run(
                argv, stdin=prompts, cwd=work, env=house.env, stdout=subprocess.DEVNULL, check=True
            )
            bare = min(bare, time.monotonic() - began)
        path = work / f"tasks{turn}.jsonl"  # a batch is called as its file is
        lines = (json.dumps({"name": f"b{turn}-{n}", "prompt": one}) for n, one in enumerate(asked))
        path.write_text("\n".join(lines) + "\n")
        began = time.monotonic()
        limits = ("--max-parallel", str(at_once), "--stagger", "0.001s")
        done = house.cms("batch", "--file", str(path), *limits)
        assert done["counts"]["completed"] == tasks, done
        took = min(took, time.monotonic() - began)
    return Figure(
        f"a batch of {tasks} tasks of 2 s, {at_once} at once, real binary",
        took,
        "s",
        "`claude -p` under xargs -P",
        bare,
        1.05,
        "the start of claude, which is the same",
    )
