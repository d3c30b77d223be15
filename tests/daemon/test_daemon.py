"""The daemon as a process: one per home, started by whoever needs it, gone when told, never by accident.

Real child processes on a fake supervisor (`fake_daemon.py`), so that nothing but the daemon is tested.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import trio

from cms.config import Settings, load_settings
from cms.daemon.main import MAX_LOG, HomeLock, HomeTaken, wait_idle
from cms.daemon.server import Server
from cms.errors import DaemonUnavailable, DaemonVersionMismatch, HomeUnusable, StoreError
from cms.rpc import client as client_module
from cms.rpc.client import Client, NoDaemon, connect
from cms.rpc.daemon import DAEMON_STATUS, DAEMON_STOP, DaemonStopParams
from cms.rpc.sessions import (
    SESSION_DELEGATE,
    SESSION_GET,
    SESSION_SPAWN,
    DelegateParams,
    NameParams,
    SpawnParams,
)
from cms.rpc.verbs import Nothing
from cms.session.model import DelegateResult, Reply, SessionStatus
from daemon.fake import FakeSupervisor, options

FAKE_DAEMON = (sys.executable, str(Path(__file__).parent / "fake_daemon.py"), "--detach")
PATIENCE = 20.0


def settings_for(home: Path, **changes: str) -> Settings:
    environ = {**os.environ, "CMS_HOME": str(home), **changes}
    return load_settings(environ)


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "what was waited for did not come"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Ended; a zombie counts, which is all that is left where nobody reaps orphans."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def holder(settings: Settings) -> int:
    return int(settings.lock.read_text().split()[0])


@contextmanager
def daemon_of(settings: Settings) -> Iterator[Client]:
    """A client of a daemon that is started for it; the daemon is gone at the end."""
    client = connect(settings, command=FAKE_DAEMON, patience=PATIENCE)
    pid = client.daemon.pid
    try:
        with client:
            yield client
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda: gone(pid))


# --- starting -------------------------------------------------------------------------------------


def test_the_first_client_starts_one_that_the_second_uses(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "new" / "home")
    with daemon_of(settings) as client, connect(settings, command=("false",)) as second:
        assert client.daemon.pid == second.daemon.pid == holder(settings)
        status = second.call(DAEMON_STATUS, Nothing())
        assert (status.clients, status.containment) == (2, "fake, level Z")
        process = psutil.Process(client.daemon.pid)
        assert process.cwd() == "/"
        assert process.ppid() != os.getpid(), "nobody has to reap it"
        assert os.getsid(process.pid) not in (os.getsid(0), process.pid), (
            "no terminal is or can become its own"
        )
        assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
        for path in (settings.socket, settings.lock, settings.log):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert not settings.socket.exists()
    log = settings.log.read_text()
    assert "serving at" in log
    assert "stopping: SIGTERM" in log
    assert "Traceback" not in log


def test_an_open_home_is_closed_to_others(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with daemon_of(settings_for(tmp_path)):
        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_home_with_a_long_path(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / ("long" * 40) / ("path" * 20))
    with daemon_of(settings) as client:
        assert client.call(DAEMON_STATUS, Nothing()).home == str(settings.home)


def test_a_stale_socket_is_no_obstacle(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with daemon_of(settings) as client:
        os.kill(client.daemon.pid, signal.SIGKILL)
        wait_for(lambda: gone(client.daemon.pid))
    assert settings.socket.is_socket()
    with daemon_of(settings) as client:
        client.call(DAEMON_STATUS, Nothing())


def test_a_second_daemon_says_who_has_the_home_and_goes(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with daemon_of(settings) as client:
        second = subprocess.run(
            FAKE_DAEMON[:-1],
            env=settings.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert second.returncode == 2
        last = second.stderr.splitlines()[-1]
        assert f"pid {client.daemon.pid}" in last
        assert "serves" in last
        assert "`cms daemon stop`" in last
        client.call(DAEMON_STATUS, Nothing())


def test_ten_starters_get_one_daemon(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    together = threading.Barrier(10)
    found: list[Client | BaseException] = []

    def start() -> None:
        together.wait()
        try:
            found.append(connect(settings, command=FAKE_DAEMON, patience=60))
        except BaseException as error:
            found.append(error)

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert {str(client) for client in found if isinstance(client, BaseException)} == set()
        assert {client.daemon.pid for client in found if isinstance(client, Client)} == {holder(settings)}
        assert settings.log.read_text().count("serving at") == 1
    finally:
        for client in found:
            if isinstance(client, Client):
                client.close()
        with daemon_of(settings):
            pass


def test_who_comes_while_it_stops_gets_a_new_one(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with daemon_of(settings) as old:
        old.call(DAEMON_STOP, DaemonStopParams())
        with daemon_of(settings) as new:
            assert new.daemon.pid != old.daemon.pid
            assert not new.daemon.stopping


# --- failing to start -----------------------------------------------------------------------------


def test_one_that_dies_shows_its_last_words(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, FAKE_DIES="no room for me here")
    settings.log.write_text("an older line\n")
    with pytest.raises(DaemonUnavailable, match="no room for me here"):
        connect(settings, command=FAKE_DAEMON)
    with pytest.raises(DaemonUnavailable, match="left no message"):
        connect(settings, command=("true",))
    with pytest.raises(DaemonUnavailable, match="cannot start"):
        connect(settings, command=(str(tmp_path / "missing"),))


def test_one_that_refuses_gives_the_very_error(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, FAKE_REFUSES="the disk is full")
    with pytest.raises(StoreError, match="the disk is full"):
        connect(settings, command=FAKE_DAEMON)
    assert "the disk is full" in settings.log.read_text()
    assert not settings.socket.exists()


def test_one_that_does_not_come_up_in_time(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DaemonUnavailable, match="in time"):
        connect(
            settings_for(tmp_path),
            command=(sys.executable, "-c", "import time; time.sleep(1000)"),
            patience=0.2,
        )
    assert time.monotonic() - started < PATIENCE


def test_a_home_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable, match="CMS_HOME"):
        connect(settings_for(tmp_path / "file" / "home"))


def test_a_home_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who may run this, may write anywhere
    with pytest.raises(HomeUnusable, match=r"Permission denied.*CMS_HOME"):
        connect(settings_for(tmp_path))


def test_a_home_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(HomeUnusable, match="another user"):
        connect(settings_for(tmp_path))


def test_a_holder_that_does_not_listen(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    lock = HomeLock(settings)
    try:
        with pytest.raises(DaemonUnavailable, match=f"does not answer.*pid {os.getpid()}"):
            connect(settings, command=FAKE_DAEMON, patience=4.0)
    finally:
        lock.close()


def test_a_holder_is_named_though_the_last_try_came_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(tmp_path)
    tries: list[float] = []

    def start(_: Settings, __: Sequence[str], give_up: float) -> bool:
        tries.append(give_up)
        if len(tries) == 1:
            return False
        wait_for(lambda: time.monotonic() >= give_up)
        raise DaemonUnavailable("the daemon did not start in time")

    monkeypatch.setattr(client_module, "_start", start)
    monkeypatch.setattr(client_module, "_START_AGAIN", 0.0)
    lock = HomeLock(settings)
    try:
        with pytest.raises(DaemonUnavailable, match=f"does not answer.*pid {os.getpid()}"):
            connect(settings, patience=0.5)
    finally:
        lock.close()
    assert len(tries) == 2


def test_a_daemon_of_another_protocol_can_be_stopped(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, FAKE_PROTOCOL="99")
    with pytest.raises(DaemonVersionMismatch, match=r"99.*cms daemon stop"):
        connect(settings, command=FAKE_DAEMON)
    with connect(settings, start=False, any_protocol=True) as client:
        with pytest.raises(DaemonVersionMismatch):
            client.call(DAEMON_STATUS, Nothing())
        client.call(DAEMON_STOP, DaemonStopParams())
        wait_for(lambda: gone(client.daemon.pid))


# --- the lock -------------------------------------------------------------------------------------


def test_the_lock_is_exclusive_and_tells_its_holder(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    lock = HomeLock(settings)
    with pytest.raises(HomeTaken) as caught:
        HomeLock(settings)
    assert caught.value.pid == os.getpid()
    assert lock.holds()
    settings.lock.rename(tmp_path / "elsewhere")
    assert not lock.holds()
    other = HomeLock(settings)
    assert not lock.holds()
    assert other.holds()
    lock.close()
    other.close()
    HomeLock(settings).close()


# --- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_sessions_and_answers_who_waits(tmp_path: Path, signum: int) -> None:
    with daemon_of(settings_for(tmp_path)) as client:
        result = client.call(
            SESSION_DELEGATE,
            DelegateParams(options("d"), "hang"),
            on_accepted=lambda _: os.kill(client.daemon.pid, signum),
        )
        assert isinstance(result, DelegateResult)
        assert result.status == "interrupted"
        wait_for(lambda: gone(client.daemon.pid))


def test_a_second_signal_forces_the_end(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, FAKE_HOLDS="1")
    with daemon_of(settings) as client:
        os.kill(client.daemon.pid, signal.SIGTERM)
        wait_for(lambda: "stopping: SIGTERM" in settings.log.read_text())
        os.kill(client.daemon.pid, signal.SIGTERM)
        wait_for(lambda: gone(client.daemon.pid))
        assert "by force" in settings.log.read_text()


def test_a_hangup_is_nothing(tmp_path: Path) -> None:
    with daemon_of(settings_for(tmp_path)) as client:
        os.kill(client.daemon.pid, signal.SIGHUP)
        client.call(DAEMON_STATUS, Nothing())


def test_it_outlives_the_terminal_of_who_started_it(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    program = """
import fcntl, json, os, sys, termios
from cms.config import load_settings
from cms.rpc.client import connect
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with connect(load_settings(), command=json.loads(sys.argv[1])) as client:
    print(client.daemon.pid, flush=True)
    sys.stdin.read()
