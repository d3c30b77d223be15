"""The daemon's end of the socket: connections, requests, answers. What a verb does is in `handlers`.

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
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from cms.config import Settings, caller, caller_environ
from cms.daemon.call import Handler
from cms.daemon.child_socket import ChildSocket
from cms.daemon.handlers.daemon import DaemonHandlers
from cms.daemon.handlers.money import MoneyHandlers
from cms.daemon.handlers.questions import QuestionHandlers
from cms.daemon.handlers.sessions import SessionHandlers
from cms.daemon.supervisor import Supervisor
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
from cms.rpc.daemon import HELLO, Hello
from cms.rpc.endpoint import peer_uid, reachable
from cms.rpc.verbs import AnyVerb
from cms.rpc.wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_LINE,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    PROTOCOL,
    REQUEST_CANCELLED,
    SERVER_ERROR,
    Accepted,
    Cancel,
    ErrorData,
    LineBuffer,
    OverlongLine,
    ProgressNote,
    Request,
    Response,
    RpcError,
    error_data,
)
from cms.session.lineage import Caller
from cms.session.model import Interaction, Progress, Record

__all__ = ["MAX_CALLS", "MAX_NOTES", "Outbox", "Server", "Supervisor", "open_child_socket", "open_listener"]

log = logging.getLogger(__name__)

MAX_CALLS = 128  # requests under way on one connection
MAX_NOTES = 64  # progress notes that wait for one client
MAX_ANSWERS = 256  # answers that wait for one client before nothing more is read from it
FAREWELL = 2.0  # seconds for the last answers to leave, once every session has been stopped
BACKLOG = 1024

_requests = msgspec.json.Decoder(Request)
_encode = msgspec.json.encode


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
        nursery.start_soon(server.serve, listener)
        try:
            yield path
        finally:
            nursery.cancel_scope.cancel(reason="the session has ended")
            listener.socket.close()
            for remove in (path.unlink, path.parent.rmdir):
                with contextlib.suppress(OSError):
                    remove()


class Outbox:
    """What is to be written to one client, in order. Notes can be dropped, everything else is kept.

    A full house drops the oldest note, because the newest says most; the next note of the same request
    carries the number of those lost. So for each request: notes given = notes taken + sum of `dropped`,
    unless the very last were still waiting.
    """

    def __init__(self, max_notes: int = MAX_NOTES) -> None:
        self._max_notes = max_notes
        self._items: OrderedDict[int, tuple[bytes, int | None] | ProgressNote] = OrderedDict()
        self._notes: deque[int] = deque()  # keys of the notes among the items, oldest first
        self._dropped: Counter[int] = Counter()
        self._next_key = 0
        self._closed = False
        self._change = trio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Outbox {len(self._items)} waiting, {len(self._notes)} of them notes>"

    def put(self, line: bytes, *, ends: int | None = None) -> None:
        """Anything but a note. `ends`: the request whose last line this is."""
        if not self._closed:
            self._items[self._key()] = (line, ends)
            self._wake()

    def put_note(self, note: ProgressNote) -> None:
        if self._closed:
            return
        if len(self._notes) >= self._max_notes:
            lost = self._items.pop(self._notes.popleft())
            assert isinstance(lost, ProgressNote)  # noqa: S101 - what the keys in _notes mean
            self._dropped[lost.request_id] += 1
        key = self._key()
        self._items[key] = note
        self._notes.append(key)
        self._wake()

    def close(self) -> None:
        """Nothing more is to be put. What is there can still be taken."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """Nobody reads any more."""
        self._items.clear()
        self._notes.clear()
        self.close()

    async def take(self) -> bytes | None:
        """The next line, waiting for it; None when closed and empty."""
        while not self._items:
            if self._closed:
                return None
            await self._change.wait()
        _, item = self._items.popitem(last=False)
        self._wake()
        if isinstance(item, tuple):
            line, ends = item
            if ends is not None:
                self._dropped.pop(ends, None)
            return line
        self._notes.popleft()
        dropped = self._dropped.pop(item.request_id, 0)
        return _notification("progress", msgspec.structs.replace(item, dropped=dropped))

    async def wait_shorter_than(self, length: int) -> None:
        while len(self._items) >= length and not self._closed:
            await self._change.wait()

    def _key(self) -> int:
        self._next_key += 1
        return self._next_key

    def _wake(self) -> None:
        changed, self._change = self._change, trio.Event()
        changed.set()


class Server:
    """Serves one supervisor to the clients of one socket.

    Attributes:
        stopping: `stop` was called: only questions about the daemon itself are answered.
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
        self.quiet_since: float | None = None
        self._supervisor = supervisor
        handlers = (
            *DaemonHandlers(supervisor, self, settings, containment).all,
            *SessionHandlers(supervisor, self, settings).all,
            *QuestionHandlers(supervisor).all,
            *MoneyHandlers(supervisor).all,
            *extra,
        )
        self.handlers = {handler.verb.name: handler for handler in handlers}
        assert len(self.handlers) == len(handlers)  # noqa: S101 - no verb is bound twice
        self._before_stop = before_stop
        self._connections: set[_Connection] = set()
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
            self._background.start_soon(_at_own_door, task)

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
        connection = _Connection(self, self._supervisor, stream)
        self._connections.add(connection)
        self.quiet_since = None
        try:
            await connection.run()
        except Exception:
            log.exception("a connection ended by a bug of ours")
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self.quiet_since = trio.current_time()


