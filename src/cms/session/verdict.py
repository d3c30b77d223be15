"""How an interaction ended: the verdict, drawn from what was seen and not from what was said. Pure.

- A breach is the outcome, whatever claude said after it; a plan that was asked for is complete.
- A result that calls itself a success is none if claude reports an error or ended its turn for another reason
  than being done, if the model was asked nothing or answered nothing, or if something that would have changed
  something was refused (by whomever), and nothing was changed.
- What was refused and what still runs is told with every outcome.
- A delegation's message is judged once more when its process has ended, and only then it is `completed`: a
  check that failed makes it `verification_failed`, one that was never finished `interrupted`, a protected
  path that changed `protected_path` (where a violation stops the work), and processes that are left, whatever
  else is true, `failed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

from cms.session.model import (
    DelegateResult,
    Interaction,
    InteractionState,
    Judgement,
    OnViolation,
    Outcome,
    Receipt,
    Safety,
    SessionRecord,
    SessionStatus,
    Violation,
)
from cms.session.next_step import next_step
from cms.session.rounds import together, told
from cms.session.state import Phase, State, Turn, agents, is_over, shells
from cms.units import money, plural

#: `terminal_reason`s of a turn that the model itself brought to its end (a command of claude's has none).
_FINISHED = frozenset({"completed", "stop_hook_prevented"})
#: How the model's last reply ends where it is whole. (`pause_turn`, `refusal`, `max_tokens` and the like are
#: cut off. claude asks again after some of them, and takes the rest, known or not, for an end.)
_WHOLE = frozenset({"", "end_turn", "stop_sequence", "tool_use"})
#: How claude says that there is no such command of its own, or none here.
_UNKNOWN = re.compile(r"Unknown (slash )?command|Unknown skill|/\S+ isn't available in this environment")


#: Of a task with a JSON Schema.
NO_SHAPE: Final = "it gave no answer that matches the schema (--json-schema)"
#: What claude says before it says why an answer did not fit, when it has given up.
_NO_FIT: Final = "does not match required schema:"
NOT_ASKED: Final = "claude answered by itself without asking the model"


class Conclusion(msgspec.Struct, frozen=True):
    """How an interaction ended, and what that rests on."""

    outcome: Outcome
    error: str = ""
    reasons: tuple[str, ...] = ()


def api_part(state: State) -> tuple[int | None, float | None]:
    """The API's part in how the interaction in flight ended: its HTTP status, and when its usage limit ends.

    Who is not logged in never reached the API; that reads as the 401 that it would have been.
    """
    turn = state.turn
    if turn is None:
        return None, None
    if turn.breach is not None:
        return turn.breach.api_status, None
    result = turn.result
    if result is None or not result.is_error:
        return None, None
    status = result.api_error_status
    if status is None and state.api_key_source == "none" and "logged in" in (result.result or "").lower():
        status = 401
    limit = state.rate_limit
    rejected = limit is not None and limit.status == "rejected"
    return status, limit.resetsAt if limit is not None and rejected else None


def conclude(state: State, *, end: str = "", failure: str = "") -> Conclusion:
    """The verdict on the interaction in flight, from what was seen and not from what was said.

    Args:
        end: why its process has ended, if it has.
        failure: what went wrong in cms itself, if something did.
    """
    turn = state.turn
    if turn is None:
        return Conclusion(Outcome.FAILED, "nothing was running")
    reasons: list[str] = []
    if turn.denials:
        reasons.append(f"{plural(len(turn.denials), 'tool call')} refused")
    left = shells(state)
    if left:
        reasons.append(f"still running in the background: {', '.join(left)}")
    if (alive := agents(state)) and not is_over(state):
        reasons.append(f"subagents still running: {', '.join(alive)}")
    if turn.unheeded:
        reasons.append(f"claude {state.version} went on after it was told to end its turn; do not rely on it")
    reasons += [f"an MCP server was not there: {one}" for one in state.servers_down]
    breach, result = turn.breach, turn.result
    if breach is not None and breach.outcome is not Outcome.COMPLETED:
        return Conclusion(breach.outcome, breach.reason, (breach.reason, *reasons))
    if breach is None and failure:
        return Conclusion(Outcome.FAILED, failure, tuple(reasons))
    if result is None or (breach is None and state.phase is Phase.ENDED):
        return Conclusion(Outcome.INTERRUPTED, end or "it did not end", tuple(reasons))
    if breach is not None:
        # What was wanted was there before the turn was ended; how it ended does not matter.
        return Conclusion(Outcome.COMPLETED, "", tuple(reasons))
    if result.subtype == "error_max_budget_usd":
        error = f"{money(state.ledger.spent)} spent: stopped by claude's own limit"
        return Conclusion(Outcome.COST_EXCEEDED, error, (error, *reasons))
    if result.subtype == "error_max_turns":
        error = f"{state.turns} turns used: stopped by claude's own limit"
        return Conclusion(Outcome.TURNS_EXCEEDED, error, (error, *reasons))
    if result.subtype == "error_max_structured_output_retries":
        why = " ".join(result.errors).rpartition(_NO_FIT)[2].strip()
        return Conclusion(Outcome.FAILED, f"{NO_SHAPE}: {why}" if why else NO_SHAPE, tuple(reasons))
    if result.is_error:
        said = result.result or " ".join(result.errors) or result.subtype.removeprefix("success")
        error = said.strip() or "claude reported an error without saying which"
        limited = result.api_error_status == 429 or (
            state.rate_limit is not None and state.rate_limit.status == "rejected"
        )
        if state.api_key_source == "none" and "logged in" in error.lower():
            error += " (run `claude` and log in, or set ANTHROPIC_API_KEY)"
        outcome = Outcome.RATE_LIMITED if limited else Outcome.FAILED
        if (result.terminal_reason or "").startswith("aborted"):
            outcome, error = Outcome.INTERRUPTED, "interrupted"
        return Conclusion(outcome, error, tuple(reasons))
    if (result.terminal_reason or "completed") not in _FINISHED:
        error = f"claude ended its turn before the work was done ({result.terminal_reason})"
        return Conclusion(Outcome.FAILED, error, (error, *reasons))
    if (result.stop_reason or "") not in _WHOLE:
        error = f"the model's last reply was cut off ({result.stop_reason})"
        return Conclusion(Outcome.FAILED, error, (error, *reasons))
    return _conclude_success(turn, reasons)


def _conclude_success(turn: Turn, reasons: list[str]) -> Conclusion:
    """The verdict on a turn that claude says has come to its own end."""
    said = " ".join(turn.texts)
    if not turn.asked:
        reasons.insert(0, NOT_ASKED)
        if turn.blocked or not turn.command or _UNKNOWN.match(said):
            error = turn.blocked or (said if turn.command else "") or NOT_ASKED
            return Conclusion(Outcome.FAILED, error, tuple(reasons))
        return Conclusion(Outcome.COMPLETED, "", tuple(reasons))
    if turn.refused and not turn.acted:
        # It asked to act, was refused each time, and says it is done: it did nothing.
        error = "every tool call that would have changed something was refused"
        return Conclusion(Outcome.NEEDS_INPUT, error, (error, *reasons))
    if not turn.answered:
        error = "the model gave no answer"
        return Conclusion(Outcome.FAILED, error, (error, *reasons))
    return Conclusion(Outcome.COMPLETED, "", tuple(reasons))


def response_of(state: State) -> str:
    """The text that answers the interaction in flight: one paragraph per result, or the plan."""
    turn = state.turn
    if turn is None:
        return ""
    texts = list(turn.texts)
    if turn.last_text and turn.last_text not in texts:
        texts.append(turn.last_text)
    if turn.plan:
        texts.append(turn.plan)
    return "\n\n".join(texts)


# --- a delegation ---------------------------------------------------------------------------------


def judge_delegation(
    work: Interaction,
    receipt: Receipt | None,
    *,
    on_violation: OnViolation,
    misfit: str = "",
    failed_checks: Sequence[str] = (),
    judge: Judgement | None = None,
    cut_off: str = "",
) -> Interaction:
    """The message of a delegation with its verdict.

    Judging twice changes nothing.

    Args:
        work: the message as it stands when its work has ended.
        receipt: how its process ended; None: nobody saw it.
        misfit: why its answer is none of the shape that was asked for; "": it is, or none was.
        failed_checks: a line for each; the judge's word that it is not good is one.
        judge: what it said, if it was asked.
        cut_off: why the delegation did not come to its own end, or its checks did not; "": they did.
    """
    outcome, error, reasons = work.outcome or Outcome.INTERRUPTED, work.error, list(work.reasons)
    unjudged = work.state in (InteractionState.CHECKING, InteractionState.UNCHECKED)
    if unjudged:
        outcome, error = Outcome.COMPLETED, ""
    if unjudged and misfit:
        outcome, error = Outcome.FAILED, misfit
        work = msgspec.structs.replace(work, output="")
    elif unjudged and cut_off and not failed_checks:
        outcome, error = Outcome.INTERRUPTED, f"its checks did not finish: {cut_off}"
    elif outcome is Outcome.COMPLETED and failed_checks:
        outcome, error = Outcome.VERIFICATION_FAILED, failed_checks[0]
        reasons += failed_checks
    walls = None if receipt is None else receipt.walls
    if receipt is not None and not receipt.empty:
        outcome, error = Outcome.FAILED, f"processes are left: {', '.join(receipt.left) or 'unknown'}"
        reasons.append(error)
    elif walls is not None and walls.changed and on_violation == "stop":
        outcome, error = Outcome.PROTECTED_PATH, f"protected, and changed: {walls.changed[0]}"
    elif walls is not None and walls.unchecked and outcome is Outcome.COMPLETED:
        outcome, error = Outcome.FAILED, f"the protected paths could not be checked: {walls.unchecked}"
    if walls is not None:
        reasons += walls.reasons
    elif unjudged:
        reasons.append("it is unknown whether a protected path changed: cms ended unexpectedly")
    if cut_off and not reasons and outcome is Outcome.INTERRUPTED:
        reasons.append("cancelled")
    state = work.state
    if unjudged:
        state = InteractionState.UNCHECKED if outcome is Outcome.INTERRUPTED else InteractionState.DONE
    return msgspec.structs.replace(
        work,
        state=state,
        outcome=outcome,
        error=error,
        is_error=outcome is not Outcome.COMPLETED,
        reasons=tuple(dict.fromkeys(reasons)),
        judge=judge or work.judge,
    )


def status_of(outcome: Outcome) -> SessionStatus:
    """The status of a session whose delegation ended so."""
    if outcome is Outcome.COMPLETED:
        return SessionStatus.COMPLETED
    return SessionStatus.FAILED if outcome is Outcome.FAILED else SessionStatus.STOPPED


def delegate_result(
    rounds: Sequence[Interaction],
    session: SessionRecord,
    receipt: Receipt | None,
    *,
    has_conversation: bool,
    judges: Sequence[SessionRecord] = (),
) -> DelegateResult:
    """What a delegation gives to whoever waits for it. Nothing is decided here.

    Args:
        rounds: all of them, the last as it was judged.
        has_conversation: there is one to go on with.
        judges: the sessions that judged it.
    """
    judged = together(rounds)
    outcome = judged.outcome or Outcome.INTERRUPTED
    violations = tuple(Violation(f"{d.tool}: {d.reason}") for d in judged.denials if d.violation)
    if receipt is not None and receipt.walls is not None:
        violations += tuple(Violation(f"tripwire: {one}") for one in receipt.walls.changed)
    return DelegateResult(
        status=outcome,
        name=session.name,
        response=judged.response,
        error=judged.error or None,
        cost=judged.cost + sum(one.total_cost_usd for one in judges),
        turns=judged.turns,
        duration=round(judged.duration * 1000),
        tools_used=judged.tools_used,
        can_continue=has_conversation and outcome not in (Outcome.COST_EXCEEDED, Outcome.TURNS_EXCEEDED),
        safety=Safety(session.options.safety, len(violations), violations, judged.denials),
        reasons=judged.reasons,
        questions=judged.questions,
        session_id=session.id,
        cost_exact=judged.cost_exact and all(one.cost_exact for one in judges),
        tool_calls=judged.tool_calls,
        receipt=receipt,
        api_status=judged.api_status,
        resets_at=judged.resets_at,
        output=judged.output,
        judge=judged.judge,
        rounds=told(rounds),
        repairable=bool(judged.repair) and has_conversation,
        change=session.change,
        verified=session.options.verify if outcome is Outcome.COMPLETED else (),
        next_step=next_step(session, judged, has_conversation=has_conversation),
    )
