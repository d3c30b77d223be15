"""Tools that only ask: list, status, output, history. Free for whoever calls them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.mcp.call import DaemonCall
from cms.mcp.params import MaxChars, Name, NameArguments
from cms.mcp.results import (
    MAX_TEXT,
    History,
    Output,
    Session,
    Sessions,
    cut,
    described,
    message_of,
    session_of,
)
from cms.mcp.tool import Params, tool
from cms.rpc.sessions import (
    SESSION_GET,
    SESSION_INTERACTIONS,
    SESSION_LIST,
    InteractionsParams,
    ListParams,
    NameParams,
)
from cms.session.model import SessionStatus


class ListArguments(Params, frozen=True, kw_only=True):
    status: Annotated[SessionStatus | None, described("Only sessions in this status.")] = None
    limit: Annotated[int, msgspec.Meta(description="At most so many, newest first.", ge=1, le=500)] = 50


def list_(call: DaemonCall, given: ListArguments) -> Sessions:
    reply = call.call(SESSION_LIST, ListParams(status=str(given.status or ""), limit=given.limit))
    shown = tuple(
        session_of(one, outcome=reply.outcomes.get(one.id)) for one in reply.sessions[: given.limit]
    )
    return Sessions.from_record(reply, sessions=shown, shown=len(shown))


class OutputArguments(Params, frozen=True, kw_only=True):
    name: Name
    max_chars: MaxChars = MAX_TEXT
    offset: Annotated[
        int, msgspec.Meta(description="Begin at this character of the response.", ge=0, le=2**31)
    ] = 0


def output(call: DaemonCall, given: OutputArguments) -> Output:
    reply = call.call(SESSION_INTERACTIONS, InteractionsParams(name=given.name, last=1))
    last = reply.interactions[-1] if reply.interactions else None
    response = "" if last is None else last.response
    return Output.from_record(
        reply,
        last=None if last is None else message_of(last, 1000, given.max_chars, given.offset),
        offset=given.offset,
        total_chars=len(response),
        response_cut=cut(response, given.max_chars, given.offset)[1],
    )


class HistoryArguments(Params, frozen=True, kw_only=True):
    name: Name
    last: Annotated[int, msgspec.Meta(description="Only the newest so many messages.", ge=1, le=200)] = 10
    max_chars: Annotated[
        int,
        msgspec.Meta(description="Cut each prompt and each response here.", ge=50, le=100_000),
    ] = 500


def history(call: DaemonCall, given: HistoryArguments) -> History:
    reply = call.call(SESSION_INTERACTIONS, InteractionsParams(name=given.name, last=given.last))
    messages = tuple(message_of(one, given.max_chars, given.max_chars) for one in reply.interactions)
    return History.from_record(reply, messages=messages)


def status(call: DaemonCall, given: NameArguments) -> Session:
    reply = call.call(SESSION_GET, NameParams(name=given.name))
    return session_of(reply.session, reply.activity)


TOOLS = (
    tool(
        "list",
        "List sessions",
        ListArguments,
        Sessions,
        list_,
        """All sessions, newest first, with status, cost and limits. Free and quick; use it to find a name,
        and to see what is still alive or at work.""",
        read_only=True,
    ),
    tool(
        "status",
        "Look at a session",
        NameArguments,
        Session,
        status,
        """How a session stands: status, what it is doing now, cost and turns against its limits. Free and
        quick, but do not poll with it: `wait` tells you when work is over.""",
        read_only=True,
    ),
    tool(
        "output",
        "Read the last answer",
        OutputArguments,
        Output,
        output,
        """A session's last message and the answer to it. Free. For work that was detached, or an answer that
        was cut: go on with offset.""",
        read_only=True,
    ),
    tool(
        "history",
        "Read the conversation",
        HistoryArguments,
        History,
        history,
        """The messages of a session, each cut short, with cost and outcome. Free. For the whole text read
        the resource cms://session/NAME/transcript.""",
        read_only=True,
    ),
)
