"""What a person types next: one command line, from how a session's last message has ended. Pure.

`delegate`, `continue`, `send`, `status`, `wait` and `batch show` all tell it, `--json` and MCP as `nextStep`.
MESSAGE, ANSWER and USD stand for what only a person knows; all else is exact.
"""

from __future__ import annotations

import math
import shlex
from typing import Final

from cms.protocol.tools import LOOKING_TOOLS, WRITE_TOOLS
from cms.session.budget import raising
from cms.session.gate import not_in_preset
from cms.session.model import ENDED, Denial, Interaction, Outcome, Preset, SessionRecord, SessionStatus
from cms.units import time_word

_GO_ON: Final = '"go on"'
#: Rules that one line proposes; what else was refused is told when it is refused again.
_MOST_RULES: Final = 8


def next_step(
    session: SessionRecord, last: Interaction | None, *, has_conversation: bool | None = None
) -> str | None:
    """The command; None where nothing has ended, or no command helps.

    Args:
        last: its last message; of a delegation with repairs, its rounds together.
        has_conversation: whether there is one to go on with; None: as the record says.
    """
    name = session.name
    if session.status is SessionStatus.ERROR:
        return f"cms kill {name}"
    if last is None or last.state not in ENDED:
        return None
    if has_conversation is None:
        has_conversation = bool(session.claude_session_id)
    if last.api_status in (401, 403):
        return "cms doctor"
    if not has_conversation:
        return f"cms logs {name}"
    match last.outcome:
        case Outcome.COMPLETED:
            return _after_success(session)
        case Outcome.NEEDS_INPUT if last.questions:
            return f"cms answer {name} {' '.join('ANSWER' for _ in last.questions)}"
        case Outcome.NEEDS_INPUT:
            flags = _permissions(session, last)
            return f"cms continue {name} {_GO_ON} {flags}" if flags else _go_on(session, "MESSAGE")
        case Outcome.COST_EXCEEDED | Outcome.TURNS_EXCEEDED | Outcome.TIME_EXCEEDED | Outcome.STALLED:
            return _past_limit(session, last)
        case Outcome.PROTECTED_PATH:
            return _go_on(session, '"leave what is protected alone, and go on"')
        case Outcome.VERIFICATION_FAILED if session.change is not None and session.change.note:
            return f"cms apply {name}"
        case Outcome.VERIFICATION_FAILED:
            flags = _permissions(session, last)
            return f'cms continue {name} "make the checks pass" {flags}'.rstrip()
        case Outcome.FAILED if session.options.json_schema and "(--json-schema)" in last.error:
            return _go_on(session, '"answer in JSON that matches the schema"')
        case _:
            return _go_on(session, _GO_ON)


def _go_on(session: SessionRecord, message: str) -> str:
    verb = "continue" if session.options.delegated else "send"
    return f"cms {verb} {session.name} {message}"


def _after_success(session: SessionRecord) -> str | None:
    change = session.change
    if change is not None and change.state == "kept" and not change.empty:
        return f"cms diff {session.name}"
    return _go_on(session, "MESSAGE") if session.options.delegated else None


def _permissions(session: SessionRecord, last: Interaction) -> str:
    """The flags that permit what was refused; "" where none would."""
    rules = dict.fromkeys(rule for denial in last.denials for rule in denial.allow)
    # A tool's name alone permits all that its other rules do.
    needed = [rule for rule in rules if rule.partition("(")[0] not in rules or "(" not in rule]
    flags = [f"--allow {shlex.quote(rule)}" for rule in needed[:_MOST_RULES]]
    preset = session.options.preset
    lacked = {denial.tool for denial in last.denials if _is_lacking(denial, preset)}
    if preset != "full" and lacked & set(LOOKING_TOOLS):
        flags.insert(0, "--preset full")
    elif preset not in ("edit", "full") and lacked & {*WRITE_TOOLS, "Bash"}:
        flags.insert(0, "--preset edit")
    return " ".join(flags)


def _is_lacking(denial: Denial, preset: Preset) -> bool:
    """Whether the preset has no such tool: refused by us, or by claude, which does not know it then."""
    return denial.reason == not_in_preset(denial.tool, preset) or (
        denial.by == "claude" and "No such tool available" in denial.reason
    )


def _past_limit(session: SessionRecord, last: Interaction) -> str:
    limits = session.options.limits
    flag = ""
    match last.outcome:
        case Outcome.COST_EXCEEDED:
            if limits.max_cost is not None and session.total_cost_usd >= limits.max_cost:
                flag = f"--max-cost {_money(_more(limits.max_cost, session.total_cost_usd))}"
            elif command := raising(last.error):
                return command
        case Outcome.TURNS_EXCEEDED:
            if limits.max_tool_calls is not None and session.tool_calls >= limits.max_tool_calls:
                flag = f"--max-tool-calls {_more(limits.max_tool_calls, session.tool_calls):g}"
            elif limits.max_turns is not None:
                flag = f"--max-turns {_more(limits.max_turns, session.total_turns):g}"
        case Outcome.TIME_EXCEEDED if limits.max_time is not None:
            flag = f"--max-time {time_word(2 * limits.max_time)}"
        case _:
            return _go_on(session, _GO_ON)
    return f"cms continue {session.name} {_GO_ON} {flag}".rstrip()


def _more(limit: float, used: float) -> float:
    """Twice as much, and in any case as much again as there was."""
    return max(2 * limit, used + limit)


def _money(usd: float) -> str:
    """In whole cents, rounded up; less than that as it is."""
    return f"{math.ceil(usd * 100 - 1e-6) / 100:.2f}" if usd >= 0.01 else f"{usd:.2g}"
