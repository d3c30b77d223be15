"""Pages of sessions: of those that live and those that rest, in one order."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cms.errors import SessionNotFound
from cms.session.model import Limits, Outcome, SessionStatus
from cms.store import sessions
from cms.testing.script import call, prompt, say
from fleet.kit import make_options, make_settings, supervising


async def test_pages_and_sums_know_what_lives_better_than_the_store(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        live = await supervisor.create(make_options(settings, "live"))
        await supervisor.wait(
            await supervisor.submit("live", prompt("go", say("done", cost_usd=0.5)), type="spawn")
        )
        for number in range(5):
            name = f"rest-{number}"
            record = msgspec.structs.replace(
                live,
                id=f"rest-{number}",
                name=name,
                options=msgspec.structs.replace(live.options, name=name),
                status=SessionStatus.COMPLETED,
                created=live.created + number - 2.5,
                total_cost_usd=1.0,
            )
            await supervisor.store.write(sessions.add, record)
        order = ["rest-4", "rest-3", "live", "rest-2", "rest-1", "rest-0"]

        async def names(status: str = "", *, limit: int | None = None, after: str = "") -> list[str]:
            return [one.name for one in await supervisor.sessions(status, limit=limit, after=after)]

        assert await names() == order
        assert await names(limit=4) == order[:4]
        assert await names(limit=2, after="rest-3") == order[2:4]
        assert await names(after="live") == order[3:]
        assert await names("completed", limit=3, after="rest-4") == ["rest-3", "rest-2", "rest-1"]
        assert await names("ready") == ["live"]
        assert await names("ready", after="rest-2") == []
        for status, expected in (("", 6), ("completed", 5), ("ready", 1)):
            found, usd = await supervisor.count(status)
            assert found == expected
            assert usd == pytest.approx(sum(one.total_cost_usd for one in await supervisor.sessions(status)))
        by_cost = ["rest-4", "rest-3", "rest-2", "rest-1", "rest-0", "live"]
        assert [one.name for one in await supervisor.sessions(order="cost")] == by_cost
        page = await supervisor.sessions(order="cost", after="rest-1", limit=2)
        assert [one.name for one in page] == ["rest-0", "live"]
        page = await supervisor.sessions(order="name", after="live", limit=2)
        assert [one.name for one in page] == ["rest-0", "rest-1"]
        with pytest.raises(SessionNotFound):
            await supervisor.sessions(after="nobody")


async def test_an_outcome_is_asked_for_like_a_status(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for name, spent in (("dear", 3.0), ("cheap", 0.5)):
            task = prompt("go", call("Read", file_path="/x").costing(spent), say("done"))
            await supervisor.delegate(make_options(settings, name, limits=Limits(max_cost=1.0)), task)
        await supervisor.create(make_options(settings, "new"))
        known = await supervisor.sessions()
        ended = await supervisor.outcomes(known)
        by_name = {record.name: ended.get(record.id) for record in known}
        assert by_name == {"new": None, "cheap": Outcome.COMPLETED, "dear": Outcome.COST_EXCEEDED}
        for status in ("cost_exceeded", "stopped"):
            assert [one.name for one in await supervisor.sessions(status)] == ["dear"]
            assert (await supervisor.count(status))[0] == 1
        assert await supervisor.sessions("needs_input") == []
