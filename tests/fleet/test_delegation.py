"""The one judge: nothing counts as completed before its checks and the tripwire are through.

Whatever cuts a delegation off in between (a crash, Ctrl-C, a full disk), whoever asks afterwards is told so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from cms.batch.ends import Report
from cms.batch.model import BatchOptions, BatchStatus, TaskSpec, TaskStatus
from cms.batch.retry import Remains, salvage
from cms.config import caller_environ
from cms.containment import Container, Spec, still_alive
from cms.errors import ContainmentError, Interrupted, SessionNotFound, StoreError, WrongStatus
from cms.fleet.batch_sessions import SupervisorSessions
from cms.fleet.batches import open_batches
from cms.fleet.supervisor import Supervisor
from cms.session.model import (
    DelegateResult,
    Interaction,
    InteractionState,
    Outcome,
    SessionStatus,
)
from cms.store.live_files import read_all
from cms.testing.script import call, prompt, say
from fleet.kit import (
    DEAF,
    FullDisk,
    ask,
    assert_nothing_left,
    at_work,
    awkward,
    consistent,
    delegate,
    is_deaf,
    last,
    make_options,
    make_settings,
    marked,
    supervising,
    talking,
    toil,
    until,
)
from fleet.test_crash import begin

ENDLESS = ("touch at-work-one; sleep 600",)


async def test_how_often_it_goes_to_the_disk_and_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a fifth of a millisecond of the daemon and two wake-ups of it. Whoever adds one knows why."""
    asked: Counter[str] = Counter()
    ask_thread = trio.to_thread.run_sync

    async def counted(function: Callable[..., object], *args: object, **how: Any) -> object:
        kind = function.__qualname__ if function.__module__ == "cms.store.store" else "disk"
        asked[kind.rpartition(".")[2]] += 1
        return await ask_thread(function, *args, **how)

    async with supervising(make_settings(tmp_path)) as supervisor:
        await delegate(supervisor, prompt("Work", say("done")))
        monkeypatch.setattr(trio.to_thread, "run_sync", counted)
        await delegate(supervisor, prompt("Work", say("done")), name="two")
        monkeypatch.undo()
    assert asked["disk"] <= 15, asked
    assert asked["look"] <= 5, asked  # reads of the store
    assert asked["transact"] <= 11, asked


