"""What became of a batch, for people: Markdown, or one HTML page that needs nothing else.

Both show the totals, a time line of every session, cost by task and by model, and each failure with its
reason. Everything that an agent or a file wrote is escaped. A page draws at most `ROWS` tasks (those that did
not complete first) and says how many it leaves out: a browser is no place for a million rows.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Final

import msgspec

from cms.batch.model import BatchOptions, BatchRecord, TaskStatus, TaskView
from cms.batch.scores import CellScore, Rate

ROWS: Final = 1000
_BAD: Final = frozenset(TaskStatus) - {TaskStatus.COMPLETED, TaskStatus.WAITING, TaskStatus.RUNNING}

#: status: (icon, colour on paper).
_LOOKS: Final[dict[TaskStatus, tuple[str, str]]] = {
    TaskStatus.COMPLETED: ("✓", "#2e7d4f"),
    TaskStatus.WAITING: ("○", "#8a8f98"),
    TaskStatus.RUNNING: ("⟳", "#2f6fb5"),
    TaskStatus.SKIPPED: ("↷", "#8a8f98"),
    TaskStatus.CANCELLED: ("⊘", "#8a8f98"),
    TaskStatus.NEEDS_INPUT: ("?", "#b7791f"),
    TaskStatus.INTERRUPTED: ("⊘", "#b7791f"),
    TaskStatus.LOST: ("⊘", "#c53030"),
    TaskStatus.RATE_LIMITED: ("%", "#b7791f"),
}
_FAILED: Final = ("✗", "#b3362b")


#: Characters of an answer that a report shows.
_EXCERPT: Final = 300


def look(status: TaskStatus) -> tuple[str, str]:
    """A status's icon and its colour."""
    return _LOOKS.get(status, _FAILED)


class Gathered(msgspec.Struct, frozen=True):
    """What a report needs of all tasks: bounded by `ROWS`, whatever their number."""

    shown: tuple[TaskView, ...] = ()
    left_out: int = 0
    by_model: dict[str, float] = {}
    by_cost: tuple[TaskView, ...] = ()  # the dearest
    first: float | None = None
    last: float | None = None
    scores: tuple[CellScore, ...] = ()


class Gathering:
    """Picks what is shown, a page of tasks at a time. The order of the tasks is kept."""

    def __init__(self) -> None:
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
            if len(bucket) < ROWS:
                bucket.append((self._total, short))
            self._dear.append(short)
            if len(self._dear) > 2 * ROWS:
                self._dear = _dearest(self._dear)
            if task.started is not None:
                end = task.ended or task.started
                self._first = task.started if self._first is None else min(self._first, task.started)
                self._last = end if self._last is None else max(self._last, end)

    def found(
        self, cost_by_model: Iterable[tuple[str, float]], scores: tuple[CellScore, ...] = ()
    ) -> Gathered:
        """What all of them came to."""
        kept = sorted([*self._bad, *self._good[: ROWS - len(self._bad)]], key=lambda pair: pair[0])
        return Gathered(
            tuple(task for _, task in kept),
            self._total - len(kept),
            dict(cost_by_model),
            tuple(_dearest(self._dear)),
            self._first,
            self._last,
            scores,
        )


def _dearest(tasks: Sequence[TaskView], most: int = 20) -> list[TaskView]:
    return sorted((task for task in tasks if task.cost), key=lambda task: -task.cost)[:most]


def _by_cost(costs: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(costs.items(), key=lambda pair: -pair[1])


def _money(usd: float, *, exact: bool = True) -> str:
    return f"${usd:.4f}" if exact else f">=${usd:.4f}"


def span(seconds: float) -> str:
    """`45.2s`, `12m 05s`, `3h 07m`, `2d 04h`."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def score_rows(scores: Sequence[CellScore]) -> tuple[list[str], list[list[str]]]:
    """What passed, cell by cell: the heads of a table and its rows. The first column is the cell's."""
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
                _money(score.cost),
            ]
        )
    return heads, rows


def rate_words(rate: Rate) -> str:
    """`0.712 (0.658-0.760)`."""
    return f"{rate.rate:.3f} ({rate.low:.3f}-{rate.high:.3f})"


def _change(task: TaskView) -> str:
    """What an isolated task, or one with a checkout at its node, has changed, and what became of it."""
    if task.patch:
        return f"patch: {task.patch}"
    change = task.change
    if change is None or (change.empty and not change.note):
        return ""
    commits = f", {change.commits} commits" if change.commits else ""
    note = f": {change.note}" if change.note else ""
    return f"{change.files} files, +{change.added} -{change.removed}{commits}, {change.state}{note}"


