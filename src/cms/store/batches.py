"""Batches in the store: what a batch does to its tables, a transaction a function.

The functions come in two layers, as in the rest of this room: `_Tables` is synchronous and runs inside a
transaction of `Books`; `BatchStore` brings it to trio. Two rules make a batch safe to kill at any instant:

- a task is `running` here before anything of it is started, and only a task that was `waiting` can become so;
- the end of a task, the release of those that need it, and the money it took are one transaction.

A million tasks are never in memory together: they come in by chunks and are read by pages.
"""

from __future__ import annotations

import difflib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, TypeVar

import msgspec
import trio

from cms.batch.allowance import counted
from cms.batch.forecast import Sample
from cms.batch.graph import Graph
from cms.batch.model import (
    ACTIVE,
    OVER,
    BatchRecord,
    BatchStatus,
    Task,
    TaskResult,
    TaskSpec,
    TaskStatus,
)
from cms.batch.schedule import Candidate
from cms.errors import StoreError, UsageError
from cms.session.model import LIVE, Record
from cms.store.faults import border
from cms.store.store import Store
from cms.store.transactions import Transactions

T = TypeVar("T")

#: Mistakes that are told at once; the rest is counted.
_TOLD: Final = 10
#: Tasks that are removed in one transaction.
_PIECE: Final = 20_000
#: Names that are looked through for one like a wrong one.
_LOOKED_THROUGH: Final = 20_000


class NewTask(msgspec.Struct, frozen=True):
    """A task on its way into the store. `cap`: US dollars that it may spend; None: without bound."""

    seq: int
    line: int
    spec: TaskSpec
    cap: float | None


class _Rest(Record, frozen=True, omit_defaults=True):
    """The part of a task that no query needs."""

    tries: int = 0
    failures: int = 0
    api_failures: int = msgspec.field(default=0, name="storms")  # its name in homes of old
    go_on: bool = False
    reserved: float = 0.0
    cost: float = 0.0
    exact: bool = True
    started: float | None = None
    tried: float | None = None
    ended: float | None = None
    reason: str = ""
    before: str = ""
    messages: int = 0
    paid: float = 0.0


class Settled(msgspec.Struct, frozen=True):
    """What the end of a task brought about."""

    released: int = 0
    skipped: int = 0


class Money(msgspec.Struct, frozen=True):
    """What a batch cost, and what that counts for under its cap. `worked`: seconds of ended tasks."""

    spent: float
    counted: float
    exact: bool
    worked: float


class BatchNotFound(UsageError):
    """There is no such batch."""

    code = "not_found"

    def __init__(self, batch_id: str, nearest: str = "") -> None:
        super().__init__(
            f"no batch {batch_id!r}",
            hint=f"did you mean {nearest!r}?" if nearest else "`cms batches` shows all of them",
        )
        self.name = batch_id
        self.nearest = nearest


