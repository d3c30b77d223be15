"""Web servers on loopback, for what posts something."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: In the address of each receiver, for tests that look where it turns up.
SECRET = "s3cr3t-token"


@contextmanager
def listening(take: Callable[[str, dict[str, str], bytes], int]) -> Iterator[str]:
    """A web server: its address. `take` is given the path, the headers and the body of each post, and gives
    the status of the answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(take(self.path, dict(self.headers.items()), body))
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


@contextmanager
def receiver() -> Iterator[tuple[str, queue.Queue[dict[str, Any]]]]:
    """One that keeps what is posted to it: its address, and what came."""
    got: queue.Queue[dict[str, Any]] = queue.Queue()

    def take(path: str, _headers: dict[str, str], body: bytes) -> int:
        got.put({"path": path, **json.loads(body)})
        return 200

    with listening(take) as address:
        yield f"{address}/{SECRET}", got
