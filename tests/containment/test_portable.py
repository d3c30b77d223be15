"""The mechanism for systems that are not Linux, run on Linux: what it does, and what it says it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from cms.containment import Level, Spec
from cms.containment._portable import PortableMechanism
from cms.testing import hostile
from containment.children import ENV, read_until
from containment.test_hostile import silent
from containment.test_supervisor_dies import watch


@pytest.mark.parametrize("case", ["setsid", "orphan", "deaf", "stopped"])
async def test_kill_finds_them(tmp_path: Path, case: str) -> None:
    beat = tmp_path / "beat"
    spec = Spec(argv=hostile.command(case, beat), env=ENV, cwd=tmp_path)
    with trio.fail_after(20):
        async with await PortableMechanism().start(spec) as container:
            await read_until(container, b"ready\n")
            proof = await container.kill(deadline=5)
            assert proof.empty
            assert proof.alive
            assert "two looks" in proof.how[-1]
        assert await silent(beat)


async def test_they_die_with_the_supervisor(tmp_path: Path) -> None:
    with trio.fail_after(20):
        await watch(PortableMechanism(), tmp_path, ["deaf", "orphan"])


async def test_a_frozen_tree_stands_still(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    spec = Spec(argv=hostile.command("setsid", beat), env=ENV, cwd=tmp_path)
    with trio.fail_after(20):
        async with await PortableMechanism().start(spec) as container:
            await read_until(container, b"ready\n")
            await container.freeze()
            assert await silent(beat)
            await container.thaw()
            before = hostile.last_beat(beat)
            while hostile.last_beat(beat) == before:  # noqa: ASYNC110 (the beat wakes nobody)
                await trio.sleep(0.001)


def test_it_promises_little() -> None:
    mechanism = PortableMechanism()
    assert mechanism.level is Level.E
    pending = [getattr(mechanism.guarantees, name) for name in mechanism.guarantees.__struct_fields__]
    assert not any(pending.strong for pending in pending)
    assert all(pending.why for pending in pending)
