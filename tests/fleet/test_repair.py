"""Repair: what a delegation did not pass goes back into its session, within its limits, and is paid once."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cms.batch.model import BatchOptions, TaskSpec, TaskStatus
from cms.fleet.batches import open_batches
from cms.fleet.supervisor import Supervisor
from cms.session.model import DelegateResult, Interaction, Limits, Outcome, SessionStatus
from cms.session.terms import Terms
from cms.testing.script import ScriptedReply, call, prompt, say
from fleet.kit import at_work, consistent, delegate, last, make_options, make_settings, supervising

#: Passes once `fixed` holds an x for each round.
CHECK = 'echo "here is what to do:"; cat script; echo; echo so; test "$(cat fixed 2>/dev/null)" = "{}"'


def repairing(place: Path, wanted: str, *replies: ScriptedReply) -> str:
    """A check that fails until `fixed` holds what is wanted; what it prints is the model's script."""
    (place / "work").mkdir(exist_ok=True)
    (place / "work" / "script").write_text(prompt("Do it", *replies))
    return CHECK.format(wanted)


FIX = call("Bash", command="printf x >> fixed").costing(0.01, "sonnet")


async def messages(supervisor: Supervisor, name: str = "one") -> list[Interaction]:
    return await supervisor.interactions(name)


@pytest.mark.parametrize(("wanted", "rounds"), [("x", 1), ("xx", 2)])
async def test_a_failed_check_goes_back_and_is_put_right(tmp_path: Path, wanted: str, rounds: int) -> None:
    settings = make_settings(tmp_path)
    check = repairing(tmp_path, wanted, FIX, say("fixed", cost_usd=0.01, model="sonnet"))
    async with supervising(settings) as supervisor:
        begun = prompt("Work", say("done", cost_usd=0.01, model="sonnet"))
        result = await delegate(supervisor, begun, verify=(check,), repair=2)
        assert result.status is Outcome.COMPLETED
        assert result.response == "fixed"
        said = await messages(supervisor)
        assert [one.type for one in said] == ["delegate", *["repair"] * rounds]
        failed = [Outcome.VERIFICATION_FAILED] * rounds
        assert [one.outcome for one in said] == [*failed, Outcome.COMPLETED]
        assert [one.round for one in said] == list(range(rounds + 1))
        assert "here is what to do:" in said[1].prompt
        assert [told.status for told in result.rounds] == [one.outcome for one in said]
        assert result.cost == pytest.approx(sum(one.cost for one in said))
        assert result.cost == pytest.approx(0.01 + 0.02 * rounds)
        assert result.turns == sum(one.turns for one in said) == 1 + 2 * rounds
        record = await supervisor.get("one")
        assert record.status is SessionStatus.COMPLETED
        starts = [row for row in (await supervisor.audit("one")).rows if row.entry.kind == "start"]
        assert len(starts) == 1, "in the same process"
        assert (await supervisor.wait(said[0])).outcome is Outcome.COMPLETED
    await consistent(settings)


