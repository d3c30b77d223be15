"""The verdict: each outcome, from what was seen; and no `completed` for work that was not done."""

from __future__ import annotations

import msgspec
import pytest

from cms.errors import ExitCode
from cms.protocol.messages import (
    DeniedCall,
    Event,
    Informational,
    Init,
    PermissionDenied,
    RateLimitEvent,
    RateLimitInfo,
    TextBlock,
)
from cms.session.fold import fold
from cms.session.model import Denial, Interaction, InteractionState, Outcome, Receipt, Walls, exit_code_of
from cms.session.state import Began, Breach, Breached, Ended, Judged, Opened, State
from cms.session.verdict import NOT_ASKED, Conclusion, conclude, judge_delegation, response_of
from session.world import (
    IDLE,
    RUNNING,
    START,
    World,
    calls,
    hook,
    permission,
    raw,
    result,
    rules,
    says,
    started,
    tasks,
    tool_result,
)

ASK = [Opened(0.0, {}), Began("i"), RUNNING, started()]
REPLY = says("text", "m1")


def state_after(*events: Event) -> State:
    state = State()
    for event in (*ASK, *events):
        state = fold(state, event, START)
    return state


def verdict(*events: Event) -> Conclusion:
    return conclude(state_after(*events))


def refused(key: str, tool: str) -> list[Event]:
    return [hook(key, tool), Judged(key, Denial(tool, "x", "no")), tool_result(key, error=True)]


def done(key: str, tool: str) -> list[Event]:
    return [hook(key, tool), Judged(key), tool_result(key)]


def test_completed() -> None:
    assert verdict(REPLY, result(0.1), IDLE) == Conclusion(Outcome.COMPLETED)
    assert verdict(REPLY, *done("1", "Write"), result(0.1), IDLE) == Conclusion(Outcome.COMPLETED)


@pytest.mark.parametrize("outcome", [one for one in Outcome if one is not Outcome.COMPLETED])
def test_a_breach_is_the_outcome_whatever_claude_said_afterwards(outcome: Outcome) -> None:
    breach = Breached(Breach(outcome, "because", START))
    for after in (
        [],
        [result(0.1)],
        [result(0.1, is_error=True, terminal_reason="aborted_tools")],
        [Ended(1, exact=True)],
    ):
        found = verdict(REPLY, breach, *after)
        assert (found.outcome, found.error) == (outcome, "because")
        assert found.reasons[0] == "because"


def test_a_plan_is_completed_however_the_turn_was_ended() -> None:
    breach = Breached(Breach(Outcome.COMPLETED, "the plan is complete", START))
    assert (
        verdict(REPLY, breach, result(0.1, "", terminal_reason="hook_stopped")).outcome is Outcome.COMPLETED
    )
    aborted = result(
        0.1, None, is_error=True, subtype="error_during_execution", terminal_reason="aborted_tools"
    )
    assert verdict(REPLY, breach, aborted).outcome is Outcome.COMPLETED
    assert verdict(REPLY, breach).outcome is Outcome.INTERRUPTED, "it never came to an end"


def test_without_a_result_it_was_interrupted() -> None:
    assert verdict(REPLY).outcome is Outcome.INTERRUPTED
    assert verdict(REPLY, Ended(-9, exact=False)).outcome is Outcome.INTERRUPTED
    assert conclude(State()).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("subtype", "outcome"),
    [
        ("error_max_budget_usd", Outcome.COST_EXCEEDED),
        ("error_max_turns", Outcome.TURNS_EXCEEDED),
        ("error_during_execution", Outcome.FAILED),
        ("error_max_structured_output_retries", Outcome.FAILED),
        ("error_of_a_new_kind", Outcome.FAILED),
    ],
)
def test_claudes_own_locks_and_errors(subtype: str, outcome: Outcome) -> None:
    found = verdict(REPLY, result(0.1, None, subtype=subtype, is_error=True, errors=("what happened",)), IDLE)
    assert found.outcome is outcome
    assert found.error


