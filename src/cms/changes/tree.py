"""A folder whose paths are reached name by name, through no link.

What lies in it is a stranger's, and may be changed while we look: a folder on the way may become a link to
somewhere else between two calls. So each folder on the way is opened in the one above, with O_NOFOLLOW, and
what is done is done in the folder that is open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final

from cms.files import open_regular

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ThroughLink(OSError):
    """A folder on the way is a link."""

    def __init__(self, path: bytes) -> None:
        super().__init__(errno.ELOOP, "reached through a link", os.fsdecode(path))


class Tree:
    """One folder, open. A path is bytes, relative, without `.` and `..`; b"" is the folder itself.

    The folders on the way to the last path stay open: with sorted paths each is opened once. Not for threads.
    """

    def __init__(self, root: Path | int) -> None:
        """Open it.

        Args:
            root: a path (links in it are followed), or a descriptor, which is taken over.

        Raises:
            OSError: it is gone, or no folder.
        """
        if isinstance(root, int):
            self.fd = root
        else:
            self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._way: list[tuple[bytes, int]] = []

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back all descriptors."""
        self.forget()
        os.close(self.fd)

    def forget(self) -> None:
        """Close what is open on the way: to be called when a folder may have been moved."""
        while self._way:
            os.close(self._way.pop()[1])

    def forget_below(self, path: bytes) -> None:
        """Close what is open of a folder that is about to be moved, and of those in it."""
        depth = path.count(b"/")
        while len(self._way) > depth:
            os.close(self._way.pop()[1])

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder, which stays ours and is good until the next call.

        Raises:
            ThroughLink: it, or one on the way, is a link.
            FileNotFoundError: it is not there.
            NotADirectoryError: it is something else.
        """
        names = path.split(b"/") if path else []
        known = 0
        while known < min(len(names), len(self._way)) and self._way[known][0] == names[known]:
            known += 1
        while len(self._way) > known:
            os.close(self._way.pop()[1])
        for name in names[known:]:
            above = self._way[-1][1] if self._way else self.fd
            try:
                fd = os.open(name, _FOLDER, dir_fd=above)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    with contextlib.suppress(FileNotFoundError):
                        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                            raise ThroughLink(path) from None
                raise
            self._way.append((name, fd))
        return self._way[-1][1] if self._way else self.fd

    def place(self, path: bytes) -> tuple[int, bytes]:
        """The folder that holds a path, and its name there: for calls with `dir_fd`.

        Raises:
            OSError: as `folder`.
        """
        above, _, name = path.rpartition(b"/")
        return self.folder(above), name

    def look(self, path: bytes, *, strict: bool = False) -> os.stat_result | None:
        """What is there, a link itself; None: nothing, or the path leads through what is no folder.

        Args:
            strict: with an error if that is a link.

        Raises:
            ThroughLink: see there.
            OSError: it cannot be told.
        """
        if not path:
            return os.fstat(self.fd)
        try:
            above, name = self.place(path)
            return os.stat(name, dir_fd=above, follow_symlinks=False)
        except ThroughLink:
            if strict:
                raise
            return None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def open(self, path: bytes) -> int:
        """A descriptor to read a regular file, for the caller to close.

        Raises:
            OSError: there is none, or it cannot be read.
        """
        above, name = self.place(path)
        return open_regular(name, at=above)

    def link_target(self, path: bytes) -> bytes:
        """Where a symbolic link leads, as it says."""
        above, name = self.place(path)
        return os.readlink(name, dir_fd=above)

    def names(self, path: bytes) -> list[bytes]:
        """What is in a folder, sorted.

        Raises:
            OSError: as `folder`.
        """
        return names_in(self.folder(path))

    def attribute(self, path: bytes, name: str) -> bytes | None:
        """An extended attribute of a file or folder (not of what a link leads to), or None."""
        if not hasattr(os, "getxattr"):
            return None
        above, last = self.place(path)
        try:
            return os.getxattr(b"/proc/self/fd/%d/%s" % (above, last), name, follow_symlinks=False)
        except OSError:
            return None


def names_in(folder: int) -> list[bytes]:
    """What is in an open folder, sorted."""
    with os.scandir(folder) as entries:
        return sorted(os.fsencode(entry.name) for entry in entries)


def join(folder: bytes, name: bytes) -> bytes:
    """A path in a folder; b"" is the root."""
    return folder + b"/" + name if folder else name


def node_type(found: os.stat_result) -> str:
    """`file`, `dir`, `link`, or what else it is, in words."""
    for test, word in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "dir"),
        (stat.S_ISLNK, "link"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(found.st_mode):
            return word
    return "of an unknown kind"
