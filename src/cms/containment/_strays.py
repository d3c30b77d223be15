"""Processes that outlived a kill, known by more than their pid, long after their container is gone.

A pid alone would name a stranger one day. With the start time it names one process of this boot, and with the
boot's own name one process for good.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import trio

from cms.containment._model import Member
from cms.containment._proc import member_of, read_stat, signal_member

_POLL = 0.01


def identity(member: Member) -> str:
    """Names the process for good: `pid@start@boot`."""
    return f"{member.pid}@{member.started}@{_boot()}"


def still_alive(identities: Iterable[str]) -> tuple[str, ...]:
    """Those that are still there. Where it cannot be told (no /proc), whoever has the pid counts."""
    return tuple(each for each in identities if find(each) is not None)


async def end_strays(identities: Iterable[str], *, deadline: float) -> tuple[str, ...]:
    """SIGKILL to each that is still there, and a wait of at most `deadline` seconds for them to go.

    Returns:
        Those that are left all the same.
    """
    left = still_alive(identities)
    if sys.platform == "linux":
        for each in left:
            member = find(each)
            if member is not None:
                try:
                    signal_member(member, signal.SIGKILL)
                except PermissionError:
                    continue  # it has changed its user; it is told as left
    with trio.move_on_after(deadline):
        while left := still_alive(left):  # noqa: ASYNC110 (they are not our children: nothing tells of it)
            await trio.sleep(_POLL)
    return left


def same_boot(each: str) -> bool:
    """Whether it was named since this machine was started."""
    return each.split("@")[2] == _boot()


def find(each: str) -> Member | None:
    """That very process, if it is still there."""
    pid, started, boot = each.split("@")
    if boot != _boot():
        return None
    if sys.platform != "linux":
        return Member(int(pid), int(started), "", "", 0) if _exists(int(pid)) else None
    member = member_of(read_stat(int(pid)))
    return member if member is not None and member.started == int(started) else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@functools.cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return ""
