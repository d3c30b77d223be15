"""What each `batch.` method does, on top of `fleet.batches`. The rules of `methods` hold here too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from cms.batch.forecast import Forecast
from cms.batch.model import Task, TaskView, view
from cms.config import caller
from cms.daemon.call import Begin, Call, bind, quick
from cms.fleet.batch_engine import render_report
from cms.fleet.batches import Batches
from cms.rpc.api import Nothing
from cms.rpc.api_batch import (
    BatchAddParams,
    BatchCreateParams,
    BatchesReply,
    BatchPageParams,
    BatchParams,
    BatchProblems,
    BatchReply,
    BatchReportParams,
    BatchReportReply,
    BatchRunParams,
    BatchTasksReply,
)
from cms.store import batch_tasks, batches
from cms.store.database import Database

#: Problems that are told at once.
_TOLD = 20


class BatchMethods:
    """The methods, bound to one supervisor's batches. `table` is for `Methods`."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._store = batches.store
        self.table: Mapping[str, Begin] = {
            "batch.create": bind(BatchCreateParams, quick(self.create)),
            "batch.add": bind(BatchAddParams, quick(self.add)),
            "batch.check": bind(BatchParams, quick(self.check)),
            "batch.plan": bind(BatchParams, quick(self.plan)),
            "batch.discard": bind(BatchParams, quick(self.discard)),
            "batch.run": bind(BatchRunParams, self.run),
            "batch.follow": bind(BatchParams, self.follow),
            "batch.list": bind(Nothing, quick(self.list_)),
            "batch.get": bind(BatchParams, quick(self.get)),
            "batch.tasks": bind(BatchPageParams, quick(self.tasks)),
            "batch.ended": bind(BatchPageParams, quick(self.ended)),
            "batch.report": bind(BatchReportParams, quick(self.report)),
            "batch.pause": bind(BatchParams, quick(self.pause)),
            "batch.stop": bind(BatchParams, quick(self.stop)),
            "batch.cancel": bind(BatchParams, quick(self.cancel)),
        }

    # --- making one -----------------------------------------------------------------------------

    async def create(self, params: BatchCreateParams) -> BatchReply:
        return BatchReply(await self._batches.create(params.options, params.stem))

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

    async def run(self, call: Call, params: BatchRunParams) -> BatchReply:
        # For every session that its tasks start: how many run at once is the batch's own business.
        caller.set(msgspec.structs.replace(caller.get(), counted=False))
        engine = await self._batches.start(params.id, params.options)
        if not params.wait:
            return BatchReply(await engine.summary())
        with call.scope:
            return BatchReply(await engine.wait())
        # The client that it belongs to has gone, or wants it to end.
        engine.stop("the command that ran it was ended; `cms batch resume` goes on")
        return BatchReply(await engine.wait())

    async def follow(self, call: Call, params: BatchParams) -> BatchReply:
        record = await self._batches.summary(params.id)
        engine = self._batches.engine(record.id)
        if engine is not None:
            with call.scope:
                await engine.wait()
        return BatchReply(await self._batches.summary(record.id))

    async def pause(self, params: BatchParams) -> BatchReply:
        return BatchReply(await self._batches.pause(params.id))

    async def stop(self, params: BatchParams) -> BatchReply:
        return BatchReply(await self._batches.stop(params.id))

    async def cancel(self, params: BatchParams) -> BatchReply:
        return BatchReply(await self._batches.cancel(params.id))

    # --- questions ------------------------------------------------------------------------------

    async def list_(self, _params: Nothing) -> BatchesReply:
        return BatchesReply(tuple(await self._batches.summaries()))

    async def get(self, params: BatchParams) -> BatchReply:
        return BatchReply(await self._batches.summary(params.id))

    async def tasks(self, params: BatchPageParams) -> BatchTasksReply:
        return await self._page(params, batch_tasks.page, lambda task: task.seq)

    async def ended(self, params: BatchPageParams) -> BatchTasksReply:
        return await self._page(params, batch_tasks.ended, lambda task: task.order)

    async def _page(
        self,
        params: BatchPageParams,
        read: Callable[[Database, str, int, int], list[Task]],
        place: Callable[[Task], int],
    ) -> BatchTasksReply:
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
        return BatchTasksReply(tuple(views), last if more else None)

    async def report(self, params: BatchReportParams) -> BatchReportReply:
        record = await self._batches.summary(params.id)
        return BatchReportReply(await render_report(self._store, record, html=params.html))


#: Characters of responses in one page: a line of the protocol is bounded.
_MOST = 4 * 1024 * 1024


def _problems(found: list[str]) -> BatchProblems:
    told = found[:_TOLD]
    if len(found) > _TOLD:
        told.append(f"and {len(found) - _TOLD} more")
    return BatchProblems(tuple(told))
