"""The records of a batch: what a task is, how it stands, what a batch is.

Units as everywhere (`session.model`): US dollars, seconds, seconds since the epoch.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Final

import msgspec

from cms.errors import ExitCode
from cms.session.model import (
    ContainmentLevel,
    Limits,
    OnViolation,
    Outcome,
    Preset,
    Record,
    SessionOptions,
    exit_code_of,
)


class TaskStatus(enum.StrEnum):
    """Where a task stands: before its end `waiting` or `running`, then how it ended."""

    WAITING = "waiting"  # not begun, or to be tried again
    RUNNING = "running"
    COMPLETED = "completed"
    NEEDS_INPUT = "needs_input"
    FAILED = "failed"
    COST_EXCEEDED = "cost_exceeded"
    TURNS_EXCEEDED = "turns_exceeded"
    TIME_EXCEEDED = "time_exceeded"
    STALLED = "stalled"
    PROTECTED_PATH = "protected_path"
    VERIFICATION_FAILED = "verification_failed"
    RATE_LIMITED = "rate_limited"
    INTERRUPTED = "interrupted"  # cut off where going on by itself is not safe
    SKIPPED = "skipped"  # a task that it needs did not complete
    CANCELLED = "cancelled"  # somebody cancelled the batch


#: Statuses that a task never leaves by itself.
OVER: Final = frozenset(TaskStatus) - {TaskStatus.WAITING, TaskStatus.RUNNING}


class BatchStatus(enum.StrEnum):
    """Where a batch stands."""

    LOADING = "loading"  # its tasks are being written down; nothing was started
    RUNNING = "running"
    PARKED = "parked"  # running, but nothing is started until a usage limit resets
    PAUSED = "paused"  # a person wants nothing to be started
    STOPPED = "stopped"  # ended before its work was done; can be resumed
    CANCELLED = "cancelled"  # given up by a person
    COMPLETED = "completed"  # every task completed
    FAILED = "failed"  # every task has ended, and not every one completed


#: Statuses in which somebody is (or after a crash: was) at work on it.
ACTIVE: Final = frozenset({BatchStatus.RUNNING, BatchStatus.PARKED, BatchStatus.PAUSED})
#: Statuses from which a batch can go on.
RESUMABLE: Final = ACTIVE | {BatchStatus.STOPPED}

#: Worst last. The exit code of a batch is that of the worst status among its tasks.
_RANKS: Final = (
    TaskStatus.COMPLETED,
    TaskStatus.SKIPPED,
    TaskStatus.CANCELLED,
    TaskStatus.NEEDS_INPUT,
    TaskStatus.RATE_LIMITED,
    TaskStatus.INTERRUPTED,
    TaskStatus.STALLED,
    TaskStatus.TURNS_EXCEEDED,
    TaskStatus.TIME_EXCEEDED,
    TaskStatus.COST_EXCEEDED,
    TaskStatus.VERIFICATION_FAILED,
    TaskStatus.FAILED,
    TaskStatus.PROTECTED_PATH,
)


def worst(counts: dict[TaskStatus, int]) -> TaskStatus:
    """The worst status that any task ended with; `completed` if there is none.

    A skipped task is never the worst: the one that it needed is.
    """
    ended = [status for status in _RANKS if counts.get(status)]
    return ended[-1] if ended else TaskStatus.COMPLETED


def exit_code(status: BatchStatus, counts: dict[TaskStatus, int], why: str = "") -> ExitCode:
    """The exit status of a command that waited for a batch.

    Args:
        why: what stopped it early (`BatchRecord.stopped_by`), "" if nothing did.
    """
    if status is BatchStatus.CANCELLED:
        return ExitCode.INTERRUPTED
    if status is BatchStatus.STOPPED:
        return {
            "cost": ExitCode.COST_EXCEEDED,
            "time": ExitCode.TIME_EXCEEDED,
            "asked": ExitCode.INTERRUPTED,
        }.get(why, ExitCode.FAILED)
    bad = worst(counts)
    if bad in (TaskStatus.SKIPPED, TaskStatus.CANCELLED):
        return ExitCode.FAILED
    return exit_code_of(Outcome(bad.value))


class TaskSpec(Record, frozen=True, omit_defaults=True):
    """One task as its file gives it. What is None is the batch's default, then the product's.

    Field names are the camelCase keys of the file; `cms help batch` explains each.
    """

    name: str = ""
    prompt: str = ""
    context: str | None = None
    needs: tuple[str, ...] = ()  # tasks that must complete first
    retries: int | None = None  # further tries after the first
    retry_on: tuple[TaskStatus, ...] | None = None  # which ends are tried again
    retry_acted: bool | None = None  # also where it may have changed something
    work_dir: str | None = None
    model: str | None = None
    preset: Preset | None = None
    safety: bool | None = None
    permission_mode: str | None = None
    allowed_tools: tuple[str, ...] | None = None
    disallowed_tools: tuple[str, ...] | None = None
    system_prompt: str | None = None
    append_system_prompt: str | None = None
    agent: str | None = None
    fallback_model: str | None = None
    effort: str | None = None
    add_dirs: tuple[str, ...] | None = None
    mcp_config: tuple[str, ...] | None = None
    settings: str | None = None
    protect: tuple[str, ...] | None = None
    protect_read: tuple[str, ...] | None = None
    allow_write: tuple[str, ...] | None = None
    env_deny: tuple[str, ...] | None = None
    on_violation: OnViolation | None = None
    verify: tuple[str, ...] | None = None
    ask_timeout: float | None = None
    allow_cms: bool | None = None
    require_containment: ContainmentLevel | None = None
    max_cost: float | None = None
    max_turns: int | None = None
    max_time: float | None = None
    max_silence: float | None = None
    max_tool_calls: int | None = None
    max_repeats: int | None = None
    max_retry_time: float | None = None
    max_memory: int | None = None
    max_procs: int | None = None


#: What a task may use when nobody says otherwise, like a single delegation. But a batch waits for the API
#: better than a session does (it gives the place to nobody else meanwhile), so it takes over sooner.
TASK_LIMITS: Final = Limits(
    max_cost=2.0, max_turns=50, max_silence=1800.0, max_repeats=10, max_retry_time=300.0
)
#: Ends that are tried again when `retries` is given without `retryOn`.
RETRY_ON: Final = (TaskStatus.FAILED, TaskStatus.STALLED, TaskStatus.TIME_EXCEEDED)

_LIMITS: Final = Limits.__struct_fields__
_OPTIONS: Final = tuple(
    field
    for field in SessionOptions.__struct_fields__
    if field not in ("name", "work_dir") and field in TaskSpec.__struct_fields__
)


#: What forbids adds up: no task's own list takes back what the whole batch was denied.
_ADDS_UP: Final = ("disallowed_tools", "protect", "protect_read", "env_deny")


def over(spec: TaskSpec, base: TaskSpec) -> TaskSpec:
    """The task with the base's word wherever it has none of its own, and with all that either forbids."""
    fill = {
        field: getattr(base, field)
        for field in TaskSpec.__struct_fields__
        if field != "needs" and getattr(spec, field) is None
    }
    levels = [one.require_containment for one in (spec, base) if one.require_containment is not None]
    if levels:
        fill["require_containment"] = min(levels)  # "A" is the strictest
    for field in _ADDS_UP:
        own, given = getattr(spec, field), getattr(base, field)
        if own is not None and given is not None:
            fill[field] = tuple(dict.fromkeys((*given, *own)))
    return msgspec.structs.replace(spec, **fill)


