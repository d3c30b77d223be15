"""The supervisor killed with SIGKILL, at any moment, takes every process of its containers with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cms.runtime.containment import Mechanism
from cms.runtime.containment._cgroup import find_delegation
from runtime.containment.conftest import on_linux

WATCHER = str(Path(__file__).with_name("watcher.py"))


async def watch(mechanism: Mechanism, *arguments: str) -> str:
    done = await trio.run_process(
        [sys.executable, WATCHER, mechanism.name, *arguments],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


@on_linux
async def test_nothing_outlives_it(mechanism: Mechanism, tmp_path: Path) -> None:
    cases = ["deaf", "stealth", "subreaper"]
    if mechanism.guarantees.dies_with_supervisor.strong:
        cases += ["phoenix", "comets"]
    with trio.fail_after(40):
        said = await watch(mechanism, str(tmp_path), ",".join(cases))
    assert said.count("\n") == len(cases)


@on_linux
async def test_at_any_moment_of_a_start(mechanism: Mechanism, tmp_path: Path) -> None:
    with trio.fail_after(60):
        said = await watch(mechanism, str(tmp_path), "orphan", "0", "60", "5")
    assert said.count("\n") == 12


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
