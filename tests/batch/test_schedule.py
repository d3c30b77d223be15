"""The scheduler in a little world: whatever happens in it, nothing starts twice and the end is right."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.batch import schedule, throttle
from cms.batch.allowance import Allowance, counted, fits, reserve, settle
from cms.batch.many import Many
from cms.batch.model import BatchStatus, TaskStatus
from cms.batch.schedule import (
    Asked,
    BatchEvent,
    Candidate,
    EndAll,
    Ended,
    EndTold,
    Fetch,
    Finish,
    Finished,
    Paged,
    ParkTold,
    Start,
    Started,
    State,
    TellPark,
    Woke,
    decide,
    fold,
    wake_at,
)


class Job(msgspec.Struct):
    """A task in the world's store."""

    limit: float = 1.0
    unmet: int = 0
    needed_by: list[int] = []
    status: TaskStatus = TaskStatus.WAITING
    due: float = 0.0
    begun: int = 0


class World:
    """A store, a clock and an API by chance. Carries out what `decide` wants, as the engine does."""

    def __init__(
        self, jobs: list[Job], seed: int, *, cap: int, money: float | None = None, **more: float
    ) -> None:
        self.jobs = jobs
        self.chance = random.Random(seed)  # noqa: S311 - the test's own luck
        self.now = 1000.0
        self.api_failures = more.get("storms", 0.0)
        self.failures = more.get("failures", 0.0)
        self.limits_until = more.get("limits_until", 0.0)
        self.running: dict[int, float] = {}
        self.finish: Finish | None = None
        self.parks: list[float] = []
        self.spent = 0.0
        self.most = 0
        self.state = State(
            throttle=throttle.initial(cap),
            allowance=Allowance(cap=money),
            waiting=len(jobs),
            deadline=more.get("deadline", float("inf")),
        )

    def tell(self, event: BatchEvent) -> None:
        self.state = fold(self.state, event)

    def run(self, steps: int = 100_000) -> Finish:
        for _ in range(steps):
            actions = decide(self.state, self.now)
            for action in actions:
                self.carry_out(action)
            if self.finish is not None:
                assert decide(self.state, self.now) == ()
                return self.finish
            if not actions:
                self.pass_time()
        raise AssertionError(f"it does not end: {self.state}")

    def pass_time(self) -> None:
        """To the next thing that happens: an end, or a time to wake."""
        wake = wake_at(self.state, self.now)
        ends = min(self.running.values(), default=None)
        times = [at for at in (wake, ends) if at is not None]
        assert times, f"nothing will ever happen: {self.state}"
        at = min(times)
        assert at > self.now or ends is not None, f"it spins: {self.state}"
        self.now = max(at, self.now)
        self.tell(Woke(self.now))
        for task in [task for task, end in self.running.items() if end <= self.now]:
            self.end(task)

    def carry_out(self, action: schedule.Action) -> None:
        match action:
            case Fetch(most=most, fitting=fitting):
                due = [
                    Candidate(seq, job.limit)
                    for seq, job in enumerate(self.jobs)
                    if job.status is TaskStatus.WAITING
                    and not job.unmet
                    and job.due <= self.now
                    and (fitting is None or job.limit <= fitting + 1e-9)
                ]
                later = [
                    job.due
                    for job in self.jobs
                    if job.status is TaskStatus.WAITING and not job.unmet and job.due > self.now
                ]
                self.tell(
                    Paged(
                        self.now,
                        tuple(due[:most]),
                        len(due) > most,
                        min(later, default=None),
                        fitting is not None,
                    )
                )
            case Start(seq=seq, limit=limit):
                job = self.jobs[seq]
                assert job.status is TaskStatus.WAITING, "nothing is started twice"
                assert not job.unmet, "nothing starts before what it needs"
                assert job.due <= self.now
                job.status = TaskStatus.RUNNING
                job.begun += 1
                self.running[seq] = self.now + self.chance.choice([0.0, 1.0, 30.0, 400.0])
                self.most = max(self.most, len(self.running))
                self.tell(Started(self.now, seq, limit))
            case TellPark(until=until):
                self.parks.append(until)
                self.tell(ParkTold(self.now, until))
            case EndAll():
                for seq in self.running:
                    self.running[seq] = self.now
                self.tell(EndTold(self.now))
            case Finish():
                self.finish = action
                self.tell(Finished(self.now))
            case _:
                raise AssertionError(action)

    def end(self, seq: int) -> None:
        job = self.jobs[seq]
        del self.running[seq]
        cost = self.chance.uniform(0, job.limit)
        self.spent += cost
        event = Ended(self.now, seq, TaskStatus.COMPLETED, cost, jitter=self.chance.random())
        if self.state.ending:
            job.status = TaskStatus.WAITING
            self.tell(msgspec.structs.replace(event, status=TaskStatus.WAITING, heard=False))
            return
        if self.now < self.limits_until:
            job.status, job.due = TaskStatus.WAITING, self.limits_until
            self.tell(
                msgspec.structs.replace(
                    event, status=TaskStatus.WAITING, trouble="limit", resets_at=self.limits_until
                )
            )
            return
        luck = self.chance.random()
        if luck < self.api_failures:
            job.status, job.due = TaskStatus.WAITING, self.now + 5
            self.tell(msgspec.structs.replace(event, status=TaskStatus.WAITING, trouble="overload"))
            return
        good = luck >= self.api_failures + self.failures
        job.status = TaskStatus.COMPLETED if good else TaskStatus.FAILED
        released = skipped = 0
        stack = list(job.needed_by)
        for other in stack:
            if good:
                self.jobs[other].unmet -= 1
                released += not self.jobs[other].unmet
            elif self.jobs[other].status is TaskStatus.WAITING:
                self.jobs[other].status = TaskStatus.SKIPPED
                skipped += 1
                stack += self.jobs[other].needed_by
        self.tell(msgspec.structs.replace(event, status=job.status, released=released, skipped=skipped))


