"""`cms adopt`: a conversation begun outside of cms becomes a session."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.cli.option_flags import AdoptFlags
from cms.cli.terminal import Style
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object
from cms.options import Layer
from cms.rpc.client import Client
from cms.rpc.conversations import (
    CONVERSATIONS_LIST,
    LISTED,
    SESSION_ADOPT,
    AdoptParams,
    ConversationsParams,
)
from cms.session.conversation import Conversation
from cms.units import ago

#: Letters of an id that are shown: enough to name one, and any other number does.
_SHOWN = 8


def adopt(
    conversation: Annotated[
        str | None, flags.word("The conversation's id or its first letters; without it, list the latest.")
    ] = None,
    /,
    *,
    name_flag: Annotated[
        str | None,
        flags.text_flag("--name", "The session's name. [default: made from the folder]", "NAME"),
    ] = None,
    limit: Annotated[int, flags.count("--limit", "List at most N.")] = LISTED,
    said: Annotated[AdoptFlags, Parameter(name="*")] = AdoptFlags(),  # noqa: B008 - it is frozen
    json: JsonFlag = False,
) -> int:
    """Turn a conversation begun in claude itself into a session.

    Without an id, list the latest conversations of your claude. With one, `cms send` and `cms continue` go on
    with it, under the options given here, in the folder that it was begun in. What it has cost until now is
    not counted.

    Examples::

        cms adopt
        cms adopt 1edacc04 --name locks --preset read-only
    """
    with io.daemon() as client:
        if conversation is None:
            found = client.call(CONVERSATIONS_LIST, ConversationsParams(limit=min(limit, 200))).conversations
            if json:
                io.show_json(json_object(conversations=found))
            else:
                io.show_lines(_lines(found, io.out_style()))
            return ExitCode.COMPLETED
        one = _find(client, conversation)
        options = said.options(name_flag or _name_of(one), over=Layer(work_dir=_work_dir(one, said)))
        said.warn()
        session = client.call(SESSION_ADOPT, AdoptParams(options, one.id)).session
    if json:
        io.show_json(session)
    else:
        told = (
            f"{session.name}: adopted, in {session.options.work_dir}",
            "  what it has cost until now is not counted",
            f"  continue: cms send {session.name} MESSAGE",
        )
        io.show_lines(list(told))
    return ExitCode.COMPLETED


def _find(client: Client, start: str) -> Conversation:
    if not re.fullmatch(r"[0-9A-Za-z-]{4,64}", start):
        raise UsageError(f"{flags.shorten(start)!r} is not a conversation's id", hint="cms adopt lists them")
    found = client.call(CONVERSATIONS_LIST, ConversationsParams(start=start, limit=2)).conversations
    if not found:
        raise UsageError(f"no conversation begins with {start!r}", hint="cms adopt lists them")
    if len(found) > 1 and start not in (one.id for one in found):
        raise UsageError(f"several conversations begin with {start!r}", hint="give more letters of the id")
    return next((one for one in found if one.id == start), found[0])


def _name_of(one: Conversation) -> str:
    """A name for it: its folder's, and the beginning of its id."""
    word = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(one.folder).name).strip("-")[:40]
    return f"{word or 'session'}-{one.id[:_SHOWN]}"


def _work_dir(one: Conversation, said: AdoptFlags) -> str:
    given = said.layer.work_dir
    if given and Path(given).resolve() != Path(one.folder).resolve():
        raise UsageError(
            f"claude keeps this conversation, begun in {one.folder}, there; it cannot continue in {given}",
            hint="leave out --work-dir",
        )
    return one.folder


def _lines(found: tuple[Conversation, ...], style: Style) -> list[str]:
    if not found:
        return ["no conversations yet"]
    now = time.time()
    rows = [("ID", "AGE", "FOLDER", "SESSION", "FIRST WORDS")]
    for one in found:
        where, words = render.one_line(one.folder, style), render.one_line(one.first, style)
        rows.append((one.id[:_SHOWN], ago(one.at, now), where, one.session, words))
    return [
        *render.table(rows, style, shrink=((4, 20), (2, 16)), from_end=(2,)),
        "",
        "make one a session: cms adopt ID",
    ]