def test_that_claude_gave_up_on_a_shape_is_said_in_our_words() -> None:
    said = "last StructuredOutput error: Output does not match required schema: /a: must be integer"
    errors = (f"Failed to provide valid structured output after 5 attempts — {said}",)
    subtype = "error_max_structured_output_retries"
    found = verdict(REPLY, result(0.1, None, subtype=subtype, is_error=True, errors=errors), IDLE)
    why = "it gave no answer that matches the schema (--json-schema): /a: must be integer"
    assert (found.outcome, found.error) == (Outcome.FAILED, why)


@pytest.mark.parametrize("reason", ["aborted_streaming", "aborted_tools"])
def test_an_aborted_turn_was_interrupted(reason: str) -> None:
    aborted = result(0.1, None, subtype="error_during_execution", is_error=True, terminal_reason=reason)
    assert verdict(REPLY, aborted).outcome is Outcome.INTERRUPTED


def test_an_error_that_calls_itself_a_success_failed() -> None:
    found = verdict(
        result(0.1, "API Error: 500", is_error=True, terminal_reason="api_error", api_error_status=500)
    )
    assert (found.outcome, found.error) == (Outcome.FAILED, "API Error: 500")


@pytest.mark.parametrize("subtype", ["success", ""])
def test_an_error_without_words_still_has_some(subtype: str) -> None:
    found = verdict(result(0.1, "", subtype=subtype, is_error=True))
    assert found.outcome is Outcome.FAILED
    assert "error" in found.error


def test_rate_limits() -> None:
    assert verdict(result(0.0, "x", is_error=True, api_error_status=429)).outcome is Outcome.RATE_LIMITED
    rejected = RateLimitEvent(RateLimitInfo("rejected"))
    assert verdict(rejected, result(0.0, "x", is_error=True)).outcome is Outcome.RATE_LIMITED
    assert verdict(rejected, REPLY, result(0.1)).outcome is Outcome.COMPLETED
    allowed = RateLimitEvent(RateLimitInfo("allowed_warning"))
    assert verdict(rejected, allowed, result(0.0, "x", is_error=True)).outcome is Outcome.FAILED


def test_no_login_says_what_to_do() -> None:
    found = verdict(Init(apiKeySource="none"), result(0.0, "Not logged in", is_error=True))
    assert found.outcome is Outcome.FAILED
    assert "ANTHROPIC_API_KEY" in found.error


@pytest.mark.parametrize(
    "reason", ["hook_stopped", "prompt_too_long", "tool_deferred", "max_turns", "new_reason"]
)
def test_a_turn_that_did_not_come_to_its_own_end_is_not_completed(reason: str) -> None:
    """Stopped by a hook of the user's, say: `success`, no error, and the work is half done."""
    found = verdict(REPLY, result(0.1, "", terminal_reason=reason), IDLE)
    assert found.outcome is Outcome.FAILED
    assert reason in found.error


@pytest.mark.parametrize("reason", [None, "completed", "stop_hook_prevented"])
def test_a_turn_that_came_to_its_own_end(reason: str | None) -> None:
    assert verdict(REPLY, result(0.1, terminal_reason=reason), IDLE).outcome is Outcome.COMPLETED


# --- having done nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["Write", "Bash", "WebFetch", "mcp__x__y"])
def test_refused_each_time_it_wanted_to_act_it_did_nothing(tool: str) -> None:
    found = verdict(REPLY, *refused("1", tool), result(0.1), IDLE)
    assert found.outcome is Outcome.NEEDS_INPUT
    assert "1 tool call refused" in found.reasons


def test_reading_and_delegating_are_no_acts() -> None:
    nothing = [*done("1", "Read"), *done("2", "TodoWrite"), *done("3", "Agent")]
    assert verdict(REPLY, *nothing, *refused("4", "Write"), result(0.1), IDLE).outcome is Outcome.NEEDS_INPUT


def test_an_act_that_failed_is_no_act() -> None:
    failed = [hook("1", "Edit"), Judged("1"), tool_result("1", error=True)]
    assert verdict(REPLY, *failed, *refused("2", "Write"), result(0.1), IDLE).outcome is Outcome.NEEDS_INPUT


