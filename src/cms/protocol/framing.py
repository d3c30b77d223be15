"""Bytes in, lines out, and never more memory than one line may take.

What is held of an unfinished line is never looked at again: only new bytes are searched for the line's end,
and the buffer grows in place, so a line of N bytes costs O(N) however it is cut. (A buffer that is searched
from its start each time is quadratic for a long line in small reads; a list of pieces, joined at the end, is
linear but takes many times the line's size when the pieces are tiny.)
"""

from __future__ import annotations

from cms.errors import LineTooLong

#: Bytes of one line, by default. Tool results with images are several megabytes.
MAX_LINE = 64 * 1024 * 1024


class LineBuffer:
    """Cuts a byte stream at newlines.

    Lines come without their end; empty ones are dropped, a trailing carriage return too.
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._held = bytearray()

    @property
    def pending(self) -> int:
        """Bytes held of a line whose end has not arrived."""
        return len(self._held)

    def receive(self, data: bytes) -> list[bytes]:
        """Add what was read; return the lines that it completed.

        Raises:
            LineTooLong: a line, finished or not, passed the limit. The buffer is of no use afterwards.
        """
        first, newline, rest = data.partition(b"\n")
        self._hold(first)
        if not newline:
            return []
        lines = [self._take(), *rest.split(b"\n")]
        # What follows the last newline opens the next line.
        self._hold(lines.pop())
        for line in lines:
            if len(line) > self._max_line:
                raise LineTooLong(self._max_line)
        return [cut for line in lines if (cut := line.removesuffix(b"\r"))]

    def close(self) -> bytes:
        """Return the unfinished line (b"" if there is none) and forget it."""
        return self._take().removesuffix(b"\r")

    def _take(self) -> bytes:
        line = bytes(self._held)
        self._held = bytearray()
        return line

    def _hold(self, piece: bytes) -> None:
        if len(self._held) + len(piece) > self._max_line:
            raise LineTooLong(self._max_line)
        self._held += piece
