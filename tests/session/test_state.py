"""The state machine: what the recordings must come to, and what holds for any sequence of events."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.protocol.connection import Closed, Unanswered
from cms.protocol.messages import (
    ApiRetry,
    CommandLifecycle,
    ControlCancelRequest,
    ConversationReset,
    Event,
    GetUsage,
    HookEnded,
    HookStarted,
    Informational,
    Init,
    MessageBody,
    Noise,
    Notice,
    PermissionDenied,
    RateLimitEvent,
    RateLimitInfo,
    Result,
    SessionState,
    StreamEvent,
    TaskNotification,
    TaskPatch,
    TaskStarted,
    TaskUpdated,
    Unknown,
    User,
)
from cms.session.budget import Grant
from cms.session.decide import decide, wake_at
from cms.session.fold import fold, is_piece
from cms.session.model import Denial, InteractionState, Limits, Outcome, Question, TokenUsage
from cms.session.path_rules import NamedPath
from cms.session.questions import PersonAnswer
from cms.session.state import (
    Accepted,
    Began,
    Breach,
    Breached,
    BudgetAsked,
    Charged,
    Ended,
    Granted,
    InterruptSent,
    Judged,
    Launched,
    LookingUp,
    MeterAsked,
    Opened,
    PathsFound,
    PersonAnswered,
    Phase,
    Settled,
    StandingAsked,
    StandingKnown,
    State,
    agents,
    is_over,
    may_owe,
    more_to_come,
    shells,
)
from cms.session.verdict import conclude, response_of
from protocol import takes
from sampling import sized
from session.replay import Replay, local
from session.world import (
    IDLE,
    RUNNING,
    START,
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
    tasks,
    tool_result,
)

# --- the recordings -------------------------------------------------------------------------------

#: Scene -> for each interaction: outcome, turns, cost, tool calls, the answer.
SCENES: dict[str, list[tuple[str, int, float, int, str]]] = {
    "api_error": [("failed", 0, 0.0, 0, ""), ("completed", 1, 0.0002, 0, "You said: Still there?")],
    "commands": [
        ("completed", 1, 0.05, 0, "Hello."),
        ("completed", 0, 0.00002, 0, ""),
        ("completed", 0, 0.0, 0, ""),
        ("completed", 1, 0.05, 0, "Hello again."),
    ],
    "control": [("completed", 1, 0.05, 0, "Hello."), ("completed", 1, 0.0000005, 0, "Hello again.")],
    "folded_message": [("completed", 2, 0.00004, 1, "Done with both.")],
    "forbidden": [("failed", 0, 0.0, 0, "")],
    "hook_stopped": [("failed", 1, 0.00002, 1, ""), ("completed", 1, 0.0002, 0, "You said: Still there?")],
    "interrupt_streaming": [
        ("interrupted", 1, 0.00002, 0, "Well"),
        ("completed", 1, 0.0002, 0, "You said: Still there?"),
    ],
    "interrupt_tool": [("interrupted", 1, 0.00002, 1, "")],
    "max_budget": [("cost_exceeded", 2, 0.1, 2, "")],
    "max_turns": [("turns_exceeded", 2, 0.00004, 2, "")],
    "model_stops": [("completed", 2, 0.00202, 0, "Done."), ("completed", 2, 0.00004, 0, "Done.")],
    "not_logged_in": [("failed", 0, 0.0, 0, "")],
    "questions": [("needs_input", 3, 0.00006, 2, "Blue it is.")],
    "rate_limit": [
        ("completed", 1, 0.00001, 0, "Fine."),
        ("completed", 1, 0.00001, 0, "Soon over."),
        ("rate_limited", 0, 0.0, 0, ""),
    ],
    "refused": [("needs_input", 5, 0.0001, 2, "Nothing was written.")],
    "resumed": [("completed", 1, 0.05, 0, "Hello."), ("completed", 1, 0.05, 0, "Hello again.")],
    "retries": [("completed", 1, 0.05, 0, "At last.")],
    "subagent": [("completed", 2, 0.15004, 2, "It looked.")],
    "subagent_background": [("completed", 3, 0.10008, 2, "It is looking.\n\nIt has looked.")],
    "text": [
        ("completed", 1, 0.05, 0, "Hello."),
        ("completed", 1, 0.0001, 0, "You said: And now without a script."),
    ],
    "text_partial": [("completed", 1, 0.05, 0, "The answer is forty-two.")],
    "tools": [("completed", 6, 0.0501, 6, "It is written.")],
    "two_messages": [("completed", 2, 0.00004, 0, "First.\n\nSecond.")],
    "unauthorized": [("interrupted", 0, 0.0, 0, "")],
}


def test_every_scene_is_known() -> None:
    assert set(SCENES) == set(takes.NAMES)


@pytest.mark.parametrize("name", takes.NAMES)
def test_what_a_scene_comes_to(name: str) -> None:
    found = Replay(name).run().over
    assert [
        (one.conclusion.outcome.value, one.turn.turns, round(one.cost, 9), one.turn.tool_calls, one.response)
        for one in found
    ] == SCENES[name]


@pytest.mark.parametrize("name", takes.NAMES)
def test_an_interaction_is_over_once_and_only_when_nothing_is_owed(name: str) -> None:
    """At the `idle` that follows its last result, not at the first result."""
    lines = takes.events(name)
    for one in Replay(name).run().over:
        last = lines[one.line - 1]
        assert isinstance(last, SessionState)
        assert last.state == "idle"
        assert any(isinstance(event, Result) for event in lines[: one.line])
    ends = [number for number, event in enumerate(lines, 1) if event == IDLE]
    assert [one.line for one in Replay(name).run().over] == ends[: len(SCENES[name])]


@pytest.mark.parametrize("name", takes.NAMES)
def test_from_a_piece_of_a_reply_nothing_follows(name: str) -> None:
    """The driver does not decide anew after one: it is heard, and that is all."""
    before = State()
    for event, state in Replay(name).run().history:
        if is_piece(event):
            assert state == msgspec.structs.replace(before, seq=state.seq, last_heard=state.last_heard)
            for limits in (Limits(), Limits(max_cost=0.001, max_silence=60.0, max_turns=1, max_time=60.0)):
                now = state.last_heard
                heard = msgspec.structs.replace(before, last_heard=now)
                assert decide(state, rules(limits=limits), now) == decide(heard, rules(limits=limits), now)
        before = state


@pytest.mark.parametrize("name", takes.NAMES)
def test_what_holds_after_each_line(name: str) -> None:
    replay = Replay(name).run()
    before = State()
    for event, state in replay.history:
        assert state.seq == before.seq + 1
        assert state.ledger.spent >= before.ledger.spent
        assert state.turns >= before.turns
        assert state.tool_calls >= before.tool_calls
        assert (state.turn is not None) == (state.phase is Phase.BUSY)
        assert state.last_heard == before.last_heard or not local(event) or isinstance(event, Began | Judged)
        assert sum(charge.usd for charge in state.charges) == pytest.approx(state.ledger.spent)
        before = state
    state = replay.state
    # Every call that came to the gate was judged, and every dollar is in some interaction or between two.
    assert state.gate == ()
    assert state.phase is Phase.READY
    total = sum(one.cost for one in replay.over)
    assert total <= state.ledger.spent + 1e-12
    assert state.ledger.spent == pytest.approx(sum(m.cost_usd for m in state.ledger.models.values()))
    if name != "tools":  # there a background command's end begins a turn that nobody asked for
        assert total == pytest.approx(state.ledger.spent)
        assert sum(one.turn.turns for one in replay.over) == state.turns


def test_a_background_subagents_late_result_belongs_to_the_interaction() -> None:
    replay = Replay("subagent_background").run()
    (one,) = replay.over
    firsts = [n for n, e in enumerate(takes.events("subagent_background"), 1) if isinstance(e, Result)]
    assert len(firsts) == 2
    at_first = next(state for event, state in replay.history if isinstance(event, Result))
    assert agents(at_first) == ("look",)
    assert not is_over(at_first)
    assert one.line > firsts[1]
    assert one.cost > 100 * at_first.ledger.spent


def test_a_background_shell_does_not_hold_the_interaction_and_is_told() -> None:
    replay = Replay("tools").run()
    (one,) = replay.over
    assert "still running in the background: sleep 0.2; echo later" in one.conclusion.reasons
    # The turn that its end began is in the store, in no interaction, and no answer to anything.
    assert replay.state.ledger.spent > one.cost
    assert replay.state.turns == one.turn.turns + 1
    assert "background command ended" not in one.response


def test_clear_gives_a_new_conversation_and_a_meter_at_zero() -> None:
    replay = Replay("commands").run()
    ids = [state.conversation_id for event, state in replay.history if isinstance(event, Init)]
    assert len(set(ids)) == 2
    assert replay.state.conversation_id == ids[-1]
    assert replay.state.ledger.spent == pytest.approx(0.10002)
    assert replay.state.ledger.seen == pytest.approx(0.05)


def test_a_resumed_process_counts_from_its_baseline() -> None:
    """The same lines, in two processes: the second begins with the total that its transcript saved."""
    lines = takes.events("resumed")
    half = next(n for n, event in enumerate(lines) if event == IDLE) + 1
    first = State()
    for event in (Opened(0.0, {}), Began("a"), *lines[:half], Settled(), Ended(0, exact=True)):
        first = fold(first, event, START)
    assert first.ledger.spent == pytest.approx(0.05)
    second = State(ledger=first.ledger)
    usage = {"claude-opus-5-5": TokenUsage(output_tokens=2500, cost_usd=0.05)}
    for event in (Opened(0.05, usage), Began("b"), *lines[half:]):
        second = fold(second, event, START)
    assert second.ledger.spent == pytest.approx(0.1)
    assert second.ledger.exact


def test_tools_used_are_named_once_in_order() -> None:
    (one,) = Replay("tools").run().over
    assert one.turn.tools_used == ("Write", "Read", "Bash", "Edit")


def test_refusals_by_the_gate_and_by_claude_are_each_counted_once() -> None:
    (one,) = Replay("refused").run().over
    assert [(denial.tool, denial.by) for denial in one.turn.denials] == [
        ("Write", "gate"),
        ("Bash", "claude"),
        ("NoSuchTool", "claude"),  # refused before it came to the gate
        ("Bash", "claude"),  # its input is wrong
    ]


# --- single rules ---------------------------------------------------------------------------------


def after(*events: Event, state: State | None = None) -> State:
    """The state after these, a second apart."""
    state = State() if state is None else state
    for number, event in enumerate(events):
        state = fold(state, event, START + number)
    return state


BUSY = after(Opened(0.0, {}), Began("i"), RUNNING, started())


def test_phases() -> None:
    assert after().phase is Phase.STARTING
    assert after(Began("i")).phase is Phase.STARTING, "no message before the baseline is known"
    assert after(Opened(1.0, {})).phase is Phase.READY
    assert after(Opened(1.0, {})).ledger.spent == 0.0
    assert BUSY.phase is Phase.BUSY
    assert after(Began("j"), state=BUSY).turn == BUSY.turn, "one message at a time"
    assert after(Opened(5.0, {}), state=BUSY).phase is Phase.BUSY, "a baseline is taken once"
    assert after(Settled(), state=BUSY).phase is Phase.READY
    for state in (State(), after(Opened(0.0, {})), BUSY):
        assert after(Ended(0, exact=True), state=state).phase is Phase.ENDED


def test_after_the_end_nothing_changes() -> None:
    ended = after(hook("1"), Ended(-9, exact=False), state=BUSY)
    assert ended.turn is not None, "what was in flight is still to be judged"
    later = fold(ended, result(5.0), START + 999)
    assert later == msgspec.structs.replace(ended, seq=ended.seq + 1)
    assert not ended.ledger.exact


def test_a_binary_that_never_says_idle_is_taken_at_its_result() -> None:
    state = after(Opened(0.0, {}), Began("i"), says("x"), result(0.1))
    assert state.idle is None
    assert is_over(state)
    assert not is_over(after(tasks("local_agent"), state=state))
    assert is_over(after(tasks("local_bash"), state=state))


def test_the_idle_of_the_message_before_does_not_end_the_next() -> None:
    first = after(result(0.1), IDLE, state=BUSY)
    assert is_over(first)
    second = after(Settled(), Began("j"), started("j"), result(0.2), state=first)
    assert not is_over(second)
    assert is_over(after(IDLE, state=second))


def test_a_turn_that_nobody_asked_for_does_not_answer_the_message_that_waits_behind_it() -> None:
    """A background command's end began a turn; our message was written while that was under way."""
    state = after(result(0.1), IDLE, Settled(), Began("j"), state=BUSY)
    # Both lines were in the pipe when the message was written.
    state = after(says("unasked", "m9"), result(0.2, "unasked"), IDLE, state=state)
    assert not is_over(state)
    assert state.turn is not None
    assert state.turn.result is None
    state = after(RUNNING, started("j"), says("asked", "m10"), result(0.3, "asked"), IDLE, state=state)
    assert is_over(state)
    assert response_of(state) == "asked"
    assert state.ledger.spent == pytest.approx(0.3)


