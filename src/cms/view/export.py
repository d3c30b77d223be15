"""The pages as files: for a CI's artifacts, or for somebody who has no access to this machine.

The same documents and scripts as the server's, with the values in them: no server, no token, nothing that is
loaded from elsewhere, and secrets masked (`masking`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cms.errors import CmsError, MachineError, UsageError
from cms.files import create_file
from cms.json_output import json_object
from cms.page import data
from cms.page.data import Event
from cms.page.document import Kind, asset, filed, joined_script
from cms.rpc.batches import BATCH_LIST
from cms.rpc.sessions import MAX_LISTED, SESSION_LIST, ListParams
from cms.rpc.verbs import Nothing
from cms.session.model import Outcome, Record, SessionRecord
from cms.view.ask import Daemon
from cms.view.feeds import BatchFeed, Feed, SessionFeed
from cms.view.masking import Mask

#: Sessions with a page, the newest.
MOST: Final = 2000


class Exported(Record, frozen=True):
    """What was written. `left_out`: sessions without a page."""

    folder: str
    sessions: int
    batches: int
    left_out: int


def export(daemon: Daemon, folder: Path, environ: Mapping[str, str]) -> Exported:
    """Write all pages into a new or empty folder.

    Args:
        environ: the values of its secret variables are masked.

    Raises:
        UsageError: the folder holds something, or cannot be made.
        CmsError: the daemon does not answer.
    """
    files = _Files(folder, Mask(environ))
    sessions, outcomes, total = _sessions(daemon)
    at = time.time()
    pages = {record.name: f"session-{_file_name(record.name)}.html" for record in sessions}
    batches = daemon.call(BATCH_LIST, Nothing()).batches
    batch_pages = {one.id: f"batch-{_file_name(one.id)}.html" for one in batches}
    rows = [
        {**data.session_row(record, outcomes.get(record.id)), "file": pages[record.name]}
        for record in sessions
    ]
    front = json_object(at=at, sessions=rows, total=total, spent_today=None, plan=[])
    files.page("index.html", "sessions", [("sessions", front)], "Sessions")
    told = [{**data.batch(one), "file": batch_pages[one.id]} for one in batches]
    files.page("batches.html", "batches", [("batches", json_object(at=at, batches=told))], "Batches")
    for record in sessions:
        files.page(pages[record.name], "session", _first(SessionFeed(daemon, record.name)), record.name)
    for one in batches:
        events = [_linked(event, pages) for event in _first(BatchFeed(daemon, one.id))]
        files.page(batch_pages[one.id], "batch", events, f"Batch {one.id}")
    files.write("view.css", asset("view.css"))
    files.write("view.js", joined_script())
    return Exported(str(folder), len(sessions), len(batches), total - len(sessions))


def _sessions(daemon: Daemon) -> tuple[list[SessionRecord], dict[str, Outcome], int]:
    """The newest sessions, how the last message of each ended, by its id, and how many there are."""
    found: list[SessionRecord] = []
    outcomes: dict[str, Outcome] = {}
    after = ""
    while True:
        page = daemon.call(SESSION_LIST, ListParams(limit=min(MAX_LISTED, MOST - len(found)), after=after))
        found += page.sessions
        outcomes |= page.outcomes
        if not page.more or not page.sessions or len(found) >= MOST:
            return found, outcomes, page.total
        after = found[-1].name


def _first(feed: Feed) -> list[Event]:
    """All that a page is told; nothing where it is gone by now."""
    try:
        return list(feed.poll())
    except CmsError:
        return []


def _linked(event: Event, pages: Mapping[str, str]) -> Event:
    name, value = event
    tasks = value.get("tasks")
    if name != "tasks" or not isinstance(tasks, list):
        return event
    linked = [{**task, "file": pages.get(task["name"])} for task in tasks]
    return name, {**value, "tasks": linked}


def _file_name(name: str) -> str:
    """A name as part of a file's, also where the system takes large letters for small ones."""
    return "".join(f"{letter}~" if letter.isupper() else letter for letter in name)


class _Files:
    """A folder that was empty. Nothing in it is written over or followed."""

    def __init__(self, folder: Path, mask: Mask) -> None:
        self._folder = folder
        self._mask = mask
        self._made = time.strftime("Made by cms view --export, %Y-%m-%d %H:%M:%S %Z.")
        try:
            # What sessions said is their person's own, until that one gives it away.
            folder.mkdir(0o700, exist_ok=True)
            if any(folder.iterdir()):
                raise UsageError(f"--export: {folder} is not empty", hint="name a new folder")
        except OSError as error:
            raise UsageError(f"--export: {folder}: {error.strerror}", hint="name a new folder") from None

    def page(self, name: str, kind: Kind, events: Sequence[Event], title: str) -> None:
        masked = list(_masked(events, self._mask))
        self.write(name, filed(kind, masked, f"{self._mask.text(title)} · cms", self._made))

    def write(self, name: str, text: str) -> None:
        """Raises MachineError: it cannot be written."""
        try:
            create_file(self._folder / name, text.encode(), mode=None, durable=False)
        except OSError as error:
            raise MachineError(f"--export: {self._folder / name}: {error.strerror}") from None


def _masked(events: Sequence[Event], mask: Mask) -> Iterator[Event]:
    for name, value in events:
        # By way of JSON: parts of a value may be JSON already.
        plain = msgspec.json.decode(msgspec.json.encode(value), type=dict[str, object])
        yield name, {key: mask.value(one) for key, one in plain.items()}
