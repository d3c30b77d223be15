"""The command's end: connect to the daemon, start one where there is none, ask for a verb, wait.

Blocking on purpose, and nothing but msgspec and a few light modules of the standard library: a command that
only asks must not pay for an event loop. What only the start of a daemon needs is imported there.

A `Client` carries one request at a time. It may be used from any thread, by one thread at a time; only
`Client.cancel` and `Client.extend` may be called by another one meanwhile.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import msgspec

from cms._version import __version__
from cms.errors import (
    UNREADABLE,
    CmsError,
    DaemonUnavailable,
    DaemonVersionMismatch,
    HomeUnusable,
    InternalError,
    Interrupted,
    UsageError,
)
from cms.home import prepare_home
from cms.rpc.daemon import HELLO, Hello, HelloResult, Readiness
from cms.rpc.endpoint import peer_uid, reachable
from cms.rpc.verbs import AnyVerb, P, R, Verb
from cms.rpc.wire import (
    MAX_LINE,
    PROTOCOL,
    Accepted,
    Cancel,
    Lease,
    LineBuffer,
    OverlongLine,
    ProgressNote,
    Request,
    RpcError,
    error_from,
    notification,
)

if TYPE_CHECKING:  # pathlib and shutil come with it; whoever has settings has paid already
    from cms.config import Settings

Connection = TypeVar("Connection", bound="Client")

#: Starts a daemon; `--ready-fd N` is added. `-P`: it runs in `/`, which must not become a source of modules.
DAEMON_COMMAND = (sys.executable, "-P", "-m", "cms.daemon", "--detach")

HANDSHAKE_TIMEOUT = 10.0  # seconds; a daemon that has the socket answers `hello` in well under a millisecond
START_PATIENCE = 30.0  # seconds from the first try to a daemon that answers; recovery after a crash included
_START_AGAIN = 0.5  # seconds between two tries to start one, while another holds the lock without listening
_POLL = 0.02  # seconds between two looks for a socket that somebody else is about to open


class NoDaemon(DaemonUnavailable):
    """None runs, and none was to be started. Nothing is wrong with that."""


class _Incoming(msgspec.Struct):
    """Any line that the daemon may write: a response, or (with a method) a notification."""

    id: int | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | None = None
    kind: str = ""


_incoming = msgspec.json.Decoder(_Incoming)
_encode = msgspec.json.encode


def connect(
    settings: Settings,
    *,
    start: bool = True,
    any_protocol: bool = False,
    command: Sequence[str] = DAEMON_COMMAND,
    patience: float = START_PATIENCE,
    depth: int = 0,
) -> Client:
    """A connection to the daemon of `settings.home`; one is started when none runs and `start` is true.

    With `start`, a daemon that is just leaving is waited for, and a new one started. `any_protocol` is for
    `daemon.stop`, the one request that every version understands. `depth`: see `rpc.daemon.Hello`.

    Raises:
        NoDaemon: none runs, and `start` is false.
        DaemonUnavailable: it does not answer, or it cannot be started.
        DaemonVersionMismatch: it speaks another protocol.
        HomeUnusable: there is no place for it.
    """
    if settings.inside and settings.child_socket is None:
        raise DaemonUnavailable(
            "this session may not use cms", hint="a person can allow it with --allow-cms when starting it"
        )
    start = start and settings.child_socket is None  # behind a child socket there is one daemon or none
    give_up = time.monotonic() + patience
    start_again, held = 0.0, False
    while True:
        client = _dial(settings, any_protocol=any_protocol, depth=depth)
        if client is not None:
            if not (start and client.daemon.stopping):
                return client
            client.wait_until_gone(give_up)
        elif not start:
            raise NoDaemon(
                f"no daemon is running for {settings.home}",
                hint="any command that needs it starts it, or run `cms daemon run`",
            )
        elif time.monotonic() >= start_again:
            try:
                started = _start(settings, command, give_up)
            except DaemonUnavailable:
                if not held or time.monotonic() < give_up:
                    raise
                started = False  # what matters is who has the home, not that this last try came too late
            if started and time.monotonic() < give_up:
                continue
            held = held or not started
            start_again = time.monotonic() + _START_AGAIN
        if time.monotonic() >= give_up:
            raise DaemonUnavailable(
                f"a daemon holds {settings.lock}, but does not answer at its socket{_holder(settings)}",
                hint=f"see {settings.log}; if it hangs, kill it; its sessions can be resumed",
            )
        time.sleep(_POLL)


class Client:
    """One connection. `daemon` is what the daemon said of itself."""

    daemon: HelloResult

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._lines = LineBuffer(MAX_LINE)
        self._last_id = 0
        self._cancelled = False  # by `cancel`, for good
        self._interrupted = False  # by Ctrl-C, the request under way
        self._sent = False  # the request under way is written out: a `cancel` may follow it
        self._accepted: Accepted | None = None
        self._process = -1  # a pidfd of the daemon, see `hold_process`

    def __repr__(self) -> str:
        return f"<Client {'closed' if self._socket.fileno() < 0 else 'open'}, {self._last_id} requests>"

    def __enter__(self: Connection) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it was hung up, or lost: then it carries no more requests."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Hang up. A request under way counts as cancelled."""
        self._socket.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def call(
        self,
        verb: Verb[P, R],
        params: P,
        *,
        on_accepted: Callable[[Accepted], None] | None = None,
        on_progress: Callable[[ProgressNote], None] | None = None,
        patience: float | None = None,
        lease: float | None = None,
        grace: float | None = None,
    ) -> R:
        """Send one request and wait for its answer; with `patience`, for no more seconds than that.

        `lease`: seconds after which it counts as cancelled, unless `extend` has said otherwise by then.
        `grace`: seconds that its work may take to end once it is cancelled, before it is forced to.

        The callbacks hear what the daemon tells meanwhile. Ctrl-C while a cancellable verb waits asks the
        daemon to cancel, and the wait goes on for its answer, which says what became of the work; a second
        Ctrl-C raises KeyboardInterrupt at once. With other verbs the first does.

        Raises:
            CmsError: the very exception that was raised in the daemon.
            Interrupted: `cancel` came before the request had gone out: nothing was begun.
            DaemonUnavailable: the connection was lost, or nothing came within `patience`.
            KeyboardInterrupt: as above.
        """
        request_id = self._last_id = self._last_id + 1
        request = Request(verb.name, msgspec.Raw(_encode(params)), request_id, lease=lease, grace=grace)
        line = _encode(request) + b"\n"
        if len(line) > MAX_LINE:
            raise UsageError(f"the request is {len(line)} bytes long; the limit is {MAX_LINE}")
        self._sent = self._interrupted = False
        self._accepted = None
        soft = verb.cancellable and _soften_interrupts(self._on_interrupt)
        if patience is not None:
            self._socket.settimeout(patience)
        try:
            self._send(line)
            self._sent = True
            if self._interrupted:
                self._send_cancel()
            answer = self._wait(request_id, on_accepted, on_progress)
        except BaseException as error:
            # Whatever ended the wait, an answer may still come: this connection cannot be used again.
            self.close()
            if isinstance(error, (OSError, OverlongLine, *UNREADABLE)):
                raise self._lost(error, verb) from error
            raise
        finally:
            self._sent = False
            if patience is not None and self._socket.fileno() >= 0:
                self._socket.settimeout(None)
            if soft:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if answer.error is not None:
            raise _error_of(answer.error, verb.name)
        return _result_of(answer, verb)

    def cancel(self) -> None:
        """End the request under way early, and let no other one begin. From any thread, at any time, once.

        What was sent is still answered. It is the socket that remembers: the daemon reads to the end of what
        we say, which for it means that we have left, and a request that is not out by now cannot go out any
        more. A notification, as Ctrl-C sends it, had to be sent neither before the request nor too late.
        """
        self._cancelled = True
        with suppress(OSError):  # closed, or lost: then there is nothing to cancel
            self._socket.shutdown(socket.SHUT_WR)

    def extend(self, seconds: float) -> None:
        """The lease of the request under way ends so many seconds from now. From any thread; never waits."""
        if not self._sent:
            return  # not begun yet, or over: what it was sent with holds
        line = notification("lease", Lease(self._last_id, seconds))
        with suppress(OSError):  # a daemon that takes nothing more lets the lease run out, as it should
            self._socket.send(line, socket.MSG_DONTWAIT)

    def _send(self, line: bytes) -> None:
        try:
            if not self._cancelled:
                self._socket.sendall(line)
                return
        except BrokenPipeError:
            if not self._cancelled:
                raise
        raise Interrupted("cancelled before it started")

    def hold_process(self) -> None:
        """From now on `wait_until_gone` means the daemon's process, not only its end of the connection."""
        try:
            # While it is connected to us, the pid is surely its own.
            self._process = os.pidfd_open(self.daemon.pid)
        except (AttributeError, OSError):
            self._process = -1  # no such thing here (macOS), or it is gone already

    def wait_until_gone(self, give_up: float) -> None:
        """Read until the daemon has closed the connection, or until `give_up` (time.monotonic)."""
        try:
            while (left := give_up - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(65536):
                    break
            if self._process >= 0:
                select.select([self._process], [], [], max(give_up - time.monotonic(), 0))
        except OSError:
            pass
        self.close()

    def _shake_hands(self, depth: int) -> None:
        hello = Hello(__version__, PROTOCOL, _environ(), depth)
        self.daemon = self.call(HELLO, hello, patience=HANDSHAKE_TIMEOUT)

    def _wait(
        self,
        request_id: int,
        on_accepted: Callable[[Accepted], None] | None,
        on_progress: Callable[[ProgressNote], None] | None,
    ) -> _Incoming:
        while True:
            while (line := self._lines.next_line()) is None:
                data = self._socket.recv(65536)
                if not data:
                    raise ConnectionResetError("the daemon closed the connection")
                self._lines.feed(data)
            message = _incoming.decode(line)
            if message.method == "progress":
                if on_progress is not None:
                    note = msgspec.json.decode(message.params, type=ProgressNote)
                    if note.request_id == request_id:
                        on_progress(note)
            elif message.method == "accepted":
                accepted = msgspec.json.decode(message.params, type=Accepted)
                if accepted.request_id == request_id:
                    self._accepted = accepted
                    if on_accepted is not None:
                        on_accepted(accepted)
            elif not message.method and (message.id == request_id or (message.id is None and message.error)):
                return message
            # Else: a notification of a later version, or a late word on an earlier request.

    def _on_interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        # A handler of our own instead of `except KeyboardInterrupt`: that can come between a recv and what
        # keeps its bytes, and then the rest of the stream makes no sense.
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._sent:
            self._send_cancel()

    def _send_cancel(self) -> None:
        notification = Request("cancel", msgspec.Raw(_encode(Cancel(self._last_id))))
        try:
            self._socket.sendall(_encode(notification) + b"\n")
        except OSError:
            pass  # whoever waits for the answer learns it, and says it better

    def _lost(self, error: Exception, verb: AnyVerb) -> CmsError:
        if not isinstance(error, OSError):
            return DaemonUnavailable(
                f"the daemon's answer cannot be read: {error}", hint="see `cms daemon logs`"
            )
        if isinstance(error, TimeoutError):
            return DaemonUnavailable(f"the daemon has not answered `{verb.name}` in time; it may hang")
        if self._accepted is None:
            again = "run the command again to start a new daemon; `cms daemon logs` says why that one ended"
            if verb.idempotent:
                return DaemonUnavailable("the daemon went away before it answered", hint=again)
            return DaemonUnavailable(
                "the daemon went away before it answered; the command may or may not have been carried out",
                hint=f"`cms list` shows what there is now; if it was not carried out, {again}",
            )
        name = self._accepted.name or "NAME"
        return DaemonUnavailable(
            "the daemon went away while it worked; what it had accepted is safe on disk",
            hint=f"`cms status {name}` says what became of it, `cms resume {name}` goes on",
        )


# --- finding and starting a daemon ----------------------------------------------------------------


def _dial(settings: Settings, *, any_protocol: bool, depth: int) -> Client | None:
    """Connect and shake hands. None: nobody listens, or whoever did left at that moment."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client = Client(sock)
    try:
        sock.settimeout(HANDSHAKE_TIMEOUT)
        with reachable(settings.socket) as address:
            sock.connect(address)
        uid = peer_uid(sock.getsockopt)
        if uid != os.geteuid():
            raise DaemonUnavailable(
                f"the daemon at {settings.socket} belongs to another user (uid {uid})",
                hint="set CMS_HOME to one of your folders",
            )
        client._shake_hands(depth)
    except (FileNotFoundError, NotADirectoryError, ConnectionError):
        client.close()
        return None
    except (TimeoutError, BlockingIOError):  # the latter: its queue of callers is full
        client.close()
        raise _silent(settings) from None
    except OSError as error:
        client.close()
        raise DaemonUnavailable(
            f"cannot connect to {settings.socket}: {error.strerror or error}",
            hint="`cms doctor` checks the whole setup",
        ) from error
    except DaemonUnavailable as error:
        client.close()
        if isinstance(error.__cause__, TimeoutError):
            raise _silent(settings) from None
        if isinstance(error.__cause__, ConnectionError):
            return None
        raise
    except BaseException:
        client.close()
        raise
    daemon = client.daemon
    if daemon.protocol != PROTOCOL and not any_protocol:
        client.close()
        raise DaemonVersionMismatch(
            f"the daemon (version {daemon.version}, pid {daemon.pid}) speaks protocol {daemon.protocol}, "
            f"this command (version {__version__}) speaks {PROTOCOL}",
            hint="`cms daemon stop`, then run the command again; its sessions can be resumed",
        )
    return client


def _silent(settings: Settings) -> DaemonUnavailable:
    return DaemonUnavailable(
        f"the daemon listens but does not answer within {HANDSHAKE_TIMEOUT:g} s{_holder(settings)}",
        hint=f"see {settings.log}; if it hangs, kill it; its sessions can be resumed",
    )


def _start(settings: Settings, command: Sequence[str], give_up: float) -> bool:
    """Start a daemon and wait until it serves. False: another one has the home.

    The daemon forks once more (`--detach`), so that neither a zombie nor a terminal ties it to this process.
    """
    import select
    import subprocess

    prepare_home(settings.home)
    try:
        log = os.open(settings.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HomeUnusable(f"cannot write {settings.log}: {error.strerror or error}") from error
    size_before = os.fstat(log).st_size
    ready, ready_to_child = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [*command, "--ready-fd", str(ready_to_child)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**(settings.environ or os.environ), "CMS_HOME": str(settings.home)},
                pass_fds=(ready_to_child,),
                start_new_session=True,
            )
        except OSError as error:
            raise DaemonUnavailable(f"cannot start a daemon: {error}", hint="`cms doctor`") from error
        finally:
            os.close(ready_to_child)
            os.close(log)
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([ready], [], [], max(0.0, give_up - time.monotonic()))[0]:
                process.kill()  # the one that has not even forked; a daemon that is only slow may yet come up
                process.wait()
                raise DaemonUnavailable("the daemon did not start in time", hint=f"see {settings.log}")
            chunk = os.read(ready, 65536)
            if not chunk:
                break
            line += chunk
        process.wait()
    finally:
        os.close(ready)
    try:
        readiness = msgspec.json.decode(line, type=Readiness)
    except UNREADABLE:
        raise DaemonUnavailable(
            f"the daemon failed to start: {_tail(settings, size_before)}", hint=f"see {settings.log}"
        ) from None
    if readiness.error is not None:
        raise error_from(readiness.error)
    return not readiness.taken


def _tail(settings: Settings, since: int) -> str:
    """The last line that was written to the log from the offset `since` on."""
    try:
        with settings.log.open("rb") as log:
            size = os.fstat(log.fileno()).st_size
            log.seek(max(since if since <= size else 0, size - 8192))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it left no message")


def _holder(settings: Settings) -> str:
    """Who holds the lock, as far as the lock file tells."""
    try:
        words = settings.lock.read_text().split()
    except (OSError, ValueError):
        words = []
    return f" (pid {words[0]})" if words else ""


def _result_of(answer: _Incoming, verb: Verb[P, R]) -> R:
    result = verb.result_named(answer.kind)
    try:
        if answer.result is msgspec.UNSET:
            raise msgspec.ValidationError("neither result nor error")
        return msgspec.json.decode(answer.result, type=result)
    except UNREADABLE as error:
        raise InternalError(f"the daemon's answer to {verb.name} cannot be read: {error}") from error


def _error_of(error: RpcError, method: str) -> CmsError:
    if error.data is None:
        return InternalError(f"the daemon refused {method}: {error.message}")
    return error_from(error.data)


def _soften_interrupts(handler: Callable[[int, FrameType | None], None]) -> bool:
    """Send Ctrl-C to `handler` instead of raising; False where that is not ours to decide.

    Only Python's own behaviour is replaced: a program with a handler of its own keeps it.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, handler)
    except ValueError:  # not the main thread: the signal will not come here either
        return False
    return True


def _environ() -> dict[str, str]:
    """Our environment, less what is no text (JSON could not carry it)."""
    return {key: value for key, value in os.environ.items() if _is_text(key + value)}


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
