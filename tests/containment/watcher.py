"""Kills supervisors with SIGKILL and sees to it that nothing of theirs is left. A program, run by the tests.

It is a child subreaper: whatever a dead supervisor leaves behind becomes its child, so "no child left" from
the kernel is exact where a look through /proc could miss something. Supervisors are forked from it, for a
fresh interpreter for each would cost more than all the rest.

    watcher.py MECHANISM FOLDER KILL...

A KILL is a case, to be killed when it says that it stands, or CASE@MS: so many milliseconds after its start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import trio

from cms.containment import Mechanism, Spec
from cms.containment._cgroup import find_delegation
from cms.containment._portable import PortableMechanism
from cms.containment._probe import candidates
from cms.testing import hostile

PATIENCE = 5.0


def supervise(mechanism: Mechanism, beat: Path, case: str, ready: int) -> None:
    async def main() -> None:
        spec = Spec(argv=hostile.command(case, beat), env={"PATH": os.defpath}, cwd=beat.parent)
        container = await mechanism.start(spec)
        said = b""
        while b"ready\n" not in said:
            said += await container.stdout.receive_some()
        os.write(ready, b"!")
        await trio.sleep_forever()

    trio.run(main)


def all_gone() -> bool:
    """Reap until there is nobody left to reap."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid == 0:
            time.sleep(0.001)
    return False


def kill_one(mechanism: Mechanism, beat: Path, case: str, after: float | None) -> float:
    """Milliseconds from the supervisor's SIGKILL to the last process gone; negative if some are left."""
    reading, writing = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        try:
            supervise(mechanism, beat, case, writing)
        finally:
            os._exit(1)
    os.close(writing)
    if after is None:
        assert os.read(reading, 1) == b"!", "the case did not come to stand"
    else:
        time.sleep(after)
    os.close(reading)
    begun = time.monotonic()
    os.kill(supervisor, signal.SIGKILL)
    gone = all_gone()
    return (time.monotonic() - begun) * 1000 if gone else -1.0


def main() -> None:
    name, folder, *kills = sys.argv[1:]
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    delegation, _ = find_delegation()
    mechanism = next(each for each in (*candidates(delegation, []), PortableMechanism()) if each.name == name)
    for kill in kills:
        case, _, after = kill.partition("@")
        beat = Path(folder) / f"beat-{case}"
        took = kill_one(mechanism, beat, case, int(after) / 1000 if after else None)
        sys.stdout.write(f"{kill} {took:.1f}\n")
        sys.stdout.flush()
        if took < 0:
            sys.exit(1)
        if delegation is not None:
            delegation.sweep()


if __name__ == "__main__":
    main()
