"""What a person changes in a batch that is there already: its limits, what waits, what can be run again.

Each is one transaction, and a line in the batch's audit log (`cms audit ID`): who looks back sees why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from cms.batch.model import ERRORED, OVER, BatchOptions, BatchRecord, BatchStatus, Task, TaskStatus
from cms.errors import UsageError
from cms.session.audit import AuditEntry
from cms.store import audit, batch_tasks, batches
from cms.store.database import Database

#: Options of tasks that can be changed while they wait: field, and where it stands in what is stored.
CHANGEABLE: Final[Mapping[str, str]] = {
    "model": "$.session.model",
    "effort": "$.session.effort",
    "fallback_model": "$.session.fallbackModel",
    "max_cost": "$.session.limits.maxCost",
    "max_turns": "$.session.limits.maxTurns",
    "max_time": "$.session.limits.maxTime",
}
#: US dollars that a task's judge may spend (`SessionOptions.most`).
JUDGE: Final = (
    "iif(json_extract(spec, '$.session.judge') IS NULL, 0, json_extract(spec, '$.session.judgeMaxCost'))"
)
#: What is done again: everything that was tried and did not complete, or only what ended in error.
FAILED: Final = ERRORED | {TaskStatus.VERIFICATION_FAILED}


class Requeued(msgspec.Struct, frozen=True):
    """So many tasks wait again; of those so many had ended in error."""

    tasks: int
    errors: int


class Withdrawn(msgspec.Struct, frozen=True):
    """What became of tasks that nobody wants any more.

    Attributes:
        waiting: those that waited, which are cancelled now.
        running: those that run, and are still to be ended.
        skipped: how many others needed the first ones.
    """

    waiting: tuple[int, ...]
    running: tuple[int, ...]
    skipped: int


def alter(
    db: Database,
    batch_id: str,
    options: BatchOptions,
    tasks: Mapping[str, str | float],
    reason: str,
    now: float,
) -> int:
    """Other limits for the batch, and other options for the tasks that are still to be begun.

    Args:
        options: of the batch, all of them.
        tasks: values by their fields (`CHANGEABLE`).

    Returns:
        How many tasks have other options now. Those that go on in their conversation keep theirs.
    """
    batch = batches.find(db, batch_id)
    batches.save(db, msgspec.structs.replace(batch, options=options))
    unbegun = "status = 'waiting' AND coalesce(json_extract(rest, '$.goOn'), 0) = 0"
    changed = _respecify(db, batch_id, tasks, unbegun)
    note(db, batch, "set", ", ".join([*_differences(batch.options, options), *_said(tasks)]), reason, now)
    return changed


def _respecify(db: Database, batch_id: str, options: Mapping[str, str | float], which: str) -> int:
    """Give tasks other options; how many there were."""
    if not options:
        return 0
    sets = ", ".join("?, ?" for _ in options)
    values = [part for field, value in options.items() for part in (CHANGEABLE[field], value)]
    cap = f", cap = ? + {JUDGE}" if "max_cost" in options else ""
    return db.execute(
        f"UPDATE batch_tasks SET spec = json_set(spec, {sets}){cap} WHERE batch_id = ? AND {which}",  # noqa: S608
        [*values, *([options["max_cost"]] if cap else []), batch_id],
    ).rowcount


def _said(options: Mapping[str, str | float]) -> list[str]:
    return [f"{field} of tasks: {value}" for field, value in options.items()]


def _differences(before: BatchOptions, after: BatchOptions) -> list[str]:
    return [
        f"{field}: {new}"
        for field in BatchOptions.__struct_fields__
        if (new := getattr(after, field)) != getattr(before, field)
    ]


def requeue(
    db: Database,
    batch_id: str,
    names: Sequence[str],
    statuses: Collection[TaskStatus],
    reason: str,
    now: float,
    *,
    at_rest: bool,
    options: Mapping[str, str | float],
) -> tuple[BatchRecord, Requeued]:
    """Tasks that are over wait again, as if they had never been tried, and with them whom they let down.

    Args:
        names: which; none: all that ended with one of `statuses`.
        at_rest: nobody is at work on the batch: sign it, too.
        options: other values for these tasks by their fields (`CHANGEABLE`); those let down keep theirs.

    Raises:
        UsageError: there is none, or one cannot be.
    """
    batch = batches.find(db, batch_id)
    if at_rest:
        batch = batches.claim(db, batch_id, frozenset(BatchStatus) - {BatchStatus.LOADING})
    tasks = batch_tasks.of_names(db, batch_id, names) if names else []
    for task in tasks:
        if task.status not in OVER:
            raise UsageError(f"task {task.name!r} is {task.status.value}: it has not ended")
        if task.status is TaskStatus.COMPLETED:
            raise UsageError(
                f"task {task.name!r} has completed", hint="`cms continue` continues its conversation"
            )
    if names:
        marks = ", ".join(str(task.seq) for task in tasks)
        which, errors = f"seq IN ({marks})", sum(task.status in ERRORED for task in tasks)
    else:
        marks = ", ".join(f"'{status.value}'" for status in sorted(statuses))
        which = f"status IN ({marks})"
        errors = sum(count for status, count in batch.counts.items() if status in ERRORED & set(statuses))
    _respecify(db, batch_id, options, which)
    count = _back(db, batch_id, which)
    if not count:
        raise UsageError(
            f"no task of batch {batch_id!r} can be run again", hint=f"`cms batch show {batch_id}` lists them"
        )
    fine = (
        "status = 'skipped' AND NOT EXISTS (SELECT 1 FROM batch_needs AS n JOIN batch_tasks AS t"
        " ON t.batch_id = n.batch_id AND t.seq = n.need WHERE n.batch_id = batch_tasks.batch_id"
        " AND n.seq = batch_tasks.seq AND t.status NOT IN ('completed', 'waiting', 'running'))"
    )
    while more := _back(db, batch_id, fine):
        count += more
    _count_needs(db, batch_id)
    _check_needs(db, batch_id, tasks)
    what = " ".join(names) or f"all that are {marks}"
    note(db, batch, "requeue", ", ".join([what, *_said(options)]), reason, now)
    return batch, Requeued(count, errors)


def _back(db: Database, batch_id: str, which: str) -> int:
    """Put tasks back to where they waited. What they cost stays, and how often they were tried."""
    return db.execute(
        "UPDATE batch_tasks SET status = 'waiting', due = 0, place = NULL, result = NULL, chosen = 0,"  # noqa: S608
        f" cap = json_extract(spec, '$.session.limits.maxCost') + {JUDGE}, rest = json_set(json_remove("
        "rest, '$.failures', '$.storms', '$.goOn', '$.ended', '$.reason', '$.paid', '$.paidTokens',"
        " '$.key', '$.around', '$.reused'),"
        f" '$.requeued', json('true')) WHERE batch_id = ? AND {which}",
        (batch_id,),
    ).rowcount


def _count_needs(db: Database, batch_id: str) -> None:
    db.execute(
        "UPDATE batch_tasks SET unmet = (SELECT count(*) FROM batch_needs AS n JOIN batch_tasks AS t"
        " ON t.batch_id = n.batch_id AND t.seq = n.need WHERE n.batch_id = batch_tasks.batch_id"
        " AND n.seq = batch_tasks.seq AND t.status <> 'completed')"
        " WHERE batch_id = ? AND status = 'waiting' AND seq IN"
        " (SELECT seq FROM batch_needs WHERE batch_id = ?)",
        (batch_id, batch_id),
    )


def _check_needs(db: Database, batch_id: str, tasks: Sequence[Task]) -> None:
    """None that was named waits for what will never be."""
    for task in tasks:
        row: tuple[str, str] | None = db.execute(
            "SELECT t.name, t.status FROM batch_needs AS n JOIN batch_tasks AS t"
            " ON t.batch_id = n.batch_id AND t.seq = n.need WHERE n.batch_id = ? AND n.seq = ?"
            " AND t.status NOT IN ('completed', 'waiting', 'running') LIMIT 1",
            (batch_id, task.seq),
        ).fetchone()
        if row is not None:
            raise UsageError(
                f"task {task.name!r} needs {row[0]!r}, which ended {row[1]}", hint="name that task too"
            )


def withdraw(db: Database, batch_id: str, names: Sequence[str], reason: str, now: float) -> Withdrawn:
    """Tasks that wait are cancelled, and who needs them is skipped.

    Raises:
        UsageError: there is no such task, or it is over.
    """
    batch = batches.find(db, batch_id)
    waiting: list[int] = []
    running: list[int] = []
    skipped = 0
    for task in batch_tasks.of_names(db, batch_id, names):
        if task.status in OVER:
            raise UsageError(f"task {task.name!r} is {task.status.value} already")
        if task.status is TaskStatus.RUNNING:
            running.append(task.seq)
            continue
        skipped += batch_tasks.cancel_one(db, batch_id, task, reason or "cancelled by a person", now)
        waiting.append(task.seq)
    note(db, batch, "cancel", " ".join(names), reason, now)
    return Withdrawn(tuple(waiting), tuple(running), skipped)


def note(db: Database, batch: BatchRecord, what: str, detail: str, reason: str, now: float) -> None:
    """A line of the batch's audit log."""
    entry = AuditEntry(batch.id, "", now, "", detail, what, reason, batch.spent, "batch")
    audit.add(db, [entry])
