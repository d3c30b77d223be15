"""File system calls that an agent's folder can hold up: in a thread, and with a deadline.

A folder on a network that is gone, or a file system that an agent serves itself (FUSE), answers when it
likes, and a call that waits for it cannot be broken off. On trio's thread it would stop every session and the
clock of their limits with them. So whatever looks into such a folder goes through `ask_disk`.

What lies there is the agent's: a name may be a link to a person's `.bashrc`, a pipe, an endless device. So
what is read there is read with `read_small`, and what is written with `open_own` and `replace_own`.

The thread of a call that was given up stays until the system lets it go. Each session asks under a limiter of
its own, so those that hang take nothing from the others.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

import trio

from cms.errors import DiskTimeout
from cms.files import open_regular, replace_file

T = TypeVar("T")

#: Seconds for a look at one folder.
PATIENCE: Final = 10.0


async def ask_disk(
    look: Callable[[], T],
    what: str,
    *,
    seconds: float | None = None,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """What `look` gives. It is called in a thread, and must not mind that nobody waits for it any more.

    Args:
        what: is looked at, for the error.
        seconds: are waited; by default `PATIENCE`.
        limiter: bounds the threads of whoever asks; by default there is one for this call alone.

    Raises:
        DiskTimeout: there was no answer within `seconds`.
    """
    limiter = limiter or trio.CapacityLimiter(1)
    seconds = PATIENCE if seconds is None else seconds
    with trio.move_on_after(seconds):
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
    raise DiskTimeout(what, seconds)


# --- in a folder of an agent's: to be called by `ask_disk` ----------------------------------------

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class NotOurs(OSError):
    """There is something under the name that we would write, and it is not what we wrote."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EEXIST, why)


def read_small(path: Path, most: int) -> bytes:
    """The content of a regular file, wherever a link leads; never waits for a pipe.

    Raises:
        OSError: it cannot be read, is no regular file, or longer than `most` bytes.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: to open a device may mean something
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def read_part(path: Path, start: int, most: int) -> bytes:
    """At most `most` bytes of a regular file from `start` on, or (below 0) so many before its end.

    What an agent may have put there: a link is not followed, a pipe not waited for.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size + start, 0) if start < 0 else start)
        return file.read(most)


def open_own(path: Path, agents: Path) -> int:
    """A descriptor to read and append to a file of ours, made if it is not there (0600).

    Args:
        agents: a folder that agents work in: in there no link is followed, elsewhere none at the end.

    Raises:
        OSError: it cannot be opened.
        NotOurs: it is a link, no regular file, somebody else's, or has another name.
    """
    folder = _open_folder(path.parent, agents)
    try:
        fd = os.open(path.name, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FILE, 0o600, dir_fd=folder)
    except OSError as error:
        raise NotOurs("a link, which is not followed") if error.errno == errno.ELOOP else error from None
    finally:
        os.close(folder)
    try:
        _check_plain(os.fstat(fd))
    except BaseException:
        os.close(fd)
        raise
    return fd


def replace_own(
    path: Path, text: str | Iterable[bytes], agents: Path, is_ours: Callable[[bytes], bool]
) -> None:
    """Write a file so that a reader never sees half of it.

    Args:
        agents: as above.
        is_ours: whether we have written what begins like that, and may replace it.

    Raises:
        OSError: it cannot be written.
        NotOurs: something else has the name.
    """
    folder = _open_folder(path.parent, agents)
    try:
        with suppress(FileNotFoundError):
            _check_plain(os.stat(path.name, dir_fd=folder, follow_symlinks=False))
            with os.fdopen(os.open(path.name, os.O_RDONLY | _FILE, dir_fd=folder), "rb") as old:
                _check_plain(os.fstat(old.fileno()))
                if not is_ours(old.read(1024)):
                    raise NotOurs("there is another file of that name already")
        data = text.encode() if isinstance(text, str) else text
        replace_file(path, data, mode=None, durable=False, at=folder)
    finally:
        os.close(folder)


def _open_folder(folder: Path, agents: Path) -> int:
    start = agents if folder.is_relative_to(agents) else folder
    at = os.open(start, _FOLDER)
    try:
        for name in folder.relative_to(start).parts:
            below = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
    except OSError as error:
        os.close(at)
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise NotOurs(f"{folder} leads through a link, which is not followed") from None
        raise
    return at


def _check_plain(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotOurs("a link, which is not followed" if stat.S_ISLNK(found.st_mode) else "no regular file")
    if found.st_uid != os.geteuid() or found.st_nlink != 1:
        raise NotOurs("a file with another owner or another name")
