"""Sessions as a supervisor's callers see them: messages, ends, and what happens when several come at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cms.errors import NameTaken, SessionNotFound, UsageError, WorkDirError, WrongStatus
from cms.fleet.supervisor import open_supervisor
from cms.session.model import (
    InteractionState,
    Limits,
    Outcome,
    SessionStatus,
)
from cms.store import money
from cms.testing.script import FOREVER, prompt, say
from fleet.kit import (
    ask,
    at_work,
    consistent,
    delegate,
    last,
    make_options,
    make_settings,
    proved,
    start,
    supervising,
    talking,
    toil,
    until,
)
from store import reading

#: What a reply costs with the model that sessions use by default.
FIVE_CENTS = {"cost_usd": 0.05, "model": "sonnet"}


async def test_messages_go_to_one_process_and_are_answered_in_order(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        first = await ask(supervisor, "one", prompt("Hello", say("first")))
        queued = [
            await supervisor.submit("one", prompt("Go on", say(f"answer {number}")), type="send")
            for number in range(5)
        ]
        replies = [await supervisor.wait(one) for one in queued]
        assert [reply.text for reply in replies] == [f"answer {number}" for number in range(5)]
        assert {reply.pid for reply in replies} == {first.pid}
        assert first.pid is not None
        stored = await supervisor.interactions("one")
        assert [one.number for one in stored] == [1, 2, 3, 4, 5, 6]
        assert {one.state for one in stored} == {InteractionState.DONE}
        # What is kept is forgotten: a session that lives for days does not grow with its answers.
        assert "0 owed" in repr(supervisor._runners["one"]._pending)
        record, receipt = await supervisor.stop("one")
        assert record.status is SessionStatus.STOPPED
        assert [step.name for step in proved((record, receipt)).steps] == ["eof", "kill"]
    await consistent(settings)


async def test_a_stopped_session_goes_on_with_its_conversation_and_its_cost(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        first = await ask(supervisor, "one", prompt("Hello", say("first", cost_usd=0.05, model="sonnet")))
        assert first.total_cost_usd == pytest.approx(0.05)
        await supervisor.stop("one")
        second = await ask(supervisor, "one", prompt("More", say("second", cost_usd=0.03, model="sonnet")))
        assert second.text == "second"
        assert second.cost == pytest.approx(0.03)
        assert second.total_cost_usd == pytest.approx(0.08)
        assert second.pid != first.pid
        assert (await supervisor.store.read(money.total, first.session_id)).usage.cost_usd == pytest.approx(
            0.08
        )
    # Another day, another supervisor.
    async with supervising(settings) as supervisor:
        third = await ask(supervisor, "one", prompt("More", say("third", cost_usd=0.02, model="sonnet")))
        assert third.total_cost_usd == pytest.approx(0.10)
        record = await supervisor.get("one")
        assert record.cost_exact
        assert record.total_turns == 3


async def test_killed_in_a_reply_it_resumes_and_the_cost_is_at_least(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", say("first", cost_usd=0.05, model="sonnet")))
        sent = await supervisor.submit(
            "one", prompt("Think", say("a long thought").stalling("middle", FOREVER)), type="send"
        )
        await talking(supervisor)
        record, receipt = await supervisor.kill("one")
        assert record.status is SessionStatus.KILLED
        assert [step.name for step in proved((record, receipt)).steps] == ["kill"]
        reply = await supervisor.wait(sent)
        assert reply.outcome is Outcome.INTERRUPTED
        assert not record.cost_exact
        assert not (await last(supervisor)).cost_exact
        # SIGKILL: the transcript has not saved its total, so the next process counts from a lower one.
        after = await ask(supervisor, "one", prompt("Again", say("here", cost_usd=0.03, model="sonnet")))
        assert after.text == "here"
        assert after.cost == pytest.approx(0.03)
        assert after.total_cost_usd == pytest.approx(0.08)
        assert not (await supervisor.get("one")).cost_exact


async def test_killed_while_a_tool_works_the_cost_is_exact(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, limits=Limits(max_cost=5))
        sent = await supervisor.submit(
            "one", prompt("Work", toil().costing(0.05, "sonnet"), say("done")), type="send"
        )
        await at_work(supervisor)
        record, receipt = await supervisor.kill("one")
        assert any("sleep 600" in member for member in proved((record, receipt)).alive)
        reply = await supervisor.wait(sent)
        assert reply.cost == pytest.approx(0.05)
        assert record.cost_exact
        assert (await last(supervisor)).cost_exact


async def test_an_interrupt_keeps_the_process(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        first = await ask(supervisor, "one", prompt("Hello", say("first")))
        for action in (toil(), say("endless").stalling()):
            sent = await supervisor.submit("one", prompt("Work", action, say("done")), type="send")
            await (at_work if action.calls else talking)(supervisor)
            before = trio.current_time()
            await supervisor.interrupt("one")
            reply = await supervisor.wait(sent)
            assert trio.current_time() - before < 1.0
            assert reply.outcome is Outcome.INTERRUPTED
            assert (await last(supervisor)).state is InteractionState.INTERRUPTED
        after = await ask(supervisor, "one", prompt("Still there?", say("yes")))
        assert (after.text, after.pid) == ("yes", first.pid)
        with pytest.raises(WrongStatus):
            await supervisor.interrupt("one")


async def test_a_stop_at_work_leaves_a_clean_conversation(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Work", toil(), say("done")), type="send")
        await at_work(supervisor)
        waiting = await supervisor.submit("one", prompt("And then", say("this")), type="send")
        record, receipt = await supervisor.stop("one")
        assert [step.name for step in proved((record, receipt)).steps] == ["interrupt", "eof", "kill"]
        assert all(step.worked for step in proved((record, receipt)).steps)
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        unsent = await supervisor.wait(waiting)
        assert unsent.outcome is Outcome.INTERRUPTED
        assert "never sent" in unsent.error
        after = await ask(supervisor, "one", prompt("Still there?", say("yes")))
        assert after.text == "yes"
    await consistent(settings)


async def test_an_end_may_be_asked_for_many_times(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.submit("one", prompt("Work", toil()), type="send")
        await at_work(supervisor)
        ended = []
        async with trio.open_nursery() as nursery:

            async def end(how: str) -> None:
                do = supervisor.stop if how == "stop" else supervisor.kill
                ended.append(proved(await do("one")))

            for how in ("stop", "stop", "kill", "stop"):
                nursery.start_soon(end, how)
        assert len(set(map(repr, ended))) == 1
        assert (await supervisor.stop("one"))[1] is None
        assert len(await supervisor.store.read(reading.receipts, (await supervisor.get("one")).id)) == 1


async def test_a_kill_overtakes_a_stop(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, grace=30.0)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.submit("one", prompt("Work", toil()), type="send")
        await at_work(supervisor)
        # An agent that cannot hear: every polite step would take its 30 seconds.
        import os
        import signal

        pid = supervisor._runners["one"].record.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop, "one")
            await until(lambda: supervisor._runners["one"].ending)
            before = trio.current_time()
            record, receipt = await supervisor.kill("one")
        assert trio.current_time() - before < 2.0
        assert record.status is SessionStatus.KILLED
        proved((record, receipt))


async def test_two_messages_to_a_stopped_session_start_one_process(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", say("first")))
        await supervisor.stop("one")
        replies = []
        async with trio.open_nursery() as nursery:

            async def send(number: int) -> None:
                replies.append(await ask(supervisor, "one", prompt("Go", say(f"{number}"))))

            for number in range(4):
                nursery.start_soon(send, number)
        assert len({reply.pid for reply in replies}) == 1
        assert sorted(reply.text for reply in replies) == ["0", "1", "2", "3"]
        assert [one.number for one in await supervisor.interactions("one")] == [1, 2, 3, 4, 5]


async def test_a_message_sent_while_it_stops_starts_it_again(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        first = await ask(supervisor, "one", prompt("Hello", say("first")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop, "one")
            await until(lambda: supervisor._runners["one"].ending)
            second = await ask(supervisor, "one", prompt("Go", say("second")))
        assert second.text == "second"
        assert second.pid != first.pid


async def test_an_answer_is_found_after_its_process_has_gone(tmp_path: Path) -> None:
    """Whoever asks late gets what is on disk, even if the session has another process by then."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        early = await supervisor.submit("one", prompt("Hello", say("first")), type="send")
        await supervisor.wait(early)
        await supervisor.stop("one")
        assert (await supervisor.wait(early)).text == "first"
        await ask(supervisor, "one", prompt("Go", say("second")))
        assert (await supervisor.wait(early)).text == "first"


