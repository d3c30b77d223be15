"""Tools for many tasks at once: start a batch, look at it, cancel it.

A batch belongs to the daemon from the start: it outlives this client, a crash and a reboot. `batch_start`
with `wait` only listens; cancelling that call brings the batch to rest, from where a person can go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from cms.batch.model import ACTIVE, BatchOptions, BatchRecord, BatchStatus, TaskSpec, TaskStatus, TaskView
from cms.errors import CmsError, UsageError
from cms.layers import TASK, resolve
from cms.mcp.call import DaemonCall
from cms.mcp.params import LONG_TEXT, NewSession, Options, takes
from cms.mcp.results import Money, Result, cut, described
from cms.mcp.tool import Params, tool
from cms.options import Layer
from cms.rpc.batches import (
    BATCH_ADD,
    BATCH_CANCEL,
    BATCH_CHECK,
    BATCH_CREATE,
    BATCH_DISCARD,
    BATCH_FOLLOW,
    BATCH_GET,
    BATCH_REQUEUE,
    BATCH_RUN,
    BATCH_TASKS,
    BATCH_WITHDRAW,
    CHUNK_BYTES,
    BatchAddParams,
    BatchCreateParams,
    BatchPageParams,
    BatchParams,
    BatchProblems,
    BatchRequeueParams,
    BatchRunParams,
    BatchTasksResult,
    BatchWithdrawParams,
    LineOf,
)
from cms.units import NAME_PATTERN

#: Tasks of one call. More belong in a file, for `cms batch --file` at the shell.
MAX_TASKS = 200

TaskName = Annotated[
    str,
    msgspec.Meta(
        description="The task's name, and its session's.", pattern=NAME_PATTERN, min_length=1, max_length=64
    ),
]
#: One that is there: how it may be called was said where it was.
OtherTask = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
BatchId = Annotated[
    str, msgspec.Meta(description="The batch's id, or the beginning of it.", min_length=1, max_length=200)
]


# --- results --------------------------------------------------------------------------------------


class BatchTask(Result, frozen=True):
    """One task of a batch."""

    name: str
    status: Annotated[TaskStatus, described("waiting or running; else how it ended.")]
    cost: Money
    turns: int
    tries: int
    response: str
    response_cut: bool
    error: str
    needs: tuple[str, ...]


class Batch(Result, frozen=True):
    """A batch as it stands, with a page of its tasks."""

    SHOWS = "cost=spent max_cost=options.max_cost"

    id: str
    status: Annotated[
        BatchStatus,
        described("parked: waits for a usage limit to reset. stopped: at rest, can go on. Else as named."),
    ]
    active: Annotated[bool, described("It works, or will by itself.")]
    total: int
    counts: Annotated[dict[str, int], described("Tasks by status.")]
    cost: Money
    max_cost: Money | None
    parallel: Annotated[int, described("Tasks at once, as it is now.")]
    seconds_left: Annotated[float | None, described("An estimate.")]
    reason: Annotated[str, described("Why it rests or ended early.")]
    warnings: tuple[str, ...]
    tasks: tuple[BatchTask, ...]
    next: Annotated[int | None, described("Give this as after to see more tasks; null: there are no more.")]


# --- start ----------------------------------------------------------------------------------------


@takes("task")
class TaskArguments(Options, frozen=True, kw_only=True):
    """One task. What it leaves out is the batch's."""

    name: TaskName
    task: Annotated[
        str,
        msgspec.Meta(
            description="All that its agent needs to know; it sees none of this conversation. "
            "{{needs.NAME.response}} stands for the answer of a task that it needs.",
            min_length=1,
            max_length=LONG_TEXT,
        ),
    ]
    needs: Annotated[
        tuple[OtherTask, ...],
        msgspec.Meta(
            description="Tasks that must complete before; if one does not, this is skipped.", max_length=50
        ),
    ] = ()

    def spec(self) -> TaskSpec:
        said = self.layer
        return TaskSpec(name=self.name, prompt=self.task, needs=self.needs, **msgspec.structs.asdict(said))


