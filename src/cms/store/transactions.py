"""The transactions: what the store can do, one function each, on one connection, in whatever thread that is.

Synchronous on purpose, so that it reads from top to bottom; store.py brings it to trio. A function that
writes is called inside `transaction`, and either all it did is on disk when that ends or nothing is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Self

import msgspec

from cms.errors import NameTaken, StoreError, WrongStatus
from cms.session import audit
from cms.session.audit import AuditRow, Broken, Decision
from cms.session.budget import (
    Account,
    Cap,
    Grant,
    Hold,
    Standing,
    account_of,
    grant,
    scopes_of,
    settle,
    stand,
)
from cms.session.model import (
    ENDED,
    LIVE,
    Interaction,
    InteractionState,
    Outcome,
    Receipt,
    SessionRecord,
    SessionStatus,
    TokenUsage,
)
from cms.store import schema
from cms.store.faults import border
from cms.store.owners import Owner, living_pid, sweep
from cms.store.records import Charge, Recovery, Total
from cms.store.rows import INTERACTIONS, SESSIONS, Value

Grouping = Literal["session", "model", "day"]

_KEYS: Final[dict[Grouping, str]] = {
    "session": "session_id",
    "model": "model",
    # A day is what the user's calendar says it is; the stored times stay UTC.
    "day": "date(at, 'unixepoch', 'localtime')",
}
_SUMS: Final = (
    "coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),"
    " coalesce(sum(cache_read_input_tokens), 0), coalesce(sum(cache_creation_input_tokens), 0),"
    " coalesce(sum(cost_usd), 0.0), count(*), coalesce(min(exact), 1)"
)
_DECISION_FIELDS: Final = Decision.__struct_fields__  # the columns, in order
_OUTSIDE: Final = Decision.__struct_encode_fields__
_LIVE: Final = ", ".join(f"'{status}'" for status in sorted(LIVE))
_OPEN: Final = ", ".join(f"'{state}'" for state in InteractionState if state not in ENDED)
#: Of a session: somebody is (or before a crash was) at work on it.
_IN_USE: Final = (
    f"(status IN ({_LIVE}) OR id IN"  # noqa: S608 - words of ours
    f" (SELECT session_id FROM interactions WHERE state IN ({_OPEN})))"
)

#: The last rows of the audit logs of sessions that were deleted.
_DELETED: Final = (
    "FROM audit_heads h JOIN decisions d ON d.session_id = h.session_id AND d.number = h.length"
    " WHERE d.kind = 'delete'"
)

#: What a crash makes of an interaction in a state: the state that it gets, and the words for a person.
_CRASHED: Final[dict[InteractionState, tuple[InteractionState, str]]] = {
    InteractionState.QUEUED: (
        InteractionState.INTERRUPTED,
        "never sent: cms ended without warning before claude was given this message; safe to send again",
    ),
    InteractionState.SENT: (
        InteractionState.DOUBTFUL,
        (
            "cms ended without warning just as claude was given this message, which it may or may not have "
            "read: look at what changed before you send it again"
        ),
    ),
    InteractionState.RUNNING: (
        InteractionState.INTERRUPTED,
        (
            "cms ended without warning while claude was at work on this message; what it had done stands, "
            "and its conversation can be resumed"
        ),
    ),
}


class Transactions:
    """One connection to the store. Close it in the end.

    Attributes:
        path: the database.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, owner: Owner, owners: Path) -> None:
        self._db = db
        self._owner = owner
        self._owners = owners
        self.path = path

    @classmethod
    def open(cls, path: Path, owner: Owner, owners: Path) -> Self:
        """Connects and migrates.

        Raises:
            StoreError: see `schema.connect` and `schema.migrate`.
        """
        db = schema.connect(path)
        try:
            schema.migrate(db, path)
        except BaseException:
            db.close()
            raise
        return cls(db, path, owner, owners)

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, for the transactions of another module of this room (`batches`)."""
        return self._db

    @property
    def owner_id(self) -> str:
        """Whose rows these are: what a row is signed with."""
        return self._owner.id

    def lives(self, owner: str) -> bool:
        """Whether the store of that id is somebody else's, and open."""
        return owner != self._owner.id and living_pid(self._owners, owner) is not None

    def close(self) -> None:
        """Closes the connection; the last one folds the write-ahead log into the database."""
        with border(self.path):
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the body or nothing, on disk when it is left.

        Raises:
            StoreError: it could not be written; the connection can be used again.
        """
        with border(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some failures (a full disk), and not after others.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    # --- writing, inside `transaction` ----------------------------------------------------------

    def add_session(self, record: SessionRecord) -> None:
        """A session that is new.

        Raises:
            NameTaken: another one has its name.
        """
        self._check_name(record)
        self._db.execute(SESSIONS.insert, SESSIONS.to_row(record))
        self._sign(record.id)

    def save_session(self, record: SessionRecord) -> None:
        """A session as it is now, whether or not it was known.

        Raises:
            NameTaken: another one has its name.
            WrongStatus: it lives in another process.
        """
        self._claim(record.id)
        self._check_name(record)
        self._db.execute(SESSIONS.upsert, SESSIONS.to_row(record))
        self._sign(record.id)

    def save_interaction(self, interaction: Interaction) -> None:
        """An interaction as it is now, whether or not it was known. One that has ended holds no money.

        Raises:
            WrongStatus: its session lives in another process.
            StoreError: its session is not in the store.
        """
        self._claim(interaction.session_id)
        self._db.execute(INTERACTIONS.upsert, INTERACTIONS.to_row(interaction))
        self._sign(interaction.session_id)
        if interaction.state in ENDED:
            self._settle(interaction.id, interaction.ended or interaction.timestamp, interaction.cost_exact)

    def add_charge(self, charge: Charge) -> None:
        """A row of the ledger.

        Raises:
            StoreError: its session is not in the store, or it takes money back.
        """
        usage = charge.usage
        done = self._db.execute(
            "INSERT INTO ledger SELECT ?, id, name, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM sessions WHERE id = ?",
            (
                charge.at,
                charge.interaction_id,
                charge.process,
                charge.model,
                usage.cost_usd,
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_input_tokens,
                usage.cache_creation_input_tokens,
                charge.process_total,
                charge.exact,
                charge.session_id,
            ),
        )
        if done.rowcount != 1:
            raise StoreError(f"a charge for a session that is not in the store: {charge.session_id}")

    def count_spending(self, interaction_id: str, usd: float, at: float) -> None:
        """Put what `add_charge` put in the ledger on the accounts of its scopes, and off its reservation."""
        hold = self._hold(interaction_id)
        for scope in scopes_of(hold.scopes if hold is not None else ()):
            self._book(account_of(scope, at), spent=usd)
        if hold is not None:
            self._db.execute(
                "UPDATE reservations SET spent = ?, dearest = ? WHERE interaction_id = ?",
                (hold.spent + usd, max(hold.dearest, usd), interaction_id),
            )

    def reserve(self, interaction_id: str, session_id: str, scopes: Sequence[str], at: float) -> Grant:
        """Reserve money for an interaction that is about to be sent, or more of it for one that is under way.

        Nothing is written if a new one gets nothing.
        """
        own = self._hold(interaction_id)
        hold = own if own is not None else Hold(interaction_id, tuple(scopes))
        wanted = scopes_of(hold.scopes)
        caps = [cap for cap in self.caps() if cap.scope in wanted]
        others = [one for one in self.holds() if one.interaction_id != interaction_id] if caps else []
        granted = grant(hold, [stand(cap, self._account(account_of(cap.scope, at)), others) for cap in caps])
        amount = hold.amount if granted.amount is None else granted.amount
        if own is not None:
            # Closed, it holds nothing any more, and gets nothing: what it still costs is on the accounts.
            self._db.execute(
                "UPDATE reservations SET amount = ? WHERE interaction_id = ? AND closed IS NULL",
                (amount, interaction_id),
            )
        elif not granted.short:
            self._db.execute(
                "INSERT INTO reservations (interaction_id, session_id, scopes, amount) VALUES (?, ?, ?, ?)",
                (interaction_id, session_id, msgspec.json.encode(hold.scopes).decode(), amount),
            )
        return granted

    def _settle(self, interaction_id: str, at: float, exact: bool) -> None:
        """An interaction has ended: what it holds and did not spend comes back, if that is known."""
        hold = self._hold(interaction_id, also_closed=False)
        if hold is None:
            return
        self._db.execute(
            "UPDATE reservations SET closed = ? WHERE interaction_id = ?",
            (at, interaction_id),
        )
        unknown = settle(hold, exact=exact)
        if unknown:
            for scope in scopes_of(hold.scopes):
                self._book(account_of(scope, at), unknown=unknown)

    def _book(self, account: str, *, spent: float = 0.0, unknown: float = 0.0) -> None:
        self._db.execute(
            "INSERT INTO accounts (scope, spent, unknown) VALUES (?, ?, ?) ON CONFLICT (scope) DO UPDATE"
            " SET spent = spent + excluded.spent, unknown = unknown + excluded.unknown",
            (account, spent, unknown),
        )

    def set_cap(self, scope: str, usd: float | None) -> None:
        """Put a cap on a scope, change it, or (None) take it off."""
        if usd is None:
            self._db.execute("DELETE FROM caps WHERE scope = ?", (scope,))
        else:
            self._db.execute(
                "INSERT INTO caps VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET usd = excluded.usd",
                (scope, usd),
            )

    def add_receipt(self, session_id: str, process: str, receipt: Receipt) -> None:
        """How a process of the session ended. Never replaced."""
        self._db.execute(
            "INSERT INTO receipts VALUES (?, ?, ?, ?, ?)",
            (session_id, process, receipt.at, receipt.reason, msgspec.json.encode(receipt).decode()),
        )

    def add_decisions(self, decisions: Iterable[tuple[Value, ...]]) -> None:
        """Lines of the audit log, as `decision_row` gives them; each is sealed with the one before it."""
        for row in decisions:
            session_id, *rest = row
            length, before = self._audit_head(str(session_id))
            sealed = audit.seal(before, length + 1, row)
            self._db.execute(
                "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (session_id, length + 1, *rest, sealed),
            )
            self._db.execute(
                "INSERT INTO audit_heads VALUES (?, ?, ?) ON CONFLICT (session_id) DO UPDATE"
                " SET length = excluded.length, seal = excluded.seal",
                (session_id, length + 1, sealed),
            )

    def _audit_head(self, session_id: str) -> tuple[int, str]:
        row: tuple[int, str] | None = self._db.execute(
            "SELECT length, seal FROM audit_heads WHERE session_id = ?", (session_id,)
        ).fetchone()
        return (0, audit.FIRST) if row is None else row

    def delete_session(self, session_id: str, at: float, last: tuple[Value, ...] | None = None) -> bool:
        """Removes a session and all that is known of it but the money. False if there was none.

        Its audit log stays if it is given a last row, which says so.

        Raises:
            WrongStatus: it lives in another process.
        """
        self._claim(session_id)
        for hold in self.holds(session_id):
            self._settle(hold.interaction_id, at, exact=False)
        self._db.execute("DELETE FROM reservations WHERE session_id = ?", (session_id,))
        deleted = self._db.execute("DELETE FROM sessions WHERE id = ?", (session_id,)).rowcount == 1
        if not deleted:
            return False
        if last is None:
            # Only now: the database guards the audit log of a session that is there.
            self._delete_audit(session_id)
        else:
            self.add_decisions((last,))
        return True

    def _delete_audit(self, session_id: str) -> None:
        self._db.execute("DELETE FROM decisions WHERE session_id = ?", (session_id,))
        self._db.execute("DELETE FROM audit_heads WHERE session_id = ?", (session_id,))

    def forget_audits(self, before: float, *, dry_run: bool) -> int:
        """Removes the audit logs of sessions that were deleted before that time; gives how many."""
        rows: list[tuple[str]] = self._db.execute(
            f"SELECT d.session_id {_DELETED} AND d.at < ?",
            (before,),
        ).fetchall()
        for (session_id,) in () if dry_run else rows:
            self._delete_audit(session_id)
        return len(rows)

    def recover(self, now: float) -> Recovery:
        """Writes down what became of what a dead store left open. See `Store.recover`."""
        sessions: list[SessionRecord] = []
        interactions: list[Interaction] = []
        for owner in self._open_owners():
            if living_pid(self._owners, owner) is not None:
                continue
            for record in self._sessions(f"owner = ? AND {_IN_USE} ORDER BY rowid", owner):
                left = self._interactions(
                    f"session_id = ? AND state IN ({_OPEN}) ORDER BY number",
                    record.id,
                )
                ended = [self._crashed_interaction(interaction, now) for interaction in left]
                interactions += ended
                sessions.append(self._crashed_session(record, ended, now))
        for record in sessions:
            self.save_session(record)
        for interaction in interactions:
            self.save_interaction(interaction)
        sweep(self._owners)
        return Recovery(tuple(sessions), tuple(interactions))

    def _crashed_interaction(self, interaction: Interaction, now: float) -> Interaction:
        state, error = _CRASHED[interaction.state]
        spent = self.total(interaction.session_id, interaction_id=interaction.id).usage.cost_usd
        return msgspec.structs.replace(
            interaction,
            state=state,
            error=error,
            is_error=True,
            outcome=Outcome.INTERRUPTED,
            ended=now,
            cost=max(interaction.cost, spent),
            cost_exact=interaction.cost_exact and interaction.state is InteractionState.QUEUED,
        )

    def _crashed_session(
        self, record: SessionRecord, ended: Sequence[Interaction], now: float
    ) -> SessionRecord:
        # A busy session without a message of ours: a background subagent, whose cost nobody was told. A
        # paused one may have been at work, too.
        paused = record.status is SessionStatus.PAUSED
        busy = paused or record.status is SessionStatus.BUSY
        if ended:
            error = f"message {ended[-1].number}: {ended[-1].error}"
        elif paused:
            error = (
                "cms ended without warning while this session was paused; its conversation can be resumed, "
                "and it takes messages again"
            )
        elif busy:
            error = (
                "cms ended without warning while claude was at work; what it had done stands, "
                "and its conversation can be resumed"
            )
        else:
            error = "cms ended without warning while this session had nothing to do; nothing of it was lost"
        return msgspec.structs.replace(
            record,
            status=SessionStatus.STOPPED if record.status in LIVE else record.status,
            error=error,
            pid=None,
            last_saved=now,
            total_cost_usd=max(record.total_cost_usd, self.total(record.id).usage.cost_usd),
            cost_exact=record.cost_exact and not busy and all(one.cost_exact for one in ended),
        )

    def _open_owners(self) -> list[str]:
        rows: list[tuple[str]] = self._db.execute(
            f"SELECT DISTINCT owner FROM sessions WHERE {_IN_USE}"  # noqa: S608 - words of ours
        ).fetchall()
        return [owner for (owner,) in rows if owner != self._owner.id]

    def _check_name(self, record: SessionRecord) -> None:
        # Asked, not read from the constraint's message: that is SQLite's wording, not a promise.
        taken = self._db.execute(
            "SELECT 1 FROM sessions WHERE name = ? AND id <> ?", (record.name, record.id)
        ).fetchone()
        if taken is not None:
            raise NameTaken(record.name)

    def _claim(self, session_id: str) -> None:
        """Fails if another living store is at work on the session. Within the transaction: one wins."""
        row: tuple[str, str, str, bool] | None = self._db.execute(
            f"SELECT owner, name, status, {_IN_USE} FROM sessions WHERE id = ?",  # noqa: S608 - words of ours
            (session_id,),
        ).fetchone()
        if row is None:
            return
        owner, name, status, in_use = row
        if owner == self._owner.id or not in_use:
            return
        pid = living_pid(self._owners, owner)
        if pid is not None:
            raise WrongStatus(
                name,
                status,
                "use it from here",
                hint=f"another cms has it (pid {pid}): go on there, or end that",
            )

    def _sign(self, session_id: str) -> None:
        self._db.execute(
            "UPDATE sessions SET owner = ?1 WHERE id = ?2 AND owner <> ?1", (self._owner.id, session_id)
        )

    # --- reading --------------------------------------------------------------------------------

    def session_by_name(self, name: str) -> SessionRecord | None:
        """The session of that name."""
        return next(iter(self._sessions("name = ?", name)), None)

    def session_by_id(self, session_id: str) -> SessionRecord | None:
        """The session of that id."""
        return next(iter(self._sessions("id = ?", session_id)), None)

    def all_sessions(self, status: str) -> list[SessionRecord]:
        """All sessions (of a status, unless it is ""), newest first."""
        where, values = ("status = ?", (status,)) if status else ("TRUE", ())
        return self._sessions(f"{where} ORDER BY created DESC, rowid DESC", *values)

    def names(self) -> list[str]:
        """The names of all sessions, sorted."""
        with border(self.path):
            rows: list[tuple[str]] = self._db.execute("SELECT name FROM sessions ORDER BY name").fetchall()
        return [name for (name,) in rows]

    def interactions(self, session_id: str, last: int | None) -> list[Interaction]:
        """The (newest `last`) interactions of a session, oldest first."""
        count = -1 if last is None else max(0, last)
        found = self._interactions("session_id = ? ORDER BY number DESC LIMIT ?", session_id, count)
        return found[::-1]

    def unanswered(self) -> list[Interaction]:
        """Of each session the newest interaction, if that ended because a person was needed; newest first."""
        return self._interactions(
            "json_extract(rest, '$.outcome') = ? AND number ="
            " (SELECT max(number) FROM interactions AS all_ WHERE all_.session_id = interactions.session_id)"
            " ORDER BY timestamp DESC",
            Outcome.NEEDS_INPUT.value,
        )

    def interaction(self, interaction_id: str) -> Interaction | None:
        """The interaction of that id."""
        return next(iter(self._interactions("id = ?", interaction_id)), None)

    def total(
        self, session_id: str | None = None, *, interaction_id: str | None = None, since: float | None = None
    ) -> Total:
        """What was spent in all, in a session, in one interaction of it, since a time."""
        where = ["TRUE"]
        values: list[Value] = []
        for condition, value in (
            ("session_id = ?", session_id),
            ("interaction_id = ?", interaction_id),
            ("at >= ?", since),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        query = f"SELECT '', '', {_SUMS} FROM ledger WHERE {' AND '.join(where)}"  # noqa: S608 - words of ours
        return self._totals(query, values)[0]

    def totals(self, by: Grouping, since: float | None) -> list[Total]:
        """What was spent, grouped; days oldest first, the others dearest first."""
        # As it is called now; what was deleted, as it was called last.
        now = "(SELECT name FROM sessions WHERE id = ledger.session_id)"
        name = f"coalesce({now}, max(session_name))" if by == "session" else "''"
        where, values = ("at >= ?", [since]) if since is not None else ("TRUE", [])
        order = "1" if by == "day" else "sum(cost_usd) DESC, 1"
        return self._totals(
            f"SELECT {_KEYS[by]}, {name}, {_SUMS} FROM ledger WHERE {where} GROUP BY 1 ORDER BY {order}",  # noqa: S608
            values,
        )

    def caps(self) -> list[Cap]:
        """All caps, by scope."""
        with border(self.path):
            rows: list[tuple[str, float]] = self._db.execute(
                "SELECT scope, usd FROM caps ORDER BY scope"
            ).fetchall()
        return [Cap(scope, usd) for scope, usd in rows]

    def holds(self, session_id: str = "") -> list[Hold]:
        """The reservations (of a session) that are open."""
        where, values = ("AND session_id = ?", (session_id,)) if session_id else ("", ())
        return self._holds(f"closed IS NULL {where} ORDER BY interaction_id", *values)

    def standings(self, at: float) -> list[Standing]:
        """How each capped scope stands."""
        holds = self.holds()
        return [stand(cap, self._account(account_of(cap.scope, at)), holds) for cap in self.caps()]

    def _account(self, name: str) -> Account:
        with border(self.path):
            row: tuple[float, float] | None = self._db.execute(
                "SELECT spent, unknown FROM accounts WHERE scope = ?", (name,)
            ).fetchone()
        return Account() if row is None else Account(*row)

    def account(self, scope: str, at: float) -> Account:
        """What was spent in a scope, capped or not."""
        return self._account(account_of(scope, at))

    def _hold(self, interaction_id: str, *, also_closed: bool = True) -> Hold | None:
        where = "interaction_id = ?" if also_closed else "interaction_id = ? AND closed IS NULL"
        return next(iter(self._holds(where, interaction_id)), None)

    def _holds(self, where: str, *values: Value) -> list[Hold]:
        with border(self.path):
            rows: list[tuple[str, str, float, float, float]] = self._db.execute(
                "SELECT interaction_id, scopes, amount, spent, dearest FROM reservations"  # noqa: S608
                f" WHERE {where}",
                values,
            ).fetchall()
        return [
            Hold(key, tuple(msgspec.json.decode(scopes, type=list[str])), amount, spent, dearest)
            for key, scopes, amount, spent, dearest in rows
        ]

    def charges(self, session_id: str) -> list[Charge]:
        """The ledger of a session, oldest first."""
        with border(self.path):
            rows: list[tuple[str, str, str, str, int, int, int, int, float, float, float, int]] = (
                self._db.execute(
                    "SELECT session_id, interaction_id, process, model, input_tokens, output_tokens,"
                    " cache_read_input_tokens, cache_creation_input_tokens, cost_usd,"
                    " at, process_total, exact"
                    " FROM ledger WHERE session_id = ? ORDER BY rowid",
                    (session_id,),
                ).fetchall()
            )
        return [
            Charge(
                session,
                message,
                process,
                model,
                TokenUsage(sent, got, read, made, cost),
                at,
                so_far,
                exact == 1,
            )
            for session, message, process, model, sent, got, read, made, cost, at, so_far, exact in rows
        ]

    def receipts(self, session_id: str) -> list[Receipt]:
        """How the processes of a session ended, oldest first."""
        with border(self.path):
            rows: list[tuple[str]] = self._db.execute(
                "SELECT receipt FROM receipts WHERE session_id = ? ORDER BY rowid", (session_id,)
            ).fetchall()
        try:
            return [msgspec.json.decode(receipt, type=Receipt) for (receipt,) in rows]
        except msgspec.MsgspecError as error:
            raise StoreError(f"a receipt in the store cannot be read: {error}") from error

    def decisions(self, session_id: str) -> list[Decision]:
        """The audit log of a session, oldest first."""
        return [row.decision for row in self.audit(session_id)]

    def audit(self, session_id: str, *, before: int | None = None) -> list[AuditRow]:
        """The audit log of a session (up to a row) with its seals, oldest first.

        Raises:
            StoreError: a row makes no sense (`verify_audit` says which).
        """
        rows = self._audit_rows(session_id)
        try:
            return [
                AuditRow(number, msgspec.convert(dict(zip(_OUTSIDE, row, strict=True)), Decision), sealed)
                for number, row, sealed in rows
                if before is None or 0 < number < before
            ]
        except msgspec.ValidationError as error:
            raise StoreError(
                f"the audit log cannot be read: {error}", hint="cms audit NAME --verify finds the row"
            ) from error

    def verify_audit(self, session_id: str, head: str = "") -> Broken | None:
        """The first row of a session's audit log that is not what was written, or None.

        Args:
            head: a seal noted earlier, which the log must still contain.
        """
        rows = self._audit_rows(session_id)
        with border(self.path):
            length, newest = self._audit_head(session_id)
        broken = audit.verify(rows, length, newest)
        if broken is None and head and all(sealed != head for _, _, sealed in rows):
            return Broken(0, f"no row has the seal {head}: the log was written anew, or is another's")
        return broken

    def find_deleted(self, name: str) -> tuple[str, str] | None:
        """Id and name of the session with this id, or of the last with this name, that was deleted."""
        with border(self.path):
            row: tuple[str, str] | None = self._db.execute(
                f"SELECT d.session_id, d.detail {_DELETED} AND ? IN (d.detail, d.session_id)"
                " ORDER BY d.at DESC LIMIT 1",
                (name,),
            ).fetchone()
            # With its last row gone it is found all the same, and then by the check.
            known = self._audit_head(name)[0] > 0
        return row or ((name, name) if known else None)

    def _audit_rows(self, session_id: str) -> list[tuple[int, tuple[Value, ...], str]]:
        with border(self.path):
            rows: list[tuple[int, str, *tuple[Value, ...]]] = self._db.execute(
                f"SELECT number, seal, {', '.join(_DECISION_FIELDS)} FROM decisions"  # noqa: S608 - names of ours
                " WHERE session_id = ? ORDER BY number",
                (session_id,),
            ).fetchall()
        return [(number, tuple(row), sealed) for number, sealed, *row in rows]

    def _sessions(self, where: str, *values: Value) -> list[SessionRecord]:
        with border(self.path):
            rows: list[tuple[Value, ...]] = self._db.execute(
                f"{SESSIONS.select} WHERE {where}", values
            ).fetchall()
        return [SESSIONS.to_record(row) for row in rows]

    def _interactions(self, where: str, *values: Value) -> list[Interaction]:
        with border(self.path):
            rows: list[tuple[Value, ...]] = self._db.execute(
                f"{INTERACTIONS.select} WHERE {where}", values
            ).fetchall()
        return [INTERACTIONS.to_record(row) for row in rows]

    def _totals(self, query: str, values: Sequence[Value]) -> list[Total]:
        with border(self.path):
            rows: list[tuple[str, str, int, int, int, int, float, int, int]] = self._db.execute(
                query, values
            ).fetchall()
        return [
            Total(key, TokenUsage(sent, got, read, made, cost), count, bool(exact), name)
            for key, name, sent, got, read, made, cost, count, exact in rows
        ]


def decision_row(decision: Decision) -> tuple[Value, ...]:
    """The row of a decision, certain to be accepted: it travels in the transactions of others.

    What text cannot be stored (a file name that is not UTF-8) is written as escapes.

    Raises:
        StoreError: a number in it is infinite or none.
    """
    if not abs(decision.cost) + abs(decision.at) < float("inf"):
        raise StoreError(f"a decision cannot be stored: {decision}")
    # As the database gives it back, for the seal is over these very values.
    exact = msgspec.structs.replace(decision, at=float(decision.at), cost=float(decision.cost))
    values: tuple[Value, ...] = msgspec.structs.astuple(exact)
    return tuple(
        value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for value in values
    )
