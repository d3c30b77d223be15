"""The words for batches: made in pieces, started, followed, asked about.

A batch comes in by chunks (`batch.create`, `batch.add` ..., `batch.check`), so that neither end ever holds a
million tasks, and is started by `batch.run`. A client that waits there owns the batch: if it cancels or goes
away, the batch comes to rest and can be resumed. `batch.follow` only watches.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.batch.forecast import Forecast
from cms.batch.model import BatchOptions, BatchRecord, TaskSpec, TaskView
from cms.rpc.api import Nothing
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
    """One batch, by its id or the beginning of it."""

    id: str


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


class BatchProblems(Record, frozen=True):
    """What is wrong with the tasks, a line each; empty if nothing is."""

    problems: tuple[str, ...] = ()


class BatchReply(Record, frozen=True):
    batch: BatchRecord


class BatchesReply(Record, frozen=True):
    batches: tuple[BatchRecord, ...]


class BatchTasksReply(Record, frozen=True):
    """`next`: what to ask for `after` to get the next page; None: there is none."""

    tasks: tuple[TaskView, ...]
    next: int | None = None


class BatchReportReply(Record, frozen=True):
    text: str


METHODS: dict[str, tuple[type[Record], tuple[type[Record], ...]]] = {
    "batch.create": (BatchCreateParams, (BatchReply,)),
    "batch.add": (BatchAddParams, (BatchProblems,)),
    "batch.check": (BatchParams, (BatchProblems,)),
    "batch.plan": (BatchParams, (Forecast,)),
    "batch.discard": (BatchParams, (Nothing,)),
    "batch.run": (BatchRunParams, (BatchReply,)),
    "batch.follow": (BatchParams, (BatchReply,)),
    "batch.list": (Nothing, (BatchesReply,)),
    "batch.get": (BatchParams, (BatchReply,)),
    "batch.tasks": (BatchPageParams, (BatchTasksReply,)),
    "batch.ended": (BatchPageParams, (BatchTasksReply,)),
    "batch.report": (BatchReportParams, (BatchReportReply,)),
    "batch.pause": (BatchParams, (BatchReply,)),
    "batch.stop": (BatchParams, (BatchReply,)),
    "batch.cancel": (BatchParams, (BatchReply,)),
}
