"""Batches, on top of `fleet.batches`. The rules of `handlers.sessions` hold here too."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cms.batch.forecast import Forecast
from cms.batch.model import ERRORED, Task, TaskView, view
from cms.config import caller
from cms.daemon.call import Call, Handler, bind, quick
from cms.fleet.batches import Batches
from cms.fleet.notify import check_news
from cms.fleet.results_file import render_report, scores_of
from cms.rpc.batches import (
    BATCH_ADD,
    BATCH_CANCEL,
    BATCH_CHECK,
    BATCH_CREATE,
    BATCH_DISCARD,
    BATCH_ENDED,
    BATCH_FOLLOW,
    BATCH_GET,
    BATCH_LIST,
    BATCH_PAUSE,
    BATCH_PLAN,
    BATCH_REPORT,
    BATCH_REQUEUE,
    BATCH_RUN,
    BATCH_SCORES,
    BATCH_SET,
    BATCH_STOP,
    BATCH_TASKS,
    BATCH_WITHDRAW,
    BatchAddParams,
    BatchChanged,
    BatchCreateParams,
    BatchesResult,
    BatchPageParams,
    BatchParams,
    BatchProblems,
    BatchReportParams,
    BatchReportResult,
    BatchRequeueParams,
    BatchResult,
    BatchRunParams,
    BatchScoresResult,
    BatchSetParams,
    BatchTasksResult,
    BatchWithdrawParams,
)
from cms.rpc.verbs import Nothing
from cms.store import batch_tasks, batches
from cms.store.batch_steering import FAILED
from cms.store.database import Database

#: Problems that are told at once.
_TOLD = 20


class BatchHandlers:
    """The verbs of batches, bound to one supervisor's batches."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._store = batches.store
        self.all: tuple[Handler, ...] = (
            bind(BATCH_CREATE, quick(self.create)),
            bind(BATCH_ADD, quick(self.add)),
            bind(BATCH_CHECK, quick(self.check)),
            bind(BATCH_PLAN, quick(self.plan)),
            bind(BATCH_DISCARD, quick(self.discard)),
            bind(BATCH_RUN, self.run),
            bind(BATCH_FOLLOW, self.follow),
            bind(BATCH_LIST, quick(self.list_)),
            bind(BATCH_GET, quick(self.get)),
            bind(BATCH_TASKS, quick(self.tasks)),
            bind(BATCH_ENDED, quick(self.ended)),
            bind(BATCH_REPORT, quick(self.report)),
            bind(BATCH_SCORES, quick(self.scores)),
            bind(BATCH_PAUSE, quick(self.pause)),
            bind(BATCH_STOP, quick(self.stop)),
            bind(BATCH_CANCEL, quick(self.cancel)),
            bind(BATCH_SET, quick(self.set_)),
            bind(BATCH_REQUEUE, quick(self.requeue)),
            bind(BATCH_WITHDRAW, quick(self.withdraw)),
        )

    # --- making one -----------------------------------------------------------------------------

    async def create(self, params: BatchCreateParams) -> BatchResult:
        await check_news(params.options)
        return BatchResult(await self._batches.create(params.options, params.stem))

    async def add(self, params: BatchAddParams) -> BatchProblems:
        tasks = ((task.spec, task.line) for task in params.tasks)
        return _problems(await self._batches.add(params.id, params.first, tasks))

    async def check(self, params: BatchParams) -> BatchProblems:
        return _problems(await self._batches.check(params.id))

    async def plan(self, params: BatchParams) -> Forecast:
        return await self._batches.plan(params.id)

    async def discard(self, params: BatchParams) -> Nothing:
        await self._batches.discard(params.id)
        return Nothing()

    # --- running one ----------------------------------------------------------------------------

    async def run(self, call: Call, params: BatchRunParams) -> BatchResult:
        # For every session that its tasks start: how many run at once is the batch's own business.
        caller.set(msgspec.structs.replace(caller.get(), counted=False))
        engine = await self._batches.start(params.id, params.options)
        if not params.wait:
            return BatchResult(await engine.summary())
        with call.scope:
            return BatchResult(await engine.wait())
        # The client that it belongs to has gone, or wants it to end.
        engine.stop("the command that ran it has ended; `cms batch resume` goes on")
        return BatchResult(await engine.wait())

    async def follow(self, call: Call, params: BatchParams) -> BatchResult:
        record = await self._batches.summary(params.id)
        await self._batches.recover_one(record.id)
        engine = self._batches.engine(record.id)
        if engine is not None:
            with call.scope:
                await engine.wait()
        return BatchResult(await self._batches.summary(record.id))

    async def pause(self, params: BatchParams) -> BatchResult:
        return BatchResult(await self._batches.pause(params.id, params.reason))

    async def stop(self, params: BatchParams) -> BatchResult:
        return BatchResult(await self._batches.stop(params.id, params.reason))

    async def cancel(self, params: BatchParams) -> BatchResult:
        return BatchResult(await self._batches.cancel(params.id, params.reason))

    async def set_(self, params: BatchSetParams) -> BatchChanged:
        return BatchChanged(*await self._batches.alter(params.id, params.changes, params.reason))

    async def requeue(self, params: BatchRequeueParams) -> BatchChanged:
        caller.set(msgspec.structs.replace(caller.get(), counted=False))  # as in `run`
        statuses = ERRORED if params.errored else FAILED
        return BatchChanged(
            *await self._batches.requeue(
                params.id, params.names, statuses, params.reason, options=params.options
            )
        )

    async def withdraw(self, params: BatchWithdrawParams) -> BatchResult:
        return BatchResult(await self._batches.withdraw(params.id, params.names, params.reason))

    # --- questions ------------------------------------------------------------------------------

    async def list_(self, _params: Nothing) -> BatchesResult:
        return BatchesResult(tuple(await self._batches.summaries()))

    async def get(self, params: BatchParams) -> BatchResult:
        return BatchResult(await self._batches.summary(params.id))

    async def tasks(self, params: BatchPageParams) -> BatchTasksResult:
        return await self._page(params, batch_tasks.page, lambda task: task.seq)

    async def ended(self, params: BatchPageParams) -> BatchTasksResult:
        return await self._page(params, batch_tasks.ended, lambda task: task.order)

    async def _page(
        self,
        params: BatchPageParams,
        read: Callable[[Database, str, int, int], list[Task]],
        place: Callable[[Task], int],
    ) -> BatchTasksResult:
        record = await self._store.read(batches.find, params.id)
        views: list[TaskView] = []
        size = 0
        last = params.after
        tasks = await self._store.read(read, record.id, params.after, params.limit)
        for task in tasks:
            told = view(task)
            size += len(told.response)
            if views and size > _MOST:
                break
            views.append(told)
            last = place(task)
        more = len(views) < len(tasks) or len(tasks) == params.limit
        return BatchTasksResult(tuple(views), last if more else None)

    async def report(self, params: BatchReportParams) -> BatchReportResult:
        record = await self._batches.summary(params.id)
        return BatchReportResult(await render_report(self._store, record, html=params.html))

    async def scores(self, params: BatchParams) -> BatchScoresResult:
        record = await self._store.read(batches.find, params.id)
        costs = dict(await self._store.read(batches.cost_by_model, record.id))
        return BatchScoresResult(await scores_of(self._store, record), costs)


#: Characters of responses in one page: a line of the protocol is bounded.
_MOST = 4 * 1024 * 1024


def _problems(found: list[str]) -> BatchProblems:
    told = found[:_TOLD]
    if len(found) > _TOLD:
        told.append(f"and {len(found) - _TOLD} more")
    return BatchProblems(tuple(told))
