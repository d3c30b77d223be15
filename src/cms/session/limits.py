"""What a session may use: cost, turns, tool calls, time, silence, repetition. Pure.

- Cost is looked at before each tool call, with a meter reading that covers the reply that made the call. The
  next API call would come after the call's result, so refusing here is refusing that next call: the cost at
  the end passes the limit by at most the one call that reached it. Subagents' replies are not streamed to us;
  for their calls the reading is from when the call arrived, and each running subagent may add one call of its
  own to the bound. claude's own `--max-budget-usd` stands behind this as a second lock.
- Between tool calls the meter is read after each reply and every `METER_EVERY` seconds while something runs.
- A meter that gives no figure for `METER_PATIENCE`, be it silent or in error, ends the interaction: an
  unknown cost is a breach.
- Shared budgets (session.budget) hold in the same way: what the interaction was granted is its limit until
  it gets more. A call waits at the gate while more is being asked for, and for `BUDGET_PATIENCE` when what is
  left is reserved by others; then the interaction ends.
- Turns and tool calls are counted at the gate, time and silence by the clock.
- Work without progress is stopped as stalled: silence, the same tool call again and again
  (session.repetition), an API that fails and fails (its retries are lines, so they are no silence).
- A final reply that passes the cost limit does not undo the work: nothing more would have been spent.

What follows from a limit that was passed is for `session.decide`.
"""

from __future__ import annotations

from cms.session.gate import Rules, awaits_person
from cms.session.ledger import EPSILON
from cms.session.model import Limits, Outcome
from cms.session.state import Breach, PendingCall, Phase, State, is_over, more_to_come, out_of_budget
from cms.units import money

METER_EVERY = 2.0
METER_PATIENCE = 30.0
BUDGET_EVERY = 1.0
BUDGET_PATIENCE = 20.0  # well below the time-out of a hook, after which claude goes on without us


def _meter_until(state: State) -> float | None:
    """Until when the meter must have given a figure; None if it owes none."""
    if state.unread_since is None or state.turn is None:
        return None
    return max(state.unread_since, state.turn.started) + METER_PATIENCE


def _cost_matters(state: State, rules: Rules) -> bool:
    """Whether anything depends on what the interaction in flight costs."""
    return rules.limits.max_cost is not None or (
        state.turn is not None and state.turn.allowance.amount is not None
    )


def _silent_at(state: State, rules: Rules) -> float | None:
    """When claude has been silent for too long; None: no limit. To wait for a person is no silence."""
    if rules.limits.max_silence is None:
        return None
    waits = (call.at + rules.ask_timeout for call in state.gate if awaits_person(call, rules))
    return max([state.last_heard, *waits]) + rules.limits.max_silence


def _retry_until(state: State, rules: Rules) -> float | None:
    """Until when the API must have answered; None if it does, or no limit was set."""
    turn = state.turn
    if turn is None or turn.retry is None or rules.limits.max_retry_time is None:
        return None
    return turn.retry_since + rules.limits.max_retry_time


