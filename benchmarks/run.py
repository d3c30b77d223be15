"""What an event costs on its way from bytes to a decision, as ratios to reading the same JSON bare.

    python -m benchmarks [--turns N] [--repeats N]

Each measurement runs in a process of its own, and the best of its repeats counts, in processor time: what
disturbs a run only makes it slower. Ratios hold across machines where times do not; the second table shows
that ten times the events cost ten times as much.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from benchmarks import stream

_ROOT = Path(__file__).parent.parent


class Work(msgspec.Struct):
    """What is to be read: the lines, and the same as one piece of bytes."""

    lines: list[bytes]
    data: bytes


class Figure(msgspec.Struct):
    """One measurement: seconds for so many events and bytes."""

    seconds: float
    events: int
    size: int

    @property
    def per_event(self) -> float:
        return self.seconds / self.events * 1e6


def _json(work: Work) -> None:
    for line in work.lines:
        json.loads(line)


def _msgspec(work: Work) -> None:
    decode = msgspec.json.decode
    for line in work.lines:
        decode(line)


def _decode(work: Work) -> None:
    from cms.protocol.messages import decode

    for line in work.lines:
        decode(line)


def _frame(work: Work) -> None:
    from cms.protocol.framing import LineBuffer

    data = work.data
    buffer = LineBuffer()
    for at in range(0, len(data), 65536):
        buffer.receive(data[at : at + 65536])


def _whole(work: Work) -> None:
    """Framing, decoding, folding and deciding, with the answers that a runner would give."""
    from cms.protocol.connection import Answered, Connection
    from cms.protocol.messages import CommandLifecycle, Event, GetUsage
    from cms.session.decide import AnswerCall, AskMeter, FindPaths, Settle, decide, wake_at
    from cms.session.fold import fold, is_piece
    from cms.session.gate import Rules
    from cms.session.model import Limits
    from cms.session.paths import PathRules
    from cms.session.state import (
        Began,
        Charged,
        Judged,
        MeterAsked,
        Opened,
        PathsFound,
        Phase,
        Settled,
        State,
    )

    def paths() -> PathRules:
        return PathRules(work_dir="/home/u/project", home="/home/u", resolve=lambda path: path)

    limits = Limits(max_cost=1e9, max_turns=10**9, max_time=1e9)
    rules = Rules(limits, "full", paths(), paths(), ("/home/u/project",))
    reading = msgspec.Raw(b'{"session":{"total_cost_usd":0.0,"model_usage":{}}}')
    state = fold(State(), Opened(0.0, {}), 0.0)
    now = 0.0

    def take(event: Event) -> None:
        nonlocal state
        state = fold(state, event, now)
        if state.charges:
            state = fold(state, Charged(len(state.charges)), now)
        if is_piece(event):
            return  # as in `live.driver`
        for action in decide(state, rules, now):
            if isinstance(action, AnswerCall):
                state = fold(state, Judged(action.call.request_id, action.denial), now)
            elif isinstance(action, FindPaths):
                names = action.call.given.paths
                found = tuple(rules.paths.locate(name, str) for name in names)
                take(PathsFound(action.call.request_id, found))
            elif isinstance(action, AskMeter):
                state = fold(state, MeterAsked(), now)
                take(Answered("q", GetUsage(), reading))
            elif isinstance(action, Settle):
                state = fold(state, Settled(), now)
        wake_at(state, rules)

    connection = Connection()
    data = work.data
    settled = 0
    for at in range(0, len(data), 65536):
        connection.receive_data(data[at : at + 65536])
        while (event := connection.next_event()) is not None:
            now += 0.0001
            if isinstance(event, CommandLifecycle) and event.state == "queued":
                take(Began(event.command_uuid))
            busy = state.phase is Phase.BUSY
            take(event)
            settled += busy and state.phase is Phase.READY
    assert settled == sum(b'"subtype":"success"' in line for line in work.lines), (
        "every turn must come to its end"
    )


MEASUREMENTS: dict[str, tuple[str, Callable[[Work], None]]] = {
    "json": ("json.loads of each line", _json),
    "msgspec": ("msgspec.json.decode of each line", _msgspec),
    "frame": ("cms: bytes to lines", _frame),
    "decode": ("cms: lines to events", _decode),
    "whole": ("cms: bytes to decisions", _whole),
}


def measure(name: str, turns: int, repeats: int) -> Figure:
    """In this process."""
    lines = stream.lines(turns)
    work = Work(lines, b"\n".join(lines) + b"\n")
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        MEASUREMENTS[name][1](work)
        best = min(best, time.process_time() - began)
    return Figure(best, len(lines), sum(map(len, lines)))


def measure_apart(name: str, turns: int, repeats: int) -> Figure:
    """In a process of its own."""
    argv = [
        sys.executable,
        "-m",
        "benchmarks",
        "--one",
        name,
        "--turns",
        str(turns),
        "--repeats",
        str(repeats),
    ]
    done = subprocess.run(argv, cwd=_ROOT, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=Figure)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--turns", type=int, default=20, help="messages in the session (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="the best of so many counts")
    parser.add_argument("--one", choices=list(MEASUREMENTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(msgspec.json.encode(measure(given.one, given.turns, given.repeats)).decode())
        return
    figures = {name: measure_apart(name, given.turns, given.repeats) for name in MEASUREMENTS}
    one = figures["whole"]
    print(f"{one.events} events, {one.size / 1e6:.1f} MB, seed 1\n")
    print(f"{'':34} us/event   MB/s   x msgspec   x json")
    for name, (title, _) in MEASUREMENTS.items():
        figure = figures[name]
        to_msgspec = figure.seconds / figures["msgspec"].seconds
        to_json = figure.seconds / figures["json"].seconds
        speed = figure.size / figure.seconds / 1e6
        print(f"{title:34} {figure.per_event:8.2f} {speed:6.0f} {to_msgspec:11.2f} {to_json:8.2f}")
    print(f"\n{'ten times the session':34} us/event   x the cost of one event")
    for name in ("decode", "whole"):
        ten = measure_apart(name, given.turns * 10, max(given.repeats // 2, 1))
        ratio = ten.per_event / figures[name].per_event
        print(f"{MEASUREMENTS[name][0]:34} {ten.per_event:8.2f} {ratio:12.2f}")


if __name__ == "__main__":
    main()