async def test_the_supervisor_is_killed_while_a_check_runs(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with trio.fail_after(30):
        with begin(tmp_path, "check") as doomed:
            assert doomed.stdout is not None
            assert await trio.to_thread.run_sync(doomed.stdout.readline) == b"ready\n"
            descriptors = [os.pidfd_open(pid) for pid in marked(settings)]
            doomed.kill()
        for descriptor in descriptors:
            await trio.lowlevel.wait_readable(descriptor)
            os.close(descriptor)
    assert_nothing_left(settings)

    async with supervising(settings) as supervisor:
        one = await last(supervisor)
        assert (one.state, one.outcome) == (InteractionState.UNCHECKED, Outcome.INTERRUPTED)
        assert "checks did not finish" in one.error
        assert one.response == "done"
        assert one.cost_exact
        assert one.cost == pytest.approx(0.05, abs=0.001)
        record = await supervisor.get("one")
        assert record.status is SessionStatus.STOPPED
        assert "checks did not finish" in record.error
        # It can be gone on with, and judged again by whoever wants to know.
        (tmp_path / "work" / "at-work-one").unlink(missing_ok=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.continue_, "one", prompt("Go on", say("here")))
            await at_work(supervisor)
            nursery.cancel_scope.cancel()
        assert (await last(supervisor)).response == "here"
    await consistent(settings)


async def cut_off_in_check(supervisor: Supervisor, name: str, check: str) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            options = make_options(supervisor.settings, name, verify=(check,))
            nursery.start_soon(supervisor.delegate, options, prompt("Work", say("done")))
            await at_work(supervisor, name)
            scope.cancel()
    one = await last(supervisor, name)
    assert (one.state, one.outcome) == (InteractionState.UNCHECKED, Outcome.INTERRUPTED)
    assert one.error == "its checks did not finish: the delegation was cancelled"
    assert one.is_error
    assert one.response == "done"
    record = await supervisor.get(name)
    assert record.status is SessionStatus.STOPPED
    assert record.error == one.error


async def test_a_batch_checks_again_what_was_cut_off(tmp_path: Path) -> None:
    """It holds by then, or fails."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for name, verdict, outcome, words in (
            ("good", "true", Outcome.COMPLETED, ""),
            ("bad", "echo no; false", Outcome.VERIFICATION_FAILED, "exit status 1: no"),
        ):
            again = f"again-{name}"
            check = f"if test -e {again}; then {verdict}; else touch {again} at-work-{name}; sleep 600; fi"
            await cut_off_in_check(supervisor, name, check)
            traces = await SupervisorSessions(supervisor, "batch:x").traces(name, "", 0, check=True)
            assert isinstance(traces, Report)
            result = traces.result
            assert result.status is outcome
            assert words in (result.error or "")
            assert bool(result.error) == bool(words)
            one = await last(supervisor, name)
            assert (one.outcome, one.state) == (result.status, InteractionState.DONE)
            assert one.reasons == result.reasons
        assert (await supervisor.judge_again("good")).status is Outcome.COMPLETED
    await consistent(settings)


async def test_who_waits_for_the_message_waits_for_the_verdict(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        check = "touch at-work-one; until test -e gate; do sleep 0.01; done; false"
        sent = await supervisor.start_delegate(
            make_options(settings, verify=(check,)), prompt("Go", say("done"))
        )
        await at_work(supervisor)
        stored = await last(supervisor)
        assert (stored.state, stored.outcome) == (InteractionState.CHECKING, None)
        replies = []

        async def wait() -> None:
            replies.append(await supervisor.wait(sent))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not replies
            (tmp_path / "work" / "gate").touch()
        assert replies[0].outcome is Outcome.VERIFICATION_FAILED
        assert replies[0].is_error
        assert replies[0].text == "done"


@pytest.mark.parametrize("give_up", [False, True])
async def test_a_batch_that_is_stopped_while_a_check_runs_leaves_it_for_later(
    tmp_path: Path, give_up: bool
) -> None:
    settings = make_settings(tmp_path)
    work = tmp_path / "work"
    check = "echo run >> runs; touch at-work-one; until test -e gate; do sleep 0.05; done"
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(BatchOptions(str(work)), "b")
        spec = TaskSpec(name="one", prompt=prompt("Work", say("done")), verify=(check,))
        assert await batches.add(record.id, 0, [(spec, 1)]) == []
        engine = await batches.start(record.id)
        await at_work(supervisor)
        stopped = await (batches.cancel if give_up else batches.stop)(record.id)
        assert (work / "runs").read_text() == "run\n", "the check is not begun anew at once"
        assert (await last(supervisor)).state is InteractionState.UNCHECKED
        if give_up:
            assert stopped.counts == {TaskStatus.INTERRUPTED: 1}
            return
        assert stopped.counts == {TaskStatus.RUNNING: 1}
        (work / "gate").touch()
        engine = await batches.start(record.id)
        assert (await engine.wait()).counts == {TaskStatus.COMPLETED: 1}
        assert (work / "runs").read_text() == "run\nrun\n"
        assert (await last(supervisor)).outcome is Outcome.COMPLETED


async def test_a_claude_that_is_none_to_work_with_stops_a_batch_at_the_first_task(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, claude=awkward("takes_no_gate"), grace=0.2)
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(BatchOptions(str(tmp_path / "work"), max_parallel=2), "b")
        specs = [(TaskSpec(name=f"t{number}", prompt="Work"), number) for number in range(20)]
        assert await batches.add(record.id, 0, specs) == []
        ended = await (await batches.start(record.id)).wait()
        assert (ended.status, ended.stopped_by) == (BatchStatus.STOPPED, "trouble")
        assert ended.counts == {TaskStatus.WAITING: 20}
        assert "cannot be used: it " in ended.reason
        assert "install 2.1." in ended.reason
        assert len(await supervisor.sessions()) <= 2, "the others were not begun"
        assert (ended.spent, ended.exact) == (0.0, True)


async def test_a_check_that_cannot_start_says_nothing_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that is gone, no room for a process: neither completed nor failed by its check."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        real = supervisor.mechanism

        async def start(spec: Spec) -> Container:
            if "verify" in spec.label and "lost" in spec.argv[-1]:
                raise ContainmentError("the mount is gone")
            return await type(real).start(real, spec)

        monkeypatch.setattr(real, "start", start)
        result = await delegate(supervisor, prompt("Work", say("done")), verify=("true", "true # lost"))
        assert result.status is Outcome.INTERRUPTED
        assert "the mount is gone" in (result.error or "")
        assert (await last(supervisor)).state is InteractionState.UNCHECKED
        # A check that has run and failed is one, whatever became of the others.
        result = await delegate(
            supervisor, prompt("W", say("x")), name="two", verify=("true # lost", "false")
        )
        assert result.status is Outcome.VERIFICATION_FAILED
        monkeypatch.undo()
        assert (await supervisor.judge_again("one")).status is Outcome.COMPLETED
    await consistent(settings)


async def test_a_refused_call_does_not_end_the_one_that_was_at_work(tmp_path: Path) -> None:
    """Cut off in the middle of a tool, a batch does not go on by itself, whatever was refused before."""
    settings = make_settings(tmp_path)
    bashrc = call("Write", file_path=str(tmp_path / "home" / ".bashrc"), content="x")
    made = call("Write", file_path=str(tmp_path / "work" / "made"), content="x")
    async with supervising(settings) as supervisor:
        for name, acts in (("one", (bashrc,)), ("two", (made, bashrc, bashrc))):
            options = make_options(settings, name, on_violation="deny")
            await supervisor.start_delegate(options, prompt("Work", *acts, toil(name), say("done")))
            await at_work(supervisor, name)
            await supervisor.kill(name)
            await supervisor.wait_quiet(name)
            traces = await SupervisorSessions(supervisor, "batch:x").traces(name, "", 0, check=True)
            assert isinstance(traces, Remains)
            assert traces.at_work == ("Bash",)
            assert salvage(traces).status is TaskStatus.INTERRUPTED
        # Cut off when nothing is at work, it goes on.
        thinking = prompt("Work", made, bashrc, say("a long thought").stalling())
        await supervisor.start_delegate(make_options(settings, "three", on_violation="deny"), thinking)
        await talking(supervisor, "three")
        await supervisor.kill("three")
        await supervisor.wait_quiet("three")
        traces = await SupervisorSessions(supervisor, "batch:x").traces("three", "", 0, check=True)
        assert isinstance(traces, Remains)
        assert traces.allowed == ("Write",)
        assert salvage(traces).go_on


# --- a second message ------------------------------------------------------------------------------


async def test_a_message_beside_a_delegation_is_refused_or_served(tmp_path: Path) -> None:
    """At each moment: while it comes up, at work, in its check; then, while its process ends, and after."""
    settings = make_settings(tmp_path)
    work = tmp_path / "work"
    check = "touch checking; until test -e gate; do sleep 0.01; done"
    toil = "touch at-work-one; until test -e go; do sleep 0.01; done"
    task = prompt("Work", call("Bash", command=toil), say("done"))
    async with supervising(settings) as supervisor:
        got: list[DelegateResult] = []

        async def go() -> None:
            got.append(await supervisor.delegate(make_options(settings, verify=(check,)), task))

        async def refused() -> None:
            with pytest.raises(WrongStatus, match="delegation"):
                await supervisor.submit("one", prompt("And", say("more")), type="send")
            with pytest.raises(WrongStatus, match="delegation"):
                await supervisor.continue_("one", prompt("And", say("more")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            await until(lambda: supervisor.under_way.has("one"))
            await refused()
            await until((work / "at-work-one").exists)
            await refused()
            (work / "go").touch()
            await until((work / "checking").exists)
            await refused()
            (work / "gate").touch()
            await until(lambda: any(runner.ending for runner in supervisor._runners.values()))
            # From here on it is served: by another process.
            answer = await ask(supervisor, "one", prompt("And", say("more")))
            assert (answer.text, answer.outcome) == ("more", Outcome.COMPLETED)
        assert got[0].status is Outcome.COMPLETED
        first, second = await supervisor.interactions("one")
        assert (first.outcome, second.outcome) == (Outcome.COMPLETED, Outcome.COMPLETED)
        await supervisor.stop("one")
        (work / "gate").touch()
        again = await supervisor.continue_("one", prompt("Go on", say("at the end")))
        assert again.response == "at the end"
    await consistent(settings)


async def test_of_two_at_once_one_is_served_and_the_other_refused(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await delegate(supervisor, prompt("Work", say("done")))
        served: list[str] = []
        refused: list[str] = []

        async def more(word: str) -> None:
            try:
                served.append((await supervisor.continue_("one", prompt(word, say(word)))).response)
            except WrongStatus:
                refused.append(word)

        async with trio.open_nursery() as nursery:
            for word in ("a", "b", "c"):
                nursery.start_soon(more, word)
        assert len(served) == 1
        assert len(refused) == 2
        assert [one.outcome for one in await supervisor.interactions("one")] == [Outcome.COMPLETED] * 2
    await consistent(settings)


# --- what can be gone on with ------------------------------------------------------------------------


async def test_no_promise_without_the_transcript(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Work", say("done")))
        assert result.can_continue
        for transcript in (tmp_path / "home").rglob("*.jsonl"):
            transcript.unlink()
        again = await supervisor.judge_again("one")
        assert (again.status, again.can_continue) == (Outcome.COMPLETED, False)


async def test_it_goes_on_where_it_was_begun_whoever_asks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    elsewhere = {**settings.environ, "CLAUDE_CONFIG_DIR": str(tmp_path / "other")}
    plain = {key: value for key, value in settings.environ.items() if key != "CLAUDE_CONFIG_DIR"}
    async with supervising(settings) as supervisor:
        token = caller_environ.set(elsewhere)
        assert (await delegate(supervisor, prompt("Work", say("done")))).can_continue
        assert list((tmp_path / "other").rglob("*.jsonl"))
        caller_environ.set(plain)
        result = await supervisor.continue_("one", prompt("Go on", say("here")))
        assert (result.status, result.response, result.can_continue) == (Outcome.COMPLETED, "here", True)
        fork = await supervisor.fork("one", "two")
        assert (await ask(supervisor, fork.name, prompt("And you", say("too")))).text == "too"
        caller_environ.reset(token)


# --- cancelled by its own scope -------------------------------------------------------------------


async def cancelled_by_scope(
    supervisor: Supervisor, scope: trio.CancelScope, when: Callable[[], bool], **changes: object
) -> tuple[DelegateResult | Exception, list[Interaction]]:
    """A delegation, cancelled when that is so; what its caller gets."""
    accepted: list[Interaction] = []
    got: list[DelegateResult | Exception] = []
    options = make_options(supervisor.settings, **changes)
    task = prompt("Work", call("Bash", command="touch at-work-one; sleep 0.3"), say("done"))

    async def go() -> None:
        try:
            got.append(await supervisor.delegate(options, task, accepted=accepted.append, within=scope))
        except Interrupted as error:
            got.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        await until(when)
        scope.cancel()
    return got[0], accepted


async def test_cancelled_before_anything_was_accepted(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        scope = trio.CancelScope()
        scope.cancel()
        result, accepted = await cancelled_by_scope(supervisor, scope, lambda: True)
        assert isinstance(result, Interrupted)
        assert not accepted
        assert supervisor.live_count() == 0
        assert not await supervisor.interactions("one")
    await consistent(settings)


async def test_cancelled_at_work(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    sign = tmp_path / "work" / "at-work-one"
    async with supervising(settings) as supervisor:
        result, accepted = await cancelled_by_scope(supervisor, trio.CancelScope(), sign.exists)
        assert isinstance(result, DelegateResult)
        assert accepted
        assert (result.status, result.error) == (Outcome.INTERRUPTED, "the delegation was cancelled")
        assert "the delegation was cancelled" in result.reasons
        assert result.receipt is not None
        assert result.receipt.empty
        assert result.can_continue
        one = await last(supervisor)
        assert (one.state, one.outcome) == (InteractionState.INTERRUPTED, Outcome.INTERRUPTED)
        assert supervisor.live_count() == 0
    await consistent(settings)


async def test_what_is_deaf_is_forced_to_end_within_the_grace_of_its_caller(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, grace=600.0)
    results = []
    async with supervising(settings) as supervisor, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def go() -> None:
            task, options = prompt("Work", DEAF), make_options(settings)
            results.append(await supervisor.delegate(options, task, within=scope, grace=0.2))

        nursery.start_soon(go)
        await is_deaf(settings, supervisor)
        scope.cancel()
    (result,) = results
    assert result.status is Outcome.INTERRUPTED
    assert result.receipt is not None
    assert result.receipt.empty
    assert result.receipt.alive
    await consistent(settings)


async def test_cancelled_while_a_check_runs(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    sign = tmp_path / "work" / "checking"
    async with supervising(settings) as supervisor:
        result, _ = await cancelled_by_scope(
            supervisor, trio.CancelScope(), sign.exists, verify=("touch checking; sleep 600",)
        )
        assert isinstance(result, DelegateResult)
        assert result.status is Outcome.INTERRUPTED
        assert result.error == "its checks did not finish: the delegation was cancelled"
        assert result.response == "done"
        assert (await last(supervisor)).state is InteractionState.UNCHECKED
    await consistent(settings)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_who_ends_a_session_ends_the_checks_of_its_work(tmp_path: Path, how: str) -> None:
    """They run what the agent has written."""
    settings = make_settings(tmp_path)
    sign = tmp_path / "work" / "checking"
    async with supervising(settings) as supervisor:
        options = make_options(settings, verify=("touch checking; sleep 600", "touch second"))
        sent = await supervisor.start_delegate(options, prompt("Work", say("done")))
        await until(sign.exists)
        await until(lambda: any(one.check for one in read_all(settings.live)))
        noted = next(one for one in read_all(settings.live) if one.check)
        await (supervisor.stop("one") if how == "stop" else supervisor.kill("one"))
        assert not still_alive((noted.where.root,)), "and it returns when nothing of them is left"
        reply = await supervisor.wait(sent)
        assert reply.outcome is Outcome.INTERRUPTED
        assert reply.error.startswith("its checks did not finish: it was ")
        assert (await last(supervisor)).state is InteractionState.UNCHECKED
        assert not (sign.parent / "second").exists()
    await consistent(settings)


async def test_once_the_checks_are_through_the_verdict_is_given(tmp_path: Path) -> None:
    """The end of the process is bounded by its ladder: cancelled then, it is what it is."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        result, _ = await cancelled_by_scope(
            supervisor,
            trio.CancelScope(),
            lambda: any(runner.ending for runner in supervisor._runners.values()),
            verify=("true",),
        )
        assert isinstance(result, DelegateResult)
        assert result.status is Outcome.COMPLETED
        assert (await last(supervisor)).outcome is Outcome.COMPLETED
        assert (await supervisor.get("one")).status is SessionStatus.COMPLETED
    await consistent(settings)


