"""The engine on a real store with made-up sessions: everything is done once, in order, within its limits."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, Task, TaskSpec, TaskStatus
from cms.changes import freeze, note_start, read_trees
from cms.config import Settings
from cms.disk import ask_disk
from cms.errors import UsageError
from cms.fleet import patches
from cms.fleet.batch_engine import Engine
from cms.fleet.batches import Batches
from cms.fleet.crew import LocalCrew
from cms.store import batch_tasks, batches
from cms.store.store import open_store
from fleet.batch.fake import COST, FakeSessions
from sampling import sized

#: A test must name the clock itself for pytest-trio to use it.
Clock = trio.testing.MockClock


def spec(name: str, prompt: str = "ok", *needs: str, **more: object) -> TaskSpec:
    return msgspec.structs.replace(TaskSpec(name=name, prompt=prompt, needs=needs), **more)


class House:
    """Batches on a store of their own, all with one crew."""

    def __init__(self, batches: Batches, sessions: FakeSessions, work_dir: Path, jumps: list[float]) -> None:
        self.batches = batches
        self.sessions = sessions
        self.store = batches.store
        self.jumps = jumps  # of the clock on the wall, in seconds
        self.options = BatchOptions(work_dir=str(work_dir), max_parallel=4, stagger=0.0)

    async def load(self, specs: Sequence[TaskSpec], **changes: object) -> BatchRecord:
        options = msgspec.structs.replace(self.options, **changes)
        record = await self.batches.create(options, "test")
        for first in range(0, len(specs), 500):
            chunk = [(one, first + place + 1) for place, one in enumerate(specs[first : first + 500])]
            assert await self.batches.add(record.id, first, chunk) == []
        return record

    async def start(self, specs: Sequence[TaskSpec], **changes: object) -> Engine:
        record = await self.load(specs, **changes)
        assert await self.batches.check(record.id) == []
        return await self.batches.start(record.id)

    async def run(self, specs: Sequence[TaskSpec], **changes: object) -> BatchRecord:
        engine = await self.start(specs, **changes)
        # Not bounded by a deadline: while the store's thread is at work, the clock jumps to it.
        return await engine.wait()

    async def tasks(self, batch_id: str) -> dict[str, Task]:
        found: dict[str, Task] = {}
        after = -1
        while page := await self.store.read(batch_tasks.page, batch_id, after):
            found |= {task.name: task for task in page}
            after = page[-1].seq
        return found

    async def statuses(self, batch_id: str) -> dict[str, str]:
        return {name: task.status.value for name, task in (await self.tasks(batch_id)).items()}


@asynccontextmanager
async def open_house(home: Path, sessions: FakeSessions | None = None) -> AsyncIterator[House]:
    sessions = sessions or FakeSessions()
    epoch = time.time() - trio.current_time()
    jumps = [0.0]
    sessions.now = lambda: epoch + sum(jumps) + trio.current_time()  # type: ignore[method-assign] # no clock
    async with open_store(Settings(home=home)) as store, trio.open_nursery() as nursery:
        batches = Batches(store, lambda _: LocalCrew(sessions), nursery, clock=lambda: sessions.now())
        yield House(batches, sessions, home, jumps)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def house(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[House]:
    autojump_clock.autojump_threshold = 0.02  # the store works in threads: let it
    # So do files: on a busy machine the clock would jump to their deadline.
    defaults = ask_disk.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "seconds", math.inf)
    async with open_house(tmp_path) as house:
        yield house


async def test_a_graph_is_worked_off_in_order(house: House, autojump_clock: Clock) -> None:
    specs = [
        spec("d", "ok {{needs.b.response}}", "b", "c", context="cost {{needs.c.cost}}"),
        spec("a"),
        spec("b", "ok", "a"),
        spec("c", r"ok \{{needs.b.response}}", "a"),
    ]
    record = await house.run(specs)
    assert (record.status, record.counts) == (BatchStatus.COMPLETED, {TaskStatus.COMPLETED: 4})
    tasks = await house.tasks(record.id)
    order = sorted(tasks, key=lambda name: tasks[name].order)
    assert (order[0], order[3]) == ("a", "d")
    assert house.sessions.prompts["d"] == f"ok answer of bcost {COST:.4f}"
    assert house.sessions.prompts["c"] == "ok {{needs.b.response}}"
    assert record.spent == pytest.approx(4 * COST)
    assert set(house.sessions.begun.values()) == {1}


async def test_a_failed_need_skips_its_dependants_and_says_so(house: House, autojump_clock: Clock) -> None:
    record = await house.run([spec("a", "fail"), spec("b", "ok", "a"), spec("c", "ok", "b"), spec("d")])
    assert record.status is BatchStatus.FAILED
    assert await house.statuses(record.id) == {
        "a": "failed",
        "b": "skipped",
        "c": "skipped",
        "d": "completed",
    }
    tasks = await house.tasks(record.id)
    assert tasks["c"].reason == "it needs 'a', which ended failed"
    assert {tasks[name].order for name in tasks} == {1, 2, 3, 4}


async def test_mistakes_are_told_before_anything_starts(house: House, autojump_clock: Clock) -> None:
    record = await house.load([spec("a", "ok", "b"), spec("b", "ok", "a"), spec("c", "ok")])
    (problem,) = await house.batches.check(record.id)
    assert "in a circle" in problem
    assert "'a' (line 1)" in problem
    assert "'b' (line 2)" in problem
    record = await house.load([spec("apple", "ok", "pears"), spec("pear")])
    assert await house.batches.check(record.id) == [
        "line 1: task 'apple' needs 'pears', which is not a task of this batch; did you mean 'pear'?"
    ]
    assert await house.batches.add(record.id, 2, [(spec("pear"), 9)]) == [
        "line 9: there is already a task 'pear' (line 2)"
    ]
    record = await house.load([spec("a", max_cost=3.0)], max_cost=1.0)
    assert "could never start" in (await house.batches.check(record.id))[0]
    record = await house.load([])
    assert await house.batches.check(record.id) == ["there is no task in it"]
    await house.batches.discard(record.id)
    assert house.sessions.begun == {}


async def test_troubles_of_the_api_cost_no_retry(house: House, autojump_clock: Clock) -> None:
    record = await house.run([spec("a", "529 529 ok"), spec("b", "late-529 ok"), spec("c", "limit:60 ok")])
    assert record.status is BatchStatus.COMPLETED
    assert house.sessions.begun == {"a": 3, "b": 2, "c": 2}
    assert [len(house.sessions.told.get(name, [])) for name in "abc"] == [0, 1, 1], "who had answered goes on"


async def test_a_usage_limit_parks_everything_until_it_resets(house: House, autojump_clock: Clock) -> None:
    record = await house.run(
        [spec("a", "limit:3600 ok"), *(spec(f"t{n}") for n in range(12))], max_parallel=2
    )
    assert record.status is BatchStatus.COMPLETED
    gaps = [b - a for a, b in zip(house.sessions.starts, house.sessions.starts[1:], strict=False)]
    assert max(gaps) > 3000, "nothing was started meanwhile"
    assert set(house.sessions.completed.values()) == {1}


async def test_a_claude_that_is_none_to_work_with_stops_it_with_one_line(
    house: House, autojump_clock: Clock
) -> None:
    record = await house.run([spec(f"t{n}", "unfit ok") for n in range(30)])
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "trouble")
    assert "claude 2.0.1 cannot be used: it is too old" in record.reason
    assert set((await house.statuses(record.id)).values()) == {"waiting"}
    assert sum(house.sessions.begun.values()) <= 4
    engine = await house.batches.start(record.id)
    assert (await engine.wait()).status in (BatchStatus.COMPLETED, BatchStatus.STOPPED)


async def test_refused_credentials_stop_it_and_fail_nothing(house: House, autojump_clock: Clock) -> None:
    record = await house.run([spec("a", "401 ok"), *(spec(f"t{n}", "401 ok") for n in range(30))])
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "auth")
    assert sum(house.sessions.begun.values()) <= 4
    assert set((await house.statuses(record.id)).values()) == {"waiting"}
    engine = await house.batches.start(record.id)
    assert (await engine.wait()).status in (BatchStatus.COMPLETED, BatchStatus.STOPPED)


async def test_retries_are_asked_for_and_safe(house: House, autojump_clock: Clock) -> None:
    record = await house.run(
        [
            spec("plain", "fail ok"),
            spec("again", "fail ok", retries=1),
            spec("acted", "acts-fail ok", retries=1),
            spec("bold", "acts-fail ok", retries=1, retry_acted=True),
            spec("hopeless", "fail", retries=2),
        ]
    )
    assert await house.statuses(record.id) == {
        "plain": "failed",
        "again": "completed",
        "acted": "failed",
        "bold": "completed",
        "hopeless": "failed",
    }
    assert house.sessions.begun == {"plain": 1, "again": 2, "acted": 1, "bold": 2, "hopeless": 3}
    tasks = await house.tasks(record.id)
    assert tasks["acted"].result is not None
    assert "may have changed something" in tasks["acted"].result.reasons[-1]


async def test_a_task_that_cannot_begin_fails_alone(house: House, autojump_clock: Clock) -> None:
    record = await house.run([spec("a", "taken"), spec("b")])
    assert await house.statuses(record.id) == {"a": "failed", "b": "completed"}
    assert "already exists" in ((await house.tasks(record.id))["a"].result or pytest.fail("no result")).error


async def test_the_cap_holds_by_reservation(house: House, autojump_clock: Clock) -> None:
    specs = [spec(f"t{n}", max_cost=1.0) for n in range(20)]
    record = await house.run(specs, max_cost=3.05)
    assert record.status is BatchStatus.COMPLETED
    assert house.sessions.most <= 3
    house.sessions.most = 0
    record = await house.run([spec(f"u{n}", max_cost=1.0) for n in range(20)], max_cost=1.05)
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "cost")
    assert record.spent <= 1.05
    assert "the next task may cost $1.00" in record.reason
    assert house.sessions.most == 1


async def test_time_stops_it_and_it_can_go_on(house: House, autojump_clock: Clock) -> None:
    specs = [spec(f"t{n}") for n in range(30)]
    record = await house.run(specs, max_time=40.0, max_parallel=2)
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "time")
    assert 0 < sum(house.sessions.completed.values()) < 30
    options = msgspec.structs.replace(record.options, max_time=None)
    record = await (await house.batches.start(record.id, options)).wait()
    assert record.status is BatchStatus.COMPLETED
    assert set(house.sessions.completed.values()) == {1}


async def test_a_bug_of_ours_lays_it_down(house: House, autojump_clock: Clock) -> None:
    engine = await house.start([spec("a"), spec("b")])

    async def begin(*_: object) -> None:
        raise ZeroDivisionError

    house.sessions.begin = begin  # type: ignore[assignment, method-assign] # likewise
    await engine.wait()
    record = await wait_status(house, engine.record.id, BatchStatus.STOPPED)
    assert record.stopped_by == "trouble"
    assert "a bug in cms" in record.reason


async def wait_status(house: House, batch_id: str, status: BatchStatus) -> BatchRecord:
    while (record := await house.store.read(batches.find, batch_id)).status is not status:  # noqa: ASYNC110
        await trio.sleep(10)  # the store has no event for it
    return record


async def test_a_crash_does_not_extend_the_time(tmp_path: Path, autojump_clock: Clock) -> None:
    autojump_clock.autojump_threshold = 0.02
    sessions = FakeSessions(longest=30.0)
    specs = [spec(f"t{n}") for n in range(100)]
    with trio.CancelScope() as life:
        async with open_house(tmp_path, sessions) as house:
            batch_id = (await house.start(specs, detached=True, max_parallel=1, max_time=300.0)).record.id
            await until_begun(sessions, 0)
            deadline = (await house.store.read(batches.find, batch_id)).deadline
            assert deadline is not None
            life.cancel()
            await trio.sleep_forever()
    sessions.at_work.clear()
    async with open_house(tmp_path, sessions) as house:
        await house.batches.recover()
        record = await wait_status(house, batch_id, BatchStatus.STOPPED)
        assert (record.stopped_by, record.deadline) == ("time", deadline)


async def until_begun(sessions: FakeSessions, more_than: int) -> int:
    """Until more tasks were begun than so many; returns how many."""
    while (begun := sum(sessions.begun.values())) <= more_than:  # noqa: ASYNC110 - the fake has no event for it
        await trio.sleep(1)
    return begun


async def test_pause_resume_cancel(house: House, autojump_clock: Clock) -> None:
    engine = await house.start([spec(f"t{n}") for n in range(200)], max_parallel=2)
    await until_begun(house.sessions, 3)
    record = await house.batches.pause(engine.record.id)
    assert record.status is BatchStatus.PAUSED
    while house.sessions.at_work:  # noqa: ASYNC110 - likewise
        await trio.sleep(1)
    begun = sum(house.sessions.begun.values())
    await trio.sleep(10_000)
    assert sum(house.sessions.begun.values()) == begun
    assert (await house.store.read(batches.find, record.id)).status is BatchStatus.PAUSED
    await house.batches.start(record.id)
    await until_begun(house.sessions, begun)
    record = await house.batches.cancel(record.id)
    assert record.status is BatchStatus.CANCELLED
    assert not house.sessions.at_work
    assert TaskStatus.CANCELLED in record.counts
    with pytest.raises(UsageError, match="is cancelled"):
        await house.batches.start(record.id)


async def test_stop_ends_what_runs_and_tells_what_is_not_safe(house: House, autojump_clock: Clock) -> None:
    engine = await house.start(
        [spec("hangs", "hang ok"), spec("calm", "hang ok"), spec("later")], max_parallel=2
    )
    with trio.fail_after(100):
        while len(house.sessions.at_work) < 2:  # noqa: ASYNC110 - the fake has no event for it
            await trio.sleep(0.1)
    house.sessions.sessions["calm"].finished = 1  # its tool had come to an end
    record = await house.batches.stop(engine.record.id)
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "asked")
    assert await house.statuses(record.id) == {"hangs": "interrupted", "calm": "waiting", "later": "waiting"}
    record = await (await house.batches.start(record.id)).wait()
    assert await house.statuses(record.id) == {
        "hangs": "interrupted",
        "calm": "completed",
        "later": "completed",
    }
    assert len(house.sessions.told["calm"]) == 1


async def test_the_results_come_once_each(house: House, autojump_clock: Clock, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    record = await house.run(
        [spec(f"t{n}", "fail" if n == 3 else "ok") for n in range(30)],
        out=str(out),
        report=str(tmp_path / "r.html"),
    )
    lines = [msgspec.json.decode(line, type=dict[str, object]) for line in out.read_bytes().splitlines()]
    assert sorted(str(line["name"]) for line in lines) == sorted(f"t{n}" for n in range(30))
    assert next(line for line in lines if line["name"] == "t3")["status"] == "failed"
    assert record.id in (tmp_path / "r.html").read_text()
    # A line is torn and one is lost in a crash: going on mends both.
    out.write_bytes(b"\n".join(out.read_bytes().splitlines()[:-1])[:-5])
    await house.store.write(batches.save, msgspec.structs.replace(record, status=BatchStatus.STOPPED))
    await (await house.batches.start(record.id)).wait()
    again = [msgspec.json.decode(line, type=dict[str, object]) for line in out.read_bytes().splitlines()]
    assert sorted(str(line["name"]) for line in again) == sorted(f"t{n}" for n in range(30))


async def test_a_patch_for_each_task_that_changed_something(
    house: House, autojump_clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patches, "_PATIENCE", math.inf)
    left = tmp_path / "left"
    left.mkdir()
    (left / "x").write_text("new\n")
    (tmp_path / "empty").mkdir()
    keep = tmp_path / "changes" / "s.1"
    freeze(read_trees(tmp_path / "empty", left), keep, note_start(left))
    folder = tmp_path / "patches"
    folder.mkdir()
    (folder / "b.patch").write_text("mine\n")
    (folder / "d.patch").symlink_to(tmp_path / "other")
    prompts = {"a": f"changes:{keep}", "b": f"changes:{keep}", "c": "ok", "d": f"changes:{keep}"}
    prompts["gone"] = f"changes:{tmp_path}/nowhere"
    record = await house.run([spec(*each) for each in prompts.items()], patches=str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["a.patch", "b.patch", "d.patch"]
    assert "+++ b/x\n" in (folder / "a.patch").read_text()
    assert (folder / "b.patch").read_text() == "mine\n", "what is no patch is left alone"
    assert not (tmp_path / "other").exists()
    assert sorted(word.split(": ")[1].rpartition("/")[2] for word in record.warnings) == [
        "b.patch", "d.patch", "gone.patch",
    ]  # fmt: skip
    # Of a checkout on a node it is a file already.
    (tmp_path / "from a node").write_text("diff --git a/x b/x\n")
    task = (await house.tasks(record.id))["c"]
    assert task.result is not None
    there = msgspec.structs.replace(task.result, patch=str(tmp_path / "from a node"))
    patches.Patches(house.store, record, print)._write(folder / "c.patch", task, there)
    assert (folder / "c.patch").read_text() == "diff --git a/x b/x\n"
    # Lost in a crash: going on adds it.
    (folder / "a.patch").unlink()
    await house.store.write(batches.save, msgspec.structs.replace(record, status=BatchStatus.STOPPED))
    await (await house.batches.start(record.id)).wait()
    assert (folder / "a.patch").exists()


async def test_a_keep_alive_batch_keeps_who_completed(house: House, autojump_clock: Clock) -> None:
    await house.run([spec("a"), spec("b", "fail")], keep_alive=True)
    assert house.sessions.kept == ["a"]


async def test_forecast_of_what_is_loaded(house: House, autojump_clock: Clock) -> None:
    record = await house.load([spec("a", max_cost=1.0), spec("b", "ok", "a", max_cost=1.0)], max_cost=0.5)
    assert len(await house.batches.check(record.id)) == 1
    told = await house.batches.plan(record.id)
    assert (told.tasks, told.cost_limit, told.fits) == (2, 2.0, False)


@pytest.mark.parametrize("seed", range(sized(2)))
async def test_killed_at_any_instant_nothing_is_lost_or_done_twice(
    tmp_path: Path, autojump_clock: Clock, seed: int
) -> None:
    """The engine is cut off without a word again and again, and the crew's sessions with it."""
    autojump_clock.autojump_threshold = 0.02
    sessions = FakeSessions(seed=seed, longest=5.0)
    specs = [spec(f"t{n}", "ok", *([f"t{n - 7}"] if n % 3 == 0 and n > 7 else [])) for n in range(60)]
    batch_id = ""
    for life in range(200):  # noqa: B007 - used below
        with trio.move_on_after(sessions.chance.uniform(0.1, 12)):
            async with open_house(tmp_path, sessions) as house:
                if not batch_id:
                    batch_id = (await house.start(specs, detached=True)).record.id
                else:
                    await house.batches.recover()
                engine = house.batches.engine(batch_id)
                if engine is None:
                    break
                await engine.wait()
        sessions.at_work.clear()
    else:
        pytest.fail("it never came to an end")
    assert life > 1, "it was not cut off at all"
    async with open_house(tmp_path, sessions) as house:
        record = await house.store.read(batches.find, batch_id)
        assert record.status is BatchStatus.COMPLETED
        assert record.counts == {TaskStatus.COMPLETED: 60}
    assert len(sessions.completed) == 60, "none was lost"
    assert set(sessions.completed.values()) == {1}, "none was done twice"