_COLUMNS: Final = "seq, name, line, status, due, place, spec, rest, result"
_FREE: Final = "batch_id = ? AND status = 'waiting' AND unmet = 0"
_REST_FIELDS: Final = _Rest.__struct_fields__
_rest = msgspec.json.Decoder(_Rest)
_spec = msgspec.json.Decoder(TaskSpec)
_result = msgspec.json.Decoder(TaskResult)
_record = msgspec.json.Decoder(BatchRecord)
_TaskRow = tuple[int, str, int, str, float, int | None, str, str, str | None]


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _task(row: _TaskRow) -> Task:
    seq, name, line, status, due, place, spec, rest, result = row
    try:
        return Task(
            seq=seq,
            name=name,
            line=line,
            status=TaskStatus(status),
            spec=_spec.decode(spec),
            due=due,
            order=place or 0,
            result=None if result is None else _result.decode(result),
            **msgspec.structs.asdict(_rest.decode(rest)),
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(f"task {name!r} of a batch cannot be read: {error}") from error


class _Tables:
    """The transactions, on one connection."""

    def __init__(self, tx: Transactions) -> None:
        self._tx = tx
        self._db = tx.db

    # --- batches --------------------------------------------------------------------------------

    def create(self, batch: BatchRecord) -> None:
        try:
            self._db.execute(
                "INSERT INTO batches (id, created, status, owner, rest) VALUES (?, ?, ?, ?, ?)",
                (batch.id, batch.created, batch.status.value, self._tx.owner_id, _text(batch)),
            )
        except sqlite3.IntegrityError:
            raise UsageError(f"there is a batch {batch.id!r} already") from None

    def save(self, batch: BatchRecord) -> None:
        self._db.execute(
            "UPDATE batches SET status = ?, rest = ? WHERE id = ?",
            (batch.status.value, _text(batch), batch.id),
        )

    def get(self, batch_id: str) -> BatchRecord | None:
        return next(self._batches("id = ?", batch_id), None)

    def find(self, word: str) -> BatchRecord:
        """The batch of that id, or the only one whose id begins so.

        Raises:
            BatchNotFound: with the nearest id.
            UsageError: several begin so.
        """
        if (exact := self.get(word)) is not None:
            return exact
        ids: list[str] = [row[0] for row in self._db.execute("SELECT id FROM batches ORDER BY created DESC")]
        begun = [one for one in ids if word and one.startswith(word)]
        if len(begun) == 1:
            found = self.get(begun[0])
            if found is not None:
                return found
        if begun:
            newest = ", ".join(begun[:3])
            raise UsageError(
                f"{len(begun)} batches begin with {word!r}", hint=f"say which; the newest: {newest}"
            )
        near = difflib.get_close_matches(word, ids, n=1)
        raise BatchNotFound(word, near[0] if near else "")

    def all(self, limit: int) -> list[BatchRecord]:
        return list(self._batches("status <> 'loading' ORDER BY created DESC, id DESC LIMIT ?", limit))

    def _batches(self, where: str, *values: str | int) -> Iterator[BatchRecord]:
        rows: list[tuple[str, str, float, int]] = self._db.execute(
            f"SELECT status, rest, spent, exact FROM batches WHERE {where}",  # noqa: S608 - words of ours
            values,
        ).fetchall()
        for status, rest, spent, exact in rows:
            batch = _record.decode(rest)
            counts = self.counts(batch.id)
            yield msgspec.structs.replace(
                batch,
                status=BatchStatus(status),
                counts=counts,
                total=sum(counts.values()),
                spent=spent,
                exact=bool(exact),
            )

    def counts(self, batch_id: str) -> dict[TaskStatus, int]:
        rows: list[tuple[str, int]] = self._db.execute(
            "SELECT status, tasks FROM batch_counts WHERE batch_id = ? AND tasks > 0", (batch_id,)
        ).fetchall()
        return {TaskStatus(status): count for status, count in rows}

    def money(self, batch_id: str) -> Money:
        row: tuple[float, float, int, float] | None = self._db.execute(
            "SELECT spent, counted, exact, worked FROM batches WHERE id = ?", (batch_id,)
        ).fetchone()
        return Money(0.0, 0.0, True, 0.0) if row is None else Money(row[0], row[1], bool(row[2]), row[3])

    def delete(self, batch_id: str, most: int = -1) -> bool:
        """Remove a batch, or of a large one `most` of its tasks; returns whether all of it is gone."""
        done = self._db.execute(
            "DELETE FROM batch_tasks WHERE batch_id = ?1 AND seq IN"
            " (SELECT seq FROM batch_tasks WHERE batch_id = ?1 LIMIT ?2)",
            (batch_id, most),
        )
        if done.rowcount == most:
            return False
        for table in ("batch_needs", "batch_counts"):
            self._db.execute(f"DELETE FROM {table} WHERE batch_id = ?", (batch_id,))  # noqa: S608 - ours
        self._db.execute("DELETE FROM batches WHERE id = ?", (batch_id,))
        return True

    def claim(self, batch_id: str) -> None:
        """Sign a batch, so that nobody else works on it.

        Raises:
            UsageError: somebody else does.
        """
        row: tuple[str, str] | None = self._db.execute(
            "SELECT owner, status FROM batches WHERE id = ?", (batch_id,)
        ).fetchone()
        if row is None:
            raise BatchNotFound(batch_id)
        owner, status = row
        if BatchStatus(status) in ACTIVE and self._tx.lives(owner):
            raise UsageError(
                f"batch {batch_id!r} is at work in another process of cms",
                hint="stop that one first (Ctrl-C where it runs)",
            )
        self._db.execute("UPDATE batches SET owner = ? WHERE id = ?", (self._tx.owner_id, batch_id))

    def orphans(self) -> list[BatchRecord]:
        """Batches that somebody was at work on who is dead; those that were being written are removed."""
        active = ", ".join(f"'{status.value}'" for status in (*ACTIVE, BatchStatus.LOADING))
        rows: list[tuple[str, str, str]] = self._db.execute(
            f"SELECT id, owner, status FROM batches WHERE status IN ({active}) ORDER BY created"  # noqa: S608
        ).fetchall()
        found: list[BatchRecord] = []
        for batch_id, owner, status in rows:
            if owner == self._tx.owner_id or self._tx.lives(owner):
                continue
            if status == BatchStatus.LOADING:
                self.delete(batch_id)
            elif (batch := self.get(batch_id)) is not None:
                found.append(batch)
        return found

    # --- taking tasks in ------------------------------------------------------------------------

    def add(self, batch_id: str, tasks: Sequence[NewTask]) -> list[str]:
        """Write tasks down; returns what is wrong with them, and then they are not all there."""
        faults: list[str] = []
        for task in tasks:
            try:
                self._db.execute(
                    "INSERT INTO batch_tasks (batch_id, seq, name, line, status, unmet, cap, spec, rest)"
                    " VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?, '{}')",
                    (
                        batch_id,
                        task.seq,
                        task.spec.name,
                        task.line,
                        len(task.spec.needs),
                        task.cap,
                        _text(task.spec),
                    ),
                )
            except sqlite3.IntegrityError:
                first: tuple[int] | None = self._db.execute(
                    "SELECT line FROM batch_tasks WHERE batch_id = ? AND name = ?", (batch_id, task.spec.name)
                ).fetchone()
                where = f" (line {first[0]})" if first is not None else ""
                faults.append(f"line {task.line}: there is a task {task.spec.name!r} already{where}")
                continue
            self._db.executemany(
                "INSERT INTO batch_needs (batch_id, seq, need_name) VALUES (?, ?, ?)",
                [(batch_id, task.seq, need) for need in task.spec.needs],
            )
        return faults

    def check(self, batch_id: str, *, fresh: bool) -> list[str]:
        """What is wrong with the tasks as a whole; when nothing is, who needs whom is settled."""
        self._db.execute(
            "UPDATE batch_needs SET need = (SELECT seq FROM batch_tasks AS t"
            " WHERE t.batch_id = batch_needs.batch_id AND t.name = need_name) WHERE batch_id = ?",
            (batch_id,),
        )
        unknown = list(self._unknown(batch_id))
        return [*(unknown or self._ring(batch_id)), *self._taken(batch_id, fresh=fresh)]

    def _unknown(self, batch_id: str) -> Iterator[str]:
        rows: list[tuple[str, str, int]] = self._db.execute(
            "SELECT n.need_name, t.name, t.line FROM batch_needs AS n JOIN batch_tasks AS t"
            " ON t.batch_id = n.batch_id AND t.seq = n.seq"
            " WHERE n.batch_id = ? AND n.need IS NULL ORDER BY t.line LIMIT ?",
            (batch_id, _TOLD),
        ).fetchall()
        if not rows:
            return
        names: list[str] = [
            row[0]
            for row in self._db.execute(
                "SELECT name FROM batch_tasks WHERE batch_id = ? LIMIT ?", (batch_id, _LOOKED_THROUGH)
            )
        ]
        for need, name, line in rows:
            near = difflib.get_close_matches(need, [one for one in names if one != name], n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            yield f"line {line}: task {name!r} needs {need!r}, which is no task of this batch{meant}"

    def _taken(self, batch_id: str, *, fresh: bool) -> Iterator[str]:
        alive = ", ".join(f"'{status}'" for status in sorted(LIVE))
        only = f" AND s.status IN ({alive})" if fresh else ""
        rows: list[tuple[str, int]] = self._db.execute(
            "SELECT t.name, t.line FROM batch_tasks AS t JOIN sessions AS s ON s.name = t.name"  # noqa: S608
            f" WHERE t.batch_id = ?{only} ORDER BY t.line LIMIT ?",
            (batch_id, _TOLD),
        ).fetchall()
        advice = "stop it first" if fresh else "choose another name, or use --fresh"
        for name, line in rows:
            what = "a live session" if fresh else "a session"
            yield f"line {line}: there is {what} {name!r} already; {advice}"

    def _ring(self, batch_id: str) -> list[str]:
        count: int = self._db.execute(
            "SELECT coalesce(max(seq) + 1, 0) FROM batch_tasks WHERE batch_id = ?", (batch_id,)
        ).fetchone()[0]
        ring = self.graph(batch_id, count).cycle()
        if not ring:
            return []
        words = []
        line = 0
        for seq in ring[:_TOLD]:
            name, at = self._db.execute(
                "SELECT name, line FROM batch_tasks WHERE batch_id = ? AND seq = ?", (batch_id, seq)
            ).fetchone()
            words.append(f"{name!r} (line {at})")
            line = line or at
        words.append(words[0] if len(ring) <= _TOLD else f"{len(ring) - _TOLD} more")
        return [f"line {line}: tasks need each other in a ring: {' needs '.join(words)}"]

    def graph(self, batch_id: str, count: int) -> Graph:
        edges: Iterator[tuple[int, int]] = self._db.execute(
            "SELECT seq, need FROM batch_needs WHERE batch_id = ? AND need IS NOT NULL", (batch_id,)
        )
        return Graph(count, edges)

    # --- tasks on their way ---------------------------------------------------------------------

    def candidates(
        self, batch_id: str, now: float, most: int, fitting: float | None
    ) -> tuple[tuple[Candidate, ...], bool, float | None]:
        """Tasks whose turn it is, in the file's order; whether there are more; when the next wait is over."""
        fits = "" if fitting is None else " AND cap <= ?"
        values = [batch_id, now, *(() if fitting is None else (fitting + 1e-9,)), most + 1]
        rows: list[tuple[int, float | None]] = self._db.execute(
            f"SELECT seq, cap FROM batch_tasks WHERE {_FREE} AND due <= ?{fits} ORDER BY seq LIMIT ?",  # noqa: S608
            values,
        ).fetchall()
        due: tuple[float | None] = self._db.execute(
            f"SELECT min(due) FROM batch_tasks WHERE {_FREE} AND due > ?",  # noqa: S608 - words of ours
            (batch_id, max(now, 0.0)),
        ).fetchone()
        return tuple(Candidate(seq, cap) for seq, cap in rows[:most]), len(rows) > most, due[0]

    def begin(self, batch_id: str, seqs: Iterable[int], now: float) -> list[Task]:
        """Mark tasks as running. Those that do not wait any more are left out."""
        begun = []
        for seq in seqs:
            task = self.task(batch_id, seq)
            if task is None or task.status is not TaskStatus.WAITING:
                continue
            before: tuple[str, int, float] | None = self._db.execute(
                "SELECT s.id, count(i.id), s.total_cost_usd FROM sessions AS s LEFT JOIN interactions AS i"
                " ON i.session_id = s.id WHERE s.name = ? GROUP BY s.id",
                (task.name,),
            ).fetchone()
            task = msgspec.structs.replace(
                task,
                status=TaskStatus.RUNNING,
                tries=task.tries + 1,
                tried=now,
                started=task.started or now,
                reserved=self._cap(batch_id, seq) or 0.0,
                reason="",
                before="" if before is None else before[0],
                messages=0 if before is None else before[1],
                paid=before[2] if before is not None and task.go_on else 0.0,
            )
            self._put(batch_id, task)
            begun.append(task)
        return begun

    def settle(
        self, batch_id: str, task: Task, cost: float, *, exact: bool, left: float | None, worked: float
    ) -> Settled:
        """A try of a task that runs has ended: write down what the task is now, and what follows from it.

        Args:
            task: as it stands now, `waiting` or over, its cost so far included.
            cost, exact: of this try.
            left: US dollars that it may spend if it is tried again.
            worked: seconds that a task that is over took.
        """
        if task.status in OVER:
            place: int = self._db.execute(
                "SELECT coalesce(max(place), 0) + 1 FROM batch_tasks"
                " WHERE batch_id = ? AND place IS NOT NULL",
                (batch_id,),
            ).fetchone()[0]
            task = msgspec.structs.replace(task, order=place)
        reserved = task.reserved
        self._put(batch_id, msgspec.structs.replace(task, reserved=0.0), cap=left)
        self._db.execute(
            "UPDATE batches SET spent = spent + ?, counted = counted + ?, exact = min(exact, ?),"
            " worked = worked + ? WHERE id = ?",
            (cost, counted(cost, reserved, exact=exact), exact, worked, batch_id),
        )
        if task.status is TaskStatus.COMPLETED:
            return Settled(released=self._release(batch_id, task.seq))
        if task.status in OVER:
            return Settled(skipped=self._skip(batch_id, task))
        return Settled()

    def _release(self, batch_id: str, seq: int) -> int:
        self._db.execute(
            "UPDATE batch_tasks SET unmet = unmet - 1 WHERE batch_id = ?"
            " AND seq IN (SELECT seq FROM batch_needs WHERE batch_id = ? AND need = ?)",
            (batch_id, batch_id, seq),
        )
        freed: tuple[int] = self._db.execute(
            "SELECT count(*) FROM batch_needs AS n JOIN batch_tasks AS t"
            " ON t.batch_id = n.batch_id AND t.seq = n.seq"
            " WHERE n.batch_id = ? AND n.need = ? AND t.status = 'waiting' AND t.unmet = 0",
            (batch_id, seq),
        ).fetchone()
        return freed[0]

    def _skip(self, batch_id: str, failed: Task) -> int:
        """Whoever needs it, and whoever needs those, will not be started."""
        reason = f"it needs {failed.name!r}, which ended {failed.status.value}"
        rows: list[tuple[int]] = self._db.execute(
            "WITH RECURSIVE lost (seq) AS ("
            " SELECT seq FROM batch_needs WHERE batch_id = ?1 AND need = ?2"
            " UNION SELECT n.seq FROM batch_needs AS n JOIN lost ON n.need = lost.seq WHERE n.batch_id = ?1)"
            " SELECT seq FROM lost",
            (batch_id, failed.seq),
        ).fetchall()
        skipped = 0
        for (seq,) in rows:
            task = self.task(batch_id, seq)
            if task is None or task.status is not TaskStatus.WAITING:
                continue
            place: int = self._db.execute(
                "SELECT coalesce(max(place), 0) + 1 FROM batch_tasks"
                " WHERE batch_id = ? AND place IS NOT NULL",
                (batch_id,),
            ).fetchone()[0]
            self._put(
                batch_id,
                msgspec.structs.replace(
                    task, status=TaskStatus.SKIPPED, reason=reason, ended=failed.ended, order=place
                ),
            )
            skipped += 1
        return skipped

    def cancel_rest(self, batch_id: str, now: float) -> int:
        """Everything that waits is cancelled; returns how many."""
        rest = _text(_Rest(reason="the batch was cancelled", ended=now))
        place: int = self._db.execute(
            "SELECT coalesce(max(place), 0) FROM batch_tasks WHERE batch_id = ? AND place IS NOT NULL",
            (batch_id,),
        ).fetchone()[0]
        done = self._db.execute(
            "UPDATE batch_tasks SET status = 'cancelled', place = ? + seq + 1,"
            " rest = json_patch(rest, ?) WHERE batch_id = ? AND status = 'waiting'",
            (place, rest, batch_id),
        )
        return done.rowcount

    def _cap(self, batch_id: str, seq: int) -> float | None:
        row: tuple[float | None] | None = self._db.execute(
            "SELECT cap FROM batch_tasks WHERE batch_id = ? AND seq = ?", (batch_id, seq)
        ).fetchone()
        return None if row is None else row[0]

    def _put(
        self, batch_id: str, task: Task, *, cap: float | msgspec.UnsetType | None = msgspec.UNSET
    ) -> None:
        rest = _Rest(**{field: getattr(task, field) for field in _REST_FIELDS})
        if not abs(task.due) + abs(task.cost) + abs(task.reserved) < float("inf"):
            raise StoreError(f"task {task.name!r} cannot be stored: a figure of it is infinite")
        self._db.execute(
            "UPDATE batch_tasks SET status = ?, due = ?, place = ?, rest = ?, result = ?"
            " WHERE batch_id = ? AND seq = ?",
            (
                task.status.value,
                task.due,
                task.order or None,
                _text(rest),
                None if task.result is None else _text(task.result),
                batch_id,
                task.seq,
            ),
        )
        if cap is not msgspec.UNSET:
            self._db.execute(
                "UPDATE batch_tasks SET cap = ? WHERE batch_id = ? AND seq = ?", (cap, batch_id, task.seq)
            )

    # --- looking --------------------------------------------------------------------------------

    def task(self, batch_id: str, seq: int) -> Task | None:
        return next(iter(self._tasks("batch_id = ? AND seq = ?", batch_id, seq)), None)

    def tasks_named(self, batch_id: str, names: Sequence[str]) -> list[Task]:
        marks = ", ".join("?" * len(names))
        return self._tasks(f"batch_id = ? AND name IN ({marks})", batch_id, *names)

    def running(self, batch_id: str) -> list[Task]:
        return self._tasks("batch_id = ? AND status = 'running' ORDER BY seq", batch_id)

    def page(self, batch_id: str, after: int, limit: int) -> list[Task]:
        return self._tasks("batch_id = ? AND seq > ? ORDER BY seq LIMIT ?", batch_id, after, limit)

    def ended(self, batch_id: str, after: int, limit: int) -> list[Task]:
        """Tasks that are over, in the order in which they ended."""
        return self._tasks(
            "batch_id = ? AND place IS NOT NULL AND place > ? ORDER BY place LIMIT ?", batch_id, after, limit
        )

    def _tasks(self, where: str, *values: str | float) -> list[Task]:
        rows: list[_TaskRow] = self._db.execute(
            f"SELECT {_COLUMNS} FROM batch_tasks WHERE {where}",  # noqa: S608 - words of ours
            values,
        ).fetchall()
        return [_task(row) for row in rows]

    def caps(self, batch_id: str) -> tuple[int, float | None, float | None]:
        """How many tasks, the sum of their caps (None if one has none), and the largest."""
        count, without, total, largest = self._db.execute(
            "SELECT count(*), count(*) - count(cap), sum(cap), max(cap) FROM batch_tasks WHERE batch_id = ?",
            (batch_id,),
        ).fetchone()
        return count, None if without else float(total or 0.0), None if without else largest

    def cost_by_model(self, batch_id: str) -> list[tuple[str, float]]:
        """What a batch's sessions spent, by model, dearest first."""
        rows: list[tuple[str, float]] = self._db.execute(
            # Earlier tries of `a` are the sessions `a~1`, `a~2`; no other name holds a tilde.
            "SELECT l.model, sum(l.cost_usd) FROM batch_tasks AS t JOIN sessions AS s"
            " ON s.name = t.name OR (s.name > t.name || '~' AND s.name < t.name || '~~')"
            " JOIN ledger AS l ON l.session_id = s.id WHERE t.batch_id = ? GROUP BY 1 ORDER BY 2 DESC",
            (batch_id,),
        ).fetchall()
        return rows

    def history(self, most: int) -> list[Sample]:
        """The newest delegations that completed, for forecasts."""
        rows: list[tuple[str, str, str, float, float]] = self._db.execute(
            "SELECT json_extract(s.rest, '$.options.model'), json_extract(s.rest, '$.options.preset'),"
            " json_extract(s.rest, '$.options.workDir'), i.cost, json_extract(i.rest, '$.duration')"
            " FROM interactions AS i JOIN sessions AS s ON s.id = i.session_id"
            " WHERE i.type = 'delegate' AND i.state = 'done' ORDER BY i.rowid DESC LIMIT ?",
            (most,),
        ).fetchall()
        return [
            Sample(str(model), str(preset), str(place), cost, float(seconds or 0.0))
            for model, preset, place, cost, seconds in rows
        ]


class _End:
    """An end that waits for its transaction."""

    __slots__ = ("outcome", "work")

    def __init__(self, work: Callable[[_Tables], Settled]) -> None:
        self.work = work
        self.outcome: Settled | StoreError | None = None


class BatchStore:
    """The batches of one store. Each method raises StoreError if disk or SQLite refuses."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ends: list[_End] = []
        self._turn = trio.Lock()

    async def _write(self, work: Callable[[_Tables], T]) -> T:
        return await self._store.write(lambda tx: work(_Tables(tx)))

    async def _read(self, work: Callable[[_Tables], T]) -> T:
        def look(tx: Transactions) -> T:
            with border(tx.path):
                return work(_Tables(tx))

        return await self._store.read(look)

    async def create(self, batch: BatchRecord) -> None:
        """Write a new batch down; its tasks are to follow."""
        await self._write(lambda tables: tables.create(batch))

    async def save(self, batch: BatchRecord) -> None:
        """A batch as it stands. Counts and money are the store's own and are not taken from it."""
        await self._write(lambda tables: tables.save(batch))

    async def find(self, word: str) -> BatchRecord:
        """The batch of that id, or of the only id that begins so.

        Raises:
            BatchNotFound: there is none.
        """
        return await self._read(lambda tables: tables.find(word))

    async def all(self, limit: int = 1000) -> list[BatchRecord]:
        """The batches, newest first."""
        return await self._read(lambda tables: tables.all(limit))

    async def delete(self, batch_id: str) -> None:
        """Forget a batch; a large one in pieces, so that nobody waits for it. Its sessions stay."""
        while not await self._write(lambda tables: tables.delete(batch_id, _PIECE)):
            pass

    async def claim(self, batch_id: str) -> None:
        """Take a batch over.

        Raises:
            UsageError: another process works on it.
        """
        await self._write(lambda tables: tables.claim(batch_id))

    async def orphans(self) -> list[BatchRecord]:
        """What dead processes were at work on."""
        return await self._write(lambda tables: tables.orphans())

    async def add(self, batch_id: str, tasks: Sequence[NewTask]) -> list[str]:
        """Take tasks in; returns what is wrong with them."""
        return await self._write(lambda tables: tables.add(batch_id, tasks))

    async def check(self, batch_id: str, *, fresh: bool = False) -> list[str]:
        """What is wrong with the tasks as a whole.

        Args:
            fresh: sessions that have the tasks' names are no mistake, unless they are alive.
        """
        return await self._write(lambda tables: tables.check(batch_id, fresh=fresh))

    async def graph(self, batch_id: str, count: int) -> Graph:
        return await self._read(lambda tables: tables.graph(batch_id, count))

    async def candidates(
        self, batch_id: str, now: float, most: int, fitting: float | None = None
    ) -> tuple[tuple[Candidate, ...], bool, float | None]:
        """Tasks whose turn it is; whether there are more; when the next wait is over."""
        return await self._read(lambda tables: tables.candidates(batch_id, now, most, fitting))

    async def begin(self, batch_id: str, seqs: Sequence[int], now: float) -> list[Task]:
        """Mark tasks as running: they are not started again without a look at what they did."""
        return await self._write(lambda tables: tables.begin(batch_id, seqs, now))

    async def settle(
        self,
        batch_id: str,
        task: Task,
        cost: float,
        *,
        exact: bool = True,
        left: float | None = None,
        worked: float = 0.0,
    ) -> Settled:
        """The end of a try and all that follows from it.

        Ends that come together share a transaction: with two hundred tasks at once the disk is waited for a
        few times a second and not hundreds of times. Not to be cancelled half-way: call it shielded.
        """
        end = _End(lambda tables: tables.settle(batch_id, task, cost, exact=exact, left=left, worked=worked))
        self._ends.append(end)
        async with self._turn:
            if end.outcome is None:
                await self._settle_all()
        if isinstance(end.outcome, Settled):
            return end.outcome
        raise StoreError(f"the end of task {task.name!r} could not be stored: {end.outcome}")

    async def _settle_all(self) -> None:
        ends, self._ends = self._ends, []
        try:
            done = await self._write(lambda tables: [end.work(tables) for end in ends])
        except StoreError as error:
            for end in ends:
                end.outcome = error
            return
        for end, settled in zip(ends, done, strict=True):
            end.outcome = settled

    async def cancel_rest(self, batch_id: str, now: float) -> int:
        """Cancel everything that waits."""
        return await self._write(lambda tables: tables.cancel_rest(batch_id, now))

    async def counts(self, batch_id: str) -> dict[TaskStatus, int]:
        return await self._read(lambda tables: tables.counts(batch_id))

    async def money(self, batch_id: str) -> Money:
        return await self._read(lambda tables: tables.money(batch_id))

    async def task(self, batch_id: str, seq: int) -> Task | None:
        return await self._read(lambda tables: tables.task(batch_id, seq))

    async def tasks_named(self, batch_id: str, names: Sequence[str]) -> list[Task]:
        return await self._read(lambda tables: tables.tasks_named(batch_id, names))

    async def running(self, batch_id: str) -> list[Task]:
        return await self._read(lambda tables: tables.running(batch_id))

    async def page(self, batch_id: str, after: int = -1, limit: int = 500) -> list[Task]:
        """The tasks behind a place in the file."""
        return await self._read(lambda tables: tables.page(batch_id, after, limit))

    async def ended(self, batch_id: str, after: int = 0, limit: int = 500) -> list[Task]:
        """Tasks that are over, in the order in which they ended, behind a place in that order."""
        return await self._read(lambda tables: tables.ended(batch_id, after, limit))

    async def caps(self, batch_id: str) -> tuple[int, float | None, float | None]:
        return await self._read(lambda tables: tables.caps(batch_id))

    async def cost_by_model(self, batch_id: str) -> list[tuple[str, float]]:
        return await self._read(lambda tables: tables.cost_by_model(batch_id))

    async def history(self, most: int = 5000) -> list[Sample]:
        return await self._read(lambda tables: tables.history(most))