def test_a_message_that_claude_took_back_before_it_began_is_over_when_idle() -> None:
    state = after(result(0.1), IDLE, Settled(), Began("j"), RUNNING, state=BUSY)
    state = after(CommandLifecycle("j", "queued"), CommandLifecycle("j", "cancelled"), state=state)
    assert not is_over(state)
    state = after(IDLE, state=state)
    assert is_over(state)
    assert conclude(state).outcome is Outcome.INTERRUPTED


def test_receipts_of_other_messages_say_nothing() -> None:
    state = after(Opened(0.0, {}), Began("i"), started("other"))
    assert state.turn is not None
    assert state.turn.state is InteractionState.SENT
    assert BUSY.turn is not None
    assert BUSY.turn.state is InteractionState.RUNNING


def test_a_reply_is_one_turn_however_many_lines_it_has() -> None:
    state = after(says("a", "m1"), says("b", "m1"), says("c", "m2"), state=BUSY)
    assert (state.turns, state.turn and state.turn.turns) == (2, 2)
    streamed = after(begins("m1"), says("a", "m1"), stops("end_turn"), closes(), says("b", "m1"), state=BUSY)
    assert streamed.turns == 1
    inner = after(says("x", "m5", parent="tool"), state=BUSY)
    assert inner.turns == 0


