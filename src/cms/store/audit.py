"""The audit log in the store: entries, each sealed with the one before it (session/audit.py).

None is ever changed, and they go with their session or outlive it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from cms.errors import StoreError
from cms.session import audit
from cms.session.audit import AuditEntry, AuditRow, Broken
from cms.store import counters
from cms.store.database import Database
from cms.store.rows import Value

_FIELDS: Final = AuditEntry.__struct_fields__  # the columns, in order
#: What of an entry is counted (`counters.add_entry`).
_COUNTED: Final = tuple(_FIELDS.index(field) for field in ("kind", "tool", "verdict"))
_OUTSIDE: Final = AuditEntry.__struct_encode_fields__
_INSERT: Final = (
    f"INSERT INTO decisions (number, seal, {', '.join(_FIELDS)})"  # noqa: S608 - names of ours
    f" VALUES (?, ?{', ?' * len(_FIELDS)})"
)

#: The last rows of the audit logs of sessions that were deleted.
_DELETED: Final = (
    # In this order: of few rows of that kind to the heads of their logs.
    "FROM decisions d CROSS JOIN audit_heads h ON h.session_id = d.session_id AND h.length = d.number"
    " WHERE d.kind = 'delete'"
)


def to_row(entry: AuditEntry) -> tuple[Value, ...]:
    """The row of an entry, certain to be accepted: it travels in the transactions of others.

    What text cannot be stored (a file name that is not UTF-8) is written as escapes.

    Raises:
        StoreError: a number in it is infinite or none.
    """
    if not abs(entry.cost) + abs(entry.at) < float("inf"):
        raise StoreError(f"an audit entry cannot be stored: {entry}")
    # As the database gives it back, for the seal is over these very values.
    exact = msgspec.structs.replace(entry, at=float(entry.at), cost=float(entry.cost))
    values: tuple[Value, ...] = msgspec.structs.astuple(exact)
    return tuple(
        value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for value in values
    )


def add(db: Database, entries: Sequence[AuditEntry]) -> None:
    """Lines of the audit log."""
    add_rows(db, [to_row(entry) for entry in entries])


def add_rows(db: Database, rows: Iterable[tuple[Value, ...]]) -> None:
    """Lines of the audit log, as `to_row` gives them."""
    for row in rows:
        session_id, *rest = row
        length, before = _head(db, str(session_id))
        sealed = audit.seal(before, length + 1, row)
        db.execute(_INSERT, (length + 1, sealed, session_id, *rest))
        counters.add_entry(db, *(str(row[place]) for place in _COUNTED))
        db.execute(
            "INSERT INTO audit_heads VALUES (?, ?, ?) ON CONFLICT (session_id) DO UPDATE"
            " SET length = excluded.length, seal = excluded.seal",
            (session_id, length + 1, sealed),
        )


def _head(db: Database, session_id: str) -> tuple[int, str]:
    row: tuple[int, str] | None = db.execute(
        "SELECT length, seal FROM audit_heads WHERE session_id = ?", (session_id,)
    ).fetchone()
    return (0, audit.FIRST) if row is None else row


def delete(db: Database, session_id: str) -> None:
    """Removes the log of a session that is gone: the database guards those of the others."""
    db.execute("DELETE FROM decisions WHERE session_id = ?", (session_id,))
    db.execute("DELETE FROM audit_heads WHERE session_id = ?", (session_id,))


def forget_deleted(db: Database, before: float, *, dry_run: bool) -> int:
    """Removes the logs of sessions that were deleted before that time; gives how many."""
    rows: list[tuple[str]] = db.execute(f"SELECT d.session_id {_DELETED} AND d.at < ?", (before,)).fetchall()
    for (session_id,) in () if dry_run else rows:
        delete(db, session_id)
    return len(rows)


def entries(db: Database, session_id: str) -> list[AuditEntry]:
    """The log of a session, oldest first.

    Raises:
        StoreError: a row makes no sense (`verified` says which).
    """
    return [row.entry for row in _convert(_rows(db, session_id))]


def verified(db: Database, session_id: str, head: str = "") -> tuple[list[AuditRow], Broken | None]:
    """The log of a session with its seals, and the first row that is not what was written.

    Where a row is broken, the rows are those before it.

    Args:
        head: a seal noted earlier, which the log must still contain.
    """
    rows = _rows(db, session_id)
    broken = audit.verify(rows, *_head(db, session_id))
    if broken is None and head and all(sealed != head for _, _, sealed in rows):
        broken = Broken(0, f"no row has the seal {head}: the log was rewritten or belongs to another")
    if broken is not None and broken.number:
        rows = [row for row in rows if 0 < row[0] < broken.number]
    return _convert(rows), broken


def find_deleted(db: Database, name: str) -> tuple[str, str] | None:
    """Id and name of the session with this id, or of the last with this name, that was deleted."""
    row: tuple[str, str, float] | None = db.execute(
        f"SELECT d.session_id, d.detail, d.at AS at {_DELETED} AND d.detail = ?1 UNION ALL"
        f" SELECT d.session_id, d.detail, d.at {_DELETED} AND d.session_id = ?1 ORDER BY at DESC LIMIT 1",
        (name,),
    ).fetchone()
    # With its last row gone it is found all the same, and then by the check.
    known = _head(db, name)[0] > 0
    return row[:2] if row is not None else (name, name) if known else None


_Row = tuple[int, tuple[Value, ...], str]


def _rows(db: Database, session_id: str) -> list[_Row]:
    rows: list[tuple[int, str, *tuple[Value, ...]]] = db.execute(
        f"SELECT number, seal, {', '.join(_FIELDS)} FROM decisions"  # noqa: S608 - names of ours
        " WHERE session_id = ? ORDER BY number",
        (session_id,),
    ).fetchall()
    return [(number, tuple(row), sealed) for number, sealed, *row in rows]


def _convert(rows: Iterable[_Row]) -> list[AuditRow]:
    try:
        return [
            AuditRow(number, msgspec.convert(dict(zip(_OUTSIDE, row, strict=True)), AuditEntry), sealed)
            for number, row, sealed in rows
        ]
    except msgspec.ValidationError as error:
        raise StoreError(
            f"the audit log cannot be read: {error}", hint="`cms audit NAME --verify` finds the row"
        ) from error
