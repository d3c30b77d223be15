"""All batches of one supervisor: made, checked, started, found again after a crash, brought to rest."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import partial
from typing import Final

import msgspec
import trio

from cms.batch import forecast, schedule
from cms.batch.forecast import Forecast, Kind, Load, default_parallel
from cms.batch.header import Header, altered, check_alterable
from cms.batch.model import (
    RESUMABLE,
    BatchOptions,
    BatchRecord,
    BatchStatus,
    TaskSpec,
    TaskStatus,
    resolve_task,
)
from cms.batch.remote import Repo
from cms.batch.report import table_words
from cms.config import caller_environ
from cms.errors import UsageError
from cms.fleet import machine
from cms.fleet.batch_engine import Engine
from cms.fleet.batch_sessions import SupervisorSessions
from cms.fleet.crew import Crew, LocalCrew
from cms.fleet.remote_crew import RemoteCrew
from cms.fleet.supervisor import Supervisor
from cms.fleet.turns import Turns
from cms.groups import at_own_door
from cms.options import Layer
from cms.store import batch_intake, batch_steering, batch_tasks, batches, plan_usage
from cms.store.batch_intake import NewTask
from cms.store.store import Store

log = logging.getLogger(__name__)

_PAGE: Final = 500
_NOT_HERE: Final = (
    "repo is for nodes (--on URL); here a task works in its workDir: clone it, and give each task a view"
    " of its own with --isolate"
)

_NO_BRANCH: Final = "--push-branches needs a repository that nodes can push to: repo by its URL"

#: Who does the tasks of that batch.
MakeCrew = Callable[[BatchRecord], Crew]


def scope_of(batch_id: str) -> str:
    """The shared budget (`session.budget`) that a batch's sessions are charged to."""
    return f"batch:{batch_id}"


#: From what gives a batch as it stands.
Traced = Callable[[Callable[[], BatchRecord]], AbstractContextManager[None]]


