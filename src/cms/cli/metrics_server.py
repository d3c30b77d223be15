"""`cms metrics --listen`: the daemon's metrics over HTTP, on loopback.

A process of its own, so that no HTTP stands in the daemon. http.server is enough for one page that is
computed anew for each scrape; prometheus_client would bring a registry that the daemon's counters, which are
rows of its store, would have to be copied into.
"""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from cms.cli import io
from cms.errors import CmsError, UsageError
from cms.json_output import json_object
from cms.rpc.client import NoDaemon
from cms.rpc.metrics import DAEMON_METRICS
from cms.rpc.verbs import Nothing
from cms.telemetry.metrics import CONTENT_TYPE, gauge, text

_AT_ONCE: Final = 8
_PATIENCE: Final = 5.0  # seconds for a request to come, and for its answer to be taken
_OWN_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DOWN: Final = (gauge("cms_up", "Whether a daemon answers.", 0),)


def serve(host: str, port: int, *, json: bool) -> None:
    """Serve until Ctrl-C. No daemon is started; while none answers, `cms_up` is 0 and all there is.

    Raises:
        UsageError: the address cannot be listened at.
    """
    try:
        server = (_ServerV6 if ":" in host else _Server)((host, port), _Handler)
    except OSError as error:
        raise UsageError(f"cannot listen at {host}:{port}: {error.strerror}") from None
    with server:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{server.server_address[1]}/metrics"
        if json:
            io.show_json(json_object(url=url))
        else:
            io.warn(f"cms: metrics at {url} until Ctrl-C")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.Semaphore(_AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client: object) -> None:
        """What comes beyond a few at once is hung up on."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client)
        else:
            self.shutdown_request(request)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client: object
    ) -> None:
        try:
            super().process_request_thread(request, client)
        finally:
            self._free.release()

    def handle_error(self, request: object, client: object) -> None:
        """A client that leaves early is nothing to tell."""


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    server_version = "cms"
    sys_version = ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        # A page of the web can have a name of its own lead here (DNS rebinding): it then asks by that name.
        name = self.headers.get("host", "localhost").rpartition(":")
        if (name[0] if name[2].isdecimal() else "".join(name)) not in _OWN_NAMES:
            self._answer(403, "only by the name of this machine's loopback\n")
        elif self.path.partition("?")[0] != "/metrics":
            self._answer(404, "it is at /metrics\n")
        else:
            self._answer(*_scrape())

    def _answer(self, status: int, said: str) -> None:
        body = said.encode()
        self.send_response(status)
        self.send_header("content-type", CONTENT_TYPE)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Scrapes are no news."""


def _scrape() -> tuple[int, str]:
    try:
        with io.daemon(start=False) as client:
            return 200, text(client.call(DAEMON_METRICS, Nothing()).families)
    except NoDaemon:
        return 200, text(_DOWN)
    except CmsError as error:
        return 503, f"{error}\n"