def test_a_call_is_ripe_when_its_reply_is_complete() -> None:
    streaming = after(begins("m1"), hook("1"), state=BUSY)
    assert [call.complete for call in streaming.gate] == [None]
    (call,) = after(stops("tool_use"), closes(), state=streaming).gate
    assert call.complete == streaming.seq + 2
    (whole,) = after(says("x"), hook("1"), state=BUSY).gate
    assert whole.complete == BUSY.seq + 2, "without a stream the reply is complete when it comes"
    (inner,) = after(begins("m1"), hook("1", agent="a"), state=BUSY).gate
    assert inner.complete == BUSY.seq + 2, "a subagent's reply is not streamed to us"


def test_a_stream_that_broke_off_does_not_hold_calls_for_ever() -> None:
    """claude asks again without streaming: no `message_stop` comes for the reply that broke off."""
    state = after(begins("m1"), hook("1"), says("again", "m2"), state=BUSY)
    assert state.open_message == ""
    assert [call.complete for call in state.gate] == [state.seq]
    assert after(hook("2"), state=state).gate[-1].complete is not None


def test_the_same_request_twice_is_one_call() -> None:
    state = after(hook("1"), hook("1"), state=BUSY)
    assert len(state.gate) == 1
    state = after(Judged("1"), hook("1"), state=state)
    assert len(state.gate) == 1, "a new request may use an old id"