"""
    master, terminal = os.openpty()
    starter = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(FAKE_DAEMON)],
        env=settings.environ,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    assert os.read(master, 100).split()[0].isdigit()
    os.close(master)  # the terminal is gone: SIGHUP to all that belong to it
    assert starter.wait(PATIENCE) == -signal.SIGHUP
    with connect(settings, start=False) as client:
        reply = client.call(SESSION_SPAWN, SpawnParams(options("a"), "hi"))
        assert isinstance(reply, Reply)
        assert reply.text == "re: hi"
    with daemon_of(settings):
        pass


def test_it_leaves_when_idle_and_says_so(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, CMS_IDLE_EXIT="0.2")
    with daemon_of(settings) as client:
        client.close()
        wait_for(lambda: gone(client.daemon.pid))
    assert "idle for 0.2 s" in settings.log.read_text()
    with pytest.raises(NoDaemon):
        connect(settings, start=False)


def test_it_leaves_when_its_home_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tmp_path, FAKE_LOOK="0.05")
    with daemon_of(settings) as client:
        settings.lock.unlink()
        wait_for(lambda: gone(client.daemon.pid))
    assert "is gone" in settings.log.read_text()


def test_a_client_that_is_killed_takes_its_delegation_along(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    program = """
from cms.config import load_settings
from cms.rpc.sessions import *
from cms.rpc.client import connect
from cms.session.model import *
with connect(load_settings(), start=False) as client:
    client.call(SESSION_DELEGATE, DelegateParams(SessionOptions(name="d", work_dir="/"), "hang"),
                on_accepted=lambda _: print("accepted", flush=True))
