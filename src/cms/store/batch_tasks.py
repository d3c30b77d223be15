"""The tasks of a batch on their way. Two rules make a batch safe to kill at any instant:

- a task is `running` here before anything of it is started, and only a task that was `waiting` can become so;
- the end of a task, the release of those that need it, and the money it took are one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from cms.batch.allowance import counted
from cms.batch.model import OVER, Task, TaskOptions, TaskResult, TaskStatus
from cms.batch.reuse import KEPT
from cms.batch.schedule import Candidate
from cms.errors import StoreError, UsageError
from cms.session.model import Record
from cms.store import money
from cms.store.database import Database
from cms.store.rows import to_json
from cms.units import nearest


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
    paid_tokens: int = 0
    tokens: int = 0
    requeued: bool = False
    key: str = ""
    around: str = ""
    reused: str = ""


class Settled(msgspec.Struct, frozen=True):
    """What the end of a task brought about."""

    released: int = 0
    skipped: int = 0


_COLUMNS: Final = "seq, name, line, status, due, place, spec, rest, result, chosen"
_FREE: Final = "batch_id = ? AND status = 'waiting' AND unmet = 0"
#: Names that are looked through for one like a wrong one.
_LOOKED_THROUGH: Final = 20_000
_REST_FIELDS: Final = _Rest.__struct_fields__
_rest = msgspec.json.Decoder(_Rest)
_options = msgspec.json.Decoder(TaskOptions)
_result = msgspec.json.Decoder(TaskResult)
_TaskRow = tuple[int, str, int, str, float, int | None, str, str, str | None, int]


def candidates(
    db: Database, batch_id: str, now: float, most: int, fitting: float | None = None
) -> tuple[tuple[Candidate, ...], bool, float | None]:
    """Tasks whose turn it is, in the file's order; whether there are more; when the next wait is over."""
    fits = "" if fitting is None else " AND cap <= ?"
    values = [batch_id, now, *(() if fitting is None else (fitting + 1e-9,)), most + 1]
    rows: list[tuple[int, float | None]] = db.execute(
        f"SELECT seq, cap FROM batch_tasks WHERE {_FREE} AND due <= ?{fits} ORDER BY seq LIMIT ?",  # noqa: S608
        values,
    ).fetchall()
    due: tuple[float | None] = db.execute(
        f"SELECT min(due) FROM batch_tasks WHERE {_FREE} AND due > ?",  # noqa: S608 - words of ours
        (batch_id, max(now, 0.0)),
    ).fetchone()
    return tuple(Candidate(seq, cap) for seq, cap in rows[:most]), len(rows) > most, due[0]


def begin(
    db: Database, batch_id: str, seqs: Sequence[int], now: float, since: float | None = None
) -> list[Task]:
    """Mark tasks as running: they are not started again without a look at what they did.

    Those that do not wait any more are left out.

    Args:
        since: now by the clock of whoever is to do them; None: by ours.
    """
    begun = []
    for seq in seqs:
        found = at(db, batch_id, seq)
        if found is None or found.status is not TaskStatus.WAITING:
            continue
        before: tuple[str, int, float] | None = db.execute(
            "SELECT s.id, count(i.id), s.total_cost_usd FROM sessions AS s LEFT JOIN interactions AS i"
            " ON i.session_id = s.id WHERE s.name = ? GROUP BY s.id",
            (found.name,),
        ).fetchone()
        goes_on = before is not None and found.go_on
        started = msgspec.structs.replace(
            found,
            status=TaskStatus.RUNNING,
            tries=found.tries + 1,
            tried=now if since is None else since,
            started=found.started or now,
            reserved=_cap(db, batch_id, seq) or 0.0,
            reason="",
            before="" if before is None else before[0],
            messages=0 if before is None else before[1],
            paid=before[2] if before is not None and goes_on else 0.0,
            paid_tokens=money.tokens(db, found.name) if goes_on else 0,
            key=found.key if goes_on else "",
            around=found.around if goes_on else "",
        )
        _put(db, batch_id, started)
        begun.append(started)
    return begun


