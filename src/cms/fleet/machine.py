"""What this machine has left: free memory and cores, as far as this process may use them; its steady clock.

And what this process gives back of it. glibc keeps what was freed between two things that are still in use,
and has a heap for each of many threads: a daemon that starts thousands of sessions grew by half in a day of
them, though nothing of it was in use (measured: what is in use stays the same from 200 tasks to 10,000).
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import time
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: Taken where the system does not tell: enough for a few sessions, so that nobody is surprised.
_UNKNOWN: Final = 2 * 2**30
#: Files that this process wants to be able to have open.
_OPEN_FILES: Final = 65_536
_M_ARENA_MAX: Final = -8  # of glibc's malloc.h
_ARENAS: Final = 2


def steady() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def available_memory(meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS) -> int:
    """Bytes that programs can still take without swapping: of the system, or of the cgroup if less."""
    found = _UNKNOWN
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found = int(line.split()[1]) * 1024
                break
    except (OSError, ValueError, IndexError):
        try:
            found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (OSError, ValueError):
            return _UNKNOWN
    return min(found, _cgroup_room(cgroups, found))


def _cgroup_room(cgroups: Path, otherwise: int) -> int:
    """What the cgroup of a container (mounted as the root) still lets its processes take."""
    try:
        limit = (cgroups / "memory.max").read_text().strip()
        used = int((cgroups / "memory.current").read_text())
    except (OSError, ValueError):
        return otherwise
    return otherwise if limit == "max" else max(0, int(limit) - used)


def cores() -> int:
    """How many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def raise_open_files() -> int:
    """Let this process have as many files open as the system permits, at most `_OPEN_FILES`.

    A session takes ten; the usual soft limit of 1,024, which is there for the sake of programs that use
    `select`, would end at a hundred sessions. Programs that are started are to be given it back.

    Returns:
        The soft limit as it was, or 0 if that was enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return 0
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return 0  # some systems have a lower limit of their own, and do not tell
    return soft


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is one that can be told such things."""
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None
    except OSError:
        return None


def share_heaps() -> None:
    """Have all threads to come share two heaps; elsewhere than with glibc nothing."""
    if (library := _glibc()) is not None:
        library.mallopt(_M_ARENA_MAX, _ARENAS)


def trim_heap() -> None:
    """Give the system back what was freed; elsewhere than with glibc nothing. Takes about a millisecond."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)
