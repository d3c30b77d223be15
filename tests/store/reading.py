"""What the product only adds, read back: rows, and the lines of a raw log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from cms.session.model import Receipt, TokenUsage
from cms.session.transcript import Direction
from cms.store.database import Database
from cms.store.rawlog import read_entries
from cms.store.records import Charge


def charges(db: Database, session_id: str) -> list[Charge]:
    """The ledger of a session, oldest first."""
    rows: list[tuple[str, str, str, str, int, int, int, int, float, float, float, int]] = db.execute(
        "SELECT session_id, interaction_id, process, model, input_tokens, output_tokens,"
        " cache_read_input_tokens, cache_creation_input_tokens, cost_usd, at, process_total, exact"
        " FROM ledger WHERE session_id = ? ORDER BY rowid",
        (session_id,),
    ).fetchall()
    return [
        Charge(
            session, message, process, model, TokenUsage(sent, got, read, made, cost), at, so_far, exact == 1
        )
        for session, message, process, model, sent, got, read, made, cost, at, so_far, exact in rows
    ]


def receipts(db: Database, session_id: str) -> list[Receipt]:
    """How the processes of a session ended, oldest first."""
    rows = db.execute("SELECT receipt FROM receipts WHERE session_id = ? ORDER BY rowid", (session_id,))
    return [msgspec.json.decode(receipt, type=Receipt) for (receipt,) in rows]


def read_lines(path: Path, direction: Direction) -> Iterator[bytes]:
    """The exact lines of one direction, without line feeds."""
    return (entry.line for entry in read_entries(path) if entry.direction == direction)
