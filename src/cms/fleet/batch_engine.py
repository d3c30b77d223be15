"""A batch at work: the engine that carries out what `cms.batch.schedule` decides.

One `Engine` runs one batch; `fleet.batches` has all of a supervisor's. It is a loop (decide, act, wait for
news) and a task of its own for each task of the batch that runs; only the loop changes the schedule.

What makes it safe to kill at any instant is the order of things, not the catching of signals:

1. a task is `running` in the store before its session is made;
2. the session is entered in the store before its process starts (the supervisor's own promise);
3. the end of a task is one transaction with all that follows from it.

So after a crash those that are `running` in the store may have been begun, and the session of each tells how
far it came (`Crew.look`). That is looked into first (`cms.batch.retry.salvage`).
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import trio

from cms.batch import ends, forecast, retry, schedule, throttle
from cms.batch.allowance import Allowance
from cms.batch.ends import AtWork, End, Report
from cms.batch.forecast import default_parallel
from cms.batch.model import (
    ACTIVE,
    OVER,
    BatchRecord,
    BatchStatus,
    BestOf,
    Task,
    TaskResult,
    TaskStatus,
    view,
)
from cms.batch.schedule import Asked, BatchEvent, Ended, Phase, Start, State, decide, fold, wake_at
from cms.errors import ClaudeNotFound, ClaudeUnfit, CmsError, ContainmentError, InternalError, StoreError
from cms.fleet import machine
from cms.fleet.batch_sessions import News
from cms.fleet.batch_texts import texts_of
from cms.fleet.crew import Crew, Elsewhere, Job, Lost, NotDone
from cms.fleet.notify import HOOK_TIMEOUT, Notifier
from cms.fleet.results_file import Results, write_patch, write_report
from cms.session.model import Outcome
from cms.store import batch_scores, batch_tasks, batches
from cms.store.store import Store

log = logging.getLogger(__name__)

#: Warnings that are kept with a batch.
_WARNINGS: Final = 5
_PAGE: Final = 500
#: Seconds between two starts on one core: starting is what a claude works hardest at.
_GAP: Final = 0.2
#: Seconds by which the clock on the wall must be off before it has jumped; between two looks at it.
_JUMP: Final = 2.0
_LOOK: Final = 20.0


class Engine:
    """One batch at work. `run` returns when it has come to an end, or to rest.

    Attributes:
        record: as it stands; counts and money as of the last event.
    """

    def __init__(
        self,
        record: BatchRecord,
        store: Store,
        crew: Crew,
        *,
        umask: int = -1,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.record = record
        self._store = store
        self._crew = crew
        self._jitter = jitter
        self._clock = clock
        self._offset = clock() - trio.current_time()
        self._options = record.options
        self._state = State(throttle=throttle.initial(1), allowance=Allowance())
        self._inbox: deque[BatchEvent] = deque()
        self._news = trio.Event()
        self._change = trio.Event()
        self._scopes: dict[int, trio.CancelScope] = {}
        self._begun: dict[int, float] = {}
        self._notifier = Notifier(record.options, self.warn, umask=umask)
        self._results = Results(store, record, self.warn)
        self._nursery: trio.Nursery | None = None
        self._over = 0
        self._worked = 0.0
        self._shutting_down = False
        self._done = trio.Event()

    def __repr__(self) -> str:
        return f"<Engine {self.record.id} {self.record.status} running={len(self._state.running)}>"

    def _now(self) -> float:
        return self._clock()

    def _notice_jump(self) -> None:
        """The clock on the wall may be set, and goes on while the machine sleeps, which no span may feel."""
        offset = self._clock() - trio.current_time()
        if abs(by := offset - self._offset) > _JUMP:
            self._offset = offset
            self._fold(schedule.ClockMoved(self._now(), by))
            if self.record.deadline is not None:
                self._update(deadline=self.record.deadline + by)

    # --- what others may ask ----------------------------------------------------------------------

    def pause(self, reason: str = "") -> None:
        """Start nothing more; what runs runs on."""
        self._tell(Asked(self._now(), "pause", reason or "paused"))

    def resume(self) -> None:
        self._tell(Asked(self._now(), "resume"))

    def stop(self, reason: str) -> None:
        """End what runs, in a way that it can go on from; the batch can be resumed."""
        self._tell(Asked(self._now(), "stop", reason))

    def cancel(self, reason: str) -> None:
        """End what runs and give the rest up."""
        self._tell(Asked(self._now(), "cancel", reason))

    def shut_down(self) -> None:
        """The process is about to end: rest as after a crash, only in better order."""
        self._shutting_down = True
        self.stop("cms is shutting down")

    @property
    def ending(self) -> bool:
        """Whether it is on its way to its end, or to rest: nothing can be asked of it any more."""
        return self._state.phase in (Phase.STOPPING, Phase.ENDED)

    async def wait(self) -> BatchRecord:
        """Until it has come to its end, or to rest."""
        await self._done.wait()
        return self.record

    async def rested(self) -> None:
        """Until what was asked so far has been taken note of."""
        while self._inbox and not self._done.is_set():
            await self._change.wait()

    def warn(self, text: str) -> None:
        """Something beside the work went wrong: kept with the batch, logged, and that is all."""
        log.warning("batch %s: %s", self.record.id, text)
        self._update(warnings=(*self.record.warnings, text)[-_WARNINGS:])

    # --- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until the end, or until somebody wants it to rest. Raises only cancellations."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._notifier.run)
                await nursery.start(self._crew.run, self._on_crew)
                try:
                    await self._begin()
                    await self._loop()
                except CmsError as error:
                    # The store cannot be written: nothing more can be promised. What runs is ended below.
                    await self._lay_down_broken(str(error))
                with trio.move_on_after(2 * HOOK_TIMEOUT):
                    await self._notifier.drained()
                if self.record.warnings:
                    with suppress(CmsError):
                        await self._store.write(batches.save, self.record)
                nursery.cancel_scope.cancel(reason="the batch has come to its end")
        except Exception:
            log.exception("batch %s ended by a bug of ours", self.record.id)
            await self._lay_down_broken("a bug of ours ended it: see `cms daemon logs`")
        finally:
            self._results.close()
            self._done.set()
            self._changed()

    async def _lay_down_broken(self, reason: str) -> None:
        """It is at rest, and can be gone on with like after a crash."""
        log.error("batch %s stops: %s", self.record.id, reason)
        self._update(status=BatchStatus.STOPPED, reason=reason, stopped_by="trouble")
        with suppress(CmsError):
            await self._store.write(batches.save, self.record)

    async def _begin(self) -> None:
        options, batch_id = self._options, self.record.id
        cap = self._cap()
        here = 0.0 if self._crew.goes_on else _GAP / machine.cores()
        gap = options.stagger if options.stagger is not None else here
        now = self._now()
        followed = await self._follow_on() if self._crew.goes_on else []
        if not followed:
            await self._salvage()
        money = await self._store.read(batches.spending, batch_id)
        counts = await self._store.read(batches.counts, batch_id)
        paused = self.record.status is BatchStatus.PAUSED
        deadline = self.record.deadline
        if deadline is None and options.max_time is not None:
            deadline = now + options.max_time
        current = throttle.initial(cap, gap)
        if self.record.status is BatchStatus.PARKED and self.record.until is not None:
            current = msgspec.structs.replace(
                current, closed_until=self.record.until, parked=True, why=self.record.reason
            )
        self._state = State(
            throttle=current,
            allowance=Allowance(cap=options.max_cost, spent=money.counted),
            deadline=float("inf") if deadline is None else deadline,
            phase=Phase.PAUSED if paused else Phase.OPEN,
            waiting=counts.get(TaskStatus.WAITING, 0) + len(followed),
            failed=sum(counts.get(status, 0) for status in OVER - {TaskStatus.COMPLETED}),
            parked_told=current.closed_until,
        )
        self._over = sum(counts.get(status, 0) for status in OVER)
        self._worked = money.worked
        self._update(
            status=BatchStatus.PAUSED if paused else BatchStatus.RUNNING,
            started=self.record.started or now,
            ended=None,
            deadline=deadline,
            until=None,
            stopped_by="",
            reason=self.record.reason if paused else "",
            counts=counts,
            total=sum(counts.values()),
            spent=money.spent,
            exact=money.exact,
            parallel=cap,
        )
        await self._store.write(batches.save, self.record)
        await self._results.open()
        for task in followed:
            self._launch(task, task.reserved or None, again=True)

    def _cap(self) -> int:
        """How many tasks at once, at most."""
        room = self._crew.room()
        if room is None:
            return self._options.max_parallel or default_parallel(machine.available_memory(), machine.cores())
        return min(room, self._options.max_parallel or room)

    def _on_crew(self) -> None:
        """Who does the tasks is more than before, or fewer, or cannot be reached."""
        if self._crew.room() is not None:
            self._tell(schedule.Resized(self._now(), self._cap()))

    async def _loop(self) -> None:
        while self._state.phase is not Phase.ENDED:
            self._notice_jump()
            while self._inbox:
                self._state = fold(self._state, self._inbox.popleft())
            await self._note_phase()
            await self._note_engine()
            now = self._now()
            actions = decide(self._state, now)
            starts = [action for action in actions if isinstance(action, Start)]
            if starts:
                await self._start(starts)
            elif actions:
                for action in actions:
                    await self._carry_out(action)
            elif not self._inbox:
                await self._rest(wake_at(self._state, now), now)
            self._changed()

    async def _note_phase(self) -> None:
        """What a person wants of the whole batch is on disk before it is acted on."""
        phase, status = self._state.phase, self.record.status
        if phase is Phase.PAUSED and status is not BatchStatus.PAUSED:
            self._update(status=BatchStatus.PAUSED, reason=self._state.reason)
        elif phase is Phase.OPEN and status is BatchStatus.PAUSED:
            self._update(status=BatchStatus.RUNNING, reason="")
        else:
            return
        await self._store.write(batches.save, self.record)

    async def _rest(self, wake: float | None, now: float) -> None:
        self._news = trio.Event()
        with trio.move_on_after(float("inf") if wake is None else min(max(wake - now, 0.0), _LOOK)):
            await self._news.wait()
            return
        self._state = fold(self._state, schedule.Woke(self._now()))

    def _tell(self, event: BatchEvent) -> None:
        self._inbox.append(event)
        self._news.set()

    async def _carry_out(self, action: schedule.Action) -> None:
        now = self._now()
        match action:
            case schedule.Fetch(most=most, fitting=fitting):
                page = await self._store.read(batch_tasks.candidates, self.record.id, now, most, fitting)
                self._fold(schedule.Paged(now, *page, fitting is not None))
            case schedule.TellPark(until=until, why=why):
                self._fold(schedule.ParkTold(now, until))
                self._update(status=BatchStatus.PARKED, until=until, reason=why)
                await self._store.write(batches.save, self.record)
                log.info("batch %s is parked until %.0f: %s", self.record.id, until, why)
                self._notifier.parked(self._summary())
            case schedule.EndAll(reason=reason):
                if self._shutting_down:
                    self._crew.let_go()
                for scope in self._scopes.values():
                    scope.cancel(reason=reason)
                self._fold(schedule.EndTold(now))
            case schedule.Finish():
                await self._finish(action)
                self._fold(schedule.Finished(self._now()))
            case _:
                raise InternalError(f"no way to carry out {action!r}")

    def _fold(self, event: BatchEvent) -> None:
        self._state = fold(self._state, event)

    async def _finish(self, finish: schedule.Finish) -> None:
        status, now = finish.status, self._now()
        if status is BatchStatus.CANCELLED:
            await self._store.write(batch_tasks.cancel_rest, self.record.id, now)
        resting = self._shutting_down and finish.why == "asked" and status is BatchStatus.STOPPED
        if resting and self._options.detached:
            status = BatchStatus.RUNNING  # whoever comes up next goes on with it by itself
        elif self._options.best_of is not None and status in (BatchStatus.COMPLETED, BatchStatus.FAILED):
            # Of each task one attempt counts.
            status = (
                BatchStatus.FAILED if await self._choose(self._options.best_of) else BatchStatus.COMPLETED
            )
        counts = await self._store.read(batches.counts, self.record.id)
        ended = None if status in ACTIVE else now
        self._update(
            status=status, reason=finish.reason, stopped_by=finish.why, ended=ended, until=None, counts=counts
        )
        await self._store.write(batches.save, self.record)
        await self._results.write()
        await write_report(self._store, self.record, self.warn)
        log.info("batch %s: %s %s", self.record.id, status.value, finish.reason)
        if ended is not None:
            self._notifier.done(self._summary())

    async def _choose(self, how: BestOf) -> int:
        """Choose an attempt of each task; returns of how many none completed."""
        without = 0
        after: int | None = -1
        while after is not None:
            after, more = await self._store.write(batch_scores.choose, self.record.id, how, after)
            without += more
        return without

    # --- tasks ------------------------------------------------------------------------------------

    async def _start(self, starts: Sequence[Start]) -> None:
        now = self._now()
        limits = {start.seq: start.limit for start in starts}
        begun = await self._store.write(batch_tasks.begin, self.record.id, list(limits), now)
        if len(begun) < len(starts):
            raise InternalError(f"batch {self.record.id}: a task that was waiting is not waiting any more")
        if self.record.status is BatchStatus.PARKED:
            self._update(status=BatchStatus.RUNNING, until=None, reason="")
            await self._store.write(batches.save, self.record)
        for task in begun:
            self._launch(task, limits[task.seq])

    def _launch(self, task: Task, limit: float | None, *, again: bool = False) -> None:
        assert self._nursery is not None  # noqa: S101 - for the type checker: set before the loop
        self._fold(schedule.Started(self._now(), task.seq, limit))
        self._begun[task.seq] = trio.current_time()
        self._scopes[task.seq] = trio.CancelScope()
        self._nursery.start_soon(partial(self._work, task, again=again))

    async def _note_engine(self) -> None:
        """What the tasks are submitted to is on disk before they are."""
        if self.record.engine != self._crew.known_by:
            self._update(engine=self._crew.known_by)
            await self._store.write(batches.save, self.record)

    async def _work(self, task: Task, *, again: bool) -> None:
        """One try of a task, from its start to its end in the store."""
        scope = self._scopes[task.seq]
        report: Report | None = None
        error: NotDone | Elsewhere | Lost | None = None
        heard = False
        began = trio.current_time()

        def tell(word: News) -> None:
            nonlocal heard
            if word == "retry":
                self._tell(schedule.ApiRetried(self._now(), task.seq))
            elif not heard:
                heard = True
                self._tell(schedule.Answered(self._now(), task.seq))

        try:
            with scope:
                try:
                    texts = await texts_of(self._store, self.record.id, task)
                    report = await self._crew.do(Job(task, *texts, again=again), tell)
                except (NotDone, Elsewhere, Lost) as caught:
                    error = caught
            # What follows must be written down whoever wants this task to end now.
            took = trio.current_time() - began
            was_cut = self._state.ending or self._crew.goes_on  # by us, or by a node's own people
            with trio.CancelScope(shield=True):
                if isinstance(error, NotDone):
                    await self._settle_error(task, error, took)
                elif error is not None:
                    await self._settle_afar(task, error, took)
                elif report is None or (was_cut and report.result.status is Outcome.INTERRUPTED):
                    await self._settle_cut(task, took)
                else:
                    await self._settle(task, report, took, heard=heard or bool(report.result.turns))
        except CmsError as caught:
            self._tell(schedule.Broken(self._now(), str(caught)))
            self._tell(Ended(self._now(), task.seq, TaskStatus.RUNNING, heard=False))
        finally:
            del self._scopes[task.seq]
            self._begun.pop(task.seq, None)

    async def _settle(self, task: Task, report: Report, took: float, *, heard: bool = False) -> None:
        """Judge what a try came to, write it down, tell the schedule."""
        tried = retry.try_of(task, report.result, acted=report.acted)
        terms = retry.terms_of(task, self._options.max_api_failures)
        fate = retry.judge(tried, terms, self._now(), self._jitter())
        await self._put(task, ends.reported(task, report, fate, took, heard=heard))
        self._notifier.note_walls(report.result)

    async def _settle_error(self, task: Task, failed: NotDone, took: float) -> None:
        """Nothing was started, or the house itself failed."""
        error = failed.error
        if isinstance(error, StoreError):
            raise error
        if isinstance(error, ClaudeNotFound | ClaudeUnfit | ContainmentError):
            # It would be the same for every task: put this one back, and stop.
            fate = retry.Fate(TaskStatus.WAITING, go_on=task.go_on, reason=str(error))
            self._tell(schedule.Broken(self._now(), str(error)))
        else:
            fate = retry.Fate(TaskStatus.FAILED)
        result = TaskResult(error=str(error), duration=took)
        await self._put(task, End(fate, result, failed.cost, not failed.begun))

    async def _settle_afar(self, task: Task, error: Elsewhere | Lost, took: float) -> None:
        """Where it was to be done, it was not taken; or who took it is lost."""
        if isinstance(error, Lost):
            rerun = self._options.rerun_lost
            end = ends.lost(task, error.message, error.cost, took, error.place, rerun=rerun)
        else:
            end = ends.refused(task, str(error), self._jitter())
        await self._put(task, end)

    async def _settle_cut(self, task: Task, took: float) -> None:
        """A try was cut off: by us now, or by a crash that was found later."""
        try:
            found = await self._crew.look(task, check=not self._state.ending)
        except Lost as error:
            await self._settle_afar(task, error, took)
            return
        unchecked = isinstance(found, Report) and not found.checked and not self._state.give_up
        if isinstance(found, AtWork) or unchecked:
            # It stays `running`: whoever goes on with the batch looks at it, and checks it, first.
            self._tell(Ended(self._now(), task.seq, TaskStatus.RUNNING, heard=False))
        elif isinstance(found, Report):
            await self._settle(task, found, found.result.duration / 1000)
        else:
            await self._put(task, ends.cut_off(task, found, await self._crew.spent(task), took))

    async def _put(self, task: Task, end: End) -> None:
        now = self._now()
        task = end.applied(task, now)
        left = task.options.session.most
        if left is not None and task.go_on:
            left = max(0.0, left - await self._crew.spent(task))
        settled = await self._store.write_shared(
            batch_tasks.settle,
            self.record.id,
            task,
            end.cost,
            exact=end.exact,
            left=left,
            worked=end.worked if end.is_last else 0.0,
        )
        if end.is_last:
            self._over += 1 + settled.skipped
            self._worked += end.worked
        self._update(spent=self.record.spent + end.cost, exact=self.record.exact and end.exact)
        self._tell(
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
            )
        )
        if end.is_last:
            await self._after_end(task)

    async def _after_end(self, task: Task) -> None:
        """What the world hears of a task that is over."""
        await self._results.write()
        await write_patch(view(task), self._options.patches, self.warn)
        if task.status is TaskStatus.COMPLETED:
            if self._options.keep_alive:
                try:
                    await self._crew.keep(task)
                except CmsError as error:
                    self.warn(f"--keep-alive: {task.name} could not be kept: {error}")
        elif self._notifier.wants_failures:
            self._notifier.failed(self._summary(), view(task))

    async def lay_down(self, reason: str, *, give_up: bool = False) -> None:
        """Without running: look what an earlier process left, and write the batch down as at rest."""
        self._state = msgspec.structs.replace(self._state, ending=True, give_up=give_up)
        if not self._crew.goes_on:
            await self._salvage()
        elif give_up:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._crew.run, self._on_crew)
                async with trio.open_nursery() as ended:
                    for task in await self._follow_on():
                        ended.start_soon(self._settle_cut, task, 0.0)
                nursery.cancel_scope.cancel(reason="what was at work has ended")
        status = BatchStatus.CANCELLED if give_up else BatchStatus.STOPPED
        await self._finish(schedule.Finish(status, "asked", reason))
        money = await self._store.read(batches.spending, self.record.id)
        self._update(total=sum(self.record.counts.values()), spent=money.spent, exact=money.exact)

    async def _follow_on(self) -> list[Task]:
        """What was handed over before, and may be at work still. What people want is told all the same."""
        self._inbox = deque(event for event in self._inbox if isinstance(event, Asked))
        return await self._store.read(batch_tasks.running, self.record.id)

    async def _salvage(self) -> None:
        """What an earlier process left running: look how far it came, before anything is started."""
        for task in await self._store.read(batch_tasks.running, self.record.id):
            log.warning("batch %s: task %s was cut off", self.record.id, task.name)
            await self._settle_cut(task, 0.0)
        # The schedule begins with what the store holds now. What people want, it is told all the same.
        self._inbox = deque(event for event in self._inbox if isinstance(event, Asked))

    # --- telling ----------------------------------------------------------------------------------

    def _update(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)

    def _changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    def _summary(self) -> BatchRecord:
        """The record with the figures of this moment."""
        state, now = self._state, self._now()
        left = forecast.time_left(
            self._over,
            self._worked,
            state.waiting,
            [trio.current_time() - begun for begun in self._begun.values()],
            int(state.throttle.window),
        )
        record, throttled = self.record, state.throttle
        if record.status is BatchStatus.RUNNING and throttled.closed_until > now:
            seconds = throttled.closed_until - now
            rest = f"the API has trouble; nothing is started for {seconds:.0f} s: {throttled.why}"
            record = msgspec.structs.replace(record, reason=rest)
        elif record.status is BatchStatus.RUNNING and (word := self._crew.word()):
            record = msgspec.structs.replace(record, reason=word)
        reserved = state.allowance.reserved
        return msgspec.structs.replace(record, parallel=int(throttled.window), reserved=reserved, eta=left)

    async def summary(self) -> BatchRecord:
        """The record as it stands now, counts included."""
        counts = await self._store.read(batches.counts, self.record.id)
        self._update(counts=counts, total=sum(counts.values()))
        return self._summary()
