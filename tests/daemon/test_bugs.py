"""A bug in one batch, session, connection or look-out of the daemon ends that one, and nothing else.

Each case puts an exception into one kind of task, once, and sees that a session beside it never noticed.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from cms.batch.model import BatchOptions, TaskSpec
from cms.config import Settings
from cms.containment import Container
from cms.daemon import connection, main, server
from cms.daemon.handlers.sessions import SessionHandlers
from cms.daemon.main import HomeLock, _Announcement, _Daemon, _open_fleet
from cms.daemon.service_unit import Service
from cms.errors import CmsError
from cms.fleet import batch_engine, delegation, machine, supervisor
from cms.fleet.batch_sessions import SupervisorSessions
from cms.fleet.children import Children
from cms.fleet.crew import LocalCrew
from cms.fleet.notify import Notifier
from cms.fleet.results_file import Results
from cms.home import prepare_home
from cms.live import driver, final_record, launch, path_lookup, reader, runner, sender, watchers, write_queue
from cms.rpc.batches import (
    BATCH_ADD,
    BATCH_CREATE,
    BATCH_RUN,
    BatchAddParams,
    BatchCreateParams,
    BatchRunParams,
    LineOf,
)
from cms.rpc.client import connect
from cms.rpc.daemon import DAEMON_STOP, DaemonStopParams
from cms.rpc.sessions import (
    SESSION_DELEGATE,
    SESSION_LIST,
    SESSION_SEND,
    SESSION_SPAWN,
    DelegateParams,
    ListParams,
    SendParams,
    SpawnParams,
)
from cms.rpc.verbs import P, R, Verb
from cms.session.model import Reply
from fleet.kit import assert_nothing_left, make_options, make_settings


class Bug(Exception):
    """What nobody expected."""


class Fault:
    """An exception in the next call of one function; the calls after that are as they were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        self.struck = trio.Event()
        whole = inspect.getattr_static(owner, name)
        real = getattr(owner, name)
        is_async = inspect.iscoroutinefunction(real)

        def strike() -> None:
            if not self.struck.is_set():
                self.struck.set()
                raise Bug(name)

        if is_async:

            async def broken(*args: object, **kwargs: object) -> object:
                strike()
                return await real(*args, **kwargs)

            monkeypatch.setattr(owner, name, broken)
        else:

            def broken_sync(*args: object, **kwargs: object) -> object:
                strike()
                return real(*args, **kwargs)

            monkeypatch.setattr(
                owner, name, staticmethod(broken_sync) if isinstance(whole, staticmethod) else broken_sync
            )


@asynccontextmanager
async def daemon(settings: Settings, *, within: float) -> AsyncIterator[None]:
    """The real one, in this process; it ends by being told, and leaves nothing."""
    prepare_home(settings.home)
    lock = HomeLock(settings)
    try:
        with trio.fail_after(within):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_Daemon(settings, lock, _Announcement(None), _open_fleet).run)
                while not settings.socket.is_socket():  # noqa: ASYNC110 - there is no event for it
                    await trio.sleep(0.01)
                yield
                await ask(settings, DAEMON_STOP, DaemonStopParams(grace=5.0))
        assert_nothing_left(settings)
    finally:
        lock.close()


async def ask(settings: Settings, verb: Verb[P, R], params: P) -> R:
    def talk() -> R:
        with connect(settings, start=False) as client:
            return client.call(verb, params)

    with trio.fail_after(30):
        return await trio.to_thread.run_sync(talk, abandon_on_cancel=True)


async def delegate(settings: Settings, name: str) -> None:
    await ask(settings, SESSION_DELEGATE, DelegateParams(make_options(settings, name), "hello"))


async def delegate_with_cms(settings: Settings, name: str) -> None:
    options = make_options(settings, name, allow_cms=True)
    await ask(settings, SESSION_DELEGATE, DelegateParams(options, "hello"))


async def spawn_once(settings: Settings, name: str) -> None:
    await ask(settings, SESSION_SPAWN, SpawnParams(make_options(settings, name), "hi", stop=True))


async def look(settings: Settings, _: str) -> None:
    await ask(settings, SESSION_LIST, ListParams())


async def run_batch(settings: Settings, name: str) -> None:
    options = BatchOptions(work_dir=str(settings.home.parent / "work"), on_done="true")
    made = await ask(settings, BATCH_CREATE, BatchCreateParams(options))
    task = LineOf(TaskSpec(name=name, prompt="hello"), 1)
    await ask(settings, BATCH_ADD, BatchAddParams(made.batch.id, 0, (task,)))
    await ask(settings, BATCH_RUN, BatchRunParams(made.batch.id))