def test_judging_counts_a_call_once_though_two_questions_were_asked_about_it() -> None:
    state = after(hook("1"), Judged("1"), permission("p1"), state=BUSY)
    state = after(Judged("p1", Denial("Bash", "ls", "nobody", "nobody")), state=state)
    assert state.turn is not None
    assert (state.tool_calls, state.turn.tool_calls) == (1, 1)
    assert state.turn.tools_used == ("Bash",)
    assert state.turn.at_work == {}
    assert len(state.turn.denials) == 1
    same = after(PermissionDenied("Bash", "use-1", "denied"), state=state)
    assert same.turn == state.turn, "told a second time"
    assert after(Judged("unheard-of"), state=state).turn == state.turn


@pytest.mark.parametrize(
    ("tool", "error", "acted"),
    [
        ("Write", False, 1),
        ("Bash", False, 1),
        ("mcp__x__y", False, 1),
        ("Write", True, 0),
        ("Read", False, 0),
        ("TodoWrite", False, 0),
        ("Agent", False, 0),
        ("AskUserQuestion", False, 0),
    ],
)
def test_what_counts_as_having_acted(tool: str, error: bool, acted: int) -> None:
    state = after(hook("1", tool), Judged("1"), tool_result("1", error=error), state=BUSY)
    assert state.turn is not None
    assert state.turn.acted == acted
    assert state.turn.at_work == {}


