"""`cms audit`: what was decided about a session, row by row, and whether the log is what was written."""

from __future__ import annotations

from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.cli.terminal import Style
from cms.errors import ExitCode
from cms.json_output import json_object
from cms.rpc.audit import SESSION_AUDIT, AuditParams
from cms.session.audit import AuditLog, AuditRow
from cms.units import clock, money, plural

#: What `--json` tells of a decision. `cost`: the session's dollars so far.
_ROW = (
    "number at=entry.at kind=entry.kind verdict=entry.verdict tool=entry.tool"
    " detail=entry.detail reason=entry.reason cost=entry.cost"
    " interaction_id=entry.interaction_id seal"
)


def audit(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    verify: Annotated[
        bool, flags.switch("--verify", "Only check the seals; exit with 1 if one is broken.")
    ] = False,
    head: Annotated[
        str, flags.text_flag("--head", "Check that the log still has this earlier seal.", "SEAL")
    ] = "",
    json: JsonFlag = False,
) -> int:
    """Show every decision about a session, and why.

    Each row is sealed with the one before it, so a changed, missing or added row shows. Note the newest seal
    (the head) elsewhere to prove later what the log was. The log outlives a deleted session: find it by its
    name, or by its id once the name is taken again.

    Examples::

        cms audit fix-auth
        cms audit fix-auth --verify
        cms audit fix-auth --json > fix-auth.audit.json
    """
    who = flags.pick_name("audit", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_AUDIT, AuditParams(who, head))
    if json:
        io.show_json(_as_json(reply, rows=not verify))
    else:
        io.show_lines(lines(reply, io.out_style(), rows=not verify))
    return ExitCode.COMPLETED if reply.broken is None else ExitCode.FAILED


def _as_json(reply: AuditLog, *, rows: bool) -> dict[str, object]:
    """The log, or without `rows` only what became of the check."""
    return json_object(
        name=reply.name,
        session_id=reply.session_id,
        ok=reply.broken is None,
        broken=reply.broken,
        length=len(reply.rows),
        head=reply.rows[-1].seal if reply.rows else "",
        rows=[json_object(row, _ROW) for row in (reply.rows if rows else ())],
    )


def lines(reply: AuditLog, style: Style, *, rows: bool) -> list[str]:
    """The log for a person, and what became of the check."""
    shown = [row_line(row, style) for row in reply.rows] if rows else []
    if reply.broken is not None:
        where = f"row {reply.broken.number}" if reply.broken.number else "the log"
        return [*shown, f"BROKEN: {where}: {reply.broken.why}"]
    if not reply.rows:
        return ["no decisions about this session yet"]
    return [*shown, f"{plural(len(reply.rows), 'row')}, all seals intact; head {reply.rows[-1].seal}"]


def row_line(row: AuditRow, style: Style) -> str:
    one = row.entry
    about = f"{one.tool} {one.detail}".strip()
    if one.reason:
        about = f"{about} ({one.reason})" if about else one.reason
    what = one.verdict if one.kind == "call" else f"{one.kind}: {one.verdict}"
    return (
        f"{row.number:>4}  {clock(one.at, style.zone)}  {money(one.cost)}  "
        f"{render.one_line(what, style):<22}  {render.one_line(about, style)}"
    )
