"""A look at the store without opening it: names of sessions and batches, for a shell that completes.

No migration, no lock, no folder made, nothing but the standard library; what cannot be read is not there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection
from urllib.parse import quote

MOST = 1000  # that somebody can choose from


def names_and_statuses(
    database: str | os.PathLike[str], start: str = "", statuses: Collection[str] = ()
) -> list[tuple[str, str]]:
    """The newest sessions whose names begin so (in one of those statuses), and in which they were stored."""
    among = f"AND status IN ({', '.join('?' * len(statuses))})" if statuses else ""
    return _pairs(
        database,
        "SELECT name, status FROM sessions WHERE substr(name, 1, length(?1)) = ?1"  # noqa: S608
        f" {among} ORDER BY created DESC LIMIT {MOST}",
        start,
        *statuses,
    )


def tags(database: str | os.PathLike[str], start: str = "") -> list[tuple[str, str]]:
    """The tags of sessions that begin so, and how many have each; the most used first."""
    return _pairs(
        database,
        "SELECT value, printf('%d sessions', count(*)) FROM sessions, json_each(rest, '$.options.tags')"  # noqa: S608
        """ WHERE instr(rest, '"tags":[]') = 0 AND substr(value, 1, length(?1)) = ?1"""
        f" GROUP BY value ORDER BY count(*) DESC, value LIMIT {MOST}",
        start,
    )


def batches(database: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The newest batches' ids and their statuses when they were last stored."""
    return _pairs(database, f"SELECT id, status FROM batches ORDER BY created DESC LIMIT {MOST}")  # noqa: S608


def _pairs(database: str | os.PathLike[str], query: str, *values: str) -> list[tuple[str, str]]:
    try:
        db = sqlite3.connect(f"file:{quote(os.fspath(database))}?mode=ro", uri=True, timeout=0.2)
        try:
            rows: list[tuple[str, str]] = db.execute(query, values).fetchall()
        finally:
            db.close()
    except sqlite3.Error:
        return []
    return rows
