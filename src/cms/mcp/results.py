"""What a model is told: sessions, answers, verdicts. camelCase outside, as in `--json`, but shorter.

A model pays for every word it reads and cannot scroll, so what `--json` prints for programs (process ids,
raw counters, empty fields of a receipt) is left out, long texts are cut at a given length with a word on
how to get the rest, and what to do next is said where it is not plain.

Money in US dollars, times as ISO 8601 in UTC, durations in seconds.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import msgspec

from cms.session.model import (
    LIVE,
    DelegateResult,
    Denial,
    Interaction,
    Outcome,
    Receipt,
    Record,
    Reply,
    SessionRecord,
)

#: Characters of an agent's text in one tool result, unless asked otherwise. Claude Code refuses results of
#: more than 25,000 tokens.
MAX_TEXT = 20_000


def described(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


Status = Annotated[
    str,
    described(
        "created, starting, ready, busy, paused (a live process); stopped, killed, failed, error, completed "
        "(no process; all but error can be resumed by a message)."
    ),
]
Money = Annotated[float, described("US dollars.")]
Cut = Annotated[bool, described("The text was cut; ask again with a larger maxChars, or with offset.")]


class Session(Record, frozen=True):
    """A session as it stands."""

    name: str
    status: Status
    live: Annotated[bool, described("It has a process, which holds some 200 MB.")]
    model: str
    preset: str
    work_dir: str
    cost: Money
    max_cost: Money | None
    turns: Annotated[int, described("Model calls so far.")]
    max_turns: int | None
    messages: Annotated[int, described("Messages it was sent so far.")]
    depth: Annotated[int, described("0: a person started it. 1: you, or another client. 2: a session did.")]
    created: str
    activity: Annotated[str, described("What it is doing now.")] = ""
    error: str = ""


class Sessions(Record, frozen=True):
    sessions: tuple[Session, ...]
    shown: int
    total: Annotated[int, described("How many there are, shown or not.")]
    total_cost: Money


class Refusal(Record, frozen=True):
    """A tool call that the session was refused."""

    tool: str
    detail: str
    reason: str
    protected_path: bool


class Ask(Record, frozen=True):
    """A question that the session had."""

    question: str
    options: tuple[str, ...] = ()


class Answer(Record, frozen=True):
    """The answer to one message, or word that it was accepted."""

    name: str
    status: Status
    accepted_only: Annotated[
        bool, described("Not waited for: the session works on. `wait`, then `output`, give its answer.")
    ] = False
    text: str = ""
    text_cut: Cut = False
    is_error: Annotated[bool, described("The message failed; see outcome and error.")] = False
    outcome: Annotated[Outcome | None, described("How it ended.")] = None
    error: str = ""
    cost: Annotated[float, described("Of this message, in US dollars.")] = 0.0
    total_cost: Annotated[float, described("Of the session so far, in US dollars.")] = 0.0
    turns: int = 0
    seconds: float = 0.0
    questions: tuple[Ask, ...] = ()
    refused: tuple[Refusal, ...] = ()


class DelegationVerdict(Record, frozen=True):
    """What became of a delegation."""

    name: str
    outcome: Annotated[
        Outcome | None,
        described(
            "completed: judged done; still check the result. needs_input: answer its questions with "
            "`continue`. *_exceeded: a limit ended it; `continue` with a higher one if it is worth it. null: "
            "not over yet."
        ),
    ]
    accepted_only: Annotated[
        bool, described("Not waited for: it works on in the background. `wait` collects the verdict.")
    ] = False
    response: str = ""
    response_cut: Cut = False
    error: str = ""
    reasons: Annotated[tuple[str, ...], described("What the outcome rests on.")] = ()
    cost: Money = 0.0
    cost_exact: bool = True
    turns: int = 0
    seconds: float = 0.0
    tools_used: tuple[str, ...] = ()
    can_continue: bool = False
    questions: tuple[Ask, ...] = ()
    refused: tuple[Refusal, ...] = ()


class Ended(Record, frozen=True):
    """How a session's process ended."""

    session: Session
    was_alive: bool
    proved_empty: Annotated[bool, described("Nothing that it started is left; proved, not assumed.")]
    left: Annotated[tuple[str, ...], described("Processes that are still there.")] = ()
    seconds: float = 0.0