@takes("batch_start")
class StartArguments(NewSession, frozen=True, kw_only=True):
    tasks: Annotated[
        tuple[TaskArguments, ...],
        msgspec.Meta(
            description="In any order; needs makes one. Tasks without it run side by side.",
            min_length=1,
            max_length=MAX_TASKS,
        ),
    ]
    max_cost: Annotated[
        float,
        msgspec.Meta(
            description="US dollars for the whole batch. When it is reached, what runs is stopped and "
            "nothing more is started.",
            gt=0,
            le=10_000,
        ),
    ]
    max_parallel: (
        Annotated[
            int, msgspec.Meta(description="Tasks at once; by default what this machine bears.", ge=1, le=200)
        ]
        | None
    ) = None
    max_minutes: (
        Annotated[float, msgspec.Meta(description="For the whole batch.", gt=0, le=100_000)] | None
    ) = None
    wait: Annotated[
        bool, described("Return when it is over. Cancelling this call then brings it to rest.")
    ] = False


def task_share(tasks: int, max_cost: float) -> float:
    """Dollars for each task of a batch, where nobody said.

    A task starts when its whole limit can be set aside. With a tenth of the batch's at least ten run side by
    side, and no more than a tenth is left unspent at the end; few tasks share it evenly, so that all start.
    """
    share = max_cost / min(tasks, 10)
    return share if TASK.max_cost is None else min(share, TASK.max_cost)


def start(call: DaemonCall, given: StartArguments) -> Batch:
    said = given.layer
    work_dir = said.work_dir or str(Path.cwd())
    share = Layer(max_cost=task_share(len(given.tasks), given.max_cost))
    defaults = resolve(msgspec.structs.replace(said, work_dir=None), given.person(call), share)
    options = BatchOptions(
        work_dir=work_dir,
        source="mcp",
        defaults=defaults,
        max_parallel=given.max_parallel,
        max_cost=given.max_cost,
        max_time=None if given.max_minutes is None else given.max_minutes * 60,
        detached=not given.wait,
    )
    batch = call.call(BATCH_CREATE, BatchCreateParams(options, stem="mcp")).batch
    try:
        _load(call, batch.id, [task.spec() for task in given.tasks])
    except BaseException:
        call.clean_up(BATCH_DISCARD, BatchParams(batch.id))
        raise
    run = BatchRunParams(batch.id, wait=given.wait)
    return _shown(call, call.call(BATCH_RUN, run).batch, -1, 50, 300)


def _load(call: DaemonCall, batch_id: str, specs: list[TaskSpec]) -> None:
    first = 0
    while first < len(specs):
        chunk: list[LineOf] = []
        size = 0
        for number, spec in enumerate(specs[first:], first):
            size += len(spec.prompt)
            if chunk and size > CHUNK_BYTES:
                break
            chunk.append(LineOf(spec, number + 1))
        _refuse(call.call(BATCH_ADD, BatchAddParams(batch_id, first, tuple(chunk))))
        first += len(chunk)
    _refuse(call.call(BATCH_CHECK, BatchParams(batch_id)))


def _refuse(found: BatchProblems) -> None:
    if found.problems:
        told = "; ".join(found.problems[:5])
        raise UsageError(f"nothing was started: {told}", hint="fix the tasks (line N is the Nth of them)")


# --- show and cancel --------------------------------------------------------------------------------


class ShowArguments(Params, frozen=True, kw_only=True):
    id: BatchId
    wait: Annotated[bool, described("First wait until it is over, or at rest.")] = False
    after: Annotated[
        int, msgspec.Meta(description="Tasks behind this one: next of the page before.", ge=-1, le=2**31)
    ] = -1
    limit: Annotated[int, msgspec.Meta(description="At most so many tasks.", ge=1, le=500)] = 50
    max_chars: Annotated[
        int, msgspec.Meta(description="Cut each response here; `output` gives all of it.", ge=0, le=20_000)
    ] = 300


def show(call: DaemonCall, given: ShowArguments) -> Batch:
    reply = call.call(BATCH_FOLLOW if given.wait else BATCH_GET, BatchParams(given.id))
    return _shown(call, reply.batch, given.after, given.limit, given.max_chars)


