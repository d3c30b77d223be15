"""What this machine has left: free memory and cores, as far as this process may use them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUPS: Final = Path("/sys/fs/cgroup")
#: Taken where the system does not tell: enough for a few sessions, so that nobody is surprised.
_UNKNOWN: Final = 2 * 2**30


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
