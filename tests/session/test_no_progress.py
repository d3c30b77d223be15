"""Work that goes on without progress is stopped, honest repetition is not. And the purse of shared money."""

from __future__ import annotations

import msgspec
import pytest

from cms.protocol.messages import ApiRetry
from cms.session.budget import Grant
from cms.session.limits import BUDGET_EVERY, BUDGET_PATIENCE
from cms.session.model import Limits, Outcome
from cms.session.repetition import follow
from cms.session.state import Began, Granted, Opened, out_of_budget
from session.world import IDLE, RUNNING, World, hook, meter, raw, result, rules, says, started

REPEATS = rules("full", limits=Limits(max_repeats=3))


def outcomes(world: World) -> list[Outcome]:
    return [told.breach.outcome for told in world.breaches]


def test_the_same_call_once_too_often_in_a_row() -> None:
    world = World(REPEATS)
    for number in range(4):
        world.see(hook(str(number), "Bash", {"command": "make", "description": f"try {number}"}))
    assert list(world.words.values()) == ["allow", "allow", "allow", "deny"]
    assert outcomes(world) == [Outcome.STALLED]
    assert world.breaches[0].breach.reason == "no progress: the same Bash call 3 times in a row"


@pytest.mark.parametrize(
    "between",
    [("Edit", {"file_path": "/home/u/project/a"}), ("Bash", {"command": "make clean"})],
)
def test_something_else_in_between_is_progress(between: tuple[str, dict[str, object]]) -> None:
    world = World(REPEATS)
    for number in range(20):
        world.see(hook(f"a{number}", "Bash", {"command": "make"}), hook(f"b{number}", *between))
    assert world.breaches == []


def test_looking_after_a_background_task_is_no_repetition() -> None:
    world = World(REPEATS)
    for number in range(50):
        world.see(hook(str(number), "TaskOutput", {"task_id": "t"}))
    assert world.breaches == []


def test_each_conversation_has_a_streak_of_its_own() -> None:
    world = World(REPEATS)
    for number in range(3):
        for agent in (None, "x", "y"):
            world.see(hook(f"{number}{agent}", "Read", {"file_path": "/a"}, agent))
    assert world.breaches == []
    world.see(hook("last", "Read", {"file_path": "/a"}, "x"))
    assert outcomes(world) == [Outcome.STALLED]


def test_a_new_message_begins_anew() -> None:
    world = World(REPEATS)
    for number in range(3):
        world.see(hook(str(number)))
    world.see(result(0.1), IDLE, Began("j"), RUNNING, started("j"), hook("again"))
    assert world.breaches == []


def test_the_order_of_an_inputs_fields_does_not_matter_and_its_values_do() -> None:
    one = follow(None, "Edit", raw({"file_path": "/a", "old_string": "x"}))
    assert follow(one, "Edit", raw({"old_string": "x", "file_path": "/a"})).count == 2
    assert follow(one, "Edit", raw({"old_string": "y", "file_path": "/a"})).count == 1
    assert follow(one, "Write", raw({"file_path": "/a", "old_string": "x"})).count == 1
    assert follow(follow(None, "Odd", raw([1])), "Odd", raw([1])).count == 2


@pytest.mark.parametrize("given", [b'{"a": "\xff"}', b'{"\xff": 1}', b"[" * 5000 + b"]" * 5000, b"[1]"])
def test_an_input_that_cannot_be_read_repeats_itself_too(given: bytes) -> None:
    repetition = follow(None, "Strange", msgspec.Raw(given))
    assert follow(repetition, "Strange", msgspec.Raw(given)).count == 2


def test_an_api_that_fails_and_fails() -> None:
    world = World(rules("full", limits=Limits(max_retry_time=60)))
    for attempt in range(1, 7):
        world.see(ApiRetry(attempt, 1000.0, 529)).wait(9.9)
    assert world.breaches == []
    world.wait(0.7)
    assert outcomes(world) == [Outcome.STALLED]
    assert world.breaches[0].breach.reason == "the API has not answered for 60 s"
    assert world.interrupts == 1


def test_an_answer_between_two_failures_begins_anew() -> None:
    world = World(rules("full", limits=Limits(max_retry_time=60)))
    world.see(ApiRetry(1, 1000.0, 529)).wait(50).see(says("x")).wait(50)
    world.see(ApiRetry(1, 1000.0, 529)).wait(50)
    assert world.breaches == []


# --- the shared purse -----------------------------------------------------------------------------


def granted(amount: float, short: str = "", *, final: bool = False) -> Granted:
    return Granted("i", Grant(amount, short, final))


def with_purse(amount: float) -> World:
    world = World(rules("full"), begun=False)
    return world.see(Opened(0.0, {}), Began("i", Grant(amount)), RUNNING, started()).read_meter(0.0)


def test_a_call_waits_until_more_is_granted() -> None:
    world = with_purse(0.10).see(hook("1")).see(meter(0.10))
    assert world.words == {}
    assert out_of_budget(world.state)
    world.wait(BUDGET_EVERY)
    assert world.state.turn is not None
    assert world.state.turn.allowance.asked == 1
    world.see(granted(0.20))
    assert world.words == {"1": "allow"}


def test_a_call_is_refused_when_nothing_is_left() -> None:
    world = with_purse(0.10).see(hook("1")).see(meter(0.10)).see(granted(0.10, "used up", final=True))
    assert world.words == {"1": "deny"}
    assert outcomes(world) == [Outcome.COST_EXCEEDED]
    assert world.breaches[0].breach.reason == "used up"


def test_what_others_hold_is_waited_for_but_not_for_ever() -> None:
    world = with_purse(0.10).see(hook("1")).see(meter(0.10)).see(granted(0.10, "all reserved"))
    since = world.now
    while not world.breaches:
        world.wait(BUDGET_EVERY)
        world.see(granted(0.10, "all reserved"))
        assert world.now < since + BUDGET_PATIENCE + 2 * BUDGET_EVERY
    assert world.now >= since + BUDGET_PATIENCE
    assert world.words == {"1": "deny"}


def test_money_in_hand_is_used_before_anybody_is_told_to_stop() -> None:
    world = with_purse(0.10).see(hook("1")).see(meter(0.05)).see(granted(0.10, "used up", final=True))
    assert world.words == {"1": "allow"}


def test_a_final_reply_that_uses_the_purse_up_does_not_undo_the_work() -> None:
    world = with_purse(0.10).see(says("done"), granted(0.10, "used up", final=True)).see(result(0.15), IDLE)
    assert world.breaches == []
    assert [one.outcome for one in world.settled] == [Outcome.COMPLETED]


def test_an_answer_for_an_earlier_message_is_not_taken_for_this_one() -> None:
    world = with_purse(0.10).see(Granted("before", Grant(5.0)))
    assert world.state.turn is not None
    assert world.state.turn.allowance.amount == 0.10
