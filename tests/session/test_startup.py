"""How a process comes up: limits from the first second, its hooks, and a claude that is refused."""

from __future__ import annotations

import msgspec
import pytest

from cms.protocol.messages import Event, HookEnded, HookStarted, Init, Notice
from cms.protocol.versions import MINIMUM, TESTED, standing
from cms.session.decide import wake_at
from cms.session.gate import Rules
from cms.session.model import Limits, Outcome
from cms.session.startup import waits_for
from cms.session.state import Accepted, Began, Breach, Breached, Launched, Opened
from session.world import IDLE, RUNNING, World, begins, closes, hook, result, rules, started, tasks


def starting(limits: Limits | None = None, *, start_timeout: float = 60.0) -> World:
    """A process that has just been started, and a message that waits for it."""
    given: Rules = msgspec.structs.replace(rules("full", limits=limits), start_timeout=start_timeout)
    return World(given, begun=False).see(Launched(), Accepted())


# --- time -------------------------------------------------------------------------------------------


def test_the_time_of_a_message_counts_from_its_acceptance() -> None:
    world = starting(Limits(max_time=20.0)).wait(15.0)
    assert not world.given_up
    world.see(Opened(0.0, {}), Began("i"), RUNNING, started()).wait(4.0)
    assert not world.breaches
    world.wait(1.1)
    assert [told.breach.outcome for told in world.breaches] == [Outcome.TIME_EXCEEDED]


def test_the_time_of_a_later_message_does_not_count_before_it_is_sent() -> None:
    world = starting(Limits(max_time=20.0)).see(Opened(0.0, {}), Began("i"), RUNNING, started())
    world.see(result(0.0), IDLE).wait(1000.0)
    world.see(Began("j")).wait(19.0)
    assert not world.breaches


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [(Limits(max_time=20.0), Outcome.TIME_EXCEEDED), (Limits(max_silence=20.0), Outcome.STALLED)],
)
def test_a_limit_holds_though_nothing_was_sent(limits: Limits, outcome: Outcome) -> None:
    world = starting(limits).see(HookStarted("h", "SessionStart:startup"))
    due = wake_at(world.state, world.rules)
    assert due is not None
    world.wait_until(due - 0.1)
    assert not world.given_up
    world.wait_until(due)
    (breach,) = world.given_up
    assert breach is not None
    assert breach.outcome is outcome
    assert "its own hook runs (SessionStart:startup)" in breach.reason


def test_what_it_says_while_it_starts_is_a_sign_of_life() -> None:
    world = starting(Limits(max_silence=20.0)).wait(15.0).see(Notice("system", "status")).wait(15.0)
    assert not world.given_up


def test_it_must_be_up_in_time_but_for_its_hooks() -> None:
    world = starting(start_timeout=60.0).wait(50.0).see(HookStarted("h", "one"), HookStarted("i", "two"))
    assert waits_for(world.state) == "claude is starting: its own hook runs (one, two)"
    world.wait(1000.0).see(HookEnded("h")).wait(1000.0)
    assert not world.given_up
    assert wake_at(world.state, world.rules) is None
    world.see(HookEnded("i"), HookEnded("unheard of"))
    assert waits_for(world.state) == "claude is starting"
    world.wait(59.9)
    assert not world.given_up
    world.wait(0.2)
    assert world.given_up == [None]


COSTLY = rules("full", limits=Limits(max_cost=0.1))


# --- a claude that cannot be worked with ------------------------------------------------------------


def test_versions_in_their_order() -> None:
    assert standing(MINIMUM) == standing(TESTED) == standing(f"{TESTED}-simulated") == "tested"
    assert standing("2.1.99") == standing("1.9.999") == standing("0.2.1") == "too old"
    assert standing("2.2.0") == standing("10.0.0") == standing("2.1.100000") == "newer than tested"
    assert standing("") == standing("nightly") == standing("2.1") == "unknown"


@pytest.mark.parametrize(
    ("events", "lacks"),
    [
        ((RUNNING, started(), Init(claude_code_version=TESTED)), ""),
        ((RUNNING, started(), Init(claude_code_version="nightly")), ""),
        ((RUNNING, started(), Init(claude_code_version="2.1.208")), "it is too old"),
        ((RUNNING, Init(claude_code_version=TESTED)), "it does not confirm messages"),
        ((started(), Init(claude_code_version=TESTED)), "it does not tell when it is idle"),
    ],
)
def test_what_only_a_turn_shows_is_looked_at_when_it_begins(events: tuple[Event, ...], lacks: str) -> None:
    world = World(rules("full"), begun=False).see(Opened(0.0, {}), Began("i"), *events)
    assert world.unfit == lacks


def test_idle_while_a_subagent_lives_is_not_the_end() -> None:
    """A claude that says so (2.1.261 does) brings its result in a turn of its own."""
    world = World(rules("full")).see(tasks("local_agent"), result(0.1, "first"), IDLE, tasks())
    assert not world.settled
    world.see(RUNNING, result(0.2, "late"), IDLE)
    assert len(world.settled) == 1


def test_a_claude_that_goes_on_after_it_was_told_to_stop_is_ended_at_once() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"))
    world.see(Breached(Breach(Outcome.COST_EXCEEDED, "because", world.now)), closes())
    assert not world.stops
    world.see(begins("m2"))
    assert world.stops
    world.see(result(0.0), IDLE)
    (conclusion,) = world.settled
    assert conclusion.outcome is Outcome.COST_EXCEEDED
    assert any("went on after it was told to end its turn" in reason for reason in conclusion.reasons)


def test_a_turn_that_nobody_asked_for_after_one_that_ended_is_no_disobedience() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"))
    world.see(Breached(Breach(Outcome.COST_EXCEEDED, "because", world.now)), closes(), result(0.0))
    world.see(begins("m2"))
    assert not world.stops
