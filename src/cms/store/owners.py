"""Which stores are alive: a lock file each, so that a crash is told from a neighbour.

A daemon and a `--foreground` command may have the same store open. When one starts it repairs what a crash
left, and must not mistake the other's live sessions for leftovers. So each store has an id, holds a lock on
a file of that name while it lives, and signs the sessions it writes; the kernel lets go of the lock however
the process ends. A pid in a column was rejected: pids come back.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path

from cms.store.errors import as_store_errors


class Owner:
    """One living store's claim. `release()` ends it; so does the end of the process."""

    def __init__(self, folder: Path) -> None:
        """Takes a new claim in `folder`.

        Raises:
            StoreError: the file cannot be made or locked.
        """
        self.id = uuid.uuid4().hex
        self._path = folder / self.id
        # Under a hidden name until it is locked: whoever sweeps just now would take it for a dead one.
        unlocked = folder / f".{self.id}"
        with as_store_errors(self._path):
            folder.mkdir(mode=0o700, exist_ok=True)
            self._fd = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.write(self._fd, b"%d" % os.getpid())
                unlocked.rename(self._path)
            except BaseException:
                os.close(self._fd)
                unlocked.unlink(missing_ok=True)
                raise

    def __repr__(self) -> str:
        return f"<Owner {self.id}>"

    def release(self) -> None:
        """Gives the claim up. May be called twice."""
        if self._fd < 0:
            return
        with as_store_errors(self._path):
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def living_pid(folder: Path, owner: str) -> int | None:
    """The pid of the store `owner` if it lives, else None (and then its file is swept away).

    Raises:
        StoreError: the folder cannot be read.
    """
    path = folder / owner
    if not owner:
        return None
    with as_store_errors(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            # Shared: two who ask at the same time must not take each other for the owner.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(os.read(fd, 20) or b"0")
        else:
            path.unlink(missing_ok=True)  # safe: ids are never used again
            return None
        finally:
            os.close(fd)


def sweep(folder: Path) -> None:
    """Removes the files of the dead, of whom one is left by each crash.

    Raises:
        StoreError: the folder cannot be read or written.
    """
    with as_store_errors(folder):
        for path in folder.iterdir():
            if not path.name.startswith("."):
                living_pid(folder, path.name)
