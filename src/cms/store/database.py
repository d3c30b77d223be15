"""One connection to the database: transactions, and in whose name rows are written.

The transactions themselves are plain functions whose first argument is a `Database`, by subject: `sessions`,
`money`, `audit`, `turns` (what one message needs of those three), `recovery`, `batches`, `batch_intake`,
`batch_tasks`. They are synchronous on purpose, so that they read from top to bottom, and know no threads:

    await store.write(sessions.save, record)          # on trio: store.py
    with db.transaction(): sessions.save(db, record)  # anywhere else

A function that writes is called inside a transaction, and either all it did is on disk when that ends or
nothing is. One may call another. Their arguments are values and sequences, no iterators: those would run in
the writer's thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from cms.store import schema
from cms.store.errors import as_store_errors
from cms.store.owners import Owner, living_pid, sweep


class Database:
    """One connection to the store. Close it in the end.

    Attributes:
        path: the database.
        owner_id: whose rows these are: what a session or a batch is signed with.
        execute, executemany: as of `sqlite3.Connection`.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, owner: Owner, owners: Path) -> None:
        self._connection = connection
        self._owners = owners
        self.path = path
        self.owner_id = owner.id
        self.execute = connection.execute
        self.executemany = connection.executemany

    @classmethod
    def open(cls, path: Path, owner: Owner, owners: Path, *, read_only: bool = False) -> Self:
        """Connects and migrates.

        Raises:
            StoreError: see `schema.connect` and `schema.migrate`.
        """
        connection = schema.connect(path)
        try:
            schema.migrate(connection, path)
            if read_only:
                connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, owner, owners)

    def living_pid(self, owner: str) -> int | None:
        """The process of the store with that id, if it is somebody else's and open."""
        return None if owner == self.owner_id else living_pid(self._owners, owner)

    def sweep_owners(self) -> None:
        """Removes what the dead left of their claims."""
        sweep(self._owners)

    def close(self) -> None:
        """Closes the connection; the last one folds the write-ahead log into the database."""
        with as_store_errors(self.path):
            self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the body or nothing, on disk when it is left.

        Raises:
            StoreError: it could not be written; the connection can be used again.
        """
        with as_store_errors(self.path):
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some failures (a full disk), and not after others.
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
                raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """The body reads one state of the database, whatever others write meanwhile.

        Raises:
            StoreError: it could not be read.
        """
        with as_store_errors(self.path):
            self.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self.execute("ROLLBACK")
