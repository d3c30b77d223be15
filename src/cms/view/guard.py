"""Who may ask the server: whoever was given its address, from its own pages, on this machine.

Each rule closes a way in, and each request meets all of them:

- The server listens on 127.0.0.1 alone, and the `Host` of a request must be that address: a name of somebody
  else's that was made to mean it (DNS rebinding) is refused.
- The address has a token. It becomes a cookie, and the browser goes on without it, so that it is in no
  history and no bookmark. The one in the address that `cms view` opens itself works once: a browser's command
  line can be read by every process of its user. Everything needs the cookie, scripts and styles too.
- The cookie goes to this server alone: browsers do not tell ports apart, but this path nobody else has.
- A post must come from a page of ours (`Origin`), and bring what only such a page was given.
- No answer may be shown in a frame, read by another origin, kept, or taken for another type than it is.
"""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from cms.page.document import SERVED_POLICY

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST: Final = "127.0.0.1"
_COOKIE: Final = "cms-view"
_HEADERS: Final = {
    "Content-Security-Policy": SERVED_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
_SENT_HEADERS: Final = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
_REFUSED: Final = "Open the address that `cms view` has printed."


def alike(given: str, known: str) -> bool:
    """Whether two secrets are the same, in a time that says nothing about how much of them is."""
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), known.encode())


class Keys:
    """The secrets of one run of the server.

    Attributes:
        base: the path that all its pages are below.
        csrf: what its pages send with a post.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.base = f"/{secrets.token_urlsafe(12)}/"
        self.csrf = secrets.token_urlsafe(32)
        self._token = secrets.token_urlsafe(32)
        self._once = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        """For a person."""
        return f"{self.origin}/?token={self._token}"

    @property
    def address_once(self) -> str:
        """For the browser that we open: good for one request."""
        return f"{self.origin}/?token={self._once}"

    def admit(self, query: bytes) -> bool:
        """Whether a query has a token that is good, which one that works once is no more then."""
        try:
            given = parse_qs(query.decode("ascii"), max_num_fields=8).get("token", [""])
        except ValueError:
            return False
        known = alike(given[0], self._token)
        if alike(given[0], self._once):
            self._once = secrets.token_urlsafe(32)
            known = True
        return known and len(given) == 1

    def set_cookie(self) -> str:
        return f"{_COOKIE}={self._cookie}; Path={self.base}; HttpOnly; SameSite=Strict"

    def knows(self, cookies: str) -> bool:
        """Whether a `Cookie` header has ours."""
        try:
            found = SimpleCookie(cookies).get(_COOKIE)
        except CookieError:
            return False
        return found is not None and alike(found.value, self._cookie)


class Guard:
    """Stands before the application, and writes what every answer must have."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_SENT_HEADERS]}
            await send(message)

        headers = _headers(scope)
        if headers is None or headers.get("host") != f"{HOST}:{self._keys.port}":
            await _answer(guarded, 421, "This is not the address of cms view.")
        elif scope["path"] == "/" and scope["method"] == "GET":
            if self._keys.admit(scope["query_string"]):
                extra = {"location": f"{self._keys.base}sessions", "set-cookie": self._keys.set_cookie()}
                await _answer(guarded, 303, "", extra)
            else:
                await _answer(guarded, 403, _REFUSED)
        elif why := self._refuse(scope, headers):
            await _answer(guarded, 403, why)
        else:
            await self._app(scope, receive, guarded)

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> str:
        """Why a request is not answered; "": it is."""
        if not self._keys.knows(headers.get("cookie", "")):
            return _REFUSED
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "That was asked by another site."
        if scope["method"] in ("GET", "HEAD"):
            return ""
        if headers.get("origin") != self._keys.origin:
            return "That was asked by another site."
        if not alike(headers.get("x-cms-token", ""), self._keys.csrf):
            return "This page is of an earlier run: load it again."
        return ""


def _headers(scope: Scope) -> dict[str, str] | None:
    """The headers of a request by name; None: one that counts comes twice."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in found and name in ("host", "origin", "x-cms-token", "sec-fetch-site"):
            return None
        joined = f"{found[name]}; " if name in found and name == "cookie" else ""
        found[name] = joined + value.decode("latin-1")
    return found


async def _answer(send: Send, status: int, text: str, extra: dict[str, str] | None = None) -> None:
    body = text.encode()
    headers = {
        "content-type": "text/plain; charset=utf-8",
        "content-length": str(len(body)),
        **(extra or {}),
    }
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
