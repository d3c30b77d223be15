"""One cgroup v2 leaf for each container, where this user may make one.

A cgroup counts what it holds, so nothing leaves it by forking; it is killed, frozen and limited as one. What
it cannot do alone: `cgroup.kill` misses a process whose main thread has exited (the signal goes to the dead
thread), so each listed pid is killed, too; and a process that may write to a sibling's `cgroup.procs` can
walk out, so it stands beside the pid namespace and not in its place where both can be had.

Only the command is moved in, by the supervisor, while it still waits for leave to start: one migration (they
are slow), and the leaf then holds the agent's processes and none of ours.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

from cms.containment._model import Attempt, LimitsHit
from cms.containment._proc import member_of, read_stat, signal_member

PREFIX = "cms-"
_WANTED = frozenset({"memory", "pids"})
_serial = itertools.count(1)


class Leaf:
    """The cgroup of one container."""

    def __init__(self, path: Path, controllers: frozenset[str]) -> None:
        self.path = path
        self.controllers = controllers
        self.frozen = False

    def __repr__(self) -> str:
        return f"<Leaf {self.path.name}>"

    def add(self, pid: int) -> None:
        """Move one process in; what it forks from then on is born here."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def limit(self, *, memory: int | None, processes: int | None) -> None:
        """Set what the controllers here can enforce; silently skip what they cannot (see `controllers`)."""
        if memory is not None and "memory" in self.controllers:
            (self.path / "memory.max").write_text(str(memory))
            (self.path / "memory.oom.group").write_text("1")
            swap = self.path / "memory.swap.max"
            if swap.exists():
                swap.write_text("0")
        if processes is not None and "pids" in self.controllers:
            (self.path / "pids.max").write_text(str(processes))

    def procs(self) -> list[int]:
        """Every process in the leaf and in cgroups that the agent made below it."""
        found: list[int] = []
        for folder in self._folders():
            try:
                found.extend(int(word) for word in (folder / "cgroup.procs").read_text().split())
            except OSError:
                continue
        return found

    def populated(self) -> bool:
        """False only if the kernel says that nothing lives here."""
        found = self._events()
        return bool(found) and "populated 0" not in found

    def _events(self) -> str:
        """What the kernel says of the leaf; "" if it is gone, also between the opening and the reading."""
        try:
            return (self.path / "cgroup.events").read_text()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return ""

    def kill(self) -> None:
        """SIGKILL to all at once, a fork in flight included, also while frozen; but not to the threads of a
        dead leader, see `kill_each`.
        """
        try:
            (self.path / "cgroup.kill").write_text("1")
        except OSError:
            self.kill_each()  # gone already, or a kernel before 5.14

    def kill_each(self) -> None:
        """SIGKILL to each process that is listed; takes as long as they are many."""
        for pid in self.procs():
            member = member_of(read_stat(pid))
            if member is not None:
                signal_member(member, signal.SIGKILL)

    def freeze(self, wanted: bool) -> None:
        """Ask; the kernel takes until `is_frozen` to carry it out."""
        (self.path / "cgroup.freeze").write_text("1" if wanted else "0")
        self.frozen = wanted

    def is_frozen(self) -> bool:
        """True when no process in here runs any more."""
        found = self._events()
        return not found or "frozen 1" in found

    def memory(self) -> int | None:
        """Bytes charged to the leaf; None without a memory controller."""
        if "memory" not in self.controllers:
            return None
        try:
            return int((self.path / "memory.current").read_text())
        except OSError:
            return None

    def limits_hit(self) -> LimitsHit:
        """The kernel's own counters."""
        return LimitsHit(
            memory=_event(self.path / "memory.events", "oom_kill"),
            processes=_event(self.path / "pids.events", "max"),
        )

    def remove(self) -> bool:
        """False if something is still in it."""
        try:
            for folder in reversed(list(self._folders())):
                folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def _folders(self) -> Iterator[Path]:
        """The leaf and all below it, parents first."""
        for folder, below, _ in os.walk(self.path):
            yield Path(folder)
            below.sort()


class Delegation:
    """A cgroup in which we may make leaves.

    Attributes:
        parent: the folder.
        controllers: which of memory and pids its leaves get.
    """

    def __init__(self, parent: Path, controllers: frozenset[str]) -> None:
        self.parent = parent
        self.controllers = controllers

    def __repr__(self) -> str:
        return f"<Delegation {self.parent} {sorted(self.controllers)}>"

    def new_leaf(self) -> Leaf:
        """An empty leaf; its name tells whose it is, so that `sweep` can remove it after a crash.

        Raises:
            OSError: the delegation was taken away.
        """
        own = os.getpid()
        stat = read_stat(own)
        started = stat.started if stat else 0
        path = self.parent / f"{PREFIX}{own}-{started}-{next(_serial)}"
        path.mkdir()
        return Leaf(path, self.controllers)

    def sweep(self) -> int:
        """Remove what dead supervisors left, and end what still lives in it. Returns how many leaves.

        A leaf's name holds its supervisor's pid and start time; only if no such process exists is it touched.
        """
        count = 0
        for path in self.parent.glob(f"{PREFIX}*"):
            match = re.fullmatch(rf"{PREFIX}(\d+)-(\d+)-\d+", path.name)
            if match is None:
                continue
            stat = read_stat(int(match[1]))
            if stat is not None and stat.started == int(match[2]):
                continue
            leaf = Leaf(path, frozenset())
            if leaf.populated():
                leaf.kill()
                leaf.kill_each()
            count += leaf.remove()
        return count


