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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
import trio

from cms.batch import forecast, schedule, throttle
from cms.batch.allowance import Allowance
from cms.batch.forecast import default_parallel
from cms.batch.model import (
    ACTIVE,
    ERRORED,
    OVER,
    BatchOptions,
    BatchRecord,
    BatchStatus,
    BestOf,
    Task,
    TaskStatus,
    view,
)
from cms.batch.schedule import (
    Asked,
    BatchEvent,
    Phase,
    Start,
    State,
    bounds_of,
    decide,
    fold,
    wake_at,
)
from cms.errors import CmsError, InternalError, UsageError
from cms.fleet import machine
from cms.fleet.batch_tries import Tries
from cms.fleet.crew import Crew
from cms.fleet.notify import HOOK_TIMEOUT, Notifier
from cms.fleet.patches import Patches
from cms.fleet.results_file import Results, write_report
from cms.session.model import DelegateResult
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


class _Errand:
    """Something that is done between two decisions of the loop."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self.done = trio.Event()
        self.error: CmsError | None = None

    async def run(self) -> None:
        try:
            await self._work()
        except CmsError as error:
            self.error = error
        except Exception:
            self.error = InternalError("a bug in cms; see `cms daemon logs`")
            raise
        finally:
            self.done.set()

    def fail(self, error: CmsError) -> None:
        self.error = error
        self.done.set()


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
        self._clock = clock
        self._offset = clock() - trio.current_time()
        self._state = State(throttle=throttle.initial(1), allowance=Allowance())
        self._inbox: deque[BatchEvent] = deque()
        self._news = trio.Event()
        self._change = trio.Event()
        self._tries = Tries(self, store, crew, jitter)
        self._notifier = Notifier(record.options, self.warn, umask=umask)
        self._results = Results(store, record, self.warn)
        self._patches = Patches(store, record, self.warn)
        self._nursery: trio.Nursery | None = None
        self._errands: deque[_Errand] = deque()
        self._shutting_down = False
        self._done = trio.Event()

    @property
    def _options(self) -> BatchOptions:
        return self.record.options

    @property
    def state(self) -> State:
        """Of the schedule."""
        return self._state

    def __repr__(self) -> str:
        return f"<Engine {self.record.id} {self.record.status} running={len(self._state.running)}>"

    def now(self) -> float:
        return self._clock()

    def _notice_jump(self) -> None:
        """The clock on the wall may be set, and goes on while the machine sleeps, which no span may feel."""
        offset = self._clock() - trio.current_time()
        if abs(by := offset - self._offset) > _JUMP:
            self._offset = offset
            self._fold(schedule.ClockMoved(self.now(), by))
            if self.record.deadline is not None:
                self.update(deadline=self.record.deadline + by)

    # --- what others may ask ----------------------------------------------------------------------

    def pause(self, reason: str = "") -> None:
        """Start nothing more; what runs runs on."""
        self.tell(Asked(self.now(), "pause", reason or "paused"))

    def resume(self) -> None:
        self.tell(Asked(self.now(), "resume"))

    def stop(self, reason: str) -> None:
        """End what runs, in a way that it can go on from; the batch can be resumed."""
        self.tell(Asked(self.now(), "stop", reason))

    def cancel(self, reason: str) -> None:
        """End what runs and give the rest up."""
        self.tell(Asked(self.now(), "cancel", reason))

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

    async def between(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something while the loop does nothing: what it decides next rests on what was done.

        Raises:
            UsageError: the batch comes to its end, or to rest, and does no more.
        """
        errand = _Errand(work)
        self._errands.append(errand)
        self._news.set()
        await errand.done.wait()
        if errand.error is not None:
            raise errand.error

    def note(self, event: BatchEvent) -> None:
        """What was done between two decisions."""
        self._fold(event)

    def alter(self, options: BatchOptions) -> None:
        """Other options hold from now on. The time of `max_time` began where it did."""
        before, deadline = self.record.options, self.record.deadline
        if options.max_time is not None and options.max_time != before.max_time:
            began = self.now() if deadline is None or before.max_time is None else deadline - before.max_time
            deadline = began + options.max_time
        self.update(options=options, deadline=deadline)
        until = float("inf") if deadline is None else deadline
        self._fold(schedule.Altered(self.now(), self._cap(), options.max_cost, until, bounds_of(options)))

    def requeued(self, tasks: int, errors: int) -> None:
        """So many tasks that were over wait again, of which so many had ended in error."""
        self._tries.over -= tasks
        self._fold(schedule.Requeued(self.now(), tasks, tasks, errors))

    async def end_tasks(self, seqs: Sequence[int], reason: str) -> None:
        """End tasks that run, and wait until they have: nobody wants them any more."""
        self._tries.withdraw(seqs, reason)
        while any(seq in self._tries.scopes for seq in seqs) and not self._done.is_set():
            await self._change.wait()

    async def rested(self) -> None:
        """Until what was asked so far has been taken note of."""
        while self._inbox and not self._done.is_set():
            await self._change.wait()

    def note_walls(self, result: DelegateResult) -> None:
        """Warn of what is the same for each task in a folder, once."""
        self._notifier.note_walls(result)

    def warn(self, text: str) -> None:
        """Something beside the work went wrong: kept with the batch, logged, and that is all."""
        log.warning("batch %s: %s", self.record.id, text)
        self.update(warnings=(*self.record.warnings, text)[-_WARNINGS:])

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
                nursery.cancel_scope.cancel(reason="the batch has ended")
        except Exception:
            log.exception("batch %s ended because of a bug in cms", self.record.id)
            await self._lay_down_broken("a bug in cms ended it; see `cms daemon logs`")
        finally:
            self._results.close()
            self._done.set()
            for errand in self._errands:
                errand.fail(UsageError(f"batch {self.record.id!r} has stopped; try again"))
            self.changed()

    async def _lay_down_broken(self, reason: str) -> None:
        """It is at rest, and can be gone on with like after a crash."""
        log.error("batch %s stops: %s", self.record.id, reason)
        self.update(status=BatchStatus.STOPPED, reason=reason, stopped_by="trouble")
        with suppress(CmsError):
            await self._store.write(batches.save, self.record)

    async def _begin(self) -> None:
        options, batch_id = self._options, self.record.id
        cap = self._cap()
        here = 0.0 if self._crew.goes_on else _GAP / machine.cores()
        gap = options.stagger if options.stagger is not None else here
        now = self.now()
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
            bounds=bounds_of(options),
            total=sum(counts.values()),
            errors=sum(counts.get(status, 0) for status in ERRORED),
            tokens=money.tokens,
            work=money.working,
            at=now,
            failed=sum(counts.get(status, 0) for status in OVER - {TaskStatus.COMPLETED}),
            parked_told=current.closed_until,
        )
        self._tries.over = sum(counts.get(status, 0) for status in OVER)
        self._tries.worked = money.worked
        self.update(
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
            tokens=money.tokens,
            reused=money.reused,
            parallel=cap,
        )
        await self._store.write(batches.save, self.record)
        await self._results.open()
        await self._patches.write()
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
            self.tell(schedule.Resized(self.now(), self._cap()))

    async def _loop(self) -> None:
        while self._state.phase is not Phase.ENDED:
            self._notice_jump()
            while self._inbox:
                self._state = fold(self._state, self._inbox.popleft())
            while self._errands:
                await self._errands.popleft().run()
            await self._note_phase()
            await self._note_engine()
            now = self.now()
            actions = decide(self._state, now)
            starts = [action for action in actions if isinstance(action, Start)]
            if starts:
                await self._start(starts)
            elif actions:
                for action in actions:
                    await self._carry_out(action)
            elif not self._inbox and not self._errands:
                await self._rest(wake_at(self._state, now), now)
            self.changed()

    async def _note_phase(self) -> None:
        """What a person wants of the whole batch is on disk before it is acted on."""
        phase, status = self._state.phase, self.record.status
        if phase is Phase.PAUSED and status is not BatchStatus.PAUSED:
            self.update(status=BatchStatus.PAUSED, reason=self._state.reason)
        elif phase is Phase.OPEN and status is BatchStatus.PAUSED:
            self.update(status=BatchStatus.RUNNING, reason="")
        else:
            return
        await self._store.write(batches.save, self.record)

    async def _rest(self, wake: float | None, now: float) -> None:
        self._news = trio.Event()
        with trio.move_on_after(float("inf") if wake is None else min(max(wake - now, 0.0), _LOOK)):
            await self._news.wait()
            return
        self._state = fold(self._state, schedule.Woke(self.now()))

    def tell(self, event: BatchEvent) -> None:
        self._inbox.append(event)
        self._news.set()

    async def _carry_out(self, action: schedule.Action) -> None:
        now = self.now()
        match action:
            case schedule.Fetch(most=most, fitting=fitting):
                page = await self._store.read(batch_tasks.candidates, self.record.id, now, most, fitting)
                self._fold(schedule.Paged(now, *page, fitting is not None))
            case schedule.TellPark(until=until, why=why):
                self._fold(schedule.ParkTold(now, until))
                self.update(status=BatchStatus.PARKED, until=until, reason=why)
                await self._store.write(batches.save, self.record)
                log.info("batch %s is parked until %.0f: %s", self.record.id, until, why)
                self._notifier.parked(self._summary())
            case schedule.EndAll(reason=reason):
                if self._shutting_down:
                    self._crew.let_go()
                for scope in self._tries.scopes.values():
                    scope.cancel(reason=reason)
                self._fold(schedule.EndTold(now))
            case schedule.Finish():
                await self._finish(action)
                self._fold(schedule.Finished(self.now()))
            case _:
                raise InternalError(f"no way to carry out {action!r}")

    def _fold(self, event: BatchEvent) -> None:
        self._state = fold(self._state, event)

    async def _finish(self, finish: schedule.Finish) -> None:
        status, now = finish.status, self.now()
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
        self.update(
            status=status, reason=finish.reason, stopped_by=finish.why, ended=ended, until=None, counts=counts
        )
        await self._store.write(batches.save, self.record)
        await self._results.write()
        await self._patches.write()
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
        now = self.now()
        limits = {start.seq: start.limit for start in starts}
        since = self._crew.now()
        begun = await self._store.write(batch_tasks.begin, self.record.id, list(limits), now, since)
        if len(begun) < len(starts):
            raise InternalError(f"batch {self.record.id}: a task that was waiting is not waiting any more")
        if self.record.status is BatchStatus.PARKED:
            self.update(status=BatchStatus.RUNNING, until=None, reason="")
            await self._store.write(batches.save, self.record)
        for task in begun:
            self._launch(task, limits[task.seq])

    def _launch(self, task: Task, limit: float | None, *, again: bool = False) -> None:
        assert self._nursery is not None  # noqa: S101 - for the type checker: set before the loop
        self._fold(schedule.Started(self.now(), task.seq, limit))
        self._tries.begin(task)
        self._nursery.start_soon(partial(self._tries.work, task, again=again))

    async def _note_engine(self) -> None:
        """What the tasks are submitted to is on disk before they are."""
        if self.record.engine != self._crew.known_by:
            self.update(engine=self._crew.known_by)
            await self._store.write(batches.save, self.record)

    async def after_end(self, task: Task) -> None:
        """What the world hears of a task that is over."""
        await self._results.write()
        await self._patches.write()
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
                        ended.start_soon(self._tries.settle_cut, task, 0.0)
                nursery.cancel_scope.cancel(reason="what was at work has ended")
        status = BatchStatus.CANCELLED if give_up else BatchStatus.STOPPED
        await self._finish(schedule.Finish(status, "asked", reason))
        money = await self._store.read(batches.spending, self.record.id)
        self.update(total=sum(self.record.counts.values()), spent=money.spent, exact=money.exact)

    async def _follow_on(self) -> list[Task]:
        """What was handed over before, and may be at work still. What people want is told all the same."""
        self._inbox = deque(event for event in self._inbox if isinstance(event, Asked))
        return await self._store.read(batch_tasks.running, self.record.id)

    async def _salvage(self) -> None:
        """What an earlier process left running: look how far it came, before anything is started."""
        for task in await self._store.read(batch_tasks.running, self.record.id):
            log.warning("batch %s: task %s was cut off", self.record.id, task.name)
            await self._tries.settle_cut(task, 0.0)
        # The schedule begins with what the store holds now. What people want, it is told all the same.
        self._inbox = deque(event for event in self._inbox if isinstance(event, Asked))

    # --- telling ----------------------------------------------------------------------------------

    def update(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, **changes)

    def changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    def _summary(self) -> BatchRecord:
        """The record with the figures of this moment."""
        state, now = self._state, self.now()
        left = forecast.time_left(
            self._tries.over,
            self._tries.worked,
            state.waiting,
            self._tries.spans(),
            int(state.throttle.window),
        )
        record, throttled = self.record, state.throttle
        if record.status is BatchStatus.RUNNING and throttled.closed_until > now:
            seconds = throttled.closed_until - now
            rest = f"API errors; no task is started for {seconds:.0f} s: {throttled.why}"
            record = msgspec.structs.replace(record, reason=rest)
        elif record.status is BatchStatus.RUNNING and (word := self._crew.word()):
            record = msgspec.structs.replace(record, reason=word)
        reserved = state.allowance.reserved
        return msgspec.structs.replace(record, parallel=int(throttled.window), reserved=reserved, eta=left)

    async def summary(self) -> BatchRecord:
        """The record as it stands now, counts included."""
        counts = await self._store.read(batches.counts, self.record.id)
        self.update(counts=counts, total=sum(counts.values()))
        return self._summary()