def jobs_of(count: int, edges: list[tuple[int, int]], limit: float = 1.0) -> list[Job]:
    jobs = [Job(limit) for _ in range(count)]
    for task, need in edges:
        if need < task < count:
            jobs[task].unmet += 1
            jobs[need].needed_by.append(task)
    return jobs


EDGES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), unique=True, max_size=30)


@settings(deadline=None)
@given(
    st.integers(0, 31),
    EDGES,
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 1500.0]),
)
def test_everything_is_done_once(
    count: int,
    edges: list[tuple[int, int]],
    seed: int,
    cap: int,
    api_failures: float,
    failures: float,
    limits_until: float,
) -> None:
    world = World(
        jobs_of(count, edges),
        seed,
        cap=cap,
        api_failures=api_failures,
        failures=failures,
        limits_until=limits_until,
    )
    finish = world.run()
    statuses = {job.status for job in world.jobs}
    assert statuses <= {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.SKIPPED}
    assert world.most <= cap
    assert (finish.status is BatchStatus.COMPLETED) == (statuses <= {TaskStatus.COMPLETED})
    assert abs(world.state.allowance.spent - world.spent) < 1e-6
    assert not world.state.allowance.held
    assert world.state.waiting == 0
    if not api_failures and not limits_until:
        assert all(job.begun == 1 for job in world.jobs if job.status is not TaskStatus.SKIPPED)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.01, 3), min_size=1, max_size=20),
    st.floats(0.1, 10),
    st.integers(0, 10**6),
    st.integers(1, 6),
)
def test_the_cap_holds(limits: list[float], cap: float, seed: int, parallel: int) -> None:
    world = World([Job(limit) for limit in limits], seed, cap=parallel, money=cap)
    finish = world.run()
    assert world.spent <= cap + 1e-6
    left = [job for job in world.jobs if job.status is TaskStatus.WAITING]
    if finish.status is BatchStatus.STOPPED:
        assert finish.why == "cost"
        assert all(job.limit > cap - world.spent - 1e-6 for job in left), "nobody who fits was left out"
        assert left
    else:
        assert not left


@settings(deadline=None)
@given(
    st.integers(1, 20),
    st.integers(0, 10**6),
    st.sampled_from(["stop", "cancel", "pause"]),
    st.integers(0, 40),
)
def test_who_is_asked_to_stop_stops(count: int, seed: int, want: str, after: int) -> None:
    world = World(jobs_of(count, []), seed, cap=3)
    for _ in range(after):
        for action in decide(world.state, world.now):
            world.carry_out(action)
        if world.finish is not None:
            return
        if world.running:
            world.pass_time()
    begun = sum(job.begun for job in world.jobs)
    if want == "pause":
        world.tell(Asked(world.now, "pause"))
        while world.running:
            assert decide(world.state, world.now) == ()
            world.pass_time()
        assert sum(job.begun for job in world.jobs) == begun
        assert wake_at(world.state, world.now) is None
        world.tell(Asked(world.now, "resume"))
        assert world.run().status is BatchStatus.COMPLETED
        return
    world.tell(Asked(world.now, "cancel" if want == "cancel" else "stop", "enough"))
    finish = world.run()
    assert sum(job.begun for job in world.jobs) == begun
    assert finish.status is (BatchStatus.CANCELLED if want == "cancel" else BatchStatus.STOPPED)
    assert not world.running


def test_time_ends_it() -> None:
    world = World(jobs_of(50, []), 7, cap=1, deadline=1100.0)
    finish = world.run()
    assert (finish.status, finish.why) == (BatchStatus.STOPPED, "time")
    assert world.now >= 1100.0


