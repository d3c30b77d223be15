"""Starts daemons in a moment, kills them, and says whether anything outlived them. A program, run by a test.

It loads and probes once and then forks, for a fresh daemon takes half a second. It is a child subreaper:
whatever a killed daemon leaves behind becomes its child, so that "no child left" is the kernel's word.

    start   serves CMS_HOME; answers `started PID`
    kill    SIGKILL, then a wait for everybody; answers `gone MS`, or `LEFT PIDS` after five seconds
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import trio

from cms.config import load_settings
from cms.containment import find_mechanism
from cms.daemon.main import run_daemon
from cms.fleet import supervisor

PATIENCE = 5.0


def start() -> int:
    """A daemon that serves when this returns; its pid."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.setsid()
            run_daemon(load_settings(), ready_fd=writing, foreground=True)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as ready:
        line = ready.readline()
    assert '"error":null' in line, line
    return pid


def kill(pid: int) -> str:
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while time.monotonic() < begun + PATIENCE:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.001)
        except ChildProcessError:
            return f"gone {(time.monotonic() - begun) * 1000:.1f}"
    own = os.getpid()
    return f"LEFT {Path(f'/proc/{own}/task/{own}/children').read_text()}"


def main() -> None:
    assert supervisor.__file__  # loaded now, or each daemon would load it anew
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    trio.run(find_mechanism, load_settings().containment)
    daemon = 0
    for line in sys.stdin:
        if line == "start\n":
            daemon = start()
            answer = f"started {daemon}"
        else:
            answer = kill(daemon)
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