# --- the tripwire, and the store -------------------------------------------------------------------


async def test_what_the_tripwire_sees_is_stored_with_the_verdict(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    (tmp_path / "home" / ".bashrc").write_text("original")
    bashrc = tmp_path / "home" / ".bashrc"
    async with supervising(settings) as supervisor:
        # From outside, as if the walls had not held: what counts is that it is seen after the checks.
        check = "touch at-work-one; until test -e gate; do sleep 0.01; done"
        got: list[DelegateResult] = []

        async def go() -> None:
            got.append(
                await delegate(supervisor, prompt("Work", say("done")), verify=(check,), on_violation="stop")
            )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go)
            await at_work(supervisor)
            bashrc.write_text("changed")
            (tmp_path / "work" / "gate").touch()
        one = await last(supervisor)
        assert one.outcome is got[0].status
        assert one.reasons == got[0].reasons
        assert any("protected, and changed" in reason for reason in one.reasons)
    await consistent(settings)


async def test_a_verdict_that_cannot_be_stored_is_no_verdict(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        options = make_options(
            settings, verify=("touch at-work-one; until test -e gate; do sleep 0.01; done",)
        )
        sent = await supervisor.start_delegate(options, prompt("Work", say("done")))
        await at_work(supervisor)
        real = supervisor.store
        # The end of the process is stored, and nothing after it.
        supervisor.store = FullDisk(real, 0)
        (tmp_path / "work" / "gate").touch()
        with pytest.raises(StoreError):
            await supervisor.finished(sent)
        supervisor.store = real
        stored = await last(supervisor)
        assert (stored.state, stored.outcome) == (InteractionState.CHECKING, None)
    # The next one finds it.
    async with supervising(settings) as supervisor:
        assert (await last(supervisor)).state is InteractionState.UNCHECKED


async def test_nobody_is_judged_who_is_not_there(tmp_path: Path) -> None:
    async with supervising(make_settings(tmp_path)) as supervisor:
        with pytest.raises(SessionNotFound):
            await supervisor.judge_again("nobody")
