"""The recordings of the real binary, as bytes and as events."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from cms.protocol.messages import Event, decode

RECORDINGS = Path(__file__).parent.parent / "recordings"

#: Every scene, by name.
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.jsonl") if ".stdin" not in path.name)


@cache
def stream(name: str) -> bytes:
    """What claude wrote in this scene."""
    return (RECORDINGS / f"{name}.jsonl").read_bytes()


@cache
def lines(name: str) -> tuple[bytes, ...]:
    return tuple(stream(name).splitlines())


@cache
def events(name: str) -> tuple[Event, ...]:
    return tuple(decode(line) for line in lines(name))


@cache
def told(name: str) -> tuple[dict[str, object], ...]:
    """What was written to claude in this scene."""
    raw = (RECORDINGS / f"{name}.stdin.jsonl").read_bytes()
    return tuple(msgspec.json.decode(line, type=dict[str, object]) for line in raw.splitlines())


def all_lines() -> list[tuple[str, int, bytes]]:
    """Every line of every scene: scene, number, bytes."""
    return [(name, number, line) for name in NAMES for number, line in enumerate(lines(name))]