def options_of(spec: TaskSpec, work_dir: str) -> SessionOptions:
    """A session's options from a task that has its defaults in it already.

    Args:
        work_dir: of the batch, for a task that names none. The task's own must be absolute.
    """
    limits = {
        field: getattr(TASK_LIMITS, field) if getattr(spec, field) is None else getattr(spec, field)
        for field in _LIMITS
    }
    given = {field: getattr(spec, field) for field in _OPTIONS if getattr(spec, field) is not None}
    return SessionOptions(
        name=spec.name,
        work_dir=work_dir if spec.work_dir is None else spec.work_dir,
        limits=Limits(**limits),
        delegated=True,
        **given,
    )


class BatchOptions(Record, frozen=True):
    """Everything a person chose about a batch, but its tasks."""

    work_dir: str  # absolute; of tasks that name none, and of the hooks
    source: str = ""  # the file, for people
    defaults: TaskSpec = TaskSpec()
    max_parallel: int | None = None  # None: what memory and cores allow when it starts
    max_cost: float | None = None  # of the whole batch, by reservation
    max_time: float | None = None  # of the whole batch, from its start or its resumption
    stagger: float | None = None  # seconds between two starts; None: what the cores allow
    max_api_failures: int = msgspec.field(
        default=12, name="stormTries"
    )  # tries of one task that the API's own troubles may cost
    keep_alive: bool = False
    fresh: bool = False  # sessions that have a task's name already make room, as `NAME~1`
    detached: bool = False  # goes on by itself when the daemon comes back
    out: str = ""  # absolute paths
    report: str = ""
    on_done: str = ""  # shell lines
    on_fail: str = ""
    on_park: str = ""
    webhook: str = ""


