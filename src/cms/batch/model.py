"""The records of a batch: what a task is, how it stands, what a batch is.

Units as everywhere (`session.model`): US dollars, seconds, seconds since the epoch.
"""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar, Final, Literal

import msgspec

from cms.batch import template
from cms.errors import ExitCode
from cms.layers import TASK, resolve, session_options
from cms.option_kinds import NAME, PROMPT, TEXTS, Option, Way
from cms.options import Layer
from cms.session.model import (
    Attachment,
    ChangeSummary,
    DelegateResult,
    Judgement,
    Outcome,
    Record,
    Round,
    SessionOptions,
    exit_code_of,
)

#: Ends that are tried again when `retries` is given without `retryOn`.
RETRY_ON: Final = (Outcome.FAILED, Outcome.STALLED, Outcome.TIME_EXCEEDED)
_ITS_OWN: Final[frozenset[Way]] = frozenset({"task"})


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
    LOST = "lost"  # its node was lost: nobody knows what it came to
    INTERRUPTED = "interrupted"  # cut off where going on by itself is not safe
    SKIPPED = "skipped"  # a task that it needs did not complete
    CANCELLED = "cancelled"  # somebody cancelled the batch


#: Statuses that a task never leaves by itself.
OVER: Final = frozenset(TaskStatus) - {TaskStatus.WAITING, TaskStatus.RUNNING}


#: Ends for another reason than that its checks failed: there is no verdict on the work.
ERRORED: Final = OVER - {
    TaskStatus.COMPLETED,
    TaskStatus.VERIFICATION_FAILED,
    TaskStatus.SKIPPED,
    TaskStatus.CANCELLED,
}


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
    TaskStatus.LOST,
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
            "tokens": ExitCode.COST_EXCEEDED,
            "time": ExitCode.TIME_EXCEEDED,
            "asked": ExitCode.INTERRUPTED,
        }.get(why, ExitCode.FAILED)
    if status is BatchStatus.COMPLETED:
        return ExitCode.COMPLETED  # with `best_of`, whatever became of the other attempts
    bad = worst(counts)
    if bad in (TaskStatus.SKIPPED, TaskStatus.CANCELLED, TaskStatus.LOST):
        return ExitCode.FAILED
    return exit_code_of(Outcome(bad.value))


BestOf = Literal["verify", "judge", "vote"]


