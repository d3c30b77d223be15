"""The verdict: each outcome, from what was seen; and no `completed` for work that was not done."""

from __future__ import annotations

import pytest

from cms.errors import ExitCode
from cms.protocol.messages import Event, Init, RateLimitEvent, RateLimitInfo, TextBlock
from cms.session.fold import fold
from cms.session.model import Denial, Interaction, InteractionState, Outcome, Receipt, Walls, exit_code_of
from cms.session.state import Began, Breach, Breached, Ended, Judged, Opened, State
from cms.session.verdict import Conclusion, conclude, judge_delegation, response_of
from session.world import (
    IDLE,
    RUNNING,
    START,
    hook,
    result,
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
    assert "1 tool call(s) refused" in found.reasons


def test_reading_and_delegating_are_no_acts() -> None:
    nothing = [*done("1", "Read"), *done("2", "TodoWrite"), *done("3", "Agent")]
    assert verdict(REPLY, *nothing, *refused("4", "Write"), result(0.1), IDLE).outcome is Outcome.NEEDS_INPUT


def test_an_act_that_failed_is_no_act() -> None:
    failed = [hook("1", "Edit"), Judged("1"), tool_result("1", error=True)]
    assert verdict(REPLY, *failed, *refused("2", "Write"), result(0.1), IDLE).outcome is Outcome.NEEDS_INPUT


def test_having_acted_it_is_completed_and_the_refusals_are_told() -> None:
    found = verdict(REPLY, *refused("1", "Bash"), *done("2", "Edit"), result(0.1), IDLE)
    assert found == Conclusion(Outcome.COMPLETED, "", ("1 tool call(s) refused",))


def test_a_refused_read_takes_nothing_from_a_task_that_only_reads() -> None:
    found = verdict(REPLY, *done("1", "Read"), *refused("2", "Read"), result(0.1), IDLE)
    assert found.outcome is Outcome.COMPLETED
    assert found.reasons == ("1 tool call(s) refused",)


def test_an_answer_that_no_model_gave_says_so() -> None:
    found = verdict(result(0.0, "", terminal_reason=None), IDLE)
    assert found.outcome is Outcome.COMPLETED
    assert any("the model was not asked" in reason for reason in found.reasons)


# --- what is told beside it -----------------------------------------------------------------------


def test_what_still_runs_is_told() -> None:
    found = verdict(REPLY, tasks("local_bash", "monitor"), result(0.1), IDLE)
    assert found.outcome is Outcome.COMPLETED
    assert found.reasons == ("still running in the background: task 0, task 1",)
    breach = Breached(Breach(Outcome.TIME_EXCEEDED, "late", START))
    alive = verdict(REPLY, tasks("local_agent"), breach)
    assert "subagents still at work: task 0" in alive.reasons


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
        (work(CHECKING), CLEAN, (), "gone", UNCHECKED, Outcome.INTERRUPTED, "never finished: gone"),
        (work(CHECKING), TRIPPED, (), "", DONE, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (work(CHECKING), TRIPPED, FAILED, "", DONE, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (work(CHECKING), TRIPPED, (), "gone", DONE, Outcome.PROTECTED_PATH, "/x/.git/config"),
        (work(CHECKING), LEFT, (), "", DONE, Outcome.FAILED, "processes are left: 7 sleep"),
        (work(CHECKING), LEFT, (), "gone", DONE, Outcome.FAILED, "processes are left: 7 sleep"),
        (work(CHECKING), BLIND, (), "", DONE, Outcome.FAILED, "could not be looked at: a folder hangs"),
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
    assert "not known whether a protected path changed" in " ".join(judged.reasons)
