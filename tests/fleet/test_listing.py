"""Pages of sessions: of those that live and those that rest, in one order."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cms.errors import SessionNotFound
from cms.session.model import SessionStatus
from cms.store import sessions
from cms.testing.script import prompt, say
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
        with pytest.raises(SessionNotFound):
            await supervisor.sessions(after="nobody")