async def test_no_more_rounds_than_were_given(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    check = repairing(tmp_path, "xxx", FIX, say("fixed"))
    async with supervising(settings) as supervisor:
        result = await delegate(supervisor, prompt("Work", say("done")), verify=(check,), repair=2)
        assert result.status is Outcome.VERIFICATION_FAILED
        assert len(await messages(supervisor)) == 3
        assert result.can_continue
        assert not result.repairable
        again = await supervisor.continue_("one", prompt("Once more", FIX, say("now")), terms=Terms(repair=0))
        assert again.status is Outcome.COMPLETED
        assert again.rounds == ()
        assert (await supervisor.get("one")).options.repair == 0
    await consistent(settings)


async def test_what_passes_is_not_repaired_and_what_did_not_end_well_neither(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        good = await delegate(supervisor, prompt("Work", say("done")), verify=("true",), repair=2)
        assert (good.status, good.rounds) == (Outcome.COMPLETED, ())
        bad = await delegate(
            supervisor,
            prompt("Work", call("Bash", command="true"), say("done")),
            name="two",
            verify=("false",),
            repair=2,
            limits=Limits(max_turns=1),
        )
        assert (bad.status, bad.rounds) == (Outcome.TURNS_EXCEEDED, ())


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (Limits(max_turns=1), "1 of 1 turns were used before"),
        (Limits(max_cost=0.01), "$0.0100 of $0.0100 were spent before"),
        (Limits(max_tool_calls=0), "all 0 allowed tool calls used"),
    ],
)
async def test_where_a_limit_is_used_up_nothing_is_sent(tmp_path: Path, limits: Limits, why: str) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        work = prompt("Work", say("done", cost_usd=0.01, model="sonnet"))
        result = await delegate(supervisor, work, verify=("false",), repair=2, limits=limits)
        assert result.status is Outcome.VERIFICATION_FAILED
        assert f"not repaired: {why}" in " ".join(result.reasons)
        assert len(await messages(supervisor)) == 1


