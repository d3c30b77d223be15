"""How a process comes up: what it is waited for, until when, and whether it is one that can be held. Pure.

- Limits of time count from the first second: a message that waits for the process to come up is given up when
  its `max_time` is over, or when the process has said nothing for `max_silence`.
- claude runs the user's own SessionStart hooks before it answers anything. It says so, and for as long as
  they run the time-out of the start does not: claude has one of its own for them.
- What safety rests on and only a turn shows is looked at when each begins: the version, the receipts for
  messages, and that claude tells whether it works or is idle. (That a refusal ends the turn is seen when it
  is needed: `Turn.unheeded`.)
"""

from __future__ import annotations

from cms.protocol.versions import standing
from cms.session.gate import Rules
from cms.session.model import Outcome
from cms.session.state import Breach, State


def waits_for(state: State) -> str:
    """What a process that is not up yet is doing, in a line."""
    hooks = ", ".join(dict.fromkeys(state.hooks.values()))
    return f"claude is starting: its own hook runs ({hooks})" if hooks else "claude is starting"


def limit_passed(state: State, rules: Rules, now: float) -> Breach | None:
    """The limit that the first message has passed before the process is up, or None."""
    limits, since = rules.limits, state.waits_since
    if since is None:
        return None
    if limits.max_time is not None and now >= since + limits.max_time:
        return Breach(Outcome.TIME_EXCEEDED, f"{limits.max_time:g} s are over, and {waits_for(state)}", now)
    if limits.max_silence is not None and now >= max(since, state.last_heard) + limits.max_silence:
        why = f"no sign of life for {limits.max_silence:g} s, and {waits_for(state)}"
        return Breach(Outcome.STALLED, why, now)
    return None


def must_be_up_by(state: State, rules: Rules) -> float | None:
    """When the process must have answered, or None as long as that is not for it to say."""
    return None if state.owes_since is None or state.hooks else state.owes_since + rules.start_timeout


def start_due(state: State, rules: Rules) -> float | None:
    """When one of these would be passed if nothing happened."""
    limits, since = rules.limits, state.waits_since
    times = [must_be_up_by(state, rules)]
    if since is not None:
        times.append(None if limits.max_time is None else since + limits.max_time)
        heard = max(since, state.last_heard)
        times.append(None if limits.max_silence is None else heard + limits.max_silence)
    return min((at for at in times if at is not None), default=None)


def lacks(state: State) -> str:
    """What this claude lacks, as its first turn begins, of what safety rests on; "" for nothing."""
    if standing(state.version) == "too old":
        return "it is too old"
    if not state.confirms:
        return "it does not confirm messages"
    if state.idle is None:
        return "it does not tell when it is idle"
    return ""
