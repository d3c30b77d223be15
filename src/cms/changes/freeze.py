"""Make a change durable: its contents, and what was there before."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cms.changes.model import UNBOUND, Bound, Change, Start
from cms.changes.reading import Reading


def note_start(folder: Path) -> Start:
    """To be called before the task can see the folder, and kept with the session. Starts no program."""
    raise NotImplementedError


def freeze(
    reading: Reading,
    keep: Path,
    start: Start,
    *,
    folder: Path | None = None,
    dirty: Collection[bytes] = (),
    bound: Bound = UNBOUND,
) -> Change:
    """Keep what was read, in a new folder. Done anew, it replaces what was kept, unless that is applied.

    Crash-safe: until it returns, `load(keep)` finds what was there before, or nothing.

    Args:
        keep: the change's own folder; its parent holds all changes of this user (see `cms.changes`).
        folder: that it is a change of; by default `reading.base`.
        dirty: paths that differed from the commit at the start, where that is known.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: what was read is no longer there.
        WrongChange: what is kept there has been applied.
        OSError: it cannot be kept (no space).
    """
    raise NotImplementedError


def load(keep: Path) -> Change:
    """A change as it was frozen.

    Raises:
        ChangeNotFound: there is none.
    """
    raise NotImplementedError
