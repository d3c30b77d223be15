"""What became of a batch, for people: what a report shows, and the report as Markdown.

(`page` has it as HTML.) The totals, a time line of every session, cost by task and by model, and each failure
with its reason. Everything that an agent or a file wrote is escaped. At most `ROWS` tasks are shown, in HTML
`PAGE_ROWS`; those that did not complete first, and how many are left out is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Final

import msgspec

from cms.batch.model import BatchOptions, BatchRecord, TaskStatus, TaskView
from cms.batch.scores import CellScore, Rate
from cms.units import clock, money, plural, span

ROWS: Final = 1000
PAGE_ROWS: Final = 10_000
_BAD: Final = frozenset(TaskStatus) - {TaskStatus.COMPLETED, TaskStatus.WAITING, TaskStatus.RUNNING}

_ICONS: Final[dict[TaskStatus, str]] = {
    TaskStatus.COMPLETED: "✓",
    TaskStatus.WAITING: "○",
    TaskStatus.RUNNING: "⟳",
    TaskStatus.SKIPPED: "↷",
    TaskStatus.CANCELLED: "⊘",
    TaskStatus.NEEDS_INPUT: "?",
    TaskStatus.INTERRUPTED: "⊘",
    TaskStatus.LOST: "⊘",
    TaskStatus.RATE_LIMITED: "%",
}
_FAILED: Final = "✗"
#: Characters of an answer that a report shows.
_EXCERPT: Final = 300


class Gathered(msgspec.Struct, frozen=True):
    """What a report needs of all tasks: bounded, whatever their number."""

    shown: tuple[TaskView, ...] = ()
    places: tuple[int, ...] = ()  # of those, among all, from 0
    left_out: int = 0
    by_model: dict[str, float] = {}
    by_cost: tuple[TaskView, ...] = ()  # the dearest
    first: float | None = None
    last: float | None = None
    scores: tuple[CellScore, ...] = ()


class Gathering:
    """Picks what is shown, a page of tasks at a time. The order of the tasks is kept."""

    def __init__(self, most: int = ROWS) -> None:
        self._most = most
        self._good: list[tuple[int, TaskView]] = []
        self._bad: list[tuple[int, TaskView]] = []
        self._dear: list[TaskView] = []
        self._total = 0
        self._first: float | None = None
        self._last: float | None = None

    def add(self, tasks: Iterable[TaskView]) -> None:
        """The next tasks."""
        for task in tasks:
            self._total += 1
            bucket = self._bad if task.status in _BAD else self._good
            short = msgspec.structs.replace(task, response=task.response[:_EXCERPT])
            if len(bucket) < self._most:
                bucket.append((self._total - 1, short))
            self._dear.append(short)
            if len(self._dear) > 2 * self._most:
                self._dear = _dearest(self._dear)
            if task.started is not None:
                end = task.ended or task.started
                self._first = task.started if self._first is None else min(self._first, task.started)
                self._last = end if self._last is None else max(self._last, end)

    def found(
        self, cost_by_model: Iterable[tuple[str, float]], scores: tuple[CellScore, ...] = ()
    ) -> Gathered:
        """What all of them came to."""
        kept = sorted([*self._bad, *self._good[: self._most - len(self._bad)]], key=lambda pair: pair[0])
        return Gathered(
            tuple(task for _, task in kept),
            tuple(place for place, _ in kept),
            self._total - len(kept),
            dict(cost_by_model),
            tuple(_dearest(self._dear)),
            self._first,
            self._last,
            scores,
        )


def _dearest(tasks: Sequence[TaskView]) -> list[TaskView]:
    return sorted((task for task in tasks if task.cost), key=lambda task: -task.cost)[:20]


def _by_cost(costs: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(costs.items(), key=lambda pair: -pair[1])


def score_rows(scores: Sequence[CellScore]) -> tuple[list[str], list[list[str]]]:
    """Pass rates, cell by cell: the heads of a table and its rows. The first column is the cell's."""
    ks = sorted({rate.k for score in scores for rate in score.rates})
    heads = ["cell", "tasks", "passed", *(f"pass@{k} (95 %)" for k in ks), "cost"]
    rows = []
    for score in scores:
        by_k = {rate.k: rate for rate in score.rates}
        rows.append(
            [
                score.cell or "all",
                str(score.tasks),
                f"{score.passed} of {score.counted}",
                *(rate_words(by_k[k]) if k in by_k else "" for k in ks),
                money(score.cost),
            ]
        )
    return heads, rows


def rate_words(rate: Rate) -> str:
    """`0.712 (0.658-0.760)`."""
    return f"{rate.rate:.3f} ({rate.low:.3f}-{rate.high:.3f})"


def _change(task: TaskView) -> str:
    """What an isolated task, or one with a checkout at its node, has changed, and what became of it."""
    if task.patch or task.branch:
        told = (("patch", task.patch), ("branch", task.branch))
        return ", ".join(f"{what}: {where}" for what, where in told if where)
    change = task.change
    if change is None or (change.empty and not change.note):
        return ""
    commits = f", {plural(change.commits, 'commit')}" if change.commits else ""
    note = f": {change.note}" if change.note else ""
    return f"{plural(change.files, 'file')}, +{change.added} -{change.removed}{commits}, {change.state}{note}"


