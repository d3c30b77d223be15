"""What a session may use, at the boundary of each limit; and the bound on money for any price list."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.protocol.messages import ApiRetry, ConversationReset, Event, Notice
from cms.session.decide import PATIENCE, wake_at
from cms.session.limits import METER_EVERY, METER_PATIENCE
from cms.session.model import Limits, Outcome
from cms.session.state import Began
from sampling import sized
from session.world import (
    IDLE,
    RUNNING,
    World,
    begins,
    closes,
    hook,
    meter,
    meter_fails,
    permission,
    result,
    rules,
    says,
    started,
    stops,
    tool_result,
)


def limit(name: str, value: float) -> Limits:
    return msgspec.structs.replace(Limits(), **{name: value})


def outcomes(world: World) -> list[Outcome]:
    return [told.breach.outcome for told in world.breaches]


# --- cost -----------------------------------------------------------------------------------------

COSTLY = rules("full", limits=Limits(max_cost=0.1))


def test_a_call_waits_for_a_reading_that_covers_its_reply() -> None:
    world = World(COSTLY).see(meter(0.0))
    world.see(begins("m1"), hook("1"))
    assert world.words == {}, "the reply is still being streamed: nobody knows its price"
    world.read_meter(0.0)
    assert world.words == {}, "that was asked too early"
    world.see(stops("tool_use"), closes())
    assert world.state.asked_seq is not None
    assert world.words == {}
    world.see(meter(0.05))
    assert world.words == {"1": "allow"}


def test_a_reading_on_its_way_when_the_reply_ended_does_not_cover_it() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"))
    assert world.state.asked_seq is not None, "asked when the message began"
    world.see(stops("tool_use"), closes())
    world.see(meter(0.0))
    assert world.words == {}
    assert world.state.asked_seq is not None, "asked again"
    world.see(meter(0.05))
    assert world.words == {"1": "allow"}


def test_a_subagents_call_needs_a_reading_from_after_it_came() -> None:
    world = World(COSTLY).see(meter(0.0), hook("1", agent="a"))
    assert world.words == {}
    world.see(meter(0.02), hook("2", agent="a"))
    assert world.words == {"1": "allow"}
    world.see(meter(0.1))
    assert world.words == {"1": "allow", "2": "deny"}


@pytest.mark.parametrize(
    ("spent", "word"), [(0.0999, "allow"), (0.1 - 1e-10, "deny"), (0.1, "deny"), (7.0, "deny")]
)
def test_the_cost_limit_at_its_boundary(spent: float, word: str) -> None:
    world = World(COSTLY).see(meter(0.0), begins("m1"), hook("1"), stops("tool_use"), closes(), meter(spent))
    assert world.words == {"1": word}
    assert outcomes(world) == [Outcome.COST_EXCEEDED] * (word == "deny")


def test_sums_that_miss_the_limit_by_a_rounding_reach_it() -> None:
    """Three times 0.1 is 0.30000000000000004, and ten times 0.1 is 0.9999999999999999."""
    world = World(rules("full", limits=Limits(max_cost=1.0))).see(meter(0.0))
    total = 0.0
    for number in range(10):
        total += 0.1
        world.see(begins(f"m{number}"), hook(str(number)), stops("tool_use"), closes(), meter(total))
    assert total < 1.0
    assert world.words["9"] == "deny"
    assert world.words["8"] == "allow"


def test_a_final_reply_that_passes_the_limit_does_not_undo_the_work() -> None:
    world = World(COSTLY).see(meter(0.0), begins("m1"), says("done"), stops("end_turn"), closes(), meter(5.0))
    world.see(result(5.0), IDLE)
    assert outcomes(world) == []
    assert [one.outcome for one in world.settled] == [Outcome.COMPLETED]


def test_a_limit_reached_while_a_tool_works_ends_the_turn_without_a_call() -> None:
    world = World(COSTLY).see(meter(0.0), begins("m1"), hook("1"), stops("tool_use"), closes(), meter(0.05))
    assert world.words == {"1": "allow"}
    world.wait(METER_EVERY).read_meter(0.2)
    assert outcomes(world) == [Outcome.COST_EXCEEDED]
    assert world.interrupts == 1


def test_without_a_cost_limit_calls_do_not_wait_for_the_meter() -> None:
    world = World(rules("full")).see(begins("m1"), hook("1"))
    assert world.words == {"1": "allow"}


def test_spending_of_earlier_interactions_counts() -> None:
    world = World(COSTLY).see(meter(0.0), result(0.08), IDLE)
    world.see(Began("j"), RUNNING, started("j"), begins("m2"), hook("2"), stops("tool_use"), closes())
    world.read_meter(0.1)
    assert world.words == {"2": "deny"}


def test_clear_does_not_fill_the_purse_again() -> None:
    world = World(COSTLY).see(meter(0.0), result(0.08), ConversationReset("new"), result(0.0), IDLE)
    world.see(Began("j"), RUNNING, started("j"), begins("m2"), hook("2"), stops("tool_use"), closes())
    world.read_meter(0.03)
    assert world.words == {"2": "deny"}


# --- the meter ------------------------------------------------------------------------------------


def test_nothing_runs_while_the_meter_is_silent_and_then_the_work_ends() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"), stops("tool_use"), closes())
    asked = world.state.asked_at
    for _ in range(int(METER_PATIENCE) - 1):
        world.wait(1)
        world.see(Notice("tool_progress"))
    assert world.words == {}
    world.wait_until(asked + METER_PATIENCE)
    assert outcomes(world) == [Outcome.COST_EXCEEDED]
    assert world.words == {"1": "deny"}


def test_nothing_runs_while_the_meter_is_in_error_and_then_the_work_ends() -> None:
    """An error is no figure either, and must not be asked for again at once, for ever."""
    world = World(COSTLY).see(begins("m1"), hook("1"), stops("tool_use"), closes())
    while not world.breaches:
        if world.state.asked_seq is not None:
            world.see(meter_fails())
        due = wake_at(world.state, world.rules)
        assert due is not None
        world.wait_until(due)
    assert world.words == {"1": "deny"}
    assert world.asked <= METER_PATIENCE / METER_EVERY + 2


def test_a_meter_that_recovers_is_believed() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"), stops("tool_use"), closes())
    world.see(meter_fails()).wait(METER_EVERY).see(meter_fails()).wait(METER_EVERY).see(meter(0.01))
    assert world.words == {"1": "allow"}
    world.wait(METER_PATIENCE)
    assert world.breaches == []


def test_the_silence_of_the_meter_in_an_earlier_interaction_is_not_held_against_the_next() -> None:
    world = World(COSTLY).see(result(0.01), IDLE)
    assert world.state.asked_seq is not None, "never answered"
    world.wait(1e6).see(Began("j"), RUNNING)
    assert world.breaches == []
    world.wait(METER_PATIENCE)
    assert outcomes(world) == [Outcome.COST_EXCEEDED]


def test_the_meter_is_read_after_each_reply_and_now_and_then() -> None:
    world = World(rules("full")).see(meter(0.0))
    assert world.asked == 1
    world.see(begins("m1"), stops("end_turn"), closes())
    assert world.asked == 2
    world.see(meter(0.01), says("x", "m1"))
    assert world.asked == 2
    world.wait(METER_EVERY)
    assert world.asked == 3


def test_without_a_cost_limit_a_silent_meter_is_no_reason_to_wake() -> None:
    world = World(rules("full"))
    assert world.state.asked_seq is not None
    assert wake_at(world.state, world.rules) is None
    world.wait(1e6)
    assert world.breaches == []


# --- the other limits -------------------------------------------------------------------------------


def turn_of(number: int, *calls: str) -> list[Event]:
    return [
        begins(f"m{number}"),
        *(hook(key) for key in calls),
        stops("tool_use"),
        closes(),
        *(tool_result(key) for key in calls),
    ]


def test_turns() -> None:
    world = World(rules("full", limits=Limits(max_turns=2)))
    world.see(*turn_of(1, "1"))
    assert world.words == {"1": "allow"}
    world.see(begins("m2"))
    assert world.breaches == [], "the last turn may be the end"
    world.see(hook("2"))
    assert world.words == {"1": "allow", "2": "deny"}, "and it asks for one more"
    assert outcomes(world) == [Outcome.TURNS_EXCEEDED]


def test_the_last_turn_may_finish_the_work() -> None:
    world = World(rules("full", limits=Limits(max_turns=2))).see(*turn_of(1, "1"))
    world.see(begins("m2"), says("done", "m2"), stops("end_turn"), closes(), result(0.1), IDLE)
    assert [one.outcome for one in world.settled] == [Outcome.COMPLETED]


def test_a_turn_too_many_is_interrupted() -> None:
    """A call that claude refused by itself never came to the gate."""
    world = World(rules("full", limits=Limits(max_turns=1))).see(*turn_of(1), begins("m2"))
    assert outcomes(world) == [Outcome.TURNS_EXCEEDED]
    assert world.interrupts == 1


def test_turns_count_over_the_whole_session() -> None:
    world = World(rules("full", limits=Limits(max_turns=2))).see(*turn_of(1, "1"), result(0.1), IDLE)
    world.see(Began("j"), RUNNING, started("j"), *turn_of(2, "2"))
    assert world.words == {"1": "allow", "2": "deny"}


def test_tool_calls() -> None:
    world = World(rules("full", limits=Limits(max_tool_calls=2)))
    world.see(hook("1"), permission("p1"), tool_result("1"), hook("2"), hook("3"))
    assert world.words == {"1": "allow", "p1": "deny", "2": "allow", "3": "deny"}
    assert outcomes(world) == [Outcome.TURNS_EXCEEDED]
    assert World(rules("full", limits=Limits(max_tool_calls=0))).see(hook("1")).words == {"1": "deny"}


@pytest.mark.parametrize("name", ["max_time", "max_silence"])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 33.3, 1e6])
def test_time_and_silence_at_the_moment_that_was_promised(name: str, seconds: float) -> None:
    world = World(rules("full", limits=limit(name, seconds)))
    assert world.state.turn is not None
    since = world.state.turn.started if name == "max_time" else world.state.last_heard
    world.wait_until(math.nextafter(since + seconds, 0))
    assert world.breaches == []
    world.wait_until(since + seconds)
    expected = Outcome.TIME_EXCEEDED if name == "max_time" else Outcome.STALLED
    assert outcomes(world) == [expected]


def test_silence_begins_anew_with_each_line_but_not_with_the_meters_answers() -> None:
    world = World(rules("full", limits=Limits(max_silence=10)))
    for _ in range(5):
        world.wait(9).see(says("x"))
    assert world.breaches == []
    for _ in range(5):
        world.wait(METER_EVERY).read_meter(0.0)
    assert outcomes(world) == [Outcome.STALLED], "the process answers, and the work stands still"


@pytest.mark.parametrize("cost", [None, 1.0])
def test_waiting_for_a_person_is_no_silence_and_ends_in_a_refusal(cost: float | None) -> None:
    """The time for an answer may be longer than the silence that claude is allowed."""
    waiting = msgspec.structs.replace(rules(limits=Limits(max_silence=10, max_cost=cost)), ask_timeout=100.0)
    world = World(waiting).read_meter(0.0).see(permission("p1"))
    asked = world.now
    world.read_meter(0.0)
    for _ in range(9):
        world.wait(10).read_meter(0.0)
    assert (world.words, world.breaches) == ({}, [])
    world.wait_until(asked + 101)
    assert world.words == {"p1": "deny"}
    world.wait(9)
    assert world.breaches == [], "its silence begins when it has our answer"
    world.wait(1)
    assert outcomes(world) == [Outcome.STALLED]


def test_time_is_each_interactions_own() -> None:
    world = World(rules("full", limits=Limits(max_time=10, max_silence=10)))
    world.wait(9).see(result(0.1), IDLE).wait(1e6).see(Began("j"), RUNNING).wait(9)
    assert world.breaches == []


@pytest.mark.parametrize(
    ("status", "ends"), [(401, True), (403, True), (429, False), (529, False), (None, False)]
)
def test_refused_credentials_are_not_waited_for(status: int | None, ends: bool) -> None:
    world = World(rules()).see(ApiRetry(1, 500.0, status))
    assert outcomes(world) == [Outcome.FAILED] * ends
    assert world.interrupts == ends


def test_no_limit_holds_between_interactions() -> None:
    world = World(rules("full", limits=Limits(0.1, 1, 1.0, 1.0, 1))).see(meter(0.0), result(5.0), IDLE)
    world.wait(1e6)
    assert wake_at(world.state, world.rules) is None
    assert world.breaches == []


# --- money: the bound -----------------------------------------------------------------------------


class Reply(msgspec.Struct, frozen=True):
    """One API call of a simulated claude."""

    cost: float
    calls: int
    streamed: bool
    seconds: float


_REPLIES = st.lists(
    st.builds(
        Reply,
        st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.7]),
        st.integers(0, 3),
        st.booleans(),
        st.sampled_from([0.0, 0.5, 2.5]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=sized(100))
@given(_REPLIES, st.sampled_from([0.05, 0.1, 0.3, 1.0]), st.integers(0, 3), st.booleans())
def test_no_api_call_begins_when_the_limit_is_reached(
    replies: list[Reply], cap: float, lag: int, obeys: bool
) -> None:
    """A claude that asks the gate before each tool, and calls the API again when all its calls are done.

    `lag`: so many lines are written between the meter's question and its answer; the answer holds what was
    spent when it was read. The cost at the end passes the limit by at most the one call that reached it.
    A claude that does not end its turn when told (`obeys` false) is interrupted, and that it obeys.
    """
    world = World(rules("full", limits=Limits(max_cost=cap)))
    spent = 0.0
    owed: list[list[float]] = []  # [lines to go, total]: answers of the meter under way

    def pump(*lines: Event, flush: bool = False) -> None:
        for line in [*lines, *([Notice("tool_progress")] * 8 if flush else [])]:
            world.see(line)
            if world.state.asked_seq is not None and not owed:
                owed.append([lag, spent])
            elif owed and owed[0][0] <= 0:
                world.see(meter(owed.pop()[1]))
                if world.state.asked_seq is not None:
                    owed.append([lag, spent])
            elif owed:
                owed[0][0] -= 1

    for number, reply in enumerate(replies):
        assert spent < cap - 1e-9, "an API call begins though the limit is reached"
        keys = [f"{number}.{call}" for call in range(reply.calls)]
        if reply.streamed:
            pump(begins(f"m{number}"), *(hook(key) for key in keys))
            world.wait(reply.seconds)
            spent += reply.cost
            pump(stops("tool_use" if keys else "end_turn"), closes())
        else:
            spent += reply.cost
            pump(says("", f"m{number}"), *(hook(key) for key in keys))
        pump(flush=True)
        while not all(key in world.answers for key in keys) and not world.interrupts:
            pump(Notice("tool_progress"))
        pump(*(tool_result(key) for key in keys))
        told = any(world.words.get(key) == "deny" for key in keys)
        if not keys or world.interrupts or (told and obeys):
            break
        if told:
            world.wait(PATIENCE)
            assert world.state.turn is not None
            assert world.state.turn.interrupted_at is not None
            break
    world.see(result(spent), IDLE)
    assert len(world.settled) == 1
    assert world.state.ledger.spent == pytest.approx(spent)
    if world.breaches:
        assert outcomes(world) == [Outcome.COST_EXCEEDED]
        assert spent >= cap - 1e-9