def test_having_acted_it_is_completed_and_the_refusals_are_told() -> None:
    found = verdict(REPLY, *refused("1", "Bash"), *done("2", "Edit"), result(0.1), IDLE)
    assert found == Conclusion(Outcome.COMPLETED, "", ("1 tool call refused",))


def test_a_refused_read_takes_nothing_from_a_task_that_only_reads() -> None:
    found = verdict(REPLY, *done("1", "Read"), *refused("2", "Read"), result(0.1), IDLE)
    assert found.outcome is Outcome.COMPLETED
    assert found.reasons == ("1 tool call refused",)


# --- asked nothing, or answering nothing -----------------------------------------------------------

COMMAND = [Opened(0.0, {}), Began("i", command=True), RUNNING, started()]


def command(*events: Event) -> Conclusion:
    state = State()
    for event in (*COMMAND, *events):
        state = fold(state, event, START)
    return conclude(state)


def test_a_message_that_was_kept_from_the_model_is_not_done() -> None:
    """A `UserPromptSubmit` hook of the user's, say: a result, no error, and no call of the API."""
    plain = result(0.0, "blocked by hook", terminal_reason=None)
    for told in ([], [Informational("blocked by hook: no", prevent_continuation=True)]):
        found = verdict(*told, plain, IDLE)
        assert found.outcome is Outcome.FAILED
        assert found.error
        assert NOT_ASKED in found.reasons
    found = command(Informational("blocked by hook: no", prevent_continuation=True), plain, IDLE)
    assert (found.outcome, found.error) == (Outcome.FAILED, "blocked by hook: no")


def test_a_command_of_claudes_own_asks_no_model_and_is_done() -> None:
    for text in ("", "Total cost: $0.01"):
        found = command(result(0.0, text, terminal_reason=None), IDLE)
        assert found == Conclusion(Outcome.COMPLETED, "", (NOT_ASKED,))
    unknown = command(result(0.0, "Unknown command: /nothing", terminal_reason=None), IDLE)
    assert (unknown.outcome, unknown.error) == (Outcome.FAILED, "Unknown command: /nothing")


def test_a_command_that_is_a_prompt_is_judged_like_one() -> None:
    assert command(REPLY, result(0.1), IDLE).outcome is Outcome.COMPLETED
    assert command(REPLY, *refused("1", "Write"), result(0.1), IDLE).outcome is Outcome.NEEDS_INPUT


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_who_answers_nothing_has_not_done_it(text: str | None) -> None:
    for work in ([says("", "m1")], [REPLY, *done("1", "Write")]):
        found = verdict(*work, result(0.1, text), IDLE)
        assert (found.outcome, found.error) == (Outcome.FAILED, "the model gave no answer")


def test_an_answer_of_the_shape_that_was_asked_for_is_one() -> None:
    shaped = result(0.1, "", structured_output=msgspec.Raw(b'{"a":1}'))
    assert verdict(says("", "m1"), shaped, IDLE).outcome is Outcome.COMPLETED


def test_one_answer_of_several_is_enough() -> None:
    assert verdict(REPLY, result(0.1), result(0.2, ""), IDLE).outcome is Outcome.COMPLETED


def test_what_an_unasked_turn_said_is_no_answer() -> None:
    """A background task's end begins a turn before ours is begun."""
    state = State()
    for event in (Opened(0.0, {}), Began("i"), RUNNING, REPLY, started(), result(0.0, "no"), IDLE):
        state = fold(state, event, START)
    assert conclude(state).outcome is Outcome.FAILED


# --- refused by somebody else -----------------------------------------------------------------------


def test_what_a_hook_of_the_users_permitted_meanwhile_was_done() -> None:
    """claude asks its own hooks and us at once, and takes the answer that comes first."""
    refused = [hook("1", "Bash", {"command": "touch a"}), permission("p1", "Bash", {"command": "touch a"})]
    world = World(rules()).see(REPLY, *refused, tool_result("1"), result(), IDLE)
    (done,) = world.settled
    assert (done.outcome, done.reasons) == (Outcome.COMPLETED, ())
    world = World(rules()).see(REPLY, *refused, tool_result("1", error=True), result(), IDLE)
    (done,) = world.settled
    assert (done.outcome, done.reasons[1:]) == (Outcome.NEEDS_INPUT, ("1 tool call refused",))