async def test_a_thousand_tasks(tmp_path: Path, autojump_clock: Clock) -> None:
    autojump_clock.autojump_threshold = 0.0
    number = sized(1_000)
    sessions = FakeSessions(longest=20.0)
    async with open_house(tmp_path, sessions) as house:
        record = await house.run([spec(f"t{n}") for n in range(number)], max_parallel=200)
        assert record.counts == {TaskStatus.COMPLETED: number}
    assert len(sessions.completed) == number
    assert set(sessions.completed.values()) == {1}
    assert sessions.most == 200


async def test_started_twice_at_once_it_has_one_engine(house: House, autojump_clock: Clock) -> None:
    """Whoever comes second finds the first's engine; no task is begun twice, no cost counted twice."""
    record = await house.load([spec(f"t{n}") for n in range(5)])
    engines: list[Engine] = []

    async def start() -> None:
        engines.append(await house.batches.start(record.id))

    for _ in range(2):
        engines.clear()
        async with trio.open_nursery() as callers:
            for _ in range(4):
                callers.start_soon(start)
        assert len(set(map(id, engines))) == 1
        await until_begun(house.sessions, 1)
        await house.batches.stop(record.id)
    await (await house.batches.start(record.id)).wait()
    assert set(house.sessions.completed.values()) == {1}
    ended = await house.store.read(batches.find, record.id)
    assert ended.spent == pytest.approx(5 * COST)


