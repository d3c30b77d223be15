"""A daemon killed with everything at work: the next command is answered at once, and tells of each session.

Six sessions here; for a hundred: `CMS_RESTART_SESSIONS=100 pytest -n 0 -s tests/cli/test_restart.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cms.config import Settings, load_settings
from cms.rpc.client import connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.rpc.sessions import (
    SESSION_DELEGATE,
    SESSION_INTERACTIONS,
    SESSION_LIST,
    SESSION_SPAWN,
    DelegateParams,
    InteractionsParams,
    ListParams,
    SpawnParams,
)
from cms.session.model import LIVE, InteractionState, SessionOptions, SessionStatus
from cms.testing.agent import write_launcher
from cms.testing.script import call, prompt, say

SESSIONS = int(os.environ.get("CMS_RESTART_SESSIONS", "6"))
#: Seconds that the next command may take longer than the first one of all, which started a daemon, too.
LONGER = 1.0
BUSY = prompt("go", call("Bash", command="sleep 600"), say("done"))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CMS_HOME", str(tmp_path / "cms"))
    monkeypatch.setenv("CMS_CLAUDE", str(write_launcher(tmp_path / "claude")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if entry))
    monkeypatch.setenv("CMS_CHILDREN_LIVE", "1000")
    return load_settings()


def begin(settings: Settings, number: int) -> None:
    """A third answers and waits, a third is at work, a third is a delegation that is to be checked."""
    options = SessionOptions(name=f"s{number}", work_dir=str(Path.cwd()), preset="full", verify=("true",))
    with connect(settings, start=False) as client:
        match number % 3:
            case 0:
                client.call(SESSION_SPAWN, SpawnParams(options, "hello"))
            case 1:
                client.call(SESSION_SPAWN, SpawnParams(options, BUSY, wait=False))
            case _:
                client.call(SESSION_DELEGATE, DelegateParams(options, BUSY, detach=True))


#: What is told of a message, by whether its session was idle. (Where a machine is slow, an agent may have
#: been killed before it said that it had read it.)
_ENDS = {
    True: (InteractionState.DONE,),
    False: (InteractionState.INTERRUPTED, InteractionState.DOUBTFUL),
}


def test_the_next_command_is_answered_at_once_and_tells_of_each(settings: Settings) -> None:
    begun = time.monotonic()
    with connect(settings) as client:
        client.call(SESSION_LIST, ListParams())
        first, pid = time.monotonic() - begun, client.daemon.pid
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: begin(settings, number), range(SESSIONS)))
    with connect(settings, start=False) as client:
        until = time.monotonic() + 60 + SESSIONS
        while True:
            alive = client.call(SESSION_LIST, ListParams()).sessions
            if sorted(one.status for one in alive if one.status is not SessionStatus.STARTING) == sorted(
                SessionStatus.READY if number % 3 == 0 else SessionStatus.BUSY for number in range(SESSIONS)
            ):
                break
            assert time.monotonic() < until, [(one.name, one.status, one.error) for one in alive]
            time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    begun = time.monotonic()
    with connect(settings) as client:
        try:
            found = client.call(SESSION_LIST, ListParams()).sessions
            took = time.monotonic() - begun
            assert client.daemon.pid != pid
            assert len(found) == SESSIONS
            for one in found:
                assert one.status not in LIVE, one
                assert "cms ended unexpectedly" in (one.error or ""), one
                last = client.call(SESSION_INTERACTIONS, InteractionsParams(one.name)).interactions[-1]
                assert last.state in _ENDS[int(one.name[1:]) % 3 == 0], last
        finally:
            client.call(DAEMON_STOP, DaemonStopParams(grace=5))
    sys.stdout.write(f"{SESSIONS} sessions: the first answer took {first:.2f} s, the next one {took:.2f} s\n")
    assert took < first + LONGER
