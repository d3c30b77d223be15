"""What people ask about a session's change: to see it, to have it applied, exported or dropped.

One at a time for each session, and not while it is at work, but for looking.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cms.changes import Change, Outcome, as_text
from cms.errors import WrongStatus
from cms.session.audit import about
from cms.session.model import LIVE, ChangeSummary, SessionRecord
from cms.store import sessions

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor


class Shown(msgspec.Struct, frozen=True):
    """A change as it is to be shown.

    Attributes:
        keep: where it is kept.
        live: the session is at work on it.
    """

    session: SessionRecord
    change: Change
    summary: ChangeSummary
    keep: Path
    live: bool


async def show(supervisor: Supervisor, name: str) -> Shown:
    """The change of a session as of now.

    Raises:
        SessionNotFound, ChangeNotFound: there is none.
        CmsError, OSError: it cannot be read.
    """
    async with supervisor.turn(name):
        record = await supervisor.get(name)
        live = supervisor.runner(name) is not None
        keep, change, fresh = await supervisor.changes.look(record, live=live)
        summary = await supervisor.changes.summary(record, keep, change, fresh=fresh)
        if summary != record.change and not live:
            record = msgspec.structs.replace(record, change=summary)
            await supervisor.store.write(sessions.save, record)
        return Shown(record, change, summary, keep, live)


async def apply(supervisor: Supervisor, name: str, *, conflict_markers: bool = False) -> Outcome:
    """Bring it into its folder: all of it, or nothing.

    Raises:
        SessionNotFound, ChangeNotFound: there is none.
        WrongStatus: the session is at work.
        WrongChange: it is applied already, or empty.
        CmsError, OSError: it cannot be read.
    """
    async with _at_rest(supervisor, name, "have its change applied") as record:
        return await _apply(supervisor, record, conflict_markers=conflict_markers)


async def apply_at_rest(supervisor: Supervisor, name: str) -> Outcome:
    """The same for the delegation itself, whose process has ended. Raises as there."""
    async with supervisor.turn(name):
        record = await supervisor.get(name)
        if supervisor.runner(name) is not None:
            raise WrongStatus(name, str(record.status), "have its change applied")
        return await _apply(supervisor, record, conflict_markers=False)


async def _apply(supervisor: Supervisor, record: SessionRecord, *, conflict_markers: bool) -> Outcome:
    summary = await _summary(supervisor, record)
    environ = supervisor.settings_of(record).environ
    outcome = await supervisor.changes.apply(record, environ, conflict_markers=conflict_markers)
    if outcome.applied:
        told = applied(summary, outcome)
        await _save(supervisor, record, told, "applied", record.options.work_dir)
    return outcome


async def bring_branch(supervisor: Supervisor, name: str, branch: str) -> str:
    """Bring it as a branch of its folder's repository; gives the commit that the branch stands at.

    Raises:
        SessionNotFound, ChangeNotFound: there is none.
        WrongStatus: the session is at work.
        WrongChange: there is no repository, or the name cannot be used.
        CmsError, OSError: it cannot be read.
    """
    async with _at_rest(supervisor, name, "have its change applied") as record:
        last = next(iter(await supervisor.interactions(name, 1)), None)
        task = " ".join((last.prompt if last is not None else "").split())
        message = f"{name}: {task[:60]}".rstrip(": ")
        summary = await _summary(supervisor, record)
        commit = await supervisor.changes.bring_branch(record, branch, message=message)
        if summary.state == "kept":
            note = f"it is branch {branch} of {record.options.work_dir}"
            summary = msgspec.structs.replace(summary, state="exported", note=note)
        await _save(supervisor, record, summary, "branched", f"{branch} at {commit}")
        return commit


async def discard(supervisor: Supervisor, name: str) -> ChangeSummary:
    """Drop it; gives what it was.

    Raises:
        SessionNotFound, ChangeNotFound: there is none.
        WrongStatus: the session is at work.
        WrongChange: it is applied.
        CmsError, OSError: it cannot be dropped.
    """
    async with _at_rest(supervisor, name, "have its change discarded") as record:
        summary = await _summary(supervisor, record)
        await supervisor.changes.discard(record)
        await _save(supervisor, record, None, "discarded", record.options.work_dir)
        return summary


async def export(supervisor: Supervisor, name: str, target: Path) -> tuple[int, bool]:
    """Write it to a new file as a patch, or to a new folder; gives how many files, and whether all is there.

    Raises:
        SessionNotFound, ChangeNotFound: there is none.
        WrongStatus: the session is at work.
        WrongChange: there is something at the target already.
        CmsError, OSError: it cannot be written.
    """
    async with _at_rest(supervisor, name, "have its change exported") as record:
        summary = await _summary(supervisor, record)
        files, whole = await supervisor.changes.export(record, target)
        if whole and summary.state == "kept":
            summary = msgspec.structs.replace(summary, state="exported", note=f"it is in {target}")
        await _save(supervisor, record, summary, "exported", str(target))
        return files, whole


def applied(summary: ChangeSummary, outcome: Outcome) -> ChangeSummary:
    """What is to be told of a change once it is applied."""
    notes = []
    if outcome.merged:
        notes.append(f"merged with changes by others: {_names(outcome.merged)}")
    if outcome.marked:
        notes.append(f"conflict markers in {_names(outcome.marked)}")
    return msgspec.structs.replace(summary, state="applied", note="; ".join(notes))


def why_refused(outcome: Outcome, most: int) -> tuple[str, ...]:
    """Why it was not applied, the first few by name, a line each."""
    lines = [
        f"not applied: {as_text(one.path)}: {one.detail}" if one.path else f"not applied: {one.detail}"
        for one in outcome.refused[:most]
    ]
    if (more := len(outcome.refused) - most) > 0:
        lines.append(f"not applied: {more} more paths")
    return tuple(lines)


def _names(paths: tuple[bytes, ...]) -> str:
    shown = [as_text(path) for path in paths[:5]]
    return ", ".join(shown) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


@asynccontextmanager
async def _at_rest(supervisor: Supervisor, name: str, wanted: str) -> AsyncIterator[SessionRecord]:
    async with supervisor.turn(name):
        record = await supervisor.get(name)
        if supervisor.runner(name) is not None or record.status in LIVE or supervisor.under_way.has(name):
            hint = f"wait for it with `cms wait {name}`, or end it with `cms stop {name}`"
            raise WrongStatus(name, str(record.status), wanted, hint=hint)
        yield record


async def _summary(supervisor: Supervisor, record: SessionRecord) -> ChangeSummary:
    return await supervisor.changes.freeze(record) or ChangeSummary("kept")


async def _save(
    supervisor: Supervisor, record: SessionRecord, summary: ChangeSummary | None, done: str, where: str
) -> None:
    """Store what is to be told of a change from now on, and for good what was done with it."""
    told = "" if summary is None else summary.note
    entry = about(record, "change", done, at=time.time(), detail=where, reason=told)
    record = msgspec.structs.replace(record, change=summary)
    await supervisor.store.write(sessions.save_change, record, entry)
