"""Tools for what agents ask: see it, and answer it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from cms.mcp.call import DaemonCall
from cms.mcp.params import Name
from cms.mcp.results import Message, Result, Status, described, message_of
from cms.mcp.tool import Params, tool
from cms.rpc.questions import (
    SESSION_ANSWER,
    SESSIONS_QUESTIONS,
    AnswerParams,
    QuestionsParams,
)


class Offered(Result, frozen=True):
    label: str
    description: str = ""


class Asked(Result, frozen=True):
    SHOWS = "several=multi_select"

    question: str
    choices: tuple[Offered, ...] = ()
    several: Annotated[bool, described("More than one choice may be given, with commas.")] = False


class Open(Result, frozen=True):
    """A call of an agent's that waits for an answer."""

    name: Annotated[str, described("The session.")]
    id: Annotated[str, described("Names it within the session.")]
    kind: Annotated[
        Literal["question", "permission"],
        described("question: it asks something. permission: it wants to do what its preset does not allow."),
    ]
    tool: str
    detail: Annotated[str, described("What it is about: a path, a command, in a line.")]
    whole: Annotated[str, described("All of it: that is what you would permit.")]
    questions: tuple[Asked, ...]
    expires: Annotated[str, described("Then it is refused.")]


class Ended(Result, frozen=True):
    """A session whose last message ended because an answer was missing."""

    SHOWS = "name=session.name status=session.status"

    name: str
    status: Status
    last: Message


class Questions(Result, frozen=True):
    open: Annotated[tuple[Open, ...], described("These wait: use `answer`.")]
    ended: Annotated[tuple[Ended, ...], described("These have given up: go on with `continue` or `send`.")]


class QuestionsArguments(Params, frozen=True, kw_only=True):
    name: Annotated[Name, msgspec.Meta(description="Only this session's; by default all.")] | None = None


def questions(call: DaemonCall, given: QuestionsArguments) -> Questions:
    reply = call.call(SESSIONS_QUESTIONS, QuestionsParams(name=given.name or ""))
    ended = tuple(
        Ended.from_record(one, last=message_of(one.interaction, 200, 2000)) for one in reply.unanswered
    )
    return Questions.from_record(reply, ended=ended)


class AnswerArguments(Params, frozen=True, kw_only=True):
    name: Name
    answers: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=20_000)], ...],
        msgspec.Meta(
            description="For a question: one for each, a choice's label or words of your own. For a "
            "permission: allow, or deny. Allow only what the person you work for would.",
            max_length=20,
        ),
    ] = ()
    id: Annotated[
        str, msgspec.Meta(description="Which one, where the session has several open.", max_length=200)
    ] = ""
    refuse: Annotated[bool, described("Refuse to answer; it goes on without.")] = False
    reason: Annotated[str, msgspec.Meta(description="For the agent: why not.", max_length=20_000)] = ""


class Answered(Result, frozen=True):
    SHOWS = "name=session.name status=session.status answered=question"

    name: str
    status: Status
    answered: Open
    left: Annotated[int, described("That still wait in this session.")]


def answer(call: DaemonCall, given: AnswerArguments) -> Answered:
    params = AnswerParams(
        name=given.name, texts=given.answers, id=given.id, deny=given.refuse, message=given.reason
    )
    return Answered.from_record(call.call(SESSION_ANSWER, params))


TOOLS = (
    tool(
        "questions",
        "See what agents ask",
        QuestionsArguments,
        Questions,
        questions,
        """What agents ask or want permission for, across sessions: those that still wait, and those whose
        work ended because nobody answered. Free.""",
        read_only=True,
        inside=False,
    ),
    tool(
        "answer",
        "Answer an agent",
        AnswerArguments,
        Answered,
        answer,
        """Answer a question of an agent that waits for it (`questions` shows it), so that it can go on.
        Costs what the agent then does, under its limits. What you cannot know, ask the person.""",
        open_world=True,
        inside=False,
    ),
)
