"""Pausing, freezing, branching and deleting, with real children."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from cms.errors import SessionNotFound, WrongStatus
from cms.session.model import InteractionState, Limits, Outcome, SessionStatus
from cms.store import sessions
from cms.testing.script import call, prompt, say
from fleet.kit import ask, make_options, make_settings, proved, start, supervising, until


async def test_limits_of_time_do_not_run_against_a_frozen_session(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    sign, gate = tmp_path / "sign", tmp_path / "gate"
    task = call("Bash", command=f"touch {sign}; until test -e {gate}; do sleep 0.01; done")
    async with supervising(settings) as supervisor:
        await start(supervisor, limits=Limits(max_time=4.0, max_silence=4.0))
        sent = await supervisor.submit("one", prompt("go", task, say("done")), type="send")
        await until(sign.exists)
        assert (await supervisor.pause("one", freeze=True)).status is SessionStatus.PAUSED
        assert supervisor.live()[0].frozen
        await trio.sleep(4.2)  # more than both limits together with what has passed
        assert (await supervisor.resume("one")).status is SessionStatus.BUSY
        gate.touch()  # not before: it could be done by the time that `resume` tells how it stands
        reply = await supervisor.wait(sent)
        assert (reply.outcome, reply.text) == (Outcome.COMPLETED, "done")
        assert reply.duration < 4000


async def test_a_frozen_fork_loop_can_be_killed(tmp_path: Path) -> None:
    """Each child starts the next one and ends: at no time does a list of processes hold."""
    settings = make_settings(tmp_path)
    sign = tmp_path / "sign"
    loop = f"touch {sign}; f() {{ if test $1 -gt 0; then f $(($1 - 1)) & fi; }}; f 400; sleep 600"
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.submit("one", prompt("go", call("Bash", command=loop)), type="send")
        await until(sign.exists)
        await supervisor.pause("one", freeze=True)
        proved(await supervisor.kill("one"))


async def test_a_frozen_session_ends_politely_when_everything_ends(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await ask(supervisor, "one", prompt("hello", say("here")))
        await supervisor.pause("one", freeze=True)
        await supervisor.stop_all(grace=5.0)
        record = await supervisor.get("one")
        assert record.status is SessionStatus.STOPPED
        assert record.receipt is not None
        assert [step.name for step in record.receipt.steps if step.worked][:1] == ["eof"]


async def test_what_is_paused_accepts_nothing(tmp_path: Path) -> None:
    async with supervising(make_settings(tmp_path)) as supervisor:
        await start(supervisor)
        with pytest.raises(WrongStatus, match="cannot be paused"):
            await supervisor.pause("one")
        await ask(supervisor, "one", prompt("hello", say("here")))
        await supervisor.pause("one")
        with pytest.raises(WrongStatus, match="is paused"):
            await supervisor.submit("one", "more", type="send")
        await supervisor.resume("one")
        assert (await ask(supervisor, "one", prompt("hello", say("again")))).text == "again"


async def test_a_session_that_is_paused_at_work_says_so_and_the_books_too(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    sign, gate = tmp_path / "sign", tmp_path / "gate"
    task = call("Bash", command=f"touch {sign}; until test -e {gate}; do sleep 0.01; done")
    async with supervising(settings) as supervisor:

        async def stored() -> SessionStatus:
            record = await supervisor.store.read(sessions.by_name, "one")
            assert record is not None
            return record.status

        await start(supervisor)
        sent = await supervisor.submit("one", prompt("go", task, say("done")), type="send")
        await until(sign.exists)
        assert (await supervisor.pause("one")).status is SessionStatus.PAUSED
        assert await stored() is SessionStatus.PAUSED
        assert supervisor.live()[0].activity
        assert (await supervisor.resume("one")).status is SessionStatus.BUSY
        assert await stored() is SessionStatus.BUSY
        await supervisor.pause("one")
        gate.touch()
        assert (await supervisor.wait(sent)).text == "done"
        assert (await supervisor.get("one")).status is SessionStatus.PAUSED
        assert await stored() is SessionStatus.PAUSED
        assert (await supervisor.resume("one")).status is SessionStatus.READY
        assert await stored() is SessionStatus.READY


async def test_a_branch_whose_parent_is_gone_still_knows_the_conversation(tmp_path: Path) -> None:
    """It may be entered long before its first message, in the store alone."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        parent = await start(supervisor)
        with pytest.raises(WrongStatus, match="cannot be forked"):
            await supervisor.fork("one", "two")
        await ask(supervisor, "one", prompt("hello", say("here", cost_usd=0.5)))
        branch = await supervisor.fork("one", "two", model="haiku")
        assert (branch.parent_id, branch.total_cost_usd, branch.status) == (parent.id, 0.0, "created")
        await supervisor.delete("one", force=True)
    async with supervising(settings) as supervisor:
        reply = await ask(supervisor, "two", prompt("go", say("on", cost_usd=0.25)))
        assert reply.text == "on"
        assert 0 < reply.total_cost_usd < 0.5
        found = await supervisor.get("two")
        assert found.claude_session_id == found.id


async def test_deleting_ends_the_delegation_first(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    sign = tmp_path / "sign"
    async with supervising(settings) as supervisor:
        task = prompt("go", call("Bash", command=f"touch {sign}; sleep 600"))
        await supervisor.start_delegate(make_options(settings, "one"), task)
        await until(sign.exists)
        with pytest.raises(WrongStatus, match="cannot be deleted"):
            await supervisor.delete("one")
        _, receipt, log = await supervisor.delete("one", force=True)
        assert receipt is not None
        assert receipt.empty
        assert log.path is not None
        assert log.path.parent == settings.trash
        with pytest.raises(SessionNotFound):
            await supervisor.get("one")
        assert not await supervisor.sessions()


async def test_quiet_is_when_the_verdict_is_given(tmp_path: Path) -> None:
    """Not when the message has ended: the checks of a delegation come after that."""
    settings = make_settings(tmp_path)
    gate = tmp_path / "gate"
    async with supervising(settings) as supervisor:
        options = make_options(settings, "one", verify=(f"until test -e {gate}; do sleep 0.01; done; false",))
        sent = await supervisor.start_delegate(options, prompt("go", say("done")))
        assert (await supervisor.work_ended(sent)).state is InteractionState.CHECKING
        quiet = trio.Event()

        async def wait() -> None:
            await supervisor.wait_quiet("one")
            quiet.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not quiet.is_set()
            gate.touch()
            await until(quiet.is_set)
        (last,) = await supervisor.interactions("one", 1)
        assert last.outcome is Outcome.VERIFICATION_FAILED
