"""What became of the caps on a process tree's memory and processes, in words for the verdict."""

from __future__ import annotations

from typing import Literal

from cms.containment import LimitsHit
from cms.session.model import Limits
from cms.units import size

ResourceCap = Literal["memory", "processes"]


def describe_hits(limits: Limits, hit: LimitsHit, passed: ResourceCap | None = None) -> tuple[str, ...]:
    """A line for each cap that was hit; empty if none was.

    Args:
        limits: what was allowed.
        hit: how often the kernel held the tree back.
        passed: the cap that we saw passed, where the kernel does not count.
    """
    found = []
    if hit.memory:
        found.append(
            f"the memory cap of {_cap(limits.max_memory)} was reached: the kernel killed {hit.memory}x"
        )
    elif passed == "memory":
        found.append(f"the memory cap of {_cap(limits.max_memory)} was exceeded: everything was killed")
    if hit.processes:
        found.append(
            f"the cap of {limits.max_procs} processes was reached: {hit.processes} starts were refused"
        )
    elif passed == "processes":
        found.append(f"the cap of {limits.max_procs} processes was exceeded: everything was killed")
    elif hit.full:
        found.append(f"the cap of {limits.max_procs} processes was reached: more may have been refused")
    return tuple(found)


def _cap(number: int | None) -> str:
    return "the machine" if number is None else size(number)
