"""Batches as lines for a person. Pure, with `render`'s rules."""

from __future__ import annotations

from collections.abc import Sequence

from cms.batch.forecast import Forecast
from cms.batch.model import (
    OVER,
    BatchRecord,
    BatchStatus,
    TaskStatus,
    TaskView,
)
from cms.batch.report import score_rows, table_words
from cms.batch.scores import CellScore
from cms.cli.render import change_words, cut, display_width, next_lines, one_line, paint, table
from cms.cli.terminal import Style
from cms.cli.usage import plan_line
from cms.units import ago, clock, money, plural, size, span

#: status: (icon, its ASCII stand-in, SGR colour).
TASK_ICONS: dict[TaskStatus, tuple[str, str, str]] = {
    TaskStatus.WAITING: ("○", "o", "2"),
    TaskStatus.RUNNING: ("⟳", ">", "33"),
    TaskStatus.COMPLETED: ("✓", "+", "32"),
    TaskStatus.SKIPPED: ("□", "-", "2"),
    TaskStatus.CANCELLED: ("⊘", "/", "2"),
    TaskStatus.NEEDS_INPUT: ("?", "?", "33"),
    TaskStatus.INTERRUPTED: ("⊘", "/", "33"),
    TaskStatus.LOST: ("⊘", "?", "31"),
}
_CROSS = ("✗", "x", "31")
#: Characters of an answer that are shown with its task.
_EXCERPT = 200
NOT_COMPLETED = OVER - {TaskStatus.COMPLETED}
#: The flag of `cms batch requeue` that lets a task go further than it came.
_ROOM = {
    TaskStatus.COST_EXCEEDED: "--task-max-cost",
    TaskStatus.TURNS_EXCEEDED: "--task-max-turns",
    TaskStatus.TIME_EXCEEDED: "--task-max-time",
}

BATCH_COLOURS: dict[BatchStatus, str] = {
    BatchStatus.COMPLETED: "32",
    BatchStatus.FAILED: "31",
    BatchStatus.CANCELLED: "31",
    BatchStatus.STOPPED: "33",
    BatchStatus.PARKED: "33",
    BatchStatus.PAUSED: "36",
}


def _icon(status: TaskStatus, style: Style) -> str:
    icon, plain, colour = TASK_ICONS.get(status, _CROSS)
    return paint(icon if style.icons == "unicode" else plain, colour, style)


def over_count(batch: BatchRecord) -> int:
    """How many tasks are over."""
    return sum(number for status, number in batch.counts.items() if status in OVER)


def task_line(task: TaskView, style: Style) -> str:
    """`✓ name  $0.0123  12.3s`, or `✗ name  failed: why`."""
    figures = f"{money(task.cost, exact=task.cost_exact)}  {span(task.duration / 1000)}"
    if task.reused:
        figures = f"reused from {task.reused}"
    head = f"{_icon(task.status, style)} {task.name}{' (chosen)' if task.chosen else ''}"
    where = f"  on {task.node}" if task.node else ""
    if task.status is TaskStatus.COMPLETED:
        return f"{head}  {figures}{where}"
    head += where
    why = one_line(task.error or "; ".join(task.reasons), style)
    words = f"{task.status.value}: {why}" if why else task.status.value
    room = None if style.width is None else max(20, style.width - display_width(task.name) - 2)
    return f"{head}  {cut(words, room, style)}"


def left_lines(task: TaskView, style: Style) -> list[str]:
    """What a task has left behind: its change, the beginning of its answer, how to go on with it by hand."""
    lines = []
    if task.change is not None and not task.change.empty:
        lines.append(f"    {change_words(task.change, task.name, style)}")
    if task.branch:
        lines.append(f"    branch: {one_line(task.branch, style)}")
    if task.patch:
        lines.append(f"    patch: {one_line(task.patch, style)}")
    if task.response:
        room = None if style.width is None else style.width - 4
        lines.append(f"    {cut(one_line(task.response[:_EXCERPT], style), room, style)}")
    if task.status is not TaskStatus.COMPLETED:
        lines += next_lines(task.next_step, style, indent="    ")
    return lines


def counts_words(batch: BatchRecord) -> str:
    """`58 completed, 1 failed, 1 skipped of 60`."""
    words = [f"{batch.counts[status]} {status.value}" for status in TaskStatus if batch.counts.get(status)]
    return f"{', '.join(words) or 'nothing'} of {plural(batch.total, 'task')}"


def _of(most: int | None) -> str:
    return f" of {most:,}" if most is not None else ""


def money_words(batch: BatchRecord) -> str:
    cap = f" of {money(batch.options.max_cost)}" if batch.options.max_cost is not None else ""
    held = f", {money(batch.reserved)} reserved" if batch.reserved else ""
    return f"{money(batch.spent, exact=batch.exact)}{cap}{held}"


def status_words(batch: BatchRecord, style: Style) -> str:
    """The status with what it means just now."""
    word = paint(batch.status.value, BATCH_COLOURS.get(batch.status, ""), style)
    if batch.status is BatchStatus.PARKED and batch.until is not None:
        word += f" until {clock(batch.until, style.zone)}"
    return f"{word}: {one_line(batch.reason, style)}" if batch.reason else word


