"""A look at the store without opening it: names of sessions and batches, for a shell that completes.

No migration, no lock, no folder made, nothing but the standard library; what cannot be read is not there.
"""

from __future__ import annotations

import os
import sqlite3
from urllib.parse import quote


def names_and_statuses(database: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Every session's name and its status when it was last stored, newest first."""
    return _pairs(database, "SELECT name, status FROM sessions ORDER BY created DESC")


def batches(database: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Every batch's id and its status when it was last stored, newest first."""
    return _pairs(database, "SELECT id, status FROM batches ORDER BY created DESC")


def _pairs(database: str | os.PathLike[str], query: str) -> list[tuple[str, str]]:
    try:
        db = sqlite3.connect(f"file:{quote(os.fspath(database))}?mode=ro", uri=True, timeout=0.2)
        try:
            rows: list[tuple[str, str]] = db.execute(query).fetchall()
        finally:
            db.close()
    except sqlite3.Error:
        return []
    return rows
