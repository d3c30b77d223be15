"""The search index: the words of prompts, answers and tool calls, in a database of its own (SQLite's FTS5).

It is beside the store and not in it, so that a commit there costs what it did, and nobody who writes ever
waits for it. It is filled from what the store holds, in steps: what is new first, then backwards from the
newest to the oldest, so that last week is found long before a big home is read. Nothing in it is needed:
one that is damaged, or of another version, is made anew.

A message of the store is known by its row there. Rows grow, and one is used again only when it and all above
it were deleted; so the newest row that is still the same message tells how far the index is right
(`Index.drop_above`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from cms.errors import MachineError, StoreError
from cms.session.model import ENDED
from cms.session.search import CLOSE, MARKS, OPEN, Hit, TextKind, cut_marked
from cms.store import schema
from cms.store.database import Database
from cms.store.errors import as_store_errors
from cms.store.rows import to_json

#: In the order in which they come.
KINDS: Final[tuple[TextKind, ...]] = ("prompt", "call", "answer")

#: What SQLite says of a file that is no index of ours. (Its statements are fixed: an error is the file's.)
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
#: Deleted words leave the file at once where SQLite can do that; older ones cannot read what it then writes.
_SECURE: Final = sqlite3.sqlite_version_info >= (3, 42)
#: Of the tables below; an index of another version is made anew.
VERSION: Final = 3 if _SECURE else 2
#: Characters of one text that are searched.
MAX_TEXT: Final = 200_000
#: What one step takes at most: messages, and characters of them.
STEP: Final = 200
STEP_TEXT: Final = 1_000_000
_AROUND: Final = 24  # words of a snippet


class IndexDamaged(StoreError):
    """The index cannot be read: it is to be made anew."""


class Message(NamedTuple):
    """One message of the store. `texts`: by kind; `open`: more of them may come."""

    row: int
    id: str
    session_id: str
    number: int
    at: float
    open: bool
    texts: tuple[str, ...]


# --- what the store has -----------------------------------------------------------------------------


def newest_row(db: Database) -> int:
    """The row of the message that came last; 0 if there is none."""
    row: tuple[int] = db.execute("SELECT coalesce(max(rowid), 0) FROM interactions").fetchone()
    return row[0]


def ids_at(db: Database, rows: Sequence[int]) -> dict[int, str]:
    """The ids of the messages in those rows that are there."""
    found: list[tuple[int, str]] = db.execute(
        "SELECT rowid, id FROM interactions WHERE rowid IN (SELECT value FROM json_each(?))",
        (to_json(list(rows)),),
    ).fetchall()
    return dict(found)


def messages_after(db: Database, row: int) -> list[Message]:
    """A step of those in higher rows, lowest first."""
    return _messages(db, "rowid > ? ORDER BY rowid", row)


def messages_before(db: Database, row: int) -> list[Message]:
    """A step of those in lower rows, highest first."""
    return _messages(db, "rowid < ? ORDER BY rowid DESC", row)


def messages_in(db: Database, rows: Sequence[int]) -> list[Message]:
    """A step of those in these rows."""
    return _messages(db, "rowid IN (SELECT value FROM json_each(?)) ORDER BY rowid", to_json(list(rows)))


def _messages(db: Database, where: str, value: int | str) -> list[Message]:
    found: list[Message] = []
    size = 0
    rows: Iterator[tuple[int, str, str, int, float, str, str, str]] = db.execute(
        "SELECT rowid, id, session_id, number, timestamp, state, substr(prompt, 1, ?1),"  # noqa: S608
        f" substr(response, 1, ?1) FROM interactions WHERE {where.replace('?', '?2')} LIMIT {STEP}",
        (MAX_TEXT, value),
    )
    for row, id_, session_id, number, at, state, prompt, response in rows:
        found.append(Message(row, id_, session_id, number, at, state not in ENDED, (prompt, response)))
        size += len(prompt) + len(response)
        if size > STEP_TEXT:
            break
    calls: dict[str, str] = {}
    for session_id in {one.session_id for one in found}:
        calls |= _calls(db, session_id, [one.id for one in found if one.session_id == session_id])
    return [one._replace(texts=(one.texts[0], calls.get(one.id, ""), one.texts[1])) for one in found]


def _calls(db: Database, session_id: str, messages: Sequence[str]) -> dict[str, str]:
    """The tool calls of those messages of a session, each once, a line each."""
    rows: Iterator[tuple[str, str, str]] = db.execute(
        "SELECT interaction_id, tool, detail FROM decisions WHERE session_id = ? AND kind = 'call'"
        " AND interaction_id IN (SELECT value FROM json_each(?)) ORDER BY number",
        (session_id, to_json(list(messages))),
    )
    lines: dict[str, dict[str, None]] = {}
    for message, tool, detail in rows:
        lines.setdefault(message, {})[f"{tool} {detail}".strip()] = None
    return {message: "\n".join(found)[:MAX_TEXT] for message, found in lines.items()}


def sessions_there(db: Database, ids: Iterable[str]) -> dict[str, str]:
    """The names of those sessions that are there, by their ids."""
    found: list[tuple[str, str]] = db.execute(
        "SELECT id, name FROM sessions WHERE id IN (SELECT value FROM json_each(?))", (to_json(list(ids)),)
    ).fetchall()
    return dict(found)


# --- the index --------------------------------------------------------------------------------------


_TABLES: Final = (
    # `row` is the store's; a message's texts have the rows 4 * row + the place of their kind.
    """CREATE TABLE messages (row INTEGER PRIMARY KEY, id TEXT NOT NULL, session_id TEXT NOT NULL,
        number INTEGER NOT NULL, at REAL NOT NULL, open INTEGER NOT NULL, size INTEGER NOT NULL)""",
    "CREATE INDEX messages_session ON messages (session_id)",
    "CREATE INDEX messages_open ON messages (row) WHERE open",
    # `low`: the lowest row that is in it; 1 when all are.
    "CREATE TABLE progress (low INTEGER NOT NULL)",
    """CREATE VIRTUAL TABLE texts USING fts5 (text, tokenize = "unicode61 remove_diacritics 2")""",
)


def has_fts5() -> bool:
    """Whether this Python's SQLite can do it."""
    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE texts USING fts5 (text)")
    except sqlite3.Error:
        return False
    finally:
        db.close()
    return True


