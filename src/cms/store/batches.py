"""Batches in the store: what a batch is, what it cost, and who works on it. Their tasks are in `batch_tasks`.

A million tasks are never in memory together: they come in by chunks (`batch_intake`) and are read by pages.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from typing import Final

import msgspec

from cms.batch.forecast import Sample
from cms.batch.model import ACTIVE, RESUMABLE, BatchRecord, BatchStatus, TaskStatus
from cms.errors import StoreError, UsageError
from cms.store import counters
from cms.store.database import Database
from cms.store.rows import to_json
from cms.units import nearest

#: Tasks that are removed in one transaction.
_PIECE: Final = 20_000

_record = msgspec.json.Decoder(BatchRecord)


class Spending(msgspec.Struct, frozen=True):
    """What a batch cost, and what that counts for under its cap. `worked`: seconds of ended tasks."""

    spent: float
    counted: float
    exact: bool
    worked: float
    tokens: int = 0
    working: float = 0.0
    reused: int = 0


class BatchNotFound(UsageError):
    """There is no such batch."""

    code = "not_found"

    def __init__(self, batch_id: str, nearest: str = "") -> None:
        super().__init__(
            f"no batch {batch_id!r}",
            hint=f"did you mean {nearest!r}?" if nearest else "`cms batches` shows all of them",
        )
        self.name = batch_id
        self.nearest = nearest


# --- writing ----------------------------------------------------------------------------------------


def create(db: Database, batch: BatchRecord) -> None:
    """A batch that is new; its tasks are to follow."""
    try:
        db.execute(
            "INSERT INTO batches (id, created, status, owner, rest) VALUES (?, ?, ?, ?, ?)",
            (batch.id, batch.created, batch.status.value, db.owner_id, to_json(batch)),
        )
    except sqlite3.IntegrityError:
        raise UsageError(f"there is already a batch {batch.id!r}") from None


def save(db: Database, batch: BatchRecord) -> None:
    """A batch as it stands. Counts and money are the database's own and are not taken from it."""
    if batch.status is BatchStatus.PARKED:
        counters.add_park(db, batch.id)
    db.execute(
        "UPDATE batches SET status = ?, rest = ? WHERE id = ?",
        (batch.status.value, to_json(batch), batch.id),
    )


def delete(db: Database, batch_id: str, most: int = _PIECE) -> bool:
    """Remove a batch, or of a large one `most` of its tasks; returns whether all of it is gone.

    Call it again until it is, so that nobody waits for a large one. Its sessions stay.
    """
    done = db.execute(
        "DELETE FROM batch_tasks WHERE batch_id = ?1 AND seq IN"
        " (SELECT seq FROM batch_tasks WHERE batch_id = ?1 LIMIT ?2)",
        (batch_id, most),
    )
    if done.rowcount == most:
        return False
    for table in ("batch_needs", "batch_counts", "batch_results"):
        db.execute(f"DELETE FROM {table} WHERE batch_id = ?", (batch_id,))  # noqa: S608 - ours
    db.execute("DELETE FROM batches WHERE id = ?", (batch_id,))
    return True


def claim(db: Database, batch_id: str, statuses: Collection[BatchStatus] = RESUMABLE) -> BatchRecord:
    """Sign a batch, so that nobody else works on it, and return it as it stood.

    From here on it counts as at work. Within one process it is the caller who sees to it that only one of its
    tasks does this at a time.

    Args:
        statuses: from which it can be gone on with.

    Raises:
        UsageError: another living process works on it, or it has none of these statuses.
    """
    row: tuple[str, str] | None = db.execute(
        "SELECT owner, status FROM batches WHERE id = ?", (batch_id,)
    ).fetchone()
    batch = None if row is None else _get(db, batch_id)
    if row is None or batch is None:
        raise BatchNotFound(batch_id)
    owner = row[0]
    if batch.status in ACTIVE and owner != db.owner_id and db.living_pid(owner) is not None:
        raise UsageError(
            f"batch {batch_id!r} is running in another cms process",
            hint="stop that one first (Ctrl-C there)",
        )
    if batch.status not in statuses:
        raise UsageError(
            f"batch {batch_id!r} is {batch.status.value}: nothing is left to do",
            hint=f"`cms batch show {batch_id}` shows what became of it",
        )
    claimed = batch.status if batch.status in ACTIVE else BatchStatus.RUNNING
    db.execute(
        "UPDATE batches SET owner = ?, status = ? WHERE id = ?", (db.owner_id, claimed.value, batch_id)
    )
    return batch


def reset_clock(db: Database, batch_id: str) -> None:
    """A person starts it: the time of its work counts from now on."""
    db.execute("UPDATE batches SET working = 0 WHERE id = ?", (batch_id,))


