"""Whatever is said over the socket, by a client or by a daemon, only documented errors come of it.

The daemon outlives any client: after each attack an honest one is served on the same server.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cms.errors import CmsError
from cms.rpc.client import Client
from cms.rpc.daemon import HelloResult
from cms.rpc.sessions import SESSION_GET, ListParams, NameParams
from cms.rpc.verbs import Nothing, Verb, all_verbs
from cms.rpc.wire import PROTOCOL
from daemon.harness import Peer, open_house

#: JSON that is JSON, of any shape.
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
#: Requests that are almost right; methods that would end the server are left out.
HARMLESS = [name for name in all_verbs() if name != "daemon.stop"]
NAMES = [
    "name",
    "message",
    "options",
    "task",
    "prompt",
    "limits",
    "params",
    "names",
    "workDir",
    "grace",
    "texts",
]
REQUESTS = st.fixed_dictionaries(
    {"method": st.sampled_from([*HARMLESS, "cancel", "nonsense", ""])},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0", 2]),
        "id": st.integers(-1, 5) | st.integers() | ANY,
        "params": st.dictionaries(st.sampled_from(NAMES), ANY, max_size=4) | ANY,
    },
)


def _unsaid(request: object, noise: bytes, place: int) -> bytes:
    """A request with bytes in it that are no text, or no JSON."""
    data = json.dumps(request).encode()
    place %= len(data) + 1
    return data[:place] + noise + data[place:]


class _Bugs(logging.Handler):
    """What the server says of itself: a bug that it survives is one all the same."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(logging.Formatter().format(record))

    @contextmanager
    def listening(self) -> Iterator[None]:
        root = logging.getLogger("cms")
        root.addHandler(self)
        try:
            yield
        finally:
            root.removeHandler(self)


LINES = st.lists(
    REQUESTS.map(lambda request: json.dumps(request).encode())
    | ANY.map(lambda value: json.dumps(value).encode())
    | st.builds(_unsaid, REQUESTS, st.binary(min_size=1, max_size=4), st.integers(0, 200))
    | st.binary(max_size=60),
    max_size=12,
).map(lambda lines: [line.replace(b"\n", b" ") for line in lines])
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@example([b'{"jsonrpc": "2.0", "id": 2, "method": "\xff"}'], True, b"", 0)
@example([b'{"jsonrpc": "2.0", "id": 2, "method": "session.get", "params": {"name": "\xff"}}'], True, b"", 0)
@given(lines=LINES, greet=st.booleans(), torn=st.binary(max_size=20), seed=st.integers(0, 2**32))
def test_no_client_harms_the_server(lines: list[bytes], greet: bool, torn: bytes, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 (repeatable, not secret)

    async def attack(peer: Peer) -> None:
        data = b"".join(line + b"\n" for line in lines) + torn
        while data:
            cut = dice.randrange(1, len(data) + 1)
            try:
                await peer.stream.send_all(data[:cut])
            except trio.BrokenResourceError:
                return  # it has hung up, as it may
            data = data[cut:]

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="cms-fuzz-") as folder, trio.fail_after(20):
            async with open_house(Path(folder)) as house:
                async with house.peer(hello=greet) as peer:
                    await attack(peer)
                async with house.peer() as honest:
                    answer = await honest.ask(7, "session.list", ListParams())
                    assert answer.error is None

    bugs = _Bugs()
    with bugs.listening():
        trio.run(run)
    assert bugs.told == []


@MANY
@given(
    answers=st.lists(
        REQUESTS.map(lambda request: json.dumps(request).encode())
        | st.builds(_unsaid, REQUESTS, st.binary(min_size=1, max_size=4), st.integers(0, 200))
        | st.builds(
            lambda request_id, key, value, kind, noise, place: _unsaid(
                {"id": request_id, key: value, "kind": kind}, noise, place
            ),
            st.sampled_from([1, 2, None, "x"]),
            st.sampled_from(["result", "error", "params"]),
            ANY,
            st.sampled_from(["", "SessionResult", "Nothing"]) | ANY,
            st.binary(max_size=2),
            st.integers(0, 200),
        )
        | st.binary(max_size=30),
        max_size=6,
    ),
    greets=st.booleans(),
)
def test_no_daemon_brings_a_client_anything_but_our_errors(answers: list[bytes], greets: bool) -> None:
    ours, theirs = socket.socketpair()
    hello = json.dumps({"id": 1, "result": {"version": "x", "protocol": PROTOCOL, "pid": 1, "home": "/"}})

    def daemon() -> None:
        with theirs:
            try:
                theirs.recv(65536)
                if greets:
                    theirs.sendall(hello.encode() + b"\n")
                    theirs.recv(65536)
                theirs.sendall(b"".join(line + b"\n" for line in answers))
            except OSError:
                pass  # the client has left

    thread = threading.Thread(target=daemon)
    thread.start()
    try:
        with Client(ours) as client:
            try:
                client.call(Verb("hello", Nothing, HelloResult), Nothing())
                client.call(SESSION_GET, NameParams("x"))
            except CmsError as error:
                assert str(error)  # noqa: PT017 - both ways out are fine, and are looked at
    finally:
        thread.join()