async def test_who_cancels_and_who_resumes_at_once_take_turns(house: House, autojump_clock: Clock) -> None:
    record = await house.load([spec("a"), spec("b")])
    await (await house.batches.start(record.id)).wait()
    record = await house.load([spec("c"), spec("d", "hang ok")])
    engine = await house.batches.start(record.id)
    await until_begun(house.sessions, 3)
    await house.batches.stop(engine.record.id)
    refused: list[UsageError] = []

    async def resume() -> None:
        try:
            await (await house.batches.start(record.id)).wait()
        except UsageError as error:
            refused.append(error)

    async with trio.open_nursery() as callers:
        callers.start_soon(house.batches.cancel, record.id)
        callers.start_soon(resume)
    stands = await house.store.read(batches.find, record.id)
    assert stands.status is BatchStatus.CANCELLED
    assert not house.sessions.at_work
    assert not house.batches.busy


async def test_what_another_process_has_just_taken_up_is_refused(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    """The claim itself counts as being at work: there is no gap before the engine's first word."""
    autojump_clock.autojump_threshold = 0.02
    async with open_house(tmp_path) as one, open_house(tmp_path) as other:
        record = await one.load([spec("a")])
        await one.store.write(batches.claim, record.id, {BatchStatus.LOADING})
        with pytest.raises(UsageError, match="another cms process"):
            await other.batches.start(record.id)


async def test_who_resumes_what_is_just_ending_gets_a_new_life_of_it(
    house: House, autojump_clock: Clock, tmp_path: Path
) -> None:
    """Not the end of the old one: with a hook still to be told, that takes a while."""
    engine = await house.start([spec("a", "hang ok")], on_done="sleep 1")
    await until_begun(house.sessions, 0)
    stopped = False

    async def stop() -> None:
        nonlocal stopped
        await house.batches.stop(engine.record.id)
        stopped = True

    async with trio.open_nursery() as callers:
        callers.start_soon(stop)
        await wait_status(house, engine.record.id, BatchStatus.STOPPED)
        again = await house.batches.start(engine.record.id)
        assert stopped
    assert again is not engine
    await house.batches.cancel(engine.record.id)


async def test_a_park_ends_by_the_clock_on_the_wall(house: House, autojump_clock: Clock) -> None:
    """After a night's sleep of the machine the limit has been reset, though no time has passed for us."""
    engine = await house.start([spec("a", "limit:36000 ok"), spec("b")], max_parallel=1)
    await wait_status(house, engine.record.id, BatchStatus.PARKED)
    began = trio.current_time()
    house.jumps.append(40_000.0)
    assert (await engine.wait()).status is BatchStatus.COMPLETED
    assert trio.current_time() - began < 5_000


@pytest.mark.parametrize("by", [-3_600_000.0, 3_600_000.0])
async def test_a_jump_of_the_clock_is_not_felt_by_spans(
    house: House, autojump_clock: Clock, by: float
) -> None:
    # While the store's thread is at work this clock may jump to the next deadline, and the limit is one.
    autojump_clock.autojump_threshold = 0.03
    limit = 300_000.0
    engine = await house.start(
        [spec(f"t{n}") for n in range(20)], max_parallel=2, stagger=5.0, max_time=limit
    )
    await until_begun(house.sessions, 2)
    began = trio.current_time()
    house.jumps.append(by)
    assert (await engine.wait()).status is BatchStatus.COMPLETED
    assert trio.current_time() - began < limit


async def test_a_recovery_that_takes_long_holds_up_no_question(tmp_path: Path, autojump_clock: Clock) -> None:
    """Questions are answered, and say so; whoever wants to go on waits for it, and then does."""
    autojump_clock.autojump_threshold = 0.02
    sessions = FakeSessions()
    with trio.CancelScope() as life:
        async with open_house(tmp_path, sessions) as house:
            batch_id = (await house.start([spec("a", "hang ok")])).record.id
            await until_begun(sessions, 0)
            life.cancel()
            await trio.sleep_forever()
    sessions.at_work.clear()
    checked = trio.Event()
    real = sessions.traces

    async def traces(*given: str | int, check: bool) -> object:
        await checked.wait()
        return await real(*given, check=check)  # type: ignore[arg-type] # handed on

    sessions.traces = traces  # type: ignore[assignment, method-assign] # a slow check
    async with open_house(tmp_path, sessions) as house, trio.open_nursery() as nursery:
        nursery.start_soon(house.batches.recover)
        while "checking what became" not in (await house.batches.summary(batch_id)).reason:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert "checking what became" in (await house.batches.summaries())[0].reason
        assert house.batches.busy
        went_on: list[Engine] = []

        async def go_on() -> None:
            went_on.append(await house.batches.start(batch_id))

        nursery.start_soon(go_on)
        await trio.sleep(10)
        assert not went_on
        checked.set()
        while not went_on:  # noqa: ASYNC110
            await trio.sleep(0.01)
        assert (await went_on[0].wait()).status in (BatchStatus.COMPLETED, BatchStatus.FAILED)
        assert "checking what became" not in (await house.batches.summary(batch_id)).reason
