"""What a command writes is read with one system call for what came at once, and nothing of it is lost."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from cms.containment._read_end import ReadEnd


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read so far."""
    found: list[int] = []
    read = os.read

    def noting(fd: int, size: int) -> bytes:
        data = read(fd, size)
        found.append(len(data))
        return data

    monkeypatch.setattr(os, "read", noting)
    return found


async def test_each_line_that_comes_alone_is_one_read(reads: list[int]) -> None:
    fd, theirs = os.pipe()
    got: list[bytes | bytearray] = []

    async def read(end: ReadEnd) -> None:
        async for data in end:
            got.append(data)  # noqa: PERF401 - one by one, so that it can be seen

    async with ReadEnd(fd) as end, trio.open_nursery() as nursery:
        nursery.start_soon(read, end)
        for number in range(5):
            os.write(theirs, b"line %d\n" % number)
            while len(got) <= number:
                await trio.testing.wait_all_tasks_blocked()
        os.close(theirs)
    assert reads == [7, 7, 7, 7, 7, 0]


async def test_what_is_more_than_one_read_takes_comes_whole(reads: list[int]) -> None:
    fd, theirs = os.pipe()
    async with ReadEnd(fd) as end:
        os.write(theirs, b"x" * 10 + b"y" * 10)
        assert [await end.receive_some(10), await end.receive_some(10)] == [b"x" * 10, b"y" * 10]
        with trio.move_on_after(0):
            await end.receive_some(10)
        os.write(theirs, b"z")
        os.close(theirs)
        assert [await end.receive_some(10), await end.receive_some(10)] == [b"z", b""]
    assert reads == [10, 10, 1, 0]


@pytest.mark.parametrize("before", [True, False])
async def test_who_reads_what_is_closed_is_told(before: bool) -> None:
    fd, theirs = os.pipe()
    end = ReadEnd(fd)
    if before:
        await end.aclose()
    with pytest.RaisesGroup(trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await end.aclose()
    os.close(theirs)
