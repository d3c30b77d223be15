"""A home in which much has happened: the same rows for the same seed and size.

Written straight into the tables, in one transaction, as the store itself would have them: a hundred thousand
sessions take seconds and not an hour.
"""

from __future__ import annotations

import random
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cms.session.audit import AuditEntry
from cms.session.model import (
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    Receipt,
    SessionOptions,
    SessionRecord,
    SessionStatus,
)
from cms.store import schema
from cms.store.rows import INTERACTIONS, SESSIONS, Value

#: Seconds since 1970 of the first session, and between two.
BEGAN, APART = 1_700_000_000.0, 600.0
_MODELS = ("claude-opus-5-5", "claude-sonnet-5-1")
_DELETED = 100  # one in so many sessions is deleted, and its audit log kept
_NEEDY = 500  # one in so many waits for a person
_ENTRY = AuditEntry("", "", 0.0, "Bash", "make test", "allowed", "", 0.0)
_FIELDS = AuditEntry.__struct_fields__
_INSERT = f"INSERT INTO decisions (number, seal, {', '.join(_FIELDS)}) VALUES (?, ?{', ?' * len(_FIELDS)})"  # noqa: S608


def fill(path: Path, sessions: int, *, charges: int = 10, entries: int = 20, seed: int = 1) -> None:
    """The store of a home with so many sessions, each with so many charges and lines of the audit log."""
    db = schema.connect(path)
    try:
        schema.migrate(db, path)
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        chance = random.Random(seed)
        for number in range(sessions):
            _add(db, chance, number, charges, entries)
        db.execute("COMMIT")
    finally:
        db.close()


def _add(db: sqlite3.Connection, chance: random.Random, number: int, charges: int, entries: int) -> None:
    key = str(uuid.UUID(int=chance.getrandbits(128), version=4))
    name, at = f"task-{number:06d}", BEGAN + number * APART
    session = SessionRecord(
        id=key,
        name=name,
        status=SessionStatus.COMPLETED if number % 50 else SessionStatus.STOPPED,
        options=SessionOptions(name=name, work_dir="/home/u/project", limits=Limits(max_cost=2.0)),
        created=at,
        last_saved=at + 60,
        total_cost_usd=0.01 * charges,
        total_turns=charges,
        interaction_count=1,
        receipt=Receipt("done", empty=True, at=at + 60),
    )
    message = Interaction(
        id=str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        session_id=key,
        number=1,
        type="delegate",
        prompt="Do the next step of the migration, and run the tests.",
        response="Done: the step is in, and the tests pass.",
        timestamp=at,
        state=InteractionState.DONE,
        outcome=Outcome.COMPLETED if number % _NEEDY else Outcome.NEEDS_INPUT,
        ended=at + 60,
        cost=0.01 * charges,
    )
    deleted = number % _DELETED == _DELETED - 1
    if not deleted:
        db.execute(SESSIONS.insert, SESSIONS.to_row(session))
        db.execute(INTERACTIONS.insert, INTERACTIONS.to_row(message))
    model = chance.choice(_MODELS)
    db.executemany(
        "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (at + n, key, name, message.id, "p", model, 0.01, 9, 900, 0, 0, 0.01 * n, True)
            for n in range(charges)
        ),
    )
    db.executemany(_INSERT, _entries(key, message.id, name, at, entries, deleted=deleted))
    db.execute("INSERT INTO audit_heads VALUES (?, ?, ?)", (key, entries, "sealed"))


def _entries(
    key: str, message: str, name: str, at: float, count: int, *, deleted: bool
) -> Iterator[tuple[Value, ...]]:
    for n in range(1, count + 1):
        entry = msgspec.structs.replace(
            _ENTRY, session_id=key, interaction_id=message, at=at + n, cost=0.01 * n
        )
        if deleted and n == count:
            entry = msgspec.structs.replace(entry, kind="delete", detail=name)
        yield (n, "sealed", *msgspec.structs.astuple(entry))
