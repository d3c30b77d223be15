"""The most important promises of a supervisor, kept with the real binary in place of the simulated agent."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cms.config import find_claude, load_settings
from cms.fleet.supervisor import Supervisor
from cms.session.model import Limits, Outcome, SessionStatus
from cms.testing.api import serve_api
from cms.testing.script import ScriptedReply, call, prompt, say
from fleet.kit import (
    ask,
    at_work,
    consistent,
    delegate,
    make_settings,
    proved,
    start,
    supervising,
    talking,
    until,
)

pytestmark = pytest.mark.real

#: Tells that it runs, and runs until it is ended. (claude refuses a bare `sleep`.)
TOIL = call("Bash", command='python3 -c \'import time; open("at-work-one", "w"); time.sleep(600)\'')


@asynccontextmanager
async def real(place: Path) -> AsyncIterator[Supervisor]:
    """A supervisor of real agents, whose model is scripted."""
    claude = find_claude(load_settings())
    async with serve_api() as api:
        settings = make_settings(place, claude=claude, environ=api.env(), grace=5.0, start_timeout=60.0)
        async with supervising(settings, within=90.0) as supervisor:
            yield supervisor
        await consistent(settings)


def cents(reply: ScriptedReply, amount: float) -> ScriptedReply:
    return reply.costing(amount / 100, "sonnet")


async def test_the_cost_goes_on_over_stop_and_kill(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        await start(supervisor)
        await ask(supervisor, "one", prompt("Hello", cents(say("first"), 5)))
        assert [step.name for step in proved(await supervisor.stop("one")).steps] == ["eof", "kill"]
        second = await ask(supervisor, "one", prompt("More", cents(say("second"), 3)))
        assert second.cost == pytest.approx(0.03, abs=0.001)
        assert second.total_cost_usd == pytest.approx(0.08, abs=0.002)
        sent = await supervisor.submit("one", prompt("Think", say("a long thought").stalling()), type="send")
        await talking(supervisor)
        record, _ = await supervisor.kill("one")
        assert record.status is SessionStatus.KILLED
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        assert not record.cost_exact
        after = await ask(supervisor, "one", prompt("Again", cents(say("here"), 2)))
        assert after.text == "here"
        assert after.cost == pytest.approx(0.02, abs=0.001)
        assert after.total_cost_usd == pytest.approx(0.10, abs=0.002)


async def test_a_kill_takes_the_tools_too(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        await start(supervisor, limits=Limits(max_cost=5))
        await supervisor.submit("one", prompt("Work", cents(TOIL, 5)), type="send")
        await at_work(supervisor)
        record, receipt = await supervisor.kill("one")
        assert any("time.sleep(600)" in member for member in proved((record, receipt)).alive)
        assert record.cost_exact
        assert record.total_cost_usd == pytest.approx(0.05, abs=0.001)


async def test_an_interrupt_keeps_the_process(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        await start(supervisor)
        first = await ask(supervisor, "one", prompt("Hello", say("first")))
        for action, begun in ((TOIL, at_work), (say("endless").stalling(), talking)):
            sent = await supervisor.submit("one", prompt("Work", action, say("done")), type="send")
            await begun(supervisor)
            await supervisor.interrupt("one")
            assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        # At once: claude may not even have begun the message.
        sent = await supervisor.submit("one", prompt("Work", say("endless").stalling()), type="send")
        await until(lambda: supervisor._runners["one"].record.status is SessionStatus.BUSY)
        await supervisor.interrupt("one")
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        after = await ask(supervisor, "one", prompt("Still there?", say("yes")))
        assert (after.text, after.pid) == ("yes", first.pid)


async def test_a_stop_at_work_leaves_a_clean_conversation(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        await start(supervisor)
        sent = await supervisor.submit("one", prompt("Work", TOIL, say("done")), type="send")
        await at_work(supervisor)
        receipt = proved(await supervisor.stop("one"))
        assert [step.name for step in receipt.steps] == ["interrupt", "eof", "kill"]
        assert all(step.worked for step in receipt.steps)
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        assert (await ask(supervisor, "one", prompt("Still there?", say("yes")))).text == "yes"


async def test_killed_before_it_read_its_first_message_it_can_begin_anew(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        await start(supervisor)
        record = await supervisor.resume("one")
        assert record.pid is not None
        os.kill(record.pid, signal.SIGSTOP)
        sent = await supervisor.submit("one", prompt("Hello", say("never")), type="send")
        await until(lambda: supervisor._runners["one"].record.status is SessionStatus.BUSY)
        await supervisor.kill("one")
        assert (await supervisor.wait(sent)).outcome is Outcome.INTERRUPTED
        assert (await ask(supervisor, "one", prompt("Hello", say("here")))).text == "here"


async def test_a_background_subagents_late_result_and_cost_are_in(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        task = prompt("Look around", cents(say("seen").after(1.0), 10))
        launch = call("Agent", description="look", prompt=task, subagent_type="general-purpose")
        work = prompt("Work", launch, cents(say("launched"), 1), cents(say("all is seen"), 1))
        result = await delegate(supervisor, work)
        assert result.status is Outcome.COMPLETED
        assert result.response.splitlines()[-1] == "all is seen"
        assert result.cost == pytest.approx(0.12, abs=0.005)


# --- the API's part ---------------------------------------------------------------------------------


async def test_a_time_limit_while_the_api_is_silent(tmp_path: Path) -> None:
    async with real(tmp_path) as supervisor:
        begun = trio.current_time()
        work = prompt("Work", say("never").stalling("headers"))
        result = await delegate(supervisor, work, limits=Limits(max_time=4.0))
        assert result.status is Outcome.TIME_EXCEEDED
        assert trio.current_time() - begun < 10
