"""The daemon's end of the socket: who is let in, and the end. What a verb does is in `handlers`.

The shape of it, and why:

- Each connection is a task that catches everything at its own door: no client can take the daemon down.
- Requests of one connection run side by side, each in a task of its own; their number is bounded.
- One writer per connection drains an `Outbox`. Nobody else writes, so lines never mix, and nobody who works
  ever waits for a client that does not read: answers queue (bounded by the bounded requests), progress notes
  are dropped, oldest first, and the client is told how many. A lock around the stream was the alternative;
  with it a slow reader holds up whoever wants to tell it something.
- A client that cancels or vanishes ends the `scope` of its calls, never their tasks: the method decides what
  that means, and what it has begun outside of that scope it finishes.
- The end: `stop` refuses what is new, has every session stopped, lets the answers out, then hangs up. The
  time for the answers is a deadline on the connections' nursery.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from cms.config import Settings
from cms.daemon.call import Handler
from cms.daemon.child_socket import ChildSocket
from cms.daemon.connection import Connection
from cms.daemon.handlers.attachments import AttachmentHandlers
from cms.daemon.handlers.changes import ChangeHandlers
from cms.daemon.handlers.conversations import ConversationHandlers
from cms.daemon.handlers.daemon import DaemonHandlers
from cms.daemon.handlers.money import MoneyHandlers
from cms.daemon.handlers.questions import QuestionHandlers
from cms.daemon.handlers.search import SearchHandlers
from cms.daemon.handlers.sessions import SessionHandlers
from cms.errors import (
    CmsError,
    DaemonUnavailable,
    DaemonVersionMismatch,
    HomeUnusable,
    UsageError,
)
from cms.groups import at_own_door
from cms.rpc.daemon import HELLO
from cms.rpc.endpoint import peer_uid, reachable
from cms.rpc.verbs import AnyVerb
from cms.rpc.wire import (
    PROTOCOL,
)

if TYPE_CHECKING:  # at run time it comes in once the home is ours: see `daemon.main`
    from cms.fleet.supervisor import Supervisor
    from cms.live.runner import OpenChildSocket

log = logging.getLogger(__name__)

FAREWELL = 2.0  # seconds for the last answers to leave, once every session has been stopped
BACKLOG = 1024
MAX_CHILD_CLIENTS = 32  # connections at one child socket: what a session starts cannot be trusted to be few


def open_listener(settings: Settings) -> trio.SocketListener:
    """Bind and listen at `settings.socket`, readable by the user alone.

    Only for the holder of the home's lock: a socket that is there already is a dead daemon's and is removed.

    Raises:
        HomeUnusable: it cannot be bound.
        DaemonUnavailable: the path is too long for this system.
    """
    path = settings.socket
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() or path.is_symlink():
            path.unlink()
        with reachable(path) as address:
            sock.bind(address)
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise HomeUnusable(
            f"cannot listen at {path}: {error.strerror or error}",
            hint="set CMS_HOME to a folder on a local disk that can be written",
        ) from error
    except BaseException:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


@contextlib.asynccontextmanager
async def open_child_socket(
    supervisor: Supervisor, settings: Settings, child_socket: ChildSocket
) -> AsyncIterator[Path]:
    """Serve one session at a socket of its own for as long as the block lasts, and give its path.

    Raises nothing: a session whose socket cannot be opened finds nobody there.
    """
    # A name of its own: a session that is brought back at once opens the next while this one is closing.
    path = settings.child_sockets / child_socket.caller.session_id / f"{secrets.token_hex(4)}.sock"
    at_child_socket = msgspec.structs.replace(settings, child_socket=path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = open_listener(at_child_socket)
    except (OSError, CmsError) as error:
        log.error("no way to cms for session %s: %s", child_socket.caller.session_id, error)
        yield path
        return
    server = Server(supervisor, at_child_socket, child_socket=child_socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(at_own_door, f"the socket of {child_socket!r}", partial(server.serve, listener))
        try:
            yield path
        finally:
            nursery.cancel_scope.cancel(reason="the session has ended")
            listener.socket.close()
            for remove in (path.unlink, path.parent.rmdir):
                with contextlib.suppress(OSError):
                    remove()


def child_sockets(settings: Settings) -> Callable[[Supervisor], OpenChildSocket]:
    """How the sessions of a supervisor that may use cms get their way in."""
    return lambda supervisor: (
        lambda session, environ: open_child_socket(
            supervisor, settings, ChildSocket(session, environ, supervisor.get, supervisor.children.descends)
        )
    )


class Server:
    """Serves one supervisor to the clients of one socket.

    Attributes:
        stopping: `stop` was called: only questions about the daemon itself are answered.
        began: when, in seconds since the epoch.
        quiet_since: trio's time since which no client has been connected; None while one is.
        child_socket: the checks, if only one session is served (`daemon.child_socket`).
        handlers: what does each verb, by its name.

    Args:
        extra: handlers of verbs that not every supervisor has.
        before_stop: brings to rest what would take a stopped session for a failed one.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        settings: Settings,
        *,
        containment: str = "",
        child_socket: ChildSocket | None = None,
        extra: Sequence[Handler] = (),
        before_stop: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.child_socket = child_socket
        self.stopping = False
        self.began = time.time()
        self.quiet_since: float | None = None
        self._supervisor = supervisor
        handlers = (
            *DaemonHandlers(supervisor, self, settings, containment).all,
            *SessionHandlers(supervisor, self, settings).all,
            *AttachmentHandlers(settings).all,
            *ChangeHandlers(supervisor).all,
            *ConversationHandlers(supervisor).all,
            *QuestionHandlers(supervisor).all,
            *MoneyHandlers(supervisor).all,
            *SearchHandlers(supervisor, self).all,
            *extra,
        )
        self.handlers = {handler.verb.name: handler for handler in handlers}
        assert len(self.handlers) == len(handlers)  # noqa: S101 - no verb is bound twice
        self._before_stop = before_stop
        self._connections: set[Connection] = set()
        self._stopped = trio.Event()
        self._background: trio.Nursery | None = None

    def __repr__(self) -> str:
        state = "stopping" if self.stopping else "serving"
        return f"<Server {state}, {self.clients} clients>"

    @property
    def clients(self) -> int:
        return len(self._connections)

    async def serve(
        self,
        listener: trio.SocketListener,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept and serve until `stop` is through. Closes the listener."""
        self.quiet_since = trio.current_time()
        async with trio.open_nursery() as background:
            self._background = background
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    accept = partial(trio.serve_listeners, handler_nursery=connections)
                    await accepting.start(accept, self._serve_connection, [listener])
                    task_status.started()
                    await self._stopped.wait()
                    accepting.cancel_scope.cancel()
                connections.cancel_scope.deadline = trio.current_time() + FAREWELL
                for connection in self._connections:
                    connection.finish()
            background.cancel_scope.cancel()

    async def stop(self, grace: float) -> None:
        """Refuse new work, stop every session within `grace` seconds, then let `serve` end.

        Raises:
            CmsError: a session's end could not be proved. The server leaves all the same.
        """
        if self.stopping:
            await self._stopped.wait()
            return
        self.stopping = True
        log.info("stopping every session, %g s for all", grace)
        try:
            if self._before_stop is not None:
                with trio.move_on_after(grace / 2):
                    await self._before_stop()
            await self._supervisor.stop_all(grace=grace)
        finally:
            self._stopped.set()

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run something that outlives the request which began it."""
        if self._background is not None:
            self._background.start_soon(at_own_door, "work in the background", task)

    def refuse(self, verb: AnyVerb | None, protocol: int | None) -> CmsError | None:
        """Why this verb (None: an unknown one) cannot be asked for now, on a connection whose client said
        `protocol`, if so."""
        if protocol is None and verb is not HELLO:
            return UsageError("the first request of a connection is `hello`")
        if protocol not in (None, PROTOCOL) and not (verb and verb.any_protocol):
            return DaemonVersionMismatch(
                f"the daemon speaks protocol {PROTOCOL}, the client {protocol}",
                hint="`cms daemon stop`, then run the command again",
            )
        if self.stopping and not (verb and verb.while_stopping):
            return DaemonUnavailable(
                "the daemon is stopping", hint="run the command again: it starts a new daemon"
            )
        return None

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        await at_own_door("a connection", partial(self._serve_client, stream))

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        try:
            uid = peer_uid(stream.socket.getsockopt)
        except OSError as error:
            log.warning("refused a client: %s", error)
            return
        if uid != os.geteuid():
            log.warning("refused a client of uid %d", uid)
            return
        if self._stopped.is_set():
            return
        if self.child_socket is not None and self.clients >= MAX_CHILD_CLIENTS:
            log.warning("refused a client: %d of session %s are connected", self.clients, self.child_socket)
            return
        connection = Connection(stream, self._supervisor, self.handlers, self.refuse, self.child_socket)
        self._connections.add(connection)
        self.quiet_since = None
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self.quiet_since = trio.current_time()