class _Connection:
    """One client, from its first byte to the last answer."""

    def __init__(self, server: Server, supervisor: Supervisor, stream: trio.SocketStream) -> None:
        self.outbox = Outbox()
        self.supervisor = supervisor
        self._server = server
        self._stream = stream
        self._lines = LineBuffer(MAX_LINE)
        self._calls: dict[int, _Call] = {}
        self._protocol: int | None = None  # what the client said in `hello`
        self._environ: Mapping[str, str] | None = None  # likewise
        self._caller = Caller() if server.child_socket is None else server.child_socket.caller
        self._reading = trio.CancelScope()

    async def run(self) -> None:
        async with trio.open_nursery() as writing:
            writing.start_soon(self._write)
            async with trio.open_nursery() as calls:
                with self._reading:
                    await self._read(calls)
                    for call in self._calls.values():
                        call.scope.cancel(reason="the client went away")
            # Every call is through, whoever still listens.
            self.outbox.close()

    def finish(self) -> None:
        """Read no more, answer what is under way, then hang up."""
        self._reading.cancel(reason="the daemon leaves")

    async def _write(self) -> None:
        try:
            while (line := await self.outbox.take()) is not None:
                await self._stream.send_all(line)
        except trio.BrokenResourceError:
            self.outbox.discard()  # the reader sees the end of the connection by itself

    async def _read(self, calls: trio.Nursery) -> None:
        """Take requests until the client goes away or makes no sense any more."""
        try:
            while data := await self._stream.receive_some(65536):
                self._lines.feed(data)
                while (line := self._lines.next_line()) is not None:
                    self._take(line, calls)
                    await self.outbox.wait_shorter_than(MAX_ANSWERS)
        except OverlongLine as error:
            log.warning("hung up on a client: %s", error)
            self._fail(None, INVALID_REQUEST, str(error))
        except trio.BrokenResourceError:
            pass

    def _take(self, line: bytes, calls: trio.Nursery) -> None:
        """Begin one request, or answer why not."""
        try:
            request = _requests.decode(line)
        except msgspec.ValidationError as error:
            self._fail(_salvage_id(line), INVALID_REQUEST, f"not a request: {error}")
            return
        except UNREADABLE as error:
            self._fail(None, PARSE_ERROR, f"not JSON: {error}")
            return
        if request.id is None:
            self._notified(request)
            return
        handler = self._server.handlers.get(request.method)
        verb = None if handler is None else handler.verb
        refusal = self._server.refuse(verb, self._protocol)
        if refusal is not None:
            self._refuse(request.id, refusal)
            return
        if request.id in self._calls:
            self._fail(request.id, INVALID_REQUEST, f"request {request.id} is still under way")
            return
        if len(self._calls) >= MAX_CALLS:
            self._refuse(request.id, UsageError(f"more than {MAX_CALLS} requests at once on one connection"))
            return
        if handler is None:
            self._fail(request.id, METHOD_NOT_FOUND, f"no method {request.method[:100]!r}")
            return
        call = _Call(self, calls, request.id, handler.verb)
        try:
            work = handler.begin(call, request.params)
            if verb is HELLO:
                hello = msgspec.json.decode(request.params, type=Hello)
                self._protocol, self._environ = hello.protocol, hello.environ or None
                if self._server.child_socket is None:
                    self._caller = Caller(max(hello.depth, 0))
        except UNREADABLE as error:
            self._fail(request.id, INVALID_PARAMS, f"bad params for {request.method}: {error}")
            return
        self._calls[request.id] = call
        if self._server.child_socket is not None:
            work = _checked(self._server.child_socket, handler.verb, request.params, work)
        calls.start_soon(self._answer, call, work)

    def _notified(self, request: Request) -> None:
        """A notification is never answered, not even an unknown one."""
        if request.method != "cancel":
            return
        try:
            cancel = msgspec.json.decode(request.params, type=Cancel)
        except UNREADABLE:
            return
        call = self._calls.get(cancel.request_id)
        if call is not None:
            call.scope.cancel(reason="the client asked for it")

    async def _answer(self, call: _Call, work: Awaitable[Record]) -> None:
        """Do one call's work and put its answer, whatever happens, into the outbox."""
        caller_environ.set(self._environ)  # for this task, and for whatever it starts
        caller.set(self._caller)
        try:
            result = await work
            answer = Response(call.id, msgspec.Raw(_encode(result)))
            if len(call.verb.results) > 1:
                answer.kind = type(result).__name__
        except Interrupted as error:
            answer = Response(call.id, error=RpcError(REQUEST_CANCELLED, error.message, error_data(error)))
        except CmsError as error:
            if isinstance(error, InternalError):
                log.error("%s: %s", call.verb.name, error, exc_info=error)
            answer = Response(call.id, error=RpcError(SERVER_ERROR, error.message, error_data(error)))
        except Exception as error:
            log.exception("%s failed by a bug of ours", call.verb.name)
            internal = InternalError(
                f"{call.verb.name} failed: {type(error).__name__}",
                hint="please report it with `cms daemon logs`",
            )
            answer = Response(call.id, error=RpcError(INTERNAL_ERROR, internal.message, error_data(internal)))
        await call.finish()
        del self._calls[call.id]
        line = _encode(answer) + b"\n"
        if len(line) > MAX_LINE:
            self._refuse(call.id, UsageError(f"the answer is {len(line)} bytes long", hint="ask for less"))
        else:
            self.outbox.put(line, ends=call.id)

    def _fail(self, request_id: int | None, code: int, message: str) -> None:
        data = ErrorData(UsageError.code, message, exit_code=int(UsageError.exit_code))
        self.outbox.put(_encode(Response(request_id, error=RpcError(code, message, data))) + b"\n")

    def _refuse(self, request_id: int, error: CmsError) -> None:
        rpc_error = RpcError(SERVER_ERROR, error.message, error_data(error))
        self.outbox.put(_encode(Response(request_id, error=rpc_error)) + b"\n", ends=request_id)


