"""Cutting bytes into lines: the same lines however they come, at linear cost, within the limit."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.errors import LineTooLong
from cms.protocol.framing import LineBuffer

_BYTES = st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a", b"{}", b"\x00", b"\xff"])).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data in pieces, some of them empty."""
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def drain(buffer: LineBuffer, pieces: list[bytes]) -> list[bytes]:
    return [line for piece in pieces for line in buffer.receive(piece)]


@given(_BYTES, st.lists(st.integers(0, 60), max_size=8))
def test_any_cutting_gives_the_same_lines(data: bytes, at: list[int]) -> None:
    buffer = LineBuffer()
    found = drain(buffer, cut(data, at))
    *whole, rest = data.split(b"\n")
    assert found == [line.removesuffix(b"\r") for line in whole if line.removesuffix(b"\r")]
    assert buffer.pending == len(rest)
    assert buffer.close() == rest.removesuffix(b"\r")
    assert buffer.pending == 0


def test_nothing_is_lost_but_line_ends() -> None:
    assert LineBuffer().receive(b"\n\r\n\n") == []
    assert LineBuffer().receive(b"a\r\n\rb\n") == [b"a", b"\rb"]


def test_the_next_line_begins_after_close() -> None:
    buffer = LineBuffer()
    assert buffer.receive(b"torn") == []
    assert buffer.close() == b"torn"
    assert buffer.receive(b"next\n") == [b"next"]


@given(st.integers(1, 40), st.integers(-1, 1), st.lists(st.integers(0, 50), max_size=5), st.booleans())
def test_the_limit_is_exact(limit: int, beyond: int, at: list[int], ended: bool) -> None:
    line = b"x" * (limit + beyond)
    pieces = cut(b"short\n" * (limit >= 5) + line + b"\n" * ended, at)
    buffer = LineBuffer(limit)
    if beyond > 0:
        with pytest.raises(LineTooLong) as caught:
            drain(buffer, pieces)
        assert caught.value.limit == limit
    else:
        found = drain(buffer, pieces)
        assert (found[-1] if ended and line else buffer.close()) == line


@pytest.mark.parametrize("before", [b"", b"a\n", b"a\nb\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\nmore"])
def test_a_long_line_is_refused_wherever_it_stands_in_a_read(before: bytes, after: bytes) -> None:
    with pytest.raises(LineTooLong):
        LineBuffer(8).receive(before + b"x" * 9 + after)


def test_an_unfinished_line_never_holds_more_than_the_limit() -> None:
    buffer = LineBuffer(1000)
    held = 0
    for _ in range(1000 // 7):
        buffer.receive(b"x" * 7)
        held = max(held, buffer.pending)
    with pytest.raises(LineTooLong):
        buffer.receive(b"x" * 7)
    assert max(held, buffer.pending) <= 1000


class Counted(bytes):
    """Bytes that count how many of them were looked at."""

    seen = 0

    def partition(self, sep: bytes, /) -> tuple[bytes, bytes, bytes]:  # type: ignore[override]  # narrower on purpose
        Counted.seen += len(self)
        first, newline, rest = super().partition(sep)
        return first, newline, Counted(rest)

    def split(self, sep: bytes | None = None, maxsplit: int = -1) -> list[bytes]:  # type: ignore[override]  # as above
        Counted.seen += len(self)
        return super().split(sep, maxsplit)


@pytest.mark.parametrize("step", [1, 7, 4096])
def test_each_byte_is_looked_at_at_most_twice(step: int) -> None:
    data = b"x" * 50_000 + b"\n" + b"{}\n" * 1000 + b"y" * 10_000
    Counted.seen = 0
    buffer = LineBuffer()
    found = [
        line
        for start in range(0, len(data), step)
        for line in buffer.receive(Counted(data[start : start + step]))
    ]
    assert len(found) == 1001
    assert Counted.seen <= 2 * len(data)


def test_a_line_in_tiny_pieces_takes_little_more_memory_than_the_line() -> None:
    size = 400_000
    buffer = LineBuffer()
    tracemalloc.start()
    try:
        for _ in range(size // 2):
            buffer.receive(b"".join((b"x", b"y")))
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert buffer.pending == size
    assert held < 2 * size
