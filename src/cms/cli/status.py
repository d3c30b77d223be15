"""Commands that only ask: status, output, history, list. Each in one connection, quick."""

from __future__ import annotations

import time
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.declare import Parameter
from cms.cli.flags import FullFlag, JsonFlag, NameFlag, NameWord
from cms.errors import CmsError, ExitCode, UsageError
from cms.json_output import json_object
from cms.rpc.sessions import (
    LISTED,
    SESSION_GET,
    SESSION_INTERACTIONS,
    SESSION_LIST,
    InteractionsParams,
    ListParams,
    NameParams,
)
from cms.session.model import SessionStatus
from cms.units import nearest


def status(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """Show one session: status, cost, turns, limits, pid, what it does now, how it last ended.

    Example::

        cms status fix-auth
    """
    who = flags.pick_name("status", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_GET, NameParams(name=who))
        recent = client.call(SESSION_INTERACTIONS, InteractionsParams(name=who, last=1))
    last = recent.interactions[-1] if recent.interactions else None
    if json:
        io.show_json(json_object(reply.session, activity=reply.activity, last_interaction=last))
    else:
        io.show_lines(render.status_lines(reply.session, reply.activity, last, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def output(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    full: Annotated[bool, flags.switch("--full", "The response alone, nothing else.")] = False,
    json: JsonFlag = False,
) -> int:
    """Show the last prompt, when it was, and the response.

    Examples::

        cms output fix-auth
        cms output fix-auth --full > answer.md
    """
    who = flags.pick_name("output", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_INTERACTIONS, InteractionsParams(name=who, last=1))
    if not reply.interactions:
        raise CmsError(f"{who} has no message yet", hint=f"send one: cms send {who} MESSAGE")
    last = reply.interactions[-1]
    if json:
        io.show_json(
            json_object(
                last,
                name=reply.session.name,
                status=reply.session.status,
                change=reply.session.change,
            )
        )
    else:
        io.show_lines(render.output_lines(last, io.out_style(), full=full, session=reply.session))
    return ExitCode.COMPLETED


def history(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    full: FullFlag = False,
    last: Annotated[
        int | None,
        Parameter(name="--last", converter=flags.to_count, metavar="N", help="Only the newest N."),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Show every interaction: number, type, time, prompt, response, cost, duration.

    Example::

        cms history fix-auth --full
    """
    who = flags.pick_name("history", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_INTERACTIONS, InteractionsParams(name=who, last=last))
    if json:
        io.show_json(
            json_object(
                reply,
                "name=session.name status=session.status interactions total_cost_usd=session.total_cost_usd",
            )
        )
    else:
        io.show_lines(render.history_lines(reply.session, reply.interactions, io.out_style(), full=full))
    return ExitCode.COMPLETED


def list_sessions(
    *,
    status: Annotated[
        str, Parameter(name="--status", metavar="STATUS", help="Only sessions in this status.")
    ] = "",
    limit: Annotated[
        int,
        Parameter(name="--limit", converter=flags.to_count, metavar="N", help="At most so many."),
    ] = LISTED,
    after: Annotated[
        str, Parameter(name="--after", metavar="NAME", help="Only those that come after this one.")
    ] = "",
    json: JsonFlag = False,
) -> int:
    """List sessions, newest first, with the total of all.

    Examples::

        cms list
        cms list --limit 20 --after fix-auth
        cms list --status busy --json
    """
    known = [each.value for each in SessionStatus]
    if status and status not in known:
        meant = nearest(status, known)
        raise UsageError(
            f"there is no status {status!r}",
            hint=f"did you mean {meant!r}?" if meant else f"one of {', '.join(known)}",
        )
    with io.daemon() as client:
        reply = client.call(SESSION_LIST, ListParams(status=status, limit=limit, after=after))
    if json:
        io.show_json(json_object(reply, "sessions total total_cost_usd more"))
    elif status and not reply.sessions:
        io.show_lines([f"no session is {status}"])
    elif after and not reply.sessions:
        io.show_lines([f"no session comes after {after}"])
    else:
        beyond = reply.total - len(reply.sessions) if reply.more or after else 0
        table = render.list_table(
            reply.sessions, reply.total_cost_usd, time.time(), io.out_style(), beyond=beyond
        )
        io.show_lines(table)
    return ExitCode.COMPLETED