"""
    with daemon_of(settings) as client:
        with subprocess.Popen(
            [sys.executable, "-c", program], env=settings.environ, stdout=subprocess.PIPE
        ) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"accepted\n"
            victim.kill()

        def stopped() -> bool:
            reply = client.call(SESSION_GET, NameParams("d"))
            return reply.session.status is SessionStatus.STOPPED

        wait_for(stopped)


def test_a_long_log_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(tmp_path)
    with settings.log.open("wb") as log:
        log.truncate(MAX_LOG + 1)
    with daemon_of(settings):
        pass
    assert settings.log.with_name("daemon.log.1").stat().st_size > MAX_LOG
    assert "serving at" in settings.log.read_text()
    assert settings.log.stat().st_size < 10_000


# --- idleness, on a clock of our own --------------------------------------------------------------


class FakeServer(Server):
    def __init__(self) -> None:
        self.quiet_since: float | None = trio.current_time()


async def test_idle_is_counted_from_the_last_client_and_the_last_session(
    autojump_clock: trio.testing.MockClock,
) -> None:
    supervisor = FakeSupervisor()
    server = FakeServer()
    start = trio.current_time()

    async def live() -> None:
        await trio.sleep(50)
        server.quiet_since = None  # a client comes, starts a session, leaves; the session ends
        await trio.sleep(30)
        await supervisor.create(options("a"))
        await supervisor.submit("a", "hang", type="send")
        server.quiet_since = trio.current_time()
        await trio.sleep(500)
        await supervisor.stop("a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live)
        await wait_idle(server, lambda: supervisor.live_count() > 0, 100)
    left_at = trio.current_time() - start
    assert 675 <= left_at <= 685


async def test_it_does_not_wait_longer_than_told(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    await wait_idle(FakeServer(), lambda: False, 12.5)
    assert trio.current_time() - start == pytest.approx(12.5)


def test_settings_reach_the_daemon_through_its_environment(tmp_path: Path) -> None:
    environ: Mapping[str, str] = {**os.environ, "CMS_IDLE_EXIT": "77"}
    settings = Settings(home=tmp_path, environ=environ)  # whatever CMS_HOME says outside
    with daemon_of(settings) as client:
        status = client.call(DAEMON_STATUS, Nothing())
        assert (status.home, status.idle_exit) == (str(tmp_path), 77.0)


def test_a_start_collects_no_garbage_and_what_serves_does(tmp_path: Path) -> None:
    """Nor does it load what only a webhook needs."""
    code = (
        "import sys; sys.argv = ['daemon']\n"
        "import gc, fake_daemon, cms.daemon.__main__\n"
        "before = gc.isenabled()\n"
        "cms.daemon.main._load_fleet()\n"
        "loaded = 'http.client' in sys.modules\n"
        "print(before, cms.daemon.main.main([], opener=fake_daemon.opener), gc.isenabled(), loaded)"
    )
    env = settings_for(tmp_path / "home", CMS_IDLE_EXIT="0.01").environ
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["False", "0", "True", "False"], ran