def test_what_claude_refuses_after_the_gate_let_it_through() -> None:
    """By the user's own rule or hook; told with the result, by the call's answer, or by a line of its own."""
    let = [hook("1", "Write"), Judged("1")]
    error = tool_result("1", error=True)
    meta = msgspec.structs.replace(
        error, tool_result_meta=raw([{"id": "use-1", "non_execution_kind": "permission-rule"}])
    )
    told = result(0.1, permission_denials=(DeniedCall("Write", "use-1"),))
    line = PermissionDenied("Write", "use-1", "no")
    for events in (
        [error, told],
        [meta, told],
        [meta, result(0.1)],
        [line, error, told],
    ):
        state = state_after(REPLY, calls("1", "Write"), *let, *events, IDLE)
        assert state.turn is not None
        (denial,) = state.turn.denials
        assert (denial.tool, denial.by) == ("Write", "claude")
        assert conclude(state).outcome is Outcome.NEEDS_INPUT


def test_a_tool_that_a_rule_takes_away_is_refused_before_the_gate() -> None:
    state = state_after(REPLY, calls("1", "Write"), tool_result("1", error=True), result(0.1), IDLE)
    assert state.turn is not None
    assert [one.tool for one in state.turn.denials] == ["Write"]
    assert conclude(state).outcome is Outcome.NEEDS_INPUT


@pytest.mark.parametrize(
    ("tool", "given", "hidden"),
    [
        ("Bash", {"command": "ls -l src"}, False),
        ("Bash", {"command": "git status"}, False),
        ("Bash", {"command": "git diff --output=x"}, True),
        ("Bash", {"command": "ls > files"}, True),
        ("Bash", {"command": "cat a; make"}, True),
        ("Bash", {"command": "make"}, True),
        ("WebFetch", {"url": "http://x"}, False),
        ("Edit", {"file_path": "a"}, True),
    ],
)
def test_a_harmless_call_does_not_hide_that_every_change_was_refused(
    tool: str, given: dict[str, object], hidden: bool
) -> None:
    harmless = [hook("1", tool, given), Judged("1"), tool_result("1")]
    found = verdict(REPLY, *harmless, *refused("2", "Write"), result(0.1), IDLE)
    assert found.outcome is (Outcome.COMPLETED if hidden else Outcome.NEEDS_INPUT)


def test_a_plan_that_is_not_in_the_call_is_what_was_said() -> None:
    noted = [calls("1", "ExitPlanMode"), hook("1", "ExitPlanMode", {"x": 1}), Judged("1", noted=True)]
    denied = result(0.1, "That is it.", permission_denials=(DeniedCall("ExitPlanMode", "use-1"),))
    state = state_after(says("The plan.", "m1"), *noted, tool_result("1", error=True), denied, IDLE)
    assert conclude(state) == Conclusion(Outcome.COMPLETED)
    assert response_of(state) == "The plan.\n\nThat is it."
    assert state.turn is not None
    assert state.turn.denials == ()


def test_a_plan_that_the_hook_is_not_told_is_in_the_reply() -> None:
    call = calls("1", "ExitPlanMode", plan="Do this.")
    state = state_after(call, hook("1", "ExitPlanMode", {"x": 1}))
    assert state.gate[0].given.plan == "Do this."


# --- what is told beside it -----------------------------------------------------------------------


def test_what_still_runs_is_told() -> None:
    found = verdict(REPLY, tasks("local_bash", "monitor"), result(0.1), IDLE)
    assert found.outcome is Outcome.COMPLETED
    assert found.reasons == ("still running in the background: task 0, task 1",)
    breach = Breached(Breach(Outcome.TIME_EXCEEDED, "late", START))
    alive = verdict(REPLY, tasks("local_agent"), breach)
    assert "subagents still running: task 0" in alive.reasons


