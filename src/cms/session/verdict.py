"""How an interaction ended: the verdict, drawn from what was seen and not from what was said. Pure.

- A breach is the outcome, whatever claude said after it; a plan that was asked for is complete.
- A result that calls itself a success is none if claude reports an error, ended its turn for another reason
  than being done, or asked to act, was refused each time, and did nothing.
- What was refused and what still runs is told with every outcome.
"""

from __future__ import annotations

import msgspec

from cms.protocol.tools import OWN_TOOLS, READ_TOOLS
from cms.session.model import Outcome
from cms.session.state import State, agents, is_over, shells

#: `terminal_reason`s of a turn that the model itself brought to its end (a command of claude's has none).
_FINISHED = frozenset({"completed", "stop_hook_prevented"})
#: Tools whose refusal takes nothing from the work.
_NO_ACT = frozenset({*READ_TOOLS, *OWN_TOOLS})


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


def conclude(state: State) -> Conclusion:
    """The verdict on the interaction in flight, from what was seen and not from what was said."""
    turn = state.turn
    if turn is None:
        return Conclusion(Outcome.FAILED, "nothing was in flight")
    reasons: list[str] = []
    if turn.denials:
        reasons.append(f"{len(turn.denials)} tool call(s) refused")
    left = shells(state)
    if left:
        reasons.append(f"still running in the background: {', '.join(left)}")
    if (alive := agents(state)) and not is_over(state):
        reasons.append(f"subagents still at work: {', '.join(alive)}")
    breach, result = turn.breach, turn.result
    if breach is not None and breach.outcome is not Outcome.COMPLETED:
        return Conclusion(breach.outcome, breach.reason, (breach.reason, *reasons))
    if result is None:
        return Conclusion(Outcome.INTERRUPTED, "it did not come to an end", tuple(reasons))
    if breach is not None:
        # What was wanted was there before the turn was ended; how it ended does not matter.
        return Conclusion(Outcome.COMPLETED, "", tuple(reasons))
    if result.subtype == "error_max_budget_usd":
        error = f"${state.ledger.spent:.4f} spent: claude's own lock closed"
        return Conclusion(Outcome.COST_EXCEEDED, error, (error, *reasons))
    if result.subtype == "error_max_turns":
        error = f"{state.turns} turns used: claude's own lock closed"
        return Conclusion(Outcome.TURNS_EXCEEDED, error, (error, *reasons))
    if result.is_error:
        said = result.result or " ".join(result.errors) or result.subtype.removeprefix("success")
        error = said.strip() or "claude reported an error and did not say which"
        limited = result.api_error_status == 429 or (
            state.rate_limit is not None and state.rate_limit.status == "rejected"
        )
        if state.api_key_source == "none" and "logged in" in error.lower():
            error += " (run `claude` once and log in, or set ANTHROPIC_API_KEY)"
        outcome = Outcome.RATE_LIMITED if limited else Outcome.FAILED
        if (result.terminal_reason or "").startswith("aborted"):
            outcome, error = Outcome.INTERRUPTED, "interrupted"
        return Conclusion(outcome, error, tuple(reasons))
    if (result.terminal_reason or "completed") not in _FINISHED:
        error = f"claude ended its turn before the work was done ({result.terminal_reason})"
        return Conclusion(Outcome.FAILED, error, (error, *reasons))
    if not turn.acted and any(d.tool not in _NO_ACT for d in turn.denials):
        # It asked to act, was refused each time, and says it is done: it did nothing.
        error = "every tool call that would have changed something was refused"
        return Conclusion(Outcome.NEEDS_INPUT, error, (error, *reasons))
    if not turn.turns:
        reasons.append("claude answered by itself: the model was not asked")
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
