"""Nothing is paid twice: the result of an earlier batch is taken while all that it rests on is the same."""

from __future__ import annotations

import pytest

from cms.batch.model import BatchStatus, Origin, TaskOptions, TaskStatus
from cms.batch.reuse import key_of
from cms.fleet.crew import LocalCrew
from cms.fleet.folder_state import Untold
from cms.session.model import SessionOptions
from cms.store import batches
from fleet.batch.fake import COST
from fleet.batch.test_engine import Clock, House, house, spec

__all__ = ["house"]


async def test_a_second_run_costs_nothing(house: House, autojump_clock: Clock) -> None:
    specs = [spec("a"), spec("b", "ok {{needs.a.response}}", "a"), spec("c", "fail")]
    first = await house.run(specs, cache=True)
    assert first.spent == pytest.approx(3 * COST)
    assert not first.reused
    house.sessions.sessions.clear()
    second = await house.run(specs, cache=True, fresh=True)
    assert second.status is BatchStatus.FAILED
    assert second.reused == 2
    assert second.spent == pytest.approx(COST), "only what failed is done again"
    tasks = await house.tasks(second.id)
    assert tasks["b"].reused == f"{first.id}/b"
    assert (tasks["b"].tries, tasks["b"].cost) == (0, 0.0)
    assert tasks["b"].result is not None
    assert (tasks["b"].result.response, tasks["b"].result.can_continue) == ("answer of b", False)
    assert (await house.batches.summary(second.id)).reused == 2
    # The newest batch has the results, too: whose they are is still known when the first is gone.
    while not await house.store.write(batches.delete, first.id):
        pass
    third = await house.run(specs[:2], cache=True, fresh=True)
    assert (third.spent, third.reused) == (0.0, 2)
    assert (await house.tasks(third.id))["b"].reused == f"{first.id}/b"


@pytest.mark.parametrize(
    "change",
    [{"model": "opus"}, {"verify": ("true",)}, {"context": "more"}, {"prompt": "ok then"}, {"max_cost": 1.0}],
    ids=str,
)
async def test_anything_else_is_another_result(
    house: House, autojump_clock: Clock, change: dict[str, object]
) -> None:
    await house.run([spec("a")], cache=True)
    options = {"prompt": "ok", **change}
    second = await house.run([spec("other", **options)], cache=True)  # type: ignore[arg-type] # of every kind
    assert second.spent == pytest.approx(COST)
    assert not second.reused


async def test_a_name_and_tags_are_no_part_of_it(house: House, autojump_clock: Clock) -> None:
    await house.run([spec("a", "ok")], cache=True)
    second = await house.run([spec("b", "ok", tags=("t",))], cache=True)
    assert second.reused == 1
    third = await house.run([spec("c", "ok")], cache=False)
    assert third.spent == pytest.approx(COST)
    assert not third.reused


async def test_the_folder_must_be_as_it_was_and_left_as_it_was(
    house: House, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.run([spec("a")], cache=True)
    house.sessions.surroundings = "v1 changed"
    assert (await house.run([spec("b")], cache=True)).reused == 0
    house.sessions.surroundings = "v1 clean"
    assert (await house.run([spec("c")], cache=True)).reused == 1
    # What changes the folder is not kept: whoever comes to it as it was before wants it done.
    work = house.sessions._work

    async def edit(*given: object) -> object:
        house.sessions.surroundings = "v1 edited"
        return await work(*given)  # type: ignore[arg-type] # as it came

    monkeypatch.setattr(house.sessions, "_work", edit)
    assert (await house.run([spec("d", "ok edit")], cache=True)).reused == 0
    house.sessions.surroundings = "v1 clean"
    assert (await house.run([spec("e", "ok edit")], cache=True)).reused == 0


async def test_what_cannot_be_told_is_told_once_and_nothing_is_reused(
    house: House, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def around(*_: object) -> str:
        raise Untold("the folder is too large")

    monkeypatch.setattr(LocalCrew, "around", around)
    record = await house.run([spec("a"), spec("b")], cache=True)
    assert record.status is BatchStatus.COMPLETED
    assert record.warnings == ("no result is reused or kept: the folder is too large",)


async def test_of_several_attempts_the_failures_are_verdicts_too(house: House, autojump_clock: Clock) -> None:
    """To draw only them again would make pass@1 better than it is. By hand they can be done again."""
    specs = [
        spec(f"a.{n}", "unverified ok" if n == 2 else "ok", origin=Origin("a", attempt=n)) for n in (1, 2)
    ]
    first = await house.run(specs, cache=True, attempts=2)
    assert first.counts == {TaskStatus.COMPLETED: 1, TaskStatus.VERIFICATION_FAILED: 1}
    again = [spec(f"b.{n}", one.prompt, origin=Origin("b", attempt=n)) for n, one in enumerate(specs, 1)]
    second = await house.run(again, cache=True, attempts=2)
    assert (second.spent, second.reused, second.counts) == (0.0, 2, first.counts)
    alone = await house.run([spec("c", specs[1].prompt, origin=Origin("c", attempt=2))], cache=True)
    assert alone.reused == 0, "where it is tried once, a failure is done again"
    await house.batches.requeue(second.id, ("b.2",), (), "")
    engine = house.batches.engine(second.id)
    assert engine is not None
    record = await engine.wait()
    assert record.spent == pytest.approx(COST)


def test_each_attempt_has_its_own_result() -> None:
    options = [TaskOptions(SessionOptions("a", "/w"), "p", origin=Origin("a", attempt=n)) for n in (1, 2)]
    assert len({key_of(one, "p", "", "v") for one in options}) == 2