async def nothing(_: Settings, _name: str) -> None:
    """It comes by itself."""


Provoke = Callable[[Settings, str], Awaitable[None]]

#: What goes wrong, and what makes it be called.
CASES: tuple[tuple[object, str, Provoke], ...] = (
    (batch_engine, "decide", run_batch),
    (LocalCrew, "do", run_batch),
    (batch_engine.Engine, "_salvage", run_batch),
    (SupervisorSessions, "news", run_batch),
    (Notifier, "_tell", run_batch),
    (Results, "write", run_batch),
    (runner.Runner, "run", delegate),
    (runner.Runner, "_live", delegate),
    (launch.Launcher, "start", delegate),
    (runner.Runner, "_take", delegate),
    (runner.Runner, "_descend", delegate),
    (reader.Reader, "read", delegate),
    (driver.Driver, "clock", delegate),
    (driver.Driver, "apply", delegate),
    (path_lookup.PathLookup, "run", delegate),
    (write_queue.WriteQueue, "_carry_out", delegate),
    (sender.Sender, "run", delegate),
    (watchers.Watchers, "notify", delegate),
    (final_record.FinalRecord, "finish", delegate),
    (final_record.FinalRecord, "write", delegate),
    (Container, "kill", delegate),
    (Children, "end_with", delegate),
    (delegation.Delegations, "_judge", delegate),
    (server.Server, "serve", delegate_with_cms),
    (server, "open_listener", delegate_with_cms),
    (supervisor.Supervisor, "stop", spawn_once),
    (connection.Connection, "_write", look),
    (connection.Connection, "_read", look),
    (connection.Connection, "_take", look),
    (connection._Call, "_tell", delegate),
    (server, "peer_uid", look),
    (SessionHandlers, "list_", look),
    (main.HomeLock, "holds", nothing),
    (machine, "trim_heap", nothing),
    (main, "wait_idle", nothing),
    (Service, "keep_alive", nothing),
)
AT_ONCE = ("wait_idle", "keep_alive", "holds", "list_")  # called, or bound, as soon as it serves


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(main, "_TRIM", 0.05)
    monkeypatch.setattr(main, "_LOOK", 0.05)
    return msgspec.structs.replace(make_settings(tmp_path), idle_exit=600.0)


async def begin_beside(settings: Settings) -> Reply:
    """The session that is to notice nothing; its first answer."""
    params = SpawnParams(make_options(settings, "beside"), "hello")
    reply = await ask(settings, SESSION_SPAWN, params)
    assert isinstance(reply, Reply)
    return reply


async def check(settings: Settings, fault: Fault, provoke: Provoke, name: str, reply: Reply) -> None:
    """See the bug strike, and nothing come of it."""
    try:
        await provoke(settings, name)
    except CmsError:
        pass  # whoever asked is told
    with trio.fail_after(20):
        await fault.struck.wait()
    again = await ask(settings, SESSION_SEND, SendParams("beside", "are you there?"))
    assert isinstance(again, Reply)
    assert (again.is_error, again.pid) == (False, reply.pid)
    # Nobody waits for ever: what had the bug has come to an end.
    sessions = (await ask(settings, SESSION_LIST, ListParams())).sessions
    assert {one.name for one in sessions if one.status in ("starting", "busy")} == set()


@pytest.mark.parametrize("provoke", {provoke: None for _, _, provoke in CASES}, ids=lambda one: one.__name__)
async def test_a_bug_ends_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, provoke: Provoke
) -> None:
    """One after the other in one daemon, which has to bear them all."""
    cases = [(owner, name) for owner, name, one in CASES if one is provoke and name not in AT_ONCE]
    async with daemon(settings, within=25 + 5 * len(cases)):
        reply = await begin_beside(settings)
        for number, (owner, name) in enumerate(cases):
            with monkeypatch.context() as patch:
                await check(settings, Fault(patch, owner, name), provoke, f"odd-{number}", reply)


@pytest.mark.parametrize("name", AT_ONCE)
async def test_a_bug_that_strikes_at_once_ends_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ((owner, provoke),) = [(owner, provoke) for owner, one, provoke in CASES if one == name]
    fault = Fault(monkeypatch, owner, name)
    async with daemon(settings, within=25):
        reply = await begin_beside(settings)
        await check(settings, fault, provoke, "odd", reply)
