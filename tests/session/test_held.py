"""Calls that wait for a person's word: what is held, for how long, and what comes of each word."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.protocol.messages import ControlCancelRequest, HookAnswer, PermitAnswer, RefuseAnswer
from cms.session.decide import wake_at
from cms.session.gate import Rules, asked_questions, held
from cms.session.model import Limits, Outcome
from cms.session.questions import AskedQuestion, Choice, PersonAnswer
from cms.session.state import Breach, Breached, PersonAnswered
from session.world import World, hook, permission, result, rules

ASKED = {
    "questions": [
        {
            "question": "Which?",
            "header": "H",
            "multiSelect": False,
            "options": [{"label": "A", "description": "first"}, {"label": "B", "description": "second"}],
        }
    ]
}
QUESTION = "AskUserQuestion"
TOUCH = {"command": "touch x"}


def attended(timeout: float = 600.0, limits: Limits | None = None) -> Rules:
    return msgspec.structs.replace(rules(limits=limits), ask_timeout=timeout)


def waiting(world: World) -> list[str]:
    return [call.request_id for call in held(world.state, world.rules, world.now)]


def yes(**answers: str) -> PersonAnswer:
    return PersonAnswer(True, answers)


def test_a_question_passes_the_hook_and_waits_where_there_is_no_time_out() -> None:
    world = World(attended()).see(hook("1", QUESTION, ASKED))
    assert world.answers["1"].answer == HookAnswer()
    world.see(permission("p1", QUESTION, ASKED)).wait(599)
    assert waiting(world) == ["p1"]
    assert "p1" not in world.answers
    (call,) = held(world.state, world.rules, world.now)
    choices = (Choice("A", "first"), Choice("B", "second"))
    assert asked_questions(call) == (AskedQuestion("Which?", "H", choices),)


def test_without_a_timeout_nothing_waits() -> None:
    world = World().see(hook("1", QUESTION, ASKED))
    assert world.words == {"1": "deny"}
    assert world.breaches[0].breach.outcome is Outcome.NEEDS_INPUT
    world = World().see(hook("1", "Bash", TOUCH), permission("p1", "Bash", TOUCH))
    assert world.words == {"1": "pass", "p1": "deny"}


def test_an_answer_goes_to_claude_in_its_input() -> None:
    world = World(attended()).see(hook("1", QUESTION, ASKED), permission("p1", QUESTION, ASKED))
    world.see(PersonAnswered("p1", PersonAnswer(True, {"Which?": "B"})))
    answer = world.answers["p1"].answer
    assert isinstance(answer, PermitAnswer)
    assert msgspec.json.decode(answer.updated_input) == {**ASKED, "answers": {"Which?": "B"}}
    world.see(result(0.1))
    assert not world.breaches
    assert world.state.turn is None or not world.state.turn.questions


def test_a_refused_question_does_not_end_the_work() -> None:
    world = World(attended()).see(hook("1", QUESTION, ASKED), permission("p1", QUESTION, ASKED))
    world.see(PersonAnswered("p1", PersonAnswer(False, {}, "decide yourself")))
    answer = world.answers["p1"].answer
    assert answer == RefuseAnswer("a person refused this: decide yourself", interrupt=False)
    denial = world.answers["p1"].denial
    assert denial is not None
    assert (denial.by, denial.detail) == ("person", "Which?")


def test_at_the_deadline_it_ends_as_without_a_person() -> None:
    world = World(attended(60)).see(hook("1", QUESTION, ASKED), permission("p1", QUESTION, ASKED))
    due = wake_at(world.state, world.rules)
    assert due is not None
    world.wait(61)
    assert world.words["p1"] == "deny"
    assert world.breaches[0].breach.outcome is Outcome.NEEDS_INPUT
    assert world.answers["p1"].decision.questions[0].question == "Which?"


@pytest.mark.parametrize("allow", [True, False])
def test_a_permission_is_a_persons_to_give(allow: bool) -> None:
    world = World(attended()).see(hook("1", "Bash", TOUCH), permission("p1", "Bash", TOUCH))
    assert waiting(world) == ["p1"]
    world.see(PersonAnswered("p1", PersonAnswer(allow, {})))
    assert world.words["p1"] == ("allow" if allow else "deny")
    answer = world.answers["p1"].answer
    assert isinstance(answer, PermitAnswer if allow else RefuseAnswer)
    if isinstance(answer, PermitAnswer):
        assert msgspec.json.decode(answer.updated_input) == TOUCH


def test_a_permission_that_expires_is_refused_and_the_work_goes_on() -> None:
    world = World(attended(60)).see(hook("1", "Bash", TOUCH), permission("p1", "Bash", TOUCH)).wait(61)
    denial = world.answers["p1"].denial
    assert denial is not None
    assert denial.by == "nobody"
    assert not world.breaches


def test_no_word_lets_a_protected_path_be_written() -> None:
    given_ = {"file_path": "/home/u/.ssh/config", "content": "x"}
    world = World(attended()).see(permission("p1", "Write", given_), PersonAnswered("p1", yes()))
    assert world.words == {"p1": "deny"}
    assert world.breaches[0].breach.outcome is Outcome.PROTECTED_PATH


def test_silence_does_not_count_while_a_person_is_waited_for_and_begins_anew_after() -> None:
    world = World(attended(600, Limits(max_silence=30.0)))
    world.see(hook("1", QUESTION, ASKED), permission("p1", QUESTION, ASKED)).wait(300)
    assert not world.breaches
    world.see(PersonAnswered("p1", yes())).wait(29)
    assert not world.breaches
    world.wait(2)
    assert world.breaches[0].breach.outcome is Outcome.STALLED


def test_the_time_limit_goes_on_while_a_person_is_waited_for() -> None:
    world = World(attended(600, Limits(max_time=100.0)))
    world.see(hook("1", QUESTION, ASKED), permission("p1", QUESTION, ASKED)).wait(101)
    assert world.breaches[0].breach.outcome is Outcome.TIME_EXCEEDED
    assert world.words["p1"] == "deny"
    assert waiting(world) == []


def test_what_ends_the_work_ends_the_waiting() -> None:
    world = World(attended()).see(hook("1", QUESTION, ASKED), permission("p1", QUESTION, ASKED))
    world.see(Breached(Breach(Outcome.INTERRUPTED, "a person", world.now)))
    assert world.words["p1"] == "deny"
    world = World(attended()).see(permission("p1", QUESTION, ASKED), ControlCancelRequest("p1"))
    assert waiting(world) == []


def test_a_word_on_nothing_changes_nothing() -> None:
    world = World(attended()).see(PersonAnswered("nobody", yes()))
    assert world.words == {}


@given(st.floats(0, 2000), st.floats(1, 1000))
def test_it_is_held_exactly_until_its_deadline_and_the_clock_knows_when(after: float, timeout: float) -> None:
    world = World(attended(timeout)).see(hook("1", "Bash", TOUCH), permission("p1", "Bash", TOUCH))
    begun = world.now
    world.wait(after)
    assert (waiting(world) == ["p1"]) is (world.now < begun + timeout)
    assert ("p1" in world.answers) is (world.now >= begun + timeout)
    if "p1" not in world.answers:
        due = wake_at(world.state, world.rules)
        assert due is not None
        assert due <= begun + timeout + 1e-6