Reason = Annotated[str, msgspec.Meta(description="Why, for the audit log.", max_length=500)]
TaskNames = Annotated[tuple[OtherTask, ...], msgspec.Meta(max_length=MAX_TASKS)]


@takes("batch_requeue")
class RequeueArguments(Options, frozen=True, kw_only=True):
    id: BatchId
    tasks: Annotated[TaskNames, described("Only these; by default all that failed.")] = ()
    errored: Annotated[bool, described("Only those that ended otherwise than by their checks.")] = False
    reason: Reason = ""


def requeue(call: DaemonCall, given: RequeueArguments) -> Batch:
    if given.tasks and given.errored:
        raise UsageError("give tasks or errored, not both")
    params = BatchRequeueParams(given.id, given.tasks, given.errored, given.reason, given.layer)
    return _shown(call, call.call(BATCH_REQUEUE, params).batch, -1, 50, 300)


class CancelArguments(Params, frozen=True, kw_only=True):
    id: BatchId
    tasks: Annotated[TaskNames, described("Only these of its tasks; by default the whole batch.")] = ()
    reason: Reason = ""


def cancel(call: DaemonCall, given: CancelArguments) -> Batch:
    if given.tasks:
        params = BatchWithdrawParams(given.id, given.tasks, given.reason)
        return _shown(call, call.call(BATCH_WITHDRAW, params).batch, -1, 50, 300)
    try:
        reply = call.call(BATCH_CANCEL, BatchParams(given.id, given.reason))
    except UsageError:
        # It may be cancelled already: then there is nothing to complain of.
        reply = call.call(BATCH_GET, BatchParams(given.id))
        if reply.batch.status is not BatchStatus.CANCELLED:
            raise
    return _shown(call, reply.batch, -1, 50, 300)


def _shown(call: DaemonCall, batch: BatchRecord, after: int, limit: int, max_chars: int) -> Batch:
    try:
        page = call.call(BATCH_TASKS, BatchPageParams(batch.id, after, limit))
    except CmsError:
        if not call.cancelled:
            raise
        page = BatchTasksResult(())
    return Batch.from_record(
        batch,
        active=batch.status in ACTIVE or batch.status is BatchStatus.LOADING,
        counts={str(status): count for status, count in batch.counts.items() if count},
        seconds_left=None if batch.eta is None else round(batch.eta),
        tasks=tuple(_task(task, max_chars) for task in page.tasks),
        next=page.next,
    )


def _task(task: TaskView, max_chars: int) -> BatchTask:
    response, was_cut = cut(task.response, max_chars)
    return BatchTask.from_record(task, response=response, response_cut=was_cut)


TOOLS = (
    tool(
        "batch_start",
        "Start a batch of tasks",
        StartArguments,
        Batch,
        start,
        """Start many tasks under one budget, each an agent of its own: with an order between them, retries,
        patience with rate limits, and a record that survives crashes. For more than about five tasks, or
        tasks that need each other's results; else `delegate` each with detach. Costs model calls up to
        maxCost. Returns at once; `batch_show` collects.""",
        destructive=True,
        open_world=True,
        inside=False,
    ),
    tool(
        "batch_show",
        "Look at a batch",
        ShowArguments,
        Batch,
        show,
        """How a batch stands, and its tasks with their answers, a page at a time. With wait it returns when
        the batch is over. Free. The resource cms://batch/ID/report is the whole story.""",
        read_only=True,
        inside=False,
    ),
    tool(
        "batch_requeue",
        "Do tasks of a batch again",
        RequeueArguments,
        Batch,
        requeue,
        """Do tasks of a batch again that did not complete, and those skipped because of them, also when the
        batch is over; each begins anew. One that ended at its limit needs a higher one. Costs model calls,
        within the batch's maxCost. Returns at once.""",
        destructive=True,
        open_world=True,
        inside=False,
    ),
    tool(
        "batch_cancel",
        "Cancel a batch",
        CancelArguments,
        Batch,
        cancel,
        """Give a batch up, or some of its tasks: what runs is stopped, what waits is never started. Finished
        work and the sessions stay. Free.""",
        destructive=True,
        idempotent=True,
        inside=False,
    ),
)
