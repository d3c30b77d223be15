"""Hooks of messages in the store: from the message until they have been told (`session.hooks`)."""

from __future__ import annotations

import msgspec

from cms.session.hooks import Hooks
from cms.store.database import Database
from cms.store.rows import to_json


def add(db: Database, interaction_id: str, hooks: Hooks) -> None:
    """Whoever dies before these are told leaves them here."""
    db.execute("INSERT OR REPLACE INTO hooks VALUES (?, ?, ?)", (interaction_id, db.owner_id, to_json(hooks)))


def remove(db: Database, interaction_id: str) -> None:
    """They have been told."""
    db.execute("DELETE FROM hooks WHERE interaction_id = ?", (interaction_id,))


def take_orphans(db: Database) -> list[tuple[str, Hooks]]:
    """Those that nobody alive is going to tell, with the ids of their messages; they are ours from now on."""
    rows: list[tuple[str, str, str]] = db.execute("SELECT interaction_id, owner, hooks FROM hooks").fetchall()
    found: list[tuple[str, Hooks]] = []
    for interaction_id, owner, hooks in rows:
        if owner == db.owner_id or db.living_pid(owner) is not None:
            continue
        db.execute("UPDATE hooks SET owner = ? WHERE interaction_id = ?", (db.owner_id, interaction_id))
        try:
            found.append((interaction_id, msgspec.json.decode(hooks, type=Hooks)))
        except msgspec.MsgspecError:
            remove(db, interaction_id)  # a newer cms wrote them
    return found
