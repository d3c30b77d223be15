"""Calls wait until it is known where their paths lead: each is looked up once, and none runs out of turn."""

from __future__ import annotations

import msgspec
import pytest

from cms.protocol.messages import ControlCancelRequest, RefuseAnswer
from cms.session.model import Outcome
from cms.session.path_rules import NamedPath
from cms.session.questions import PersonAnswer
from cms.session.state import Breach, Breached, PathsFound, PersonAnswered
from session.world import WORK, World, hook, located, permission, rules, says

INSIDE: dict[str, object] = {"file_path": f"{WORK}/a.py"}
SECRET: dict[str, object] = {"file_path": f"{WORK}/.env"}


def test_a_call_waits_for_its_paths_and_is_looked_up_once_however_much_happens() -> None:
    world = World(slow_disk=True).see(hook("1", "Write", INSIDE))
    world.see(*(says("text", f"m{number}") for number in range(100)))
    assert [call.request_id for call in world.looked_up] == ["1"]
    assert world.words == {}
    assert world.find_paths().words == {"1": "allow"}


def test_a_call_that_waits_for_a_person_is_looked_up_when_it_comes_and_when_the_person_has_answered() -> None:
    attended = msgspec.structs.replace(rules(permission_mode="dontAsk"), ask_timeout=600.0)
    world = World(attended).see(hook("1", "Write", INSIDE), permission("p1", "Write", INSIDE))
    world.see(*(says("text", f"m{number}") for number in range(100)))
    assert [call.request_id for call in world.looked_up] == ["1", "p1"]
    world.slow_disk = True
    world.see(PersonAnswered("p1", PersonAnswer(True, {})))
    assert [call.request_id for call in world.looked_up] == ["1", "p1", "p1"]
    assert "p1" not in world.words, "the file may be a link by now"
    assert world.find_paths().words["p1"] == "allow"


def test_what_a_person_allowed_is_refused_if_it_leads_elsewhere_by_then() -> None:
    attended = msgspec.structs.replace(rules(permission_mode="dontAsk"), ask_timeout=600.0)
    world = World(attended).see(permission("p1", "Write", INSIDE))
    world.slow_disk = True
    world.see(PersonAnswered("p1", PersonAnswer(True, {})))
    path = f"{WORK}/a.py"
    world.see(PathsFound("p1", (NamedPath(path, (path, "/home/u/.ssh/id")),)))
    assert world.words == {"p1": "deny"}


def test_calls_that_name_no_path_are_not_looked_up_nor_any_without_the_net() -> None:
    assert World().see(hook("1", "Bash")).looked_up == []
    off = World(rules(safety=False), slow_disk=True).see(hook("1", "Write", SECRET))
    assert (off.looked_up, off.words) == ([], {"1": "allow"})


def test_calls_are_judged_in_the_order_in_which_they_came_whoever_is_found_first() -> None:
    """The first may be what ends the interaction: then nothing behind it may have run."""
    world = World(rules("full"), slow_disk=True)
    world.see(hook("1", "Write", SECRET), hook("2", "Write", INSIDE), hook("3", "Bash"))
    one, two = world.looked_up
    world.see(located(two, world.rules))
    assert world.words == {}
    world.see(located(one, world.rules))
    assert world.words == {"1": "deny", "2": "deny", "3": "deny"}
    assert list(world.words) == ["1", "2", "3"]
    assert [told.breach.outcome for told in world.breaches] == [Outcome.PROTECTED_PATH]


@pytest.mark.parametrize(
    ("tool", "named"), [("Write", "file_path"), ("Read", "file_path"), ("mcp__x", "path")]
)
def test_a_file_system_that_does_not_answer_refuses_the_call_and_no_more(tool: str, named: str) -> None:
    world = World(rules("full"), slow_disk=True).see(hook("1", tool, {named: "hung/x"}), hook("2", "Bash"))
    world.see(PathsFound("1", (NamedPath("hung/x", fault="no answer within 5 s", unanswered=True),)))
    assert world.words == {"1": "deny", "2": "allow"}
    denial = world.answers["1"].denial
    assert denial is not None
    assert (denial.violation, denial.reason) == (False, "refused: hung/x: no answer within 5 s")
    assert world.breaches == []


def test_what_ends_the_work_does_not_wait_for_the_file_system() -> None:
    world = World(slow_disk=True).see(permission("p1", "Write", INSIDE))
    world.see(Breached(Breach(Outcome.INTERRUPTED, "a person", world.now)))
    assert isinstance(world.answers["p1"].answer, RefuseAnswer)


def test_what_was_found_for_an_earlier_call_is_not_taken_for_one_of_the_same_id() -> None:
    world = World(slow_disk=True).see(hook("1", "Write", INSIDE), ControlCancelRequest("1"))
    world.see(hook("1", "Write", SECRET))
    first, second = world.looked_up
    world.see(located(first, world.rules))
    assert world.words == {}
    world.see(located(second, world.rules))
    assert world.words == {"1": "deny"}