class BatchRecord(Record, frozen=True):
    """A batch as the store knows it."""

    id: str
    created: float
    status: BatchStatus
    options: BatchOptions
    total: int = 0
    counts: dict[TaskStatus, int] = msgspec.field(default_factory=dict)
    spent: float = 0.0
    exact: bool = True  # False: at least that much
    started: float | None = None
    ended: float | None = None
    deadline: float | None = None  # of `max_time`, since a person last started it: a crash does not extend it
    until: float | None = None  # parked until
    reason: str = ""  # why it is parked, paused, stopped, for a person
    stopped_by: str = ""  # "cost", "time", "asked", "auth", "trouble"
    parallel: int = 0  # how many at once are allowed now
    reserved: float = 0.0
    warnings: tuple[str, ...] = ()  # the newest few things that went wrong beside the work
    eta: float | None = None  # seconds that are left, from what was seen


class TaskResult(Record, frozen=True):
    """What a task came to: the delegation's result without what is told elsewhere."""

    response: str = ""
    error: str = ""
    reasons: tuple[str, ...] = ()
    turns: int = 0
    duration: float = 0.0  # seconds of work, all tries
    tools_used: tuple[str, ...] = ()
    tool_calls: int = 0
    session_id: str = ""
    can_continue: bool = False
    cost_by_model: dict[str, float] = msgspec.field(default_factory=dict)


class Task(Record, frozen=True):
    """A task as the store knows it."""

    seq: int  # its place in the file, from 0
    name: str
    line: int  # of the file, from 1
    status: TaskStatus
    spec: TaskSpec
    tries: int = 0  # begun
    failures: int = 0  # of the kind that `retries` counts
    api_failures: int = 0  # ended by the API's troubles
    go_on: bool = False  # the next try goes on in the conversation of the last
    due: float = 0.0  # not before
    reserved: float = 0.0  # US dollars, while it runs
    cost: float = 0.0  # all tries
    exact: bool = True
    started: float | None = None  # the first try
    tried: float | None = None  # the newest
    ended: float | None = None
    order: int = 0  # 1 for the first that ended
    result: TaskResult | None = None
    reason: str = ""  # why it waits, was skipped, was not tried again
    before: str = ""  # the session of its name, and how many messages that had, when the newest try began:
    messages: int = 0  # after a crash this tells whether the try has come to anything
    paid: float = 0.0  # what that session had cost by then


class TaskFacts(Record, frozen=True, kw_only=True):
    """What is told of a task: the parts of `Task` and its result in one."""

    name: str
    status: TaskStatus
    cost: float
    cost_exact: bool
    turns: int
    duration: int  # milliseconds
    response: str
    error: str
    tries: int
    line: int
    model: str
    session_id: str
    can_continue: bool
    tools_used: tuple[str, ...]
    reasons: tuple[str, ...]
    needs: tuple[str, ...]


class TaskView(TaskFacts, frozen=True, kw_only=True):
    """A task as the daemon tells it."""

    started: float | None
    ended: float | None


class TaskLine(TaskFacts, frozen=True, kw_only=True):
    """A line of `--out`, and a task of `cms batch show --json`: times as ISO 8601, as in all of `--json`."""

    started: str | None
    ended: str | None


def _iso(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line_of(task: TaskView) -> TaskLine:
    """A task in the outside's form."""
    whole = msgspec.structs.asdict(task)
    return TaskLine(**{**whole, "started": _iso(task.started), "ended": _iso(task.ended)})


def view(task: Task, model: str) -> TaskView:
    """The task for the outside. `model` is the one that it runs with, defaults applied."""
    result = task.result or TaskResult()
    return TaskView(
        name=task.name,
        status=task.status,
        cost=task.cost,
        cost_exact=task.exact,
        turns=result.turns,
        duration=round(result.duration * 1000),
        response=result.response,
        error=result.error or task.reason,
        tries=task.tries,
        line=task.line,
        model=model,
        session_id=result.session_id,
        can_continue=result.can_continue,
        tools_used=result.tools_used,
        reasons=result.reasons,
        needs=task.spec.needs,
        started=task.started,
        ended=task.ended,
    )
