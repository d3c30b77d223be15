"""Who gets in, and what every answer carries: the guard alone, in front of an application that says yes."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec
import pytest
import trio
from starlette.types import Message, Receive, Scope, Send

from cms.view.guard import Guard, Keys

PORT = 4711


class Got(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: str


async def _yes(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"yes"})


def ask(
    keys: Keys, path: str, headers: Mapping[str, str | None] | None = None, *, method: str = "GET"
) -> Got:
    """A request as a browser of ours sends it, but for `headers`; None leaves one out."""
    parts = urlsplit(path)
    given = {"host": f"127.0.0.1:{PORT}", **(headers or {})}
    scope = {
        "type": "http", "method": method, "path": parts.path, "query_string": parts.query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value],
    }  # fmt: skip
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    trio.run(Guard(_yes, keys), scope, receive, send)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Got(sent[0]["status"], found, b"".join(one.get("body", b"") for one in sent[1:]).decode())


@pytest.fixture
def keys() -> Keys:
    return Keys(PORT)


@pytest.fixture
def cookie(keys: Keys) -> str:
    got = ask(keys, keys.address)
    return got.headers["set-cookie"].partition(";")[0]


def test_the_token_becomes_a_cookie_and_leaves_the_address(keys: Keys) -> None:
    got = ask(keys, keys.address)
    assert got.status == 303
    assert got.headers["location"] == f"{keys.base}sessions"
    assert "token" not in got.headers["location"]
    name, *rest = got.headers["set-cookie"].split("; ")
    assert sorted(rest) == ["HttpOnly", f"Path={keys.base}", "SameSite=Strict"]
    assert name.partition("=")[2] not in keys.address


def test_what_the_browser_was_started_with_works_once(keys: Keys) -> None:
    once = keys.address_once
    assert ask(keys, once).status == 303
    assert ask(keys, once).status == 403
    assert ask(keys, keys.address).status == 303
    assert ask(keys, keys.address).status == 303


@pytest.mark.parametrize(
    "query", ["", "token=", "token=x", "token=%ff", "token=%00", "token={}&token={}", "&" * 50, "token=é"]
)
def test_no_other_token_is_good(keys: Keys, query: str) -> None:
    token = keys.address.partition("token=")[2]
    assert ask(keys, "/?" + query.format(token, token)).status == 403


def test_with_the_cookie_pages_are_served(keys: Keys, cookie: str) -> None:
    for path in ("sessions", "assets/app.js", "feed/sessions"):
        assert ask(keys, keys.base + path, {"cookie": cookie}).body == "yes"
        assert ask(keys, keys.base + path, {"cookie": f"a=b; {cookie}"}).body == "yes"


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": None},
        {"cookie": "cms-view="},
        {"cookie": "cms-view=wrong"},
        {"cookie": 'cms-view="\\'},
        {"host": None},
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}"},
        {"host": f"localhost:{PORT}"},
        {"host": "127.0.0.1"},
        {"host": f"127.0.0.1:{PORT + 1}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_without_all_of_it_nothing_is(keys: Keys, cookie: str, headers: dict[str, str | None]) -> None:
    got = ask(keys, f"{keys.base}assets/app.js", {"cookie": cookie, **headers})
    assert got.status in (403, 421)
    assert "yes" not in got.body


def test_another_name_gets_nothing_for_the_right_token(keys: Keys) -> None:
    assert ask(keys, keys.address, {"host": f"evil.example:{PORT}"}).status == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": None},
        {"origin": "null"},
        {"origin": "http://evil.example"},
        {"origin": f"http://localhost:{PORT}"},
        {"origin": "http://127.0.0.1"},
        {"x-cms-token": None},
        {"x-cms-token": "wrong"},
        {"x-cms-token": "é"},
        {"cookie": None},
        {"sec-fetch-site": "cross-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["POST", "PUT", "OPTIONS"])
def test_a_post_needs_more(keys: Keys, cookie: str, headers: dict[str, str | None], method: str) -> None:
    good: dict[str, str | None] = {"cookie": cookie, "origin": keys.origin, "x-cms-token": keys.csrf}
    assert ask(keys, f"{keys.base}acts", good, method=method).body == "yes"
    assert ask(keys, f"{keys.base}acts", {**good, **headers}, method=method).status == 403


def test_what_every_answer_carries(keys: Keys, cookie: str) -> None:
    for got in (
        ask(keys, "/"),
        ask(keys, keys.address),
        ask(keys, f"{keys.base}sessions", {"cookie": cookie}),
        ask(keys, f"{keys.base}sessions", {"host": "evil"}),
    ):
        policy = got.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert "frame-ancestors 'none'" in policy
        assert got.headers["x-content-type-options"] == "nosniff"
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in got.headers)


def test_every_run_has_keys_of_its_own() -> None:
    one, other = Keys(PORT), Keys(PORT)
    assert one.address != other.address
    assert one.base != other.base
    assert one.csrf != other.csrf
