"""What `--json` prints: one struct for each kind of object, with the field names that programs rely on.

The store's records are not printed as they are, for three reasons: programs written against the original
read flat sessions (`model`, `workDir`), times are ISO 8601 in UTC here and numbers there, and an
interaction's duration is in milliseconds here and in seconds there.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from cms.rpc.api import DaemonStatus
from cms.session.budget import Budget
from cms.session.model import (
    DelegateResult,
    Denial,
    Interaction,
    Limits,
    Outcome,
    Question,
    Receipt,
    Record,
    Safety,
    SessionRecord,
    Step,
    TokenUsage,
    Walls,
)


def iso(seconds: float) -> str:
    """A time as ISO 8601 in UTC, to the millisecond: `2026-11-22T11:30:00.250Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class UnitView(Record, frozen=True):
    """`daemon unit`: a file for systemd."""

    name: str
    text: str


class ReceiptView(Record, frozen=True):
    """The proof of an end. Durations in seconds."""

    reason: str
    steps: tuple[Step, ...]
    returncode: int | None
    alive: tuple[str, ...]
    seconds: float
    mechanism: str
    empty: bool
    left: tuple[str, ...]
    at: str
    walls: Walls | None
    how: tuple[str, ...]


class SessionView(Record, frozen=True):
    """A session, flat."""

    name: str
    status: str
    model: str
    id: str
    claude_session_id: str
    work_dir: str
    total_cost_usd: float
    cost_exact: bool
    total_turns: int
    interaction_count: int
    tool_calls: int
    pid: int | None
    created: str
    last_saved: str
    preset: str
    delegated: bool
    safety: bool
    limits: Limits
    parent_id: str
    depth: int
    error: str
    claude_version: str
    unknown_lines: int
    noise_lines: int
    receipt: ReceiptView | None
    walls: Walls | None
    caps_hit: tuple[str, ...]


class InteractionView(Record, frozen=True):
    """One message and what came back. `duration` in milliseconds."""

    number: int
    type: str
    timestamp: str
    prompt: str
    response: str
    cost: float
    duration: int
    id: str
    state: str
    ended: str | None
    cost_exact: bool
    turns: int
    is_error: bool
    error: str
    outcome: Outcome | None
    tools_used: tuple[str, ...]
    tool_calls: int
    denials: tuple[Denial, ...]
    questions: tuple[Question, ...]
    usage: dict[str, TokenUsage]


class StatusView(SessionView, frozen=True, kw_only=True):
    """`status`: the session (flat), what it does now, and its last interaction."""

    activity: str
    last_interaction: InteractionView | None


class ListView(Record, frozen=True):
    sessions: tuple[SessionView, ...]
    total: int
    total_cost_usd: float


class OutputView(InteractionView, frozen=True, kw_only=True):
    """`output`: the last interaction (flat), and whose it is."""

    name: str
    status: str


class HistoryView(Record, frozen=True):
    name: str
    status: str
    interactions: tuple[InteractionView, ...]
    total_cost_usd: float


class AcceptedView(Record, frozen=True):
    """A message that was accepted and is not waited for."""

    name: str
    session_id: str
    interaction_id: str
    accepted: bool = True


class DelegateView(Record, frozen=True):
    """The verdict of a delegation. `duration` in milliseconds."""

    status: Outcome
    name: str
    response: str
    error: str | None
    cost: float
    turns: int
    duration: int
    tools_used: tuple[str, ...]
    can_continue: bool
    safety: Safety
    reasons: tuple[str, ...]
    questions: tuple[Question, ...]
    session_id: str
    cost_exact: bool
    tool_calls: int
    receipt: ReceiptView | None


class DaemonView(DaemonStatus, frozen=True, kw_only=True):
    """`daemon status` of a daemon that runs. `uptime` and `idleExit` in seconds."""

    running: bool = True


class NoDaemonView(Record, frozen=True):
    """`daemon status` when none runs, and `daemon stop` when none is left."""

    home: str
    running: bool = False
    stopped: bool = False  # this command ended it


class ScopeView(Record, frozen=True):
    """One cap, in US dollars. `unknown`: counted for calls that never told their price."""

    scope: str
    cap: float
    spent: float
    unknown: float
    reserved: float
    at_work: int
    left: float


class BudgetView(Record, frozen=True):
    """`budget set`, `show` and `clear`."""

    spent_today: float
    spent_ever: float
    scopes: tuple[ScopeView, ...]


class LogView(Record, frozen=True):
    """`daemon logs`: the last lines, oldest first."""

    path: str
    lines: tuple[str, ...]


class ErrorFields(Record, frozen=True):
    code: str
    message: str
    hint: str


class ErrorView(Record, frozen=True):
    """What stands on stdout instead of the answer when a command with `--json` fails."""

    error: ErrorFields


def view_receipt(receipt: Receipt | None) -> ReceiptView | None:
    if receipt is None:
        return None
    return ReceiptView(
        reason=receipt.reason,
        steps=receipt.steps,
        returncode=receipt.returncode,
        alive=receipt.alive,
        seconds=receipt.seconds,
        mechanism=receipt.mechanism,
        empty=receipt.empty,
        left=receipt.left,
        at=iso(receipt.at),
        walls=receipt.walls,
        how=receipt.how,
    )


def view_session(record: SessionRecord) -> SessionView:
    options = record.options
    return SessionView(
        name=record.name,
        status=record.status,
        model=options.model,
        id=record.id,
        claude_session_id=record.claude_session_id or record.id,
        work_dir=options.work_dir,
        total_cost_usd=record.total_cost_usd,
        cost_exact=record.cost_exact,
        total_turns=record.total_turns,
        interaction_count=record.interaction_count,
        tool_calls=record.tool_calls,
        pid=record.pid,
        created=iso(record.created),
        last_saved=iso(record.last_saved),
        preset=options.preset,
        delegated=options.delegated,
        safety=options.safety,
        limits=options.limits,
        parent_id=record.parent_id,
        depth=record.depth,
        error=record.error,
        claude_version=record.claude_version,
        unknown_lines=record.unknown_lines,
        noise_lines=record.noise_lines,
        receipt=view_receipt(record.receipt),
        walls=record.walls,
        caps_hit=record.caps_hit,
    )


def view_interaction(interaction: Interaction) -> InteractionView:
    return InteractionView(
        number=interaction.number,
        type=interaction.type,
        timestamp=iso(interaction.timestamp),
        prompt=interaction.prompt,
        response=interaction.response,
        cost=interaction.cost,
        duration=round(interaction.duration * 1000),
        id=interaction.id,
        state=interaction.state,
        ended=None if interaction.ended is None else iso(interaction.ended),
        cost_exact=interaction.cost_exact,
        turns=interaction.turns,
        is_error=interaction.is_error,
        error=interaction.error,
        outcome=interaction.outcome,
        tools_used=interaction.tools_used,
        tool_calls=interaction.tool_calls,
        denials=interaction.denials,
        questions=interaction.questions,
        usage=interaction.usage,
    )


def view_status(record: SessionRecord, activity: str, last: Interaction | None) -> StatusView:
    return StatusView(
        **msgspec.structs.asdict(view_session(record)),
        activity=activity,
        last_interaction=None if last is None else view_interaction(last),
    )


def view_output(record: SessionRecord, interaction: Interaction) -> OutputView:
    return OutputView(
        **msgspec.structs.asdict(view_interaction(interaction)), name=record.name, status=record.status
    )


def view_stopped(record: SessionRecord, receipt: Receipt | None) -> SessionView:
    """`stop` and `kill`: the session with the receipt of this end, null when nothing was alive."""
    return msgspec.structs.replace(view_session(record), receipt=view_receipt(receipt))


def view_daemon(status: DaemonStatus) -> DaemonView:
    return DaemonView(**msgspec.structs.asdict(status))


def view_delegate(result: DelegateResult) -> DelegateView:
    return DelegateView(
        status=result.status,
        name=result.name,
        response=result.response,
        error=result.error,
        cost=result.cost,
        turns=result.turns,
        duration=result.duration,
        tools_used=result.tools_used,
        can_continue=result.can_continue,
        safety=result.safety,
        reasons=result.reasons,
        questions=result.questions,
        session_id=result.session_id,
        cost_exact=result.cost_exact,
        tool_calls=result.tool_calls,
        receipt=view_receipt(result.receipt),
    )


def view_budget(budget: Budget) -> BudgetView:
    return BudgetView(
        spent_today=budget.today.spent,
        spent_ever=budget.ever.spent,
        scopes=tuple(
            ScopeView(
                scope=one.scope,
                cap=one.cap,
                spent=one.spent,
                unknown=one.unknown,
                reserved=one.held,
                at_work=one.holders,
                left=max(one.left, 0.0),
            )
            for one in budget.scopes
        ),
    )


def to_json(view: msgspec.Struct) -> bytes:
    """The object as one line of UTF-8 JSON with its newline."""
    return msgspec.json.encode(view) + b"\n"
