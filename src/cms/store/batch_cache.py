"""Results of tasks that can be reused, by the key of what they rest on (`batch.reuse`)."""

from __future__ import annotations

from collections.abc import Collection

from cms.batch.model import Task, TaskStatus
from cms.store import batch_tasks
from cms.store.database import Database


def find(db: Database, key: str, statuses: Collection[TaskStatus]) -> tuple[str, Task] | None:
    """The batch and the task whose result has that key, and ended with one of the statuses."""
    marks = ", ".join("?" * len(statuses))
    row: tuple[str, int] | None = db.execute(
        "SELECT r.batch_id, r.seq FROM batch_results AS r JOIN batch_tasks AS t"  # noqa: S608 - marks of ours
        f" ON t.batch_id = r.batch_id AND t.seq = r.seq WHERE r.key = ? AND t.status IN ({marks})",
        [key, *(status.value for status in statuses)],
    ).fetchone()
    if row is None:
        return None
    task = batch_tasks.at(db, *row)
    return None if task is None or task.key != key else (row[0], task)
