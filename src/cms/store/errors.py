"""The border: what SQLite and the file system throw becomes `StoreError`, once, and says what to do.

Nobody outside of this room handles a `sqlite3.Error` or an `OSError` of the store.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cms.errors import StoreError
from cms.files import NO_ACCESS, NO_SPACE


def _full(path: Path) -> StoreError:
    return StoreError(
        f"no space left to write {path}",
        hint="free some disk space and try again; what was accepted before is safe",
    )


def _read_only(path: Path) -> StoreError:
    return StoreError(
        f"cannot write {path}", hint="make it and its folder writable, or set CMS_HOME to another"
    )


def from_sqlite(error: sqlite3.Error, path: Path) -> StoreError:
    """The StoreError that says what `error` means for the database at `path`."""
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    match code & 0xFF if isinstance(code, int) else None:  # the low byte: extended codes refine it
        case sqlite3.SQLITE_FULL:
            return _full(path)
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return _read_only(path)
        case sqlite3.SQLITE_CANTOPEN:
            return StoreError(
                f"cannot open {path}",
                hint="check its permissions and the free disk space, or set CMS_HOME to another",
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(
                f"{path} is locked by another program",
                hint="close the program that has it open (a database viewer, a backup) and try again",
            )
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreError(
                f"{path} is damaged or not a database",
                hint="restore it, or move it away to start a new one; the raw logs beside it stay",
            )
        case sqlite3.SQLITE_IOERR:
            return StoreError(f"reading or writing {path} failed ({name})", hint="check the disk")
        case _:
            return StoreError(f"the store refused: {error} ({name}, {path})")


def from_os(error: OSError, path: Path) -> StoreError:
    """The StoreError that says what `error` means for the file at `path`."""
    if error.errno in NO_SPACE:
        return _full(path)
    if error.errno in NO_ACCESS:
        return _read_only(path)
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StoreError(f"reading or writing {path} failed: {reason}", hint="check the disk")


@contextmanager
def as_store_errors(path: Path) -> Iterator[None]:
    """Translates what the body throws.

    Raises:
        StoreError: for any `sqlite3.Error`, any `OSError`, and text or numbers that no database can hold.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise from_sqlite(error, path) from error
    except OSError as error:
        raise from_os(error, path) from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise StoreError(f"a value cannot be stored: {error}") from error
