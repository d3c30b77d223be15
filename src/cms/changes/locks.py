"""One apply at a time in a folder, in those around it and those within it.

A lock is held on the folder itself, and a shared one on each folder above it. Locks are files of ours, named
by device and inode: nothing is left in the folders, and two paths of one folder are one lock. They go with
the process that holds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "locks"
_PAUSE: Final = 0.02


class Busy(Exception):
    """Another apply holds the folder, or one around or within it."""


@contextlib.contextmanager
def hold(changes: Path, folder: Path, wait: float) -> Iterator[None]:
    """Hold a folder.

    Args:
        changes: where the locks are.
        wait: seconds.

    Raises:
        Busy: it could not be had in time.
        OSError: the folder is gone.
    """
    real = Path(os.path.realpath(folder))
    names = [_name(place) for place in (*reversed(real.parents), real)]
    place = changes / FOLDER
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    until = time.monotonic() + wait
    with contextlib.ExitStack() as stack:
        for name in names:
            fd = os.open(place / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            _lock(fd, fcntl.LOCK_EX if name == names[-1] else fcntl.LOCK_SH, until)
        yield


def _name(folder: Path) -> str:
    found = folder.stat()
    return f"{found.st_dev:x}-{found.st_ino:x}"


def _lock(fd: int, how: int, until: float) -> None:
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise Busy from None
            time.sleep(_PAUSE)