def _clock(at: float | None, zone: tzinfo | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M:%S")


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
    cap = f" of {_money(options.max_cost)}" if options.max_cost is not None else ""
    counts = ", ".join(f"{count} {status.value}" for status, count in sorted(batch.counts.items()) if count)
    facts = [
        ("status", batch.status.value + (f" ({batch.reason})" if batch.reason else "")),
        ("tasks", f"{batch.total}: {counts}"),
        ("cost", _money(batch.spent, exact=batch.exact) + cap),
        ("reused", f"{batch.reused} results of earlier batches" if batch.reused else ""),
        ("started", _clock(batch.started, zone)),
        ("ended", _clock(batch.ended, zone)),
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


def _where(task: TaskView, escape: Callable[[str], str]) -> str:
    """Where it was done, if elsewhere."""
    return f" on {escape(f'{task.node} ({task.host})')}" if task.node else ""


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
        lines += ["", "## What passed", "", f"| {' | '.join(heads)} |", rule]
        lines += [f"| {' | '.join(_md(word) for word in row)} |" for row in rows]
    failures = [task for task in found.shown if task.status in _BAD]
    if failures:
        lines += ["", "## What did not complete", "", "| task | status | reason |", "| --- | --- | --- |"]
        lines += [
            f"| {_md(task.name)} | {task.status.value} | {_md(task.error or '; '.join(task.reasons))} |"
            for task in failures
        ]
    if left := [task for task in found.shown if task.response or _change(task)]:
        lines += ["", "## What they left", "", "| task | change | answer |", "| --- | --- | --- |"]
        lines += [
            f"| {_md(task.name)} | {_md(_change(task))} | {_md(task.response, _EXCERPT)} |" for task in left
        ]
    if found.by_model:
        lines += ["", "## Cost by model", "", "| model | cost |", "| --- | ---: |"]
        lines += [f"| {_md(model)} | {_money(cost)} |" for model, cost in _by_cost(found.by_model)]
    if found.by_cost:
        lines += ["", "## Dearest tasks", "", "| task | cost | turns |", "| --- | ---: | ---: |"]
        lines += [
            f"| {_md(task.name)} | {_money(task.cost, exact=task.cost_exact)} | {task.turns} |"
            for task in found.by_cost
        ]
    lines += [
        "",
        "## Time line",
        "",
        "| task | status | cost | took | |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    first, last = found.first or 0.0, found.last or 0.0
    for task in found.shown:
        icon, _ = look(task.status)
        bar = _bar(task, first, last)
        lines.append(
            f"| {_md(task.name)} | {icon} {task.status.value}{_where(task, _md)} "
            f"| {_money(task.cost, exact=task.cost_exact)} | "
            f"{span(task.duration / 1000)} | {f'`{bar}`' if bar else ''} |"
        )
    if found.left_out:
        lines += ["", f"{found.left_out} more tasks are not shown here."]
    return "\n".join(lines) + "\n"


# --- HTML -----------------------------------------------------------------------------------------

_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2024;--dim:#60656d;--line:#e1e4e8;--paper:#fff;--soft:#f6f7f9}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--dim:#9aa0a8;--line:#33383f;--paper:#16181b;--soft:#1f2226}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1100px;padding:32px 24px 64px;background:var(--paper);
color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 10px}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:12px 0}
.facts dt{color:var(--dim)}.facts dd{margin:0;overflow-wrap:anywhere}
.share{display:flex;height:12px;border-radius:6px;overflow:hidden;margin:16px 0 6px;background:var(--soft)}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;color:var(--dim);font-size:13px}
.dot{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:6px}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--dim);font-weight:500}th,td{padding:5px 12px 5px 0;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td.n,th.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.lane{position:relative;height:14px;background:var(--soft);border-radius:3px}
.lane i{position:absolute;top:0;bottom:0;border-radius:3px;min-width:2px}
.axis{display:flex;justify-content:space-between;color:var(--dim);font-size:12px}
td.lanes{width:45%}.bar{height:12px;border-radius:3px;background:#2f6fb5;min-width:2px}td.bars{width:45%}
"""


def _e(text: str) -> str:
    return html.escape(text, quote=True)


def _rows(rows: Iterable[str]) -> str:
    return "\n".join(f"<tr>{row}</tr>" for row in rows)


def _number(place: int) -> str:
    return ' class="n"' if place else ""


def _share(batch: BatchRecord) -> str:
    parts, key = [], []
    for status in TaskStatus:
        count = batch.counts.get(status, 0)
        if count:
            _, colour = look(status)
            parts.append(f'<div style="flex:{count};background:{colour}"></div>')
            key.append(f'<span><span class="dot" style="background:{colour}"></span>{count} {status}</span>')
    return f'<div class="share">{"".join(parts)}</div>\n<div class="key">{"".join(key)}</div>'


def _lane(task: TaskView, first: float, last: float) -> str:
    if task.started is None or last <= first:
        return '<div class="lane"></div>'
    _, colour = look(task.status)
    left = 100 * (task.started - first) / (last - first)
    width = 100 * ((task.ended or last) - task.started) / (last - first)
    title = f"{task.name}: {span((task.ended or last) - task.started)}"
    return (
        f'<div class="lane" title="{_e(title)}">'
        f'<i style="left:{left:.2f}%;width:{width:.2f}%;background:{colour}"></i></div>'
    )


def is_report(beginning: bytes) -> bool:
    """Whether a file that begins like that is a report of a batch, or empty."""
    page = beginning.startswith(b"<!doctype html>") and b"<title>Batch " in beginning
    return page or beginning.startswith(b"# Batch ") or not beginning


def page(batch: BatchRecord, found: Gathered, zone: tzinfo | None = None) -> str:
    """The report as one self-contained HTML page: no scripts, nothing loaded from anywhere."""
    facts = "".join(f"<dt>{_e(label)}</dt><dd>{_e(value)}</dd>" for label, value in _facts(batch, zone))
    parts = [f"<h1>Batch {_e(batch.id)}</h1>", _share(batch), f'<dl class="facts">{facts}</dl>']
    if found.scores:
        heads, cells = score_rows(found.scores)
        table = _rows(
            "".join(f"<{tag}{_number(place)}>{_e(word)}</{tag}>" for place, word in enumerate(row))
            for tag, row in (("th", heads), *(("td", row) for row in cells))
        )
        parts.append(f"<h2>What passed</h2><table>{table}</table>")
    failures = [task for task in found.shown if task.status in _BAD]
    if failures:
        rows = _rows(
            f'<td>{_e(task.name)}</td><td style="color:{look(task.status)[1]};white-space:nowrap">'
            f"{look(task.status)[0]} {task.status}</td>"
            f"<td>{_e((task.error or '; '.join(task.reasons))[:1000])}</td>"
            for task in failures
        )
        parts.append(
            "<h2>What did not complete</h2><table><tr><th>task</th><th>status</th><th>reason</th></tr>"
            f"{rows}</table>"
        )
    first, last = found.first or 0.0, found.last or 0.0
    rows = _rows(
        f'<td>{_e(task.name)}</td><td style="color:{look(task.status)[1]};white-space:nowrap">'
        f"{look(task.status)[0]} {task.status}{_where(task, _e)}</td>"
        f'<td class="lanes">{_lane(task, first, last)}</td>'
        f'<td class="n">{_money(task.cost, exact=task.cost_exact)}</td>'
        f'<td class="n">{task.turns}</td><td class="n">{task.tries}</td>'
        for task in found.shown
    )
    began = _clock(first or None, zone)
    axis = f'<div class="axis"><span>{began}</span><span>{span(last - first)}</span></div>'
    parts.append(
        f"<h2>Time line</h2><table><tr><th>task</th><th>status</th><th>{axis}</th>"
        f'<th class="n">cost</th><th class="n">turns</th><th class="n">tries</th></tr>{rows}</table>'
    )
    if left := [task for task in found.shown if task.response or _change(task)]:
        rows = _rows(
            f"<td>{_e(task.name)}</td><td>{_e(_change(task))}</td><td>{_e(task.response)}</td>"
            for task in left
        )
        head = "<tr><th>task</th><th>change</th><th>answer</th></tr>"
        parts.append(f"<h2>What they left</h2><table>{head}{rows}</table>")
    if found.left_out:
        parts.append(f"<p>{found.left_out} more tasks are not shown here.</p>")
    for title, costs in (
        ("Cost by model", _by_cost(found.by_model)),
        ("Dearest tasks", [(task.name, task.cost) for task in found.by_cost]),
    ):
        if costs:
            most = max(cost for _, cost in costs) or 1.0
            rows = _rows(
                f'<td>{_e(name)}</td><td class="bars">'
                f'<div class="bar" style="width:{100 * cost / most:.1f}%"></div></td>'
                f'<td class="n">{_money(cost)}</td>'
                for name, cost in costs
            )
            parts.append(f"<h2>{title}</h2><table>{rows}</table>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Batch {_e(batch.id)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
