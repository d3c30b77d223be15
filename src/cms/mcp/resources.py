"""Resources: what a client may read without a tool: a session's transcript, a batch's report, as Markdown."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

import msgspec

from cms.errors import UsageError
from cms.json_output import iso
from cms.mcp.call import DaemonCall
from cms.rpc.batches import BATCH_LIST, BATCH_REPORT, BatchReportParams
from cms.rpc.sessions import (
    SESSION_INTERACTIONS,
    SESSION_LIST,
    InteractionsParams,
    ListParams,
)
from cms.rpc.verbs import Nothing
from cms.session.model import ENDED, Interaction, SessionRecord
from cms.units import BadValue, check_name, money, plural

MARKDOWN = "text/markdown"
TRANSCRIPT = "cms://session/{name}/transcript"
_TRANSCRIPT = re.compile(r"cms://session/([^/]+)/transcript")
REPORT = "cms://batch/{id}/report"
_REPORT = re.compile(r"cms://batch/([A-Za-z0-9._-]{1,200})/report")
#: Resources that a list shows; the rest can be read all the same.
MAX_LISTED = 100


class Listed(msgspec.Struct, frozen=True):
    """One resource in a list."""

    uri: str
    name: str
    title: str
    description: str


def transcripts(call: DaemonCall) -> list[Listed]:
    """The newest sessions' transcripts."""
    reply = call.call(SESSION_LIST, ListParams(limit=MAX_LISTED))
    return [
        Listed(
            uri=TRANSCRIPT.replace("{name}", quote(record.name, safe="")),
            name=record.name,
            title=f"Transcript of {record.name}",
            description=f"{record.status}, {_messages(record)}, {money(record.total_cost_usd)}",
        )
        for record in reply.sessions
    ]


def reports(call: DaemonCall) -> list[Listed]:
    """The newest batches' reports."""
    reply = call.call(BATCH_LIST, Nothing())
    return [
        Listed(
            uri=REPORT.replace("{id}", batch.id),
            name=batch.id,
            title=f"Report of batch {batch.id}",
            description=f"{batch.status}, {plural(batch.total, 'task')}, {money(batch.spent)}",
        )
        for batch in reply.batches[:MAX_LISTED]
    ]


def listed(call: DaemonCall) -> list[Listed]:
    """Everything that a list shows. A session that may use cms has sessions only."""
    return (
        transcripts(call) if call.settings.child_socket is not None else [*transcripts(call), *reports(call)]
    )


def read(call: DaemonCall, uri: str) -> str:
    """The text of a resource.

    Raises:
        UsageError: no resource has that address.
        CmsError: there is no such session.
    """
    batch = _REPORT.fullmatch(uri)
    if batch is not None:
        return call.call(BATCH_REPORT, BatchReportParams(batch.group(1))).text
    found = _TRANSCRIPT.fullmatch(uri)
    try:
        name = check_name(unquote(found.group(1)) if found else "")
    except BadValue:
        raise UsageError(
            f"there is no resource {uri!r}", hint=f"addresses look like {TRANSCRIPT} or {REPORT}"
        ) from None
    reply = call.call(SESSION_INTERACTIONS, InteractionsParams(name=name))
    return transcript(reply.session, reply.interactions)


def _messages(session: SessionRecord) -> str:
    return plural(session.interaction_count, "message")


def transcript(session: SessionRecord, interactions: tuple[Interaction, ...]) -> str:
    """A session as Markdown: what it is, then each message with its answer."""
    options = session.options
    turns = plural(session.total_turns, "turn")
    figures = f"{_messages(session)}, {turns}, {money(session.total_cost_usd)}"
    lines = [
        f"# {session.name}",
        "",
        f"{session.status}; {options.model}, preset {options.preset}, in `{options.work_dir}`; " + figures,
    ]
    if session.error:
        lines += ["", f"Error: {session.error}"]
    for interaction in interactions:
        lines += ["", f"## {interaction.number}. {interaction.type}, {iso(interaction.timestamp)}", ""]
        lines += [f"> {call}".rstrip() for call in interaction.prompt.splitlines()]
        if interaction.response:
            lines += ["", interaction.response.strip()]
        notes = []
        if interaction.state not in ENDED:
            notes.append(f"{interaction.state}: not over yet")
        if interaction.tools_used:
            notes.append(f"tools: {', '.join(interaction.tools_used)}")
        notes += [f"refused: {d.tool} {d.detail}: {d.reason}" for d in interaction.denials]
        notes += [f"asked: {q.question} ({' / '.join(q.options) or 'open'})" for q in interaction.questions]
        if interaction.error:
            notes.append(f"error: {interaction.error}")
        notes.append(
            f"{interaction.outcome or interaction.state}; {interaction.turns} turns, "
            f"{money(interaction.cost)}, {interaction.duration:.1f} s"
        )
        lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"
