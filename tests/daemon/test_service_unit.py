"""What systemd is told, and the unit that it is given."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from cms.daemon.service_unit import Service, unit
from cms.live.argv import build_environment


def listen(path: Path) -> socket.socket:
    """The service manager's end."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    sock.settimeout(20)
    return sock


def test_a_daemon_says_when_it_serves_that_it_lives_and_when_it_stops(tmp_path: Path) -> None:
    with listen(tmp_path / "notify") as manager:
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "HOME": str(tmp_path),
            "CMS_HOME": str(tmp_path / "cms"),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "100000",
        }
        daemon = subprocess.Popen(
            [sys.executable, "-m", "cms", "daemon", "run"], env=env, stderr=subprocess.DEVNULL
        )
        try:
            said = manager.recv(4096).decode().splitlines()
            assert said[0] == "READY=1"
            assert said[1].startswith("STATUS=serving ")
            assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            daemon.send_signal(signal.SIGTERM)
            while (last := manager.recv(4096)) == b"WATCHDOG=1":
                pass
            assert last == b"STOPPING=1\nSTATUS=stopping: SIGTERM"
            assert daemon.wait(20) == 0
        finally:
            daemon.kill()
            daemon.wait()


def test_it_is_taken_out_of_the_environment() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert Service.take(environ).every == 1.5
    assert environ == {"A": "b"}
    assert Service.take({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).every is None
    assert Service.take({"WATCHDOG_USEC": "no"}).every is None


def test_no_agent_is_told_of_it() -> None:
    env = build_environment({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "LISTEN_FDS": "1", "HOME": "/h"})
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"} & set(env)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
async def test_an_abstract_socket_and_one_that_is_not_there(autojump_clock: trio.testing.MockClock) -> None:
    name = f"cms-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        Service(f"@{name}").tell("READY=1")
        assert manager.recv(100) == b"READY=1"
    Service(f"@{name}").tell("READY=1")
    Service("/nowhere/at/all").tell("READY=1")
    Service().tell("READY=1")
    await Service().keep_alive()
    with trio.move_on_after(10) as scope:
        await Service("/nowhere/at/all", 1.0).keep_alive()
    assert scope.cancelled_caught


def test_the_unit(tmp_path: Path) -> None:
    text = unit({"CMS_HOME": '/srv/a b/50%/"x"'})
    lines = text.splitlines()
    assert f"ExecStart={sys.executable} -P -m cms daemon run" in lines
    for line in ("Type=notify", "Delegate=yes", "KillMode=control-group", "KillSignal=SIGKILL"):
        assert line in lines
    assert 'Environment="CMS_HOME=/srv/a b/50%%/\\"x\\""' in lines
    assert "CMS_HOME" not in unit({})
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here to judge the unit")
    file = tmp_path / "cms.service"
    file.write_text(text)
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    verify = ["systemd-analyze", "verify", "--user", str(file)]
    judged = subprocess.run(verify, env=env, capture_output=True, text=True, check=False)
    assert "cms.service" not in judged.stderr
    assert judged.returncode == 0, judged