def test_a_subagents_acts_are_acts() -> None:
    state = after(hook("1", "Write", agent="a"), Judged("1"), tool_result("1", parent="t"), state=BUSY)
    assert state.turn is not None
    assert state.turn.acted == 1


def test_silence_is_claudes_and_not_our_own_talk() -> None:
    heard = fold(BUSY, says("x"), START + 100)
    assert heard.last_heard == START + 100
    for event in (
        MeterAsked(),
        meter(0.1),
        meter_fails(),
        Judged("1"),
        Charged(0),
        InterruptSent(),
        Notice("keep_alive"),
    ):
        assert fold(heard, event, START + 200).last_heard == START + 100, event
    for line in (Notice("tool_progress"), RUNNING, Unknown("new", "", b""), ApiRetry(1)):
        assert fold(heard, line, START + 200).last_heard == START + 200, line
    asks = fold(heard, hook("1"), START + 100)
    assert fold(asks, Judged("1"), START + 200).last_heard == START + 200, "it waited for us"
    rested = after(Opened(0.0, {}))
    assert fold(rested, Began("i"), START + 1e6).last_heard == START + 1e6, "a session may rest for days"


@pytest.mark.parametrize("word", ["completed", "failed", "killed", "stopped"])
@pytest.mark.parametrize(
    "told", [lambda w: TaskUpdated("a", TaskPatch(w)), lambda w: TaskNotification("a", w)]
)
def test_a_task_lives_until_its_end_is_told(word: str, told: Callable[[str], Event]) -> None:
    state = after(
        TaskStarted("a", "local_agent", "look"), TaskStarted("b", "local_bash", "sleep"), state=BUSY
    )
    assert (agents(state), shells(state)) == (("look",), ("sleep",))
    assert agents(after(told("running"), state=state)) == ("look",)
    ended = after(told(word), state=state)
    assert (agents(ended), shells(ended)) == ((), ("sleep",))
    assert agents(after(tasks(), state=state)) == ()


def test_more_is_to_come_while_the_model_is_owed_something() -> None:
    assert not more_to_come(BUSY)
    assert more_to_come(after(begins("m1"), state=BUSY))
    assert more_to_come(after(begins("m1"), stops("tool_use"), closes(), state=BUSY))
    assert not more_to_come(after(begins("m1"), stops("end_turn"), closes(), state=BUSY))
    assert more_to_come(after(hook("1"), state=BUSY))
    assert more_to_come(after(tasks("local_agent"), state=BUSY))
    assert not more_to_come(after(tasks("local_bash"), state=BUSY))
    ended = after(begins("m1"), stops("tool_use"), closes(), result(0.1), state=BUSY)
    assert not more_to_come(ended), "the turn is over, whatever its last reply wanted"


def test_what_may_be_owed_when_a_process_dies() -> None:
    assert not may_owe(after(Opened(0.0, {})))
    assert may_owe(BUSY)
    reply = after(begins("m1"), hook("1"), stops("tool_use"), closes(), state=BUSY)
    working = after(MeterAsked(), meter(0.1), Judged("1"), state=reply)
    assert not may_owe(working), "a tool works, and the meter was read after the reply"
    assert may_owe(after(tasks("local_agent"), state=working))
    assert may_owe(after(Judged("1"), state=reply)), "not read yet"
    assert may_owe(after(begins("m2"), state=working))


def test_the_first_breach_stays() -> None:
    first, second = Breach(Outcome.STALLED, "a", START), Breach(Outcome.FAILED, "b", START)
    state = after(Breached(first), Breached(second), result(0.1), state=BUSY)
    assert state.turn is not None
    assert state.turn.breach == first
    assert after(Breached(first)).turn is None


def test_when_claude_was_told_of_the_breach() -> None:
    breach = Breached(Breach(Outcome.STALLED, "a", START))
    told = after(hook("1"), breach, Judged("1"), state=BUSY).turn
    assert told is not None
    assert told.refused_at == START + 2
    before = after(hook("1"), Judged("1"), breach, state=BUSY).turn
    assert before is not None
    assert before.refused_at is None
    inner = after(hook("1", agent="a"), breach, Judged("1"), state=BUSY).turn
    assert inner is not None
    assert inner.refused_at is None, "that ends the subagent, and the main conversation goes on"


