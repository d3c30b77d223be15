"""The end of a pipe from which we read what a command writes."""

from __future__ import annotations

import os
from typing import Final

import trio

_USUAL: Final = 64 * 1024


class ReadEnd(trio.abc.ReceiveStream):
    """Waits until there is something, then reads it: one turn of the loop and one read for what came at once.

    `trio.lowlevel.FdStream` lets others go first, then tries to read, and waits if there is nothing: where
    lines come one by one, that is two turns and two reads for each.
    """

    def __init__(self, fd: int) -> None:
        self._stream = trio.lowlevel.FdStream(fd)  # closes it, whatever happens
        self._full = False  # the last read took all that it could: there may be more

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What there is, up to so many bytes; b"" at the end."""
        size = _USUAL if max_bytes is None else max_bytes
        while True:
            fd = self._stream.fileno()
            if fd < 0:
                raise trio.ClosedResourceError("file was already closed")
            if self._full:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(fd)
            try:
                data = os.read(fd, size)
            except BlockingIOError:
                self._full = False
            except OSError as error:
                raise trio.BrokenResourceError from error
            else:
                self._full = len(data) == size
                return data

    async def aclose(self) -> None:
        """Whoever waits is told."""
        await self._stream.aclose()
