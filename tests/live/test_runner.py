"""One session from the inside of a supervisor: limits that hold, agents that die, a disk that is full."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, TypeVar

import msgspec
import pytest
import trio

from cms.config import Settings
from cms.errors import CmsError, StoreError, WrongStatus
from cms.fleet.supervisor import Supervisor
from cms.live.stop_ladder import Ladder
from cms.live.watchers import LAG, Watchers
from cms.protection import scratch as scratch_module
from cms.protection.path_guard import PathGuard
from cms.protection.scratch import remove_scratch
from cms.session.model import (
    ENDED,
    LIVE,
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    Progress,
    ProgressKind,
    Receipt,
    SessionRecord,
    SessionStatus,
    Walls,
)
from cms.session.terms import Terms
from cms.store import audit, money, sessions, turns
from cms.store.database import Database
from cms.store.rawlog import raw_log_path
from cms.store.recovery import recover
from cms.store.store import Store, open_store
from cms.testing.script import FOREVER, Quirk, ScriptedReply, call, prompt, say, together
from fleet.kit import (
    DEAF,
    FullDisk,
    StoreOver,
    ask,
    assert_nothing_left,
    at_work,
    awkward,
    consistent,
    delegate,
    is_deaf,
    last,
    make_settings,
    marked,
    proved,
    start,
    supervising,
    toil,
    until,
)
from sampling import sized
from store import reading
from store.reading import read_lines

#: Of the writes of a life each so-manieth is tried where trying takes long; all of them by REHEARSAL_SCALE.
EVERY = 2 if sized(1) == 1 else 1

P = ParamSpec("P")
T = TypeVar("T")


def cents(reply: ScriptedReply, amount: float) -> ScriptedReply:
    """At this price with the model that sessions use when none is named."""
    return reply.costing(amount / 100, "sonnet")


# --- limits -----------------------------------------------------------------------------------------


async def test_cost_is_looked_at_before_each_tool_call(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = [cents(call("Write", file_path=f"{number}", content="x"), 5) for number in range(6)]
        result = await delegate(supervisor, prompt("Work", *work, say("done")), limits=Limits(max_cost=0.10))
        assert result.status is Outcome.COST_EXCEEDED
        assert result.cost == pytest.approx(0.10)
        assert result.cost_exact
        assert "$0.1000" in (result.error or "")
        # The call of the reply that reached the limit did not run.
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["0"]
        total = await supervisor.store.read(money.total, result.session_id)
        assert total.usage.cost_usd == pytest.approx(0.10)
    (record,) = await consistent(settings)
    assert record.status is SessionStatus.STOPPED


async def test_a_follow_up_has_what_is_left_of_the_limit_or_a_higher_one(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        limits = Limits(max_cost=0.10, max_turns=10)
        first = await delegate(supervisor, prompt("Go", cents(say("one"), 6)), limits=limits)
        assert first.status is Outcome.COMPLETED
        again = prompt("On", *(cents(call("Bash", command="true"), 3) for _ in range(4)), say("done"))
        second = await supervisor.continue_("one", again)
        assert second.status is Outcome.COST_EXCEEDED
        assert second.cost == pytest.approx(0.06)
        third = await supervisor.continue_("one", again)
        assert third.status is Outcome.COST_EXCEEDED
        assert third.cost == 0
        assert "not sent" in (third.error or "")
        fourth = await supervisor.continue_("one", again, terms=Terms(limits=Limits(max_cost=1.0)))
        assert fourth.status is Outcome.COMPLETED
        assert fourth.cost == pytest.approx(0.12, abs=0.001)
        record = await supervisor.get("one")
        assert record.options.limits == Limits(max_cost=1.0, max_turns=10)
        assert record.total_cost_usd == pytest.approx(0.24, abs=0.001)


async def test_claudes_own_lock_is_set_to_what_is_left(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, limits=Limits(max_cost=0.10, max_turns=10))
        for left, turns in ((b"0.100000", b"10"), (b"0.040000", b"9")):
            record = await supervisor.resume("one")
            command = (Path("/proc") / str(record.pid) / "cmdline").read_bytes().split(b"\0")
            assert b"--max-budget-usd=" + left in command
            assert b"--max-turns=" + turns in command
            await ask(supervisor, "one", prompt("Go", cents(say("one"), 6)))
            await supervisor.stop("one")


async def test_turns(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = [call("Write", file_path=f"{number}", content="x") for number in range(6)]
        result = await delegate(supervisor, prompt("Work", *work, say("done")), limits=Limits(max_turns=3))
        assert result.status is Outcome.TURNS_EXCEEDED
        assert result.turns == 3
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["0", "1"]


async def test_tool_calls(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = together(*(call("Write", file_path=f"{number}", content="x") for number in range(6)))
        limits = Limits(max_tool_calls=3)
        result = await delegate(supervisor, prompt("Work", work, say("done")), limits=limits)
        assert result.status is Outcome.TURNS_EXCEEDED
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["0", "1", "2"]


THOUGHT = say("a thought").stalling("middle", FOREVER)


@pytest.mark.parametrize(
    ("reply", "limits", "outcome"),
    [
        (toil(), Limits(max_time=0.5), Outcome.TIME_EXCEEDED),
        (THOUGHT, Limits(max_time=0.5), Outcome.TIME_EXCEEDED),
        (THOUGHT, Limits(max_silence=0.5), Outcome.STALLED),
        # Longer than the meter takes between two looks: its answers are no sign of life.
        (toil(), Limits(max_silence=2.5), Outcome.STALLED),
    ],
    ids=["time, tool", "time, reply", "silence, reply", "silence, tool"],
)
async def test_time_and_silence(
    tmp_path: Path, reply: ScriptedReply, limits: Limits, outcome: Outcome
) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, limits=limits)
        await supervisor.resume("one")
        result = await supervisor.continue_("one", prompt("Work", reply, say("done")))
        assert result.status is outcome
        bound = (limits.max_time or 0) + (limits.max_silence or 0)
        # Of the interaction alone: to start and to end a process may take any time on a busy machine.
        assert bound <= result.duration / 1000 < bound + 1.5
        assert result.can_continue
    await consistent(settings)


def start_hook(settings: Settings, command: str) -> None:
    """A hook of the user's own that runs when claude starts."""
    folder = Path(settings.environ["HOME"]) / ".claude"
    folder.mkdir()
    hooks = {"SessionStart": [{"hooks": [{"type": "command", "command": command}]}]}
    (folder / "settings.json").write_bytes(msgspec.json.encode({"hooks": hooks}))


