"""The daemon: the composition root that puts a supervisor behind a socket and keeps both alive.

`python -m cms.daemon` is how the client starts it; `cms daemon run` calls `main` in a terminal. In order:

1. the lock of the home: whoever holds it is the daemon, so all that follows has no races. It is an flock, so
   it ends with the process whatever becomes of it; the file stays, and says who holds it;
2. the supervisor, which recovers what a crash left behind;
3. the socket, and one line to whoever waits for us to be ready;
4. until a signal, `daemon.stop`, idleness, or the loss of the home: serve. Then stop every session, answer
   what is under way, remove the socket, leave.

The first SIGTERM or SIGINT asks politely; a second one cancels everything, and the sessions end by force.
SIGHUP is caught and dropped, not set to be ignored: that would be inherited by every child.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import gc
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import trio

from cms._version import __version__
from cms.config import Settings, load_settings_and_file
from cms.containment import find_mechanism
from cms.daemon.metrics import gather
from cms.daemon.server import Server, child_sockets, open_listener
from cms.daemon.service_unit import Service
from cms.errors import CmsError, HomeUnusable, UsageError
from cms.fleet import machine
from cms.groups import at_own_door, single_error
from cms.home import prepare_home
from cms.rpc.daemon import Readiness
from cms.rpc.wire import error_data

if TYPE_CHECKING:
    from cms.fleet.batches import Batches
    from cms.fleet.supervisor import Supervisor

log = logging.getLogger(__name__)


class Fleet(NamedTuple):
    """What the daemon serves. `containment`: in a few words, what holds its sessions' processes."""

    supervisor: Supervisor
    batches: Batches | None
    containment: str


Opener = Callable[[Settings], AbstractAsyncContextManager[Fleet]]

STOP_GRACE = 10.0  # seconds for all sessions together when a signal or idleness ends the daemon
MAX_LOG = 10 * 1024 * 1024  # bytes after which the log starts anew
_TRIM = 30.0  # seconds between two times that free memory is given back
_LOOK = 5.0  # seconds between two looks at whether there is still a reason, and a place, to be


class HomeTaken(UsageError):
    """Another daemon has this home.

    Attributes:
        pid: of that daemon, 0 if the lock file does not tell.
    """

    def __init__(self, settings: Settings, pid: int, version: str) -> None:
        who = f"another daemon (pid {pid}, version {version})" if pid else "another daemon"
        super().__init__(f"{who} already serves {settings.home}", hint="`cms daemon stop` ends it")
        self.pid = pid


