"""Programs that do not want to end, against every mechanism of this machine.

Each is watched in two ways that it cannot get round both: the end of the stdout pipe that it inherited, and a
heartbeat in shared memory. A mechanism whose kill is strong must end them all; one whose kill is weak may
fail, but never claim that it did not.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path

import pytest
import trio

from cms.containment import Mechanism, Proof, Spec, end_tree
from cms.containment._cgroup import Delegation
from cms.containment._guard import ScanMechanism
from cms.testing import hostile
from containment.children import ENV, read_all, read_until, shell
from containment.conftest import LINUX, Found, on_linux

SILENCE = 0.02
#: What a mechanism is tried with that does the same as another: the guardian alone, which is tried with all
#: of them beside a cgroup, and unshare, whose namespace is the one that bwrap makes.
WORST = ("orphan", "comets", "bomb", "phoenix", "headless", "subreaper", "stealth", "regicide")
ARGUMENTS = {"large": "64", "comets": "6", "spinners": "8", "bomb": "60"}  # `cms drill` takes them all


def against(cases: Collection[str], **fewer: Collection[str]) -> pytest.MarkDecorator:
    """Each of these cases with each mechanism, but with those of `fewer` only what stands there."""
    told = {name: fewer.get(name.removeprefix("guard+"), cases) for name in LINUX}
    pairs = [(name, case) for name in LINUX for case in cases if case in told[name]]
    return pytest.mark.parametrize(("mechanism", "case"), pairs, indirect=["mechanism"])


async def silent(beat: Path) -> bool:
    """True if no process of the case ran for a while: to see that nothing happens takes time."""
    before = hostile.last_beat(beat)
    await trio.sleep(SILENCE)
    return hostile.last_beat(beat) == before


def spec_for(case: str, beat: Path, argument: str = "") -> Spec:
    return Spec(argv=hostile.command(case, beat, argument), env=ENV, cwd=beat.parent, label=case)


def assert_proof(proof: Proof) -> None:
    assert proof.empty, proof
    assert proof.left == ()
    assert proof.rounds >= 1
    assert proof.how


@against(hostile.CASES, unshare=WORST, guard=WORST)
async def test_kill_ends_it(mechanism: Mechanism, tmp_path: Path, case: str) -> None:
    beat = tmp_path / "beat"
    with trio.fail_after(25):
        container = await mechanism.start(spec_for(case, beat, ARGUMENTS.get(case, "")))
        try:
            await read_until(container, b"ready\n")
            proof = await container.kill(deadline=2)
            if mechanism.guarantees.kill_all.strong:
                assert_proof(proof)
            if proof.empty:
                await read_all(container.stdout)
                assert await container.kill(deadline=2) is proof
            else:
                assert (await container.kill(deadline=15)).empty
        finally:
            await container.aclose(deadline=15)
        assert await silent(beat)


# Of a namespace or a cgroup the kernel ends everybody at once, whoever they are.
@against(
    ("setsid", "orphan", "comets", "stealth"), bwrap=("comets",), unshare=("stealth",), cgroup=("comets",)
)
async def test_who_has_only_a_note_of_it_ends_it(mechanism: Mechanism, tmp_path: Path, case: str) -> None:
    beat = tmp_path / "beat"
    with trio.fail_after(25):
        async with await mechanism.start(spec_for(case, beat, ARGUMENTS.get(case, ""))) as container:
            await read_until(container, b"ready\n")
            where = container.whereabouts()
            # Where it may fail, what runs away from it keeps a whole core busy until then.
            within = 10 if mechanism.guarantees.kill_all.strong else 1
            proof = await trio.to_thread.run_sync(lambda: end_tree(where, deadline=within))
            if mechanism.guarantees.kill_all.strong:
                assert_proof(proof)
            if proof.empty:
                assert await silent(beat)
                # Once more, when somebody else may have the numbers: nothing is there, nothing is done.
                again = await trio.to_thread.run_sync(lambda: end_tree(where, deadline=10))
                assert (again.empty, again.rounds, again.alive) == (True, 0, ())


@pytest.mark.parametrize(
    "case", ["setsid", "orphan", "comets", "phoenix", "subreaper", "stealth", "regicide"]
)
async def test_the_cases_are_hostile(machine: Found, tmp_path: Path, case: str) -> None:
    """That a kill of the process group loses to them shows that the test above can fail."""
    beat = tmp_path / "beat"
    naive = (
        'setsid "$@" > said & '
        "until grep -q ready said; do sleep 0.005; done; "
        "kill -KILL -$!; wait $!; echo killed; cat"
    )
    best = next(each for each, attempt in machine.values() if attempt.ok)
    with trio.fail_after(20):
        async with await best.start(
            shell(naive, tmp_path, *hostile.command(case, beat, ARGUMENTS.get(case, "")))
        ) as container:
            await read_until(container, b"killed\n")
            before = hostile.last_beat(beat)
            while hostile.last_beat(beat) == before:  # noqa: ASYNC110 (the beat wakes nobody)
                await trio.sleep(0.001)
        assert await silent(beat)


# bwrap has the cgroup of the guardian beside it, or does as unshare does.
@against(("still", "comets", "bomb", "headless", "waker"), bwrap=("waker",))
async def test_freeze_stops_it_and_a_frozen_tree_can_be_killed(
    mechanism: Mechanism, tmp_path: Path, case: str
) -> None:
    beat = tmp_path / "beat"
    with trio.fail_after(25):
        async with await mechanism.start(spec_for(case, beat, ARGUMENTS.get(case, ""))) as container:
            await read_until(container, b"ready\n")
            await container.freeze()
            frozen = container.statistics().frozen
            if mechanism.guarantees.freeze.strong:
                assert frozen
                assert await silent(beat)
            proof = await container.kill(deadline=2)
            if mechanism.guarantees.kill_all.strong:
                assert_proof(proof)


async def test_thaw_lets_it_run_on(mechanism: Mechanism, tmp_path: Path) -> None:
    with trio.fail_after(10):
        async with await mechanism.start(shell("(setsid cat); cat", tmp_path)) as container:
            await container.stdin.send_all(b"one\n")
            await read_until(container, b"one\n")
            await container.freeze()
            await container.stdin.send_all(b"two\n")
            assert {member.state for member in await container.members()} <= {"T", "S", "D"}
            with trio.move_on_after(0.05):
                await read_until(container, b"two\n")
                pytest.fail("it ran while frozen")
            await container.thaw()
            await read_until(container, b"two\n")


@on_linux
async def test_nobody_can_reach_the_supervisor(mechanism: Mechanism, tmp_path: Path) -> None:
    """A daemon of the same user tries to stop, kill and trace us (a stand-in for us, that is)."""
    if not mechanism.guarantees.dies_with_supervisor.strong and not scoped(mechanism):
        pytest.skip("this kernel cannot keep a process of the same user from that without namespaces")
    beat = tmp_path / "beat"
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            victim = await nursery.start(partial(trio.run_process, ["sleep", "100"], check=False))
            async with await mechanism.start(spec_for("assassin", beat, str(victim.pid))) as container:
                said = await read_until(container, b"\nready\n")
                assert b": sent" not in said
                assert b": done" not in said
                assert victim.poll() is None
            nursery.cancel_scope.cancel()


@on_linux
async def test_nobody_leaves_a_cgroup(mechanism: Mechanism, tmp_path: Path) -> None:
    """Where the cgroup is what the kill rests on, its files cannot be written from inside."""
    delegation = getattr(mechanism, "delegation", None)
    if not isinstance(delegation, Delegation) or not scoped(mechanism):
        pytest.skip(f"the kill of {mechanism.name} does not rest on a cgroup alone")
    with trio.fail_after(10):
        async with await mechanism.start(spec_for("cgroup_escape", tmp_path / "beat")) as container:
            await read_until(container, b"ready\n")
            members = {member.pid for member in await container.members()}
            (leaf,) = delegation.parent.glob(f"cms-{os.getpid()}-*")
            assert members == {int(word) for word in (leaf / "cgroup.procs").read_text().split()}
            assert len(members) == 2


def scoped(mechanism: Mechanism) -> bool:
    return isinstance(mechanism, ScanMechanism) and mechanism.scoped