@pytest.mark.parametrize(
    ("limits", "outcome", "error"),
    [
        (Limits(max_time=1.0), Outcome.TIME_EXCEEDED, "1 s are over"),
        (Limits(max_silence=1.0), Outcome.STALLED, "no sign of life for 1 s"),
    ],
)
async def test_limits_of_time_hold_from_the_first_second(
    tmp_path: Path, limits: Limits, outcome: Outcome, error: str
) -> None:
    """While claude runs its user's hooks, which may take for ever, and has been sent nothing yet."""
    settings = make_settings(tmp_path)
    start_hook(settings, "sleep 600")
    async with supervising(settings) as supervisor:
        begun = trio.current_time()
        result = await delegate(supervisor, prompt("Work", say("done")), limits=limits)
        assert trio.current_time() - begun < 8
        assert result.status is outcome
        told = "and claude is starting: its own hook runs (SessionStart:startup)"
        assert result.error == f"never sent: {error}, {told}"
    await consistent(settings)


async def test_the_users_own_hooks_are_waited_for_and_told(tmp_path: Path) -> None:
    """They may take longer than claude itself is given to come up."""
    settings = make_settings(tmp_path, start_timeout=2.0)
    start_hook(settings, "touch runs; while ! test -e go; do sleep 0.05; done")
    work = tmp_path / "work"
    async with supervising(settings) as supervisor:
        await start(supervisor)
        message = await supervisor.submit("one", prompt("Hello", say("hi")), type="send")
        await until(lambda: "its own hook runs" in supervisor.activity("one"))
        await until((work / "runs").exists)
        await trio.sleep(2.5)
        (work / "go").touch()
        reply = await supervisor.wait(message)
        assert reply.text == "hi"
        assert reply.duration < 2000


