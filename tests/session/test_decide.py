"""What is to be done about a state: the steps that follow a breach, and no dead ends whatever happens."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.protocol.messages import Event, HookAnswer
from cms.session.decide import PATIENCE, AnswerCall, AskMeter, SendInterrupt, StopProcess, decide, wake_at
from cms.session.model import Limits, Outcome
from cms.session.state import (
    Breach,
    Breached,
    BudgetAsked,
    Charged,
    Ended,
    InterruptSent,
    Judged,
    LookingUp,
    MeterAsked,
    PathsFound,
    Phase,
    Settled,
    StandingAsked,
)
from sampling import sized
from session.test_state import EVENTS
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
    stops,
)


def outcomes(world: World) -> list[Outcome]:
    return [told.breach.outcome for told in world.breaches]


COSTLY = rules("full", limits=Limits(max_cost=0.1))


# --- how a breach is carried out ------------------------------------------------------------------


def breached(world: World, outcome: Outcome = Outcome.INTERRUPTED) -> World:
    return world.see(Breached(Breach(outcome, "because", world.now)))


def test_a_call_at_the_gate_is_told_and_claude_gets_time_to_end_the_turn() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"))
    breached(world)
    assert world.words == {"1": "deny"}
    answer = world.answers["1"].answer
    assert isinstance(answer, HookAnswer)
    assert (answer.continue_, answer.stop_reason) == (False, "because")
    world.wait(PATIENCE / 2)
    assert world.interrupts == 0
    world.see(result(0.1, "", terminal_reason="hook_stopped"), IDLE).wait(PATIENCE * 3)
    assert (world.interrupts, world.stops) == (0, [])
    assert [one.outcome for one in world.settled] == [Outcome.INTERRUPTED]


def test_without_a_call_at_the_gate_claude_is_interrupted_at_once() -> None:
    """A person, a stop, a limit that the clock found: nobody would tell claude otherwise."""
    world = breached(World(rules()))
    assert world.interrupts == 1


def test_an_answer_that_ended_only_a_subagent_does_not_stand_for_the_turn() -> None:
    world = World(COSTLY).see(meter(0.0), hook("1", agent="a"), meter(0.2))
    assert world.words == {"1": "deny"}
    assert world.interrupts == 1


def test_the_ladder_goes_on_when_the_turn_does_not_end() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"))
    breached(world).wait(PATIENCE)
    assert (world.interrupts, world.stops) == (1, [])
    world.wait(PATIENCE / 2)
    assert (world.interrupts, world.stops) == (1, [])
    world.wait(PATIENCE / 2)
    assert world.stops == ["because"]
    assert world.interrupts == 1


def test_once_there_is_a_breach_every_call_is_refused_whatever_it_is() -> None:
    world = breached(World(rules("full", limits=Limits(max_cost=1.0), safety=False)))
    world.see(
        hook("1", "Read", {"file_path": "a"}),
        hook("2", agent="a"),
        permission("p3"),
        hook("4", "AskUserQuestion"),
    )
    assert set(world.words.values()) == {"deny"}
    assert len(world.words) == 4
    assert len(world.breaches) == 0, "the first reason stays, and was not ours"


def test_all_calls_of_a_batch_after_the_one_that_ends_it_are_refused() -> None:
    secret = {"file_path": "~/.ssh/x"}
    world = World(COSTLY).see(begins("m1"), hook("1", "Read", {"file_path": "a"}), hook("2", "Write", secret))
    world.see(hook("3", "Read", {"file_path": "b"}), stops("tool_use"), closes())
    world.read_meter(0.0)
    world.read_meter(0.0)
    assert world.words == {"1": "allow", "2": "deny", "3": "deny"}
    assert outcomes(world) == [Outcome.PROTECTED_PATH]


def test_a_turn_that_nobody_asked_for_does_nothing_and_costs_one_reply() -> None:
    world = World(rules("full")).see(result(0.1), IDLE, RUNNING, begins("m9"), hook("1"))
    answer = world.answers["1"].answer
    assert isinstance(answer, HookAnswer)
    assert answer.hook_specific_output is not None
    assert answer.hook_specific_output.permission_decision == "deny"
    assert not answer.continue_


def test_calls_that_come_when_the_work_is_over_are_refused_before_it_is_settled() -> None:
    world = World(COSTLY).see(begins("m1"), hook("1"), result(0.01), IDLE)
    assert world.words == {"1": "deny"}
    assert [one.outcome for one in world.settled] == [Outcome.NEEDS_INPUT], (
        "what it wanted to do was not done"
    )
    assert world.state.gate == ()


def test_nothing_is_done_about_a_process_that_is_gone() -> None:
    world = World(COSTLY).see(hook("1"), Ended(-9, exact=False))
    assert decide(world.state, world.rules, world.now + 1e9) == ()
    assert wake_at(world.state, world.rules) is None


# --- any sequence ---------------------------------------------------------------------------------

_LIMITS = st.builds(
    Limits,
    max_cost=st.none() | st.sampled_from([0.04, 0.1, 0.3]),
    max_turns=st.none() | st.integers(0, 3),
    max_time=st.none() | st.sampled_from([0.3, 7.7, 100.0]),
    max_silence=st.none() | st.sampled_from([0.3, 7.7, 100.0]),
    max_tool_calls=st.none() | st.integers(0, 3),
    max_repeats=st.none() | st.integers(1, 2),
    max_retry_time=st.none() | st.sampled_from([0.3, 7.7]),
)
_ASK_TIMEOUTS = st.sampled_from([0.0, 0.3, 20.0])
#: What claude and the clock do; what we do ourselves, the world does.
_STEPS = st.lists(
    st.one_of(EVENTS, st.sampled_from([0.1, 2.0, 5.0, 31.0]), st.sampled_from(["meter", "disk"])), max_size=30
)
#: Events of ours that only the world itself may tell, when it has done what they say.
_OURS = (
    Judged,
    Charged,
    InterruptSent,
    MeterAsked,
    Settled,
    BudgetAsked,
    StandingAsked,
    LookingUp,
    PathsFound,
)


def play(world: World, steps: list[Event | float | str]) -> None:
    """Every check that `World` makes is made at each step."""
    for step in steps:
        if isinstance(step, float):
            world.wait(step)
        elif step == "meter":
            world.read_meter(0.05)
        elif step == "disk":
            world.find_paths()
        elif isinstance(step, Event) and not isinstance(step, _OURS):
            world.see(step)


@settings(max_examples=sized(100))
@given(_LIMITS, st.sampled_from(["edit", "full", "read-only"]), _STEPS, _ASK_TIMEOUTS, st.booleans())
def test_whatever_happens_the_worlds_rules_hold(
    limits: Limits, preset: str, steps: list[Event | float | str], ask_timeout: float, slow_disk: bool
) -> None:
    given_rules = msgspec.structs.replace(rules(), limits=limits, preset=preset, ask_timeout=ask_timeout)
    world = World(given_rules, slow_disk=slow_disk)
    play(world, steps)


@settings(max_examples=sized(100))
@given(_LIMITS, _STEPS, st.sampled_from(["silent", "failing", "answering"]), _ASK_TIMEOUTS)
def test_following_the_clock_always_gets_somewhere(
    limits: Limits, steps: list[Event | float | str], meter_is: str, ask_timeout: float
) -> None:
    """From any state, with nothing more from claude: no moment is named at which nothing is done, again and
    again; and where no moment is named, nothing is due however long one waits."""
    world = World(msgspec.structs.replace(rules(limits=limits), ask_timeout=ask_timeout))
    play(world, steps)
    if world.state.phase is Phase.ENDED:
        return
    for _ in range(60):
        if world.state.asked_seq is not None and meter_is != "silent":
            world.see(meter(0.01) if meter_is == "answering" else meter_fails())
        due = wake_at(world.state, world.rules)
        if due is None:
            now_and_ever = (decide(world.state, world.rules, world.now + later) for later in (0.0, 1e9))
            assert [list(map(type, actions)) for actions in now_and_ever] == [[], []]
            return
        world.now = max(world.now, due)
        did = world.act()
        after = wake_at(world.state, world.rules)
        assert did or (after is not None and after > due), "woken for nothing"
        if world.stops:
            return
    # It goes on only because the meter is read now and then, as long as claude says nothing.
    assert world.state.turn is not None
    assert world.state.turn.breach is None
    assert limits.max_time is None
    assert limits.max_silence is None


@settings(max_examples=sized(80))
@given(_LIMITS, _STEPS, _ASK_TIMEOUTS)
def test_every_breach_ends_in_the_end_of_the_turn_or_of_the_process(
    limits: Limits, steps: list[Event | float | str], ask_timeout: float
) -> None:
    world = World(msgspec.structs.replace(rules(limits=limits), ask_timeout=ask_timeout))
    play(world, steps)
    if world.state.turn is None or world.state.turn.breach is None or world.state.phase is Phase.ENDED:
        return
    for _ in range(10):
        due = wake_at(world.state, world.rules)
        if due is not None and not world.stops:
            world.wait_until(due)
    assert world.stops or world.state.turn is None
    assert world.state.gate == ()


@given(st.integers(0, 6))
def test_interrupts_and_stops_are_asked_for_in_order(seconds: int) -> None:
    world = breached(World(rules()))
    kinds: list[type[object]] = []
    state = world.state
    for second in range(seconds):
        kinds += [type(action) for action in decide(state, world.rules, world.now + second)]
    assert AnswerCall not in kinds
    assert AskMeter not in kinds
    assert SendInterrupt not in kinds, "sent already"
    assert (StopProcess in kinds) == (seconds > PATIENCE)
