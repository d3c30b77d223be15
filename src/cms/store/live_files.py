"""A file for each live session that tells where its processes are: `CMS_HOME/live/ID.json`.

For `cms kill --force-local`, which needs neither the daemon nor the database. Written when there is a
process, removed when it is proved that none is left.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from cms.containment import Whereabouts, still_alive
from cms.errors import UNREADABLE
from cms.session.model import SessionRecord
from cms.store.errors import as_store_errors


class LiveFile(msgspec.Struct, frozen=True):
    """One session with a process."""

    name: str
    session_id: str
    work_dir: str
    where: Whereabouts


def write(folder: Path, record: SessionRecord, where: Whereabouts) -> None:
    """Write a session's, in the place of an older one.

    Raises:
        StoreError: it cannot be written.
    """
    live = LiveFile(record.name, record.id, record.options.work_dir, where)
    path = folder / f"{record.id}.json"
    with as_store_errors(path):
        folder.mkdir(mode=0o700, exist_ok=True)
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(live))
        new.replace(path)


def remove(folder: Path, session_id: str) -> None:
    """Nothing of it is left.

    Raises:
        StoreError: the file cannot be removed.
    """
    path = folder / f"{session_id}.json"
    with as_store_errors(path):
        path.unlink(missing_ok=True)


def read_all(folder: Path) -> list[LiveFile]:
    """Those that are there; what cannot be read is left out."""
    found: list[LiveFile] = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=LiveFile))
        except (OSError, *UNREADABLE):
            continue
    return found


def sweep(folder: Path) -> None:
    """Remove those that a crash left, whose root process is gone.

    Raises:
        StoreError: one cannot be removed.
    """
    for live in read_all(folder):
        if not still_alive((live.where.root,)):
            remove(folder, live.session_id)
