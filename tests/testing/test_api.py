"""The scripted API over real loopback connections, with a client that knows HTTP only."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import h11
import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cms.testing import events
from cms.testing.api import MAX_BODY, ScriptedAPI, api_process, serve_api
from cms.testing.script import call, prompt, say, together, usd

JSON = dict[str, object]
Headers = tuple[tuple[str, str], ...]


class Client:
    """One connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, method: str, target: str, body: bytes = b"", headers: Headers = ()) -> None:
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        head = [("host", "x"), ("content-length", str(len(body))), *headers]
        data = self._http.send(h11.Request(method=method, target=target, headers=head)) or b""
        data += self._http.send(h11.Data(data=body)) or b""
        await self.stream.send_all(data + (self._http.send(h11.EndOfMessage()) or b""))

    async def event(self) -> h11.Event:
        while not isinstance(event := self._http.next_event(), h11.Event):
            self._http.receive_data(await self.stream.receive_some(65536))
        return event

    async def answer(self) -> tuple[h11.Response, bytes]:
        response = await self.event()
        assert isinstance(response, h11.Response), response
        body = b""
        while isinstance(event := await self.event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        return response, body

    async def ask(self, text: str, *, stream: bool = True, session: str = "s") -> tuple[int, bytes]:
        await self.send(
            "POST", "/v1/messages?beta=true", question(text, stream=stream), session_header(session)
        )
        response, body = await self.answer()
        return response.status_code, body


def question(text: str, *, stream: bool = True) -> bytes:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    tools = [{"name": "Bash", "input_schema": {}}]
    body = {"model": "claude-x", "max_tokens": 1, "system": "Be good.", "tools": tools, "messages": [message]}
    return msgspec.json.encode(body | {"stream": stream})


def session_header(session: str) -> Headers:
    return (("x-claude-code-session-id", session),)


def parse_sse(body: bytes) -> list[JSON]:
    found = []
    for block in body.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = msgspec.json.decode(data.removeprefix("data: "), type=JSON)
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


@asynccontextmanager
async def connected(api: ScriptedAPI) -> AsyncIterator[Client]:
    url = urlsplit(api.url)
    assert url.hostname == "127.0.0.1"
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(url.hostname, url.port or 0) as stream:
            yield Client(stream)


async def test_a_streamed_answer_is_the_reply_in_events() -> None:
    reply = together(call("Read", file_path="a"), call("Bash", command="b")).saying("Both.").costing(0.05)
    async with serve_api() as api, connected(api) as client:
        status, body = await client.ask(prompt("Go", reply.thinking("Hm.")))
        assert status == 200
        blocks, usage = assemble(parse_sse(body))
        assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
        assert [block.get("input") for block in blocks[2:]] == [{"file_path": "a"}, {"command": "b"}]
        assert usage["output_tokens"] == 2500
        (request,) = api.requests
        assert (request.model, request.system, request.tools) == ("claude-x", "Be good.", ("Bash",))
        assert (request.step, request.prompt, request.status, request.session_id) == (0, "Go", 200, "s")


def assemble(stream: list[JSON]) -> tuple[list[JSON], JSON]:
    """What a client makes of a stream: the blocks, and the final usage."""
    blocks: list[JSON] = []
    partial = ""
    usage: JSON = {}
    for event in stream:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": dict(block)}:
                assert index == len(blocks)
                blocks.append(block)
                partial = ""
            case {"type": "content_block_delta", "delta": {"partial_json": str(text)}}:
                partial += text
            case {"type": "content_block_delta", "delta": dict(delta)}:
                key = str(delta["type"]).removesuffix("_delta")
                blocks[-1][key] = str(blocks[-1][key]) + str(delta[key])
            case {"type": "content_block_stop"} if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = msgspec.json.decode(partial)
            case {"type": "message_delta", "usage": dict(final)}:
                usage = final
    assert (stream[0]["type"], stream[-1]["type"]) == ("message_start", "message_stop")
    return blocks, usage


@given(st.text(max_size=50), st.text(max_size=50), st.integers(0, 7), st.text(max_size=20))
def test_however_it_is_cut_a_stream_says_what_the_whole_message_says(
    text: str, thought: str, size: int, argument: str
) -> None:
    reply = call("Bash", command=argument).saying(text).thinking(thought).chunked(size)
    stream = [item.data for item in events.stream(reply, "msg_1", "m") if isinstance(item, events.Event)]
    decoded = msgspec.json.decode(msgspec.json.encode(stream), type=list[JSON])
    blocks, usage = assemble(decoded)
    whole = events.message(reply, "msg_1", "m")
    assert blocks == whole["content"]
    assert usage == whole["usage"]


async def test_without_stream_it_is_one_object() -> None:
    async with serve_api() as api, connected(api) as client:
        status, body = await client.ask(prompt("Go", say("Hello.", cost_usd=0.05)), stream=False)
        answer = msgspec.json.decode(body, type=JSON)
        assert (status, answer["content"]) == (200, [{"type": "text", "text": "Hello."}])
        assert answer["usage"] == events.figures(usd(0.05))


async def test_one_connection_serves_many_requests_of_every_kind() -> None:
    async with serve_api() as api, connected(api) as client:
        await client.send("HEAD", "/")
        response = await client.event()
        assert isinstance(response, h11.Response)
        assert response.status_code == 200
        assert isinstance(await client.event(), h11.EndOfMessage)

        await client.send("POST", "/v1/messages/count_tokens", question("x"))
        response, body = await client.answer()
        assert msgspec.json.decode(body, type=dict[str, int])["input_tokens"] > 0

        await client.send("GET", "/api/nothing")
        response, body = await client.answer()
        assert response.status_code == 404
        assert b"not_found_error" in body

        for wrong in b"{", b'{"model": 1}', question("Go <cms-script>{</cms-script>"):
            await client.send("POST", "/v1/messages", wrong)
            response, body = await client.answer()
            assert response.status_code == 400
            assert b"invalid_request_error" in body

        assert (await client.ask("plain"))[0] == 200


async def test_errors_come_as_often_as_asked_and_for_each_session_anew() -> None:
    text = prompt("Go", say("At last.").failing(529, times=2).failing(429, retry_after=3).limited("rejected"))
    async with serve_api() as api, connected(api) as client:
        for session in "one", "two":
            assert [(await client.ask(text, session=session))[0] for _ in range(2)] == [529, 529]
            await client.send("POST", "/v1/messages", question(text), session_header(session))
            response, body = await client.answer()
            assert response.status_code == 429
            assert msgspec.json.decode(body, type=JSON)["type"] == "error"
            headers = dict(response.headers)
            assert headers[b"retry-after"] == b"3"
            assert headers[b"anthropic-ratelimit-unified-status"] == b"rejected"
            assert int(headers[b"anthropic-ratelimit-unified-5h-reset"]) > 0
            assert (await client.ask(text, session=session))[0] == 200
        assert [request.attempt for request in api.requests] == [0, 1, 2, 3] * 2


@pytest.mark.parametrize("where", ["headers", "start", "middle"])
async def test_a_dropped_connection(where: str) -> None:
    drop = {"headers": say("Hello.").dropping("headers"), "start": say("Hello.").dropping("start")}
    reply = drop.get(where, say("Hello.").dropping())
    async with serve_api() as api:
        async with connected(api) as client:
            with pytest.raises(h11.RemoteProtocolError):
                await client.ask(prompt("Go", reply))
        async with connected(api) as client:
            status, body = await client.ask(prompt("Go", reply))
            assert (status, b"Hello." in body) == (200, True)


async def test_a_client_that_leaves_in_the_middle_of_a_stall_frees_its_connection() -> None:
    async with serve_api() as api, connected(api) as witness:
        async with connected(api) as client:
            await client.send("POST", "/v1/messages", question(prompt("Go", say("Hello, you.").stalling())))
            assert isinstance(await client.event(), h11.Response)
            assert isinstance(await client.event(), h11.Data)
            await api.wait_connections(2)
        with trio.fail_after(10):
            await api.wait_connections(1)
        assert (await witness.ask("Still there?"))[0] == 200


async def test_stalls_and_chunk_pauses_take_the_time_they_say() -> None:
    reply = say("abcdef").chunked(2, 0.05).after(0.05).stalling("start", 0.05).stalling("middle", 0.05)
    async with serve_api() as api, connected(api) as client:
        began = trio.current_time()
        _, body = await client.ask(prompt("Go", reply))
        assert trio.current_time() - began >= 5 * 0.05
        assert body.count(b"text_delta") == 3


async def test_connections_do_not_wait_for_one_another() -> None:
    async with serve_api() as api, connected(api) as slow, connected(api) as quick:
        await slow.send("POST", "/v1/messages", question(prompt("Go", say("never").stalling("headers"))))
        await api.wait_requests(1)
        assert (await quick.ask("Quick?"))[0] == 200


async def test_a_body_too_large_is_refused() -> None:
    async with serve_api() as api, connected(api) as client:
        head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {MAX_BODY + 1}\r\n\r\n"
        await client.stream.send_all(head.encode())
        piece = bytes(1024 * 1024)

        async def pour() -> None:
            try:
                for _ in range(MAX_BODY // len(piece) + 1):
                    await client.stream.send_all(piece)
            except trio.BrokenResourceError:
                pass  # the server has hung up by now

        received = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            while b"413" not in received and (data := await client.stream.receive_some(65536)):
                received += data
            nursery.cancel_scope.cancel()
        assert received.startswith(b"HTTP/1.1 413")


async def test_nonsense_ends_its_own_connection_only() -> None:
    async with serve_api() as api:
        async with connected(api) as client:
            await client.stream.send_all(b"this is no HTTP\r\n\r\n")
            assert await client.stream.receive_some() == b""
        async with connected(api) as client:
            assert (await client.ask("Still there?"))[0] == 200


async def test_leaving_the_block_ends_it_with_streams_under_way() -> None:
    with trio.fail_after(10):
        async with serve_api() as api:
            stream = await trio.open_tcp_stream("127.0.0.1", urlsplit(api.url).port or 0)
            client = Client(stream)
            await client.send("POST", "/v1/messages", question(prompt("Go", say("Hello, you.").stalling())))
            await api.wait_requests(1)
        with pytest.raises((h11.RemoteProtocolError, trio.BrokenResourceError)):
            await client.answer()
        await stream.aclose()


def test_as_a_child_process_it_ends_with_its_stdin() -> None:
    with api_process() as url:
        host, port = url.removeprefix("http://").split(":")
        answer = trio.run(_head, host, int(port))
        assert answer.startswith(b"HTTP/1.1 200")


async def _head(host: str, port: int) -> bytes:
    async with await trio.open_tcp_stream(host, port) as stream:
        await stream.send_all(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        with trio.fail_after(10):
            return bytes(await stream.receive_some())


def test_as_a_program_it_ends_at_sigterm() -> None:
    argv = [sys.executable, "-m", "cms.testing.api"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
