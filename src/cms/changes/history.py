"""What was done with a change: applied, taken back. And by that, what was in a folder before.

One file, replaced whole. That it names a transaction makes the transaction done (see `transaction.py`).
What an apply replaced is kept in the change's content store, so the base of another task that began before it
can be found here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

import msgspec

from cms.changes.model import Applied, Node
from cms.errors import ChangeUnreadable
from cms.files import replace_file

NAME: Final = "history.json"


class Item(msgspec.Struct, frozen=True):
    """One path: what it was, what it is now.

    Attributes:
        ctime: of what was there before, seconds since the epoch; 0 if nothing was.
    """

    path: bytes
    before: Node | None
    after: Node | None
    ctime: float = 0.0


class Event(msgspec.Struct, frozen=True):
    """One transaction on a folder.

    Attributes:
        kind: `undone`: it was begun and rolled back, which leaves everything but the ctimes as it was.
        at: seconds since the epoch, before anything was written.
        ended: after all was.
    """

    token: str
    kind: Literal["apply", "revert", "undone"]
    folder: str
    at: float
    ended: float
    items: tuple[Item, ...] = ()


class History(msgspec.Struct, frozen=True):
    """All of them, in order."""

    events: tuple[Event, ...] = ()

    @property
    def standing(self) -> Event | None:
        """The apply that has not been taken back, if any."""
        last = next((event for event in reversed(self.events) if event.kind != "undone"), None)
        return last if last is not None and last.kind == "apply" else None


def read_history(keep: Path) -> History:
    """What was done with a change: nothing, if it says nothing.

    Raises:
        ChangeUnreadable: there is something, and it makes no sense.
    """
    try:
        data = (keep / NAME).read_bytes()
    except FileNotFoundError:
        return History()
    try:
        return msgspec.json.decode(data, type=History)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChangeUnreadable(f"{keep / NAME} cannot be read: {error}") from None


def add_event(keep: Path, event: Event) -> None:
    """Write one down, durably."""
    events = read_history(keep).events
    replace_file(keep / NAME, msgspec.json.encode(History((*events, event))))


def find_applied(keep: Path) -> Applied | None:
    """Where and when a change was applied, if it is.

    Raises:
        ChangeUnreadable: that cannot be told.
    """
    event = read_history(keep).standing
    return None if event is None else Applied(event.folder, event.at)


def find_preimages(changes: Path, folder: str, since: float) -> dict[bytes, tuple[Item, Path]]:
    """What applies to a folder replaced first after a time, and in which change's folder it is kept."""
    found: list[tuple[Event, Path]] = []
    with os.scandir(changes) as entries:
        for entry in entries:
            try:
                if Path(entry.path, NAME).stat().st_mtime < since - 1:
                    continue
                events = read_history(Path(entry.path)).events
            except (OSError, ChangeUnreadable):
                continue
            found += [(event, Path(entry.path)) for event in events if event.folder == folder]
    first: dict[bytes, tuple[Item, Path]] = {}
    for event, keep in sorted(found, key=lambda each: each[0].at):
        if event.ended >= since:
            for item in event.items:
                first.setdefault(item.path, (item, keep))
    return first
