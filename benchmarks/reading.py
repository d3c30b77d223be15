"""What an event costs on its way from bytes to a decision, beside others that read the same JSON.

Each measurement runs in turns with the others, in processor time, and its best counts: what disturbs a run
only makes it slower.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec

import msgspec

from benchmarks import stream
from benchmarks.figures import ROOT, Figure


class Work(msgspec.Struct):
    """What is to be read: the lines, and the same as one piece of bytes."""

    lines: list[bytes]
    data: bytes
    turns: int = 0


def _json(work: Work) -> None:
    for line in work.lines:
        json.loads(line)


def _msgspec(work: Work) -> None:
    decode = msgspec.json.decode
    for line in work.lines:
        decode(line)


def _orjson(work: Work) -> None:
    from orjson import loads

    for line in work.lines:
        loads(line)


def _sdk(work: Work) -> None:
    """As `claude_agent_sdk` reads a line and makes a message of it."""
    from claude_agent_sdk._internal.message_parser import parse_message

    for line in work.lines:
        data = json.loads(line.decode())
        # Control requests go another way there, and are not made messages.
        if data["type"] not in ("control_request", "control_response"):
            parse_message(data)


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
    from cms.session.path_rules import PathRules
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
    assert settled == work.turns, "every turn must come to its end"


MEASUREMENTS: dict[str, Callable[[Work], None]] = {
    "json": _json,
    "msgspec": _msgspec,
    "orjson": _orjson,
    "sdk": _sdk,
    "frame": _frame,
    "decode": _decode,
    "whole": _whole,
}
_NEEDS = {"orjson": "orjson", "sdk": "claude_agent_sdk"}


def measure(work: Work, repeats: int, names: list[str]) -> dict[str, float]:
    """Seconds of processor time for each, the best of so many."""
    best = dict.fromkeys(names, float("inf"))
    for _ in range(repeats):
        for name in names:
            began = time.process_time()
            MEASUREMENTS[name](work)
            best[name] = min(best[name], time.process_time() - began)
    return best


def recorded(times: int) -> Work:
    """The recordings of the real binary, again and again."""
    found = sorted((ROOT / "tests" / "recordings").glob("*.jsonl"))
    lines = [line for path in found if ".stdin" not in path.name for line in path.read_bytes().splitlines()]
    return Work(lines * times, b"")


def figures(small: bool) -> list[Figure]:
    """Decoding, and all the way to decisions."""
    names = [name for name in MEASUREMENTS if name not in _NEEDS or find_spec(_NEEDS[name])]
    turns = 4 if small else 20
    lines = stream.lines(turns)
    made, taken = Work(lines, b"\n".join(lines) + b"\n", turns), recorded(5 if small else 40)
    repeats = 3 if small else 9
    day = measure(made, repeats, names)
    starts = measure(taken, repeats, [name for name in names if name not in ("frame", "whole")])
    size, short = sum(map(len, lines)), sum(map(len, taken.lines))

    def speed(seconds: float, of: int) -> float:
        return of / seconds / 1e6

    found = []
    for what, took, of in (("a day's stream", day, size), ("the recordings", starts, short)):
        for peer, title, goal in (("orjson", "orjson.loads", 2.0), ("sdk", "claude-agent-sdk", 8.0)):
            if peer in took:
                found.append(
                    Figure(
                        f"decode {what}, beside {title}",
                        speed(took["decode"], of),
                        "MB/s",
                        title,
                        speed(took[peer], of),
                        goal,
                        "a call of Python's for each line, beside msgspec's one pass",
                    )
                )
    events = len(lines)
    found.append(
        Figure(
            "bytes to decisions",
            day["whole"] / events * 1e6,
            "us an event",
            "msgspec, untyped, of the same lines",
            day["msgspec"] / events * 1e6,
            4.0,
            "Python: folding makes a new state for each event",
        )
    )
    return found
