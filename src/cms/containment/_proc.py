"""Reading /proc, and signals that cannot hit a stranger.

A pid is only a number that the kernel hands out again. So nothing here is signalled by pid: a `pidfd` is
opened, then it is checked that the process of that number is one of ours, and then the signal goes to the
pidfd. If the pid was given to somebody else between the two, the pidfd still means the dead one and the
signal goes nowhere.

Trees are walked downwards through `/proc/PID/task/TID/children`, which costs as much as the tree is large and
not as the machine is busy; where the kernel does not offer it, by the parent pids of all processes.
"""

from __future__ import annotations

import functools
import os
import select
import signal
from collections.abc import Iterable

import msgspec

from cms.containment._model import Member

COMMAND_CUT = 160
PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat(msgspec.Struct, frozen=True):
    """The fields of /proc/PID/stat that matter here."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    threads: int
    started: int
    rss: int

    @property
    def alive(self) -> bool:
        """A zombie leader can have threads that still run; it counts as alive until the last is gone."""
        return self.state not in "ZXx" or self.threads > 1


def _read(path: str, most: int = 4096, *, whole: bool = False) -> bytes:
    """The beginning of a file of /proc, or all of it. By bare calls: a large tree has thousands of them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.read(fd, most)
        while whole and (more := os.read(fd, most)):
            found += more
        return found
    finally:
        os.close(fd)


def read_stat(pid: int) -> Stat | None:
    """None if there is no such process (any more)."""
    try:
        raw = _read(f"/proc/{pid}/stat")
    except OSError:
        return None
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    try:
        return Stat(
            pid=pid,
            name=head.partition(b"(")[2].decode(errors="replace"),
            state=fields[0].decode(),
            parent=int(fields[1]),
            session=int(fields[3]),
            threads=int(fields[17]),
            started=int(fields[19]),
            rss=int(fields[21]) * PAGE,
        )
    except (IndexError, ValueError):
        return None


def member_of(stat: Stat | None) -> Member | None:
    """The same for people, with its command line; None if it is gone, or a zombie with nothing behind it."""
    if stat is None or not stat.alive:
        return None
    try:
        raw = _read(f"/proc/{stat.pid}/cmdline", 4 * COMMAND_CUT)
    except OSError:
        raw = b""
    command = raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")[:COMMAND_CUT]
    return Member(
        pid=stat.pid,
        started=stat.started,
        command=command or f"[{stat.name}]",
        state=stat.state,
        rss=stat.rss,
        threads=stat.threads,
    )


def children(pid: int) -> list[int]:
    """The children of one process; empty if it is gone.

    Raises:
        NotImplementedError: this kernel does not list them.
    """
    found: list[int] = []
    try:
        alone = os.stat(f"/proc/{pid}/task").st_nlink == 3  # noqa: PTH116 - two, and one for each thread
        threads = [str(pid)] if alone else os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:
        return found
    for thread in threads:
        try:
            listed = _read(f"/proc/{pid}/task/{thread}/children", whole=True)
            found.extend(int(word) for word in listed.split())
        except FileNotFoundError:
            if not _kernel_lists_children():
                raise NotImplementedError from None
        except OSError:
            continue
    return found


@functools.cache
def _kernel_lists_children() -> bool:
    own = os.getpid()
    return os.path.exists(f"/proc/{own}/task/{own}/children")  # noqa: PTH110 (as above)


def tree(root: int) -> dict[int, Stat]:
    """Everything below `root`, `root` not included: only what is proved to be below it.

    A walk takes time, and a pid met early may be somebody else's by its end. So each process is looked at
    again: it counts if the chain of its parents, as read now, leads through others that count to `root`. The
    caller sees to it that `root` itself is still the process it means (a pidfd that is not readable).
    """
    stats = {stat.pid: stat for stat in map(read_stat, _walk(root)) if stat is not None}
    proved: dict[int, Stat] = {}
    for pid in stats:
        chain: list[int] = []
        here = pid
        while here in stats and here not in proved and here not in chain:
            chain.append(here)
            here = stats[here].parent
        if here == root or here in proved:
            proved.update((each, stats[each]) for each in chain)
    return proved


def _walk(root: int) -> list[int]:
    try:
        found: list[int] = []
        seen = {root}
        queue = [root]
        while queue:
            for child in children(queue.pop()):
                if child not in seen:
                    seen.add(child)
                    found.append(child)
                    queue.append(child)
        return found
    except NotImplementedError:
        return [stat.pid for stat in all_stats() if stat.pid != root]


def all_stats() -> Iterable[Stat]:
    """Every process that this machine shows us."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            stat = read_stat(int(entry.name))
            if stat is not None:
                yield stat


def has_in_environment(pid: int, entry: bytes) -> bool:
    """True if the process was started with that `NAME=value`; False also where we may not look."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 (as above)
            return entry in file.read().split(b"\0")
    except OSError:
        return False


def has_ended(pidfd: int) -> bool:
    """True once the process and all its threads are gone (it may still wait to be reaped)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send(pidfd: int, number: signal.Signals) -> bool:
    """False if the process is gone already."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def signal_member(member: Member, number: signal.Signals) -> bool:
    """Signal exactly that process: same pid and same start. False if it is gone.

    Raises:
        PermissionError: it changed its user.
    """
    try:
        pidfd = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return False
    except OSError:
        # Some kernels refuse a pidfd for a dead leader whose other threads run on (EINVAL). It holds its
        # pid for as long as they do, so the number is safe once its start is right.
        stat = read_stat(member.pid)
        if stat is None or stat.started != member.started:
            return False
        os.kill(member.pid, number)
        return True
    try:
        stat = read_stat(member.pid)
        if stat is None or stat.started != member.started:
            return False
        return send(pidfd, number)
    finally:
        os.close(pidfd)
