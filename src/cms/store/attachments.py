"""The files that go with messages: `CMS_HOME/attachments/ID`, kept for as long as a message has them.

A copy, so that what is sent, and sent again by a retry days later, is what was given. Nothing but its id,
which nobody can guess, leads to it: a session that may use cms can attach what it has given itself.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from cms.errors import UsageError
from cms.files import create_file, sync_folder
from cms.session.attachments import MOST_OF_ANY, describe
from cms.session.model import Attachment
from cms.store.database import Database
from cms.store.errors import as_store_errors


def keep(folder: Path, data: bytes, name: str) -> Attachment:
    """Keep a file; it is on disk when this returns.

    Raises:
        UsageError: it cannot be attached.
        StoreError: it cannot be written.
    """
    found = describe(data, name, secrets.token_hex(16))
    path = folder / found.id
    with as_store_errors(path):
        folder.mkdir(mode=0o700, exist_ok=True)
        create_file(path, data)
        sync_folder(folder)
    return found


def check_kept(folder: Path, attachments: Iterable[Attachment]) -> None:
    """All of them are there.

    Raises:
        UsageError: one is not.
    """
    for one in attachments:
        if not (folder / one.id).is_file():
            raise UsageError(f"what was attached as {one.name} is gone", hint="attach it again")


def read(folder: Path, attachments: Iterable[Attachment]) -> list[tuple[Attachment, bytes]]:
    """The files with what they are, as their content says now.

    Raises:
        UsageError: one is not there.
        StoreError: one cannot be read.
    """
    attachments = tuple(attachments)
    check_kept(folder, attachments)
    found = []
    for one in attachments:
        with as_store_errors(folder / one.id), (folder / one.id).open("rb") as file:
            data = file.read(MOST_OF_ANY + 1)
        found.append((describe(data, one.name, one.id), data))
    return found


def of_session(db: Database, session_id: str) -> set[str]:
    """The ids of what goes with a session's messages."""
    return _ids(db, "interactions", "rest", "session_id = ?", session_id)


def in_use(db: Database) -> set[str]:
    """The ids of all that goes with a message, or with a task of a batch."""
    return _ids(db, "interactions", "rest") | _ids(db, "batch_tasks", "spec")


def _ids(db: Database, table: str, column: str, where: str = "TRUE", *values: str) -> set[str]:
    # By the text first, which is quick: most have none. (Names are this program's own.)
    rows = db.execute(
        f"SELECT json_extract(one.value, '$.id') FROM {table}, json_each({table}.{column}, '$.attachments')"  # noqa: S608
        f""" AS one WHERE instr({table}.{column}, '"attachments":[{{') > 0 AND {where}""",
        values,
    ).fetchall()
    return {str(row[0]) for row in rows}


def remove(folder: Path, ids: Collection[str]) -> None:
    """Remove those; what cannot be removed stays for the next time."""
    for one in ids:
        with suppress(OSError):
            (folder / one).unlink()


def left(folder: Path, before: float) -> set[str]:
    """The ids of those that were kept before that time."""
    with suppress(OSError):
        return {entry.name for entry in os.scandir(folder) if entry.stat().st_mtime <= before}
    return set()
