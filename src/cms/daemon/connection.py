"""One client of the daemon: its requests, each in a task of its own, and their answers."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from math import inf
from typing import TYPE_CHECKING

import msgspec
import trio

from cms.config import caller, caller_environ
from cms.daemon.call import Handler
from cms.daemon.child_socket import ChildSocket
from cms.daemon.outbox import Outbox
from cms.errors import UNREADABLE, CmsError, InternalError, Interrupted, UsageError
from cms.live.watchers import join_texts
from cms.rpc.daemon import HELLO, Hello
from cms.rpc.verbs import AnyVerb
from cms.rpc.wire import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    MAX_LINE,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    REQUEST_CANCELLED,
    SERVER_ERROR,
    Accepted,
    Cancel,
    ErrorData,
    Lease,
    LineBuffer,
    OverlongLine,
    ProgressNote,
    Request,
    Response,
    RpcError,
    error_data,
    notification,
)
from cms.session.callers import Caller
from cms.session.model import Interaction, Progress, Record

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

log = logging.getLogger(__name__)

MAX_CALLS = 128  # requests under way on one connection
MAX_CHILD_CALLS = 16  # at a child socket, where there can be many connections
MAX_GREETING = 4 * 1024 * 1024  # bytes before `hello` is answered, which holds an environment
MAX_CHILD_BYTES = 64 * 1024 * 1024  # of requests at one child socket, over all its connections
PACE = 0.05  # seconds between looks at what a watched session does: a person sees no more
MAX_ANSWERS = 256  # answers that wait for one client before nothing more is read from it

_requests = msgspec.json.Decoder(Request)
_encode = msgspec.json.encode

#: Why a verb (None: an unknown one) cannot be asked for now, by a client that speaks this protocol.
Refuse = Callable[[AnyVerb | None, int | None], CmsError | None]


class Connection:
    """One client, from its first byte to the last answer.

    Args:
        handlers: what does each verb, by its name.
        refuse: asked before each request.
        child_socket: checks what a session asks for; None: a person's client.
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        supervisor: Supervisor,
        handlers: Mapping[str, Handler],
        refuse: Refuse,
        child_socket: ChildSocket | None,
    ) -> None:
        self.outbox = Outbox()
        self.supervisor = supervisor
        self._handlers = handlers
        self._refusal = refuse
        self._child_socket = child_socket
        self._stream = stream
        self._lines = LineBuffer(MAX_LINE)
        self._calls: dict[int, _Call] = {}
        self._protocol: int | None = None  # what the client said in `hello`
        #: A person's client says these in `hello`, too; of a session they are known.
        self._environ = None if child_socket is None else child_socket.environ
        self._caller = Caller() if child_socket is None else child_socket.caller
        self._reading = trio.CancelScope()
        self._greeting = 0  # bytes that have come
        self._held = 0  # bytes of requests that are here, counted at a child socket
        self._most = MAX_CALLS if child_socket is None else MAX_CHILD_CALLS

    async def run(self) -> None:
        async with trio.open_nursery() as writing:
            writing.start_soon(self._write)
            async with trio.open_nursery() as calls:
                with self._reading:
                    await self._read(calls)
                    for call in self._calls.values():
                        call.scope.cancel(reason="the client went away")
            # Every call is through, whoever still listens.
            self._hold(-self._held)
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
                self._greeting += len(data)
                if self._protocol is None and self._greeting > MAX_GREETING:
                    raise OverlongLine(f"{MAX_GREETING} bytes without `hello`")
                self._hold(len(data))
                self._lines.feed(data)
                while (line := self._lines.next_line()) is not None:
                    if not self._take(line, calls):
                        self._hold(-len(line) - 1)
                    await self.outbox.wait_shorter_than(MAX_ANSWERS)
        except OverlongLine as error:
            log.warning("hung up on a client: %s", error)
            self._fail(None, INVALID_REQUEST, str(error))
        except trio.BrokenResourceError:
            pass

    def _hold(self, size: int) -> None:
        """So many bytes more are kept in memory for this client, or fewer."""
        child = self._child_socket
        if child is None:
            return
        self._held += size
        child.held += size
        if size > 0 and child.held > MAX_CHILD_BYTES:
            raise OverlongLine(f"more than {MAX_CHILD_BYTES} bytes of requests at once")

    def _take(self, line: bytes, calls: trio.Nursery) -> bool:
        """Begin one request, or answer why not; gives whether it was begun."""
        try:
            request = _requests.decode(line)
        except msgspec.ValidationError as error:
            self._fail(_salvage_id(line), INVALID_REQUEST, f"not a request: {error}")
            return False
        except UNREADABLE as error:
            self._fail(None, PARSE_ERROR, f"not JSON: {error}")
            return False
        if request.id is None:
            self._notified(request)
            return False
        handler = self._handlers.get(request.method)
        verb = None if handler is None else handler.verb
        refusal = self._refusal(verb, self._protocol)
        if refusal is not None:
            self._refuse(request.id, refusal)
            return False
        if request.id in self._calls:
            self._fail(request.id, INVALID_REQUEST, f"request {request.id} is still running")
            return False
        if len(self._calls) >= self._most:
            self._refuse(request.id, UsageError(f"more than {self._most} requests at once on one connection"))
            return False
        if handler is None:
            self._fail(request.id, METHOD_NOT_FOUND, f"no method {request.method[:100]!r}")
            return False
        call = _Call(self, calls, request.id, handler.verb, len(line) + 1, request.grace)
        try:
            work = handler.begin(call, request.params)
            if verb is HELLO:
                hello = msgspec.json.decode(request.params, type=Hello)
                self._protocol = hello.protocol
                if self._child_socket is None:
                    self._environ = _kept_once(hello.environ) or None
                    self._caller = Caller(max(hello.depth, 0))
        except UNREADABLE as error:
            self._fail(request.id, INVALID_PARAMS, f"bad params for {request.method}: {error}")
            return False
        if request.lease is not None:
            call.scope.deadline = trio.current_time() + request.lease
        self._calls[request.id] = call
        if self._child_socket is not None:
            work = _checked(self._child_socket, handler.verb, request.params, work)
        calls.start_soon(self._answer, call, work)
        return True

    def _notified(self, request: Request) -> None:
        """A notification is never answered, not even an unknown one."""
        try:
            if request.method == "cancel":
                cancel = msgspec.json.decode(request.params, type=Cancel)
                if (call := self._calls.get(cancel.request_id)) is not None:
                    call.scope.cancel(reason="the client asked for it")
            elif request.method == "lease":
                lease = msgspec.json.decode(request.params, type=Lease)
                if (call := self._calls.get(lease.request_id)) is not None and call.scope.deadline < inf:
                    call.scope.deadline = trio.current_time() + lease.seconds
        except UNREADABLE:
            return

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
            log.exception("%s failed because of a bug in cms", call.verb.name)
            internal = InternalError(
                f"{call.verb.name} failed: {type(error).__name__}",
                hint="please report this bug with the output of `cms daemon logs`",
            )
            answer = Response(call.id, error=RpcError(INTERNAL_ERROR, internal.message, error_data(internal)))
        await call.finish()
        del self._calls[call.id]
        self._hold(-call.size)
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
        self,
        connection: Connection,
        nursery: trio.Nursery,
        request_id: int,
        verb: AnyVerb,
        size: int,
        grace: float | None,
    ) -> None:
        self.id = request_id
        self.verb = verb
        self.size = size  # bytes
        self.grace = grace
        self.scope = trio.CancelScope()
        self._connection = connection
        self._nursery = nursery
        self._relaying = trio.CancelScope()
        self._relayed: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.verb.name}>"

    def accepted(self, name: str, interaction: Interaction) -> None:
        self._connection.outbox.put(
            notification("accepted", Accepted(self.id, interaction.session_id, interaction.id, name))
        )
        if self._relayed is None:
            self._relayed = trio.Event()
            self._nursery.start_soon(self._relay, name, self._relayed)

    async def follow(self, name: str) -> None:
        with self._connection.supervisor.watch(name) as notes:
            try:
                async for progress in notes:
                    self._tell(progress, *_waiting(notes))
                    await trio.sleep(PACE)
            finally:
                # What is there already is still told: the end of the work is not the end of the news.
                self._tell(*_waiting(notes))

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
            log.exception("cannot tell what a session does because of a bug in cms")
        finally:
            relayed.set()

    def _tell(self, *notes: Progress) -> None:
        for progress in join_texts(notes):
            self._connection.outbox.put_note(ProgressNote(self.id, progress))


def _kept_once(environ: Mapping[str, str]) -> dict[str, str]:
    """The same variables, each text once for all clients: a session keeps what it was started with."""
    return {sys.intern(name): sys.intern(value) for name, value in environ.items()}


def _waiting(notes: trio.MemoryReceiveChannel[Progress]) -> list[Progress]:
    """All that can be had of a channel at once."""
    found = []
    with contextlib.suppress(trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
        while True:
            found.append(notes.receive_nowait())
    return found


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
