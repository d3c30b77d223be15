"""The store, on trio: what the rest of the house writes to and reads from.

    async with open_store(settings) as store:
        await store.recover(now)
        await store.commit(session=record, interaction=interaction)  # on disk when this returns

Every write is one transaction, in one thread, in the order of the calls, synced before the call returns: a
caller may acknowledge what it was told. A call that is cancelled either never began (nothing was written) or
ends as if it had not been cancelled. Reads have a connection and a thread of their own, so a long list does
not hold up an acknowledgement; they see every write that has returned.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from typing import TypeVar

import trio

from cms.config import Settings
from cms.errors import StoreError
from cms.home import prepare_home
from cms.session.audit import AuditRow, Broken, Decision
from cms.session.budget import Account, Grant, Standing
from cms.session.model import Interaction, Receipt, SessionRecord
from cms.store.owners import Owner
from cms.store.records import Charge, Recovery, Total
from cms.store.rows import Value
from cms.store.transactions import Grouping, Transactions, decision_row

T = TypeVar("T")


class _Waiting:
    """A decision that no transaction has taken along yet. Compared by identity."""

    __slots__ = ("row", "written")

    def __init__(self, row: tuple[Value, ...]) -> None:
        self.row = row
        self.written = False


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The store in `settings.home`, made and migrated as needed, closed at the end.

    Nothing is recovered yet: call `Store.recover` when you are ready to tell somebody.

    Raises:
        HomeUnusable: the folder cannot be made or written.
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
    owner = Owner(owners)
    with ExitStack() as undo:
        undo.callback(owner.release)
        writer = Transactions.open(settings.database, owner, owners)
        undo.callback(writer.close)
        reader = Transactions.open(settings.database, owner, owners)
        undo.pop_all()
    return Store(writer, reader, owner)


class Store:
    """One open store, made by `open_journal`. Each method raises StoreError if disk or SQLite refuses."""

    def __init__(self, writer: Transactions, reader: Transactions, owner: Owner) -> None:
        self._writer = writer
        self._reader = reader
        self._owner = owner
        # A lock as well as the limiter: the decisions to take along are picked when the turn has come.
        self._turn = trio.Lock()
        self._write_limiter = trio.CapacityLimiter(1)
        self._read_limiter = trio.CapacityLimiter(1)
        self._waiting: list[_Waiting] = []
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._waiting)} decisions waiting"
        return f"<Journal {self._writer.path}: {state}>"

    # --- writing --------------------------------------------------------------------------------

    async def commit(
        self,
        *,
        session: SessionRecord | None = None,
        interaction: Interaction | None = None,
        interactions: Iterable[Interaction] = (),
        charges: Iterable[Charge] = (),
        receipt: Receipt | None = None,
        process: str = "",
        decisions: Iterable[Decision] = (),
    ) -> None:
        """Writes what belongs together: all of it is on disk when this returns, or none of it.

        Session and interactions are saved as they are now, whether or not the store knew them; charges and
        the receipt are added. Decisions that wait go along.

        Args:
            process: the id of the process that the receipt is about.

        Raises:
            NameTaken: another session has this one's name.
            WrongStatus: the session lives in another process of cms, which has this store open too.
            StoreError: nothing was written.
        """
        several = (*interactions, *(() if interaction is None else (interaction,)))
        spent = tuple(charges)
        lines = [decision_row(decision) for decision in decisions]
        if receipt is not None and session is None:
            raise TypeError("a receipt needs its session")

        def work(tx: Transactions) -> None:
            if session is not None:
                tx.save_session(session)
            for one in several:
                tx.save_interaction(one)
            _spend(tx, spent)
            if session is not None and receipt is not None:
                tx.add_receipt(session.id, process, receipt)
            tx.add_decisions(lines)

        await self._write(work)

    async def begin(
        self, session: SessionRecord, interaction: Interaction, at: float, decisions: Iterable[Decision] = ()
    ) -> Grant:
        """`commit` of a message that is about to be sent, together with the money reserved for it.

        If its scopes have nothing left (`Grant.short`) nothing is written: it is not to be sent.
        """
        lines = [decision_row(decision) for decision in decisions]

        def work(tx: Transactions) -> Grant:
            granted = tx.reserve(interaction.id, session.id, interaction.scopes, at)
            if not granted.short:
                tx.save_session(session)
                tx.save_interaction(interaction)
                tx.add_decisions(lines)
            return granted

        return await self._write(work)

    async def spend(
        self, session: SessionRecord, charges: Iterable[Charge], interaction_id: str, at: float
    ) -> Grant:
        """`commit` of charges, with more money reserved in the same step for the interaction that goes on.

        Args:
            interaction_id: "" if none is under way.
        """
        spent = tuple(charges)

        def work(tx: Transactions) -> Grant:
            tx.save_session(session)
            _spend(tx, spent)
            return tx.reserve(interaction_id, session.id, (), at) if interaction_id else Grant()

        return await self._write(work)

    async def renew(self, session_id: str, interaction_id: str, at: float) -> Grant:
        """Asks again for money for an interaction that is under way."""
        return await self._write(lambda tx: tx.reserve(interaction_id, session_id, (), at))

    async def set_cap(self, scope: str, usd: float | None) -> None:
        """Puts a cap on a scope, changes it, or (None) takes it off.

        A turn that is under way, here or in another process, sees it at its next charge.
        """
        await self._write(lambda tx: tx.set_cap(scope, usd))

    async def standings(self, at: float) -> list[Standing]:
        """How each capped scope stands."""
        return await self._read(lambda tx: tx.standings(at))

    async def account(self, scope: str, at: float) -> Account:
        """What was spent in a scope, capped or not."""
        return await self._read(lambda tx: tx.account(scope, at))

    async def add_session(self, record: SessionRecord, interaction: Interaction | None = None) -> None:
        """Writes a new session, and its first message if it has one already.

        Raises:
            NameTaken: there is one of that name.
        """

        def work(tx: Transactions) -> None:
            tx.add_session(record)
            if interaction is not None:
                tx.save_interaction(interaction)

        await self._write(work)

    async def save_session(self, record: SessionRecord) -> None:
        """`commit` of a session alone."""
        await self.commit(session=record)

    async def add_interaction(self, interaction: Interaction) -> None:
        """Accepts a message: it is not lost from here on."""
        await self.commit(interaction=interaction)

    async def save_interaction(self, interaction: Interaction) -> None:
        """`commit` of an interaction alone."""
        await self.commit(interaction=interaction)

    async def add_charge(self, charge: Charge) -> None:
        """`commit` of a charge alone."""
        await self.commit(charges=(charge,))

    async def add_receipt(self, session_id: str, process: str, receipt: Receipt) -> None:
        """Writes how a process of the session ended."""
        await self._write(lambda tx: tx.add_receipt(session_id, process, receipt))

    async def add_decision(self, decision: Decision) -> None:
        """Writes a decision of the gate; it is on disk when this returns, so the tool may run.

        Many at once share a transaction. If the caller is cancelled the decision is still written, with the
        next transaction.

        Raises:
            StoreError: it was not written: no tool may run.
        """
        waiting = _Waiting(decision_row(decision))
        self._waiting.append(waiting)
        try:
            async with self._turn:
                if not waiting.written:
                    await self._write_in_turn(_nothing)
        except StoreError:
            # The caller refuses the call now, so the log must not say later that it was allowed.
            self._waiting.remove(waiting)
            raise

    async def delete_session(self, session_id: str, last: Decision | None = None) -> bool:
        """Removes a session, its interactions and receipts; its money stays in the ledger.

        Its audit log ends with `last` and stays, or without that goes, too. Returns False if there was none.
        The raw log is not the store's (rawlog.py).

        Raises:
            WrongStatus: it lives in another process of cms.
        """
        row = None if last is None else decision_row(last)
        return await self._write(lambda tx: tx.delete_session(session_id, time.time(), row))

    async def forget_audits(self, before: float, *, dry_run: bool) -> int:
        """Removes the audit logs of sessions that were deleted before that time; gives how many."""
        return await self._write(lambda tx: tx.forget_audits(before, dry_run=dry_run))

    async def recover(self, now: float) -> Recovery:
        """Writes down what became of what a crash left open, and returns it as it now stands.

        Sessions with a live status become `stopped`. A message that was `queued` was certainly never sent and
        becomes `interrupted`, one that was `sent` becomes `doubtful`, one that was `running` `interrupted`;
        the costs of the last two are lower bounds from now on. `error` tells a person what that
        means. What belongs to another process that lives is left alone, and so is what this store wrote.
        """
        return await self._write(lambda tx: tx.recover(now))

    # --- reading --------------------------------------------------------------------------------

    async def get_session(self, name: str) -> SessionRecord | None:
        """The session of that name."""
        return await self._read(lambda tx: tx.session_by_name(name))

    async def get_session_by_id(self, session_id: str) -> SessionRecord | None:
        """The session of that id."""
        return await self._read(lambda tx: tx.session_by_id(session_id))

    async def all_sessions(self, status: str = "") -> list[SessionRecord]:
        """All sessions, or those of a status, newest first."""
        return await self._read(lambda tx: tx.all_sessions(status))

    async def names(self) -> list[str]:
        """The names of all sessions, sorted."""
        return await self._read(lambda tx: tx.names())

    async def interactions(self, session_id: str, last: int | None = None) -> list[Interaction]:
        """The interactions of a session, or its newest `last`, oldest first."""
        return await self._read(lambda tx: tx.interactions(session_id, last))

    async def get_interaction(self, interaction_id: str) -> Interaction | None:
        """The interaction of that id."""
        return await self._read(lambda tx: tx.interaction(interaction_id))

    async def unanswered(self) -> list[Interaction]:
        """Of each session the newest interaction, if that ended because a person was needed; newest first."""
        return await self._read(lambda tx: tx.unanswered())

    async def total(self, session_id: str | None = None, *, since: float | None = None) -> Total:
        """What was spent: in all or in a session, ever or since a time."""
        return await self._read(lambda tx: tx.total(session_id, since=since))

    async def totals(self, by: Grouping, *, since: float | None = None) -> list[Total]:
        """What was spent, by session and model dearest first, by day (local time) oldest first."""
        return await self._read(lambda tx: tx.totals(by, since))

    async def charges(self, session_id: str) -> list[Charge]:
        """The ledger of a session, oldest first."""
        return await self._read(lambda tx: tx.charges(session_id))

    async def receipts(self, session_id: str) -> list[Receipt]:
        """How the processes of a session ended, oldest first."""
        return await self._read(lambda tx: tx.receipts(session_id))

    async def decisions(self, session_id: str) -> list[Decision]:
        """The audit log of a session, oldest first."""
        return await self._read(lambda tx: tx.decisions(session_id))

    async def find_deleted(self, name: str) -> tuple[str, str] | None:
        """Id and name of the session with this id, or of the last with this name, that was deleted."""
        return await self._read(lambda tx: tx.find_deleted(name))

    async def audit(self, session_id: str, head: str = "") -> tuple[list[AuditRow], Broken | None]:
        """The audit log of a session with its seals, and the first row that is not what was written.

        Where a row is broken, the rows are those before it.

        Args:
            head: a seal noted earlier, which the log must still contain.
        """

        def work(tx: Transactions) -> tuple[list[AuditRow], Broken | None]:
            broken = tx.verify_audit(session_id, head)
            if broken is None:
                return tx.audit(session_id), None
            return tx.audit(session_id, before=broken.number if broken.number else None), broken

        return await self._read(work)

    # --- threads --------------------------------------------------------------------------------

    async def write(self, work: Callable[[Transactions], T]) -> T:
        """One transaction of another module of this room (`batches`): all of `work`, on disk, or nothing."""
        return await self._write(work)

    async def read(self, work: Callable[[Transactions], T]) -> T:
        """Like `write`, for what only looks."""
        return await self._read(work)

    async def _write(self, work: Callable[[Transactions], T]) -> T:
        async with self._turn:
            return await self._write_in_turn(work)

    async def _write_in_turn(self, work: Callable[[Transactions], T]) -> T:
        """One transaction of `work` and of the decisions that wait. The caller holds the turn."""
        self._check_open()
        along = tuple(self._waiting)
        rows = [waiting.row for waiting in along]

        def transact() -> T:
            with self._writer.transaction():
                self._writer.add_decisions(rows)
                return work(self._writer)

        result = await trio.to_thread.run_sync(transact, abandon_on_cancel=False, limiter=self._write_limiter)
        for waiting in along:
            waiting.written = True
        del self._waiting[: len(along)]  # others may have come behind them
        return result

    async def _read(self, work: Callable[[Transactions], T]) -> T:
        self._check_open()
        return await trio.to_thread.run_sync(
            work, self._reader, abandon_on_cancel=False, limiter=self._read_limiter
        )

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    async def _close(self) -> None:
        try:
            if self._waiting:
                await self._write(_nothing)
        finally:
            self._closed = True
            # In turn behind whoever still writes or reads.
            try:
                async with self._turn:
                    await trio.to_thread.run_sync(self._reader.close, limiter=self._read_limiter)
                    await trio.to_thread.run_sync(self._writer.close, limiter=self._write_limiter)
            finally:
                self._owner.release()


def _nothing(_tx: Transactions) -> None:
    pass


def _spend(tx: Transactions, charges: Iterable[Charge]) -> None:
    """Charges into the ledger, and their sum (models of one reading belong together) onto the accounts."""
    sums: dict[tuple[str, float], float] = {}
    for charge in charges:
        tx.add_charge(charge)
        key = (charge.interaction_id, charge.at)
        sums[key] = sums.get(key, 0.0) + charge.usage.cost_usd
    for (interaction_id, at), usd in sums.items():
        tx.count_spending(interaction_id, usd, at)
