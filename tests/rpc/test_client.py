"""The blocking client against a real server: calls in a thread, Ctrl-C in a process of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import pytest
import trio

from cms import errors
from cms.config import Settings
from cms.rpc import client as client_module
from cms.rpc.client import Client, NoDaemon, connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams, HelloResult
from cms.rpc.sessions import (
    SESSION_DELEGATE,
    SESSION_GET,
    SESSION_SEND,
    SESSION_SPAWN,
    AcceptedResult,
    DelegateParams,
    NameParams,
    SendParams,
    SessionResult,
    SpawnParams,
)
from cms.rpc.verbs import Nothing, Verb
from cms.rpc.wire import PROTOCOL, Accepted, ProgressNote
from cms.session.model import DelegateResult, Outcome, Reply, SessionStatus
from daemon.fake import options
from daemon.harness import House, open_house

if TYPE_CHECKING:
    from _typeshed import TraceFunction

T = TypeVar("T")


async def in_thread(function: Callable[[], T]) -> T:
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(function)


@asynccontextmanager
async def connected(house: House) -> AsyncIterator[Client]:
    client = await in_thread(lambda: connect(house.settings, start=False))
    with client:
        yield client


def test_the_import_is_light() -> None:
    program = """
        import sys, __future__, msgspec, socket, signal, struct
        before = set(sys.modules)
        import cms.rpc.client
        print(*sorted(set(sys.modules) - before))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == {
        "cms",
        "cms._version",
        "cms.errors",
        "cms.home",
        "cms.rpc",
        "cms.rpc.daemon",
        "cms.rpc.client",
        "cms.rpc.endpoint",
        "cms.rpc.verbs",
        "cms.rpc.wire",
        "cms.session",
        "cms.session.model",
    }


