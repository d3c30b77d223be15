"""Batches: made in pieces, started, followed, asked about.

A batch comes in by chunks (`batch.create`, `batch.add` ..., `batch.check`), so that neither end ever holds a
million tasks, and is started by `batch.run`. A client that waits there owns the batch: if it cancels or goes
away, the batch comes to rest and can be resumed. `batch.follow` only watches.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.batch.forecast import Forecast
from cms.batch.header import Header
from cms.batch.model import BatchOptions, BatchRecord, TaskSpec, TaskView
from cms.batch.scores import CellScore
from cms.options import Layer
from cms.rpc.verbs import Nothing, Verb
from cms.session.model import Record

#: Tasks of one `batch.add`, and of one answer.
CHUNK = 500
#: Bytes of prompts in one `batch.add`.
CHUNK_BYTES = 4 * 1024 * 1024


class BatchCreateParams(Record, frozen=True):
    """A new batch. `stem`: what its id begins with, for people."""

    options: BatchOptions
    stem: str = "batch"


class LineOf(Record, frozen=True):
    """A task and the line of the file that it stands on."""

    spec: TaskSpec
    line: int


class BatchAddParams(Record, frozen=True):
    """Tasks, the first of which is number `first` (from 0) of the batch."""

    id: str
    first: Annotated[int, msgspec.Meta(ge=0)]
    tasks: tuple[LineOf, ...]


class BatchParams(Record, frozen=True):
    """One batch, by its id or the beginning of it. `reason`: for its audit log, if it is changed."""

    id: str
    reason: str = ""


class BatchRunParams(Record, frozen=True):
    """Start a batch, or go on with it. `options`: its new ones; None: as they are."""

    id: str
    options: BatchOptions | None = None
    wait: bool = True  # False: answer once it runs; it belongs to the daemon


class BatchPageParams(Record, frozen=True):
    """A page of tasks: of `batch.tasks` in the file's order, of `batch.ended` in that of their ends."""

    id: str
    after: int = -1
    limit: Annotated[int, msgspec.Meta(ge=1, le=CHUNK)] = CHUNK


class BatchReportParams(Record, frozen=True):
    id: str
    html: bool = False


class BatchSetParams(Record, frozen=True):
    """Change a batch (`batch.header.ALTERABLE`); `defaults` of the changes: of tasks that are to be begun."""

    id: str
    changes: Header
    reason: str = ""


class BatchRequeueParams(Record, frozen=True):
    """Do tasks again: those of `names`, else all that failed, or only those that ended in error.

    `options`: other ones for those tasks (`batch.header.ALTERABLE_TASKS`).
    """

    id: str
    names: tuple[str, ...] = ()
    errored: bool = False
    reason: str = ""
    options: Layer = Layer()


class BatchWithdrawParams(Record, frozen=True):
    """Cancel these tasks."""

    id: str
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    reason: str = ""


class BatchProblems(Record, frozen=True):
    """What is wrong with the tasks, a line each; empty if nothing is."""

    problems: tuple[str, ...] = ()


class BatchResult(Record, frozen=True):
    batch: BatchRecord


class BatchChanged(Record, frozen=True):
    """The batch as it stands then, and how many tasks it was about."""

    batch: BatchRecord
    tasks: int


class BatchesResult(Record, frozen=True):
    batches: tuple[BatchRecord, ...]


class BatchTasksResult(Record, frozen=True):
    """`next`: what to ask for `after` to get the next page; None: there is none."""

    tasks: tuple[TaskView, ...]
    next: int | None = None


class BatchScoresResult(Record, frozen=True):
    """What passed, cell by cell; empty where every task is done once and there is no matrix.

    Attributes:
        cost_by_model: US dollars.
    """

    scores: tuple[CellScore, ...]
    cost_by_model: dict[str, float] = msgspec.field(default_factory=dict)


class BatchReportResult(Record, frozen=True):
    text: str


BATCH_CREATE = Verb("batch.create", BatchCreateParams, BatchResult)
BATCH_ADD = Verb("batch.add", BatchAddParams, BatchProblems, idempotent=True)
BATCH_CHECK = Verb("batch.check", BatchParams, BatchProblems, idempotent=True)
BATCH_PLAN = Verb("batch.plan", BatchParams, Forecast, idempotent=True)
BATCH_DISCARD = Verb("batch.discard", BatchParams, Nothing, idempotent=True)
BATCH_RUN = Verb("batch.run", BatchRunParams, BatchResult, cancellable=True)
BATCH_FOLLOW = Verb("batch.follow", BatchParams, BatchResult, cancellable=True, idempotent=True)
BATCH_LIST = Verb("batch.list", Nothing, BatchesResult, idempotent=True)
BATCH_GET = Verb("batch.get", BatchParams, BatchResult, idempotent=True)
BATCH_TASKS = Verb("batch.tasks", BatchPageParams, BatchTasksResult, idempotent=True)
BATCH_ENDED = Verb("batch.ended", BatchPageParams, BatchTasksResult, idempotent=True)
BATCH_REPORT = Verb("batch.report", BatchReportParams, BatchReportResult, idempotent=True)
BATCH_SCORES = Verb("batch.scores", BatchParams, BatchScoresResult, idempotent=True)
BATCH_PAUSE = Verb("batch.pause", BatchParams, BatchResult, idempotent=True)
BATCH_STOP = Verb("batch.stop", BatchParams, BatchResult, idempotent=True)
BATCH_CANCEL = Verb("batch.cancel", BatchParams, BatchResult)
BATCH_SET = Verb("batch.set", BatchSetParams, BatchChanged, idempotent=True)
BATCH_REQUEUE = Verb("batch.requeue", BatchRequeueParams, BatchChanged)
BATCH_WITHDRAW = Verb("batch.withdraw", BatchWithdrawParams, BatchResult)
