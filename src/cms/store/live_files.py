"""A file for each container of a session that tells where its processes are: `CMS_HOME/live/ID.json`.

For `cms kill --force-local`, which needs neither the daemon nor the database. Written when there is a
process, removed when it is proved that none is left.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cms.containment import Whereabouts, still_alive
from cms.errors import UNREADABLE
from cms.files import replace_file
from cms.session.model import SessionRecord
from cms.store.errors import as_store_errors


class LiveFile(msgspec.Struct, frozen=True):
    """A session with a process, or a check of its work.

    Attributes:
        session_id: "" of a check.
        started_by: the id of the session that started it, or "".
    """

    name: str
    session_id: str
    work_dir: str
    where: Whereabouts
    started_by: str = ""

    @property
    def check(self) -> bool:
        return not self.session_id


def write(folder: Path, record: SessionRecord, where: Whereabouts) -> None:
    """Write a session's, in the place of an older one.

    Raises:
        StoreError: it cannot be written.
    """
    live = LiveFile(record.name, record.id, record.options.work_dir, where, record.started_by)
    _write(folder / f"{record.id}.json", live)


def _write(path: Path, live: LiveFile) -> None:
    with as_store_errors(path):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, msgspec.json.encode(live), durable=False)


def remove(folder: Path, session_id: str) -> None:
    """Nothing of it is left.

    Raises:
        StoreError: the file cannot be removed.
    """
    _remove(folder / f"{session_id}.json")


def _remove(path: Path) -> None:
    with as_store_errors(path):
        path.unlink(missing_ok=True)


@contextmanager
def noted_check(folder: Path, name: str, work_dir: str, where: Whereabouts) -> Iterator[None]:
    """While a check of that session's work runs.

    Raises:
        StoreError: that cannot be written down.
    """
    path = folder / f"check-{secrets.token_hex(8)}.json"
    _write(path, LiveFile(name, "", work_dir, where))
    try:
        yield
    finally:
        _remove(path)


def read_all(folder: Path) -> list[LiveFile]:
    """Those that are there; what cannot be read is left out."""
    return [live for _, live in _read(folder)]


def _read(folder: Path) -> Iterator[tuple[Path, LiveFile]]:
    for path in sorted(folder.glob("*.json")):
        try:
            yield path, msgspec.json.decode(path.read_bytes(), type=LiveFile)
        except (OSError, *UNREADABLE):
            continue


def sweep(folder: Path) -> None:
    """Remove those that a crash left, whose root process is gone.

    Raises:
        StoreError: one cannot be removed.
    """
    for path, live in _read(folder):
        if not still_alive((live.where.root,)):
            _remove(path)
