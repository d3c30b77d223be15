"""Whatever is said over the socket, by a client or by a daemon, only documented errors come of it.

The daemon outlives any client: after each attack an honest one is served on the same server.
"""

from __future__ import annotations

import json
import random
import socket
import tempfile
import threading
from pathlib import Path

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cms.errors import CmsError
from cms.rpc.api import PROTOCOL, HelloReply, ListParams, NameParams, Nothing, SessionReply, SessionsReply
from cms.rpc.catalog import METHODS
from cms.rpc.client import Client
from rpc.harness import Peer, open_house

#: JSON that is JSON, of any shape.
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
#: Requests that are almost right; methods that would end the server are left out.
HARMLESS = [method for method in METHODS if method != "daemon.stop"]
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
LINES = st.lists(
    REQUESTS.map(lambda request: json.dumps(request).encode())
    | ANY.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60).filter(lambda data: b"\n" not in data),
    max_size=12,
)
MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
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

    trio.run(run)


@MANY
@given(
    answers=st.lists(
        REQUESTS.map(json.dumps)
        | st.builds(
            lambda request_id, key, value, kind: json.dumps({"id": request_id, key: value, "kind": kind}),
            st.sampled_from([1, 2, None, "x"]),
            st.sampled_from(["result", "error", "params"]),
            ANY,
            st.sampled_from(["", "SessionReply", "Nothing"]) | ANY,
        )
        | st.text(max_size=30),
        max_size=6,
    ),
    greets=st.booleans(),
)
def test_no_daemon_brings_a_client_anything_but_our_errors(answers: list[str], greets: bool) -> None:
    ours, theirs = socket.socketpair()
    hello = json.dumps({"id": 1, "result": {"version": "x", "protocol": PROTOCOL, "pid": 1, "home": "/"}})

    def daemon() -> None:
        with theirs:
            try:
                theirs.recv(65536)
                if greets:
                    theirs.sendall(hello.encode() + b"\n")
                    theirs.recv(65536)
                theirs.sendall("".join(f"{line}\n" for line in answers).encode("utf-8", "replace"))
            except OSError:
                pass  # the client has left

    thread = threading.Thread(target=daemon)
    thread.start()
    try:
        with Client(ours) as client:
            try:
                client.call("hello", Nothing(), HelloReply)
                client.call("session.get", NameParams("x"), SessionReply, SessionsReply)
            except CmsError as error:
                assert str(error)  # noqa: PT017 - both ways out are fine, and are looked at
    finally:
        thread.join()
