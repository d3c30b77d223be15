"""The scripted Messages API: what the real `claude` talks to when no model is to be paid for.

An HTTP server on loopback, whose answers come from the script in the prompt (see `script`). Point the real
binary at it with the environment of `ScriptedAPI.env`:

    async with serve_api() as api:
        await trio.run_process([claude, "-p", prompt("Hello", say("Hi."))], env=base | api.env())
        assert api.requests[-1].step == 0

The only state is how often each failing step was attempted, and a bounded record of what was asked.
In code that is no trio program, and for people: `python -m cms.testing.api` and `api_process()`.
"""

from __future__ import annotations

import argparse
import math
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import h11
import msgspec
import trio
from msgspec import Struct

from . import events
from .script import Block, Drop, Fail, Message, Position, RateLimit, ScriptedReply, locate

MAX_BODY: Final = 64 * 1024 * 1024
"""Bytes of a request body; more is answered with 413."""

KEPT_REQUESTS: Final = 1_000
_RECEIVE: Final = 65536

# How compaction begins its request, and an answer in the shape it wants (else it asks again).
_SUMMARY_WANTED: Final = "CRITICAL: Respond with TEXT ONLY"
_SIDE_REPLY: Final = ScriptedReply(text="<summary>What was rehearsed so far.</summary>")

_ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_MESSAGES: Final = {
    401: "invalid x-api-key",
    403: "Your account does not have permission for this.",
    429: "This request would exceed your account's rate limit. Please try again later.",
    500: "Internal server error",
    529: "Overloaded",
}


class _Tool(Struct):
    name: str = ""


class _Question(Struct):
    """As much of a request's body as the server looks at."""

    model: str
    messages: list[Message]
    system: str | list[Block] = ""
    tools: list[_Tool] = []
    stream: bool = False


class Request(Struct, frozen=True):
    """One request for an answer, as it was understood.

    Attributes:
        session_id: the conversation's id, from the header that `claude` sends; "" if it sent none.
        messages: how many the conversation had.
        step: which reply of the script was due; attempts at it count from 0.
        scripted: whether there was a script at all.
        texts: everything that was said to the model, tool results aside.
        files: the media type and the bytes (in base64) of each image and document among it.
        side: a call that `claude` makes for itself (a summary), with no part in a script.
        status: what it was answered with; 0 where the connection was to be dropped.
    """

    session_id: str
    model: str
    system: str
    tools: tuple[str, ...]
    texts: tuple[str, ...]
    messages: int
    prompt: str
    step: int
    attempt: int
    scripted: bool
    side: bool
    stream: bool
    status: int
    files: tuple[tuple[str, str], ...] = ()


