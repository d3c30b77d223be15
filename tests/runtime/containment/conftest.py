"""Every test that asks for `mechanism` runs once with each mechanism; those this machine lacks are skipped.

The fall-back must work everywhere: where not even that one passes its exercise, the tests fail. After each
test no child of ours and no cgroup of ours may be left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cms.runtime.containment import Mechanism
from cms.runtime.containment._cgroup import find_delegation
from cms.runtime.containment._model import Attempt
from cms.runtime.containment._portable import PortableMechanism
from cms.runtime.containment._probe import candidates, exercise

LINUX = ("bwrap+cgroup", "bwrap", "unshare+cgroup", "unshare", "guard+cgroup", "guard")
NAMES = (*LINUX, "portable")
Found = dict[str, tuple[Mechanism, Attempt]]

on_linux = pytest.mark.parametrize("mechanism", LINUX, indirect=True)
"""For what takes long: not with the mechanism that Linux never uses (see test_portable)."""

each_kill = pytest.mark.parametrize(
    "mechanism", ["bwrap+cgroup", "unshare", "guard+cgroup", "guard"], indirect=True
)
"""For what takes longest: a kill rests on a namespace's init or a guardian, with a cgroup or without, whoever
made them."""


@pytest.fixture(scope="session")
def machine() -> Found:
    """What this machine can do, found as the program finds it."""
    delegation, _ = find_delegation()

    async def try_all() -> Found:
        return {
            each.name: (each, await exercise(each))
            for each in (*candidates(delegation, []), PortableMechanism())
        }

    return trio.run(try_all)


@pytest.fixture(params=NAMES)
def mechanism(request: pytest.FixtureRequest, machine: Found) -> Iterator[Mechanism]:
    """One of the mechanisms of this machine."""
    yield choose(request.param, machine)
    assert_nothing_left()


@pytest.fixture(params=[name for name in NAMES if name.startswith(("bwrap", "unshare"))])
def walled(request: pytest.FixtureRequest, machine: Found) -> Iterator[Mechanism]:
    """One of those that promise to protect and hide paths."""
    yield choose(request.param, machine)
    assert_nothing_left()


def choose(name: str, machine: Found) -> Mechanism:
    if name not in machine:
        pytest.skip(f"this machine has no {name}")
    found, attempt = machine[name]
    if not attempt.ok and name != "guard":
        pytest.skip(f"{name}: {attempt.detail}")
    assert attempt.ok, attempt
    return found


def assert_nothing_left() -> None:
    own = os.getpid()
    children = [
        word
        for thread in Path(f"/proc/{own}/task").iterdir()
        for word in (thread / "children").read_text().split()
    ]
    assert not children, f"processes left: {children}"
    delegation, _ = find_delegation()
    if delegation is not None:
        leaves = list(delegation.parent.glob(f"cms-{own}-*"))
        assert not leaves, f"cgroups left: {leaves}"