async def test_calls_callbacks_and_results(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:
        assert client.daemon.home == str(tmp_path)
        accepted: list[Accepted] = []
        notes: list[ProgressNote] = []

        def call() -> Reply | AcceptedResult:
            return client.call(
                SESSION_SPAWN,
                SpawnParams(options("a"), "hang"),
                on_accepted=accepted.append,
                on_progress=notes.append,
            )

        async def work() -> None:
            await house.supervisor.wait_watched("a")
            house.supervisor.tell("a", "thinking")
            house.supervisor.release("a")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            reply = await in_thread(call)
        assert isinstance(reply, Reply)
        assert reply.text == "re: hang"
        assert [a.name for a in accepted] == ["a"]
        assert [n.progress.text for n in notes] == ["thinking"]

        unread = await in_thread(lambda: client.call(SESSION_SEND, SendParams("a", "b", wait=False)))
        assert isinstance(unread, AcceptedResult)


async def test_errors_are_the_daemons_own_and_the_connection_lives_on(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:
        with pytest.raises(errors.SessionNotFound) as caught:
            await in_thread(lambda: client.call(SESSION_GET, NameParams("nobody")))
        assert caught.value.name == "nobody"
        with pytest.raises(errors.UsageError, match=r"session\.fly"):
            await in_thread(lambda: client.call(Verb("session.fly", Nothing, SessionResult), Nothing()))
        with pytest.raises(errors.UsageError, match="name"):
            await in_thread(lambda: client.call(Verb("session.get", Nothing, SessionResult), Nothing()))
        await in_thread(lambda: client.call(SESSION_SPAWN, SpawnParams(options("a"), "hi")))
        await in_thread(lambda: client.call(SESSION_GET, NameParams("a")))


async def test_an_answer_of_another_kind_is_named(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:
        params = SpawnParams(options("a"), "hi", wait=False)
        with pytest.raises(errors.InternalError, match="AcceptedResult"):
            await in_thread(lambda: client.call(Verb("session.spawn", SpawnParams, Reply), params))


async def test_cancel_from_another_thread(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:

        async def cancel() -> None:
            await house.supervisor.wait_watched("d")
            client.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel)
            result = await in_thread(
                lambda: client.call(SESSION_DELEGATE, DelegateParams(options("d"), "hang"))
            )
        assert isinstance(result, DelegateResult)
        assert result.status is Outcome.INTERRUPTED


async def _cancelled_at(house: House, number: int) -> tuple[str, int]:
    """A delegation that never ends by itself, cancelled before the client runs its line `number`, counted
    from the start of the call, or when it is accepted; what came of it, and the lines until then."""
    name = f"d{number}"
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        nonlocal lines
        if frame.f_globals.get("__name__") != client_module.__name__:
            return None
        if event == "line":
            if lines == number:
                client.cancel()
            lines += 1
        return trace

    def accepted(_: Accepted) -> None:
        sys.settrace(None)
        if lines <= number:
            client.cancel()

    def work() -> str:
        sys.settrace(trace)
        try:
            params = DelegateParams(options(name), "hang")
            result = client.call(SESSION_DELEGATE, params, on_accepted=accepted)
        except errors.CmsError as error:
            return error.code
        finally:
            sys.settrace(None)
        assert isinstance(result, DelegateResult)
        return result.status.value

    async with connected(house) as client:
        return await in_thread(work), lines


async def test_a_cancel_is_never_lost_whenever_it_comes(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        outcomes: list[str] = []
        number, lines = 0, 1
        while number < lines:
            outcome, lines = await _cancelled_at(house, number)
            outcomes.append(outcome)
            number += 1
        assert len(outcomes) > 20, "there are as many lines"
        assert set(outcomes) == {"interrupted"}
        # Before it was sent, nothing began; whatever began has ended.
        assert "d0" not in house.supervisor.records
        assert f"d{number - 1}" in house.supervisor.records
        assert set(house.supervisor.records) == set(house.supervisor.cancelled)


async def test_after_a_cancel_no_request_goes_out(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:
        client.cancel()
        for _ in range(2):
            with pytest.raises(errors.Interrupted):
                await in_thread(lambda: client.call(SESSION_SPAWN, SpawnParams(options("a"), "hi")))
        assert not house.supervisor.records


async def test_a_request_too_long_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:
        monkeypatch.setattr(client_module, "MAX_LINE", 1000)
        with pytest.raises(errors.UsageError, match="limit is 1000"):
            await in_thread(lambda: client.call(SESSION_SEND, SendParams("a", "x" * 2000)))


async def test_an_error_in_a_callback_hangs_up(tmp_path: Path) -> None:
    def burst(_: Accepted) -> None:
        raise ZeroDivisionError

    async with open_house(tmp_path) as house, connected(house) as client:
        params = DelegateParams(options("d"), "hang")
        with pytest.raises(ZeroDivisionError):
            await in_thread(lambda: client.call(SESSION_DELEGATE, params, on_accepted=burst))
        await house.supervisor.wait_until(lambda: house.supervisor.cancelled == ["d"])


# --- what is at the other end ---------------------------------------------------------------------


@asynccontextmanager
async def impostor(home: Path, *answers: bytes) -> AsyncIterator[Settings]:
    """Something else on the socket: answers each line it gets with the next of `answers`, then hangs up."""
    settings = Settings(home=home)

    async def handle(stream: trio.SocketStream) -> None:
        for answer in answers:
            await stream.receive_some()
            await stream.send_all(answer)

    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(settings.socket))
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(sock)])
        yield settings
        nursery.cancel_scope.cancel()


def hello(**changes: object) -> bytes:
    reply = {"version": "9.9", "protocol": PROTOCOL, "pid": 77, "home": "/", **changes}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": reply}).encode() + b"\n"


ACCEPTED = (
    b'{"method":"accepted","params":{"requestId":2,"sessionId":"s","interactionId":"i","name":"fix-auth"}}\n'
)


async def test_a_daemon_lost_before_and_after_it_accepted(tmp_path: Path) -> None:
    params = SendParams("fix-auth", "hi")
    async with impostor(tmp_path, hello(), b"") as settings:
        client = await in_thread(lambda: connect(settings))
        with client, pytest.raises(errors.DaemonUnavailable, match=r"may or may not .*cms list"):
            await in_thread(lambda: client.call(SESSION_SEND, params))
    Settings(home=tmp_path).socket.unlink()
    async with impostor(tmp_path, hello(), b"") as settings:
        client = await in_thread(lambda: connect(settings))
        with (
            client,
            pytest.raises(errors.DaemonUnavailable, match=r"before it answered \(run the command"),
        ):
            await in_thread(lambda: client.call(SESSION_GET, NameParams("fix-auth")))
    Settings(home=tmp_path).socket.unlink()
    async with impostor(tmp_path, hello(), ACCEPTED) as settings:
        client = await in_thread(lambda: connect(settings))
        with client, pytest.raises(errors.DaemonUnavailable, match=r"safe on disk.*cms status fix-auth"):
            await in_thread(lambda: client.call(SESSION_SEND, params))


async def test_another_protocol_is_told_and_may_be_let_through(tmp_path: Path) -> None:
    async with impostor(tmp_path, hello(protocol=99, version="8.0")) as settings:
        with pytest.raises(
            errors.DaemonVersionMismatch, match=r"8\.0.*protocol 99.*cms daemon stop"
        ) as caught:
            await in_thread(lambda: connect(settings))
        assert caught.value.exit_code == 11
        with await in_thread(lambda: connect(settings, any_protocol=True)) as client:
            assert client.daemon.protocol == 99


async def test_an_equal_protocol_of_another_version_is_fine(tmp_path: Path) -> None:
    async with impostor(tmp_path, hello(version="0.0.1", unheard=True)) as settings:
        with await in_thread(lambda: connect(settings)) as client:
            assert client.daemon.version == "0.0.1"


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"[]\n", hello(pid="x")])
async def test_what_is_no_daemon_of_ours_is_one_clear_error(tmp_path: Path, noise: bytes) -> None:
    async with impostor(tmp_path, noise) as settings:
        with pytest.raises(errors.CmsError, match="cannot be read"):
            await in_thread(lambda: connect(settings, start=False))


