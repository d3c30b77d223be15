"""The supervisor killed with SIGKILL, at any moment, takes every process of its containers with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cms.containment import Mechanism
from cms.containment._cgroup import find_delegation
from containment.conftest import MECHANISMS

WATCHER = str(Path(__file__).with_name("watcher.py"))


async def watch(mechanism: Mechanism, folder: Path, kills: list[str]) -> None:
    done = await trio.run_process(
        [sys.executable, WATCHER, mechanism.name, str(folder), *kills],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    assert said.count("\n") == len(kills)


@pytest.mark.parametrize("mechanism", ["bwrap", "unshare", "guard+cgroup"], indirect=True)
async def test_nothing_outlives_it(mechanism: Mechanism, tmp_path: Path) -> None:
    shift = [mechanism.name in names for names in MECHANISMS.values()].index(True)
    moments = range(3 * shift, 60, 20)  # not the same for any two
    kills = ["deaf", "stealth", "subreaper", *(f"orphan@{ms}" for ms in moments)]
    if mechanism.guarantees.dies_with_supervisor.strong:
        kills += ["phoenix", "comets"]
    with trio.fail_after(60):
        await watch(mechanism, tmp_path, kills)


def test_its_cgroups_are_swept_up_later() -> None:
    delegation, _ = find_delegation()
    if delegation is None:
        pytest.skip("this machine has no cgroup for us")
    stranger = delegation.parent / "cms-4194304-1-1"  # no process can have that pid
    ours = delegation.new_leaf()
    stranger.mkdir()
    try:
        assert delegation.sweep() >= 1
        assert not stranger.exists()
        assert ours.path.exists()
    finally:
        ours.remove()