class Batches:
    """The batches of one supervisor: made, started, found, ended."""

    def __init__(
        self,
        store: Store,
        make_crew: MakeCrew,
        nursery: trio.Nursery,
        *,
        umask: int = -1,
        clock: Callable[[], float] = time.time,
        traced: Traced | None = None,
    ) -> None:
        """`umask`: for the files that hooks make; -1: ours. `traced`: what a batch is at work within."""
        self.store = store
        self._umask = umask
        self._clock = clock
        self._traced = traced
        self._make_crew = make_crew
        self._nursery = nursery
        self._engines: dict[str, Engine] = {}
        #: One at a time takes a batch up, or lays it down: between the look and the deed others run.
        self._turn = Turns()
        self._recovering: set[str] = set()  # a dead process was at work on them
        self._closed = False

    def __repr__(self) -> str:
        return f"<Batches {sorted(self._engines)}>"

    @property
    def busy(self) -> bool:
        """Whether any batch is at work, even if no session of it lives just now."""
        return bool(self._engines or self._recovering)

    def engine(self, batch_id: str) -> Engine | None:
        return self._engines.get(batch_id)

    # --- making one -------------------------------------------------------------------------------

    async def create(self, options: BatchOptions, stem: str) -> BatchRecord:
        """A new batch, open for tasks."""
        now = time.time()
        word = "".join(letter for letter in stem if letter.isalnum() or letter in "-_")[:40] or "batch"
        record = BatchRecord(
            id=f"{word}-{secrets.token_hex(3)}", created=now, status=BatchStatus.LOADING, options=options
        )
        await self.store.write(batches.create, record)
        return record

    async def add(self, batch_id: str, first: int, tasks: Iterable[tuple[TaskSpec, int]]) -> list[str]:
        """Take tasks in, the first of them as number `first`; returns what is wrong with them."""
        record = await self._loading(batch_id)
        options = record.options
        new = [
            NewTask(first + place, line, resolve_task(spec, options.defaults, options.work_dir))
            for place, (spec, line) in enumerate(tasks)
        ]
        problems: list[str] = []
        if options.on:
            new, problems = _for_nodes(new, pushes=options.push_branches)
        else:
            problems = [f"line {one.line}: {_NOT_HERE}" for one in new if one.options.repo][:1]
        return problems or await self.store.write(batch_intake.add, batch_id, new)

    async def check(self, batch_id: str) -> list[str]:
        """Everything that is wrong with the tasks as a whole."""
        record = await self._loading(batch_id)
        remote = bool(record.options.on)  # a node has names of its own for its sessions
        fresh = record.options.fresh or remote
        problems = await self.store.write(batch_intake.check, batch_id, fresh=fresh)
        count, _, largest = await self.store.read(batch_intake.caps, batch_id)
        if record.options.best_of is not None:
            problems += await self.store.read(batch_intake.unchecked, batch_id, record.options.best_of)
        problems += await self.store.read(batch_intake.applied_twice, batch_id)
        if not remote and await self.store.read(batch_intake.shares_folders, batch_id):
            warning = (
                "attempts at one task share a folder, so each finds what the last one left"
                " (--isolate gives each its own view)"
            )
            await self.store.write(
                batches.save, msgspec.structs.replace(record, warnings=(*record.warnings, warning))
            )
        if not count:
            problems.append("there is no task in it")
        elif trouble := forecast.never_fits(largest, record.options.max_cost):
            problems.append(trouble)
        if remote and record.options.keep_alive:
            problems.append("--keep-alive: a session at a node cannot be kept alive")
        room = default_parallel(machine.available_memory(), 10**6)
        if record.options.keep_alive and count > room:
            problems.append(f"--keep-alive: {count} live sessions do not fit into memory, about {room} do")
        return problems

    async def _loading(self, batch_id: str) -> BatchRecord:
        record = await self.store.read(batches.find, batch_id)
        if record.status is not BatchStatus.LOADING:
            raise UsageError(f"batch {batch_id!r} is {record.status.value}: it cannot take more tasks")
        return record

    async def plan(self, batch_id: str) -> Forecast:
        """What it will cost and take, from the history of like tasks. Nothing is spent."""
        record = await self.store.read(batches.find, batch_id)
        options = record.options
        history = await self.store.read(batches.history)
        memory = machine.available_memory()
        kinds: dict[Kind, int] = {}
        guesses: dict[Kind, forecast.Guess] = {}
        crew = self._make_crew(record)
        slots = await crew.slots()
        parallel = options.max_parallel or slots or default_parallel(memory, machine.cores())
        views: dict[tuple[str, str], tuple[forecast.View | None, int]] = {}
        times: list[float] = []
        after = -1
        while tasks := await self.store.read(batch_tasks.page, batch_id, after, _PAGE):
            for task in tasks:
                made = task.options.session
                kind = Kind(made.model, made.preset, made.work_dir)
                kinds[kind] = kinds.get(kind, 0) + 1
                if kind not in guesses:
                    guesses[kind] = forecast.guess(kind, history)
                times.append(guesses[kind].duration)
                place = made.work_dir, made.isolate
                view, count = views[place] if place in views else (await crew.view(made), 0)
                views[place] = view, count + 1
            after = tasks[-1].seq
        _, limits, dearest = await self.store.read(batch_intake.caps, batch_id)
        graph = await self.store.read(batch_intake.graph, batch_id, len(times))
        isolated = [(view, count) for view, count in views.values() if view is not None]
        load = Load(kinds, limits, dearest, graph.longest(times), isolated)
        foreseen = forecast.forecast(
            load,
            guesses,
            forecast.Terms(
                parallel=parallel if slots is None else min(parallel, slots),
                asked_parallel=options.max_parallel,
                max_cost=options.max_cost,
                max_time=options.max_time,
                memory=memory,
                afar=slots is not None,
            ),
        )
        used = tuple(await self.store.read(plan_usage.windows))
        return msgspec.structs.replace(foreseen, table=table_words(options), plan_usage=used)

    async def discard(self, batch_id: str) -> None:
        """Forget a batch that was never started."""
        async with self._turn(batch_id):
            await self._loading(batch_id)
            while not await self.store.write(batches.delete, batch_id):
                pass

    # --- running one ------------------------------------------------------------------------------

    async def start(self, batch_id: str, changes: BatchOptions | None = None) -> Engine:
        """Begin a batch, or go on with one that rests.

        Args:
            changes: its options from now on; None leaves them.

        Raises:
            UsageError: it is over, or at work elsewhere.
        """
        found = await self.store.read(batches.find, batch_id)
        await self.recover_one(found.id)
        async with self._turn(found.id):
            while (engine := self._engines.get(found.id)) is not None:
                if not engine.ending:
                    engine.resume()
                    return engine
                await engine.wait()
            if self._closed:
                raise UsageError("cms is shutting down")
            options = changes or found.options
            await self._make_crew(msgspec.structs.replace(found, options=options)).prepare()
            record = await self.store.write(batches.claim, found.id, RESUMABLE | {BatchStatus.LOADING})
            await self.store.write(batches.reset_clock, found.id)
            record = msgspec.structs.replace(record, deadline=None)
            if record.status is BatchStatus.PAUSED:
                record = msgspec.structs.replace(record, status=BatchStatus.RUNNING)
            if changes is not None:
                record = msgspec.structs.replace(record, options=changes)
            return self._launch(record)

    def _engine(self, record: BatchRecord) -> Engine:
        crew = self._make_crew(record)
        return Engine(record, self.store, crew, umask=self._umask, clock=self._clock)

    def _launch(self, record: BatchRecord) -> Engine:
        engine = self._engine(record)
        self._engines[record.id] = engine
        self._nursery.start_soon(at_own_door, f"batch {record.id}", partial(self._run, engine))
        return engine

    async def _run(self, engine: Engine) -> None:
        try:
            with nullcontext() if self._traced is None else self._traced(lambda: engine.record):
                await engine.run()
        finally:
            if self._engines.get(engine.record.id) is engine:
                del self._engines[engine.record.id]

    async def recover(self) -> list[BatchRecord]:
        """Look after what dead processes were at work on: detached batches go on, the others come to rest.

        To come to rest may take as long as the checks of its tasks. Returns them as they now stand.
        """
        found = []
        orphans = await self.store.write(batches.orphans)
        self._recovering = {orphan.id for orphan in orphans}
        for orphan in orphans:
            await at_own_door(f"the recovery of batch {orphan.id}", partial(self.recover_one, orphan.id))
            found.append(await self.summary(orphan.id))
            log.warning("recovered batch %s, now %s", orphan.id, found[-1].status)
        return found

    async def recover_one(self, batch_id: str) -> None:
        """See that this batch, if a dead process was at work on it, goes on or has come to rest."""
        if batch_id not in self._recovering:
            return
        async with self._turn(batch_id):
            if batch_id not in self._recovering or self._closed:
                return  # somebody was quicker
            try:
                if batch_id in self._engines:
                    return
                record = await self.store.write(batches.claim, batch_id)
                if record.options.detached:
                    self._launch(record)
                    return
                await self._engine(record).lay_down("cms ended unexpectedly; `cms batch resume` goes on")
            finally:
                self._recovering.discard(batch_id)

    def _as_told(self, record: BatchRecord) -> BatchRecord:
        """With the word that a batch is still to be looked after."""
        if record.id not in self._recovering:
            return record
        return msgspec.structs.replace(
            record, reason="cms ended unexpectedly; checking what became of its tasks"
        )

    async def pause(self, batch_id: str, reason: str = "") -> BatchRecord:
        return await self._ask(batch_id, "pause", reason)

    async def stop(self, batch_id: str, reason: str = "") -> BatchRecord:
        return await self._ask(batch_id, "stop", reason)

    async def cancel(self, batch_id: str, reason: str = "") -> BatchRecord:
        found = await self.store.read(batches.find, batch_id)
        await self.recover_one(found.id)
        if found.id not in self._engines and found.status in RESUMABLE:
            async with self._turn(found.id):
                if found.id not in self._engines:
                    # Nobody is at work on it: only its tasks in the store are to be closed.
                    engine = self._engine(await self.store.write(batches.claim, found.id))
                    await engine.lay_down("cancelled", give_up=True)
                    await self._note(found, "cancel", reason)
                    return engine.record
        return await self._ask(batch_id, "cancel", reason)

    async def _note(self, record: BatchRecord, what: str, reason: str) -> None:
        """A line of the batch's audit log."""
        await self.store.write(batch_steering.note, record, what, "", reason, self._clock())

    async def alter(self, batch_id: str, changes: Header, reason: str) -> tuple[BatchRecord, int]:
        """Other limits for a batch, and other options for its tasks that are still to be begun.

        Returns:
            The batch, and how many tasks have other options now.

        Raises:
            UsageError: it is over, or something else is to be changed.
        """
        tasks = check_alterable(changes)
        now = self._clock()
        changed = 0

        async def between(engine: Engine) -> None:
            nonlocal changed
            options = altered(engine.record.options, changes)
            changed = await self.store.write(
                batch_steering.alter, engine.record.id, options, tasks, reason, now
            )
            engine.alter(options)

        async def at_rest(record: BatchRecord) -> BatchRecord:
            nonlocal changed
            if record.status not in RESUMABLE:
                raise UsageError(
                    f"batch {record.id!r} is {record.status.value}: its limits cannot be changed",
                    hint=f"to run some of it again: cms batch requeue {record.id}",
                )
            options = altered(record.options, changes)
            changed = await self.store.write(batch_steering.alter, record.id, options, tasks, reason, now)
            return await self.store.read(batches.find, record.id)

        record = await self._steer(batch_id, between, at_rest)
        return record, changed

    async def requeue(
        self,
        batch_id: str,
        names: Sequence[str],
        statuses: Collection[TaskStatus],
        reason: str,
        *,
        options: Layer = Layer(),  # noqa: B008 - it is frozen
    ) -> tuple[BatchRecord, int]:
        """Do tasks again that are over, with other options if some are given; a batch at rest goes on.

        Returns:
            The batch, and how many tasks wait again.

        Raises:
            UsageError: there is no such task, or an option cannot be changed.
        """
        tasks = {} if options == Layer() else check_alterable(Header(defaults=options))
        now = self._clock()
        count = 0

        async def between(engine: Engine) -> None:
            nonlocal count
            _, done = await self.store.write(
                batch_steering.requeue,
                engine.record.id,
                names,
                statuses,
                reason,
                now,
                at_rest=False,
                options=tasks,
            )
            count = done.tasks
            engine.requeued(done.tasks, done.errors)

        async def at_rest(record: BatchRecord) -> BatchRecord:
            nonlocal count
            if self._closed:
                raise UsageError("cms is shutting down")
            record, done = await self.store.write(
                batch_steering.requeue, record.id, names, statuses, reason, now, at_rest=True, options=tasks
            )
            count = done.tasks
            await self.store.write(batches.reset_clock, record.id)
            options = msgspec.structs.replace(record.options, detached=True)
            record = msgspec.structs.replace(
                record, options=options, deadline=None, ended=None, status=BatchStatus.RUNNING
            )
            return await self._launch(record).summary()

        return await self._steer(batch_id, between, at_rest), count

    async def withdraw(self, batch_id: str, names: Sequence[str], reason: str) -> BatchRecord:
        """Cancel some tasks of a batch: those that run are ended, and this waits for it.

        Raises:
            UsageError: there is no such task, or it is over.
        """
        now = self._clock()
        running: tuple[int, ...] = ()

        async def between(engine: Engine) -> None:
            nonlocal running
            gone = await self.store.write(batch_steering.withdraw, engine.record.id, names, reason, now)
            running = gone.running
            engine.note(schedule.Withdrawn(engine.now(), gone.waiting, gone.skipped))

        async def at_rest(record: BatchRecord) -> BatchRecord:
            if record.status not in RESUMABLE:
                raise UsageError(f"batch {record.id!r} is {record.status.value}: all its tasks have ended")
            await self.store.write(batch_steering.withdraw, record.id, names, reason, now)
            return await self.store.read(batches.find, record.id)

        record = await self._steer(batch_id, between, at_rest)
        engine = self._engines.get(record.id)
        if engine is None or not running:
            return record
        await engine.end_tasks(running, f"cancelled by a person{f': {reason}' if reason else ''}")
        return await engine.summary()

    async def _steer(
        self,
        batch_id: str,
        between: Callable[[Engine], Awaitable[None]],
        at_rest: Callable[[BatchRecord], Awaitable[BatchRecord]],
    ) -> BatchRecord:
        """Change a batch: between two decisions of its engine, or while nobody is at work on it."""
        found = await self.store.read(batches.find, batch_id)
        await self.recover_one(found.id)
        async with self._turn(found.id):
            while (engine := self._engines.get(found.id)) is not None:
                if not engine.ending:
                    await engine.between(partial(between, engine))
                    return await engine.summary()
                await engine.wait()
            return await at_rest(await self.store.read(batches.find, found.id))

    async def _ask(self, batch_id: str, want: str, reason: str) -> BatchRecord:
        record = await self.store.read(batches.find, batch_id)
        await self.recover_one(record.id)
        engine = self._engines.get(record.id)
        if engine is None:
            raise UsageError(f"batch {record.id!r} is {record.status.value}: it is not running")
        await self._note(record, want, reason)
        why = f": {reason}" if reason else ""
        if want == "pause":
            engine.pause(f"paused by a person{why}")
            await engine.rested()
            return await engine.summary()
        if want == "stop":
            engine.stop(f"stopped by a person{why}")
        else:
            engine.cancel(f"cancelled by a person{why}")
        return await engine.wait()

    async def summary(self, batch_id: str) -> BatchRecord:
        """A batch as it stands now."""
        record = await self.store.read(batches.find, batch_id)
        engine = self._engines.get(record.id)
        return self._as_told(record) if engine is None else await engine.summary()

    async def summaries(self) -> list[BatchRecord]:
        """All batches, newest first."""
        found = []
        for record in await self.store.read(batches.newest_first):
            engine = self._engines.get(record.id)
            found.append(self._as_told(record) if engine is None else await engine.summary())
        return found

    async def close(self) -> None:
        """Bring every batch to rest: a detached one goes on when the next process comes up."""
        self._closed = True
        engines = list(self._engines.values())
        for engine in engines:
            engine.shut_down()
        for engine in engines:
            await engine.wait()