def find_breach(state: State, rules: Rules, now: float) -> Breach | None:
    """The first limit that the interaction in flight has passed, or None."""
    turn, limits = state.turn, rules.limits
    if turn is None or is_over(state):
        return None
    hooks = [call for call in state.gate if call.kind == "hook"]
    spent = state.ledger.spent
    if limits.max_cost is not None and spent >= limits.max_cost - EPSILON and more_to_come(state):
        return Breach(Outcome.COST_EXCEEDED, f"{money(spent)} spent of {money(limits.max_cost)}", now)
    allowance = turn.allowance
    if (
        allowance.short
        and out_of_budget(state)
        and more_to_come(state)
        and (allowance.final or now >= allowance.short_since + BUDGET_PATIENCE)
    ):
        return Breach(Outcome.COST_EXCEEDED, allowance.short, now)
    # A call in the last turn asks for one turn more. (A subagent's calls are not turns of ours, but once the
    # turns are used up nothing may act any more.)
    used_up = limits.max_turns is not None and state.turns + bool(hooks) > limits.max_turns
    if used_up:
        return Breach(Outcome.TURNS_EXCEEDED, f"{state.turns} of {limits.max_turns} turns used", now)
    if limits.max_tool_calls is not None and state.tool_calls + len(hooks) > limits.max_tool_calls:
        return Breach(Outcome.TURNS_EXCEEDED, f"all {limits.max_tool_calls} allowed tool calls used", now)
    if limits.max_time is not None and now >= turn.since + limits.max_time:
        return Breach(Outcome.TIME_EXCEEDED, f"{limits.max_time:g} s are over", now)
    until = _silent_at(state, rules)
    if until is not None and now >= until:
        return Breach(Outcome.STALLED, f"no sign of life for {limits.max_silence:g} s", now)
    if turn.retry is not None and turn.retry.error_status in (401, 403):
        return Breach(
            Outcome.FAILED,
            f"the API refused the credentials ({turn.retry.error_status}): log in again or fix the key",
            now,
            turn.retry.error_status,
        )
    until = _retry_until(state, rules)
    if until is not None and now >= until:
        why = f"the API has not answered for {limits.max_retry_time:g} s"
        against = turn.retry.error_status if turn.retry is not None else None
        return Breach(Outcome.STALLED, why, now, against)
    if limits.max_repeats is not None:
        for repetition in turn.repetitions.values():
            if repetition.count > limits.max_repeats:
                times = f"{limits.max_repeats} times in a row"
                return Breach(Outcome.STALLED, f"no progress: the same {repetition.tool} call {times}", now)
    until = _meter_until(state)
    if _cost_matters(state, rules) and until is not None and now >= until:
        return Breach(Outcome.COST_EXCEEDED, "claude no longer reports what it has spent", now)
    return None


def used_up(state: State, limits: Limits) -> tuple[Outcome, str] | None:
    """Why no further turn may begin; None if one may."""
    return spent_up(state.ledger.spent, state.turns, limits)


def spent_up(spent: float, turns: int, limits: Limits) -> tuple[Outcome, str] | None:
    """The same of a session that has spent so much and had so many turns."""
    if limits.max_cost is not None and spent >= limits.max_cost:
        return Outcome.COST_EXCEEDED, f"{money(spent)} of {money(limits.max_cost)} were spent before"
    if limits.max_turns is not None and turns >= limits.max_turns:
        return Outcome.TURNS_EXCEEDED, f"{turns} of {limits.max_turns} turns were used before"
    return None


def limits_due(state: State, rules: Rules) -> list[float]:
    """When each limit of time would be passed by the interaction in flight if nothing happened."""
    turn, limits = state.turn, rules.limits
    if turn is None:
        return []
    times = []
    if _cost_matters(state, rules) and (until := _meter_until(state)) is not None:
        times.append(until)
    if (until := _retry_until(state, rules)) is not None:
        times.append(until)
    if limits.max_time is not None:
        times.append(turn.since + limits.max_time)
    if (until := _silent_at(state, rules)) is not None:
        times.append(until)
    return times


# --- what the gate waits for, and who asks for it -------------------------------------------------


def is_metered(state: State, rules: Rules, call: PendingCall) -> bool:
    """Whether the meter's last reading covers everything that led to this call."""
    if not _cost_matters(state, rules):
        return True
    return call.complete is not None and state.metered_seq >= call.complete


def asks_budget_at(state: State) -> float | None:
    """When to ask again for more of the shared budgets, or None. The first question goes with each charge."""
    turn = state.turn
    if turn is None or turn.allowance.asked or turn.allowance.final or not out_of_budget(state):
        return None
    return turn.allowance.asked_at + BUDGET_EVERY


def wants_meter(state: State, now: float) -> bool:
    """A reply has ended since the last reading, or the reading grows old while something runs."""
    if state.phase is not Phase.BUSY or state.asked_seq is not None:
        return False
    if now >= state.asked_at + METER_EVERY:
        return True
    # After an answer without a figure only time brings the next question, else the two go round and round.
    if state.unread_since is not None:
        return False
    metered = state.metered_seq
    return state.reply_seq > metered or any((call.complete or 0) > metered for call in state.gate)