def test_an_errors_prose_is_no_answer() -> None:
    state = after(says("half"), result(0.1, "API Error: 500", is_error=True), IDLE, state=BUSY)
    assert response_of(state) == "half"


def test_the_meter() -> None:
    asked = after(MeterAsked(), state=BUSY)
    read = after(says("y", "m2"), meter(0.25), state=asked)
    assert (read.metered_seq, read.asked_seq, read.ledger.spent) == (asked.seq, None, 0.25)
    for odd in (meter_fails(), msgspec.structs.replace(meter(1.0), response=msgspec.Raw(b"{}"))):
        failed = after(odd, state=asked)
        assert (failed.metered_seq, failed.asked_seq) == (0, None)
        assert failed.unread_since == asked.asked_at
        assert after(MeterAsked(), meter(0.1), state=failed).unread_since is None
    assert after(meter(9.0), state=BUSY).ledger.spent == 0.0, "the answer to a question that nobody asked"


def test_charges_wait_until_they_are_stored() -> None:
    state = after(result(0.1), result(0.3), state=BUSY)
    assert [charge.usd for charge in state.charges] == [pytest.approx(0.1), pytest.approx(0.2)]
    assert [charge.usd for charge in after(Charged(1), state=state).charges] == [pytest.approx(0.2)]
    assert after(Charged(2), state=state).charges == ()


def test_calls_at_the_gate_outlive_the_interaction_until_they_are_answered() -> None:
    state = after(hook("1"), Settled(), state=BUSY)
    assert [call.request_id for call in state.gate] == ["1"]
    assert after(ControlCancelRequest("1"), state=state).gate == ()
    assert after(Ended(0, exact=True), state=state).gate == ()


# --- any sequence ---------------------------------------------------------------------------------

_KEYS = st.sampled_from(["1", "2", "3"])
_MESSAGES = st.sampled_from(["m1", "m2", ""])
_COSTS = st.sampled_from([0.0, 0.05, 0.1, 0.3, 5.0, -1.0])
_WORDS = st.sampled_from(
    ["running", "idle", "requires_action", "new", "completed", "killed", "started", "cancelled"]
)
_BREACHES = st.sampled_from(list(Outcome)).map(lambda outcome: Breach(outcome, "why", START))

_GRANTS = st.builds(Grant, st.none() | _COSTS, short=st.sampled_from(["", "short"]), final=st.booleans())

#: Every kind of event there is, ours included, in no sensible order.
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(hook, _KEYS, st.sampled_from(["Bash", "Write", "AskUserQuestion", "ExitPlanMode", "New"])),
    st.builds(hook, _KEYS, st.just("Read"), st.just({"file_path": 7}), st.just("agent")),
    st.builds(permission, _KEYS.map("p".__add__)),
    st.builds(tool_result, _KEYS, error=st.booleans()),
    st.builds(says, st.sampled_from(["", "text"]), _MESSAGES, st.sampled_from([None, "tool"])),
    st.builds(begins, _MESSAGES),
    st.builds(stops, st.sampled_from(["tool_use", "end_turn"])),
    st.builds(closes),
    st.builds(result, st.none() | _COSTS, is_error=st.booleans()),
    st.builds(meter, _COSTS),
    st.builds(meter_fails),
    st.builds(SessionState, _WORDS),
    st.builds(CommandLifecycle, st.sampled_from(["i", "j"]), _WORDS),
    st.builds(tasks, st.sampled_from(["local_agent", "local_bash", "new"])),
    st.builds(tasks),
    st.builds(TaskStarted, _KEYS, st.sampled_from(["local_agent", "local_bash"])),
    st.builds(TaskUpdated, _KEYS, st.builds(TaskPatch, _WORDS)),
    st.builds(TaskNotification, _KEYS, _WORDS),
    st.builds(PermissionDenied, st.just("Bash"), _KEYS),
    st.builds(Informational, st.just("no"), st.sampled_from([None, True])),
    st.builds(ApiRetry, st.just(1), error_status=st.sampled_from([None, 401, 529])),
    st.builds(RateLimitEvent, st.builds(RateLimitInfo, st.sampled_from(["allowed", "rejected"]))),
    st.builds(Init, session_id=st.sampled_from(["", "s"])),
    st.builds(Launched),
    st.builds(Accepted),
    st.builds(HookStarted, _KEYS, _WORDS),
    st.builds(HookEnded, _KEYS),
    st.builds(ConversationReset, st.sampled_from(["", "s2"])),
    st.builds(ControlCancelRequest, _KEYS),
    st.builds(Unanswered, st.just("q"), st.just(GetUsage())),
    st.sampled_from(
        [Closed(), Noise(b""), Unknown("", "", b""), Notice("tool_progress"), User(MessageBody())]
    ),
    st.builds(Opened, _COSTS, st.just({})),
    st.builds(Began, st.sampled_from(["i", "j"]), _GRANTS),
    st.builds(BudgetAsked),
    st.builds(Granted, st.sampled_from(["i", "j"]), _GRANTS),
    st.builds(MeterAsked),
    st.builds(Judged, _KEYS | _KEYS.map("p".__add__)),
    st.builds(Judged, _KEYS, st.just(Denial("Bash", "", "no")), st.just((Question("?"),)), st.just("plan")),
    st.builds(LookingUp, _KEYS),
    st.builds(PathsFound, _KEYS, st.sampled_from([(), (NamedPath("a", ("/a",)),)])),
    st.builds(
        PersonAnswered,
        _KEYS | _KEYS.map("p".__add__),
        st.builds(PersonAnswer, st.booleans(), st.just({"?": "a"})),
    ),
    st.builds(Breached, _BREACHES),
    st.builds(InterruptSent, st.booleans()),
    st.builds(StandingAsked),
    st.builds(StandingKnown, _GRANTS),
    st.builds(Charged, st.integers(0, 3)),
    st.builds(Settled),
    st.builds(Ended, st.sampled_from([0, -9, None]), exact=st.booleans()),
)