def table_words(options: BatchOptions) -> str:
    """`rows.csv, shuffled by 7, at most 100; 2 attempts; model=opus,haiku`; "" for tasks as they are."""
    rows = [
        options.data,
        *(f"where {one}" for one in options.filter),
        f"shuffled by {options.shuffle}" if options.shuffle is not None else "",
        f"from {options.slice}" if options.slice else "",
        f"at most {options.limit}" if options.limit is not None else "",
    ]
    chosen = f", the best by {options.best_of}" if options.best_of else ""
    parts = [
        ", ".join(part for part in rows if part),
        f"{options.attempts} attempts{chosen}" if options.attempts > 1 else "",
        *(f"{axis.key}={','.join(axis.labels)}" for axis in options.matrix),
    ]
    return "; ".join(part for part in parts if part)


def _facts(batch: BatchRecord, zone: tzinfo | None) -> list[tuple[str, str]]:
    options = batch.options
    took = "" if batch.started is None or batch.ended is None else span(batch.ended - batch.started)
    cap = f" of {money(options.max_cost)}" if options.max_cost is not None else ""
    counts = ", ".join(f"{count} {status.value}" for status, count in sorted(batch.counts.items()) if count)
    facts = [
        ("status", batch.status.value + (f" ({batch.reason})" if batch.reason else "")),
        ("tasks", f"{batch.total}: {counts}"),
        ("cost", money(batch.spent, exact=batch.exact) + cap),
        ("reused", f"{plural(batch.reused, 'result')} from earlier batches" if batch.reused else ""),
        ("started", "" if batch.started is None else clock(batch.started, zone)),
        ("ended", "" if batch.ended is None else clock(batch.ended, zone)),
        ("took", took),
        ("file", options.source),
        ("table", table_words(options)),
        ("work dir", options.work_dir),
    ]
    return [(label, value) for label, value in facts if value]


# --- Markdown -------------------------------------------------------------------------------------


def _md(text: str, most: int = 300) -> str:
    """Text as it may stand in a cell: on one line, and nothing in it means anything to Markdown."""
    line = " ".join(text.split())
    line = line if len(line) <= most else line[:most] + "…"
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]|~" else letter for letter in line)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _where(task: TaskView) -> str:
    """Where it was done, if elsewhere."""
    return f" on {_md(f'{task.node} ({task.host})')}" if task.node else ""


def _bar(task: TaskView, first: float, last: float, width: int = 40) -> str:
    if task.started is None or last <= first:
        return ""
    scale = width / (last - first)
    begin = min(width - 1, int((task.started - first) * scale))
    end = max(begin + 1, min(width, round(((task.ended or last) - first) * scale)))
    return "·" * begin + "█" * (end - begin) + "·" * (width - end)


def markdown(batch: BatchRecord, found: Gathered, zone: tzinfo | None = None) -> str:
    """The report as Markdown."""
    lines = [f"# Batch {_md(batch.id)}", ""]
    lines += [f"- **{label}**: {_md(value)}" for label, value in _facts(batch, zone)]
    if found.scores:
        heads, rows = score_rows(found.scores)
        rule = "| --- " + "| ---: " * (len(heads) - 1) + "|"
        lines += ["", "## Pass rates", "", f"| {' | '.join(heads)} |", rule]
        lines += [f"| {' | '.join(_md(word) for word in row)} |" for row in rows]
    failures = [task for task in found.shown if task.status in _BAD]
    if failures:
        lines += ["", "## What did not complete", "", "| task | status | reason |", "| --- | --- | --- |"]
        lines += [
            f"| {_md(task.name)} | {task.status.value} | {_md(task.error or '; '.join(task.reasons))} |"
            for task in failures
        ]
    if left := [task for task in found.shown if task.response or _change(task)]:
        lines += ["", "## Changes and answers", "", "| task | change | answer |", "| --- | --- | --- |"]
        lines += [
            f"| {_md(task.name)} | {_md(_change(task))} | {_md(task.response, _EXCERPT)} |" for task in left
        ]
    if found.by_model:
        lines += ["", "## Cost by model", "", "| model | cost |", "| --- | ---: |"]
        lines += [f"| {_md(model)} | {money(cost)} |" for model, cost in _by_cost(found.by_model)]
    if found.by_cost:
        lines += ["", "## Most expensive tasks", "", "| task | cost | turns |", "| --- | ---: | ---: |"]
        lines += [
            f"| {_md(task.name)} | {money(task.cost, exact=task.cost_exact)} | {task.turns} |"
            for task in found.by_cost
        ]
    lines += [
        "",
        "## Timeline",
        "",
        "| task | status | cost | took | |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    first, last = found.first or 0.0, found.last or 0.0
    for task in found.shown:
        icon = _ICONS.get(task.status, _FAILED)
        bar = _bar(task, first, last)
        lines.append(
            f"| {_md(task.name)} | {icon} {task.status.value}{_where(task)} "
            f"| {money(task.cost, exact=task.cost_exact)} | "
            f"{span(task.duration / 1000)} | {f'`{bar}`' if bar else ''} |"
        )
    if found.left_out:
        lines += ["", f"{found.left_out} more tasks are not shown."]
    return "\n".join(lines) + "\n"


def is_report(beginning: bytes) -> bool:
    """Whether a file that begins like that is a report of a batch, or empty."""
    page = beginning.startswith(b"<!doctype html>") and b"<title>Batch " in beginning
    return page or beginning.startswith(b"# Batch ") or not beginning
