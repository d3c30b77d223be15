"""What a model is told: sessions, answers, verdicts. As in `--json` (`cms.json_output`), but less.

A model pays for every word it reads and cannot scroll, so what `--json` prints for programs (process ids,
raw counters, empty fields of a receipt) is left out, long texts are cut at a given length with a word on
how to get the rest, and what to do next is said where it is not plain.

Durations are in seconds, all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, ClassVar, NamedTuple, Self, get_args

import msgspec

from cms.json_output import camel, plain, value_at
from cms.session.model import (
    LIVE,
    DelegateResult,
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


class Result(Record, frozen=True):
    """What a tool tells, or a part of it: some of what a record has.

    Attributes:
        SHOWS: for each field that is not named as the record's own, which one it is: `cost=total_cost_usd`.
    """

    SHOWS: ClassVar[str] = ""

    @classmethod
    def from_record(cls, record: msgspec.Struct, /, **given: object) -> Self:
        """What is told of a record. `given`: what it does not have, or has in another form."""
        values = {camel(name): value for name, value in given.items()}
        for name, path, part, required in _shown(cls):
            if name in given or not (required or hasattr(record, path[0])):
                continue
            values[camel(name)] = _told(path[-1], value_at(record, path), part)
        return msgspec.convert(values, cls)


def _told(name: str, value: object, part: type[Result] | None) -> object:
    if part is not None and isinstance(value, tuple):
        return [_told(name, one, part) for one in value]
    if part is not None and isinstance(value, msgspec.Struct):
        return part.from_record(value)
    return plain(name, value)


class _Shown(NamedTuple):
    """One field of a result: what of the record it shows, and as what."""

    name: str
    path: tuple[str, ...]
    part: type[Result] | None
    required: bool


@cache
def _shown(kind: type[Result]) -> tuple[_Shown, ...]:
    sources = dict(word.split("=") for word in kind.SHOWS.split())
    return tuple(
        _Shown(
            field.name,
            tuple(sources.get(field.name, field.name).split(".")),
            next(_parts(field.type), None),
            field.required,
        )
        for field in msgspec.structs.fields(kind)
    )


def _parts(kind: object) -> Iterator[type[Result]]:
    """The results that a field of this type holds: itself, or each of several."""
    if isinstance(kind, type) and issubclass(kind, Result):
        yield kind
    for part in get_args(kind):
        yield from _parts(part)


class Session(Result, frozen=True):
    """A session as it stands."""

    SHOWS = (
        "model=options.model preset=options.preset work_dir=options.work_dir cost=total_cost_usd"
        " max_cost=options.limits.max_cost turns=total_turns max_turns=options.limits.max_turns"
        " messages=interaction_count"
    )

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
    outcome: Annotated[Outcome | None, described("How its last message ended.")] = None
    error: str = ""


class Sessions(Result, frozen=True):
    SHOWS = "total_cost=total_cost_usd"

    sessions: tuple[Session, ...]
    shown: int
    total: Annotated[int, described("How many there are, shown or not.")]
    total_cost: Money


class Refusal(Result, frozen=True):
    """A tool call that the session was refused."""

    SHOWS = "protected_path=violation"

    tool: str
    detail: str
    reason: str
    protected_path: bool
    allow: Annotated[tuple[str, ...], described("The rules that would have allowed it.")] = ()


class Ask(Result, frozen=True):
    """A question that the session had."""

    question: str
    options: tuple[str, ...] = ()


class Answer(Result, frozen=True):
    """The answer to one message, or word that it was accepted."""

    SHOWS = "total_cost=total_cost_usd refused=denials"

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


class DelegationVerdict(Result, frozen=True):
    """What became of a delegation."""

    SHOWS = "outcome=status refused=safety.denials"

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
    next_step: Annotated[
        str | None,
        described("How a person goes on, in a shell. Of `continue` the flags are arguments: maxCost, allow."),
    ] = None


class Ended(Result, frozen=True):
    """How a session's process ended."""

    SHOWS = "proved_empty=empty"

    session: Session
    was_alive: bool
    proved_empty: Annotated[bool, described("Nothing that it started is left; proved, not assumed.")]
    left: Annotated[tuple[str, ...], described("Processes that are still there.")] = ()
    seconds: float = 0.0


class Message(Result, frozen=True):
    """One message to a session and what came back."""

    SHOWS = "time=timestamp refused=denials"

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


class Output(Result, frozen=True):
    """The last message of a session and its answer."""

    SHOWS = "name=session.name status=session.status"

    name: str
    status: Status
    last: Message | None
    offset: int
    total_chars: Annotated[int, described("Length of the whole response.")]
    response_cut: Cut


class History(Result, frozen=True):
    SHOWS = (
        "name=session.name status=session.status total_messages=session.interaction_count"
        " total_cost=session.total_cost_usd"
    )

    name: str
    status: Status
    messages: tuple[Message, ...]
    total_messages: int
    total_cost: Money


def cut(text: str, limit: int, offset: int = 0) -> tuple[str, bool]:
    """At most `limit` characters from `offset`, and whether any were left out behind them."""
    return text[offset : offset + limit], len(text) > offset + limit


def session_of(record: SessionRecord, activity: str = "", outcome: Outcome | None = None) -> Session:
    return Session.from_record(record, live=record.status in LIVE, activity=activity, outcome=outcome)


def answer_of(reply: Reply, limit: int) -> Answer:
    text, was_cut = cut(reply.text, limit)
    return Answer.from_record(reply, text=text, text_cut=was_cut, seconds=reply.duration / 1000)


def verdict_of(result: DelegateResult, limit: int) -> DelegationVerdict:
    response, was_cut = cut(result.response, limit)
    return DelegationVerdict.from_record(
        result,
        response=response,
        response_cut=was_cut,
        error=result.error or "",
        seconds=result.duration / 1000,
    )


def ended_of(record: SessionRecord, receipt: Receipt | None) -> Ended:
    session = session_of(record)
    if receipt is None:
        return Ended(session=session, was_alive=False, proved_empty=True)
    return Ended.from_record(receipt, session=session, was_alive=True, seconds=round(receipt.seconds, 3))


def message_of(interaction: Interaction, prompt_limit: int, response_limit: int, offset: int = 0) -> Message:
    return Message.from_record(
        interaction,
        prompt=cut(interaction.prompt, prompt_limit)[0],
        response=cut(interaction.response, response_limit, offset)[0],
        seconds=round(interaction.duration, 3),
    )
