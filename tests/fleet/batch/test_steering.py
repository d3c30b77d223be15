"""A batch that is changed while it works, or at rest: it holds from then on, and is in the audit log."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from cms.batch.header import Header
from cms.batch.model import BatchStatus, Origin, TaskStatus
from cms.errors import UsageError
from cms.fleet.batch_engine import Engine
from cms.options import Layer
from cms.store import audit, batch_tasks
from cms.store.batch_steering import FAILED
from cms.units import BadValue
from fleet.batch.fake import COST, TOKENS
from fleet.batch.test_engine import Clock, House, house, spec

__all__ = ["house"]


async def until(engine: Engine, condition: Callable[[], bool]) -> None:
    """Until it is so. The clock jumps as long as nothing happens."""
    while not condition():
        assert not engine.ending, engine.record
        await trio.sleep(4)


async def at_work(house: House, engine: Engine, count: int) -> None:
    """Until so many tasks are at work."""
    await until(engine, lambda: len(house.sessions.at_work) >= count)


async def said(house: House, batch_id: str) -> list[tuple[str, str, str]]:
    rows, broken = await house.store.read(audit.verified, batch_id)
    assert broken is None
    assert {row.entry.kind for row in rows} <= {"batch"}
    return [(row.entry.verdict, row.entry.detail, row.entry.reason) for row in rows]


async def test_what_failed_is_done_again_and_what_it_let_down(house: House, autojump_clock: Clock) -> None:
    specs = [
        spec("a", "fail ok"),
        spec("b", "ok", "a"),
        spec("c", "ok", "b"),
        spec("d", "ok"),
        spec("e", "acts-fail acts-fail ok"),
        spec("f", "ok", "a", "e"),
    ]
    record = await house.run(specs)
    assert record.status is BatchStatus.FAILED
    record, count = await house.batches.requeue(record.id, (), FAILED, "the net was down")
    assert count == 5  # a and e, and b, c, f
    engine = house.batches.engine(record.id)
    assert engine is not None
    record = await engine.wait()
    assert await house.statuses(record.id) == {
        **dict.fromkeys("abcd", "completed"), "e": "failed", "f": "skipped",
    }  # fmt: skip
    with pytest.raises(UsageError, match="needs 'e', which ended failed"):
        await house.batches.requeue(record.id, ("f",), (), "")
    with pytest.raises(UsageError, match="has completed"):
        await house.batches.requeue(record.id, ("d",), (), "")
    with pytest.raises(UsageError, match="no task 'dd'"):
        await house.batches.requeue(record.id, ("dd",), (), "")
    await house.batches.requeue(record.id, ("e",), (), "once more")
    engine = house.batches.engine(record.id)
    assert engine is not None
    record = await engine.wait()
    assert record.status is BatchStatus.COMPLETED
    assert house.sessions.begun == {"a": 2, "b": 1, "c": 1, "d": 1, "e": 3, "f": 1}
    assert record.spent == pytest.approx(9 * COST), "what it cost before counts on"
    tasks = await house.tasks(record.id)
    assert tasks["e"].tries == 3
    assert tasks["e"].cost == pytest.approx(3 * COST)
    assert record.tokens == 9 * TOKENS
    first, second = await said(house, record.id)
    assert (first[0], first[2]) == ("requeue", "the net was down")
    assert "failed" in first[1]
    assert second == ("requeue", "e", "once more")
    with pytest.raises(UsageError, match="no task of batch"):
        await house.batches.requeue(record.id, (), FAILED, "")


async def test_what_failed_is_done_again_while_the_rest_goes_on(house: House, autojump_clock: Clock) -> None:
    specs = [spec("a", "fail ok"), *(spec(f"t{n}") for n in range(10)), spec("z", "ok", "a")]
    engine = await house.start(specs, max_parallel=1)
    await until(engine, lambda: house.sessions.begun["t1"] > 0)
    assert (await house.statuses(engine.record.id))["a"] == "failed"
    _, count = await house.batches.requeue(engine.record.id, ("a",), (), "")
    assert count == 2
    record = await engine.wait()
    assert record.counts == {TaskStatus.COMPLETED: 12}
    assert record.status is BatchStatus.COMPLETED


async def test_single_tasks_are_cancelled_whether_they_wait_or_run(
    house: House, autojump_clock: Clock
) -> None:
    specs = [spec("a", "hang"), spec("b", "ok", "a"), spec("c"), spec("d", "hang"), spec("e", "ok", "d")]
    engine = await house.start(specs, max_parallel=2, stagger=0.0)
    await at_work(house, engine, 2)
    await until(engine, lambda: house.sessions.at_work == {"a", "d"})
    record = await house.batches.withdraw(engine.record.id, ("e", "a"), "by hand")
    statuses = await house.statuses(record.id)
    assert statuses == {"a": "cancelled", "b": "skipped", "c": "completed", "d": "running", "e": "cancelled"}
    tasks = await house.tasks(record.id)
    assert tasks["a"].reason == "cancelled by a person: by hand"
    assert tasks["e"].reason == "by hand"
    with pytest.raises(UsageError, match="cancelled already"):
        await house.batches.withdraw(record.id, ("a",), "")
    await house.batches.withdraw(record.id, ("d",), "")
    record = await engine.wait()
    assert record.status is BatchStatus.FAILED
    assert [what for what, *_ in await said(house, record.id)] == ["cancel", "cancel"]


async def test_other_limits_hold_from_then_on(house: House, autojump_clock: Clock) -> None:
    engine = await house.start([spec(f"t{n:02}") for n in range(40)], max_parallel=2)
    await at_work(house, engine, 2)
    changes = Header(max_parallel=6, max_cost=1.0, defaults=Layer(model="opus", max_cost=0.02))
    record, changed = await house.batches.alter(engine.record.id, changes, "faster")
    assert changed == record.counts[TaskStatus.WAITING]
    await at_work(house, engine, 6)
    record = await engine.wait()
    assert (record.status, house.sessions.most) == (BatchStatus.COMPLETED, 6)
    tasks = await house.tasks(record.id)
    models = [tasks[name].options.session.model for name in sorted(tasks)]
    assert models == ["sonnet"] * (40 - changed) + ["opus"] * changed
    assert tasks["t39"].options.session.limits.max_cost == 0.02
    assert await said(house, record.id) == [
        ("set", "max_parallel: 6, max_cost: 1.0, model of tasks: opus, max_cost of tasks: 0.02", "faster")
    ]
    with pytest.raises(UsageError, match="its limits cannot be changed"):
        await house.batches.alter(record.id, changes, "")
    with pytest.raises(BadValue, match="--out cannot be changed"):
        await house.batches.alter(record.id, Header(out="/x"), "")
    with pytest.raises(BadValue, match="nothing to change"):
        await house.batches.alter(record.id, Header(), "")


async def test_a_limit_that_stopped_a_batch_is_raised_at_rest(house: House, autojump_clock: Clock) -> None:
    specs = [spec(f"t{n}", "ok", max_cost=0.02) for n in range(10)]
    record = await house.run(specs, max_parallel=1, max_cost=0.05)
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "cost")
    record, changed = await house.batches.alter(record.id, Header(max_cost=1.0), "")
    assert (record.options.max_cost, changed) == (1.0, 0)
    record = await (await house.batches.start(record.id)).wait()
    assert record.counts == {TaskStatus.COMPLETED: 10}


async def test_too_many_errors_stop_it_and_what_runs_runs_out(house: House, autojump_clock: Clock) -> None:
    specs = [spec(f"t{n:02}", "fail" if n % 2 else "ok") for n in range(40)]
    record = await house.run(specs, max_parallel=4, fail_on_error=0.1)
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "errors")
    assert "of 40 tasks ended in error (--fail-on-error 0.1)" in record.reason
    assert 5 <= record.counts[TaskStatus.FAILED] <= 8
    assert TaskStatus.INTERRUPTED not in record.counts
    record, _ = await house.batches.alter(record.id, Header(fail_on_error=20), "")
    record = await (await house.batches.start(record.id)).wait()
    assert record.counts == {TaskStatus.COMPLETED: 20, TaskStatus.FAILED: 20}
    assert record.status is BatchStatus.FAILED


async def test_tokens_are_counted_and_stop_it(house: House, autojump_clock: Clock) -> None:
    record = await house.run([spec(f"t{n}") for n in range(10)], max_parallel=1, max_tokens=4 * TOKENS)
    assert (record.status, record.stopped_by, record.tokens) == (BatchStatus.STOPPED, "tokens", 4 * TOKENS)
    found = await house.batches.summary(record.id)
    assert found.tokens == 4 * TOKENS
    # With the last one there is nothing left to stop.
    record = await house.run([spec(f"u{n}") for n in range(4)], max_parallel=1, max_tokens=4 * TOKENS)
    assert record.status is BatchStatus.COMPLETED


async def test_the_time_of_work_is_without_rests(house: House, autojump_clock: Clock) -> None:
    """Parked for an hour it has used nothing; hanging for a minute it has."""
    record = await house.run([spec("a", "limit:3600 ok"), spec("b")], max_work=200.0)
    assert record.status is BatchStatus.COMPLETED
    began = trio.current_time()
    record = await house.run([spec("c", "hang"), spec("d", "limit:3600 ok")], max_work=60.0, max_parallel=2)
    assert (record.status, record.stopped_by) == (BatchStatus.STOPPED, "time")
    assert "worked for 60 s" in record.reason
    assert trio.current_time() - began < 3600 + 120


async def test_the_judges_cap_is_in_what_a_task_may_come_to(house: House, autojump_clock: Clock) -> None:
    """When limits are changed, and when a task is done again."""
    specs = [spec("a", "fail ok", judge="Is it?", judge_max_cost=0.25, max_cost=1.0), spec("b", "hang")]
    engine = await house.start(specs, max_parallel=1, max_cost=9.0)
    await until(engine, lambda: house.sessions.at_work == {"b"})
    await house.batches.requeue(engine.record.id, ("a",), (), "")

    async def most() -> float | None:
        found, *_ = await house.store.read(batch_tasks.candidates, engine.record.id, 9e9, 9)
        return found[0].limit

    assert await most() == 1.25
    await house.batches.alter(engine.record.id, Header(defaults=Layer(max_cost=2.0)), "")
    assert await most() == 2.25
    engine.cancel("enough")
    await engine.wait()


async def test_a_task_is_done_again_with_more_room(house: House, autojump_clock: Clock) -> None:
    record = await house.run([spec("a", "fail ok", max_cost=1.0), spec("b", "ok", "a"), spec("c", "ok")])
    with pytest.raises(BadValue, match="cannot be changed"):
        await house.batches.requeue(record.id, (), FAILED, "", options=Layer(preset="full"))
    await house.batches.requeue(record.id, (), FAILED, "", options=Layer(max_cost=3.0, model="opus"))
    engine = house.batches.engine(record.id)
    assert engine is not None
    assert (await engine.wait()).status is BatchStatus.COMPLETED
    tasks = await house.tasks(record.id)
    a, b, c = (tasks[name].options.session for name in "abc")
    assert (a.limits.max_cost, a.model) == (3.0, "opus")
    assert b.model == c.model != "opus", "those it let down and the others keep theirs"
    assert any("max_cost of tasks: 3.0" in detail for _, detail, _ in await said(house, record.id))


async def test_attempts_are_not_applied_one_on_the_other(house: House, autojump_clock: Clock) -> None:
    specs = [spec(f"a.{n}", isolate="auto", apply="on-pass", origin=Origin("a", attempt=n)) for n in (1, 2)]
    record = await house.load(specs, attempts=2)
    (problem,) = await house.batches.check(record.id)
    assert "would apply every attempt at 'a'" in problem
    alone = await house.load([spec("b", isolate="auto", apply="on-pass")])
    assert await house.batches.check(alone.id) == []


async def test_what_is_done_again_has_a_second_line_among_the_results(
    house: House, tmp_path: Path, autojump_clock: Clock
) -> None:
    out = tmp_path / "out.jsonl"
    record = await house.run([spec("a", "fail ok"), spec("b")], out=str(out), max_parallel=1)
    await house.batches.requeue(record.id, (), FAILED, "")
    engine = house.batches.engine(record.id)
    assert engine is not None
    await engine.wait()
    lines = [msgspec.json.decode(line) for line in out.read_bytes().splitlines()]
    told = [(line["name"], line["status"], line["tries"]) for line in lines]
    assert told == [("a", "failed", 1), ("b", "completed", 1), ("a", "completed", 2)]
