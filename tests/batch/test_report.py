from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskStatus, TaskView
from cms.batch.report import ROWS, Gathered, Gathering, markdown
from cms.session.model import ChangeSummary
from cms.units import span

EVIL = "<script>alert(1)</script> | `x` [a](b) *c* \n# head \"'&"


def task(
    name: str, status: TaskStatus = TaskStatus.COMPLETED, error: str = "", cost: float = 0.1
) -> TaskView:
    return TaskView(
        name=name,
        status=status,
        cost=cost,
        cost_exact=True,
        turns=2,
        duration=1500,
        response="",
        error=error,
        tries=1,
        line=1,
        model="opus",
        session_id="",
        can_continue=True,
        tools_used=(),
        reasons=(),
        needs=(),
        started=1000.0,
        ended=1060.0,
    )


def batch(total: int) -> BatchRecord:
    return BatchRecord(
        id="nightly-1",
        created=1000.0,
        status=BatchStatus.FAILED,
        options=BatchOptions(work_dir="/x", source=EVIL),
        total=total,
        counts={TaskStatus.COMPLETED: total - 1, TaskStatus.FAILED: 1},
        spent=0.2,
        started=1000.0,
        ended=1100.0,
        reason=EVIL,
    )


def gather(tasks: Iterable[TaskView], cost_by_model: Iterable[tuple[str, float]]) -> Gathered:
    gathering = Gathering()
    gathering.add(tasks)
    return gathering.found(cost_by_model)


@given(st.text(max_size=60))
def test_nothing_that_others_wrote_becomes_markup(text: str) -> None:
    evil = EVIL + text
    found = gather([task("a"), task(evil, TaskStatus.FAILED, evil)], [(evil, 0.2)])
    rows = [line for line in markdown(batch(2), found, UTC).splitlines() if line.startswith("|")]
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 6)
    assert "<script" not in markdown(batch(2), found, UTC)


def test_what_tasks_left_is_told() -> None:
    gathering = Gathering()
    change = ChangeSummary("kept", files=2, added=3, removed=1, note="not applied: a.py: conflict")
    gathering.add(
        [
            msgspec.structs.replace(task("one"), response="All green. " + "x" * 1000, change=change),
            task("two"),
        ]
    )
    found = gathering.found(())
    text = markdown(batch(2), found)
    assert "2 files, +3 -1, kept: not applied: a.py: conflict" in text
    assert "All green." in text
    assert len(text) < 8000


def test_what_was_done_elsewhere_is_told() -> None:
    there = msgspec.structs.replace(task("a"), node="n<1>", host="box", patch="/home/a-1.patch")
    found = gather([there, task("b")], [])
    text = markdown(batch(2), found, UTC)
    assert "completed on n&lt;1&gt; (box)" in text
    assert "patch: /home/a-1.patch" in text
    assert text.count("completed on") == 1


def test_a_huge_batch_shows_its_failures_first() -> None:
    tasks = (
        task(f"t{number}", TaskStatus.FAILED if number == 5000 else TaskStatus.COMPLETED)
        for number in range(6000)
    )
    found = gather(tasks, [])
    assert len(found.shown) == ROWS
    assert found.left_out == 6000 - ROWS
    assert found.shown[-1].name == "t5000"
    assert found.places == (*range(ROWS - 1), 5000)
    assert "5000 more tasks are not shown" in markdown(batch(6000), found)


def test_spans() -> None:
    assert [span(value) for value in (4.25, 125.0, 11220.0, 187200.0)] == [
        "4.2s",
        "2m 05s",
        "3h 07m",
        "2d 04h",
    ]