class ScriptedAPI:
    """A running server. `url` is known from the start; `run` serves until cancelled.

    Attributes:
        requests: the latest questions asked, oldest first, at most `KEPT_REQUESTS`.
    """

    def __init__(self, listeners: list[trio.SocketListener]) -> None:
        self._listeners = listeners
        host, port = listeners[0].socket.getsockname()[:2]
        self.url = f"http://{host}:{port}"
        self.requests: deque[Request] = deque(maxlen=KEPT_REQUESTS)
        self._attempts: Counter[str] = Counter()
        self._asked = 0
        self._answered = 0
        # `claude` takes replies of one id for parts of one reply, also across a resume with another server.
        self._run = secrets.token_hex(4)
        self._connections = 0
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<ScriptedAPI {self.url} connections={self._connections} answered={self._answered}>"

    @classmethod
    async def open(cls, port: int = 0) -> ScriptedAPI:
        """Bind to a port of the loopback interface, 0 for any free one; no request is served yet."""
        return cls(await trio.open_tcp_listeners(port, host="127.0.0.1"))

    async def run(self, *, task_status: trio.TaskStatus[ScriptedAPI] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; then every connection is closed at once."""
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, self._listeners)
            task_status.started(self)

    def env(self, *, oauth: bool = False) -> dict[str, str]:
        """What to add to the environment of the real `claude` so that it talks to this server alone.

        With `oauth` it poses as a plan's user: then the API's rate-limit headers are reported.
        """
        credentials = (
            {"CLAUDE_CODE_OAUTH_TOKEN": "rehearsal"} if oauth else {"ANTHROPIC_API_KEY": "rehearsal"}
        )
        return environment(self.url) | credentials

    async def wait_requests(self, count: int) -> None:
        """Until so many requests for an answer came in all."""
        while self._asked < count:
            await self._changed.wait()

    async def wait_connections(self, count: int) -> None:
        """Until exactly so many connections are open."""
        while self._connections != count:
            await self._changed.wait()

    # --- one connection -----------------------------------------------------------------------

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        self._notify()
        try:
            await self._converse(_Wire(stream))
        except* (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, _Gone):
            # A client that goes away in the middle, or talks nonsense, ends its own connection and no more.
            await trio.aclose_forcefully(stream)
        finally:
            self._connections -= 1
            self._notify()
            with trio.move_on_after(1, shield=True):
                await stream.aclose()

    async def _converse(self, wire: _Wire) -> None:
        while (head := await wire.next_request()) is not None:
            target = head.target.decode("latin-1").partition("?")[0]
            body = await wire.body()
            if body is None:
                await wire.error(413, f"the body passes {MAX_BODY} bytes")
                return
            match head.method, target:
                case b"HEAD", _:  # `claude` asks / and /api/hello whether anybody is there
                    await wire.send_whole(200, b"")
                case b"POST", "/v1/messages":
                    await self._answer(wire, head, body)
                case b"POST", "/v1/messages/count_tokens":
                    await wire.send_json(200, {"input_tokens": len(body) // 4})
                case _:
                    await wire.error(404, f"nothing at {head.method.decode()} {target}")
            if not wire.next_cycle():
                return

    async def _answer(self, wire: _Wire, head: h11.Request, body: bytes) -> None:
        try:
            question = msgspec.json.decode(body, type=_Question)
            place = locate(question.messages)
        except msgspec.DecodeError as exc:
            await wire.error(400, str(exc))
            return

        side = _is_side_call(question)
        session_id = dict(head.headers).get(b"x-claude-code-session-id", b"").decode("latin-1")
        reply = _SIDE_REPLY if side else place.reply
        attempt = 0
        if reply.faults:
            everywhere = any(isinstance(fault, Fail) and fault.anywhere for fault in reply.faults)
            key = place.anywhere if everywhere else f"{session_id}/{place.key}"
            attempt = self._attempts[key]
            self._attempts[key] += 1
        fault = reply.fault(attempt)
        status = fault.status if isinstance(fault, Fail) else 0 if fault else 200
        self._record(question, place, session_id, attempt, side, status)

        async with wire.until_client_leaves():
            await self._send(wire, question, reply, fault)

    async def _send(
        self, wire: _Wire, question: _Question, reply: ScriptedReply, fault: Fail | Drop | None
    ) -> None:
        drop = fault.where if isinstance(fault, Drop) else None
        for stall in reply.stalls:
            if stall.where == "headers":
                await trio.sleep(stall.seconds)
        if drop == "headers":
            raise _Gone
        headers = _rate_limit_headers(reply.rate_limit)
        if isinstance(fault, Fail):
            if fault.retry_after is not None:
                headers.append(("retry-after", f"{fault.retry_after:g}"))
            await wire.error(fault.status, fault.message, headers)
            return

        self._answered += 1
        message_id = f"msg_{self._run}{self._answered:06d}"
        if not question.stream:
            for item in events.stream(reply, message_id, question.model):
                if isinstance(item, events.Pause):
                    await trio.sleep(item.seconds)
                elif isinstance(item, events.Here) and item.where == drop:
                    raise _Gone
            await wire.send_json(200, events.message(reply, message_id, question.model), headers)
            return

        await wire.send_head(200, [("content-type", "text/event-stream"), *headers])
        # Events go out together up to the next pause: a write for each of them would be the server's cost.
        held: list[bytes] = []
        for item in events.stream(reply, message_id, question.model):
            if isinstance(item, events.Event):
                held.append(
                    b"event: %s\ndata: %s\n\n" % (str(item.data["type"]).encode(), _encode(item.data))
                )
            elif isinstance(item, events.Pause):
                await wire.send_data(b"".join(held))
                held.clear()
                await trio.sleep(item.seconds)
            elif item.where == drop:
                await wire.send_data(b"".join(held))
                raise _Gone
        await wire.send_data(b"".join(held))
        await wire.send_end()

    def _record(
        self, question: _Question, place: Position, session_id: str, attempt: int, side: bool, status: int
    ) -> None:
        system = question.system
        self._asked += 1
        self.requests.append(
            Request(
                session_id=session_id,
                model=question.model,
                system=system if isinstance(system, str) else "\n".join(block.text for block in system),
                tools=tuple(tool.name for tool in question.tools),
                texts=tuple(text for message in question.messages for text in message.texts()),
                messages=len(question.messages),
                prompt=place.said,
                step=place.step,
                attempt=attempt,
                scripted=place.script is not None,
                side=side,
                stream=question.stream,
                status=status,
                files=tuple(
                    (block.source.media_type, block.source.data)
                    for message in question.messages
                    if not isinstance(message.content, str)
                    for block in message.content
                    if block.source is not None
                ),
            )
        )
        self._notify()


class _Gone(Exception):
    """The connection is to be closed without another word."""


class _Wire:
    """One connection's HTTP, over h11."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)

    async def _next_event(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            if event is h11.PAUSED:  # a request after one that we are not through with: never asked for here
                raise _Gone
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._stream.receive_some(_RECEIVE))
        return event

    async def next_request(self) -> h11.Request | None:
        """The next request's head; None when the client is done."""
        event = await self._next_event()
        return event if isinstance(event, h11.Request) else None

    async def body(self) -> bytes | None:
        """The whole body, or None if it is too large."""
        parts: list[bytes] = []
        size = 0
        while isinstance(event := await self._next_event(), h11.Data):
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > MAX_BODY:
                return None
        if not isinstance(event, h11.EndOfMessage):
            raise _Gone
        return b"".join(parts)

    def next_cycle(self) -> bool:
        """Make ready for another request on this connection; False if there will be none."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send_all(data)

    async def send_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        await self._send(
            h11.Response(status_code=status, headers=[("request-id", "req_rehearsal"), *headers])
        )

    async def send_data(self, data: bytes) -> None:
        if data:
            await self._send(h11.Data(data=data))

    async def send_end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def send_whole(
        self, status: int, body: bytes, headers: list[tuple[str, str]] | None = None
    ) -> None:
        await self.send_head(status, [("content-length", str(len(body))), *(headers or [])])
        await self.send_data(body)
        await self.send_end()

    async def send_json(
        self, status: int, value: object, headers: list[tuple[str, str]] | None = None
    ) -> None:
        await self.send_whole(
            status, _encode(value), [("content-type", "application/json"), *(headers or [])]
        )

    async def error(self, status: int, message: str, headers: list[tuple[str, str]] | None = None) -> None:
        """The API's own form of an error."""
        error = {
            "type": _ERROR_TYPES.get(status, "api_error"),
            "message": message or _MESSAGES.get(status, f"scripted failure {status}"),
        }
        await self.send_json(
            status, {"type": "error", "error": error, "request_id": "req_rehearsal"}, headers
        )

    @asynccontextmanager
    async def until_client_leaves(self) -> AsyncIterator[None]:
        """Cancel what is inside when the client closes its side: nobody is left to hear the answer.

        The socket is looked at without being read, so that a request sent early stays for `next_request`.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            yield
            nursery.cancel_scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        await trio.lowlevel.wait_readable(self._stream.socket)
        try:
            left = not await self._stream.socket.recv(1, trio.socket.MSG_PEEK)
        except OSError:
            left = True
        if left:
            scope.cancel()


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value)


def _is_side_call(question: _Question) -> bool:
    """Whether `claude` asks for a purpose of its own.

    Measured (2.1.330, `-p`): no titles, no quota checks, no classifier; only the summary that compaction asks
    for, as one more user message in the conversation.
    """
    texts = [text for message in question.messages[-1:] for text in message.texts()]
    return bool(texts) and texts[-1].startswith(_SUMMARY_WANTED)


def _rate_limit_headers(limit: RateLimit | None) -> list[tuple[str, str]]:
    if limit is None:
        return []
    reset = str(math.ceil(time.time() + limit.resets_in))
    prefix = "anthropic-ratelimit-unified"
    window = {"five_hour": "5h", "seven_day": "7d"}.get(limit.claim, limit.claim)
    return [
        (f"{prefix}-status", limit.status),
        (f"{prefix}-reset", reset),
        (f"{prefix}-representative-claim", limit.claim),
        (f"{prefix}-{window}-utilization", f"{limit.utilization:g}"),
        (f"{prefix}-{window}-reset", reset),
        *([(f"{prefix}-{window}-surpassed-threshold", "0.75")] if limit.status == "allowed_warning" else []),
    ]


# --- starting one -----------------------------------------------------------------------------


def environment(url: str) -> dict[str, str]:
    """The part of `ScriptedAPI.env` that is no credential: where to talk to, and to nobody else."""
    return {
        "ANTHROPIC_BASE_URL": url,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
        "DISABLE_TELEMETRY": "1",
        "DISABLE_ERROR_REPORTING": "1",
    }


@asynccontextmanager
async def serve_api(port: int = 0) -> AsyncIterator[ScriptedAPI]:
    """A scripted API for the length of the block."""
    api = await ScriptedAPI.open(port)
    async with trio.open_nursery() as nursery:
        await nursery.start(api.run)
        yield api
        nursery.cancel_scope.cancel()


@contextmanager
def api_process() -> Iterator[str]:
    """A scripted API in a child process, for code that is no trio program; gives its URL.

    It cannot outlive the block: it ends with its standard input.
    """
    argv = [sys.executable, "-m", "cms.testing.api", "--port", "0"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  both are PIPE
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


async def _main(port: int) -> None:
    async def until_signalled(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for _ in signals:
            scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with serve_api(port) as api, trio.open_nursery() as nursery:
            nursery.start_soon(until_signalled, signals, nursery.cancel_scope)
            print(api.url, flush=True)  # noqa: T201  this line is the program's output
            async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stdin:
                async for _ in stdin:
                    pass
            nursery.cancel_scope.cancel()


def main() -> None:
    """`python -m cms.testing.api`: print the URL as one line, serve until stdin ends or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m cms.testing.api", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; 0 takes any free one")
    trio.run(_main, parser.parse_args().port)


if __name__ == "__main__":
    main()
