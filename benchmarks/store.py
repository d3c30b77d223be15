"""What a home in which much has happened costs to be asked."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import trio

from benchmarks import home
from benchmarks.figures import Figure
from cms.config import Settings
from cms.fleet.search import open_search
from cms.session.model import SessionOptions, SessionRecord, SessionStatus
from cms.store import audit, money, sessions
from cms.store.database import Database
from cms.store.owners import Owner
from cms.store.store import Store, open_store

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
            asked = _ask(db, count)
        finally:
            db.close()
            owner.release()
        return [*asked, *trio.run(_search, path.parent, count)]


async def _search(folder: Path, count: int) -> list[Figure]:
    """The search index: what it takes from whoever commits while it is made, and a search after that."""
    settings = Settings(home=folder)
    async with open_store(settings) as store, open_search(settings, store) as search:
        before = await _commit(store)
        await search.find("migration", limit=20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(search.fill)
            during = await _commit(store)
        best = float("inf")
        for _ in range(3):
            began = time.perf_counter()
            await search.find("migration tests", limit=20)
            best = min(best, time.perf_counter() - began)
    what = f"store of {count:,} sessions"
    return [
        Figure(
            f"{what}: a commit while the search index is made", during, "ms", "before", before, limit="disk"
        ),
        Figure(f"{what}: `search` for two words that every message has", best * 1000, "ms", goal=300),
    ]


async def _commit(store: Store) -> float:
    """Milliseconds of a commit, synced; the median of many."""
    took = []
    for number in range(300):
        session = SessionRecord(
            id="bench",
            name="bench",
            status=SessionStatus.READY,
            options=SessionOptions(name="bench", work_dir="/"),
            created=1.0,
            last_saved=float(number),
        )
        began = time.perf_counter()
        await store.write(sessions.save, session)
        took.append(time.perf_counter() - began)
    return median(took) * 1000


def _ask(db: Database, count: int) -> list[Figure]:
    now = home.BEGAN + count * home.APART
    questions: dict[str, Callable[[], object]] = {
        "how many sessions there are, and what they cost": lambda: sessions.count(db),
        "a page of 500 sessions": lambda: sessions.page(db, limit=500),
        "who waits for a person": lambda: sessions.unanswered(db, limit=500),
        "`cost --by session`": lambda: money.totals(db, "session", limit=500),
        "`cost --by session --since 7d`": lambda: money.totals(db, "session", since=now - WEEK, limit=500),
        "`cost --by day`": lambda: money.totals(db, "day"),
        "`cost --by tag`": lambda: money.totals(db, "tag", limit=500),
        "`list --tag`, where few have any": lambda: sessions.page(db, tags=["x"], limit=500),
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
