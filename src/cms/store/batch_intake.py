"""Taking the tasks of a batch in: chunk by chunk, and then the check of the whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from cms.batch.graph import Graph
from cms.batch.model import BestOf, TaskOptions
from cms.session.model import LIVE
from cms.store.database import Database
from cms.store.rows import to_json
from cms.units import nearest

#: Mistakes that are told at once; the rest is counted.
_TOLD: Final = 10
#: Names that are looked through for one like a wrong one.
_LOOKED_THROUGH: Final = 20_000


class NewTask(msgspec.Struct, frozen=True):
    """A task on its way into the store."""

    seq: int
    line: int
    options: TaskOptions


def add(db: Database, batch_id: str, tasks: Sequence[NewTask]) -> list[str]:
    """Write tasks down; returns what is wrong with them, and then they are not all there."""
    faults: list[str] = []
    for task in tasks:
        name, origin = task.options.session.name, task.options.origin
        try:
            db.execute(
                "INSERT INTO batch_tasks"
                " (batch_id, seq, name, line, status, unmet, cap, spec, rest, base, cell)"
                " VALUES (?, ?, ?, ?, 'waiting', ?, ?, ?, '{}', ?, ?)",
                (
                    batch_id,
                    task.seq,
                    name,
                    task.line,
                    len(task.options.needs),
                    task.options.session.most,
                    _options_json(task.options),
                    name if origin is None else origin.task,
                    "" if origin is None else origin.cell,
                ),
            )
        except sqlite3.IntegrityError:
            first: tuple[int] | None = db.execute(
                "SELECT line FROM batch_tasks WHERE batch_id = ? AND name = ?", (batch_id, name)
            ).fetchone()
            where = f" (line {first[0]})" if first is not None else ""
            faults.append(f"line {task.line}: there is already a task {name!r}{where}")
            continue
        db.executemany(
            "INSERT INTO batch_needs (batch_id, seq, need_name) VALUES (?, ?, ?)",
            [(batch_id, task.seq, need) for need in task.options.needs],
        )
    return faults


def _options_json(options: TaskOptions) -> str:
    """Without what is empty of the session's options: of a million tasks that is most."""
    whole = msgspec.to_builtins(options)
    session = whole["session"]
    session["limits"] = {key: value for key, value in session["limits"].items() if value is not None}
    for field in ("row", "origin"):
        if whole[field] is None:
            del whole[field]
    whole["session"] = {key: value for key, value in session.items() if value not in ("", (), [], None)}
    return to_json(whole)


def check(db: Database, batch_id: str, *, fresh: bool = False) -> list[str]:
    """What is wrong with the tasks as a whole; when nothing is, who needs whom is settled.

    Args:
        fresh: sessions that have the tasks' names are no mistake, unless they are alive.
    """
    db.execute(
        "UPDATE batch_needs SET need = (SELECT seq FROM batch_tasks AS t"
        " WHERE t.batch_id = batch_needs.batch_id AND t.name = need_name) WHERE batch_id = ?",
        (batch_id,),
    )
    unknown = list(_unknown(db, batch_id))
    return [*(unknown or _ring(db, batch_id)), *_taken(db, batch_id, fresh=fresh)]


def _unknown(db: Database, batch_id: str) -> Iterator[str]:
    rows: list[tuple[str, str, int]] = db.execute(
        "SELECT n.need_name, t.name, t.line FROM batch_needs AS n JOIN batch_tasks AS t"
        " ON t.batch_id = n.batch_id AND t.seq = n.seq"
        " WHERE n.batch_id = ? AND n.need IS NULL ORDER BY t.line LIMIT ?",
        (batch_id, _TOLD),
    ).fetchall()
    if not rows:
        return
    names: list[str] = [
        row[0]
        for row in db.execute(
            "SELECT name FROM batch_tasks WHERE batch_id = ? LIMIT ?", (batch_id, _LOOKED_THROUGH)
        )
    ]
    for need, name, line in rows:
        near = nearest(need, (one for one in names if one != name))
        meant = f"; did you mean {near!r}?" if near else ""
        yield f"line {line}: task {name!r} needs {need!r}, which is not a task of this batch{meant}"


