"""The options of a whole batch: what a file says at its top, and what the flags of `cms batch` say."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from cms import units
from cms.batch.model import Axis, BatchOptions, BestOf
from cms.batch.remote import check_labels
from cms.batch.rows import parse_filter, parse_slice, table_format
from cms.batch.table import MATRIX
from cms.option_kinds import COUNT, MONEY, SECONDS, SWITCH, TEXT, TEXTS, TRIES, Kind, Option, Texts, Way
from cms.options import Layer, options_of
from cms.session.model import Record
from cms.units import BadValue

_LABELS: Final = Kind(lambda value: ",".join(check_labels(value)), str, "A,B")


def _filters(value: object) -> Texts:
    found = units.check_words(value)
    for text in found:
        parse_filter(text)
    return found


def _slice(value: object) -> str:
    text = units.check_word(value)
    parse_slice(text)
    return text


def _share(value: object) -> float:
    try:
        share = float(str(value))
    except ValueError:
        share = -1.0
    if isinstance(value, bool) or not 0 <= share < float("inf"):
        raise BadValue(f"{units.shown(value)} is not a share or a number of tasks", hint="write 0.1 or 5")
    return share


#: The short help of `cms batch` shows it.
_COMMON: Final[frozenset[Way]] = frozenset({"batch"})
SHARE: Final = Kind(_share, float, "SHARE")
FILTERS: Final = Kind(_filters, Texts, "FILTER", many=True)
SLICE: Final = Kind(_slice, str, "A:B")
BEST_OF: Final = Kind(units.choice("verify", "judge", "vote"), BestOf, "HOW")


class Header(Record, frozen=True, omit_defaults=True):
    """What a file says of the whole batch, or who types: an option each. What is None is not said."""

    defaults: Layer = Layer()
    max_parallel: Annotated[
        int | None,
        Option(COUNT, "Tasks to run at once.", group="batch", default="by memory and cores", common=_COMMON),
    ] = None
    max_cost: Annotated[
        float | None,
        Option(
            MONEY,
            "Stop at this total cost.",
            group="batch",
            default="no limit",
            common=_COMMON,
        ),
    ] = None
    max_time: Annotated[
        float | None,
        Option(
            SECONDS,
            "Stop after this long (15m, 8h, 2d).",
            group="batch",
            default="no limit",
            common=_COMMON,
        ),
    ] = None
    max_work: Annotated[
        float | None,
        Option(
            SECONDS,
            "The same, not counting time spent waiting for the API or paused.",
            group="batch",
        ),
    ] = None
    max_tokens: Annotated[
        int | None,
        Option(COUNT, "Start no more tasks once this many tokens are used.", group="batch"),
    ] = None
    fail_on_error: Annotated[
        float | None,
        Option(
            SHARE,
            "Start no more tasks once this share (0.1) or number (5) of them ended in error.",
            group="batch",
        ),
    ] = None
    stagger: Annotated[
        float | None,
        Option(SECONDS, "Wait this long between two starts.", group="batch", default="by cores"),
    ] = None
    keep_alive: Annotated[
        bool | None, Option(SWITCH, "Keep the sessions of completed tasks alive.", group="batch")
    ] = None
    fresh: Annotated[
        bool | None,
        Option(SWITCH, "Rename older sessions with these names to NAME~1.", group="batch"),
    ] = None
    data: Annotated[
        str | None,
        Option(
            TEXT,
            "Run each task once per row (CSV, TSV, JSON Lines, Parquet).",
            metavar="FILE",
            group="batch",
            common=_COMMON,
        ),
    ] = None
    row_name: Annotated[
        str | None,
        Option(TEXT, "Name rows by this field.", metavar="FIELD", group="table", default="their number"),
    ] = None
    filter: Annotated[
        tuple[str, ...] | None,
        Option(
            FILTERS,
            "Only rows where this holds: FIELD=VALUE, !=, ~REGEX, !~REGEX, <N, >N. Repeatable.",
            group="table",
        ),
    ] = None
    shuffle: Annotated[
        int | None,
        Option(
            TRIES,
            "Shuffle the rows with this seed.",
            metavar="SEED",
            group="table",
        ),
    ] = None
    slice: Annotated[str | None, Option(SLICE, "Only rows A to B-1, counted from 0.", group="table")] = None
    limit: Annotated[int | None, Option(COUNT, "At most this many rows.", group="table")] = None
    attempts: Annotated[
        int | None,
        Option(COUNT, "Run each task N times and report pass@1 and pass@N.", group="table", default="1"),
    ] = None
    best_of: Annotated[
        BestOf | None,
        Option(
            BEST_OF,
            "Keep one attempt of each task: one that passed verify or judge, or by vote.",
            group="table",
        ),
    ] = None
    matrix: Annotated[
        tuple[Axis, ...] | None,
        Option(MATRIX, "Run each task with each of these: model=opus,haiku. Repeatable.", group="table"),
    ] = None
    on: Annotated[
        str | None,
        Option(
            TEXT,
            "Have nodes do the tasks, through the engine at this temporal:// address.",
            metavar="URL",
            group="nodes",
        ),
    ] = None
    label: Annotated[
        str | None,
        Option(
            _LABELS, "Only nodes with all of these labels.", flag="--labels", other="--label", group="nodes"
        ),
    ] = None
    artifacts: Annotated[
        str | None,
        Option(TEXT, "Folder that all hosts share, for large files.", metavar="DIR", group="nodes"),
    ] = None
    push_branches: Annotated[
        bool | None,
        Option(
            SWITCH,
            "Push each task's change to a branch of its repository, too: cms/BATCH/TASK-...",
            group="nodes",
        ),
    ] = None
    rerun_lost: Annotated[
        bool | None, Option(SWITCH, "Start tasks again whose node was lost.", group="nodes")
    ] = None
    cache: Annotated[
        bool | None,
        Option(
            SWITCH, "Run every task, even if an earlier batch has its result.", "--no-cache", group="batch"
        ),
    ] = None
    out: Annotated[
        str | None,
        Option(
            TEXT,
            "Write each result here as it comes (JSON Lines).",
            metavar="FILE",
            group="news",
            common=_COMMON,
        ),
    ] = None
    report: Annotated[
        str | None,
        Option(
            TEXT, "Write a report at the end (.md or .html).", metavar="FILE", group="news", common=_COMMON
        ),
    ] = None
    patches: Annotated[
        str | None,
        Option(TEXT, "Write the change of each isolated task here as a patch.", metavar="DIR", group="news"),
    ] = None
    on_done: Annotated[
        str | None,
        Option(TEXT, "Run this when the batch ends; it gets JSON on stdin.", metavar="CMD", group="news"),
    ] = None
    on_fail: Annotated[
        str | None, Option(TEXT, "Run this when some tasks did not complete.", metavar="CMD", group="news")
    ] = None
    on_park: Annotated[
        str | None, Option(TEXT, "Run this when a usage limit pauses the batch.", metavar="CMD", group="news")
    ] = None
    webhook: Annotated[
        str | None, Option(TEXT, "POST the same JSON to this address.", metavar="URL", group="news")
    ] = None
    notify: Annotated[
        Texts | None,
        Option(
            TEXTS,
            "Notify a desktop, phone or chat each time: an apprise URL, or @FILE of them. Repeatable.",
            metavar="URL",
            group="news",
        ),
    ] = None


#: The options of a whole batch, by their fields.
HEADER: Final = options_of(Header)


#: What makes the tasks: it is settled when they are.
MAKES_TASKS: Final = (
    "data",
    "row_name",
    "filter",
    "shuffle",
    "slice",
    "limit",
    "attempts",
    "best_of",
    "matrix",
)


#: What can be changed of a batch that is there already.
ALTERABLE: Final = ("max_parallel", "max_cost", "max_time", "max_work", "max_tokens", "fail_on_error")
#: And of those of its tasks that are still to be begun.
ALTERABLE_TASKS: Final = ("model", "effort", "fallback_model", "max_cost", "max_turns", "max_time")


def check_alterable(changes: Header) -> dict[str, str | float]:
    """What is to be changed of the tasks, by fields.

    Raises:
        BadValue: something cannot be changed, or nothing is.
    """
    for field in Header.__struct_fields__:
        if field not in (*ALTERABLE, "defaults") and getattr(changes, field) is not None:
            raise BadValue(f"{HEADER[field].flags[0]} cannot be changed now")
    tasks: dict[str, str | float] = {}
    for field in Layer.__struct_fields__:
        value = getattr(changes.defaults, field)
        if value is None:
            continue
        if field not in ALTERABLE_TASKS:
            raise BadValue(f"{field} of tasks cannot be changed now")
        tasks[field] = value
    if not tasks and all(getattr(changes, field) is None for field in ALTERABLE):
        raise BadValue("nothing to change", hint="give --max-parallel, --max-cost or --model, for example")
    return tasks


def altered(options: BatchOptions, changes: Header) -> BatchOptions:
    """The options with the changes."""
    said = {field: value for field in ALTERABLE if (value := getattr(changes, field)) is not None}
    return msgspec.structs.replace(options, **said)


def check_table(options: BatchOptions) -> None:
    """What is said of rows and attempts fits together.

    Raises:
        BadValue: it does not.
    """
    if options.data:
        table_format(options.data)
    else:
        for field in ("row_name", "filter", "shuffle", "slice", "limit"):
            if getattr(options, field) not in (None, "", ()):
                raise BadValue(f"{HEADER[field].flags[0]} needs a table", hint="add --data FILE")
    if options.best_of is not None and options.attempts < 2:
        raise BadValue("--best-of needs several attempts", hint="add --attempts N")