class Message(Record, frozen=True):
    """One message to a session and what came back."""

    number: int
    type: str
    time: str
    state: Annotated[
        str, described("queued, sent, running, checking; done, failed, interrupted, doubtful, unchecked.")
    ]
    prompt: str
    response: str
    cost: Money
    seconds: float
    turns: int
    outcome: Outcome | None = None
    error: str = ""
    questions: tuple[Ask, ...] = ()
    refused: tuple[Refusal, ...] = ()


class Output(Record, frozen=True):
    """The last message of a session and its answer."""

    name: str
    status: Status
    last: Message | None
    offset: int
    total_chars: Annotated[int, described("Length of the whole response.")]
    response_cut: Cut


class History(Record, frozen=True):
    name: str
    status: Status
    messages: tuple[Message, ...]
    total_messages: int
    total_cost: Money


def iso(seconds: float) -> str:
    """A time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def cut(text: str, limit: int, offset: int = 0) -> tuple[str, bool]:
    """At most `limit` characters from `offset`, and whether any were left out behind them."""
    return text[offset : offset + limit], len(text) > offset + limit


def session_of(record: SessionRecord, activity: str = "") -> Session:
    return Session(
        name=record.name,
        status=record.status,
        live=record.status in LIVE,
        model=record.options.model,
        preset=record.options.preset,
        work_dir=record.options.work_dir,
        cost=round(record.total_cost_usd, 6),
        max_cost=record.options.limits.max_cost,
        turns=record.total_turns,
        max_turns=record.options.limits.max_turns,
        messages=record.interaction_count,
        depth=record.depth,
        created=iso(record.created),
        activity=activity,
        error=record.error,
    )


def answer_of(reply: Reply, limit: int) -> Answer:
    text, was_cut = cut(reply.text, limit)
    return Answer(
        name=reply.name,
        status=reply.status,
        text=text,
        text_cut=was_cut,
        is_error=reply.is_error,
        outcome=reply.outcome,
        error=reply.error,
        cost=round(reply.cost, 6),
        total_cost=round(reply.total_cost_usd, 6),
        turns=reply.turns,
        seconds=reply.duration / 1000,
        questions=_asks_of(reply),
        refused=_refused(reply.denials),
    )


def verdict_of(result: DelegateResult, limit: int) -> DelegationVerdict:
    response, was_cut = cut(result.response, limit)
    return DelegationVerdict(
        name=result.name,
        outcome=result.status,
        response=response,
        response_cut=was_cut,
        error=result.error or "",
        reasons=result.reasons,
        cost=round(result.cost, 6),
        cost_exact=result.cost_exact,
        turns=result.turns,
        seconds=result.duration / 1000,
        tools_used=result.tools_used,
        can_continue=result.can_continue,
        questions=_asks_of(result),
        refused=_refused(result.safety.denials),
    )


def ended_of(record: SessionRecord, receipt: Receipt | None) -> Ended:
    if receipt is None:
        return Ended(session=session_of(record), was_alive=False, proved_empty=True)
    return Ended(
        session=session_of(record),
        was_alive=True,
        proved_empty=receipt.empty,
        left=receipt.left,
        seconds=round(receipt.seconds, 3),
    )


def message_of(interaction: Interaction, prompt_limit: int, response_limit: int, offset: int = 0) -> Message:
    return Message(
        number=interaction.number,
        type=interaction.type,
        time=iso(interaction.timestamp),
        state=interaction.state,
        prompt=cut(interaction.prompt, prompt_limit)[0],
        response=cut(interaction.response, response_limit, offset)[0],
        cost=round(interaction.cost, 6),
        seconds=round(interaction.duration, 3),
        turns=interaction.turns,
        outcome=interaction.outcome,
        error=interaction.error,
        questions=_asks_of(interaction),
        refused=_refused(interaction.denials),
    )


def _asks_of(source: Reply | DelegateResult | Interaction) -> tuple[Ask, ...]:
    return tuple(Ask(question.question, question.options) for question in source.questions)


def _refused(denials: tuple[Denial, ...]) -> tuple[Refusal, ...]:
    return tuple(Refusal(d.tool, d.detail, d.reason, d.violation) for d in denials)