def find_delegation() -> tuple[Delegation | None, list[Attempt]]:
    """Look for the best place for our leaves: our own cgroup, or an ancestor that is ours too.

    The nearest one that hands down memory and pids wins; else the nearest that we can use at all. Nothing is
    switched on in a cgroup that holds processes of others.
    """
    step = "cgroup v2"
    mount = _find_mount()
    if mount is None:
        return None, [
            Attempt(step, ok=False, detail="not mounted", hint="boot with the unified cgroup hierarchy")
        ]
    root, inside = mount
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        return None, [Attempt(step, ok=False, detail=str(error))]
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    relative = os.path.relpath(own, inside)
    if relative.startswith(".."):
        return None, [Attempt(step, ok=False, detail=f"our cgroup {own} is outside the mounted ones")]
    here = (root / relative).resolve()
    if here.name == f"{PREFIX}supervisor":
        here = here.parent  # we have stepped aside before
    attempts: list[Attempt] = []
    usable: Delegation | None = None
    for folder in (here, *here.parents):
        if not folder.is_relative_to(root):
            break
        found = _try(folder, own=folder == here)
        if isinstance(found, str):
            attempts.append(Attempt(f"cgroup {folder}", ok=False, detail=found))
            continue
        if usable is None or found.controllers >= _WANTED:
            usable = found
        if found.controllers >= _WANTED:
            break
    if usable is None:
        hint = "run the daemon as a systemd user service: `cms daemon unit` prints one"
        return None, [Attempt(step, ok=False, detail=attempts[0].detail if attempts else "", hint=hint)]
    done = [Attempt(step, ok=True, detail=str(usable.parent))]
    for name in sorted(_WANTED):
        has = name in usable.controllers
        why = "" if has else "the controller is not handed down to this cgroup"
        hint = "" if has else "a systemd user service gets it: `cms daemon unit` prints one"
        done.append(Attempt(f"cgroup {name} controller", ok=has, detail=why, hint=hint))
    return usable, done


def _try(folder: Path, *, own: bool) -> Delegation | str:
    """Really make a leaf, move nothing, remove it. A word of why not otherwise."""
    try:
        handed = frozenset((folder / "cgroup.subtree_control").read_text().split())
        if own and not handed >= _WANTED:
            handed = _switch_on(folder, handed)
        delegation = Delegation(folder, handed & _WANTED)
        if not os.access(folder / "cgroup.procs", os.W_OK):
            return "not writable for us"
        leaf = delegation.new_leaf()
    except OSError as error:
        return error.strerror or str(error)
    try:
        if not (leaf.path / "cgroup.freeze").exists() or not os.access(leaf.path / "cgroup.procs", os.W_OK):
            return "this kernel's cgroups cannot be frozen or joined"
    finally:
        leaf.remove()
    return delegation


def _switch_on(folder: Path, handed: frozenset[str]) -> frozenset[str]:
    """Hand memory and pids down, if they are here to be had.

    The kernel allows it only to a cgroup without processes of its own (the root excepted). If this one holds
    nobody but us, as a service's does, we step aside into a child of it; if it holds others, nothing is done.
    """
    wanted = (_WANTED & frozenset((folder / "cgroup.controllers").read_text().split())) - handed
    own = str(os.getpid())
    if (
        wanted
        and (folder / "cgroup.type").exists()
        and (folder / "cgroup.procs").read_text().split() == [own]
    ):
        aside = folder / f"{PREFIX}supervisor"
        aside.mkdir(exist_ok=True)
        (aside / "cgroup.procs").write_text(own)
    for name in sorted(wanted):
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{name}")
            handed |= {name}
        except OSError:
            continue  # others are in it, or it is not ours
    return handed


def _find_mount() -> tuple[Path, str] | None:
    """Where cgroup2 is mounted, and which cgroup is the root of that mount (hybrid set-ups included)."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            fields = left.split()
            return Path(fields[4]), fields[3]
    return None


def _event(path: Path, name: str) -> int:
    try:
        for line in path.read_text().splitlines():
            word, _, count = line.partition(" ")
            if word == name:
                return int(count)
    except OSError:
        pass
    return 0