class Axis(Record, frozen=True):
    """An option that varies: its key, and the values, each as JSON."""

    key: str
    values: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The values, texts without quotes."""
        return tuple(
            value if isinstance(value := msgspec.json.decode(text), str) else text for text in self.values
        )


class Origin(Record, frozen=True):
    """What a task was made of, where a table, a matrix or several attempts made many of one.

    Attributes:
        task: what all its cells and attempts have in common: the task of the file, and the row.
        row: its number in the table, "" without one.
        cell: its values of the matrix, "" without one.
        attempt: from 1 on.
    """

    task: str
    row: str = ""
    cell: str = ""
    attempt: int = 1


class TaskSpec(Layer, frozen=True, omit_defaults=True):
    """One task as its file gives it: what it is, and what it says of its options."""

    alone: ClassVar[bool] = True

    name: Annotated[str, Option(NAME, ways=_ITS_OWN)] = ""
    prompt: Annotated[str, Option(PROMPT, ways=_ITS_OWN, aliases=("task",))] = ""
    needs: Annotated[tuple[str, ...], Option(TEXTS, ways=_ITS_OWN)] = ()  # tasks that must complete first
    attach: Annotated[tuple[str, ...], Option(TEXTS, ways=_ITS_OWN)] = ()  # files that go with its prompt
    attachments: tuple[Attachment, ...] = ()  # the same, kept
    row: dict[str, str] | None = None  # the values that its places want
    origin: Origin | None = None


class TaskOptions(Record, frozen=True):
    """Everything that was chosen about a task, resolved when it was added: enough to begin it, again too."""

    session: SessionOptions
    prompt: str
    context: str = ""
    needs: tuple[str, ...] = ()
    retries: int = 0  # further tries after the first
    retry_on: tuple[Outcome, ...] = RETRY_ON  # which ends are tried again
    retry_acted: bool = False  # also where it may have changed something
    repo: str = ""  # what it has a checkout of at a node (`batch.remote.Repo`)
    row: dict[str, str] | None = None
    origin: Origin | None = None
    attachments: tuple[Attachment, ...] = ()


def resolve_task(spec: TaskSpec, defaults: Layer, work_dir: str) -> TaskOptions:
    """A task with all that its batch says, and the product.

    Args:
        work_dir: of the batch, for a task that names none. The task's own must be absolute.

    Raises:
        BadValue: a value of its row has no place in a check.
    """
    said = resolve(spec, defaults, TASK)
    session = session_options(said, spec.name, work_dir, delegated=True)
    if spec.row is not None:
        session = msgspec.structs.replace(
            session,
            verify=tuple(template.fill_row(one, spec.row, command=True) for one in session.verify),
            append_system_prompt=template.fill_row(session.append_system_prompt, spec.row),
            judge=template.fill_row(session.judge, spec.row),
        )
    return TaskOptions(
        session=session,
        prompt=spec.prompt,
        context=said.context or "",
        needs=spec.needs,
        retries=said.retries or 0,
        retry_on=RETRY_ON if said.retry_on is None else said.retry_on,
        retry_acted=bool(said.retry_acted),
        repo=said.repo or "",
        row=spec.row,
        origin=spec.origin,
        attachments=spec.attachments,
    )


class BatchOptions(Record, frozen=True):
    """Everything a person chose about a batch, but its tasks."""

    work_dir: str  # absolute; of tasks that name none, and of the hooks
    source: str = ""  # the file, for people
    defaults: Layer = Layer()  # of its tasks, which have it in them since they were added
    max_parallel: int | None = None  # None: what memory and cores allow when it starts
    max_cost: float | None = None  # of the whole batch, by reservation
    max_time: float | None = None  # of the whole batch, from its start or its resumption
    max_work: float | None = None  # the same, without the time in which it rests for the API or a person
    max_tokens: int | None = None  # of the whole batch (`store.money.tokens`); then nothing more is started
    fail_on_error: float | None = None  # the share of tasks, from 1 on their number, that may end in error
    stagger: float | None = None  # seconds between two starts; None: what the cores allow
    max_api_failures: int = msgspec.field(
        default=12, name="stormTries"
    )  # tries of one task that the API's own troubles may cost
    keep_alive: bool = False
    data: str = ""  # the table; absolute, "-" is stdin
    row_name: str = ""  # the field that names its rows
    filter: tuple[str, ...] = ()  # which rows (`batch.rows`)
    shuffle: int | None = None
    slice: str = ""
    limit: int | None = None
    cache: bool = False  # results from earlier batches are reused
    attempts: int = 1
    best_of: BestOf | None = None
    matrix: tuple[Axis, ...] = ()
    fresh: bool = False  # sessions that have a task's name already make room, as `NAME~1`
    detached: bool = False  # goes on by itself when the daemon comes back
    out: str = ""  # absolute paths
    report: str = ""
    patches: str = ""  # a folder for the changes of isolated tasks
    on_done: str = ""  # shell lines
    on_fail: str = ""
    on_park: str = ""
    webhook: str = ""
    notify: tuple[str, ...] = ()  # addresses of apprise
    on: str = ""  # the engine (`batch.address`) whose nodes do the tasks; "": this machine does them
    label: str = ""  # only nodes with this label
    artifacts: str = ""  # a folder that all hosts share
    repo: str = ""  # of all tasks, before each could have its own
    push_branches: bool = False  # what a task changed at a node goes to a branch of its repository, too
    rerun_lost: bool = False  # tasks whose node was lost are begun anew


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
    stopped_by: str = ""  # "cost", "tokens", "time", "errors", "asked", "auth", "trouble"
    tokens: int = 0  # taken so far
    reused: int = 0  # tasks that have the result of an earlier batch
    parallel: int = 0  # how many at once are allowed now
    reserved: float = 0.0
    warnings: tuple[str, ...] = ()  # the newest few things that went wrong beside the work
    eta: float | None = None  # seconds that are left, from what was seen
    engine: str = ""  # what that is known by, which its tasks were submitted to


class Place(Record, frozen=True):
    """Where a task was done: a node, its host, what the session is called there."""

    node: str
    host: str
    session: str


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
    output: str = ""  # JSON
    judge: Judgement | None = None
    rounds: tuple[Round, ...] = ()
    cost_by_model: dict[str, float] = msgspec.field(default_factory=dict)
    place: Place | None = None  # None: on this machine
    patch: str = ""  # the file with what it changed in its checkout
    branch: str = ""  # of its repository, with the same
    change: ChangeSummary | None = None  # of an isolated one
    next_step: str | None = None  # with its session, where that is here


class Task(Record, frozen=True):
    """A task as the store knows it."""

    seq: int  # its place in the file, from 0
    name: str
    line: int  # of the file, from 1
    status: TaskStatus
    options: TaskOptions
    tries: int = 0  # begun
    failures: int = 0  # of the kind that `retries` counts
    api_failures: int = 0  # ended by the API's troubles
    go_on: bool = False  # the next try goes on in the conversation of the last
    due: float = 0.0  # not before
    reserved: float = 0.0  # US dollars, while it runs
    cost: float = 0.0  # all tries
    exact: bool = True
    started: float | None = None  # the first try
    tried: float | None = None  # the newest, by the clock of whoever does it (`Crew.now`)
    ended: float | None = None
    order: int = 0  # 1 for the first that ended
    result: TaskResult | None = None
    reason: str = ""  # why it waits, was skipped, was not tried again
    before: str = ""  # the session of its name, and how many messages that had, when the newest try began:
    messages: int = 0  # after a crash this tells whether the try has come to anything
    paid: float = 0.0  # what that session had cost by then
    paid_tokens: int = 0  # and had taken
    tokens: int = 0  # all tries
    requeued: bool = False  # a person wants it done again
    key: str = ""  # of what its result rests on (`batch.reuse`), "" where none is kept
    around: str = ""  # what that was beside the task itself, when it began
    reused: str = ""  # whose result it has: `BATCH/TASK`
    chosen: bool = False  # among the attempts at the same thing (`BatchOptions.best_of`)


class TaskView(Record, frozen=True, kw_only=True):
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
    started: float | None
    ended: float | None
    output: str = ""
    judge: Judgement | None = None
    rounds: tuple[Round, ...] = ()
    base: str = ""  # the task and its row: what all cells and attempts have in common
    row: str = ""
    cell: str = ""
    attempt: int = 1
    chosen: bool = False
    reused: str = ""  # whose result it has: `BATCH/TASK`
    node: str = ""  # where it was done, if not here
    host: str = ""
    patch: str = ""  # the file with what it changed there
    branch: str = ""  # of its repository, with the same
    change: ChangeSummary | None = None
    next_step: str | None = None  # with its session (`session.next_step`)


def result_of(
    result: DelegateResult,
    *,
    duration: float,
    reasons: tuple[str, ...] = (),
    place: Place | None = None,
    patch: str = "",
    branch: str = "",
) -> TaskResult:
    """What a task came to, by its last try. `reasons`: beside the try's own."""
    return TaskResult(
        response=result.response,
        error=result.error or "",
        reasons=(*result.reasons, *reasons),
        turns=result.turns,
        duration=duration,
        tools_used=result.tools_used,
        tool_calls=result.tool_calls,
        session_id=result.session_id,
        can_continue=result.can_continue,
        output=result.output,
        judge=result.judge,
        rounds=result.rounds,
        place=place,
        patch=patch,
        branch=branch,
        change=result.change,
        next_step=result.next_step if place is None else None,
    )


