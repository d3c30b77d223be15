"""The endpoint that renews logins, on loopback: a proxy that answers for it itself, and for nobody else.

claude takes no other address for it, so it is given a proxy (`HTTPS_PROXY`) and the certificate of this one
(`NODE_EXTRA_CA_CERTS`). Each refresh token buys one pair of tokens, once.
"""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

HOST = "platform.claude.com"


class TokenEndpoint:
    """Attributes:
    asked: the refresh tokens that came, in order.
    refused: those of them that were not good any more.
    """

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.refused: list[str] = []
        self._lock = threading.Lock()
        self._certificate, key = folder / "ca.pem", folder / "key.pem"
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={HOST}",
        ]
        make += ["-addext", f"subjectAltName=DNS:{HOST}", "-keyout", str(key), "-out", str(self._certificate)]
        subprocess.run(make, check=True, capture_output=True)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self._certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))

    @property
    def environ(self) -> dict[str, str]:
        """What leads claude here."""
        return {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            "NO_PROXY": "127.0.0.1",
            "NODE_EXTRA_CA_CERTS": str(self._certificate),
        }

    def serve(self) -> None:
        """Until it is closed."""
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _converse(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head, _ = _read(client)
            if not head.startswith(f"CONNECT {HOST}:443 ".encode()):
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
                return
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self._tls.wrap_socket(client, server_side=True) as stream:
                head, body = _read(stream)
                status, answer = self._renew(body) if b"/v1/oauth/token" in head else (404, {})
                text = msgspec.json.encode(answer)
                stream.sendall(
                    b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n%b" % (status, len(text), text)
                )

    def _renew(self, body: bytes) -> tuple[int, dict[str, object]]:
        token = str(msgspec.json.decode(body, type=dict[str, object]).get("refresh_token"))
        with self._lock:
            good = token == f"refresh-{len(self.asked) - len(self.refused)}"
            self.asked.append(token)
            if not good:
                self.refused.append(token)
                return 400, {"error": "invalid_grant"}
            number = len(self.asked) - len(self.refused)
        return 200, {
            "access_token": f"access-{number}",
            "refresh_token": f"refresh-{number}",
            "expires_in": 28800,
            "token_type": "Bearer",
            "scope": "user:inference user:profile",
        }


def _read(stream: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data and (more := stream.recv(65536)):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    while length is not None and len(body) < int(length[1]) and (more := stream.recv(65536)):
        body += more
    return head, body


@contextmanager
def token_endpoint(folder: Path) -> Iterator[TokenEndpoint]:
    endpoint = TokenEndpoint(folder)
    threading.Thread(target=endpoint.serve, daemon=True).start()
    try:
        yield endpoint
    finally:
        endpoint.close()