async def test_a_daemon_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "HANDSHAKE_TIMEOUT", 0.05)
    settings = Settings(home=tmp_path)
    settings.lock.write_text("4711 0.1.0\n")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(settings.socket))
        sock.listen()
        with pytest.raises(errors.DaemonUnavailable, match=r"does not answer.*pid 4711"):
            await in_thread(lambda: connect(settings))


def test_no_daemon_and_none_to_be_started(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon is running"):
        connect(Settings(home=tmp_path), start=False)
    with socket.socket(socket.AF_UNIX) as sock:  # a socket that nobody listens at any more
        sock.bind(str(tmp_path / "daemon.sock"))
    with pytest.raises(NoDaemon):
        connect(Settings(home=tmp_path), start=False)


# --- Ctrl-C ---------------------------------------------------------------------------------------

PROGRAM = """
    import sys
    from pathlib import Path
    from cms.config import Settings
    from cms.rpc.client import connect
    from cms.rpc.daemon import *
    from cms.rpc.sessions import *
    from cms.session.model import *

    client = connect(Settings(home=Path(sys.argv[1])), start=False)
    options = SessionOptions(name="d", work_dir="/")
    params = {params}
    try:
        result = client.call({verb}, params)
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    else:
        print(type(result).__name__, getattr(result, "status", ""))
    try:
        print(client.call(SESSION_GET, NameParams("d")).session.status)
    except Exception as error:
        print("then", type(error).__name__)
"""


async def start(nursery: trio.Nursery, program: str, home: Path) -> trio.Process:
    """A Python program in a process of its own; the nursery waits for it, and kills it when cancelled."""
    command = [sys.executable, "-c", program, str(home)]
    process: trio.Process = await nursery.start(
        partial(trio.run_process, command, stdout=subprocess.PIPE, check=False)
    )
    return process


@asynccontextmanager
async def child(house: House, verb: str, params: str) -> AsyncIterator[trio.Process]:
    program = textwrap.dedent(PROGRAM).format(verb=verb, params=params)
    async with trio.open_nursery() as nursery:
        process = await start(nursery, program, house.settings.home)
        with trio.fail_after(20):
            yield process
            await process.wait()
        nursery.cancel_scope.cancel()


async def words(process: trio.Process) -> list[str]:
    assert process.stdout is not None
    text = b""
    async for chunk in process.stdout:
        text += chunk
    return text.decode().splitlines()


async def test_the_first_ctrl_c_stops_a_delegation_and_brings_its_result(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        async with child(house, "SESSION_DELEGATE", "DelegateParams(options, 'hang')") as process:
            await house.supervisor.wait_watched("d")
            process.send_signal(signal.SIGINT)
            assert await words(process) == ["DelegateResult interrupted", "stopped"]
        assert house.supervisor.cancelled == ["d"]


async def test_the_first_ctrl_c_on_a_send_leaves_the_work_alone(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        async with child(house, "SESSION_SPAWN", "SpawnParams(options, 'hang')") as process:
            await house.supervisor.wait_watched("d")
            process.send_signal(signal.SIGINT)
            assert await words(process) == ["AcceptedResult ", "busy"]
        assert house.supervisor.records["d"].status is SessionStatus.BUSY


async def test_a_second_ctrl_c_gives_up_at_once(tmp_path: Path) -> None:
    async with impostor_that_only_listens(tmp_path) as (settings, heard):
        program = textwrap.dedent(PROGRAM).format(
            verb="SESSION_DELEGATE", params="DelegateParams(options, 'hang')"
        )
        async with trio.open_nursery() as nursery:
            process = await start(nursery, program, settings.home)
            with trio.fail_after(20):
                assert b"session.delegate" in await heard.receive()
                process.send_signal(signal.SIGINT)
                assert b'"cancel"' in await heard.receive()
                process.send_signal(signal.SIGINT)
                assert await words(process) == ["KeyboardInterrupt", "then DaemonUnavailable"]


async def test_ctrl_c_on_a_question_ends_it_at_once(tmp_path: Path) -> None:
    async with impostor_that_only_listens(tmp_path) as (settings, heard):
        program = textwrap.dedent(PROGRAM).format(verb="DAEMON_STOP", params="DaemonStopParams()")
        async with trio.open_nursery() as nursery:
            process = await start(nursery, program, settings.home)
            with trio.fail_after(20):
                assert b"daemon.stop" in await heard.receive()
                process.send_signal(signal.SIGINT)
                assert (await words(process))[0] == "KeyboardInterrupt"


@asynccontextmanager
async def impostor_that_only_listens(
    home: Path,
) -> AsyncIterator[tuple[Settings, trio.MemoryReceiveChannel[bytes]]]:
    """Answers `hello`, then nothing; what else it is told is handed on."""
    settings = Settings(home=home)
    send, receive = trio.open_memory_channel[bytes](100)

    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(hello())
        async for data in stream:
            await send.send(bytes(data))

    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(settings.socket))
    sock.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handle, [trio.SocketListener(sock)])
        yield settings, receive
        nursery.cancel_scope.cancel()


async def test_a_program_with_a_handler_of_its_own_keeps_it(tmp_path: Path) -> None:
    program = """
        import signal, sys
        from pathlib import Path
        from cms.config import Settings
        from cms.rpc.client import connect
        from cms.rpc.sessions import *
        from cms.session.model import *

        class Mine(Exception): pass
        def mine(*_): raise Mine
        signal.signal(signal.SIGINT, mine)
        client = connect(Settings(home=Path(sys.argv[1])), start=False)
        try:
            client.call(SESSION_DELEGATE, DelegateParams(SessionOptions(name="d", work_dir="/"), "hang"))
        except Mine:
            print("mine", signal.getsignal(signal.SIGINT) is mine)
    """
    async with open_house(tmp_path) as house, trio.open_nursery() as nursery:
        process = await start(nursery, textwrap.dedent(program), tmp_path)
        with trio.fail_after(20):
            await house.supervisor.wait_watched("d")
            process.send_signal(signal.SIGINT)
            assert await words(process) == ["mine True"]
            await house.supervisor.wait_until(lambda: house.supervisor.cancelled == ["d"])


async def test_stop_over_the_client_is_answered_when_all_is_stopped(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, connected(house) as client:
        await in_thread(lambda: client.call(SESSION_SPAWN, SpawnParams(options("a"), "hi")))
        await in_thread(lambda: client.call(DAEMON_STOP, DaemonStopParams()))
        assert house.supervisor.stopped == ["a"]
        with trio.fail_after(10):
            await house.served.wait()


def test_hello_reply_of_an_older_daemon_is_understood() -> None:
    assert not HelloResult("1", 1, 1, "/").stopping