def orphans(db: Database) -> list[BatchRecord]:
    """Batches that somebody was at work on who is dead; those that were being written are removed."""
    active = ", ".join(f"'{status.value}'" for status in (*ACTIVE, BatchStatus.LOADING))
    rows: list[tuple[str, str, str]] = db.execute(
        f"SELECT id, owner, status FROM batches WHERE status IN ({active}) ORDER BY created"  # noqa: S608
    ).fetchall()
    found: list[BatchRecord] = []
    for batch_id, owner, status in rows:
        if owner == db.owner_id or db.living_pid(owner) is not None:
            continue
        if status == BatchStatus.LOADING:
            delete(db, batch_id, -1)
        elif (batch := _get(db, batch_id)) is not None:
            found.append(batch)
    return found


# --- reading ----------------------------------------------------------------------------------------


def _get(db: Database, batch_id: str) -> BatchRecord | None:
    return next(_batches(db, "id = ?", batch_id), None)


def find(db: Database, word: str) -> BatchRecord:
    """The batch of that id, or the only one whose id begins so.

    Raises:
        BatchNotFound: with the nearest id.
        UsageError: several begin so.
    """
    if (exact := _get(db, word)) is not None:
        return exact
    ids: list[str] = [row[0] for row in db.execute("SELECT id FROM batches ORDER BY created DESC")]
    begun = [one for one in ids if word and one.startswith(word)]
    if len(begun) == 1:
        found = _get(db, begun[0])
        if found is not None:
            return found
    if begun:
        newest = ", ".join(begun[:3])
        raise UsageError(
            f"{len(begun)} batches start with {word!r}", hint=f"say which one; the newest: {newest}"
        )
    raise BatchNotFound(word, nearest(word, ids))


def newest_first(db: Database, limit: int = 1000) -> list[BatchRecord]:
    """The batches that are whole."""
    return list(_batches(db, "status <> 'loading' ORDER BY created DESC, id DESC LIMIT ?", limit))


def _batches(db: Database, where: str, *values: str | int) -> Iterator[BatchRecord]:
    rows: list[tuple[str, str, float, int, int, int]] = db.execute(
        f"SELECT status, rest, spent, exact, tokens, reused FROM batches WHERE {where}",  # noqa: S608 - words of ours
        values,
    ).fetchall()
    for status, rest, spent, exact, tokens, reused in rows:
        try:
            batch, stands = _record.decode(rest), BatchStatus(status)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StoreError(f"a batch in the store cannot be read: {error}") from error
        tasks = counts(db, batch.id)
        yield msgspec.structs.replace(
            batch,
            status=stands,
            counts=tasks,
            total=sum(tasks.values()),
            spent=spent,
            exact=bool(exact),
            tokens=tokens,
            reused=reused,
        )


def counts(db: Database, batch_id: str) -> dict[TaskStatus, int]:
    """How many tasks are in which status."""
    rows: list[tuple[str, int]] = db.execute(
        "SELECT status, tasks FROM batch_counts WHERE batch_id = ? AND tasks > 0", (batch_id,)
    ).fetchall()
    return {TaskStatus(status): count for status, count in rows}


def spending(db: Database, batch_id: str) -> Spending:
    """What a batch cost so far."""
    row: tuple[float, float, int, float, int, float, int] | None = db.execute(
        "SELECT spent, counted, exact, worked, tokens, working, reused FROM batches WHERE id = ?", (batch_id,)
    ).fetchone()
    if row is None:
        return Spending(0.0, 0.0, True, 0.0)
    return Spending(row[0], row[1], bool(row[2]), row[3], row[4], row[5], row[6])


def cost_by_model(db: Database, batch_id: str) -> list[tuple[str, float]]:
    """What a batch's sessions spent, by model, dearest first."""
    rows: list[tuple[str, float]] = db.execute(
        # Earlier tries of `a` are the sessions `a~1`, `a~2`; no other name holds a tilde.
        "SELECT l.model, sum(l.cost_usd) FROM batch_tasks AS t JOIN sessions AS s"
        " ON s.name = t.name OR (s.name > t.name || '~' AND s.name < t.name || '~~')"
        " JOIN ledger AS l ON l.session_id = s.id WHERE t.batch_id = ? GROUP BY 1 ORDER BY 2 DESC",
        (batch_id,),
    ).fetchall()
    return rows


def history(db: Database, most: int = 5000) -> list[Sample]:
    """The newest delegations that completed, for forecasts."""
    rows: list[tuple[str, str, str, float, float]] = db.execute(
        "SELECT json_extract(s.rest, '$.options.model'), json_extract(s.rest, '$.options.preset'),"
        " json_extract(s.rest, '$.options.workDir'), i.cost, json_extract(i.rest, '$.duration')"
        " FROM interactions AS i JOIN sessions AS s ON s.id = i.session_id"
        " WHERE i.type = 'delegate' AND i.state = 'done' ORDER BY i.rowid DESC LIMIT ?",
        (most,),
    ).fetchall()
    return [
        Sample(str(model), str(preset), str(place), cost, float(seconds or 0.0))
        for model, preset, place, cost, seconds in rows
    ]
