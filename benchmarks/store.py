"""What a home in which much has happened costs to be asked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import home
from benchmarks.figures import Figure
from cms.store import audit, money, sessions
from cms.store.database import Database
from cms.store.owners import Owner

WEEK = 7 * 86_400.0


def figures(small: bool) -> list[Figure]:
    """Questions to a store of 100,000 sessions, 1 million charges, 2 million lines of the audit log."""
    count = 3_000 if small else 100_000
    with tempfile.TemporaryDirectory(prefix="cms-bench-") as folder:
        path = Path(folder) / "cms.db"
        home.fill(path, count)
        owner = Owner(path.parent / "owners")
        db = Database.open(path, owner, path.parent / "owners", read_only=True)
        try:
            return _ask(db, count)
        finally:
            db.close()
            owner.release()


def _ask(db: Database, count: int) -> list[Figure]:
    now = home.BEGAN + count * home.APART
    questions: dict[str, Callable[[], object]] = {
        "how many sessions there are, and what they cost": lambda: sessions.count(db),
        "a page of 500 sessions": lambda: sessions.page(db, limit=500),
        "who waits for a person": lambda: sessions.unanswered(db, limit=500),
        "`cost --by session`": lambda: money.totals(db, "session", limit=500),
        "`cost --by session --since 7d`": lambda: money.totals(db, "session", since=now - WEEK, limit=500),
        "`cost --by day`": lambda: money.totals(db, "day"),
        "the audit log of a deleted one": lambda: audit.find_deleted(db, "task-000099"),
        "all audit logs of deleted ones": lambda: db.execute(f"SELECT d.at {audit._DELETED}").fetchall(),
    }
    found = []
    for what, ask in questions.items():
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            ask()
            best = min(best, time.process_time() - began)
        found.append(
            Figure(f"store of {count:,} sessions: {what}", best * 1000, "ms", goal=300, limit="SQLite")
        )
    return found