class Index:
    """The index at a path. Like `Database` it knows no threads: one at a time may use it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path

    @classmethod
    def open(cls, path: Path, newest: int) -> Self:
        """The one that is there, or an empty one that begins at the store's row `newest`.

        Raises:
            MachineError: this SQLite has no FTS5.
            StoreError: it cannot be opened.
        """
        if not has_fts5():
            raise MachineError(
                "search needs FTS5, which this Python's SQLite was built without",
                hint="another Python has it; without: cms logs NAME | grep WORD",
            )
        try:
            return cls._open(path, newest)
        except IndexDamaged:
            cls.remove(path)
            return cls._open(path, newest)

    @classmethod
    def _open(cls, path: Path, newest: int) -> Self:
        with _index_errors(path):
            index = cls(_connect(path), path)
            try:
                index._prepare(newest)
            except BaseException:
                index.close()
                raise
        return index

    @staticmethod
    def remove(path: Path) -> None:
        """Remove what is there."""
        for end in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{path}{end}")  # noqa: PTH108 - no path, a name with an end

    def _prepare(self, newest: int) -> None:
        with self._step():
            if schema.version(self._db) == VERSION:
                return
            if schema.version(self._db):
                raise IndexDamaged(f"{self.path} is of another version")
            for statement in _TABLES:
                self._db.execute(statement)
            self._db.execute("INSERT INTO progress VALUES (?)", (newest + 1,))
            if _SECURE:
                self._db.execute("INSERT INTO texts (texts, rank) VALUES ('secure-delete', 1)")
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close it."""
        with _index_errors(self.path):
            self._db.close()

    @contextmanager
    def _step(self) -> Iterator[None]:
        """All of the body, or nothing."""
        with _index_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # --- filling ---

    def bounds(self) -> tuple[int, int]:
        """Between which rows of the store all is in it: the lowest and the highest."""
        with _index_errors(self.path):
            row: tuple[int, int] = self._db.execute(
                "SELECT low, coalesce((SELECT max(row) FROM messages), low - 1) FROM progress"
            ).fetchone()
            return row

    def newest(self, below: int | None = None) -> dict[int, str]:
        """The rows and ids of the newest messages in it (below a row), newest first."""
        with _index_errors(self.path):
            rows: list[tuple[int, str]] = self._db.execute(
                "SELECT row, id FROM messages WHERE row < ? ORDER BY row DESC LIMIT ?",
                (2**62 if below is None else below, STEP),
            ).fetchall()
            return dict(rows)

    def drop_above(self, row: int) -> None:
        """Forget what is in higher rows: they may be used again by now."""
        self._drop("row > ?", row)

    def forget(self, session_id: str) -> None:
        """Forget a session."""
        self._drop("session_id = ?", session_id)

    def _drop(self, where: str, value: int | str) -> None:
        # In steps, too: a session can have any number of messages.
        while True:
            with self._step():
                rows: list[tuple[int]] = self._db.execute(
                    f"SELECT row FROM messages WHERE {where} LIMIT {STEP}",  # noqa: S608 - words of ours
                    (value,),
                ).fetchall()
                for (row,) in rows:
                    self._remove(row)
            if len(rows) < STEP:
                return

    def open_rows(self) -> list[int]:
        """The messages of which there may be more by now."""
        with _index_errors(self.path):
            rows: list[tuple[int]] = self._db.execute("SELECT row FROM messages WHERE open").fetchall()
            return [row for (row,) in rows]

    def sessions(self) -> list[str]:
        """The ids of all sessions that have messages in it."""
        with _index_errors(self.path):
            rows: list[tuple[str]] = self._db.execute("SELECT DISTINCT session_id FROM messages").fetchall()
            return [session_id for (session_id,) in rows]

    def add(self, messages: Sequence[Message], *, low: int | None = None) -> None:
        """Messages that are new, or may have grown. `low`: the lowest row that is in it from now on."""
        with self._step():
            for one in messages:
                self._add(one)
            if low is not None:
                self._db.execute("UPDATE progress SET low = ?", (low,))

    def _add(self, one: Message) -> None:
        size = sum(map(len, one.texts))
        known: tuple[str, int] | None = self._db.execute(
            "SELECT id, size FROM messages WHERE row = ?", (one.row,)
        ).fetchone()
        if known == (one.id, size):
            self._db.execute("UPDATE messages SET open = ? WHERE row = ?", (one.open, one.row))
            return
        if known is not None:
            self._remove(one.row)
        self._db.execute(
            "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)",
            (one.row, one.id, one.session_id, one.number, one.at, one.open, size),
        )
        self._db.executemany(
            "INSERT INTO texts (rowid, text) VALUES (?, ?)",
            [(4 * one.row + place, text.translate(MARKS)) for place, text in enumerate(one.texts) if text],
        )

    def _remove(self, row: int) -> None:
        self._db.execute("DELETE FROM texts WHERE rowid BETWEEN ? AND ?", (4 * row, 4 * row + 3))
        self._db.execute("DELETE FROM messages WHERE row = ?", (row,))

    # --- searching ---

    def oldest(self) -> float | None:
        """When the oldest message in it was accepted."""
        with _index_errors(self.path):
            row: tuple[float] | None = self._db.execute(
                "SELECT at FROM messages ORDER BY row LIMIT 1"
            ).fetchone()
            return None if row is None else row[0]

    def find(self, match: str, *, session_id: str, since: float | None, best: bool, limit: int) -> list[Hit]:
        """The newest (or best) texts that match; their sessions' names are left out.

        Args:
            match: as `to_match` makes it.
            session_id: "" for all sessions.
        """
        order = "rank" if best else "texts.rowid DESC"
        with _index_errors(self.path):
            # First which, then what stands around the words: that takes long, and only those few need it.
            rows: list[tuple[int, str, int, float]] = self._db.execute(
                "SELECT texts.rowid, session_id, number, at FROM texts"  # noqa: S608 - words of ours
                " CROSS JOIN messages ON row = texts.rowid >> 2 WHERE texts MATCH ?1 AND at >= ?2"
                f" AND ?3 IN ('', session_id) ORDER BY {order} LIMIT ?4",
                (match, 0.0 if since is None else since, session_id, limit),
            ).fetchall()
            return [
                Hit("", session, number, KINDS[place & 3], at, *self._snippet(match, place))
                for place, session, number, at in rows
            ]

    def _snippet(self, match: str, place: int) -> tuple[str, tuple[tuple[int, int], ...]]:
        row: tuple[str] = self._db.execute(
            "SELECT snippet(texts, 0, ?, ?, '...', ?) FROM texts WHERE texts MATCH ? AND rowid = ?",
            (OPEN, CLOSE, _AROUND, match, place),
        ).fetchone()
        return cut_marked(row[0])


def _connect(path: Path) -> sqlite3.Connection:
    db = schema.connect(path)
    # Nothing in it is owed to anybody: what a crash takes is read again.
    db.execute("PRAGMA synchronous = NORMAL")
    return db


@contextmanager
def _index_errors(path: Path) -> Iterator[None]:
    """As `as_store_errors`. Raises IndexDamaged where the file is none to work with."""
    try:
        with as_store_errors(path):
            yield
    except StoreError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", None)
        if isinstance(code, int) and code & 0xFF in _DAMAGED:
            raise IndexDamaged(error.message, hint=error.hint) from error
        raise