@asynccontextmanager
async def open_batches(supervisor: Supervisor) -> AsyncIterator[Batches]:
    """The batches of a supervisor. At the end each is brought to rest, as far as there is time for it."""
    store = supervisor.store

    def make_crew(record: BatchRecord) -> Crew:
        if record.options.on:
            return RemoteCrew(record, supervisor.settings.home, caller_environ.get())
        return LocalCrew(SupervisorSessions(supervisor, scope_of(record.id)))

    def traced(current: Callable[[], BatchRecord]) -> AbstractContextManager[None]:
        return supervisor.telemetry.batch(current, supervisor.settings_now().environ)

    async with trio.open_nursery() as nursery:
        batches = Batches(store, make_crew, nursery, umask=supervisor.settings.umask, traced=traced)
        try:
            yield batches
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 30.0):
                await batches.close()
            nursery.cancel_scope.cancel()


def _for_nodes(new: list[NewTask], *, pushes: bool) -> tuple[list[NewTask], list[str]]:
    """Tasks as nodes do them, and what is wrong with them: a checkout of its own isolates a task already."""
    problems = []
    for place, one in enumerate(new):
        session = one.options.session
        if session.apply:
            problems.append(
                f"line {one.line}: --apply is for this machine; a node's patch is for `git apply`"
            )
        elif session.isolate != "no" and not one.options.repo:
            problems.append(
                f"line {one.line}: --isolate is for this machine; a node gives a task a checkout (--repo)"
            )
        elif one.options.repo:
            try:
                repo = Repo.parse(one.options.repo)
                if pushes and not repo.url:
                    problems.append(f"line {one.line}: {_NO_BRANCH}")
            except UsageError as error:
                problems.append(f"line {one.line}: {error}")
        elif pushes:
            problems.append(f"line {one.line}: {_NO_BRANCH}")
        options = msgspec.structs.replace(one.options, session=msgspec.structs.replace(session, isolate="no"))
        new[place] = msgspec.structs.replace(one, options=options)
    return new, problems