class HomeLock:
    """The one lock of a home, held while this object is open.

    Raises:
        HomeTaken: somebody else holds it.
        HomeUnusable: it cannot be created.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = settings.lock
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HomeUnusable(f"cannot open {self.path}: {error.strerror or error}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()} {__version__}\n".encode(), 0)
        except OSError as error:
            words = os.pread(self._fd, 200, 0).decode(errors="replace").split()
            self.close()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                pid = int(words[0]) if words and words[0].isdecimal() else 0
                raise HomeTaken(settings, pid, words[1] if len(words) > 1 else "?") from None
            raise HomeUnusable(f"cannot lock {self.path}: {error.strerror or error}") from error

    def holds(self) -> bool:
        """False once the file that is locked is no longer the one at the path: anybody may lock that one."""
        try:
            ours, there = os.fstat(self._fd), self.path.stat()
        except OSError:
            return False
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def close(self) -> None:
        os.close(self._fd)


def run_daemon(
    settings: Settings, *, ready_fd: int | None = None, foreground: bool = False, opener: Opener | None = None
) -> None:
    """Serve `settings.home` until told to leave. Takes over the process: umask, signals, logging.

    `ready_fd` gets one `Readiness` line and is closed. `foreground`: the log goes to stderr as it is, instead
    of being rotated. `opener` is for tests; the default opens the real ones.

    Raises:
        CmsError: it cannot serve: `HomeTaken`, `HomeUnusable`, `StoreError` ...
    """
    # What is ours is nobody else's business; what sessions make is made as its starter's programs would.
    settings = msgspec.structs.replace(settings, umask=os.umask(0o077), open_files=machine.raise_open_files())
    machine.share_heaps()
    _configure_logging()
    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)
    announce = _Announcement(ready_fd)
    try:
        prepare_home(settings.home)
        lock = HomeLock(settings)
        try:
            if not foreground:
                _rotate(settings)
            _serve(settings, lock, announce, opener if opener is not None else _open_fleet)
        finally:
            lock.close()
    except CmsError as error:
        if not foreground:
            log.error("%s", error)
        if isinstance(error, HomeTaken):
            announce(Readiness(error.pid, taken=True))
        else:
            announce(Readiness(0, error=error_data(error)))
        raise
    finally:
        announce.close()


def _serve(settings: Settings, lock: HomeLock, announce: _Announcement, opener: Opener) -> None:
    log.info("daemon %s starts, pid %d, home %s", __version__, os.getpid(), settings.home)
    try:
        with single_error():
            trio.run(_Daemon(settings, lock, announce, opener).run)
    finally:
        log.info("daemon ends")


class _Announcement:
    """The one line to whoever started us."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def __call__(self, readiness: Readiness) -> None:
        if self._fd is not None:
            try:
                os.write(self._fd, msgspec.json.encode(readiness) + b"\n")
            except OSError as error:
                log.info("whoever started the daemon is gone: %s", error)
            self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _Daemon:
    """One run, from the first signal handler to the last session's end."""

    def __init__(self, settings: Settings, lock: HomeLock, announce: _Announcement, opener: Opener) -> None:
        self._settings = settings
        self._lock = lock
        self._announce = announce
        self._opener = opener
        self._service = Service.take(os.environ)
        self._server: Server | None = None

    async def run(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, nursery)
                await self._serve()
                nursery.cancel_scope.cancel(reason="served to the end")

    async def _serve(self) -> None:
        async with self._opener(self._settings) as (supervisor, batches, containment):
            # As late as the fleet.
            from cms.daemon.handlers.batches import BatchHandlers

            known, _ = await supervisor.count()
            log.info("%d sessions in the store, containment: %s", known, containment)
            listener = open_listener(self._settings)
            try:
                server = self._server = Server(
                    supervisor,
                    self._settings,
                    containment=containment,
                    extra=() if batches is None else BatchHandlers(batches).all,
                    before_stop=None if batches is None else batches.close,
                )
                async with trio.open_nursery() as nursery:

                    def busy() -> bool:
                        return supervisor.live_count() > 0 or (batches is not None and batches.busy)

                    for what, task in (
                        ("the look for idleness", partial(self._leave_when_idle, server, busy)),
                        ("the look at the home", partial(self._leave_when_home_is_lost, server)),
                        ("the return of memory", _stay_small),
                        ("the export of metrics", partial(_export_metrics, server, supervisor)),
                        ("the sign of life to systemd", self._service.keep_alive),
                    ):
                        nursery.start_soon(at_own_door, what, task)
                    gc.freeze()  # what is loaded stays: nobody has to look at it again
                    gc.enable()
                    # It listens already: who connects from here on is queued by the kernel.
                    log.info("serving at %s", self._settings.socket)
                    self._announce(Readiness(os.getpid()))
                    self._service.tell("READY=1", f"STATUS=serving {self._settings.home}")
                    await server.serve(listener)
                    nursery.cancel_scope.cancel(reason="the server has closed")
            finally:
                listener.socket.close()
                # Under the lock what is at the path is ours, unless the home is another one by now.
                if self._lock.holds():
                    self._settings.socket.unlink(missing_ok=True)

    async def _obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        asked = False
        async for signum in signals:
            if signum == signal.SIGHUP:
                continue
            name = signal.Signals(signum).name
            if asked or self._server is None:
                log.warning("%s: ending everything by force", name)
                nursery.cancel_scope.cancel(reason=name)
                return
            asked = True
            nursery.start_soon(at_own_door, "the stop", partial(self._leave, self._server, name))

    async def _leave(self, server: Server, why: str) -> None:
        log.info("stopping: %s", why)
        self._service.tell("STOPPING=1", f"STATUS=stopping: {why}")
        try:
            await server.stop(STOP_GRACE)
        except CmsError as error:
            log.error("not everything could be stopped: %s", error)

    async def _leave_when_idle(self, server: Server, busy: Callable[[], bool]) -> None:
        if self._settings.idle_exit is not None:
            await wait_idle(server, busy, self._settings.idle_exit)
            await self._leave(server, f"idle for {self._settings.idle_exit:g} s")

    async def _leave_when_home_is_lost(self, server: Server) -> None:
        # Without it the next command starts a second daemon, and this one would serve nobody for ever.
        while self._lock.holds():  # noqa: ASYNC110 - no event tells it: somebody else's `rm` does
            await trio.sleep(_LOOK)
        await self._leave(server, "the home folder or the lock in it is gone")


async def _stay_small() -> None:
    while True:
        await trio.sleep(_TRIM)
        machine.trim_heap()


