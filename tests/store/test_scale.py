"""What is asked often costs the same whatever has happened in a home: counted in steps, not in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import pytest
from benchmarks import home

from cms.session.model import Order
from cms.store import audit, money, sessions
from cms.store.database import Database
from cms.store.owners import Owner

SMALL, LARGE = 120, 1200
DAY = 86_400.0


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    owners = path.parent / "owners"
    owner = Owner(owners)
    db = Database.open(path, owner, owners, read_only=True)
    try:
        yield db
    finally:
        db.close()
        owner.release()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "cms.db"
    home.fill(path, SMALL)
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "cms.db"
    home.fill(path, LARGE)
    return path


def steps(path: Path, ask: Callable[[Database], object]) -> int:
    """Tens of steps of SQLite's virtual machine."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    with opened(path) as db:
        ask(db)  # prepared, and the schema read
        db._connection.set_progress_handler(step, 10)
        ask(db)
    return count


def newest(number: int) -> float:
    return home.BEGAN + number * home.APART


FLAT: dict[str, Callable[[Database], object]] = {
    "a page": lambda db: sessions.page(db, limit=50),
    "a page of a status": lambda db: sessions.page(db, "completed", limit=50),
    "a later page": lambda db: sessions.page(db, limit=50, after=sessions.Place(0, newest(90), "")),
    "how a page of them ended": lambda db: sessions.outcomes(
        db, [one.id for one in sessions.page(db, limit=50)]
    ),
    "those of a session": lambda db: sessions.started_by(db, "nobody"),
    "those that may live on": sessions.unkilled,
    "names that begin alike": lambda db: sessions.names(db, "task-00001", 1000),
    "a deleted one": lambda db: audit.find_deleted(db, f"task-{home._DELETED - 1:06d}"),
    "left open": sessions.left_open,
    "those with a tag": lambda db: sessions.page(db, tags=["x"], limit=50),
    "how many have a tag": lambda db: sessions.count(db, tags=["x"]),
}


@pytest.mark.parametrize("what", FLAT)
def test_it_costs_the_same_in_a_large_home(small: Path, large: Path, what: str) -> None:
    few, many = steps(small, FLAT[what]), steps(large, FLAT[what])
    assert many <= 1.5 * few + 10, f"{what}: {few} and {many} tens of steps"


#: Steps for each session of the home, at most: what grows with it, and slowly.
GROWS: dict[str, tuple[float, Callable[[Database], object]]] = {
    "how many": (0.6, sessions.count),
    "how many besides those that live": (0.6, lambda db: sessions.count(db, but=["task-1", "task-2"])),
    "those that cost most": (3.0, lambda db: sessions.page(db, order="cost", limit=50)),
    "those with most turns": (3.0, lambda db: sessions.page(db, order="turns", limit=50)),
    "those that ended so": (3.0, lambda db: sessions.page(db, "cost_exceeded", limit=50)),
    "costs by session": (5.0, lambda db: money.totals(db, "session", limit=50)),
    "costs by model": (5.0, lambda db: money.totals(db, "model")),
    "costs by day": (5.0, lambda db: money.totals(db, "day")),
    "who waits for a person": (1.0, sessions.unanswered),
    "all that was deleted": (1.0, lambda db: db.execute(f"SELECT count(*) {audit._DELETED}").fetchone()),
}


@pytest.mark.parametrize("what", GROWS)
def test_it_costs_a_few_steps_for_each_session_not_for_each_row(large: Path, what: str) -> None:
    most, ask = GROWS[what]
    assert steps(large, ask) <= most * LARGE, what


def test_the_running_sums_say_what_the_ledger_says(large: Path) -> None:
    with opened(large) as db:
        by_session = {one.key: (one.charges, one.usage) for one in money.totals(db, "session")}
        assert by_session == {
            one.key: (one.charges, one.usage) for one in money.totals(db, "session", since=0.0)
        }
        assert sum(count for count, _ in by_session.values()) == 10 * LARGE
        in_all = money.total(db)
        assert in_all.charges == 10 * LARGE
        for by in ("model", "day"):
            found = money.totals(db, by)
            assert sum(one.charges for one in found) == in_all.charges
            assert sum(one.usage.cost_usd for one in found) == pytest.approx(in_all.usage.cost_usd)
        # From the middle of a quarter of an hour on.
        since = newest(700) + 5
        (exact,) = db.execute("SELECT count(*) FROM ledger WHERE at >= ?", (since,)).fetchone()
        assert money.total(db, since=since).charges == exact


@pytest.mark.parametrize("order", get_args(Order))
def test_pages_hold_every_session_once_and_in_order(large: Path, order: Order) -> None:
    with opened(large) as db:
        whole = sessions.page(db, order=order)
        assert whole == sessions.in_order(whole[::-1], order)
        paged = []
        page = sessions.page(db, order=order, limit=100)
        while page:
            paged += page
            page = sessions.page(db, order=order, limit=100, after=sessions.place_of(page[-1], order))
        assert [one.id for one in paged] == [one.id for one in whole]
        assert (len(whole), sum(one.total_cost_usd for one in whole)) == pytest.approx(sessions.count(db))
        but = [one.id for one in whole[:3]]
        rest = (len(whole) - 3, sum(one.total_cost_usd for one in whole[3:]))
        assert sessions.count(db, but=but) == pytest.approx(rest)
