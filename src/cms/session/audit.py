"""The audit log: what a line of it is, and the seals that show when one was changed.

The seal of a row is the SHA-256 of the seal before it and of the row itself in one canonical form. Who
changes, removes, inserts or moves a row breaks every seal from there on; who removes the newest rows is found
by the head, which is kept apart (`audit_heads` in the store).

What that is worth: it shows a change by accident, by another program, or by hand. Who may write the database
and knows this file can seal a whole new log. Against that helps only a head that was noted somewhere else:
`cms audit NAME` prints it, and `--head` says whether the log still begins with what it stood for.

Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from cms.session.model import Record, SessionRecord

#: What a row is made of, as a database gives it back.
Value = str | int | float | None

#: What stands in the place of the seal before the first row's.
FIRST: Final = "0" * 64

#: What a line can be about.
EntryKind = Literal[
    "call", "message", "start", "safety", "limit", "end", "tripwire", "delete", "batch", "change", "rename"
]


class AuditEntry(Record, frozen=True):
    """A line of the audit log: an answer of the gate, or something else that was decided about a session.

    Attributes:
        tool: of a `call`.
        detail: what it was about, in a line: the path, the command, the prompt, the mechanism; of a `delete`
            the name that the session had, of a `rename` both names.
        verdict: one word: `allowed` or `refused` of a `call`, the outcome of a `limit`, whether an `end` was
            `proved`; what was done to a `batch`, whose id then stands for the session's, or with a `change`.
        cost: the session's dollars so far.
        tool_use_id: claude's id of the `call`; "" in entries of earlier versions. One call can have two
            entries: about what the gate leaves to it, claude asks.
    """

    session_id: str
    interaction_id: str
    at: float
    tool: str
    detail: str
    verdict: str
    reason: str = ""
    cost: float = 0.0
    kind: EntryKind = "call"
    tool_use_id: str = ""


def about(
    session: SessionRecord, kind: EntryKind, verdict: str, *, at: float, detail: str, reason: str = ""
) -> AuditEntry:
    """A line about a session as it rests, and no message of it."""
    return AuditEntry(
        session_id=session.id,
        interaction_id="",
        at=at,
        tool="",
        detail=detail,
        verdict=verdict,
        reason=reason,
        cost=session.total_cost_usd,
        kind=kind,
    )


class AuditRow(Record, frozen=True):
    """One line of the audit log, with its place and its seal."""

    number: int  # 1 is the session's first
    entry: AuditEntry
    seal: str


class Broken(Record, frozen=True):
    """The first row that is not what was written."""

    number: int
    why: str


class AuditLog(Record, frozen=True):
    """The log of one session, oldest row first, checked; where a row is broken, those before it."""

    name: str
    session_id: str
    rows: tuple[AuditRow, ...]
    broken: Broken | None


def let_through(entries: Iterable[AuditEntry]) -> dict[str, str]:
    """The tools of the calls that the gate let through and nobody refused afterwards, by the calls' ids."""
    calls: dict[str, str] = {}
    for number, entry in enumerate(entries):
        if entry.kind != "call":
            continue
        if entry.verdict == "allowed":
            calls[entry.tool_use_id or f"entry {number}"] = entry.tool
        else:
            calls.pop(entry.tool_use_id, None)
    return calls


def seal(before: str, number: int, row: Sequence[Value]) -> str:
    """The seal of a row, given as `store.audit.to_row` makes it.

    A last value that says nothing is left out: earlier versions had no such column.
    """
    row = row[:-1] if row[-1] == "" else row
    return hashlib.sha256(before.encode() + msgspec.json.encode([number, *row])).hexdigest()


def verify(rows: Iterable[tuple[int, Sequence[Value], str]], length: int, head: str) -> Broken | None:
    """The first row that is wrong, or None. `length` and `head` are what is kept apart."""
    before, expected = FIRST, 1
    for number, row, sealed in rows:
        if number != expected:
            what = f"rows {expected} to {number - 1} are missing" if number > expected else "one row too many"
            return Broken(expected, what)
        if seal(before, number, row) != sealed:
            return Broken(number, "it was changed, or the row before it was")
        before, expected = sealed, expected + 1
    if expected - 1 != length:
        if expected - 1 < length:
            return Broken(expected, f"the newest {length - expected + 1} rows are missing")
        return Broken(length + 1, "rows were added that cms did not write")
    if before != head:
        return Broken(length, "the log was resealed: its end is not the one it had")
    return None