async def test_who_waits_for_what_was_deleted_is_told_so(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Work", toil()), type="send")
        await at_work(supervisor)
        outcomes = []
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                outcomes.append((await supervisor.finished(sent)).outcome)

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await supervisor.delete("one", force=True)
        assert outcomes == [Outcome.INTERRUPTED]
        with pytest.raises(UsageError, match="deleted"):
            await supervisor.wait(sent)


async def test_what_cannot_be_done_says_so(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, "fix-auth")
        with pytest.raises(NameTaken):
            await start(supervisor, "fix-auth")
        with pytest.raises(SessionNotFound, match="did you mean 'fix-auth'"):
            await supervisor.submit("fix-auht", "Hello", type="send")
        with pytest.raises(WorkDirError, match="does not exist"):
            await start(supervisor, "two", work_dir=str(tmp_path / "gone"))
        with pytest.raises(WrongStatus):
            await supervisor.interrupt("fix-auth")
        with pytest.raises(WrongStatus), supervisor.watch("fix-auth"):
            pass
        assert (await supervisor.stop("fix-auth"))[1] is None


async def test_the_callers_own_error_comes_out_as_it_is(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)

    async def go_wrong() -> None:
        async with supervising(settings) as supervisor:
            await start(supervisor)
            await supervisor.submit("one", prompt("Work", toil()), type="send")
            await at_work(supervisor)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await go_wrong()
    await consistent(settings)


async def test_leaving_stops_what_is_at_work(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for name in ("one", "two", "three"):
            await start(supervisor, name)
            await supervisor.submit(name, prompt("Work", toil(name)), type="send")
        for name in ("one", "two", "three"):
            await at_work(supervisor, name)
    for record in await consistent(settings):
        assert record.status is SessionStatus.STOPPED
        assert record.receipt is not None
        assert record.receipt.empty


async def test_stop_all_keeps_its_time(tmp_path: Path) -> None:
    """Also for a session whose own, slower stop is under way."""
    import os
    import signal

    settings = make_settings(tmp_path, grace=30.0)
    async with supervising(settings) as supervisor:
        for name in ("one", "two"):
            await start(supervisor, name)
            await supervisor.submit(name, prompt("Work", toil(name)), type="send")
            await at_work(supervisor, name)
            pid = supervisor._runners[name].record.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop, "one")
            await until(lambda: supervisor._runners["one"].ending)
            before = trio.current_time()
            await supervisor.stop_all(grace=0.3)
            assert trio.current_time() - before < 3.0
        with pytest.raises(WrongStatus, match="shutting down"):
            await supervisor.submit("one", "Hello", type="send")


async def test_a_second_shell_is_refused_what_the_first_has(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor, open_supervisor(settings) as other:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Work", toil(), say("done")), type="send")
        await at_work(supervisor)
        with pytest.raises(WrongStatus, match="another cms"):
            await other.submit("one", "Hello", type="send")
        with pytest.raises(WrongStatus, match="another cms"):
            await other.stop("one")
        with pytest.raises(WrongStatus, match="another cms"):
            await other.kill("one")
        with pytest.raises(WrongStatus):
            await other.interrupt("one")
        with pytest.raises(WrongStatus, match="another cms"):
            await other.resume("one")
        await supervisor.interrupt("one")
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        await supervisor.stop("one")
        # Free again: whoever comes first has it.
        assert (await ask(other, "one", prompt("Go", say("mine")))).text == "mine"
        with pytest.raises(WrongStatus, match="another cms"):
            await supervisor.submit("one", "Hello", type="send")


async def test_locks_do_not_pile_up(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for number in range(50):
            with pytest.raises(SessionNotFound):
                await supervisor.submit(f"nobody-{number}", "Hello", type="send")
        assert len(supervisor.turn) == 0


async def test_a_follow_up_that_is_not_accepted_leaves_the_session_alone(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        first = await ask(supervisor, "one", prompt("Hello", say("first")))
        supervisor._runners["one"].set_paused(True)
        with pytest.raises(WrongStatus, match="paused"):
            await supervisor.continue_("one", "Go on")
        assert supervisor.live_count() == 1
        with pytest.raises(WrongStatus, match="paused"):
            await supervisor.submit("one", "Hello", type="send")
        await supervisor.resume("one")
        assert (await ask(supervisor, "one", prompt("Go", say("on")))).pid == first.pid


async def test_a_detached_delegation_outlives_its_caller(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        options = make_options(settings)
        accepted = await supervisor.start_delegate(options, prompt("Go", say("done")))
        assert (await supervisor.wait(accepted)).text == "done"
        await until(lambda: supervisor.live_count() == 0)
        with pytest.raises(NameTaken):
            await supervisor.start_delegate(options, "Again")


async def test_a_delegation_that_is_over_keeps_its_verdict_whoever_asks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Go", say("done")), verify=("true", "echo no; false"))
        assert result.status is Outcome.VERIFICATION_FAILED
        assert (await last(supervisor)).outcome is Outcome.VERIFICATION_FAILED
