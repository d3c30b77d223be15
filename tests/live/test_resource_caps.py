"""What is said of a cap that was hit, by the kernel or before our eyes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cms.containment import Container, LimitsHit
from cms.live.resource_caps import ResourceCap, describe_hits
from cms.session.model import Limits, Outcome
from cms.testing.script import prompt
from fleet.kit import at_work, make_settings, start, supervising, toil

LIMITS = Limits(max_memory=512 << 20, max_procs=20)


@pytest.mark.parametrize(
    ("hit", "passed", "said"),
    [
        (LimitsHit(), None, ()),
        (LimitsHit(memory=2), None, ("the memory cap of 512 MiB was reached: the kernel killed 2x",)),
        (LimitsHit(), "memory", ("the memory cap of 512 MiB was exceeded: everything was killed",)),
        (LimitsHit(processes=7), None, ("the cap of 20 processes was reached: 7 starts were refused",)),
        (LimitsHit(full=True), None, ("the cap of 20 processes was reached: more may have been refused",)),
        (LimitsHit(full=True), "processes", ("the cap of 20 processes was exceeded: everything was killed",)),
    ],
)
def test_each_cap_has_its_words(hit: LimitsHit, passed: ResourceCap | None, said: tuple[str, ...]) -> None:
    assert describe_hits(LIMITS, hit, passed) == said


def test_both_at_once_and_sizes_as_people_write_them() -> None:
    both = describe_hits(Limits(max_memory=3 << 29, max_procs=1), LimitsHit(memory=1, processes=1))
    assert [line.partition(" was ")[0] for line in both] == [
        "the memory cap of 1.5 GiB",
        "the cap of 1 processes",
    ]
    assert "4 KiB" in describe_hits(Limits(max_memory=4096), LimitsHit(memory=1))[0]
    assert "100 B" in describe_hits(Limits(max_memory=100), LimitsHit(memory=1))[0]
    assert "the machine" in describe_hits(Limits(), LimitsHit(memory=1))[0]


async def test_a_death_by_the_kernels_hand_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's part is played: few machines that tests run on hand the memory controller down."""
    monkeypatch.setattr(Container, "limits_hit", lambda _self: LimitsHit(memory=1))
    async with supervising(make_settings(tmp_path)) as supervisor:
        await start(supervisor, limits=LIMITS)
        sent = await supervisor.submit("one", prompt("go", toil()), type="send")
        await at_work(supervisor)
        pid = (await supervisor.get("one")).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        ended = await supervisor.finished(sent)
        assert ended.outcome is Outcome.FAILED
        assert (
            "claude was killed in the middle of a turn: the memory cap of 512 MiB was reached" in ended.error
        )
        assert ended.reasons[-1].startswith("the memory cap of 512 MiB was reached")
        record = await supervisor.get("one")
        assert record.caps_hit == ended.reasons[-1:]
