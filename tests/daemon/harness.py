"""A server on a real socket in this process, and a client that speaks lines to it as any program could."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from cms.config import Settings
from cms.daemon.server import Server, open_listener
from cms.rpc.daemon import Hello
from cms.rpc.wire import MAX_LINE, PROTOCOL, LineBuffer, Request, RpcError
from cms.session.model import Record
from daemon.fake import FakeSupervisor


class Line(msgspec.Struct):
    """Anything that a daemon writes."""

    id: int | None = None
    method: str = ""
    params: msgspec.Raw = msgspec.Raw(b"{}")
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: RpcError | None = None
    kind: str = ""


class Peer:
    """One connection, used by hand."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._lines = LineBuffer(MAX_LINE)

    async def send(self, request_id: int | None, method: str, params: Record, **more: float) -> None:
        request = Request(method, msgspec.Raw(msgspec.json.encode(params)), request_id)
        for key, value in more.items():
            setattr(request, key, value)
        await self.stream.send_all(msgspec.json.encode(request) + b"\n")

    async def line(self) -> Line:
        """The next line. Fails when the server has hung up, or writes nothing for long."""
        with trio.fail_after(10):
            while (line := self._lines.next_line()) is None:
                data = await self.stream.receive_some()
                assert data, "the server hung up"
                self._lines.feed(data)
        return msgspec.json.decode(line, type=Line)

    async def answer(self, request_id: int | None) -> Line:
        """The next response of that id; notifications before it are skipped."""
        while True:
            line = await self.line()
            if not line.method and line.id == request_id:
                return line

    async def ask(self, request_id: int, method: str, params: Record) -> Line:
        await self.send(request_id, method, params)
        return await self.answer(request_id)

    async def hello(self, protocol: int = PROTOCOL) -> Line:
        return await self.ask(0, "hello", Hello("test", protocol))

    async def wait_hung_up(self) -> None:
        with trio.fail_after(10):
            try:
                while await self.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


class House:
    """A server, its fake supervisor, and where it listens."""

    def __init__(self, server: Server, supervisor: FakeSupervisor, settings: Settings) -> None:
        self.server = server
        self.supervisor = supervisor
        self.settings = settings
        self.served = trio.Event()

    @asynccontextmanager
    async def peer(self, *, hello: bool = True) -> AsyncIterator[Peer]:
        stream = await trio.open_unix_socket(str(self.settings.socket))
        async with stream:
            peer = Peer(stream)
            if hello:
                await peer.hello()
            yield peer


@asynccontextmanager
async def open_house(home: Path) -> AsyncIterator[House]:
    settings = Settings(home=home)
    supervisor = FakeSupervisor()
    server = Server(supervisor, settings, containment="fake, level Z")
    house = House(server, supervisor, settings)

    async def serve() -> None:
        await server.serve(open_listener(settings))
        house.served.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(10):
            while not settings.socket.is_socket():
                await trio.lowlevel.checkpoint()
        yield house
        nursery.cancel_scope.cancel()
