"""Caps on memory and processes: by the kernel where it counts, by looking where it does not."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import msgspec
import pytest
import trio

from cms.containment import Mechanism, Spec
from cms.containment._cgroup import Leaf
from cms.testing import hostile
from containment.children import ENV, python, read_all, read_until, shell

MIB = 1 << 20


async def test_memory_is_seen(mechanism: Mechanism, tmp_path: Path) -> None:
    argv = hostile.command("large", tmp_path / "beat", "100")
    spec = Spec(argv=argv, env=ENV, cwd=tmp_path, max_memory=64 * MIB)
    with trio.fail_after(20):
        async with await mechanism.start(spec) as container:
            if mechanism.guarantees.memory_cap.strong:
                assert await container.wait() == -9
                assert container.limits_hit().memory >= 1
            else:
                assert await container.watch_limits(every=0.01) == "memory"
                await read_until(container, b"ready\n")
                assert container.statistics().rss > 64 * MIB


async def test_what_is_written_to_memory_counts(walled: Mechanism, tmp_path: Path) -> None:
    """No process has it: a shell of 2 MiB writes 20 into each of four places. All count, and once only."""
    home, other, work = tmp_path / "home", tmp_path / "other", tmp_path / "home" / "work"
    for folder in (work, other):
        folder.mkdir(parents=True)
    places = (home, other, "/var/tmp", "/dev/shm")
    lines = [f"head -c 20M /dev/zero > {place}/big" for place in places]
    spec = shell("; ".join((*lines, "echo done", "read line")), work)
    spec = msgspec.structs.replace(spec, sandbox=True, writable=(work,), covered=(home, other))
    for cap in (100, 70):
        with trio.fail_after(20):
            async with await walled.start(msgspec.structs.replace(spec, max_memory=cap * MIB)) as container:
                if walled.guarantees.memory_cap.strong and cap == 70:
                    assert await container.wait() != 0
                    return
                await read_until(container, b"done\n")
                with trio.CancelScope(
                    deadline=trio.current_time() + 0.1 if cap == 100 else math.inf
                ) as scope:
                    assert await container.watch_limits(every=0.01) == "memory"
                assert scope.cancelled_caught == (cap == 100)


async def test_processes_are_held_or_seen(mechanism: Mechanism, tmp_path: Path) -> None:
    argv = hostile.command("plain", tmp_path / "beat", "40")
    spec = Spec(argv=argv, env=ENV, cwd=tmp_path, max_procs=20)
    with trio.fail_after(20):
        async with await mechanism.start(spec) as container:
            if mechanism.guarantees.process_cap.strong:
                await read_until(container, b"BlockingIOError", container.stderr)
                assert container.statistics().processes <= 20
                with trio.move_on_after(0.1):
                    await container.watch_limits(every=0.01)
                hit = container.limits_hit()
                assert hit.processes or hit.full
            else:
                assert await container.watch_limits(every=0.01) == "processes"


async def test_below_the_caps_nothing_is_said(mechanism: Mechanism, tmp_path: Path) -> None:
    spec = msgspec.structs.replace(shell("cat", tmp_path), max_memory=1 << 30, max_procs=50)
    with trio.fail_after(10):
        async with await mechanism.start(spec) as container:
            with trio.move_on_after(0.05) as scope:
                await container.watch_limits(every=0.001)
            assert scope.cancelled_caught
            assert container.limits_hit().memory == container.limits_hit().processes == 0


def test_the_kernels_counters_are_read(tmp_path: Path) -> None:
    """On a folder that looks like a cgroup: few test machines hand the controllers down."""
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n")
    (tmp_path / "pids.events").write_text("max 7\n")
    (tmp_path / "memory.current").write_text("4096\n")
    leaf = Leaf(tmp_path, frozenset({"memory", "pids"}))
    leaf.limit(memory=5 * MIB, processes=9)
    assert (tmp_path / "memory.max").read_text() == str(5 * MIB)
    assert (tmp_path / "memory.oom.group").read_text() == "1"
    assert (tmp_path / "pids.max").read_text() == "9"
    hit = leaf.limits_hit()
    assert (hit.memory, hit.processes) == (2, 7)
    assert leaf.memory() == 4096


async def test_the_agent_is_the_kernels_first_choice_when_memory_runs_out(
    mechanism: Mechanism, tmp_path: Path
) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())  # noqa: ASYNC240
    with trio.fail_after(10):
        spec = python("print(open('/proc/self/oom_score_adj').read())", tmp_path)
        async with await mechanism.start(spec) as container:
            assert int(await read_all(container.stdout)) == min(1000, own + 300)


def test_root_is_told_that_the_kernel_does_not_count_it(machine: dict[str, tuple[Mechanism, object]]) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    for mechanism, _ in machine.values():
        processes = mechanism.guarantees.process_cap
        assert processes.strong or "pids controller" in processes.why


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV])
def test_a_leaf_that_goes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Also between the opening of a file in it and the reading (ENODEV): then nothing lives there."""

    def read_text(_: Path) -> str:
        raise OSError(number, "gone")

    monkeypatch.setattr(Path, "read_text", read_text)
    leaf = Leaf(tmp_path, frozenset())
    assert not leaf.populated()
    assert leaf.is_frozen()
    monkeypatch.setattr(Path, "read_text", lambda _: "populated 1\nfrozen 0\n")
    assert leaf.populated()
    assert not leaf.is_frozen()