def summary_lines(
    batch: BatchRecord, now: float, style: Style, scores: Sequence[CellScore] = ()
) -> list[str]:
    """Everything about a batch but its tasks."""
    ended = batch.ended if batch.ended is not None else now
    took = "" if batch.started is None else span(max(0.0, ended - batch.started))
    left = "" if batch.eta is None else f"about {span(batch.eta)} left"
    rows = [
        ("tasks", counts_words(batch)),
        ("cost", money_words(batch)),
        ("reused", f"{plural(batch.reused, 'result')} from earlier batches" if batch.reused else ""),
        ("time", ", ".join(part for part in (took, left) if part)),
        ("tokens", f"{batch.tokens:,}{_of(batch.options.max_tokens)}" if batch.tokens else ""),
        ("at once", str(batch.parallel) if batch.ended is None and batch.parallel else ""),
        ("file", one_line(batch.options.source, style)),
        ("table", one_line(table_words(batch.options), style)),
        ("results", one_line(batch.options.out, style)),
        ("report", one_line(batch.options.report, style)),
    ]
    lines = [f"{batch.id}  {status_words(batch, style)}"]
    lines += [f"  {label:<8} {value}" for label, value in rows if value]
    if scores:
        heads, cells = score_rows(scores)
        shown = [tuple(one_line(word, style) for word in row) for row in (heads, *cells)]
        lines += [f"  {line}" for line in table(shown, style, right=tuple(range(1, len(heads))))]
    lines += [f"  warning: {one_line(text, style)}" for text in batch.warnings]
    if batch.status is BatchStatus.STOPPED:
        lines.append(f"continue: cms batch resume {batch.id}")
    elif batch.status is BatchStatus.FAILED:
        room = " or ".join(flag for status, flag in _ROOM.items() if batch.counts.get(status))
        more = f" (with {room} for more room)" if room else ""
        lines.append(f"retry what failed: cms batch requeue {batch.id}{more}")
    return lines


def batches_table(batches: Sequence[BatchRecord], now: float, style: Style) -> list[str]:
    """The table of `cms batches`, newest first as given."""
    if not batches:
        return ["no batches yet; start one: cms batch --file tasks.json"]
    rows = [
        (
            batch.id,
            batch.status.value,
            f"{over_count(batch)}/{batch.total}",
            money(batch.spent, exact=batch.exact),
            ago(batch.created, now),
        )
        for batch in batches
    ]
    heads = ("ID", "STATUS", "DONE", "COST", "AGE")
    return table((heads, *rows), style, right=(2, 3), shrink=((0, 12), (1, 6)))


def plan_lines(plan: Forecast, now: float, style: Style) -> list[str]:
    """What `--plan` tells."""
    limit = "no limit" if plan.cost_limit is None else f"at most {money(plan.cost_limit)} (sum of the limits)"
    guess = f"about ${plan.cost:.2f}, up to ${plan.cost_high:.2f}; " if plan.known else ""
    time = f"{span(plan.seconds)} to {span(plan.seconds_high)}" if plan.known else "unknown"
    rows = [
        ("tasks", f"{plan.tasks}, {plan.parallel} at once"),
        *([("table", one_line(plan.table, style))] if plan.table else []),
        ("cost", f"{guess}{limit}"),
        ("time", time),
        ("memory", _memory(plan.memory, plan.memory_available)),
        *([("disk", _disk(plan.disk, plan.disk_available))] if plan.disk is not None else []),
        *([("limits", used)] if (used := plan_line(plan.plan_usage, now, style)) else []),
        ("history", f"{plural(plan.samples, 'delegation')} like them" if plan.samples else "none"),
    ]
    lines = [f"  {label:<8} {value}" for label, value in rows]
    lines += [f"  note: {text}" for text in plan.notes]
    lines += [paint(f"  does not fit: {text}", "31", style) for text in plan.problems]
    return [*lines, "it fits" if plan.fits else "it cannot run like this; nothing was started"]


def _memory(wanted: int, free: int) -> str:
    return f"about {size(wanted)} of {size(free)} free" if wanted else "that of the nodes"


def _disk(wanted: int, free: int | None) -> str:
    copies = f"about {size(wanted)} for copies of the folder" if wanted else "only what isolated tasks write"
    return f"{copies}; {size(free or 0)} free"


def progress_line(batch: BatchRecord, style: Style) -> str:
    """The status line while a batch runs: a bar, counts, cost against the cap, time left."""
    over = over_count(batch)
    failed = over - batch.counts.get(TaskStatus.COMPLETED, 0)
    running = batch.counts.get(TaskStatus.RUNNING, 0)
    filled, empty = ("█", "░") if style.icons == "unicode" else ("#", ".")
    columns = (style.width or 81) - 1
    parts = [
        f"{over}/{batch.total}",
        f"{running} running",
        f"{failed} failed" if failed else "",
        batch.status.value if batch.status is not BatchStatus.RUNNING else "",
        f"until {clock(batch.until, style.zone)[11:]}" if batch.until is not None else "",
        money_words(batch).partition(",")[0],
        f"{span(batch.eta)} left" if batch.eta is not None else "",
    ]
    line = "  ".join(part for part in parts if part)
    width = min(max(columns - len(line) - 1, 6), 16)  # of the bar: words before decoration
    done = width * over // max(1, batch.total)
    return cut(f"{filled * done}{empty * (width - done)} {line}", columns, style)