class _Call:
    """One request under way: `daemon.call.Call`, and the task that relays progress."""

    def __init__(
        self, connection: _Connection, nursery: trio.Nursery, request_id: int, verb: AnyVerb
    ) -> None:
        self.id = request_id
        self.verb = verb
        self.scope = trio.CancelScope()
        self._connection = connection
        self._nursery = nursery
        self._relaying = trio.CancelScope()
        self._relayed: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.verb.name}>"

    def accepted(self, name: str, interaction: Interaction) -> None:
        self._connection.outbox.put(
            _notification("accepted", Accepted(self.id, interaction.session_id, interaction.id, name))
        )
        if self._relayed is None:
            self._relayed = trio.Event()
            self._nursery.start_soon(self._relay, name, self._relayed)

    async def follow(self, name: str) -> None:
        with self._connection.supervisor.watch(name) as notes:
            try:
                async for progress in notes:
                    self._tell(progress)
            finally:
                # What is there already is still told: the end of the work is not the end of the news.
                with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                    while True:
                        self._tell(notes.receive_nowait())

    async def finish(self) -> None:
        """Stop relaying; what was said before comes before the answer."""
        self._relaying.cancel()
        if self._relayed is not None:
            await self._relayed.wait()

    async def _relay(self, name: str, relayed: trio.Event) -> None:
        try:
            with self._relaying:
                await self.follow(name)
        except CmsError:
            pass  # it has ended already, and so will the call: there is nothing to tell
        except Exception:
            log.exception("cannot tell what a session does, by a bug of ours")
        finally:
            relayed.set()

    def _tell(self, progress: Progress) -> None:
        self._connection.outbox.put_note(ProgressNote(self.id, progress))


async def _checked(
    child_socket: ChildSocket, verb: AnyVerb, params: msgspec.Raw, work: Coroutine[object, object, Record]
) -> Record:
    """The work of a request that came through a child socket, once that has let it pass."""
    try:
        await child_socket.check(verb, params)
    except BaseException:
        work.close()
        raise
    return await work


class _HasId(msgspec.Struct):
    id: int | None = None


def _salvage_id(line: bytes) -> int | None:
    """The id of what is no request, so that whoever waits for its answer gets it."""
    try:
        return msgspec.json.decode(line, type=_HasId).id
    except UNREADABLE:
        return None


def _notification(method: str, params: Record) -> bytes:
    return _encode(Request(method, msgspec.Raw(_encode(params)))) + b"\n"


async def _at_own_door(task: Callable[[], Awaitable[None]]) -> None:
    try:
        await task()
    except CmsError as error:
        log.warning("work in the background failed: %s", error)
    except Exception:
        log.exception("work in the background failed by a bug of ours")
