"""A session gets another name: all of it comes along, whatever it does meanwhile."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cms.errors import NameTaken, SessionNotFound, WrongStatus
from cms.session.model import Outcome, SessionStatus
from cms.store import batch_tasks, sessions
from cms.store.database import Database
from cms.store.rows import to_json
from cms.testing.script import call, prompt, say
from fleet.kit import at_work, make_options, make_settings, supervising, toil

GO = prompt("go", say("done"))


async def test_one_that_rests_is_found_by_its_new_name_alone_with_all_that_it_had(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        before = await supervisor.create(make_options(settings, "old"))
        await supervisor.wait(await supervisor.submit("old", GO, type="spawn"))
        await supervisor.stop("old")
        renamed = await supervisor.rename("old", "new")
        assert (renamed.id, renamed.name, renamed.options.name) == (before.id, "new", "new")
        with pytest.raises(SessionNotFound):
            await supervisor.get("old")
        assert [one.prompt for one in await supervisor.interactions("new")] == [GO]
        assert [row.name for row in await supervisor.totals("session")] == ["new"]
        log = await supervisor.audit("new")
        assert [(row.entry.kind, row.entry.detail) for row in log.rows][-1] == ("rename", "old -> new")
        assert log.broken is None
        await supervisor.create(make_options(settings, "old"))  # the name is free again
        reply = await supervisor.wait(await supervisor.submit("new", GO, type="send"))
        assert (reply.name, reply.outcome) == ("new", Outcome.COMPLETED)


async def test_one_that_works_works_on(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    gate = tmp_path / "work" / "gate"
    tool = call("Bash", command=f"touch at-work-old; while [ ! -e {gate} ]; do sleep 0.05; done")
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "old"))
        sent = await supervisor.submit("old", prompt("go", tool, say("done")), type="spawn")
        await at_work(supervisor, "old")
        assert (await supervisor.rename("old", "new")).status is SessionStatus.BUSY
        assert supervisor.activity("new").startswith("Bash")
        with pytest.raises(SessionNotFound):
            await supervisor.get("old")
        gate.touch()
        reply = await supervisor.wait(sent)
        assert (reply.name, reply.outcome) == ("new", Outcome.COMPLETED)
        record, receipt = await supervisor.stop("new")
        assert (record.name, record.status) == ("new", SessionStatus.STOPPED)
        assert receipt is not None
        assert [one.name for one in await supervisor.sessions()] == ["new"]


async def test_a_name_that_is_taken_stays_with_whom_it_has(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for name in ("one", "two"):
            await supervisor.create(make_options(settings, name))
            await supervisor.wait(await supervisor.submit(name, GO, type="spawn"))
        with pytest.raises(NameTaken):
            await supervisor.rename("one", "two")
        with pytest.raises(SessionNotFound):
            await supervisor.rename("three", "four")
        assert {one.name for one in await supervisor.sessions()} == {"one", "two"}
        reply = await supervisor.wait(await supervisor.submit("one", GO, type="send"))
        assert reply.name == "one"


async def test_a_delegation_keeps_its_name_until_it_is_over(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        endless = prompt("go", toil("task"))
        await supervisor.start_delegate(make_options(settings, "task"), endless)
        await at_work(supervisor, "task")
        with pytest.raises(WrongStatus, match="be renamed"):
            await supervisor.rename("task", "other")
        await supervisor.stop("task")
        await supervisor.wait_quiet("task")
        assert (await supervisor.rename("task", "other")).name == "other"


async def test_what_was_on_its_way_to_the_store_takes_nothing_back(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        before = await supervisor.create(make_options(settings, "old"))
        await supervisor.rename("old", "new")
        await supervisor.create(make_options(settings, "old"))  # by now somebody else's
        await supervisor.store.write(sessions.save, msgspec.structs.replace(before, total_turns=7))
        found = await supervisor.get("new")
        assert (found.id, found.options.name, found.total_turns) == (before.id, "new", 7)


@pytest.mark.parametrize(
    ("status", "go_on", "held"),
    [("running", False, True), ("waiting", True, True), ("waiting", False, False), ("failed", True, False)],
)
async def test_a_batch_that_works_with_it_finds_it_again(
    tmp_path: Path, status: str, *, go_on: bool, held: bool
) -> None:
    settings = make_settings(tmp_path)

    def enter(db: Database) -> None:
        rest = to_json(batch_tasks._Rest(go_on=go_on))
        db.execute(
            "INSERT INTO batches (id, created, status, owner, rest) VALUES ('b', 1, 'stopped', '', '')"
        )
        db.execute(
            "INSERT INTO batch_tasks (batch_id, seq, name, line, status, spec, rest) VALUES"
            " ('b', 0, 'task', 1, ?, '', ?)",
            (status, rest),
        )

    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "task"))
        await supervisor.store.write(enter)
        if held:
            with pytest.raises(WrongStatus, match="batch b works in it"):
                await supervisor.rename("task", "other")
        assert (await supervisor.rename("task", "task~1", by_batch=held)).name == "task~1"


async def test_who_was_started_by_one_that_lives_keeps_its_name(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        parent = await supervisor.create(make_options(settings, "parent"))
        child = await supervisor.create(make_options(settings, "child"))
        await supervisor.store.write(
            sessions.save, msgspec.structs.replace(child, started_by=parent.id, depth=1)
        )
        await supervisor.wait(await supervisor.submit("parent", GO, type="spawn"))
        with pytest.raises(WrongStatus, match="parent started it"):
            await supervisor.rename("child", "other")
        await supervisor.stop("parent")
        assert (await supervisor.rename("child", "other")).name == "other"


async def test_one_that_works_gets_tags_and_keeps_them(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    gate = tmp_path / "work" / "gate"
    tool = call("Bash", command=f"touch at-work-one; while [ ! -e {gate} ]; do sleep 0.05; done")
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "one", tags=("old",)))
        sent = await supervisor.submit("one", prompt("go", tool, say("done")), type="spawn")
        await at_work(supervisor, "one")
        assert (await supervisor.tag("one", ["new"], ["old"])).options.tags == ("new",)
        assert [one.name for one in await supervisor.sessions(tags=["new"])] == ["one"]
        assert await supervisor.sessions(tags=["old"]) == []
        assert await supervisor.count(tags=["new"]) == (1, (await supervisor.get("one")).total_cost_usd)
        gate.touch()
        await supervisor.wait(sent)
        await supervisor.stop("one")
        assert (await supervisor.get("one")).options.tags == ("new",)
        with pytest.raises(SessionNotFound):
            await supervisor.tag("two", ["x"], [])
