"""Attempts and cells of a batch in the store: how many passed, and which were chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cms.batch.model import BestOf, Task
from cms.batch.scores import COUNTED, Tally, pick
from cms.store import batch_tasks
from cms.store.database import Database

#: Tasks that are looked at in one transaction.
_PIECE: Final = 500


def tallies(db: Database, batch_id: str) -> list[Tally]:
    """How many attempts at how many tasks passed, cell by cell in the order of the file."""
    counted = ", ".join(f"'{status.value}'" for status in sorted(COUNTED))
    rows: list[tuple[str, int, int, int, int, float]] = db.execute(
        "SELECT cell, n, c, count(*), sum(m), sum(paid) FROM ("  # noqa: S608 - words of ours
        f"SELECT cell, min(seq) AS first, sum(status IN ({counted})) AS n, count(*) AS m,"
        " sum(status = 'completed') AS c, sum(coalesce(json_extract(rest, '$.cost'), 0)) AS paid"
        " FROM batch_tasks WHERE batch_id = ? GROUP BY cell, base"
        ") GROUP BY cell, n, c ORDER BY min(first)",
        (batch_id,),
    ).fetchall()
    return [Tally(*row) for row in rows]


def choose(db: Database, batch_id: str, how: BestOf, after: int = -1) -> tuple[int | None, int]:
    """Choose an attempt of each task, a piece of the batch at a time.

    Attempts at one thing stand together in the batch.

    Returns:
        What to give for `after` to go on, None at the end; and of how many tasks of this piece no attempt
        completed.
    """
    page = batch_tasks.page(db, batch_id, after, _PIECE)
    groups = list(_groups(page))
    if len(page) == _PIECE and len(groups) > 1:
        groups.pop()  # it may go on in the next piece
    without = 0
    last = after
    for group in groups:
        chosen = pick(group, how)
        without += chosen is None
        last = group[-1].seq
        db.executemany(
            "UPDATE batch_tasks SET chosen = ? WHERE batch_id = ? AND seq = ?",
            [(one is chosen, batch_id, one.seq) for one in group if one.chosen or one is chosen],
        )
    return (last if len(page) == _PIECE else None), without


def _groups(tasks: list[Task]) -> Iterator[list[Task]]:
    group: list[Task] = []
    for task in tasks:
        if group and _what(task) != _what(group[0]):
            yield group
            group = []
        group.append(task)
    if group:
        yield group


def _what(task: Task) -> tuple[str, str]:
    origin = task.options.origin
    return (task.name, "") if origin is None else (origin.task, origin.cell)
