"""The plan's windows as they were told last (`session.plan_usage`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import msgspec

from cms.session.plan_usage import UsageWindow
from cms.store.database import Database
from cms.store.rows import to_json


def save(db: Database, windows: Sequence[UsageWindow]) -> None:
    """These were told; the newest word counts."""
    db.executemany(
        "INSERT OR REPLACE INTO plan_windows VALUES (?, ?)", [(one.name, to_json(one)) for one in windows]
    )


def windows(db: Database) -> list[UsageWindow]:
    """All that were ever told, the soonest to reset first."""
    rows: list[tuple[str]] = db.execute("SELECT rest FROM plan_windows").fetchall()
    found: list[UsageWindow] = []
    for (rest,) in rows:
        with suppress(msgspec.MsgspecError):  # a newer cms's
            found.append(msgspec.json.decode(rest, type=UsageWindow))
    return sorted(found, key=lambda one: (one.resets_at or 0.0, one.name))