async def test_a_protected_path_ends_it_before_anything_is_written(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = prompt("Work", call("Write", file_path=".env", content="x"), say("done"))
        result = await delegate(supervisor, work)
        assert result.status is Outcome.PROTECTED_PATH
        assert result.safety.total_violations == 1
        assert not (tmp_path / "work" / ".env").exists()
        denied = await delegate(supervisor, work, name="two", on_violation="deny")
        assert denied.status is Outcome.NEEDS_INPUT
        assert denied.safety.total_violations == 1
        assert denied.response == "done"
        assert not (tmp_path / "work" / ".env").exists()


async def test_caps_on_the_process_tree(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        bomb = call("Bash", command="for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 600 & done; wait")
        result = await delegate(supervisor, prompt("Work", bomb, say("done")), limits=Limits(max_procs=8))
        assert result.status is Outcome.FAILED
        assert "exceeded their limit of processes" in (result.error or "")
    await consistent(settings)


async def test_a_question_is_the_result(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        options = [{"label": "Red", "description": ""}, {"label": "Blue", "description": ""}]
        question = {"question": "Which colour?", "header": "Colour", "options": options}
        work = prompt("Paint", call("AskUserQuestion", questions=[question]), say("done"))
        result = await delegate(supervisor, work, preset="edit")
        assert result.status is Outcome.NEEDS_INPUT
        assert result.error == "Which colour?"
        assert [one.options for one in result.questions] == [("Red", "Blue")]


async def test_what_nobody_permits_is_needs_input(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = prompt("Work", call("Bash", command="make install"), say("done"))
        result = await delegate(supervisor, work, preset="edit")
        assert result.status is Outcome.NEEDS_INPUT
        assert [denial.tool for denial in result.safety.denials] == ["Bash"]
        outside = prompt("Work", call("Write", file_path=str(tmp_path / "x"), content="x"), say("done"))
        result = await delegate(supervisor, outside, name="two", preset="edit")
        assert result.status is Outcome.NEEDS_INPUT
        assert not (tmp_path / "x").exists()


async def test_a_plan_is_the_result(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = prompt("Plan", call("ExitPlanMode", plan="1. Do it.\n2. Rest."), say("never"))
        result = await delegate(supervisor, work, preset="plan")
        assert result.status is Outcome.COMPLETED
        assert "1. Do it." in result.response


async def test_a_background_subagents_late_result_and_cost_are_in(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        task = prompt("Look around", cents(say("seen").after(0.5), 10))
        launch = call("Agent", description="look", prompt=task)
        work = prompt("Work", launch, cents(say("launched"), 1), cents(say("all is seen"), 1))
        result = await delegate(supervisor, work)
        assert result.status is Outcome.COMPLETED
        assert result.response.splitlines()[-1] == "all is seen"
        assert result.cost == pytest.approx(0.12, abs=0.001)
        assert (await supervisor.store.read(money.total, result.session_id)).usage.cost_usd == pytest.approx(
            result.cost
        )


# --- how much it takes --------------------------------------------------------------------------------


class Steps(trio.abc.Instrument):
    """How often a task ran."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


async def test_waiting_takes_no_time(tmp_path: Path) -> None:
    """Whatever a session waits for, its clock does not go round and round."""
    settings = make_settings(tmp_path, grace=1.2)
    async with supervising(settings) as supervisor:
        limits = Limits(max_cost=1.0, max_silence=60.0, max_time=60.0)
        for state in ("idle", "asked", "working", "frozen", "interrupted", "ending"):
            await start(supervisor, state, limits=limits, ask_timeout=60.0)
            await supervisor.resume(state)
            if state == "asked":
                options = [{"label": "A", "description": ""}]
                question = {"question": "Which?", "header": "Which", "options": options}
                ask_it = call("AskUserQuestion", questions=[question])
                await supervisor.submit(state, prompt("Ask", ask_it), type="send")
                await until(lambda: bool(supervisor.questions()))
            elif state != "idle":
                await supervisor.submit(state, prompt("Work", toil(state)), type="send")
                await at_work(supervisor, state)
        await supervisor.pause("frozen", freeze=True)
        for state in ("interrupted", "ending"):
            pid = supervisor._runners[state].record.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)  # so that nothing helps
        steps = Steps()
        async with trio.open_nursery() as nursery:
            await supervisor.interrupt("interrupted")
            nursery.start_soon(supervisor.stop, "ending")
            await until(lambda: supervisor._runners["ending"].ending)
            trio.lowlevel.add_instrument(steps)
            await trio.sleep(1.0)
            trio.lowlevel.remove_instrument(steps)
            await supervisor.kill("ending")
        assert steps.count < 60
        for state in ("idle", "asked", "working", "frozen", "interrupted"):
            await supervisor.kill(state)


# --- agents that go wrong ---------------------------------------------------------------------------


#: What each says that does not come up.
WHY = {
    "dies_at_once": "exited with 1 before it was ready: no terminal, no home, no hope",
    "asks_for_login": "exited with 1 before it was ready: Please run /login",
    "asks_and_waits": "did not answer `initialize` within 0.5 s: Log in at the door",
    "exits_0_at_once": "exited with 0 before it was ready",
    "deaf": "did not answer `initialize` within 0.5 s",
    "garbage": "did not answer `initialize` within 0.5 s",
    "closes_stdout": "closed its output before it was ready, but did not exit",
    "endless_line": "passed 1000000 bytes",
    "dies_before_initialized": "was killed by signal 9 before it was ready",
    "is_too_old": "claude 2.1.208 cannot be used: it is too old; install",
    "takes_no_gate": "claude of an unknown version cannot be used: it does not confirm the tool",
    "refuses_hooks": "refused to register the tool gate: hooks are out of order",
    "dies_before_usage": "exited with 7 before it was ready",
    "hides_usage": "did not answer `get_usage` within 0.5 s",
    "odd_usage": "cost report cannot be read",
    "answers_twice": "output was tampered with",
    "answers_unasked": "output was tampered with",
}


async def does_not_come_up(supervisor: Supervisor, stage: str, error: str) -> None:
    """A session of that name in a folder of that name."""
    folder = supervisor.settings.home.parent / "work" / stage
    folder.mkdir()
    await start(supervisor, stage, work_dir=str(folder))
    begun = trio.current_time()
    reply = await ask(supervisor, stage, "Hello")
    assert trio.current_time() - begun < 3, stage
    assert reply.is_error
    assert reply.outcome is Outcome.FAILED
    assert reply.error.startswith("never sent: ")
    assert error in reply.error
    await until(lambda: supervisor.live_count() == 0)
    record = await supervisor.get(stage)
    assert record.status is SessionStatus.FAILED
    assert error in record.error
    assert record.receipt is not None
    assert record.receipt.empty
    if stage == "deaf":
        assert [step.name for step in record.receipt.steps] == ["eof", "terminate", "kill"]
    if stage == "garbage":
        assert record.noise_lines > 0
    if stage.startswith("answers"):
        rows = (await supervisor.audit(stage)).rows
        assert [row.entry.verdict for row in rows if row.entry.kind == "safety"] == ["tampered"]


async def test_one_that_does_not_come_up(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, claude=awkward("as_the_folder_says"), grace=0.2, start_timeout=0.5)
    settings = msgspec.structs.replace(settings, max_line=1_000_000)
    async with supervising(settings, within=60) as supervisor:
        for stage, error in WHY.items():
            await does_not_come_up(supervisor, stage, error)
        error = WHY["dies_at_once"]
        with pytest.raises(CmsError, match=re.escape(error)):
            await supervisor.resume("dies_at_once")
        # It was cut off before its first turn, so it has to come up before it is given another message.
        with pytest.raises(CmsError, match=re.escape(error)):
            await supervisor.continue_("dies_at_once", "Hello")
        assert (await supervisor.get("dies_at_once")).interaction_count == 1
    await consistent(settings)


async def test_one_that_knows_no_flag_of_ours(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, claude=awkward("knows_no_flag"), grace=0.2)
    async with supervising(settings) as supervisor:
        error = "claude 2.1.199 cannot be used: it is too old; install 2.1.306 or newer (npm install"
        await does_not_come_up(supervisor, "knows_no_flag", error)
    await consistent(settings)


@pytest.mark.parametrize(
    ("stage", "error"),
    [
        ("dies_idle", "exited with 5"),
        ("closes_stdout_idle", "closed its output while idle, but did not exit"),
    ],
)
async def test_one_that_ends_while_idle(tmp_path: Path, stage: str, error: str) -> None:
    settings = make_settings(tmp_path, claude=awkward(stage), grace=0.3)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        with suppress(CmsError):  # so soon that it was not seen alive
            await supervisor.resume("one")
        await until(lambda: supervisor.live_count() == 0)
        record = await supervisor.get("one")
        assert record.status is SessionStatus.FAILED
        assert error in record.error
    await consistent(settings)


async def test_whoever_reads_that_it_has_ended_reads_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while its last things are looked at: its message has failed by then, and its waiters look."""
    looking, go_on = trio.Event(), trio.Event()
    finish = PathGuard.finish

    async def look(guard: PathGuard) -> Walls:
        looking.set()
        await go_on.wait()
        return await finish(guard)

    monkeypatch.setattr(PathGuard, "finish", look)
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("go", toil()), type="send")
        await at_work(supervisor)
        pid = (await supervisor.get("one")).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await supervisor.finished(sent)
        told = [await supervisor.get("one")]
        await looking.wait()
        told.append(await supervisor.get("one"))
        go_on.set()
        await until(lambda: supervisor.live_count() == 0)
        told.append(await supervisor.get("one"))
    for record in told:
        assert record.status is SessionStatus.FAILED
        assert "was killed by signal 9 in the middle of a turn" in record.error
        assert record.pid is None
        assert record.receipt is not None
        assert record.receipt.empty


async def test_one_that_dies_of_a_message(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, claude=awkward("dies_on_message"))
    async with supervising(settings) as supervisor:
        await start(supervisor)
        reply = await ask(supervisor, "one", "Hello")
        assert reply.outcome is Outcome.FAILED
        assert "exited with 1 in the middle of a turn: the message was too much" in reply.error
        assert not (await last(supervisor)).cost_exact
    await consistent(settings)


async def test_one_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    """A message longer than any pipe stays half written; the end comes all the same, by the ladder."""
    settings = make_settings(tmp_path, claude=awkward("stops_reading"), grace=0.3)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", "Hello " * 200_000, type="send")
        await until(lambda: supervisor._runners["one"].record.status is SessionStatus.BUSY)
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
            await supervisor.wait(sent)
        receipt = proved(await supervisor.stop("one"))
        assert [step.name for step in receipt.steps] == ["interrupt", "eof", "terminate", "kill"]
        assert [step.worked for step in receipt.steps] == [False, False, True, True]
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
    await consistent(settings)


#: At every place, and in every way: where it dies is told by its lines, how by its status.
DEATHS: tuple[tuple[Literal["init", "reply", "tools", "result"], int, str], ...] = (
    ("init", -9, "was killed by signal 9"),
    ("reply", 0, "exited with 0"),
    ("reply", 3, "exited with 3"),
    ("tools", -9, "was killed by signal 9"),
    ("result", 0, "exited with 0"),
    ("result", -9, "was killed by signal 9"),
)


async def test_one_that_dies_in_a_turn(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for number, (when, status, how) in enumerate(DEATHS):
            name = f"{when}-{number}"
            reply = call("Bash", command="true") if when == "tools" else say("a word")
            work = prompt("Work", reply.quirky(Quirk("die", when=when, status=status)), say("x"))
            await start(supervisor, name)
            sent = await supervisor.submit(name, work, type="send")
            behind = await supervisor.submit(name, "And then", type="send")
            died = await supervisor.wait(sent)
            assert died.outcome is Outcome.FAILED
            assert f"claude {how} in the middle of a turn" in died.error
            assert died.text == ("a word" if when == "result" else "")
            assert "never sent" in (await supervisor.wait(behind)).error
            await until(lambda: supervisor.live_count() == 0)
            one = (await supervisor.interactions(name))[0]
            assert one.state is InteractionState.FAILED
            assert one.outcome is Outcome.FAILED
            assert (await supervisor.get(name)).status is SessionStatus.FAILED
            # Its conversation goes on, from wherever it was cut off.
            if status:
                assert (await ask(supervisor, name, prompt("Again", say("here")))).text == "here"
                await supervisor.stop(name)
    await consistent(settings)


async def test_killed_before_it_read_its_first_message_it_can_begin_anew(tmp_path: Path) -> None:
    """The books say that the message was sent, but claude has no conversation to resume."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        record = await supervisor.resume("one")
        assert record.pid is not None
        os.kill(record.pid, signal.SIGSTOP)
        sent = await supervisor.submit("one", prompt("Hello", say("never")), type="send")
        await until(lambda: supervisor._runners["one"].record.status is SessionStatus.BUSY)
        await supervisor.kill("one")
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        assert (await ask(supervisor, "one", prompt("Hello", say("here")))).text == "here"
        await supervisor.stop("one")
        assert (await ask(supervisor, "one", prompt("And", say("there")))).text == "there"
    await consistent(settings)


async def test_a_conversation_that_is_gone_is_told_not_begun_anew(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", say("here")))
        await supervisor.stop("one")
        for transcript in (tmp_path / "home" / ".claude").rglob("*.jsonl"):
            transcript.unlink()
        reply = await ask(supervisor, "one", prompt("And", say("there")))
        assert reply.outcome is Outcome.FAILED
        assert "No conversation found" in reply.error


@pytest.mark.parametrize("transcript", [False, True], ids=["before", "after"])
async def test_one_killed_before_or_after_it_kept_anything_goes_on_at_the_first_attempt(
    tmp_path: Path, transcript: bool
) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Hello", say("never").stalling("start")), type="send")
        await until(lambda: supervisor._runners["one"]._driver.begun)
        await supervisor.kill("one")
        assert (await supervisor.finished(sent)).outcome is Outcome.INTERRUPTED
        kept = list((tmp_path / "home" / ".claude").rglob("*.jsonl"))
        record = await supervisor.get("one")
        if transcript:
            # ... and what is in the store of it is from before.
            await supervisor.store.write(sessions.save, msgspec.structs.replace(record, claude_session_id=""))
        for path in kept:
            if not transcript:
                path.unlink()
        assert (await ask(supervisor, "one", prompt("Hello", say("here")))).text == "here"
        if not transcript:  # the new one is whole
            await supervisor.stop("one")
            assert (await ask(supervisor, "one", prompt("And", say("there")))).text == "there"
    await consistent(settings)


async def test_one_that_hangs(tmp_path: Path) -> None:
    """Deaf to its stdin and to SIGTERM."""
    settings = make_settings(tmp_path, grace=0.3)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Work", DEAF), type="send")
        await is_deaf(settings, supervisor)
        receipt = proved(await supervisor.stop("one"))
        assert [step.name for step in receipt.steps] == ["interrupt", "eof", "terminate", "kill"]
        assert receipt.seconds < 2
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
    await consistent(settings)


async def test_one_that_hangs_past_a_limit_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt does not help; then the ladder comes, and does not try it again."""
    for module in ("cms.session.decide", "cms.live.runner"):
        monkeypatch.setattr(f"{module}.PATIENCE", 0.5)
    settings = make_settings(tmp_path, grace=0.3)
    async with supervising(settings) as supervisor:
        work = prompt("Work", say("x").quirky(Quirk("hang")))
        await start(supervisor, limits=Limits(max_time=0.3))
        await supervisor.resume("one")
        result = await supervisor.continue_("one", work)
        assert result.status is Outcome.TIME_EXCEEDED
        assert result.receipt is not None
        assert [step.name for step in result.receipt.steps] == ["eof", "terminate", "kill"]
    await consistent(settings)


async def test_noise_floods_and_news_harm_nothing(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        odd = say("all the same").quirky(
            Quirk("garbage"),
            Quirk("garbage", text="\n\n{]\n"),
            Quirk("unknown"),
            Quirk("flood", size=3000),
            Quirk("huge_line", size=3_000_000),
        )
        reply = await ask(supervisor, "one", prompt("Work", odd))
        assert reply.text == "all the same"
        assert not reply.is_error
        await supervisor.stop("one")
        record = await supervisor.get("one")
        assert record.unknown_lines >= 3001
        assert record.noise_lines >= 2


async def test_a_line_too_long_ends_it_by_name(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(make_settings(tmp_path), max_line=100_000)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        work = prompt("Work", say("x").quirky(Quirk("huge_line", size=200_000)))
        reply = await ask(supervisor, "one", work)
        assert reply.outcome is Outcome.FAILED
        assert "CMS_MAX_LINE" in reply.error
        await until(lambda: supervisor.live_count() == 0)
    await consistent(settings)


class Held(StoreOver):
    """Holds back each decision of the gate until `go` is set."""

    def __init__(self, real: Store) -> None:
        super().__init__(real)
        self.asked = trio.Event()
        self.go = trio.Event()

    async def add_entry(self, decision: object) -> None:
        self.asked.set()
        await self.go.wait()


@pytest.mark.parametrize("how", ["dies", "stop", "kill"])
async def test_an_end_while_a_call_is_at_the_gate(tmp_path: Path, how: str) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        supervisor.store = held = Held(supervisor.store)
        await start(supervisor)
        work = prompt("Work", call("Write", file_path="never", content="x"), say("done"))
        sent = await supervisor.submit("one", work, type="send")
        await held.asked.wait()
        runner = supervisor._runners["one"]
        async with trio.open_nursery() as nursery:
            if how == "dies":
                assert runner.record.pid is not None
                os.kill(runner.record.pid, signal.SIGKILL)
            else:
                nursery.start_soon(supervisor.stop if how == "stop" else supervisor.kill, "one")
            await until(lambda: runner.ending)
            held.go.set()
        reply = await supervisor.wait(sent)
        assert reply.outcome is (Outcome.FAILED if how == "dies" else Outcome.INTERRUPTED)
        await until(lambda: supervisor.live_count() == 0)
        assert not (tmp_path / "work" / "never").exists()
    await consistent(settings)


class Pausing(StoreOver):
    """What is written is on disk a while before its writer hears of it, if it is what `when` tells."""

    def __init__(self, real: Store, when: Callable[[object, tuple[object, ...]], bool]) -> None:
        super().__init__(real)
        self._when = when
        self.stored = trio.Event()
        self.go = trio.Event()

    async def write(
        self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        done = await super().write(work, *args, **kwargs)
        if self._when(work, args):
            self.stored.set()
            await self.go.wait()
        return done


def accepts(_work: object, args: tuple[object, ...]) -> bool:
    return any(isinstance(one, Interaction) and one.state is InteractionState.QUEUED for one in args)


async def test_an_end_while_a_message_is_being_accepted(tmp_path: Path) -> None:
    """It was acknowledged, so it has an end, though nobody was there any more to give it one."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", say("here")))
        runner = supervisor._runners["one"]
        runner._store = lingering = Pausing(supervisor.store, accepts)
        accepted = []
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                accepted.append(await supervisor.submit("one", "Hello", type="send"))

            nursery.start_soon(send)
            await lingering.stored.wait()
            await supervisor.kill("one")
            lingering.go.set()
        ended = await supervisor.finished(accepted[0])
        assert ended.outcome is Outcome.INTERRUPTED
        assert "never sent" in ended.error
        assert ended == await last(supervisor)
        assert (await ask(supervisor, "one", prompt("Again", say("there")))).text == "there"
        assert len(await supervisor.store.read(reading.receipts, runner.record.id)) == 1
    await consistent(settings)


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_an_end_while_a_message_is_about_to_be_sent(tmp_path: Path, how: str) -> None:
    """It is not sent any more, and nobody is left in doubt about that."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        supervisor.store = slow = Pausing(supervisor.store, lambda work, _: work is turns.begin)
        record = await start(supervisor)
        sent = await supervisor.submit("one", prompt("Hello", say("here")), type="send")
        await slow.stored.wait()
        runner = supervisor._runners["one"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.stop if how == "stop" else supervisor.kill, "one")
            await until(lambda: runner.ending)
            slow.go.set()
        ended = await supervisor.finished(sent)
        assert ended.outcome is Outcome.INTERRUPTED
        assert "never sent" in ended.error
        assert ended.cost_exact
        told = b"".join(read_lines(raw_log_path(settings.raw, record.id), "in"))
        assert sent.id.encode() not in told
    await consistent(settings)


async def test_an_interrupt_of_a_message_that_is_about_to_be_sent(tmp_path: Path) -> None:
    """The session says that it is busy, so it can be interrupted."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        supervisor.store = slow = Pausing(supervisor.store, lambda work, _: work is turns.begin)
        record = await start(supervisor)
        sent = await supervisor.submit("one", prompt("Hello", say("never")), type="send")
        await slow.stored.wait()
        assert (await supervisor.interrupt("one")).status is SessionStatus.BUSY
        slow.go.set()
        reply = await supervisor.wait(sent)
        assert reply.outcome is Outcome.INTERRUPTED
        assert reply.error == "never sent: interrupted"
        assert reply.status is SessionStatus.READY
        told = b"".join(read_lines(raw_log_path(settings.raw, record.id), "in"))
        assert sent.id.encode() not in told
        after = await ask(supervisor, "one", prompt("Still there?", say("yes")))
        assert (after.text, after.pid) == ("yes", reply.pid)
    await consistent(settings)


# --- the store fails --------------------------------------------------------------------------------


async def test_a_full_disk_at_each_write(tmp_path: Path) -> None:
    """Whichever write is the first to fail: nothing runs unrecorded, nobody waits, and it can go on."""
    settings = make_settings(tmp_path)
    work_dir = tmp_path / "work"
    async with supervising(settings, within=60) as supervisor:
        real = supervisor.store
        for writes in count():
            name = f"one-{writes}"
            went_well = False
            supervisor.store = disk = FullDisk(real, writes)
            try:
                await start(supervisor, name)
                files = (f"{name}-first", f"{name}-second")
                work = (call("Write", file_path=file, content="x") for file in files)
                reply = await ask(supervisor, name, prompt("Work", *work, say("done")))
                assert reply.outcome in (Outcome.COMPLETED, Outcome.FAILED)
                record, _ = await supervisor.stop(name)
                went_well = not reply.is_error and not record.error
                said = reply.error + record.error
            except StoreError as error:
                said = str(error)
            assert went_well or "free some disk space" in said
            await until(lambda: supervisor.live_count() == 0)
            known = {record.name: record for record in await supervisor.sessions()}
            ran = {path.name for path in work_dir.glob(f"{name}-*")}
            if name in known:
                record = known[name]
                entries = await real.read(audit.entries, record.id)
                allowed = {one.detail for one in entries if one.verdict == "allowed"}
                assert ran <= allowed
                told = b"".join(read_lines(raw_log_path(settings.raw, record.id), "in"))
                assert told.count(b'"permissionDecision":"allow"') <= len(allowed)
            else:
                assert not ran
            # The disk has space again: nothing needs to be started anew for that.
            disk.writes = 1000
            if name not in known:
                await start(supervisor, name)
            if writes % EVERY == 0 or went_well:
                assert (await ask(supervisor, name, prompt("Again", say("here")))).text == "here"
                stopped, _ = await supervisor.stop(name)
                assert stopped.status not in LIVE
                assert all(one.state in ENDED for one in await supervisor.interactions(name))
            supervisor.store = real
            if went_well:
                break
    async with open_store(settings) as store:
        await store.write(recover, 0)  # who was not asked again had no room to say its end
    await consistent(settings)
    assert writes > 5


async def test_what_a_full_disk_took_is_made_up_for(tmp_path: Path) -> None:
    """A message that was not accepted leaves no gap, and limits raised after an end without a record stay."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        supervisor.store = disk = FullDisk(supervisor.store, 1000)
        await start(supervisor, limits=Limits(max_turns=2))
        await ask(supervisor, "one", prompt("Hello", say("here")))
        disk.writes = 0
        with pytest.raises(StoreError):
            await supervisor.submit("one", "Hello", type="send")
        disk.writes = 1000
        await ask(supervisor, "one", prompt("Hello", say("there")))
        assert [one.number for one in await supervisor.interactions("one")] == [1, 2]
        assert (await supervisor.get("one")).interaction_count == 2
        disk.writes = 0
        await supervisor.stop("one")
        disk.writes = 1000
        # What the store missed is told to it before anything new is.
        again = await supervisor.continue_(
            "one", prompt("On", say("two")), terms=Terms(limits=Limits(max_turns=5))
        )
        assert again.response == "two"
        assert (await supervisor.get("one")).options.limits.max_turns == 5
    await consistent(settings)


async def test_a_raw_log_that_cannot_be_written(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        record = await start(supervisor)
        settings.raw.mkdir(exist_ok=True)
        raw_log_path(settings.raw, record.id).symlink_to("/dev/full")
        reply = await ask(supervisor, "one", prompt("Hello", say("here")))
        assert reply.outcome is Outcome.FAILED
        assert "no space left" in reply.error
        await until(lambda: supervisor.live_count() == 0)
        assert (await supervisor.get("one")).status is SessionStatus.FAILED
    await consistent(settings)


async def test_a_raw_log_that_fills_up_in_the_middle(tmp_path: Path) -> None:
    """Each task that writes to it may be the one that hears of it: all of them end the session in order."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        record = await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", say("here")))
        runner = supervisor._runners["one"]
        sent = await supervisor.submit("one", prompt("Work", toil()), type="send")
        await at_work(supervisor)
        # The log's file is swapped for one that is always full, under the descriptor that is open.
        log = runner._process._log if runner._process is not None else None
        full = os.open("/dev/full", os.O_WRONLY)
        descriptor = getattr(log, "_fd", -1)
        os.dup2(full, descriptor)
        os.close(full)
        await supervisor.interrupt("one")  # the next thing that is written
        reply = await supervisor.wait(sent)
        assert reply.is_error
        await until(lambda: supervisor.live_count() == 0)
        stored = await supervisor.get("one")
        assert stored.status is SessionStatus.FAILED
        assert "no space left" in stored.error
        assert record.id == stored.id
    await consistent(settings)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_stays_open(tmp_path: Path) -> None:
    """And what went in and out is in the raw log, by the names that the store has for that."""
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        record = await start(supervisor)
        before = 0
        for round_ in range(3):
            await ask(supervisor, "one", prompt("Hello", say("here")))
            await (supervisor.kill if round_ % 2 else supervisor.stop)("one")
            now = open_descriptors()
            if round_:
                assert now <= before
            before = now
    log = raw_log_path(settings.raw, record.id)
    assert any(b'"initialize"' in line for line in read_lines(log, "in"))
    assert any(b'"type":"result"' in line for line in read_lines(log, "out"))


# --- watchers ---------------------------------------------------------------------------------------


def _note(kind: ProgressKind = "note", text: str = "") -> Progress:
    return Progress("one", kind, text)


async def test_a_slow_watcher_is_told_what_it_lost() -> None:
    watchers = Watchers(_note)
    with watchers.watch() as slow, watchers.watch() as quick:
        seen = []
        for number in range(3 * LAG):
            watchers.notify(_note("text", str(number)))
            seen.append(quick.receive_nowait())
        late = [slow.receive_nowait() for _ in range(10)]
        watchers.notify(_note("text", "after a while"))
        for _ in range(LAG):
            watchers.notify(_note("text", "more"))
        watchers.close()
        late += [note async for note in slow]
    lost = [int(note.text.split()[0]) for note in late if "notes lost" in note.text]
    assert len(lost) == 2
    told = sum(note.kind == "text" for note in late)
    assert told + sum(lost) == 3 * LAG + 1 + LAG
    assert "notes lost" in late[-1].text
    assert [note.text for note in seen if note.kind == "text"] == [str(n) for n in range(len(seen) - 1)]


async def test_a_watcher_that_comes_late_or_leaves_early() -> None:
    watchers = Watchers(_note)
    with watchers.watch() as gone:
        gone.close()
        watchers.notify(_note())
        assert not watchers
    watchers.close()
    with watchers.watch() as late:
        assert [note.kind async for note in late] == ["status"]


async def test_a_watcher_that_does_not_read_slows_nobody(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.resume("one")
        with supervisor.watch("one") as notes:
            reply = await ask(supervisor, "one", prompt("Talk", say("x" * 2000).chunked(1)))
            assert reply.text == "x" * 2000
            assert not reply.is_error
            await supervisor.stop("one")
            got = [note async for note in notes]
        lost = sum(int(note.text.split()[0]) for note in got if "notes lost" in note.text)
        assert lost > 1000
        assert len(got) <= LAG + 1


# --- ways in and standstill --------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["enter", "leave"])
async def test_a_door_that_does_not_open_or_shut(tmp_path: Path, when: str) -> None:
    """Whatever goes wrong there is one session's affair, and its callers are told."""
    settings = make_settings(tmp_path)

    @asynccontextmanager
    async def child_sockets(record: SessionRecord, environ: Mapping[str, str]) -> AsyncIterator[Path]:
        if when == "enter":
            raise ZeroDivisionError
        (settings.home / "door").mkdir(exist_ok=True)
        yield settings.home / "door" / "cms.sock"
        raise ZeroDivisionError

    async with supervising(settings, child_sockets=lambda _: child_sockets) as supervisor:
        await start(supervisor, allow_cms=True)
        await start(supervisor, "other")
        reply = await ask(supervisor, "one", prompt("Hello", say("here")))
        if when == "enter":
            assert "ZeroDivisionError" in reply.error
        else:
            assert reply.text == "here"
            await supervisor.stop("one")
        await until(lambda: supervisor.live_count() == 0)
        assert (await supervisor.get("one")).status in (SessionStatus.FAILED, SessionStatus.STOPPED)
        assert (await ask(supervisor, "other", prompt("Hello", say("here")))).text == "here"
    await consistent(settings)


async def test_a_freeze_that_is_cancelled_leaves_nothing_frozen(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Work", toil()), type="send")
        await at_work(supervisor)
        with trio.CancelScope() as scope:
            scope.cancel()
            await supervisor._runners["one"].freeze()
        assert not supervisor._runners["one"].frozen
        await supervisor.interrupt("one")
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
    await consistent(settings)


@pytest.mark.parametrize("end", ["stop", "kill", "leave"])
async def test_what_is_frozen_can_be_ended(tmp_path: Path, end: str) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        await supervisor.submit("one", prompt("Work", toil()), type="send")
        await at_work(supervisor)
        record = await supervisor.pause("one", freeze=True)
        assert record.status is SessionStatus.PAUSED
        with pytest.raises(WrongStatus, match="cannot be interrupted") as refused:
            await supervisor.interrupt("one")
        assert "cms resume one" in refused.value.hint
        if end == "stop":
            steps = [step.name for step in proved(await supervisor.stop("one")).steps]
            assert steps == ["interrupt", "eof", "kill"]
        elif end == "kill":
            proved(await supervisor.kill("one"))
    await consistent(settings)


# --- bugs of ours -----------------------------------------------------------------------------------


class FailsAt(StoreOver):
    """Fails as nobody foresaw at the n-th write, in whatever task that is."""

    def __init__(self, real: Store, writes: int, error: BaseException) -> None:
        super().__init__(real)
        self.writes = writes
        self._error = error

    async def _write_in_turn(self, work: Callable[[Database], T]) -> T:
        self.writes -= 1
        if self.writes == 0:
            raise self._error
        return await super()._write_in_turn(work)


async def test_a_bug_ends_its_session_and_no_other(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        real = supervisor.store
        await start(supervisor, "other")
        busy = await supervisor.submit("other", prompt("Work", toil("other")), type="send")
        await at_work(supervisor, "other")
        replies = []
        for sound in count(1, EVERY):
            name = f"one-{sound}"
            await start(supervisor, name)
            supervisor.store = buggy = FailsAt(real, sound, ZeroDivisionError("a bug"))
            work = prompt("Work", call("Write", file_path=name, content="x"), say("done"))
            with suppress(ZeroDivisionError):  # where it hits the caller's own write
                replies.append(await ask(supervisor, name, work))
            supervisor.store = real
            await supervisor.stop(name)
            await until(lambda: supervisor.live_count() == 1)
            if buggy.writes > 0:
                break
        assert not replies[-1].is_error
        assert sum("ZeroDivisionError" in reply.error for reply in replies) >= 3
        assert supervisor._runners["other"].record.status is SessionStatus.BUSY
        await supervisor.interrupt("other")
        assert (await supervisor.wait(busy)).outcome is Outcome.INTERRUPTED
    async with open_store(settings) as store:
        await store.write(recover, 0)
    await consistent(settings)


async def test_what_a_process_uses_stays_until_it_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scratch folder and its door go after it, whatever goes wrong on the way down."""
    settings = make_settings(tmp_path)
    order: list[str] = []

    async def broken(*_: object, **__: object) -> Receipt:
        raise ZeroDivisionError("a bug")

    def remove(*folders: Path) -> None:
        order.append(f"scratch, {len(marked(settings))} alive")
        remove_scratch(*folders)

    @asynccontextmanager
    async def child_socket(_: SessionRecord, environ: Mapping[str, str]) -> AsyncIterator[Path]:
        try:
            yield tmp_path / "door"
        finally:
            order.append(f"door, {len(marked(settings))} alive")

    monkeypatch.setattr(Ladder, "descend", broken)
    monkeypatch.setattr(scratch_module, "remove_scratch", remove)
    async with supervising(settings, child_sockets=lambda _: child_socket) as supervisor:
        (tmp_path / "door").touch()
        await start(supervisor, allow_cms=True)
        await supervisor.resume("one")
        _, receipt = await supervisor.stop("one")
        assert receipt is not None
        assert receipt.empty
        assert "ZeroDivisionError" in (await supervisor.get("one")).error
    assert order == ["scratch, 0 alive", "door, 0 alive"]


async def test_ctrl_c_lands_anywhere_and_comes_out_as_it_is(tmp_path: Path) -> None:
    for writes in count(2, EVERY):
        place = tmp_path / str(writes)
        place.mkdir()
        settings = make_settings(place)
        came = False
        try:
            async with supervising(settings) as supervisor:
                supervisor.store = FailsAt(supervisor.store, writes, KeyboardInterrupt())
                await start(supervisor)
                work = prompt("Work", call("Write", file_path="x", content="x"), say("done"))
                await ask(supervisor, "one", work)
                await supervisor.stop("one")
        except KeyboardInterrupt:
            came = True
        assert_nothing_left(settings)
        async with open_store(settings) as store:
            await store.write(recover, 0)  # where it hit the very last write
        await consistent(settings)
        if not came:
            break
    assert writes > 8


async def test_a_session_goes_on_when_its_raw_log_is_full(tmp_path: Path) -> None:
    settings = msgspec.structs.replace(make_settings(tmp_path), max_raw_log=20_000)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        long = prompt("Work", say("x" * 30_000), say("done"))
        assert (await ask(supervisor, "one", long)).outcome is Outcome.COMPLETED
        assert (await ask(supervisor, "one", prompt("Again", say("here")))).text == "here"
        record, _ = await supervisor.stop("one")
        path = raw_log_path(settings.raw, record.id)
        notes = list(read_lines(path, "note"))
        assert [note.split()[0] for note in notes] == [b"full:", b"full:"]
        assert b"were left out" in notes[1]
        assert path.stat().st_size < 21_000
