"""Turns that nobody asked for (a background shell's end begins one): who pays, and when they are ended."""

from __future__ import annotations

import pytest

from cms.protocol.messages import Init, TaskNotification, TaskStarted
from cms.session.budget import Grant
from cms.session.decide import PATIENCE
from cms.session.model import Limits, Outcome
from cms.session.state import Began, Ended, Opened, StandingKnown, State, Unasked, may_owe
from session.world import IDLE, RUNNING, World, begins, hook, meter, result, rules, says, started

INIT = Init(session_id="c", model="model")


def shell(task: str) -> TaskStarted:
    return TaskStarted(task, "local_bash", "sleep")


def ends(task: str) -> TaskNotification:
    return TaskNotification(task, "completed")


def charged(state: State) -> list[tuple[str, float]]:
    return [(charge.interaction_id, round(charge.usd, 6)) for charge in state.charges]


def two_messages() -> World:
    """Each of the two started a shell, and is over."""
    world = World(rules("full")).see(shell("a"), result(0.1), IDLE)
    return world.see(Began("j"), RUNNING, started("j"), shell("b"), result(0.3), IDLE)


@pytest.mark.parametrize(("task", "payer"), [("a", "i"), ("b", "j"), ("unheard of", "j")])
def test_it_is_charged_to_the_interaction_that_started_the_shell(task: str, payer: str) -> None:
    world = two_messages().see(ends(task), RUNNING, INIT, says("seen", "m9"), result(0.35), IDLE)
    assert charged(world.state) == [("i", 0.1), ("j", 0.2), (payer, 0.05)]
    assert len(world.settled) == 2


def test_what_it_costs_is_not_the_costs_of_the_message_that_waits_behind_it() -> None:
    """Whether the message came after it had begun, or was written before and not begun."""
    for events in ((RUNNING, INIT, Began("k")), (Began("k"), RUNNING, INIT)):
        world = two_messages().see(ends("a"), *events, says("seen", "m9"), meter(0.32), result(0.35))
        assert world.state.turn is not None
        assert world.state.ledger.spent - world.state.turn.spent_before == pytest.approx(0.0)
        assert world.state.turn.models == {}
        world.see(started("k"), INIT, says("done", "m10"), result(0.45), IDLE)
        assert sum(usd for payer, usd in charged(world.state) if payer == "k") == pytest.approx(0.1)
        assert sum(usd for payer, usd in charged(world.state) if payer == "i") == pytest.approx(0.15)


def test_one_that_is_begun_before_the_process_is_up_is_not_the_first_message_s() -> None:
    """A conversation is resumed whose shells died with its last process: claude works on that news first."""
    world = World(begun=False).see(TaskNotification("dead", "stopped"), RUNNING, Opened(0.0, {}), Began("i"))
    world.see(INIT, result(0.0, ""))
    assert (world.unfit, world.settled, world.state.unasked) == ("", [], None)
    world.see(IDLE, RUNNING, started("i"), INIT, says("yes"), result(0.1, "yes"), IDLE)
    assert [one.outcome for one in world.settled] == [Outcome.COMPLETED]
    assert charged(world.state) == [("i", 0.1)]


def test_our_own_message_is_not_taken_for_one() -> None:
    world = two_messages().see(Began("k"), RUNNING)
    assert world.state.unasked is None
    world.see(started("k"), INIT, begins("m9"))
    assert world.state.unasked is None
    world.see(result(0.4), IDLE, RUNNING)
    assert world.state.unasked is not None


def test_a_call_of_it_is_refused_also_while_a_message_waits() -> None:
    world = two_messages().see(ends("a"), RUNNING, INIT, Began("k"), begins("m9"), hook("1"))
    assert world.words == {"1": "deny"}
    world.see(result(0.35), started("k"), INIT, begins("m10"), hook("2"), meter(0.36))
    assert world.words == {"1": "deny", "2": "allow"}


def test_what_was_refused_of_it_is_not_held_against_the_message_that_waits() -> None:
    """One that only asks something would be told that all it wanted was refused."""
    world = two_messages().see(ends("a"), RUNNING, INIT, Began("k"), begins("m9"), hook("1"))
    world.see(result(0.35), started("k"), INIT, says("four", "m10"), result(0.4, "four"), IDLE)
    assert [one.outcome for one in world.settled][2:] == [Outcome.COMPLETED]
    assert not any("refused" in why for why in world.settled[-1].reasons)


def test_the_first_one_after_a_shared_cap_is_interrupted_as_it_begins() -> None:
    world = two_messages().see(ends("a"), RUNNING)
    assert world.state.unasked is not None
    assert world.state.unasked.asked
    world.see(StandingKnown(Grant(0.0)))
    assert world.unasked_ended == []
    world.see(INIT, begins("m9"), result(0.35), IDLE, ends("b"), RUNNING)
    world.see(StandingKnown(Grant(0.0, "today's budget is used up", final=True)))
    (why,) = world.unasked_ended
    assert why.endswith("today's budget is used up")
    world.see(result(0.35), IDLE).wait(PATIENCE * 2)
    assert (world.stops, len(world.unasked_ended)) == ([], 1)


@pytest.mark.parametrize("limits", [Limits(max_cost=0.3), Limits(max_turns=1)])
def test_it_is_interrupted_where_a_limit_of_the_session_is_used_up(limits: Limits) -> None:
    world = World(rules("full", limits=limits)).see(shell("a"), says("x"), result(0.3), IDLE, ends("a"))
    assert world.see(RUNNING).unasked_ended


def test_what_is_not_heeded_ends_the_process() -> None:
    world = World(rules("full", limits=Limits(max_cost=0.1))).see(result(0.1), IDLE, RUNNING)
    assert world.wait(PATIENCE / 2).stops == []
    assert len(world.wait(PATIENCE / 2).stops) == 1


def test_a_second_api_call_of_it_is_not_waited_for() -> None:
    """A call that claude itself refuses never comes to the gate, and brings the next reply."""
    world = two_messages().see(ends("a"), RUNNING, INIT, begins("m8"))
    assert world.unasked_ended == []
    assert world.see(begins("m9")).unasked_ended


def test_a_process_that_dies_in_one_may_owe_its_price() -> None:
    world = two_messages()
    assert not may_owe(world.state)
    world.see(ends("a"), RUNNING)
    assert may_owe(world.state)
    world.see(Ended(-9, exact=False))
    assert world.state.unasked is None


def test_none_begins_before_the_process_is_up() -> None:
    world = World(begun=False).see(INIT, RUNNING)
    assert world.state.unasked is None
    world.see(Opened(0.0, {}), RUNNING)
    assert world.state.unasked == Unasked("", asked=True)