def view(task: Task) -> TaskView:
    """The task for the outside."""
    result, origin = task.result or TaskResult(), task.options.origin
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
        model=task.options.session.model,
        session_id=result.session_id,
        can_continue=result.can_continue,
        tools_used=result.tools_used,
        reasons=result.reasons,
        needs=task.options.needs,
        started=task.started,
        ended=task.ended,
        output=result.output,
        judge=result.judge,
        rounds=result.rounds,
        base=task.name if origin is None else origin.task,
        row="" if origin is None else origin.row,
        cell="" if origin is None else origin.cell,
        attempt=1 if origin is None else origin.attempt,
        chosen=task.chosen,
        reused=task.reused,
        node=result.place.node if result.place is not None else "",
        host=result.place.host if result.place is not None else "",
        patch=result.patch,
        branch=result.branch,
        change=result.change,
        next_step=result.next_step,
    )


def field_of(task: Task, place: template.Wanted) -> str:
    """What stands for a field (`template.FIELDS`) of a task's result.

    Raises:
        NoSuchPart: its output has no such part, or it has none.
    """
    result = task.result or TaskResult()
    match place.field:
        case "output":
            return template.part_of(result.output, place)
        case "response":
            return result.response
        case "status":
            return task.status.value
        case "cost":
            return f"{task.cost:.4f}"
        case "turns":
            return str(result.turns)
        case "workDir":
            return task.options.session.work_dir
        case "sessionId":
            return result.session_id
        case _:
            return ""