def test_refused_credentials_stop_it_at_once() -> None:
    world = World(jobs_of(5, []), 7, cap=2)
    for _ in range(2):
        for action in decide(world.state, world.now):
            world.carry_out(action)
    assert len(world.running) == 2
    world.tell(Ended(world.now, 0, TaskStatus.WAITING, trouble="auth", why="401"))
    del world.running[0]
    assert decide(world.state, world.now) == (), "the other one runs into the same wall by itself"
    world.tell(Ended(world.now, 1, TaskStatus.WAITING, trouble="auth", why="401"))
    (finish,) = decide(world.state, world.now)
    assert finish == Finish(BatchStatus.STOPPED, "auth", "401")


def test_a_park_is_told_once() -> None:
    world = World(jobs_of(6, []), 7, cap=2, limits_until=5000.0)
    assert world.run().status is BatchStatus.COMPLETED
    assert len(world.parks) == 1
    assert world.parks[0] >= 5000.0


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.01, 2), st.floats(0, 2), st.booleans()), max_size=20),
    st.floats(0.1, 5),
)
def test_the_purse(steps: list[tuple[int, float, float, bool]], cap: float) -> None:
    allowance, real = Allowance(cap=cap), 0.0
    for task, limit, cost, exact in steps:
        if task in allowance.held:
            reserved = allowance.held[task]
            cost = min(cost, reserved)
            allowance = settle(allowance, task, cost, exact=exact)
            real += cost
            assert counted(cost, reserved, exact=exact) >= cost
        elif fits(allowance, limit):
            allowance = reserve(allowance, task, limit)
        assert allowance.spent + allowance.reserved <= cap + 1e-6
        assert real <= allowance.spent + 1e-6, "what is unknown counts for too much, never for too little"
    assert not fits(allowance, None)
    assert fits(Allowance(), None)


@pytest.mark.parametrize("count", [100, 10_000])
def test_the_state_does_not_grow_with_the_batch(count: int) -> None:
    world = World(jobs_of(count, []), 1, cap=20)
    largest = 0
    while world.finish is None and world.state.waiting > count - 100:
        for action in decide(world.state, world.now):
            world.carry_out(action)
        if world.running:
            world.pass_time()
        largest = max(
            largest, len(world.state.ready) + len(world.state.running) + len(world.state.allowance.held)
        )
    assert largest <= 100


def test_what_a_person_changes_is_counted() -> None:
    state = State(throttle=throttle.initial(2), allowance=Allowance(), waiting=3, total=5, failed=2, errors=1)
    state = fold(state, schedule.Requeued(1.0, 2, 2, 1))
    assert (state.waiting, state.failed, state.errors, state.stale) == (5, 0, 0, True)
    state = fold(state, schedule.Paged(1.0, tuple(Candidate(n, None) for n in range(5)), False, None))
    state = fold(state, schedule.Withdrawn(1.0, (0, 3), 1))
    assert [one.seq for one in state.ready] == [1, 2, 4]
    assert (state.waiting, state.failed) == (2, 3)
    state = fold(state, schedule.Altered(2.0, 7, 3.0, 50.0, schedule.Bounds(tokens=9)))
    assert (state.throttle.window, state.allowance.cap, state.deadline, state.ready) == (7.0, 3.0, 50.0, ())


def test_a_batch_that_runs_out_can_still_be_stopped() -> None:
    """Too many errors let what runs run out; a person, or the time, ends it."""
    state = State(throttle=throttle.initial(2), allowance=Allowance(), waiting=3, total=5, deadline=90.0)
    state = msgspec.structs.replace(state, bounds=schedule.Bounds(errors=0), running=Many().put(1).put(2))
    state = fold(state, Ended(1.0, 1, TaskStatus.FAILED))
    assert (state.phase, state.why, decide(state, 2.0)) == (schedule.Phase.STOPPING, "errors", ())
    assert wake_at(state, 2.0) == 90.0
    assert decide(state, 90.0) == (schedule.EndAll("the batch reached its time limit"),)
    state = fold(state, schedule.Asked(3.0, "stop", "enough"))
    assert decide(state, 3.0) == (schedule.EndAll("enough"),)


def test_work_is_what_runs_while_nothing_rests() -> None:
    state = State(throttle=throttle.initial(2), allowance=Allowance(), waiting=2, total=2, at=0.0)
    state = msgspec.structs.replace(state, bounds=schedule.Bounds(work=30.0))
    state = fold(state, schedule.Started(10.0, 0, None))
    state = fold(state, schedule.Woke(20.0))
    assert (state.work, wake_at(state, 20.0)) == (10.0, 40.0)
    state = fold(state, schedule.Asked(25.0, "pause"))
    state = fold(state, schedule.Woke(100.0))
    assert (state.work, wake_at(state, 100.0)) == (15.0, None)
    state = fold(state, schedule.Asked(200.0, "resume"))
    state = fold(state, schedule.ClockMoved(1000.0, 800.0))
    assert wake_at(state, 1000.0) == 1015.0
    state = fold(state, schedule.Woke(1015.0))
    assert (state.phase, state.why) == (schedule.Phase.STOPPING, "time")
