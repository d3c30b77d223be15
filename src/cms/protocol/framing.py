"""Bytes in, lines out, and never more memory than one line may take.

The pieces of an unfinished line are kept apart and joined once, when its end arrives, so a line of N bytes
costs O(N) however it is cut. (One growing buffer that is searched from its start each time is quadratic
for a long line that comes in small reads.)
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
        self._pieces: list[bytes] = []
        self._pending = 0

    @property
    def pending(self) -> int:
        """Bytes held of a line whose end has not arrived."""
        return self._pending

    def receive(self, data: bytes) -> list[bytes]:
        """Add what was read; return the lines that it completed.

        Raises:
            LineTooLong: a line, finished or not, passed the limit. The buffer is of no use afterwards.
        """
        first, newline, rest = data.partition(b"\n")
        self._pending += len(first)
        if self._pending > self._max_line:
            raise LineTooLong(self._max_line)
        if first:
            self._pieces.append(first)
        if not newline:
            return []
        lines = [self.close(), *rest.split(b"\n")]
        # What follows the last newline opens the next line.
        tail = lines.pop()
        for line in lines:
            if len(line) > self._max_line:
                raise LineTooLong(self._max_line)
        if len(tail) > self._max_line:
            raise LineTooLong(self._max_line)
        if tail:
            self._pieces.append(tail)
            self._pending = len(tail)
        return [cut for line in lines if (cut := line.removesuffix(b"\r"))]

    def close(self) -> bytes:
        """Return the unfinished line (b"" if there is none) and forget it."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        self._pending = 0
        return line