def settle(
    db: Database,
    batch_id: str,
    task: Task,
    cost: float,
    *,
    exact: bool = True,
    tokens: int = 0,
    left: float | None = None,
    worked: float = 0.0,
    working: float = 0.0,
) -> Settled:
    """A try of a task that runs has ended: write down what the task is now, and what follows from it.

    Args:
        task: as it stands now, `waiting` or over, its cost so far included.
        cost, exact, tokens: of this try.
        left: US dollars that it may spend if it is tried again.
        worked: seconds that a task that is over took.
        working: seconds in which the batch has worked so far (`BatchOptions.max_work`).
    """
    if task.status in OVER:
        task = msgspec.structs.replace(task, order=_last_place(db, batch_id) + 1)
    reserved = task.reserved
    _put(db, batch_id, msgspec.structs.replace(task, reserved=0.0), cap=left)
    db.execute(
        "UPDATE batches SET spent = spent + ?, counted = counted + ?, exact = min(exact, ?),"
        " worked = worked + ?, tokens = tokens + ?, working = ?, reused = reused + ? WHERE id = ?",
        (
            cost,
            counted(cost, reserved, exact=exact),
            exact,
            worked,
            tokens,
            working,
            bool(task.reused),
            batch_id,
        ),
    )
    if task.key and task.status in KEPT:
        _keep_result(db, batch_id, task)
    if task.status is TaskStatus.COMPLETED:
        return Settled(released=_release(db, batch_id, task.seq))
    if task.status in OVER:
        return Settled(skipped=_skip(db, batch_id, task))
    return Settled()


def _release(db: Database, batch_id: str, seq: int) -> int:
    db.execute(
        "UPDATE batch_tasks SET unmet = unmet - 1 WHERE batch_id = ?"
        " AND seq IN (SELECT seq FROM batch_needs WHERE batch_id = ? AND need = ?)",
        (batch_id, batch_id, seq),
    )
    freed: tuple[int] = db.execute(
        "SELECT count(*) FROM batch_needs AS n JOIN batch_tasks AS t"
        " ON t.batch_id = n.batch_id AND t.seq = n.seq"
        " WHERE n.batch_id = ? AND n.need = ? AND t.status = 'waiting' AND t.unmet = 0",
        (batch_id, seq),
    ).fetchone()
    return freed[0]


def _skip(db: Database, batch_id: str, failed: Task) -> int:
    """Whoever needs it, and whoever needs those, will not be started."""
    reason = f"it needs {failed.name!r}, which ended {failed.status.value}"
    rows: list[tuple[int]] = db.execute(
        "WITH RECURSIVE lost (seq) AS ("
        " SELECT seq FROM batch_needs WHERE batch_id = ?1 AND need = ?2"
        " UNION SELECT n.seq FROM batch_needs AS n JOIN lost ON n.need = lost.seq WHERE n.batch_id = ?1)"
        " SELECT seq FROM lost",
        (batch_id, failed.seq),
    ).fetchall()
    skipped = 0
    for (seq,) in rows:
        lost = at(db, batch_id, seq)
        if lost is None or lost.status is not TaskStatus.WAITING:
            continue
        place = _last_place(db, batch_id) + 1
        _put(
            db,
            batch_id,
            msgspec.structs.replace(
                lost, status=TaskStatus.SKIPPED, reason=reason, ended=failed.ended, order=place
            ),
        )
        skipped += 1
    return skipped


def cancel_rest(db: Database, batch_id: str, now: float) -> int:
    """Everything that waits is cancelled; returns how many."""
    rest = to_json(_Rest(reason="the batch was cancelled", ended=now))
    done = db.execute(
        "UPDATE batch_tasks SET status = 'cancelled', place = ? + seq + 1,"
        " rest = json_patch(rest, ?) WHERE batch_id = ? AND status = 'waiting'",
        (_last_place(db, batch_id), rest, batch_id),
    )
    return done.rowcount


def cancel_one(db: Database, batch_id: str, task: Task, reason: str, now: float) -> int:
    """A task that waits is cancelled; returns how many others, who need it, are skipped."""
    gone = msgspec.structs.replace(
        task, status=TaskStatus.CANCELLED, reason=reason, ended=now, order=_last_place(db, batch_id) + 1
    )
    _put(db, batch_id, gone)
    return _skip(db, batch_id, gone)


def note_key(db: Database, batch_id: str, task: Task) -> None:
    """What the result of a task that runs will rest on: after a crash nobody could tell any more."""
    _put(db, batch_id, task)


def _keep_result(db: Database, batch_id: str, task: Task) -> None:
    """It can be found by its key. What completed stands for good; what failed stands behind it."""
    verb = "REPLACE" if task.status is TaskStatus.COMPLETED else "IGNORE"
    db.execute(f"INSERT OR {verb} INTO batch_results VALUES (?, ?, ?)", (task.key, batch_id, task.seq))  # noqa: S608


def _last_place(db: Database, batch_id: str) -> int:
    """The place of the task that ended last; 0 if none did."""
    place: int = db.execute(
        "SELECT coalesce(max(place), 0) FROM batch_tasks WHERE batch_id = ? AND place IS NOT NULL",
        (batch_id,),
    ).fetchone()[0]
    return place