def test_a_server_that_was_not_there_is_told() -> None:
    servers = raw(
        [{"name": "a", "status": "failed"}, {"name": "b", "status": "connected"}, {"status": "new"}]
    )
    found = verdict(Init(mcp_servers=servers), REPLY, result(0.1), IDLE)
    assert found == Conclusion(Outcome.COMPLETED, "", ("an MCP server was not there: a (failed)",))
    assert verdict(Init(mcp_servers=raw({"new": 1})), REPLY, result(0.1), IDLE).reasons == ()


def test_every_outcome_has_an_exit_code_of_its_own() -> None:
    codes = [exit_code_of(outcome) for outcome in Outcome]
    assert len(set(codes)) == len(codes)
    assert exit_code_of(Outcome.COMPLETED) is ExitCode.COMPLETED
    assert [outcome for outcome in Outcome if exit_code_of(outcome) == 0] == [Outcome.COMPLETED]


# --- the answer -----------------------------------------------------------------------------------


def test_the_answer_is_one_paragraph_per_result() -> None:
    assert response_of(State()) == ""
    assert response_of(state_after(REPLY)) == "text"
    assert (
        response_of(state_after(REPLY, result(0.1, "one"), says("two", "m2"), result(0.2, "two")))
        == "one\n\ntwo"
    )
    assert response_of(state_after(REPLY, result(0.1, ""))) == "text"
    planned = state_after(hook("1", "ExitPlanMode"), Judged("1", plan="The plan."), result(0.1, ""))
    assert response_of(planned) == "The plan."


def test_what_was_said_before_the_work_was_cut_short_is_kept() -> None:
    cut = state_after(REPLY, result(0.1, None, is_error=True, subtype="error_during_execution"))
    assert response_of(cut) == "text"
    assert cut.turn is not None
    assert cut.turn.state is InteractionState.RUNNING
    assert TextBlock("text") in REPLY.blocks


# --- a delegation, when its process has ended --------------------------------------------------------

CLEAN = Receipt("over", empty=True, walls=Walls())
LEFT = Receipt("over", empty=False, left=("7 sleep",), walls=Walls(changed=("/x/.git/config",)))
TRIPPED = Receipt("over", empty=True, walls=Walls(changed=("/x/.git/config",)))
BLIND = Receipt("over", empty=True, walls=Walls(unchecked="a folder hangs"))
FAILED = ("check failed: pytest: exit status 1",)


def work(state: InteractionState, outcome: Outcome | None = None, error: str = "") -> Interaction:
    return Interaction(
        "i", "s", 1, "delegate", "go", START, state=state, outcome=outcome, error=error, ended=START
    )


CHECKING, UNCHECKED = InteractionState.CHECKING, InteractionState.UNCHECKED
DONE, INTERRUPTED = InteractionState.DONE, InteractionState.INTERRUPTED
CUT_OFF = work(UNCHECKED, Outcome.INTERRUPTED, "cut off before")
OVER_COST = work(INTERRUPTED, Outcome.COST_EXCEEDED, "$1 spent")


