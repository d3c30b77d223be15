"""Sessions under one cap, with real children: it holds in the middle of turns, and across kills and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cms.fleet.supervisor import open_supervisor
from cms.session.budget import ALL, DAY
from cms.session.model import InteractionState, Limits, Outcome
from cms.store import money
from cms.store.recovery import recover
from cms.testing.script import call, prompt, say
from fleet.kit import (
    at_work,
    consistent,
    delegate,
    last,
    make_options,
    make_settings,
    start,
    supervising,
    toil,
)

CALL = 0.05
#: Twenty tool calls, each in a reply that costs five cents.
LONG = [call("Read", file_path="a").costing(CALL, "sonnet") for _ in range(20)]


def work(*, end: str = "done") -> str:
    return prompt("Work", *LONG, say(end))


async def test_sessions_together_pass_a_cap_by_at_most_one_call_each(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    cap, several = 0.70, 4
    async with supervising(settings, within=40) as supervisor:
        await supervisor.set_cap(DAY, cap)
        outcomes = []

        async def one(name: str) -> None:
            outcomes.append((await delegate(supervisor, work(), name=name)).status)

        async with trio.open_nursery() as nursery:
            for number in range(several):
                nursery.start_soon(one, f"s{number}")
        budget = await supervisor.budget()
        assert outcomes == [Outcome.COST_EXCEEDED] * several
        assert cap - 1e-9 <= budget.today.spent <= cap + several * CALL + 1e-9
        # Nothing is held once all have ended, nothing is unknown, and the accounts agree with the ledger.
        (standing,) = budget.scopes
        assert (standing.held, standing.holders, standing.unknown) == (0.0, 0, 0.0)
        ledger = (await supervisor.store.read(money.total)).usage.cost_usd
        assert standing.spent == pytest.approx(ledger)
        # The next one is not even sent.
        refused = await delegate(supervisor, work(), name="late")
        assert refused.status is Outcome.COST_EXCEEDED
        assert refused.turns == 0
        assert refused.error is not None
        assert "today's budget is used up" in refused.error
        assert "cms budget set --daily" in refused.error
        assert refused.error.endswith("not sent")
        # With more money it goes on.
        await supervisor.set_cap(DAY, 100.0)
        again = await supervisor.continue_("late", prompt("Go", say("here")))
        assert again.status is Outcome.COMPLETED
    await consistent(settings)


async def test_under_a_cap_that_is_wide_enough_nobody_is_kept_back(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings, within=40) as supervisor:
        await supervisor.set_cap(ALL, 4 * 20 * CALL + 0.1)
        async with trio.open_nursery() as nursery:
            results = []

            async def one(name: str) -> None:
                results.append(await delegate(supervisor, work(), name=name))

            for number in range(4):
                nursery.start_soon(one, f"s{number}")
        assert [result.status for result in results] == [Outcome.COMPLETED] * 4
        assert (await supervisor.budget()).ever.spent == pytest.approx(4 * 20 * CALL, abs=0.001)


async def test_a_scope_of_its_own_binds_those_alone_that_name_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap("batch:7", 0.12)
        inside = await supervisor.delegate(make_options(settings, "in"), work(), scopes=("batch:7",))
        assert inside.status is Outcome.COST_EXCEEDED
        assert inside.cost == pytest.approx(3 * CALL)
        assert inside.error is not None
        assert "the budget of batch 7 is used up" in inside.error
        outside = await delegate(supervisor, work(), name="out")
        assert outside.status is Outcome.COMPLETED


async def test_the_tighter_of_two_limits_holds(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap(ALL, 5.0)
        result = await delegate(supervisor, work(), limits=Limits(max_cost=0.10))
        assert result.cost == pytest.approx(2 * CALL)
        assert result.error is not None
        assert "$0.1000" in result.error


async def test_a_cap_set_in_the_middle_of_a_turn_holds_for_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        task = prompt("Work", toil().costing(CALL, "sonnet"), *LONG, say("done"))
        message = await supervisor.submit("one", task, type="send")
        await at_work(supervisor)
        await supervisor.set_cap(DAY, 0.01)
        assert (await supervisor.interrupt("one")).name == "one"
        assert (await supervisor.finished(message)).cost == pytest.approx(CALL)
        late = await supervisor.wait(await supervisor.submit("one", work(), type="send"))
        assert late.outcome is Outcome.COST_EXCEEDED
        assert late.cost == 0


@pytest.mark.parametrize("background", [False, True])
async def test_a_subagents_money_counts(tmp_path: Path, background: bool) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap(ALL, 0.12)
        child = prompt("Look", *LONG, say("seen"))
        agent = call("Agent", description="look", prompt=child, run_in_background=background)
        result = await delegate(supervisor, prompt("Ask", agent, *LONG, say("done")))
        assert result.status is Outcome.COST_EXCEEDED
        # One call more of each conversation; and the end of a background subagent begins a turn of its own.
        assert result.cost <= 0.12 + (3 if background else 1) * CALL + 1e-9


async def test_a_kill_in_a_reply_counts_what_was_reserved(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap(ALL, 5.0)
        await start(supervisor)
        task = prompt("Think", LONG[0], say("a long thought").stalling("middle"))
        message = await supervisor.submit("one", task, type="send")
        with supervisor.watch("one") as notes:
            async for note in notes:
                if note.kind == "text":
                    break
        (before,) = (await supervisor.budget()).scopes
        assert before.held > 0
        await supervisor.kill("one")
        assert not (await supervisor.finished(message)).cost_exact
        (after,) = (await supervisor.budget()).scopes
        assert (after.held, after.holders) == (0, 0)
        assert after.unknown == pytest.approx(before.held)
        assert after.left == pytest.approx(before.left)


async def test_what_a_dead_process_had_reserved_is_settled(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap(ALL, 1.0)
        await start(supervisor)
        message = await supervisor.submit("one", prompt("Work", toil(), say("done")), type="send")
        await at_work(supervisor)
        (standing,) = (await supervisor.budget()).scopes
        assert standing.holders == 1
        assert 0 < standing.held <= 1.0
        # As a crash would leave it, with the process still running: nothing is settled while it lives.
        await supervisor.store.write(recover, 1.0)
        assert (await supervisor.budget()).scopes[0].holders == 1
        await supervisor.interrupt("one")
        await supervisor.finished(message)
        assert (await last(supervisor)).cost_exact
        assert (await supervisor.budget()).scopes[0].holders == 0


async def test_a_message_waits_for_money_that_another_gives_back(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.set_cap(ALL, 0.40)
        await start(supervisor, "rich")
        # Its call was dear, so it holds as much again: all that is left.
        task = prompt("Work", call("Read", file_path="a").costing(0.2, "sonnet"), toil("rich"), say("done"))
        first = await supervisor.submit("rich", task, type="send")
        await at_work(supervisor, "rich")
        assert (await supervisor.budget()).scopes[0].left == pytest.approx(0.0, abs=1e-6)
        await start(supervisor, "poor")
        second = await supervisor.submit("poor", prompt("Hello", say("hi")), type="send")
        with supervisor.watch("poor") as notes:
            async for note in notes:
                if note.kind == "note" and note.text.startswith("waits: the total budget is all reserved"):
                    break
        assert (await last(supervisor, "poor")).state is InteractionState.QUEUED
        await supervisor.interrupt("rich")
        await supervisor.finished(first)
        assert (await supervisor.finished(second)).outcome is Outcome.COMPLETED


async def test_without_caps_nothing_is_asked_for(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with open_supervisor(settings) as supervisor:
        result = await delegate(supervisor, work())
        assert result.status is Outcome.COMPLETED
        budget = await supervisor.budget()
        assert budget.scopes == ()
        assert budget.today.spent == pytest.approx(20 * CALL, abs=0.001)
