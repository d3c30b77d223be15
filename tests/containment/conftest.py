"""Every test that asks for `mechanism` runs once with each way in which a tree can be held on this machine.

What holds a tree is a namespace or a guardian, with a cgroup or without; who made the namespace is another
matter. So of the six mechanisms of Linux four are enough to try each of these, each maker, and both together.
The fall-back must work everywhere: where not even that one passes its exercise, the tests fail. After each
test no child of ours and no cgroup of ours may be left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cms.containment import Mechanism
from cms.containment._cgroup import find_delegation
from cms.containment._model import Attempt
from cms.containment._portable import PortableMechanism
from cms.containment._probe import candidates, exercise

#: What stands for it: the first that the machine has.
MECHANISMS: dict[str, tuple[str, ...]] = {
    "bwrap": ("bwrap+cgroup", "bwrap"),
    "unshare": ("unshare", "unshare+cgroup"),
    "guard+cgroup": ("guard+cgroup",),
    "guard": ("guard",),
    "portable": ("portable",),
}
LINUX = ("bwrap", "unshare", "guard+cgroup", "guard")
Found = dict[str, tuple[Mechanism, Attempt]]

on_linux = pytest.mark.parametrize("mechanism", LINUX, indirect=True)
"""For what takes long: not with the mechanism that Linux never uses (see test_portable)."""


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


@pytest.fixture(params=MECHANISMS)
def mechanism(request: pytest.FixtureRequest, machine: Found) -> Iterator[Mechanism]:
    """One of the mechanisms of this machine."""
    yield choose(request.param, machine)
    assert_nothing_left()


@pytest.fixture(params=["bwrap", "unshare"])
def walled(request: pytest.FixtureRequest, machine: Found) -> Iterator[Mechanism]:
    """One of those that promise to protect and hide paths."""
    yield choose(request.param, machine)
    assert_nothing_left()


def choose(name: str, machine: Found) -> Mechanism:
    found, attempt = next(
        (machine[each] for each in MECHANISMS[name] if each in machine), (None, Attempt("", ok=False))
    )
    if found is None:
        pytest.skip(f"this machine has no {name}")
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
