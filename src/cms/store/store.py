"""The store, on trio: the one door to the database for the rest of the house.

    async with open_store(settings) as store:
        await store.write(recover, now)
        await store.write(sessions.save, record, interaction)  # on disk when this returns
        await store.read(sessions.by_name, "fix-auth")

Every write is one transaction, in one thread, in the order of the calls, synced before the call returns: a
caller may acknowledge what it was told. A call that is cancelled either never began (nothing was written) or
ends as if it had not been cancelled. Reads have connections and threads of their own, so a long list holds up
neither an acknowledgement nor a short question; they see every write that has returned, and cannot write.

What there is to write and to read are plain functions by subject; database.py names them. A method for each
was rejected: it said every signature twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Concatenate, ParamSpec, TypeVar

import trio

from cms.config import Settings
from cms.errors import StoreError
from cms.home import prepare_home
from cms.session.audit import AuditEntry
from cms.store import audit, live_files
from cms.store.database import Database
from cms.store.owners import Owner
from cms.store.rows import Value

P = ParamSpec("P")
T = TypeVar("T")


#: Reads at once; what comes beyond waits. Each has a connection, made when it is first needed.
READERS = 4


class _Waiting:
    """An entry of the audit log that no transaction has taken along yet. Compared by identity."""

    __slots__ = ("row", "written")

    def __init__(self, row: tuple[Value, ...]) -> None:
        self.row = row
        self.written = False


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The store in `settings.home`, made and migrated as needed, closed at the end.

    Nothing is recovered yet: write `recovery.recover` when you are ready to tell somebody.

    Raises:
        HomeUnusable: the folder cannot be made or written, or belongs to somebody else.
        StoreError: the database cannot be opened, or is of a newer cms.
    """
    limiter = trio.CapacityLimiter(1)
    store = await trio.to_thread.run_sync(_open, settings, limiter=limiter)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store._close()


def _open(settings: Settings) -> Store:
    prepare_home(settings.home)
    owners = settings.home / "owners"
    live_files.sweep(settings.live)
    owner = Owner(owners)
    with ExitStack() as undo:
        undo.callback(owner.release)
        writer = Database.open(settings.database, owner, owners)
        undo.callback(writer.close)
        readers = _Readers(lambda: Database.open(settings.database, owner, owners, read_only=True))
        undo.callback(readers.close)
        readers.give_back(readers.take())  # what it may raise is raised here
        undo.pop_all()
    return Store(writer, readers, owner)


class _Readers:
    """The connections that reads use, one each. Its methods are called in the reads' threads."""

    def __init__(self, connect: Callable[[], Database]) -> None:
        self._connect = connect
        self._idle: list[Database] = []

    def take(self) -> Database:
        """One that nobody uses. Raises StoreError if there is none, and none can be made."""
        try:
            return self._idle.pop()  # one step: threads need no lock for it
        except IndexError:
            return self._connect()

    def give_back(self, reader: Database) -> None:
        """It is not used any more."""
        self._idle.append(reader)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().close()


class Store:
    """One open store, made by `open_store`. Each method raises StoreError if disk or SQLite refuses."""

    def __init__(self, writer: Database, readers: _Readers, owner: Owner) -> None:
        self._writer = writer
        self._readers = readers
        self._owner = owner
        # A lock as well as the limiter: the entries to take along are picked when the turn has come.
        self._turn = trio.Lock()
        self._write_limiter = trio.CapacityLimiter(1)
        self._read_limiter = trio.CapacityLimiter(READERS)
        self._waiting: list[_Waiting] = []
        self._sharing: list[Callable[[Database], Callable[[], None]]] = []
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._waiting)} entries waiting"
        return f"<Store {self._writer.path}: {state}>"

    async def write(
        self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """One transaction: all of `work` is on disk when this returns, or (it raises) nothing of it.

        Decisions that wait go along.
        """
        async with self._turn:
            return await self._write_in_turn(lambda db: work(db, *args, **kwargs))

    async def write_shared(
        self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Like `write`, but what many ask for at once shares a transaction, and it is not cancelled.

        With two hundred tasks at once the disk is waited for a few times a second and not hundreds of times.
        If the shared transaction is refused, each tries alone: the fault may be a neighbour's.
        """
        results: list[T] = []

        def run(db: Database) -> Callable[[], None]:
            result = work(db, *args, **kwargs)
            return lambda: results.append(result)  # called when that is on disk

        self._sharing.append(run)
        with trio.CancelScope(shield=True):
            async with self._turn:
                if run in self._sharing:  # nobody took it along
                    together, self._sharing = self._sharing, []
                    if len(together) > 1:
                        with suppress(StoreError):
                            for keep in await self._write_in_turn(lambda db: [one(db) for one in together]):
                                keep()
                if not results:
                    (await self._write_in_turn(run))()
        return results[0]

    async def read(self, work: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` reads, all of it of one moment."""
        self._check_open()

        def look() -> T:
            reader = self._readers.take()
            try:
                with reader.snapshot():
                    return work(reader, *args, **kwargs)
            finally:
                self._readers.give_back(reader)

        return await trio.to_thread.run_sync(look, abandon_on_cancel=False, limiter=self._read_limiter)

    async def add_entry(self, entry: AuditEntry) -> None:
        """Writes an entry of the audit log; it is on disk when this returns, so the tool may run.

        Many at once share a transaction. If the caller is cancelled the entry is still written, with the
        next transaction.

        Raises:
            StoreError: it was not written: no tool may run.
        """
        waiting = _Waiting(audit.to_row(entry))
        self._waiting.append(waiting)
        try:
            async with self._turn:
                if not waiting.written:
                    await self._write_in_turn(_nothing)
        except StoreError:
            # The caller refuses the call now, so the log must not say later that it was allowed.
            self._waiting.remove(waiting)
            raise

    async def _write_in_turn(self, work: Callable[[Database], T]) -> T:
        """One transaction of `work` and of the entries that wait. The caller holds the turn."""
        self._check_open()
        along = tuple(self._waiting)
        rows = [waiting.row for waiting in along]

        def transact() -> T:
            with self._writer.transaction():
                audit.add_rows(self._writer, rows)
                return work(self._writer)

        result = await trio.to_thread.run_sync(transact, abandon_on_cancel=False, limiter=self._write_limiter)
        for waiting in along:
            waiting.written = True
        del self._waiting[: len(along)]  # others may have come behind them
        return result

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    async def _close(self) -> None:
        try:
            if self._waiting:
                await self.write(_nothing)
        finally:
            self._closed = True
            # In turn behind whoever still writes or reads.
            self._read_limiter.total_tokens = 1
            try:
                async with self._turn:
                    await trio.to_thread.run_sync(self._readers.close, limiter=self._read_limiter)
                    await trio.to_thread.run_sync(self._writer.close, limiter=self._write_limiter)
            finally:
                self._owner.release()


def _nothing(_db: Database) -> None:
    pass
