"""The tries of a batch's tasks: each from its start to its end in the store, in a task of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import trio

from cms.batch import ends, retry, reuse, schedule
from cms.batch.ends import AtWork, End, Report
from cms.batch.model import BatchRecord, Task, TaskResult, TaskStatus
from cms.batch.schedule import BatchEvent, Ended, State
from cms.errors import ClaudeNotFound, ClaudeUnfit, CmsError, ContainmentError, StoreError
from cms.fleet.batch_sessions import News
from cms.fleet.batch_texts import texts_of
from cms.fleet.crew import Crew, Elsewhere, Job, Lost, NotDone
from cms.session.model import DelegateResult, Outcome
from cms.store import batch_cache, batch_tasks
from cms.store.store import Store


class Board(Protocol):
    """What tries want of the engine that has them made."""

    record: BatchRecord

    @property
    def state(self) -> State:
        """As it stands now."""

    def now(self) -> float:
        """By the clock on the wall."""

    def tell(self, event: BatchEvent) -> None:
        """News for the schedule."""

    def warn(self, text: str) -> None:
        """Something beside the work went wrong."""

    def update(self, **changes: object) -> None:
        """Change the record."""

    def changed(self) -> None:
        """Wake whoever waits for a change."""

    def note_walls(self, result: DelegateResult) -> None:
        """Warn of what is the same for each task in a folder."""

    async def after_end(self, task: Task) -> None:
        """A task is over, and that is in the store."""


class Tries:
    """The tries of one batch.

    Attributes:
        scopes: of those under way, by task; cancelling one ends the try in a way that it can go on from.
        over, worked: how many tasks are over, and the seconds that they took.
    """

    def __init__(self, board: Board, store: Store, crew: Crew, jitter: Callable[[], float]) -> None:
        self.scopes: dict[int, trio.CancelScope] = {}
        self.over = 0
        self.worked = 0.0
        self._board = board
        self._store = store
        self._crew = crew
        self._jitter = jitter
        self._begun: dict[int, float] = {}
        self._told: set[str] = set()
        self._withdrawn: dict[int, str] = {}  # those that are not wanted any more, and why

    def begin(self, task: Task) -> None:
        """It is running in the store; `work` does it."""
        self._begun[task.seq] = trio.current_time()
        self.scopes[task.seq] = trio.CancelScope()

    def spans(self) -> list[float]:
        """For how long each of those under way has run."""
        return [trio.current_time() - begun for begun in self._begun.values()]

    def withdraw(self, seqs: Sequence[int], reason: str) -> None:
        """End these; nobody wants them any more."""
        for seq in seqs:
            if (scope := self.scopes.get(seq)) is not None:
                self._withdrawn[seq] = reason
                scope.cancel(reason=reason)

    async def work(self, task: Task, *, again: bool) -> None:
        """One try of a task, from its start to its end in the store."""
        scope = self.scopes[task.seq]
        report: Report | None = None
        error: NotDone | Elsewhere | Lost | None = None
        heard = False
        began = trio.current_time()

        def tell(word: News) -> None:
            nonlocal heard
            if word == "retry":
                self._board.tell(schedule.ApiRetried(self._board.now(), task.seq))
            elif not heard:
                heard = True
                self._board.tell(schedule.Answered(self._board.now(), task.seq))

        try:
            with scope:
                try:
                    texts = await texts_of(self._store, self._board.record.id, task)
                    task = await self._find_result(task, *texts)
                    if not task.reused:
                        report = await self._crew.do(Job(task, *texts, again=again), tell)
                except (NotDone, Elsewhere, Lost) as caught:
                    error = caught
            # What follows must be written down whoever wants this task to end now.
            took = trio.current_time() - began
            was_cut = self._board.state.ending or self._crew.goes_on  # by us, or by a node's own people
            with trio.CancelScope(shield=True):
                if task.reused:
                    await self._put(task, reuse.reused(task))
                elif isinstance(error, NotDone):
                    await self._settle_error(task, error, took)
                elif error is not None:
                    await self._settle_afar(task, error, took)
                elif report is None or (was_cut and report.result.status is Outcome.INTERRUPTED):
                    await self.settle_cut(task, took)
                else:
                    await self._settle(task, report, took, heard=heard or bool(report.result.turns))
        except CmsError as caught:
            self._board.tell(schedule.Broken(self._board.now(), str(caught)))
            self._board.tell(Ended(self._board.now(), task.seq, TaskStatus.RUNNING, heard=False))
        finally:
            del self.scopes[task.seq]
            self._begun.pop(task.seq, None)
            self._withdrawn.pop(task.seq, None)
            self._board.changed()

    async def _find_result(self, task: Task, prompt: str, context: str) -> Task:
        """The task with the result that an earlier one has, or with the key under which its own will be kept.

        Not where it goes on, or leaves a change beside its answer.
        """
        options = self._board.record.options
        if not options.cache or task.go_on or task.options.session.isolated:
            return task
        around = await self._around(task)
        if not around:
            return task
        task = msgspec.structs.replace(
            task, key=reuse.key_of(task.options, prompt, context, around), around=around
        )
        if not task.requeued:
            found = await self._store.read(batch_cache.find, task.key, reuse.wanted(options.attempts))
            if found is not None:
                batch_id, other = found
                whose = other.reused or f"{batch_id}/{other.name}"
                return msgspec.structs.replace(task, reused=whose, result=other.result, status=other.status)
        await self._store.write_shared(batch_tasks.note_key, self._board.record.id, task)
        return task

    async def _around(self, task: Task) -> str:
        """What its result rests on beside itself; "" if nobody can tell, which is told once."""
        try:
            return await self._crew.around(task)
        except StoreError:
            raise
        except CmsError as error:
            if (told := f"no result is reused or kept: {error}") not in self._told:
                self._told.add(told)
                self._board.warn(told)
            return ""

    async def _settle(self, task: Task, report: Report, took: float, *, heard: bool = False) -> None:
        """Judge what a try came to, write it down, tell the schedule."""
        tried = retry.try_of(task, report.result, acted=report.acted)
        terms = retry.terms_of(task, self._board.record.options.max_api_failures)
        fate = retry.judge(tried, terms, self._board.now(), self._jitter())
        await self._put(task, ends.reported(task, report, fate, took, heard=heard))
        self._board.note_walls(report.result)

    async def _settle_error(self, task: Task, failed: NotDone, took: float) -> None:
        """Nothing was started, or the house itself failed."""
        error = failed.error
        if isinstance(error, StoreError):
            raise error
        if isinstance(error, ClaudeNotFound | ClaudeUnfit | ContainmentError):
            # It would be the same for every task: put this one back, and stop.
            fate = retry.Fate(TaskStatus.WAITING, go_on=task.go_on, reason=str(error))
            self._board.tell(schedule.Broken(self._board.now(), str(error)))
        else:
            fate = retry.Fate(TaskStatus.FAILED)
        result = TaskResult(error=str(error), duration=took)
        await self._put(task, End(fate, result, failed.cost, not failed.begun))

    async def _settle_afar(self, task: Task, error: Elsewhere | Lost, took: float) -> None:
        """Where it was to be done, it was not taken; or who took it is lost."""
        if isinstance(error, Lost):
            rerun = self._board.record.options.rerun_lost
            end = ends.lost(task, error.message, error.cost, took, error.place, rerun=rerun)
        else:
            end = ends.refused(task, str(error), self._jitter())
        await self._put(task, end)

    async def settle_cut(self, task: Task, took: float) -> None:
        """A try was cut off: by us now, or by a crash that was found later."""
        reason = self._withdrawn.get(task.seq, "")
        try:
            found = await self._crew.look(task, check=not self._board.state.ending and not reason)
        except Lost as error:
            await self._settle_afar(task, error, took)
            return
        unchecked = isinstance(found, Report) and not found.checked and not self._board.state.give_up
        if isinstance(found, Report) and reason and not found.checked:
            await self._put(
                task, ends.reported(task, found, retry.Fate(TaskStatus.CANCELLED, reason=reason), took)
            )
        elif isinstance(found, AtWork) or unchecked:
            # It stays `running`: whoever goes on with the batch looks at it, and checks it, first.
            self._board.tell(Ended(self._board.now(), task.seq, TaskStatus.RUNNING, heard=False))
        elif isinstance(found, Report):
            await self._settle(task, found, found.result.duration / 1000)
        else:
            spent = (await self._crew.used(task)).cost
            gone = ends.withdrawn(task, found, spent, took, reason) if reason else None
            await self._put(task, gone or ends.cut_off(task, found, spent, took))

    async def _put(self, task: Task, end: End) -> None:
        now = self._board.now()
        used = await self._crew.used(task)
        end = msgspec.structs.replace(end, tokens=0 if end.undone else max(0, used.tokens - task.paid_tokens))
        task = end.applied(task, now)
        kept = task.key and not task.reused and task.status in reuse.KEPT
        if kept and await self._around(task) != task.around:
            task = msgspec.structs.replace(task, key="")  # it has changed something
        left = task.options.session.most
        if left is not None and task.go_on:
            left = max(0.0, left - used.cost)
        settled = await self._store.write_shared(
            batch_tasks.settle,
            self._board.record.id,
            task,
            end.cost,
            exact=end.exact,
            tokens=end.tokens,
            left=left,
            worked=end.worked if end.is_last else 0.0,
            working=self._board.state.work,
        )
        if end.is_last:
            self.over += 1 + settled.skipped
            self.worked += end.worked
        record = self._board.record
        self._board.update(
            spent=record.spent + end.cost,
            exact=record.exact and end.exact,
            tokens=record.tokens + end.tokens,
            reused=record.reused + bool(task.reused),
        )
        self._board.tell(
            Ended(
                now,
                task.seq,
                task.status,
                end.cost,
                end.exact,
                settled.released,
                settled.skipped,
                end.heard,
                end.fate.trouble,
                end.resets_at,
                task.reason or (end.result.error if end.result is not None else ""),
                self._jitter(),
                end.tokens,
            )
        )
        if end.is_last:
            await self._board.after_end(task)
