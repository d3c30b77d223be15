"""A thousand sessions that stream at once: whether a line is lost, how late each comes, what a session holds.

The agents (`fed_agent.py`) sleep, and one feeder, here, writes to the stdout of all of them: agents that
woke up for each line would need the second core for themselves, and take some of the daemon's. Each line
carries when it was written and its number; the raw log says when the daemon had it, and that it had it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from unittest.mock import patch

import msgspec
import psutil

from benchmarks import fed_agent
from benchmarks.figures import Figure
from benchmarks.house import House, cpu_of, open_house
from cms.config import load_settings
from cms.rpc.client import connect
from cms.rpc.sessions import SESSION_SPAWN, SpawnParams
from cms.session.model import SessionOptions
from cms.store.rawlog import read_entries

RATE = 30  # lines a second of each session
FULL = 0.95  # of a core
_KIB = 1024
_MARK = b'"text":"at '
_LINE = (
    b'{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta",'
    b'"text":"at %.6f %d "}},"parent_tool_use_id":null,"uuid":"7bea91fc-d131-45a8-8a0a-ccf8378c6d4b",'
    b'"session_id":"c2cfb525-3940-42d3-810c-8a5525b9e4d3"}\n'
)


class Stream(msgspec.Struct):
    """What one session was sent, through its own stdout."""

    out: socket.socket
    sent: int = 0
    waiting: deque[bytes] = msgspec.field(default_factory=deque)  # what did not fit: the daemon is behind

    def write(self) -> None:
        """One line more, stamped now; what has to wait for room keeps its stamp."""
        self.waiting.append(_LINE % (time.time(), self.sent))
        self.sent += 1
        self.flush()

    def flush(self) -> None:
        while self.waiting:
            line = self.waiting.popleft()
            try:
                taken = self.out.send(line, socket.MSG_DONTWAIT)
            except BlockingIOError:
                taken = 0
            if taken < len(line):
                self.waiting.appendleft(line[taken:])
                return


class Load(msgspec.Struct):
    """What so many streams cost.

    Attributes:
        core: of a processor core, the share that the daemon had.
        delays: of each session's lines, in seconds.
        lost: lines that were sent and are not in the raw log.
        seconds: from the first line to the last.
    """

    streams: int
    core: float
    lines: int
    delays: list[list[float]]
    lost: int
    seconds: float

    @property
    def p99(self) -> list[float]:
        """Of each session."""
        return [quantiles(one, n=100)[-1] for one in self.delays]


def figures(small: bool) -> list[Figure]:
    """All sessions are there from the start; more and more of them stream."""
    count, seconds = (20, 2.0) if small else (1000, 10.0)
    steps = [count] if small else [*range(100, count, 100), count]
    with _opened(count) as (house, daemon, streams, held):
        loads = [_load(house, daemon, streams[:step], seconds if step == count else 3.0) for step in steps]
    last = loads[-1]
    what = f"{count:,} sessions that stream {RATE} lines a second each"
    found = [
        Figure(f"{what}: lines lost", sum(one.lost for one in loads), "lines", goal=0),
        Figure(
            f"{what}: the worst session's p99 delay of a line",
            max(last.p99) * 1000,
            "ms",
            "the median session's",
            median(last.p99) * 1000,
            3.0,
            "the daemon's core: all sessions wait for it alike",
        ),
        Figure(f"{what}: median delay of a line", median(map(median, last.delays)) * 1000, "ms"),
        Figure(f"{what}: lines that came in", last.lines / last.seconds, "lines/s"),
        Figure(f"{what}: the daemon's processor time", last.core * 100, "% of a core"),
        Figure(
            f"{what}: memory of the daemon for each",
            held / _KIB,
            "KiB",
            goal=100,
            limit="a dozen of trio's tasks",
        ),
    ]
    full = next((one for one in loads if one.core >= FULL), None)
    if full is not None:
        found.append(
            Figure(
                f"sessions of {RATE} lines a second that fill one core",
                full.streams,
                "sessions",
                limit="Python, trio and the kernel: a wake-up, a read and a write for what comes at once",
            )
        )
    return found


@contextmanager
def _opened(count: int) -> Iterator[tuple[House, psutil.Process, list[Stream], int]]:
    """So many sessions, each in the middle of a reply; and the bytes that one more takes in the daemon."""
    with (
        open_house() as house,
        patch.dict(os.environ, house.env, clear=True),  # what sessions get is what their client has
        socket.socket(socket.AF_UNIX) as feeder,
    ):
        launcher = Path(house.env["CMS_CLAUDE"])
        launcher.write_text(f"#!{sys.executable} -IS\n{Path(fed_agent.__file__).read_text()}")
        launcher.chmod(0o755)
        feeder.bind(str(house.folder / "work" / fed_agent.FEEDER))
        feeder.listen(count)
        feeder.settimeout(120)
        house.cms("list")
        daemon = house.daemon()
        first = count // 5  # with these comes what all share: modules, threads, rows of the store's cache
        streams = _spawn(house, feeder, range(first))
        before = daemon.memory_full_info().uss
        streams += _spawn(house, feeder, range(first, count))
        held = (daemon.memory_full_info().uss - before) // (count - first)
        try:
            yield house, daemon, streams, held
        finally:
            os.kill(daemon.pid, signal.SIGKILL)  # to stop them all politely would take longer than the rest
            for one in streams:
                one.out.close()
            connect(load_settings(house.env)).close()  # the next one clears up


def _spawn(house: House, feeder: socket.socket, numbers: range) -> list[Stream]:
    """Sessions with these numbers, at work."""

    def some(start: int) -> None:
        with connect(load_settings(house.env)) as client:
            for number in numbers[start::4]:
                options = SessionOptions(f"s{number}", str(house.folder / "work"))
                client.call(SESSION_SPAWN, SpawnParams(options, "go", wait=False))

    with ThreadPoolExecutor(4) as spawning:
        list(spawning.map(some, range(4)))
    streams = [Stream(_handed(feeder)) for _ in numbers]
    time.sleep(1.0)
    return streams


def _handed(feeder: socket.socket) -> socket.socket:
    agent, _ = feeder.accept()
    with agent:
        _, (fd,), _, _ = socket.recv_fds(agent, 1, 1)
    return socket.socket(fileno=fd)


def _load(house: House, daemon: psutil.Process, streams: list[Stream], seconds: float) -> Load:
    for one in streams:
        one.sent = 0
    sizes = {path: path.stat().st_size for path in (house.folder / "cms" / "raw").iterdir()}
    cpu, began = cpu_of(daemon), time.monotonic()
    _feed(streams, seconds)
    used, took = cpu_of(daemon) - cpu, time.monotonic() - began
    give_up = time.monotonic() + 30
    while any(one.waiting for one in streams) and time.monotonic() < give_up:
        for one in streams:
            one.flush()
        time.sleep(0.01)
    sent = sum(one.sent for one in streams)
    while True:
        delays = [found for path, size in sizes.items() if (found := _delays(path, size))]
        came = sum(map(len, delays))
        if came >= sent or time.monotonic() > give_up:
            core = used / took
            print(
                f"  {len(streams)} stream: {core:.2f} of a core, {used / sent * 1e6:.0f} us a line",
                file=sys.stderr,
            )
            return Load(len(streams), core, sent, delays, sent - came, took)
        time.sleep(0.5)


def _feed(streams: list[Stream], seconds: float) -> None:
    """Lines at even intervals, the sessions one after the other."""
    apart = 1 / RATE / len(streams)
    began, done = time.monotonic(), 0
    while (now := time.monotonic() - began) < seconds:
        due = int(now / apart)
        for number in range(done, due):
            streams[number % len(streams)].write()
        done = due
        time.sleep(0.001)


def _delays(path: Path, size: int) -> list[float]:
    """Of the lines that came into the log since it was so big, each once, in seconds."""
    found: dict[int, float] = {}
    for entry in read_entries(path, size):
        if _MARK in entry.line:
            at, number, _ = entry.line.partition(_MARK)[2].split(b" ", 2)
            found[int(number)] = entry.at - float(at)
    return list(found.values())
