"""The raw line log of a session: every line in both directions, as it was, before anybody parses it.

One record a line: `<time> <direction> <length> <bytes>`, for instance

    1763800000.123456 out 21 {"type":"keep_alive"}

so that `cut -d' ' -f4-` gives the stream-json back, and a reader knows a torn record (a crash, a full disk)
by its length. JSON around the lines was rejected: claude's lines reach megabytes and its noise need not be
UTF-8; here each byte is written once, unread.

A log has a cap, for an agent decides how much claude writes. At the cap the session goes on and the log does
not: a note says so, and another at the end how much was left out. What came before stays whole, and nothing
that comes later gets in, of a later process either. Whoever draws conclusions from a log must not take what
it lacks for what did not happen.

Appends are plain writes from the event loop's thread: they go to the page cache (microseconds), survive our
own SIGKILL, and only the store promises more. Nothing is synced.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, get_args

from cms.errors import StoreError
from cms.session.transcript import Direction
from cms.store.errors import from_os

#: `in` to claude's stdin, `out` from its stdout, `err` from its stderr, `note` from us (a start, an end).

_DIRECTIONS: Final[dict[bytes, Direction]] = {name.encode(): name for name in get_args(Direction)}
_FULL: Final = b"full: "  # how the note begins after which nothing comes but another such note
_TAIL: Final = 512  # bytes that hold the last note
_PIECES: Final = 1000  # buffers of one writev; IOV_MAX is 1024


class Entry(NamedTuple):
    """One line of a log. `end` is the offset after it: pass it to `read_entries` to go on from there."""

    at: float
    direction: Direction
    line: bytes
    end: int


def raw_log_path(folder: Path, session_id: str) -> Path:
    """Where the log of a session is, in `Settings.raw`."""
    return folder / f"{session_id}.log"


class RawLog:
    """The writing end. There is one writer a session, and it appends to what an earlier one left."""

    def __init__(self, path: Path, cap: int = sys.maxsize) -> None:
        """Opens the log at `path` (0600), making it and its folder (0700) if they are missing.

        Args:
            path: of the log.
            cap: bytes that it may have, but for the notes that it is full.

        Raises:
            StoreError: it cannot be opened.
        """
        self.path = path
        self._cap = cap
        self._left_out, self._left_out_lines = 0, 0
        self._now = 0.0
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # Read as well: to see whether the last writer was cut short.
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                self._size = os.fstat(self._fd).st_size
                tail = os.pread(self._fd, _TAIL, max(self._size - _TAIL, 0))
                self._torn = self._size > 0 and not tail.endswith(b"\n")
                self._full = _is_full(tail)
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as error:
            raise from_os(error, path) from error

    def __repr__(self) -> str:
        return f"<RawLog {self.path} {self._size} bytes{' closed' if self._fd < 0 else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes in the log."""
        return self._size

    @property
    def full(self) -> bool:
        """Whether nothing gets into it any more."""
        return self._full

    def append(self, direction: Direction, line: bytes, now: float) -> None:
        """Writes one line, with or without its line feed. See `extend`."""
        self.extend(direction, (line,), now)

    def extend(self, direction: Direction, lines: Iterable[bytes], now: float) -> None:
        """Writes lines that came or went together. A line feed within one makes two of it.

        Past the cap they are left out.

        Raises:
            StoreError: not all could be written; then none of them is in the log, and a later call may
            succeed.
        """
        prefix = b"%.6f %b " % (now, direction.encode())
        pieces: list[bytes] = [b"\n"] if self._torn else []
        for line in lines:
            body = line[:-1] if line.endswith(b"\n") else line
            for part in body.split(b"\n") if b"\n" in body else (body,):
                pieces += (b"%b%d " % (prefix, len(part)), part, b"\n")
        if not pieces:
            return
        if self._fd < 0:
            raise StoreError(f"{self.path} is closed")
        self._now = now
        if self._full or self._size + sum(map(len, pieces)) > self._cap:
            if not self._full:
                self._write_note(f"this log has reached its cap of {self._cap} bytes")
                self._full = True
            self._left_out += sum(map(len, pieces))
            self._left_out_lines += len(pieces) // 3
            return
        self._write_out(pieces)

    def _write_note(self, words: str) -> None:
        text = _FULL + words.encode()
        self._write_out([b"\n" * self._torn, b"%.6f note %d %b\n" % (self._now, len(text), text)])

    def _write_out(self, pieces: Sequence[bytes]) -> None:
        written = 0
        try:
            for start in range(0, len(pieces), _PIECES):
                written += self._write(pieces[start : start + _PIECES])
        except OSError as error:
            self._undo()
            raise from_os(error, self.path) from error
        self._size += written
        self._torn = False

    def _write(self, pieces: Sequence[bytes]) -> int:
        total = sum(map(len, pieces))
        written = os.writev(self._fd, pieces)
        if written < total:  # the disk is nearly full, or a signal came: the rest says which
            rest = memoryview(b"".join(pieces))[written:]
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        return total

    def _undo(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            self._torn = True  # the piece stays; the next record starts a line of its own, readers skip it

    def close(self) -> None:
        """Closes the file, and says in it what was left out. May be called twice."""
        if self._fd >= 0 and self._left_out:
            with suppress(StoreError):
                self._write_note(f"{self._left_out_lines} lines ({self._left_out} bytes) were left out")
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is_full(tail: bytes) -> bool:
    """Whether the end of a log says that it is full."""
    before, _, line = tail.removesuffix(b"\n").rpartition(b"\n")
    last = _parse(line + b"\n", 0) if before else None  # (a log begins with another record)
    return last is not None and last.direction == "note" and last.line.startswith(_FULL)


def read_entries(path: Path, offset: int = 0) -> Iterator[Entry]:
    """The whole records after `offset`, oldest first; none if there is no log (yet).

    To follow a log, call again with the `end` of the last entry: a record that is not whole yet is not given
    and does not move it.

    Raises:
        StoreError: the log cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            for record in file:
                offset += len(record)
                entry = _parse(record, offset)
                if entry is not None:
                    yield entry
    except FileNotFoundError:
        return
    except OSError as error:
        raise from_os(error, path) from error


def _parse(record: bytes, end: int) -> Entry | None:
    """The entry of one line of the file; None if it was cut short or is not ours."""
    parts = record.split(b" ", 3)
    if len(parts) != 4 or not record.endswith(b"\n"):
        return None
    at, name, length, line = parts
    direction = _DIRECTIONS.get(name)
    try:
        if direction is None or int(length) != len(line) - 1:
            return None
        return Entry(float(at), direction, line[:-1], end)
    except ValueError:
        return None
