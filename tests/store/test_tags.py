"""Tags: whose they are, what is found by them, and what it cost."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from cms.config import Settings
from cms.session.model import Grouping, SessionRecord
from cms.store import money, sessions
from cms.store.store import Store, open_store
from store import making


def tagged(number: int, *tags: str) -> SessionRecord:
    record = making.session(number)
    return msgspec.structs.replace(record, options=msgspec.structs.replace(record.options, tags=tags))


async def names(store: Store, *tags: str, status: str = "") -> list[str]:
    found = await store.read(sessions.page, status, tags=tags)
    count, _ = await store.read(sessions.count, status, tags=tags)
    assert count == len(found)
    return [one.name for one in found]


async def test_sessions_are_found_by_all_of_their_tags(settings: Settings) -> None:
    async with open_store(settings) as store:
        for record in (tagged(1, "a", "b c"), tagged(2, "b c"), tagged(3), tagged(4, 'q"uote')):
            await store.write(sessions.save, record)
        assert await names(store, "b c") == ["name-2", "name-1"]
        assert await names(store, "b c", "a") == ["name-1"]
        assert await names(store, 'q"uote') == ["name-4"]
        assert await names(store, "b") == await names(store, "%") == await names(store, "") == []
        assert await names(store, "a", status="ready") == ["name-1"]
        assert await names(store, "a", status="killed") == await names(store, "a", status="completed") == []


async def test_what_was_on_its_way_takes_no_tag_back(settings: Settings) -> None:
    async with open_store(settings) as store:
        before = tagged(1, "a")
        await store.write(sessions.save, before)
        assert await store.write(sessions.tag, "session-1", ["b", "a"], []) == ("a", "b")
        assert await store.write(sessions.tag, "session-1", ["c"], ["a", "nothing"]) == ("b", "c")
        await store.write(sessions.save, msgspec.structs.replace(before, total_turns=7))
        [found] = await store.read(sessions.page)
        assert (found.options.tags, found.total_turns) == (("b", "c"), 7)
        assert await store.write(sessions.tag, "session-1", [], ["b", "c"]) == ()
        assert await names(store, "b") == []


async def test_costs_by_tag_and_week(settings: Settings) -> None:
    sunday = datetime(2027, 1, 3, 23, 30).timestamp()  # of 2026's last ISO week, which is its 53rd
    monday = datetime(2027, 1, 4, 0, 30).timestamp()
    async with open_store(settings) as store:
        for record in (tagged(1, "a", "b"), tagged(2, "b"), tagged(3)):
            await store.write(sessions.save, record)
        charges = [
            making.charge(1.0, of=1, at=sunday),
            making.charge(2.0, of=2, at=monday),
            making.charge(4.0, of=3, at=monday),
        ]
        await store.write(money.add_charges, charges)

        async def spent(by: Grouping, since: float | None = None) -> list[tuple[str, float]]:
            found = await store.read(money.totals, by, since=since)
            return [(one.key, one.usage.cost_usd) for one in found]

        assert await spent("tag") == [("", 4.0), ("b", 3.0), ("a", 1.0)]
        assert await spent("tag", monday) == [("", 4.0), ("b", 2.0)]
        assert await spent("week") == [("2026-W53", 1.0), ("2027-W01", 6.0)]
        assert await spent("day") == [("2027-01-03", 1.0), ("2027-01-04", 6.0)]
        assert (await store.read(money.totals, "week", limit=1))[0].key == "2027-W01"
        await store.write(sessions.tag, "session-3", ["c"], [])
        assert await spent("tag") == [("c", 4.0), ("b", 3.0), ("a", 1.0)]


@pytest.mark.parametrize("week", range(1, 54))
def test_every_monday_has_the_key_of_its_week(week: int) -> None:
    monday = datetime.fromisocalendar(2026, week, 1)
    assert money._iso_week(monday.date().isoformat()) == f"2026-W{week:02}"
