"""The end of a container's tree by somebody who has not started it, and has only a note of where it is.

For when the supervisor cannot: its event loop is blocked, its disk is full. Blocking on purpose. Nothing is
signalled that is not known by pid and start time (`_strays.identity`), through a pidfd.
"""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from cms.containment._cgroup import PREFIX, Leaf
from cms.containment._model import Member, Proof
from cms.containment._proc import (
    all_stats,
    has_ended,
    has_in_environment,
    member_of,
    read_stat,
    send,
    signal_member,
    tree,
)
from cms.containment._strays import find, same_boot

_POLL = 0.01
#: Walks in a row that find nobody, where only a walk can tell: one may miss who forks while it looks. So in
#: one of them nobody on the whole machine may have forked, or nothing is proved.
_CALM = 20


class Whereabouts(msgspec.Struct, frozen=True):
    """Where the processes of a container are.

    Attributes:
        mechanism: of the container.
        root: names the process that all others are below (`identity`).
        namespace: that one is the init of a pid namespace: with it end all.
        leaf: the path of the cgroup that they are in, or "".
        marker: `NAME=value` in the environment of each, or "".
    """

    mechanism: str
    root: str
    namespace: bool
    leaf: str = ""
    marker: str = ""


def end_tree(where: Whereabouts, *, deadline: float) -> Proof:
    """SIGKILL to all, and the proof that nothing is left, within about `deadline` seconds."""
    begun = time.monotonic()
    if not same_boot(where.root):
        return Proof(where.mechanism, (), 0, 0.0, empty=True, how=("the machine has restarted since",))
    leaf = _leaf(where)
    root = _open(where.root)
    how: list[str] = []
    rounds = calm = 0
    still = False
    try:
        alive = _members(where, root, leaf)
        while not (empty := calm >= _CALM and still) and time.monotonic() < begun + deadline:
            forks = _forks()
            if _is_empty(where, root, leaf):
                calm = _CALM if where.namespace else calm + 1
                still = still or where.namespace or leaf is not None or _forks() == forks
                continue
            rounds, calm, still = rounds + 1, 0, False
            _strike(where, root, leaf, how)
            time.sleep(_POLL)
        if empty:
            how.append(_evidence(where, leaf))
        left = () if empty else _members(where, root, leaf)
    finally:
        if root is not None:
            os.close(root)
    seconds = time.monotonic() - begun
    return Proof(where.mechanism, alive, rounds, seconds, empty, left, tuple(dict.fromkeys(how)))


def _forks() -> int:
    """How often anything on this machine has forked since it was started."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    return time.monotonic_ns()  # it does not say: never the same, so nothing is proved


def _leaf(where: Whereabouts) -> Leaf | None:
    path = Path(where.leaf)
    if re.fullmatch(rf"{PREFIX}\d+-\d+-\d+", path.name) and (path / "cgroup.procs").is_file():
        return Leaf(path, frozenset())
    return None


def _open(identity: str) -> int | None:
    """A pidfd of that very process, or None if it is gone."""
    pid = int(identity.partition("@")[0])
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if find(identity) is None:  # asked while the pidfd holds it: the number cannot have changed hands since
        os.close(pidfd)
        return None
    return pidfd


def _members(where: Whereabouts, root: int | None, leaf: Leaf | None) -> tuple[Member, ...]:
    pids: set[int] = set()
    if root is not None and not has_ended(root):
        pids |= tree(int(where.root.partition("@")[0])).keys()
    if leaf is not None:
        pids.update(leaf.procs())
    if where.marker:
        marker = where.marker.encode()
        marked = [each.pid for each in all_stats() if each.alive and has_in_environment(each.pid, marker)]
        for pid in marked:
            pids |= {pid, *tree(pid)}
    members = (member_of(read_stat(pid)) for pid in sorted(pids))
    return tuple(member for member in members if member is not None)


def _is_empty(where: Whereabouts, root: int | None, leaf: Leaf | None) -> bool:
    if root is not None and not has_ended(root):
        return False
    if leaf is not None and leaf.populated():
        return False
    return where.namespace or not _members(where, root, leaf)


def _strike(where: Whereabouts, root: int | None, leaf: Leaf | None, how: list[str]) -> None:
    if leaf is not None:
        leaf.kill()
        leaf.kill_each()
        how.append("cgroup.kill")
    if root is not None and where.namespace:
        send(root, signal.SIGKILL)
        how.append("SIGKILL to the namespace's init")
        return
    # The guardian last: as long as it lives, who loses its parent stays below it.
    for _ in range(_CALM):
        members = _members(where, root, leaf)
        for member in members:
            with suppress(PermissionError):  # it has changed its user; it is told as left
                signal_member(member, signal.SIGKILL)
        if members:
            how.append("SIGKILL to each member found by walking")
            return
    if root is not None:
        send(root, signal.SIGKILL)
        how.append("SIGKILL to the guardian")


def _evidence(where: Whereabouts, leaf: Leaf | None) -> str:
    what = "a walk over all processes found no member"
    if where.namespace:
        what = "the namespace's init has ended"
    return f"{what}, its cgroup is not populated" if leaf is not None else what
