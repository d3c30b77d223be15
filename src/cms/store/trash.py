"""Where the raw logs of deleted sessions go: moved into a folder of their own, and removed from there later.

A raw log is the only full record of what an agent did, so deleting a session does not destroy it at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from cms.store.errors import from_os


class Retired(NamedTuple):
    """What became of a log: where it is now (None: nowhere, any more) and how big it is or was."""

    path: Path | None
    size: int


def retire(log: Path, trash: Path, name: str, *, purge: bool, now: float) -> Retired:
    """Move a session's log into the trash under the session's name, or with `purge` remove it.

    Raises:
        StoreError: it can be neither moved nor removed.
    """
    try:
        size = log.stat().st_size
        if purge:
            log.unlink()
            return Retired(None, size)
        trash.mkdir(mode=0o700, exist_ok=True)
        kept = trash / f"{name.replace('/', '_')}-{log.name}"  # an old home may hold any name
        log.replace(kept)
        os.utime(kept, (now, now))  # its time in the trash begins
    except FileNotFoundError:
        return Retired(None, 0)
    except OSError as error:
        raise from_os(error, log) from error
    return Retired(kept, size)


def empty_trash(trash: Path, older_than: float, *, dry_run: bool) -> tuple[int, int]:
    """Remove what came into the trash before that time; gives how many files and bytes.

    Raises:
        StoreError: something cannot be removed.
    """
    files = size = 0
    try:
        for kept in trash.iterdir():
            status = kept.stat()
            if status.st_mtime < older_than:
                if not dry_run:
                    kept.unlink()
                files += 1
                size += status.st_size
    except FileNotFoundError:
        pass
    except OSError as error:
        raise from_os(error, trash) from error
    return files, size
