"""`cms tag`: words of a person's own on a session."""

from __future__ import annotations

from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object
from cms.rpc.sessions import SESSION_GET, SESSION_TAG, NameParams, TagParams
from cms.units import check_tags


def tag(
    *words: Annotated[str, flags.word("The session's name, then its tags (TAG or +TAG).")],
    name_flag: flags.NameFlag = None,
    remove: Annotated[tuple[str, ...], flags.many("--remove", "Remove this tag. Repeatable.", "TAG")] = (),
    json: JsonFlag = False,
) -> int:
    """Tag a session, or show its tags.

    `cms list --tag TAG` lists what has a tag, `cms cost --by tag` shows what it cost. `delegate`, `spawn` and
    `batch` tag what they start with --tag; tags from the defaults, a profile, a batch and a task add up.

    Examples::

        cms tag fix-auth release-2 urgent
        cms tag fix-auth --remove urgent
        cms tag fix-auth
    """
    name, *more = (*(() if name_flag is None else (name_flag,)), *words) or ("",)
    if not name:
        raise UsageError("tag needs the name of a session", hint=flags.usage_hint("tag", "NAME [TAG...]"))
    add = check_tags([word.removeprefix("+") for word in more])
    with io.daemon() as client:
        if add or remove:
            session = client.call(SESSION_TAG, TagParams(name, add, remove)).session
        else:
            session = client.call(SESSION_GET, NameParams(name)).session
    if json:
        io.show_json(json_object(session, "name id tags=options.tags"))
    else:
        tags = ", ".join(session.options.tags) or "no tags"
        io.show_lines([f"{session.name}: {render.one_line(tags, io.out_style())}"])
    return ExitCode.COMPLETED
