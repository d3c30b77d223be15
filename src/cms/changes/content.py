"""The contents of a change: files named by what is in them.

A file of many gigabytes with hardly anything in it is common (a disk image, a database). So holes are neither
read nor written, and contents above `_PLAIN` bytes are hashed in blocks, of which an empty one costs nothing:
their name is the SHA-256 of their blocks' SHA-256. Smaller ones have the plain SHA-256 that everybody knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from cms.changes.model import Bound
from cms.changes.reading import check_time
from cms.errors import ChangeTooBig
from cms.files import share_blocks

_BLOCK: Final = 1 << 20
_PLAIN: Final = 64 << 20
_EMPTY_BLOCK: Final = hashlib.sha256(bytes(_BLOCK)).digest()
#: Above so many files the whole file system is synced, not each.
_MANY: Final = 300


class Store:
    """The content store in a change's folder.

    Attributes:
        bytes: that were written so far; `bound` holds them.
    """

    def __init__(self, folder: Path, bound: Bound) -> None:
        self.folder = folder
        self.bound = bound
        self.bytes = 0
        self._fresh: list[Path] = []

    def path(self, content: str) -> Path:
        """Where a content is."""
        return self.folder / content[:2] / content[2:]

    def has(self, content: str) -> bool:
        return self.path(content).exists()

    def add(self, fd: int, *, known: bool = False) -> tuple[str, int]:
        """Keep what a descriptor can read, from its beginning. Returns its name and its size.

        Args:
            known: it is likely to be kept already, so look before it is copied.

        Raises:
            ChangeTooBig: `bound` is passed.
            OSError: it cannot be read, or kept.
        """
        if known and self.has(content := digest(fd)):
            return content, os.fstat(fd).st_size
        draft = self._draft()
        out = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = copy_file(fd, out, self._account)
            content = digest(out)
        except BaseException:
            draft.unlink()
            raise
        finally:
            os.close(out)
        self._settle(draft, content)
        return content, size

    def add_bytes(self, data: bytes) -> str:
        """Keep bytes. Returns their name."""
        content = digest_bytes(data)
        if not self.has(content):
            self._account(len(data))
            draft = self._draft()
            draft.write_bytes(data)
            self._settle(draft, content)
        return content

    def add_from(self, other: Store, content: str) -> None:
        """Keep what another store keeps."""
        if not self.has(content):
            with other.path(content).open("rb") as file:
                self.add(file.fileno())

    def read(self, content: str) -> bytes:
        """A whole content: for texts."""
        return self.path(content).read_bytes()

    def sync(self) -> None:
        """What was added is on the disk when this returns."""
        if self._fresh:
            folders = {path.parent for path in self._fresh} | {self.folder}
            sync_paths([*self._fresh, *folders])
            self._fresh.clear()

    def _draft(self) -> Path:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder / f"new-{secrets.token_hex(8)}"

    def _settle(self, draft: Path, content: str) -> None:
        path = self.path(content)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft.rename(path)
        self._fresh.append(path)

    def _account(self, more: int) -> None:
        check_time(self.bound)
        self.bytes += more
        if self.bytes > self.bound.bytes:
            raise ChangeTooBig(f"the task left more than {self.bound.bytes} bytes")


def copy_file(source: int, target: int, account: Callable[[int], None]) -> int:
    """Copy a file into an empty one, from beginning to end, holes as holes. Returns its size.

    Args:
        account: is told how many bytes come next.
    """
    size = os.fstat(source).st_size
    if size >= _BLOCK and share_blocks(source, target):
        return size
    at = 0
    for start, end in extents(source, size):
        at = start
        while at < end:
            piece = os.pread(source, min(_BLOCK, end - at), at)
            if not piece:
                break
            account(len(piece))
            _write_at(target, piece, at)
            at += len(piece)
    os.ftruncate(target, size)
    return size


def _write_at(target: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    while view:
        done = os.pwrite(target, view, at)
        view = view[done:]
        at += done


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: from, to."""
    if not hasattr(os, "SEEK_DATA"):
        yield 0, size
        return
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            yield at, size  # a file system that knows none
            return
        yield start, min(end, size)
        at = end


def digest(fd: int) -> str:
    """The name of a content."""
    size = os.fstat(fd).st_size
    whole = hashlib.sha256()
    if size <= _PLAIN:
        at = 0
        while piece := os.pread(fd, _BLOCK, at):
            whole.update(piece)
            at += len(piece)
        return whole.hexdigest()
    data = _blocks_with_data(fd, size)
    for block in range(size // _BLOCK):
        whole.update(
            hashlib.sha256(os.pread(fd, _BLOCK, block * _BLOCK)).digest() if block in data else _EMPTY_BLOCK
        )
    whole.update(hashlib.sha256(os.pread(fd, size % _BLOCK, size - size % _BLOCK)).digest())
    return whole.hexdigest()


def digest_bytes(data: bytes) -> str:
    """The name of a small content (at most 64 MiB)."""
    return hashlib.sha256(data).hexdigest()


def _blocks_with_data(fd: int, size: int) -> set[int]:
    return {block for start, end in extents(fd, size) for block in range(start // _BLOCK, -(-end // _BLOCK))}


def same_content(one: int, other: int) -> bool:
    """Whether two files have the same bytes."""
    size = os.fstat(one).st_size
    if size != os.fstat(other).st_size:
        return False
    if size > _PLAIN:
        return digest(one) == digest(other)
    at = 0
    while at < size:
        piece = os.pread(one, _BLOCK, at)
        if piece != os.pread(other, _BLOCK, at):
            return False
        if not piece:
            break
        at += len(piece)
    return True


def sync_paths(paths: list[Path]) -> None:
    """Files and folders onto the disk: each, or, if they are many, the file system that they are on."""
    many = len(paths) > _MANY
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if many and sync_file_system(fd):
                    return
                os.fsync(fd)
            finally:
                os.close(fd)


def sync_file_system(fd: int) -> bool:
    """All of the file system that a descriptor is on, onto the disk. False: that cannot be asked for here."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    return syncfs is not None and bool(syncfs(fd) == 0)