async def test_a_limit_that_is_reached_in_a_round_is_the_verdict(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    check = repairing(tmp_path, "x", call("Bash", command="true").costing(0.03, "sonnet"), FIX, say("fixed"))
    async with supervising(settings) as supervisor:
        limits = Limits(max_cost=0.03)
        work = prompt("Work", say("done", cost_usd=0.01, model="sonnet"))
        result = await delegate(supervisor, work, verify=(check,), repair=2, limits=limits)
        assert result.status is Outcome.COST_EXCEEDED
        assert [one.status for one in result.rounds] == [Outcome.VERIFICATION_FAILED, Outcome.COST_EXCEEDED]
        assert not (tmp_path / "work" / "fixed").exists()
    await consistent(settings)


async def test_a_shared_budget_that_is_used_up_in_between(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    check = repairing(tmp_path, "x", FIX, say("fixed"))
    async with supervising(settings) as supervisor:
        await supervisor.set_cap("team", 0.01)
        options = make_options(settings, verify=(check,), repair=2)
        result = await supervisor.delegate(
            options, prompt("Work", say("done", cost_usd=0.01, model="sonnet")), scopes=("team",)
        )
        assert result.status is Outcome.COST_EXCEEDED
        said = await messages(supervisor)
        assert [one.scopes for one in said] == [("team",), ("team",)]
        assert said[-1].cost == 0.0
    await consistent(settings)


async def cancelled_in_a_round(supervisor: Supervisor, check: str) -> DelegateResult:
    scope = trio.CancelScope()
    results = []

    async def go() -> None:
        options = make_options(supervisor.settings, verify=(check,), repair=2)
        results.append(await supervisor.delegate(options, prompt("Work", say("done")), within=scope))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        await at_work(supervisor)
        scope.cancel()
    return results[0]


async def test_cancelled_in_the_middle_of_a_round(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    toil = call("Bash", command="touch at-work-one; sleep 600")
    check = repairing(tmp_path, "x", toil)
    async with supervising(settings) as supervisor:
        result = await cancelled_in_a_round(supervisor, check)
        assert result.status is Outcome.INTERRUPTED
        assert [one.status for one in result.rounds] == [Outcome.VERIFICATION_FAILED, Outcome.INTERRUPTED]
        assert (await supervisor.get("one")).status is SessionStatus.STOPPED
    await consistent(settings)


@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_whoever_ends_or_pauses_the_session_meanwhile_ends_the_repairs(
    tmp_path: Path, how: str
) -> None:
    settings = make_settings(tmp_path)
    check = "touch at-work-one; until test -e gate; do sleep 0.01; done; false"
    async with supervising(settings) as supervisor:
        options = make_options(settings, verify=(check,), repair=2)
        sent = await supervisor.start_delegate(options, prompt("Work", say("done")))
        await at_work(supervisor)
        await (supervisor.stop("one") if how == "stop" else supervisor.pause("one"))
        (tmp_path / "work" / "gate").touch()
        reply = await supervisor.wait(sent)
        if how == "stop":
            assert (reply.outcome, reply.error) == (
                Outcome.INTERRUPTED,
                "its checks did not finish: it was stopped",
            )
        else:
            assert reply.outcome is Outcome.VERIFICATION_FAILED
            assert "not repaired" in " ".join((await last(supervisor)).reasons)
        assert len(await messages(supervisor)) == 1
    await consistent(settings)


async def test_who_waits_for_the_first_message_waits_for_the_last_round(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    check = repairing(tmp_path, "x", FIX, say("fixed"))
    async with supervising(settings) as supervisor:
        options = make_options(settings, verify=(check,), repair=1)
        sent = await supervisor.start_delegate(options, prompt("Work", say("done")))
        reply = await supervisor.wait(sent)
        assert (reply.outcome, reply.text) == (Outcome.COMPLETED, "fixed")
        assert reply.turns == 3


# --- after a crash --------------------------------------------------------------------------------


async def test_a_batch_that_goes_on_repairs_what_was_cut_off_in_its_checks(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    work = tmp_path / "work"
    slow = "test -e gate || { touch at-work-one; sleep 600; }; "
    check = slow + repairing(tmp_path, "x", FIX, say("fixed"))
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(BatchOptions(str(work)), "b")
        spec = TaskSpec(
            name="one",
            prompt=prompt("Work", say("done", cost_usd=0.01, model="sonnet")),
            preset="full",
            writes="anywhere",
            verify=(check,),
            repair=1,
        )
        assert await batches.add(record.id, 0, [(spec, 1)]) == []
        await batches.start(record.id)
        await at_work(supervisor)
        await batches.stop(record.id)
        (work / "gate").touch()
        engine = await batches.start(record.id)
        ended = await engine.wait()
        assert ended.counts == {TaskStatus.COMPLETED: 1}
        said = await messages(supervisor)
        assert [one.type for one in said] == ["delegate", "continue"]
        assert said[0].outcome is Outcome.VERIFICATION_FAILED
        assert (said[1].round, said[1].outcome) == (1, Outcome.COMPLETED)
        assert "here is what to do:" in said[1].prompt
        assert ended.spent == pytest.approx(sum(one.cost for one in said))
    await consistent(settings)


async def test_a_round_that_was_cut_off_is_gone_on_with_and_not_begun_again(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    work = tmp_path / "work"
    # The first time that it is told it works for ever; told the same again, it puts it right.
    toil = call("Bash", command="test -e gate || { touch at-work-one; sleep 600; }; printf x >> fixed")
    check = repairing(tmp_path, "x", toil.costing(0.01, "sonnet"), say("fixed"))
    async with supervising(settings) as supervisor, open_batches(supervisor) as batches:
        record = await batches.create(BatchOptions(str(work)), "b")
        spec = TaskSpec(
            name="one",
            prompt=prompt("Work", say("done", cost_usd=0.01, model="sonnet")),
            preset="full",
            writes="anywhere",
            verify=(check,),
            repair=1,
        )
        assert await batches.add(record.id, 0, [(spec, 1)]) == []
        await batches.start(record.id)
        await at_work(supervisor)
        stopped = await batches.stop(record.id)
        said = await messages(supervisor)
        assert [one.outcome for one in said] == [Outcome.VERIFICATION_FAILED, Outcome.INTERRUPTED]
        assert stopped.counts == {TaskStatus.WAITING: 1}, stopped
        (work / "gate").touch()
        ended = await (await batches.start(record.id)).wait()
        assert ended.counts == {TaskStatus.COMPLETED: 1}
        said = await messages(supervisor)
        assert [(one.type, one.round) for one in said] == [("delegate", 0), ("repair", 1), ("continue", 1)]
        assert said[1].prompt in said[2].prompt
        assert ended.spent == pytest.approx(sum(one.cost for one in said))
    await consistent(settings)
