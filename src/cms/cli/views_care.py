"""What `--json` prints for the commands of `cms.rpc.api_care`; see `views` for the rules."""

from __future__ import annotations

import msgspec

from cms.cli.views import (
    InteractionView,
    ReceiptView,
    SessionView,
    iso,
    view_interaction,
    view_receipt,
    view_session,
)
from cms.rpc.api_care import (
    AnswerReply,
    AskReply,
    CleanupReply,
    CostReply,
    Deleted,
    OverviewReply,
    WaitReply,
)
from cms.session.model import Denial, Question, Record, TokenUsage
from cms.session.questions import AskedQuestion, LiveSession, OpenQuestion


class DeletedView(Record, frozen=True):
    """A session that is gone. `log`: where its raw log is, null if none; `audited`: its audit log stays."""

    name: str
    id: str
    status: str
    total_cost_usd: float
    log: str | None
    log_bytes: int
    receipt: ReceiptView | None
    audited: bool


class DeletedListView(Record, frozen=True):
    deleted: tuple[DeletedView, ...]


class CleanupView(Record, frozen=True):
    """`cleanup`. With `dryRun` nothing was changed, and `log` is where the raw log is."""

    dry_run: bool
    deleted: tuple[DeletedView, ...]
    live: tuple[str, ...]
    trash_files: int
    trash_bytes: int
    audit_logs: int


class WaitedView(SessionView, frozen=True, kw_only=True):
    """A session (flat) that has nothing left to do, and its last interaction."""

    last_interaction: InteractionView | None


class WaitView(Record, frozen=True):
    done: tuple[WaitedView, ...]
    waiting: tuple[str, ...]
    timed_out: bool


class LiveView(SessionView, frozen=True, kw_only=True):
    """A live session (flat), and what it takes. `memory` in bytes."""

    activity: str
    frozen: bool
    queued: int
    open_questions: int
    processes: int
    memory: int


class TopView(Record, frozen=True):
    sessions: tuple[LiveView, ...]
    spent_today: float
    at: str


class OpenQuestionView(Record, frozen=True):
    name: str
    id: str
    kind: str
    tool: str
    detail: str
    questions: tuple[AskedQuestion, ...]
    asked: str
    expires: str


class UnansweredView(Record, frozen=True):
    """A message that ended because a person was needed."""

    name: str
    status: str
    questions: tuple[Question, ...]
    denials: tuple[Denial, ...]
    error: str
    timestamp: str
    can_continue: bool


class AskView(Record, frozen=True):
    open: tuple[OpenQuestionView, ...]
    unanswered: tuple[UnansweredView, ...]


class AnswerView(Record, frozen=True):
    """A word that was given to a call that waited. `left`: calls of the session that still wait."""

    name: str
    question: OpenQuestionView
    left: int


class CostRowView(Record, frozen=True):
    key: str
    name: str
    cost: float
    exact: bool
    usage: TokenUsage


class CostView(Record, frozen=True):
    by: str
    since: str | None
    rows: tuple[CostRowView, ...]
    total_cost_usd: float
    exact: bool
    usage: TokenUsage


def view_deleted(gone: Deleted) -> DeletedView:
    return DeletedView(
        name=gone.session.name,
        id=gone.session.id,
        status=gone.session.status,
        total_cost_usd=gone.session.total_cost_usd,
        log=gone.log or None,
        log_bytes=gone.log_bytes,
        receipt=view_receipt(gone.receipt),
        audited=gone.audited,
    )


def view_cleanup(reply: CleanupReply, *, dry_run: bool) -> CleanupView:
    return CleanupView(
        dry_run=dry_run,
        deleted=tuple(view_deleted(one) for one in reply.deleted),
        live=tuple(session.name for session in reply.live),
        trash_files=reply.trash_files,
        trash_bytes=reply.trash_bytes,
        audit_logs=reply.audit_logs,
    )


def view_wait(reply: WaitReply) -> WaitView:
    return WaitView(
        done=tuple(
            WaitedView(
                **msgspec.structs.asdict(view_session(one.session)),
                last_interaction=None if one.last is None else view_interaction(one.last),
            )
            for one in reply.done
        ),
        waiting=reply.waiting,
        timed_out=reply.timed_out,
    )


def view_live(live: LiveSession) -> LiveView:
    return LiveView(
        **msgspec.structs.asdict(view_session(live.session)),
        activity=live.activity,
        frozen=live.frozen,
        queued=live.queued,
        open_questions=live.questions,
        processes=live.processes,
        memory=live.memory,
    )


def view_top(reply: OverviewReply) -> TopView:
    return TopView(tuple(view_live(one) for one in reply.sessions), reply.spent_today, iso(reply.at))


def view_open(question: OpenQuestion) -> OpenQuestionView:
    return OpenQuestionView(
        name=question.name,
        id=question.id,
        kind=question.kind,
        tool=question.tool,
        detail=question.detail,
        questions=question.questions,
        asked=iso(question.asked),
        expires=iso(question.expires),
    )


def view_ask(reply: AskReply) -> AskView:
    return AskView(
        open=tuple(view_open(one) for one in reply.open),
        unanswered=tuple(
            UnansweredView(
                name=one.session.name,
                status=one.session.status,
                questions=one.interaction.questions,
                denials=one.interaction.denials,
                error=one.interaction.error,
                timestamp=iso(one.interaction.timestamp),
                can_continue=bool(one.session.claude_session_id),
            )
            for one in reply.unanswered
        ),
    )


def view_answer(reply: AnswerReply) -> AnswerView:
    return AnswerView(reply.session.name, view_open(reply.question), reply.left)


def view_cost(reply: CostReply, by: str, since: float | None) -> CostView:
    return CostView(
        by=by,
        since=None if since is None else iso(since),
        rows=tuple(
            CostRowView(row.key, row.name, row.usage.cost_usd, row.exact, row.usage) for row in reply.rows
        ),
        total_cost_usd=reply.total.cost_usd,
        exact=reply.exact,
        usage=reply.total,
    )
