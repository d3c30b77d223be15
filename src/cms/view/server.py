"""The server of the pages: starlette under hypercorn, on trio. One process, one person, loopback.

A page is an empty document that opens a stream (`feeds`); what is new is sent as server-sent events. What
asks the daemon runs in threads, so a daemon that is slow holds up nothing but the page that asked.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import quote

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from cms.config import Settings
from cms.errors import UNREADABLE, CmsError, ExitCode, UsageError
from cms.page.document import ASSETS, Kind, served
from cms.rpc.overview import SESSIONS_OVERVIEW
from cms.rpc.verbs import Nothing
from cms.view.acts import MOST, Act, Done, carry_out
from cms.view.ask import Daemon
from cms.view.feeds import BatchesFeed, BatchFeed, Feed, SessionFeed, SessionsFeed
from cms.view.guard import HOST, Guard, Keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypercorn.typing import Framework

#: Threads that may wait for the daemon at once: for pages, and for acts, which no page may keep waiting.
_FEEDS: Final = 12
_ACTS: Final = 4
#: Seconds after which a silent stream says something, so that a browser that has left is noticed.
_SIGN_OF_LIFE: Final = 15.0
_TYPES: Final = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


class Site:
    """What the server answers."""

    def __init__(self, daemon: Daemon, keys: Keys, *, act: bool) -> None:
        self._daemon = daemon
        self._keys = keys
        self._act = act
        self._assets = {path.name: path.read_bytes() for path in ASSETS.iterdir() if path.suffix in _TYPES}
        self._feeds = trio.CapacityLimiter(_FEEDS)
        self._acts = trio.CapacityLimiter(_ACTS)
        base = keys.base
        routes = [
            Route(base, self._first),
            Route(f"{base}assets/{{name}}", self._asset),
            Route(f"{base}sessions", partial(self._page, "sessions")),
            Route(f"{base}sessions/{{name}}", partial(self._page, "session")),
            Route(f"{base}batches", partial(self._page, "batches")),
            Route(f"{base}batches/{{name}}", partial(self._page, "batch")),
            Route(f"{base}feed/{{kind}}", self._feed),
            Route(f"{base}feed/{{kind}}/{{name}}", self._feed),
        ]
        if act:
            routes.append(Route(f"{base}acts", self._acted, methods=["POST"]))
        self.app = Guard(Starlette(routes=routes), keys)

    async def _first(self, _request: Request) -> Response:
        return RedirectResponse(f"{self._keys.base}sessions", status_code=303)

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._assets:
            return PlainTextResponse("There is no such thing.", status_code=404)
        return Response(self._assets[name], media_type=_TYPES[name[name.rindex(".") :]])

    async def _page(self, kind: Kind, request: Request) -> Response:
        name = request.path_params.get("name", "")
        feed = f"{self._keys.base}feed/{kind}" + (f"/{quote(name, safe='')}" if name else "")
        csrf = self._keys.csrf if self._act else ""
        return HTMLResponse(served(kind, self._keys.base, feed=feed, csrf=csrf))

    async def _feed(self, request: Request) -> Response:
        feed = self._feed_of(request.path_params["kind"], request.path_params.get("name", ""))
        if feed is None:
            return PlainTextResponse("There is no such page.", status_code=404)
        return StreamingResponse(self._events(feed), media_type="text/event-stream")

    def _feed_of(self, kind: str, name: str) -> Feed | None:
        match kind, bool(name):
            case "sessions", False:
                return SessionsFeed(self._daemon)
            case "session", True:
                return SessionFeed(self._daemon, name)
            case "batches", False:
                return BatchesFeed(self._daemon)
            case "batch", True:
                return BatchFeed(self._daemon, name)
        return None

    async def _events(self, feed: Feed) -> AsyncIterator[bytes]:
        silent_since = trio.current_time()
        gone = b""
        while True:
            try:
                found = await trio.to_thread.run_sync(
                    lambda: [_event(*one) for one in feed.poll()], abandon_on_cancel=True, limiter=self._feeds
                )
                if gone:
                    found.insert(0, _event("back", {}))
                gone = b""
            except CmsError as error:
                final = error.exit_code is ExitCode.NOT_FOUND
                told = _event("gone", {"message": error.message, "hint": error.hint, "final": final})
                found = [] if told == gone else [told]
                gone = told
                if final:
                    yield told
                    return
            for event in found:
                yield event
            if found:
                silent_since = trio.current_time()
            elif trio.current_time() - silent_since > _SIGN_OF_LIFE:
                yield b":\n\n"
                silent_since = trio.current_time()
            await trio.sleep(feed.each)

    async def _acted(self, request: Request) -> Response:
        try:
            act = msgspec.json.decode(await _body(request), type=Act)
        except (*UNREADABLE, UsageError, ClientDisconnect):
            return _told(Done("cms view does not understand what was asked"), 400)
        try:
            # Not abandoned where the browser leaves: what was begun is done.
            done = await trio.to_thread.run_sync(carry_out, self._daemon, act, limiter=self._acts)
        except CmsError as error:
            return _told(Done(error.message, error.hint), 409)
        return _told(done, 200)


async def _body(request: Request) -> bytes:
    """What was posted.

    Raises:
        UsageError: it is no JSON by its type, or longer than an act is.
    """
    body = b""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("an act is JSON")
    async for piece in request.stream():
        body += piece
        if len(body) > MOST:
            raise UsageError("an act is shorter")
    return body


def _told(done: Done, status: int) -> Response:
    return Response(msgspec.json.encode(done), status_code=status, media_type="application/json")


def _event(name: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(value))


@contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """A socket on loopback. `port` 0: any that is free.

    Raises:
        UsageError: the port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"--port {port}: {error.strerror}", hint="leave --port out: a free one is found"
            ) from None
        yield sock


def run(settings: Settings, *, port: int, act: bool, ready: Callable[[Keys], None]) -> None:
    """Serve until SIGINT or SIGTERM. `ready` is told when browsers may come.

    Raises:
        CmsError: there is no daemon, or the port is taken.
    """
    daemon = Daemon(settings)
    daemon.call(SESSIONS_OVERVIEW, Nothing())
    try:
        with _listening(port) as sock:
            trio.run(_serve, daemon, sock, act, ready)
    finally:
        daemon.close()


async def _serve(daemon: Daemon, sock: socket.socket, act: bool, ready: Callable[[Keys], None]) -> None:
    keys = Keys(sock.getsockname()[1])
    config = Config()
    # hypercorn closes what it is given.
    config.bind = [f"fd://{sock.detach()}"]
    config.loglevel = "ERROR"
    config.graceful_timeout = 0.5
    config.include_server_header = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:

        async def until_signal() -> None:
            async for _ in signals:
                return

        async with trio.open_nursery() as nursery:
            # The two projects describe the same protocol in types of their own.
            app = cast("Framework", Site(daemon, keys, act=act).app)
            await nursery.start(partial(serve, app, config, shutdown_trigger=until_signal))
            ready(keys)