def _cap(db: Database, batch_id: str, seq: int) -> float | None:
    row: tuple[float | None] | None = db.execute(
        "SELECT cap FROM batch_tasks WHERE batch_id = ? AND seq = ?", (batch_id, seq)
    ).fetchone()
    return None if row is None else row[0]


def _put(
    db: Database, batch_id: str, task: Task, *, cap: float | msgspec.UnsetType | None = msgspec.UNSET
) -> None:
    rest = _Rest(**{field: getattr(task, field) for field in _REST_FIELDS})
    if not abs(task.due) + abs(task.cost) + abs(task.reserved) < float("inf"):
        raise StoreError(f"task {task.name!r} cannot be stored: a figure of it is infinite")
    db.execute(
        "UPDATE batch_tasks SET status = ?, due = ?, place = ?, rest = ?, result = ?"
        " WHERE batch_id = ? AND seq = ?",
        (
            task.status.value,
            task.due,
            task.order or None,
            to_json(rest),
            None if task.result is None else to_json(task.result),
            batch_id,
            task.seq,
        ),
    )
    if cap is not msgspec.UNSET:
        db.execute("UPDATE batch_tasks SET cap = ? WHERE batch_id = ? AND seq = ?", (cap, batch_id, task.seq))


# --- reading ----------------------------------------------------------------------------------------


def at(db: Database, batch_id: str, seq: int) -> Task | None:
    """The task at that place of the file."""
    return next(iter(_tasks(db, "batch_id = ? AND seq = ?", batch_id, seq)), None)


def batch_that_needs(db: Database, name: str) -> str:
    """The batch with a task that works in the session of that name, or will go on in it; "" if none does."""
    row: tuple[str] | None = db.execute(
        "SELECT batch_id FROM batch_tasks WHERE batch_id IN (SELECT id FROM batches) AND name = ?"
        " AND (status = 'running' OR status = 'waiting' AND instr(rest, '\"goOn\":true') > 0)",
        (name,),
    ).fetchone()
    return "" if row is None else row[0]


def named(db: Database, batch_id: str, names: Sequence[str]) -> list[Task]:
    """The tasks of these names."""
    marks = ", ".join("?" * len(names))
    return _tasks(db, f"batch_id = ? AND name IN ({marks})", batch_id, *names)


def of_names(db: Database, batch_id: str, names: Sequence[str]) -> list[Task]:
    """The tasks of these names, each once, in that order.

    Raises:
        UsageError: there is none of that name; with the nearest.
    """
    found = {name: task for name in dict.fromkeys(names) for task in named(db, batch_id, [name])}
    for name in names:
        if name not in found:
            known: list[str] = [
                row[0]
                for row in db.execute(
                    "SELECT name FROM batch_tasks WHERE batch_id = ? LIMIT ?", (batch_id, _LOOKED_THROUGH)
                )
            ]
            near = nearest(name, known)
            raise UsageError(
                f"batch {batch_id!r} has no task {name!r}",
                hint=f"did you mean {near!r}?" if near else f"`cms batch show {batch_id}` lists them",
            )
    return list(found.values())


def running(db: Database, batch_id: str) -> list[Task]:
    """The tasks that run, or ran when a process died."""
    return _tasks(db, "batch_id = ? AND status = 'running' ORDER BY seq", batch_id)


def page(db: Database, batch_id: str, after: int = -1, limit: int = 500) -> list[Task]:
    """The tasks behind a place in the file."""
    return _tasks(db, "batch_id = ? AND seq > ? ORDER BY seq LIMIT ?", batch_id, after, limit)


def ended(db: Database, batch_id: str, after: int = 0, limit: int = 500) -> list[Task]:
    """Tasks that are over, in the order in which they ended, behind a place in that order."""
    return _tasks(
        db, "batch_id = ? AND place IS NOT NULL AND place > ? ORDER BY place LIMIT ?", batch_id, after, limit
    )


def _tasks(db: Database, where: str, *values: str | float) -> list[Task]:
    rows: list[_TaskRow] = db.execute(
        f"SELECT {_COLUMNS} FROM batch_tasks WHERE {where}",  # noqa: S608 - words of ours
        values,
    ).fetchall()
    return [_task(row) for row in rows]


def _task(row: _TaskRow) -> Task:
    seq, name, line, status, due, place, spec, rest, result, chosen = row
    try:
        return Task(
            seq=seq,
            name=name,
            line=line,
            status=TaskStatus(status),
            options=_options.decode(spec),
            due=due,
            order=place or 0,
            result=None if result is None else _result.decode(result),
            chosen=bool(chosen),
            **msgspec.structs.asdict(_rest.decode(rest)),
        )
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(f"task {name!r} of a batch cannot be read: {error}") from error