async def _export_metrics(server: Server, supervisor: Supervisor) -> None:
    """To whoever is sent traces: the same figures as a scrape gets."""
    exports = supervisor.telemetry.exports
    while True:
        await trio.sleep(_LOOK)
        if exports.metrics_due(time.time()):
            exports.metrics(await gather(supervisor, server), time.time())


async def wait_idle(server: Server, busy: Callable[[], bool], idle_exit: float) -> None:
    """Return once for `idle_exit` seconds there has been neither a client nor work.

    `busy`: a session is alive, or there is work that has none just now (a batch that waits for a usage limit
    to reset).

    Sessions are looked at every few seconds: nothing needs to know to the second that they have ended, and
    one can only begin while a client is there, which is noted exactly.
    """
    idle_from = trio.current_time()
    while True:
        now = trio.current_time()
        idle_from = now if server.quiet_since is None or busy() else max(idle_from, server.quiet_since)
        left = idle_from + idle_exit - now
        if left <= 0:
            return
        await trio.sleep(min(left, _LOOK))


def _load_fleet() -> None:
    # Not above: `python -m cms.daemon` that finds the home taken should be gone at once.
    import cms.daemon.handlers.batches
    import cms.fleet.batches
    import cms.fleet.supervisor  # noqa: F401


async def _look_for_mechanism(name: str) -> None:
    """The supervisor finds what was found here; why there is none it says itself."""
    with suppress(CmsError):
        await find_mechanism(name)


@asynccontextmanager
async def _open_fleet(settings: Settings) -> AsyncIterator[Fleet]:
    # While a container is tried, which is mostly waiting, what is needed next is loaded.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_look_for_mechanism, settings.containment)
        await trio.to_thread.run_sync(_load_fleet)
    from cms.fleet.batches import open_batches
    from cms.fleet.supervisor import open_supervisor

    # A crashed daemon's: nobody is behind them any more.
    shutil.rmtree(settings.child_sockets, ignore_errors=True)

    async with open_supervisor(settings, child_sockets=child_sockets(settings)) as supervisor:
        mechanism, recovery = supervisor.mechanism, supervisor.recovery
        for session in recovery.sessions:
            log.warning("recovered session %s (%s), now %s", session.name, session.id, session.status)
        for interaction in recovery.interactions:
            log.warning(
                "recovered message %s of session %s, now %s",
                interaction.id,
                interaction.session_id,
                interaction.state,
            )
        async with open_batches(supervisor) as batches, trio.open_nursery() as nursery:
            # Beside serving: it may run the checks of an agent's work, and that takes what it takes.
            nursery.start_soon(at_own_door, "the recovery of batches", batches.recover)
            yield Fleet(supervisor, batches, f"{mechanism.name}, level {mechanism.level.value}")
            nursery.cancel_scope.cancel(reason="the daemon leaves")


# --- the log --------------------------------------------------------------------------------------


def _configure_logging() -> None:
    """Plain lines with UTC time to stderr, which the starter has made the log. No prompts, no secrets."""
    handler = logging.StreamHandler()
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full disk or a closed terminal must not end the daemon


def _rotate(settings: Settings) -> None:
    """Begin a new log when the old one is long; one old one is kept. Only under the lock.

    Stdout and stderr were opened by the starter and would follow the old file: they are turned to it.
    """
    try:
        if settings.log.stat().st_size <= MAX_LOG:
            return
        settings.log.rename(settings.log.with_name(settings.log.name + ".1"))
        new = os.open(settings.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return
    os.dup2(new, 1)
    os.dup2(new, 2)
    os.close(new)


# --- python -m cms.daemon -------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None, *, opener: Opener | None = None) -> int:
    """Run a daemon with the settings of the environment, in a terminal or (`--detach`) in the background.

    Returns the exit status; what went wrong is one line on stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m cms.daemon", description="Serve one CMS_HOME.")
    parser.add_argument("--ready-fd", type=int, metavar="N", help="write one line of JSON here when ready")
    parser.add_argument("--detach", action="store_true", help="go to the background")
    options = parser.parse_args(argv)
    if options.detach:
        # `__main__` has forked. Whoever started us has made a session of its own for us already; we do not
        # lead it, so no terminal can be acquired.
        os.chdir("/")
    try:
        try:
            settings = load_settings_and_file()
        except CmsError as error:
            _Announcement(options.ready_fd)(Readiness(0, error=error_data(error)))
            raise
        run_daemon(settings, ready_fd=options.ready_fd, foreground=not options.detach, opener=opener)
    except CmsError as error:
        if not options.detach:
            sys.stderr.write(f"cms: {error}\n")
        return int(error.exit_code)
    return 0
