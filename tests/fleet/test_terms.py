"""A follow-up under other terms: what permits and what checks is added, all else stays as it was."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cms.errors import WrongStatus
from cms.session.model import Limits, Outcome, SessionStatus
from cms.session.terms import Terms
from cms.testing.script import call, prompt, say
from fleet.kit import ask, at_work, consistent, delegate, make_settings, start, supervising, toil

TOUCH = call("Bash", command="touch made")


async def test_what_was_refused_is_permitted_by_the_very_rule_that_is_named(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        first = await delegate(
            supervisor,
            prompt("Go", TOUCH, say("done")),
            preset="edit",
            allowed_tools=("Bash(true)",),
            verify=("true",),
        )
        assert first.status is Outcome.NEEDS_INPUT
        assert first.next_step == "cms continue one \"go on\" --allow 'Bash(touch made)'"
        rule = shlex.split(first.next_step)[-1]
        terms = Terms(allowed_tools=(rule,), verify=("test -f made",), limits=Limits(max_turns=7))
        again = await supervisor.continue_("one", prompt("Go on", TOUCH, say("done")), terms=terms)
        assert (again.status, again.verified) == (Outcome.COMPLETED, ("test -f made", "true"))
        options = (await supervisor.get("one")).options
        assert options.allowed_tools == ("Bash(touch made)", "Bash(true)")
        assert options.limits.max_turns == 7
        wider = Terms(preset="full")
        assert (await supervisor.continue_("one", prompt("And", say("x")), terms=wider)).next_step
        assert (await supervisor.get("one")).options.preset == "full"
    await consistent(settings)


async def test_what_is_alive_and_idle_is_stopped_for_it_and_what_works_is_left_alone(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor, limits=Limits(max_cost=1.0))
        await ask(supervisor, "one", prompt("Go", say("x")))
        assert (await supervisor.get("one")).status is SessionStatus.READY
        terms = Terms(limits=Limits(max_cost=3.0))
        assert (await supervisor.continue_("one", prompt("On", say("x")), terms=terms)).response == "x"
        assert (await supervisor.get("one")).options.limits.max_cost == 3.0
        await start(supervisor, "two")
        await supervisor.submit("two", prompt("Work", toil("two")), type="spawn")
        await at_work(supervisor, "two")
        with pytest.raises(WrongStatus):
            await supervisor.continue_("two", "On", terms=terms)
        assert (await supervisor.get("two")).status is SessionStatus.BUSY
    await consistent(settings)