@pytest.mark.parametrize(
    ("one", "receipt", "failed", "cut_off", "state", "outcome", "error"),
    [
        (work(CHECKING), CLEAN, (), "", DONE, Outcome.COMPLETED, ""),
        (work(CHECKING), CLEAN, FAILED, "", DONE, Outcome.VERIFICATION_FAILED, FAILED[0]),
        (work(CHECKING), CLEAN, (), "gone", UNCHECKED, Outcome.INTERRUPTED, "did not finish: gone"),
        (work(CHECKING), TRIPPED, (), "", DONE, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (work(CHECKING), TRIPPED, FAILED, "", DONE, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (work(CHECKING), TRIPPED, (), "gone", DONE, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (work(CHECKING), LEFT, (), "", DONE, Outcome.FAILED, "processes are left: 7 sleep"),
        (work(CHECKING), LEFT, (), "gone", DONE, Outcome.FAILED, "processes are left: 7 sleep"),
        (work(CHECKING), BLIND, (), "", DONE, Outcome.FAILED, "could not be checked: a folder hangs"),
        (work(CHECKING), BLIND, FAILED, "", DONE, Outcome.VERIFICATION_FAILED, FAILED[0]),
        # After a crash: judged again, or cut off again.
        (CUT_OFF, None, (), "", DONE, Outcome.COMPLETED, ""),
        (
            CUT_OFF,
            None,
            FAILED,
            "",
            DONE,
            Outcome.VERIFICATION_FAILED,
            FAILED[0],
        ),
        (CUT_OFF, None, (), "gone", UNCHECKED, Outcome.INTERRUPTED, "gone"),
        # What the work came to by itself stays, unless it is worse than that.
        (OVER_COST, CLEAN, (), "", INTERRUPTED, Outcome.COST_EXCEEDED, "$1 spent"),
        (OVER_COST, CLEAN, (), "gone", INTERRUPTED, Outcome.COST_EXCEEDED, "$1 spent"),
        (OVER_COST, TRIPPED, (), "", INTERRUPTED, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (OVER_COST, LEFT, (), "", INTERRUPTED, Outcome.FAILED, "processes are left: 7 sleep"),
    ],
)
def test_a_delegation(
    one: Interaction,
    receipt: Receipt | None,
    failed: tuple[str, ...],
    cut_off: str,
    state: InteractionState,
    outcome: Outcome,
    error: str,
) -> None:
    judged = judge_delegation(one, receipt, on_violation="stop", failed_checks=failed, cut_off=cut_off)
    assert (judged.state, judged.outcome) == (state, outcome)
    assert error in judged.error
    assert bool(error) == bool(judged.error)
    assert judged.is_error == (outcome is not Outcome.COMPLETED)
    assert (judged.outcome is Outcome.COMPLETED) == (judge_is_clean(one, receipt, failed, cut_off))
    if state is not UNCHECKED:
        again = judge_delegation(judged, receipt, on_violation="stop", failed_checks=failed)
        assert again == judged
    for line in failed:
        assert (line in judged.reasons) == (one.state in (CHECKING, UNCHECKED) and not cut_off)


def judge_is_clean(one: Interaction, receipt: Receipt | None, failed: tuple[str, ...], cut_off: str) -> bool:
    """Work that ended well, every check through, nothing left, nothing protected changed or unseen."""
    seen = receipt is None or (receipt.empty and receipt.walls == Walls())
    return one.state in (CHECKING, UNCHECKED) and seen and not failed and not cut_off


def test_a_changed_path_only_tells_where_the_work_goes_on() -> None:
    judged = judge_delegation(work(CHECKING), TRIPPED, on_violation="deny")
    assert judged.outcome is Outcome.COMPLETED
    assert judged.reasons == ("protected, and changed while the session ran: /x/.git/config",)


def test_where_nobody_looked_that_is_told() -> None:
    judged = judge_delegation(CUT_OFF, None, on_violation="stop")
    assert "it is unknown whether a protected path changed" in " ".join(judged.reasons)


@pytest.mark.parametrize("stop", ["pause_turn", "refusal", "max_tokens", "a reason of a later model"])
def test_a_last_reply_that_was_cut_off_is_no_end(stop: str) -> None:
    """claude says of all of these that its turn is completed."""
    world = World(rules("full")).see(says("wait"), result(0.1, "wait", stop_reason=stop), IDLE)
    (ended,) = world.settled
    assert (ended.outcome, stop in ended.error) == (Outcome.FAILED, True)
    for whole in ("end_turn", "stop_sequence", "tool_use", None):
        world = World(rules("full")).see(says("done"), result(0.1, "done", stop_reason=whole), IDLE)
        assert world.settled[0].outcome is Outcome.COMPLETED


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\u200b \ufeff\n", "\u00a0", "\u2066\u2069"])
def test_an_answer_that_nobody_can_see_is_none(text: str) -> None:
    world = World(rules("full")).see(says("x"), result(0.1, text), IDLE)
    assert world.settled[0].error == "the model gave no answer"
