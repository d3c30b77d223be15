"""Commands that only ask: status, output, history, list. Each in one connection, quick."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.declare import Parameter
from cms.cli.flags import FullFlag, JsonFlag, NameFlag, NameWord
from cms.cli.terminal import Style
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
from cms.session.model import Order, Outcome, SessionRecord, SessionStatus, shown_as
from cms.units import ago, meant, money, plural

_HEADS = ("NAME", "STATUS", "MODEL", "TURNS", "COST", "MSGS", "AGE", "FOLDER")
#: What gives way on a narrow terminal, and how far: the folder, the name and the model, never a figure.
_SHRINK = ((7, 16), (0, 16), (2, 6), (7, 6), (0, 10), (1, 9), (2, 5), (0, 4), (7, 0))


def status(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """Show one session: what it does, cost, limits, how it last ended.

    Example::

        cms status fix-auth
    """
    from cms.cli.usage import plan_line  # not above: `list` does without
    from cms.rpc.overview import USAGE_GET
    from cms.rpc.verbs import Nothing

    who = flags.pick_name("status", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_GET, NameParams(name=who))
        recent = client.call(SESSION_INTERACTIONS, InteractionsParams(name=who, last=1))
        plan = client.call(USAGE_GET, Nothing()).windows if not json else ()
    last = recent.interactions[-1] if recent.interactions else None
    if json:
        io.show_json(
            json_object(
                reply.session, activity=reply.activity, last_interaction=last, next_step=recent.next_step
            )
        )
    else:
        now, style = time.time(), io.out_style()
        line = plan_line(plan, now, style)
        step = recent.next_step
        io.show_lines(
            render.status_lines(reply.session, reply.activity, last, now, style, plan=line, next_step=step)
        )
    return ExitCode.COMPLETED


def output(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    full: Annotated[bool, flags.switch("--full", "Print the answer alone, uncut.")] = False,
    json: JsonFlag = False,
) -> int:
    """Show the last prompt and its answer.

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
    last: Annotated[int | None, flags.count("--last", "Show only the newest N.")] = None,
    json: JsonFlag = False,
) -> int:
    """Show every message of a session and its answer.

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
        str,
        Parameter(
            name="--status",
            metavar="STATUS",
            help="Show only sessions with this status or outcome: busy, needs_input.",
        ),
    ] = "",
    sort: Annotated[
        Order,
        Parameter(name="--sort", metavar="FIELD", help="Sort by this.", show_choices=True),
    ] = "age",
    limit: Annotated[int, flags.count("--limit", "Show at most N.")] = LISTED,
    after: Annotated[
        str, Parameter(name="--after", metavar="NAME", help="Show only those after this one.")
    ] = "",
    tag: Annotated[
        tuple[str, ...],
        flags.many("--tag", "Show only sessions with this tag. Repeatable: with all of them.", "TAG"),
    ] = (),
    json: JsonFlag = False,
) -> int:
    """List sessions, newest first.

    Examples::

        cms list
        cms list --sort cost --limit 20
        cms list --status needs_input --json
    """
    known = list(dict.fromkeys(one.value for one in (*SessionStatus, *Outcome)))
    if status and status not in known:
        raise UsageError(f"there is no status {status!r}", hint=meant(status, known))
    with io.daemon() as client:
        params = ListParams(status=status, order=sort, limit=limit, after=after, tags=tag)
        reply = client.call(SESSION_LIST, params)
    if json:
        shown = [json_object(one, outcome=reply.outcomes.get(one.id)) for one in reply.sessions]
        io.show_json({"sessions": shown, **json_object(reply, "total total_cost_usd more")})
    elif tag and not reply.sessions:
        io.show_lines([f"no session is tagged {' and '.join(tag)}"])
    elif status and not reply.sessions:
        io.show_lines([f"no session is {status}"])
    elif after and not reply.sessions:
        io.show_lines([f"no session comes after {after}"])
    else:
        beyond = reply.total - len(reply.sessions) if reply.more or after else 0
        table = list_table(
            reply.sessions,
            reply.total_cost_usd,
            time.time(),
            io.out_style(),
            outcomes=reply.outcomes,
            home=os.environ.get("HOME", ""),
            order=sort,
            beyond=beyond,
            only=_only(status, tag) if beyond else "",
        )
        io.show_lines(table)
    return ExitCode.COMPLETED


def _only(status: str, tags: Sequence[str]) -> str:
    """The flags that ask for no others, as a shell reads them."""
    from shlex import quote

    return (f" --status {status}" if status else "") + "".join(f" --tag {quote(tag)}" for tag in tags)


# --- lines ----------------------------------------------------------------------------------------


def list_table(
    sessions: Sequence[SessionRecord],
    total_cost: float,
    now: float,
    style: Style,
    *,
    outcomes: Mapping[str, Outcome] | None = None,
    home: str = "",
    order: Order = "age",
    beyond: int = 0,
    only: str = "",
) -> list[str]:
    """The sessions in the order they came, cut to the style's width, a total below.

    Args:
        outcomes: how the last message of each has ended, by its id.
        home: the user's home folder, shown as `~`.
        beyond: sessions that are counted in the cost, and not shown.
        only: the flags with which these were asked for, for the next page.
    """
    if not sessions:
        return ["no sessions yet; start one: cms spawn NAME PROMPT"]
    shown = [shown_as(one.status, (outcomes or {}).get(one.id)) for one in sessions]
    active = order == "active"
    rows: list[tuple[str, ...]] = [
        (
            session.name,
            render.with_icon(what.value, render.icons_of(what), style),
            session.options.model,
            str(session.total_turns),
            money(session.total_cost_usd, exact=session.cost_exact),
            str(session.interaction_count),
            ago(session.last_saved if active else session.created, now),
            render.one_line(short_folder(session.options.work_dir, home), style),
        )
        for session, what in zip(sessions, shown, strict=True)
    ]
    colours = [render.icons_of(what)[2] for what in shown]
    heads: tuple[str, ...] = tuple("ACTIVE" if active and head == "AGE" else head for head in _HEADS)
    shrink: tuple[tuple[int, int], ...] = _SHRINK
    if any(session.options.tags for session in sessions):
        heads = (*heads, "TAGS")
        tags = [render.one_line(", ".join(session.options.tags), style) for session in sessions]
        rows = [(*row, own) for row, own in zip(rows, tags, strict=True)]
        shrink = (_SHRINK[0], (8, 16), *_SHRINK[1:4], (8, 8), (8, 0), *_SHRINK[4:])
    lines = render.table(
        (heads, *rows), style, right=(3, 4, 5), shrink=shrink, from_end=(7,), colours=(1, colours)
    )
    if beyond:
        sort = "" if order == "age" else f" --sort {order}"
        more = f"the next: cms list{only}{sort} --after {sessions[-1].name}"
        there = plural(len(sessions) + beyond, "session")
        return [*lines, "", f"total: {there}, {money(total_cost)}; {len(sessions)} shown; {more}"]
    sums = (
        plural(len(sessions), "session"),
        plural(sum(session.interaction_count for session in sessions), "interaction"),
        plural(sum(session.total_turns for session in sessions), "turn"),
        money(total_cost),
    )
    return [*lines, "", f"total: {', '.join(sums)}"]


def short_folder(path: str, home: str) -> str:
    """A folder as people write it: `~/src/api`."""
    if home and (path == home or path.startswith(home + "/")):
        return "~" + path[len(home) :]
    return path