def _taken(db: Database, batch_id: str, *, fresh: bool) -> Iterator[str]:
    alive = ", ".join(f"'{status}'" for status in sorted(LIVE))
    only = f" AND s.status IN ({alive})" if fresh else ""
    rows: list[tuple[str, int]] = db.execute(
        "SELECT t.name, t.line FROM batch_tasks AS t JOIN sessions AS s ON s.name = t.name"  # noqa: S608
        f" WHERE t.batch_id = ?{only} ORDER BY t.line LIMIT ?",
        (batch_id, _TOLD),
    ).fetchall()
    advice = "stop it first" if fresh else "choose another name, or use --fresh"
    for name, line in rows:
        what = "a live session" if fresh else "a session"
        yield f"line {line}: there is {what} {name!r} already; {advice}"


def _ring(db: Database, batch_id: str) -> list[str]:
    count: int = db.execute(
        "SELECT coalesce(max(seq) + 1, 0) FROM batch_tasks WHERE batch_id = ?", (batch_id,)
    ).fetchone()[0]
    ring = graph(db, batch_id, count).cycle()
    if not ring:
        return []
    words = []
    line = 0
    for seq in ring[:_TOLD]:
        name, at = db.execute(
            "SELECT name, line FROM batch_tasks WHERE batch_id = ? AND seq = ?", (batch_id, seq)
        ).fetchone()
        words.append(f"{name!r} (line {at})")
        line = line or at
    words.append(words[0] if len(ring) <= _TOLD else f"{len(ring) - _TOLD} more")
    return [f"line {line}: tasks need each other in a circle: {' needs '.join(words)}"]


def graph(db: Database, batch_id: str, count: int) -> Graph:
    """Who needs whom among so many tasks."""
    edges: Iterator[tuple[int, int]] = db.execute(
        "SELECT seq, need FROM batch_needs WHERE batch_id = ? AND need IS NOT NULL", (batch_id,)
    )
    return Graph(count, edges)


def caps(db: Database, batch_id: str) -> tuple[int, float | None, float | None]:
    """How many tasks, the sum of their caps (None if one has none), and the largest."""
    count, without, total, largest = db.execute(
        "SELECT count(*), count(*) - count(cap), sum(cap), max(cap) FROM batch_tasks WHERE batch_id = ?",
        (batch_id,),
    ).fetchone()
    return count, None if without else float(total or 0.0), None if without else largest


def unchecked(db: Database, batch_id: str, how: BestOf) -> list[str]:
    """What is wrong where attempts are chosen by their checks or their judge, and a task has none."""
    if how == "vote":
        return []
    row: tuple[str, int, int] | None = db.execute(
        "SELECT name, line, count(*) FROM batch_tasks"
        " WHERE batch_id = ? AND json_extract(spec, ?) IS NULL HAVING count(*)",
        (batch_id, f"$.session.{how}"),
    ).fetchone()
    if row is None:
        return []
    more = f", and neither have {row[2] - 1} more" if row[2] > 1 else ""
    return [f"line {row[1]}: --best-of {how} chooses by --{how}, and task {row[0]!r} has none{more}"]


def shares_folders(db: Database, batch_id: str) -> bool:
    """Whether several attempts at one thing, or cells of it, may edit one folder."""
    row: tuple[int] | None = db.execute(
        "SELECT 1 FROM batch_tasks WHERE batch_id = ?"
        " AND json_extract(spec, '$.session.preset') NOT IN ('read-only', 'review', 'plan')"
        " AND coalesce(json_extract(spec, '$.session.isolate'), 'no') = 'no'"
        " AND json_extract(spec, '$.origin') IS NOT NULL"
        " GROUP BY base, json_extract(spec, '$.session.workDir') HAVING count(*) > 1 LIMIT 1",
        (batch_id,),
    ).fetchone()
    return row is not None


def applied_twice(db: Database, batch_id: str) -> list[str]:
    """What is wrong where the changes of several attempts at one thing would each be applied."""
    row: tuple[str, int] | None = db.execute(
        "SELECT base, min(line) FROM batch_tasks WHERE batch_id = ?"
        " AND json_extract(spec, '$.session.apply') IS NOT NULL"
        " GROUP BY base, json_extract(spec, '$.session.workDir') HAVING count(*) > 1 LIMIT 1",
        (batch_id,),
    ).fetchone()
    if row is None:
        return []
    what = f"--apply on-pass would apply every attempt at {row[0]!r}, one on top of the other"
    return [f"line {row[1]}: {what}; leave it out and choose one with `cms apply`"]
