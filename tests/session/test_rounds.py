"""What a session is told of its failed checks: bounded, printable, quoted; and what its rounds come to."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.session.limits import find_breach
from cms.session.model import (
    Interaction,
    InteractionState,
    Limits,
    Outcome,
    SessionOptions,
    SessionRecord,
    SessionStatus,
)
from cms.session.rounds import (
    MOST_ALL,
    Failure,
    gone_on,
    next_round,
    no_room,
    printable,
    quoted,
    to_repair,
    together,
    told,
)
from cms.session.state import Began, Opened
from session.world import START, World, rules

WORK = Interaction("i", "s", 1, "delegate", "go", START, state=InteractionState.CHECKING, duration=3.0)


@given(st.text(), st.integers(1, 50))
def test_nothing_that_is_quoted_leaves_its_quotation(text: str, most: int) -> None:
    lines = quoted(text, most).split("\n")
    assert all(line.startswith(">") for line in lines)
    assert all(letter.isprintable() or letter == "\t" for line in lines for letter in line)
    assert ("left out" in lines[0]) >= (len(text) > most)


@given(st.lists(st.builds(Failure, st.text(max_size=900), st.text() | st.just("x\n" * 9000)), max_size=20))
def test_the_message_is_bounded_and_only_its_own_words_are_unquoted(failures: list[Failure]) -> None:
    message = next_round(WORK, failures, 2)
    if not failures:
        assert message is None
        return
    assert message is not None
    assert len(message.prompt) < MOST_ALL * 2.2 + 20 * 700
    assert message.prompt.encode()
    assert all(letter.isprintable() or letter in "\n\t" for letter in message.prompt)


def test_what_acts_on_a_terminal_is_written_out() -> None:
    assert printable("a\x1b[2Jb\u202ec\ud800d\te") == "a\\x1b[2Jb\\u202ec\\ud800d\te"


def test_rounds_end() -> None:
    failures = (Failure("check failed: false", "no"),)
    first = next_round(WORK, failures, 2)
    assert first is not None
    assert (first.type, first.round, first.before) == ("repair", 1, 3.0)
    again = msgspec.structs.replace(WORK, round=first.round, before=first.before, duration=2.0)
    second = next_round(again, failures, 2)
    assert second is not None
    assert (second.round, second.before) == (2, 5.0)
    assert next_round(msgspec.structs.replace(WORK, round=2), failures, 2) is None
    assert next_round(WORK, failures, 0) is None


def test_what_was_cut_off_goes_on_with_what_it_owes() -> None:
    assert gone_on(WORK, "go on").prompt == "go on"
    cut = msgspec.structs.replace(WORK, type="repair", round=1, before=3.0, prompt="mend it")
    message = gone_on(cut, "go on")
    assert message.prompt.startswith("go on\n")
    assert message.prompt.endswith("mend it")
    assert (message.round, message.before) == (1, 3.0), "the round that was cut off, and no other"
    owed = msgspec.structs.replace(to_repair(WORK, ("check failed: x",)), repair="mend it")
    assert gone_on(owed, "go on") == gone_on(owed, "anything")
    assert (gone_on(owed, "").prompt, gone_on(owed, "").round) == ("mend it", 1)


def test_the_time_of_earlier_rounds_counts() -> None:
    limits = Limits(max_time=10.0)
    world = World(rules("edit", limits=limits), begun=False)
    world.see(Opened(0.0, {}), Began("i", before=9.0))
    assert find_breach(world.state, world.rules, world.now + 0.9) is None
    late = find_breach(world.state, world.rules, world.now + 1.1)
    assert late is not None
    assert late.outcome is Outcome.TIME_EXCEEDED


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(), ""),
        (Limits(max_cost=2.0, max_turns=9, max_tool_calls=4, max_time=4.0), ""),
        (Limits(max_cost=1.0), "$1.0000 of $1.0000"),
        (Limits(max_turns=8), "8 of 8 turns"),
        (Limits(max_tool_calls=3), "all 3 allowed tool calls"),
        (Limits(max_time=3.0), "3 s are over"),
    ],
)
def test_there_is_no_room_where_a_limit_is_used_up(limits: Limits, words: str) -> None:
    options = SessionOptions("one", "/w", limits=limits)
    record = SessionRecord(
        "s",
        "one",
        SessionStatus.READY,
        options,
        START,
        START,
        total_cost_usd=1.0,
        total_turns=8,
        tool_calls=3,
    )
    found = no_room(record, WORK)
    assert (words in found) if words else not found


def test_the_figures_are_those_of_all_rounds() -> None:
    first = msgspec.structs.replace(
        to_repair(WORK, ("check failed: x",)), cost=0.1, turns=2, tools_used=("Bash",), response="done"
    )
    second = msgspec.structs.replace(
        WORK, type="repair", number=2, cost=0.2, turns=3, outcome=Outcome.COMPLETED, response="mended"
    )
    whole = together((first, second))
    assert whole.cost == pytest.approx(0.3)
    assert (whole.turns, whole.duration) == (5, 6.0)
    assert (whole.tools_used, whole.response, whole.outcome) == (("Bash",), "mended", Outcome.COMPLETED)
    assert [one.status for one in told((first, second))] == [Outcome.VERIFICATION_FAILED, Outcome.COMPLETED]
    assert told((second,)) == ()