def kinds_of_events() -> set[type[Event]]:
    def below(kind: type[Event]) -> set[type[Event]]:
        return {kind}.union(*(below(child) for child in kind.__subclasses__()))

    return below(Event)


def test_the_strategy_knows_every_event_that_fold_treats() -> None:
    """Reads the names out of `fold` itself, so that a new event is not forgotten here."""
    import ast
    import inspect

    treated = {
        node.cls.id
        for node in ast.walk(ast.parse(inspect.getsource(fold)))
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name)
    }
    drawn = repr(EVENTS)
    known = {kind.__name__ for kind in kinds_of_events()}
    shorthand = {
        "StreamEvent": "begins",
        "Assistant": "says",
        "User": "tool_result",
        "HookCallback": "hook",
        "CanUseTool": "permission",
        "Answered": "meter",
        "Result": "result",
        "TasksChanged": "tasks",
    }
    missing = {name for name in treated & known if shorthand.get(name, name) not in drawn}
    assert not missing


@settings(max_examples=sized(100))
@given(st.lists(EVENTS, max_size=40), st.booleans())
def test_any_sequence_of_events_is_folded(events: list[Event], begun: bool) -> None:
    state = BUSY if begun else State()
    given_rules = rules()
    for number, event in enumerate(events):
        before = state
        state = fold(state, event, START + number)
        assert state.seq == before.seq + 1
        assert state.ledger.spent >= before.ledger.spent
        assert not (before.ledger.exact is False and state.ledger.exact)
        assert state.turns >= before.turns
        assert state.tool_calls >= before.tool_calls
        assert len({call.request_id for call in state.gate}) == len(state.gate)
        if before.phase is Phase.ENDED:
            turn = None if isinstance(event, Settled) else before.turn
            assert state == msgspec.structs.replace(before, seq=state.seq, turn=turn)
        else:
            assert (state.turn is not None) == (state.phase is Phase.BUSY) or state.phase is Phase.ENDED
        if before.turn is not None and before.turn.breach is not None and state.turn is not None:
            assert state.turn.breach == before.turn.breach
        # And whatever the state is, it can be decided upon, judged, and waited for.
        decide(state, given_rules, START + number)
        wake_at(state, given_rules)
        conclude(state)
        response_of(state)
        is_over(state)
        may_owe(state)


def test_stream_events_of_unknown_kinds_change_nothing() -> None:
    from cms.protocol.messages import ApiEvent

    for kind in ("content_block_delta", "ping", "new", "message_start", "message_delta"):
        state = fold(BUSY, StreamEvent(ApiEvent(kind)), BUSY.last_heard)
        assert state == msgspec.structs.replace(BUSY, seq=BUSY.seq + 1)
