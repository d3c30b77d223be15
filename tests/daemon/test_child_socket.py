"""A child socket: who comes through it is its session, and sees what is below it."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from cms.config import Settings
from cms.daemon import connection
from cms.daemon.connection import MAX_GREETING
from cms.daemon.server import MAX_CHILD_CLIENTS, child_sockets
from cms.errors import CmsError, DaemonUnavailable, SessionNotFound, UsageError
from cms.fleet.supervisor import Supervisor
from cms.rpc.client import connect
from cms.rpc.daemon import DAEMON_STOP, HELLO, DaemonStopParams, Hello
from cms.rpc.endpoint import reachable
from cms.rpc.money import BUDGET_GET, BUDGET_SET, SetBudgetParams
from cms.rpc.sessions import (
    SESSION_CONTINUE,
    SESSION_DELEGATE,
    SESSION_GET,
    SESSION_KILL,
    SESSION_LIST,
    SESSION_SEND,
    SESSION_SPAWN,
    SESSION_STOP,
    AcceptedResult,
    ContinueParams,
    DelegateParams,
    ListParams,
    NameParams,
    SendParams,
    SessionResult,
    SessionsResult,
    SpawnParams,
    StopParams,
)
from cms.rpc.verbs import Nothing, P, R, Verb, all_verbs
from cms.rpc.wire import PROTOCOL
from cms.session.callers import ChildLimits
from cms.session.hooks import Hooks
from cms.session.lineage import scope
from cms.session.model import DelegateResult, Limits, Outcome, Record, SessionOptions
from cms.session.terms import Terms
from cms.testing.script import call, prompt, say
from fleet.kit import make_options, make_settings, supervising

LONG = call("Bash", command="sleep 600")


@asynccontextmanager
async def house(tmp_path: Path, *, children: int = 8, **environ: str) -> AsyncIterator[Supervisor]:
    limits = ChildLimits(max_children=children)
    settings = msgspec.structs.replace(make_settings(tmp_path, environ=environ), child_limits=limits)

    async with supervising(settings, within=40, child_sockets=child_sockets(settings)) as supervisor:
        yield supervisor


async def spawn(supervisor: Supervisor, name: str, text: str = "hello", **changes: object) -> str:
    """A live session of a person's; its id."""
    record = await supervisor.create(make_options(supervisor.settings, name, **changes))
    await supervisor.wait(await supervisor.submit(name, text, type="spawn"))
    return record.id


def child_socket_of(settings: Settings, session_id: str) -> Settings:
    """The settings of a cms that runs inside of that session."""
    (path,) = (settings.child_sockets / session_id).iterdir()
    return msgspec.structs.replace(settings, child_socket=path, inside=session_id)


class Inside:
    """What a session says at its socket, one request at a time."""

    def __init__(self, supervisor: Supervisor, session_id: str) -> None:
        self.settings = child_socket_of(supervisor.settings, session_id)
        self.work_dir = make_options(supervisor.settings).work_dir

    async def ask(self, verb: Verb[P, R], params: P) -> R:
        def talk() -> R:
            with connect(self.settings) as client:
                return client.call(verb, params)

        return await trio.to_thread.run_sync(talk)

    async def spawn(self, name: str, text: str = "hello", **changes: object) -> Record:
        options = msgspec.structs.replace(SessionOptions(name, self.work_dir), **changes)
        return await self.ask(SESSION_SPAWN, SpawnParams(options, text))


async def test_what_a_session_starts_is_its_child_whatever_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And has the environment of its parent, not the one that it names."""
    async with house(tmp_path) as supervisor:
        parent = await spawn(supervisor, "parent", allow_cms=True, limits=Limits(max_cost=1.0))
        inside = Inside(supervisor, parent)
        monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))  # a client sends its environment along
        monkeypatch.setenv("PLANTED", "x")

        def lie() -> None:
            with connect(inside.settings, depth=0) as client:
                client.call(HELLO, Hello("x", PROTOCOL, depth=-5))
                options = SessionOptions("child", inside.work_dir)
                client.call(SESSION_SPAWN, SpawnParams(options, "hello"))

        await trio.to_thread.run_sync(lie)
        child = await supervisor.get("child")
        assert (child.depth, child.started_by) == (1, parent)
        assert child.options.limits.max_cost is not None
        assert child.options.limits.max_cost <= 1.0
        (standing,) = (await supervisor.budget()).scopes
        assert (standing.scope, standing.cap) == (scope(parent), 1.0)
        runner = supervisor.runner("child")
        assert runner is not None
        environ = (Path("/proc") / str(runner.record.pid) / "environ").read_bytes().split(b"\0")
        assert f"HOME={supervisor.settings.environ['HOME']}".encode() in environ
        assert b"PLANTED=x" not in environ


async def test_a_follow_up_gives_a_child_no_more_than_its_parent_has(tmp_path: Path) -> None:
    async with house(tmp_path) as supervisor:
        limits = Limits(max_cost=1.0, max_memory=2**30, max_procs=200)
        inside = Inside(
            supervisor, await spawn(supervisor, "parent", allow_cms=True, preset="edit", limits=limits)
        )
        await inside.ask(SESSION_DELEGATE, DelegateParams(SessionOptions("child", inside.work_dir), "x"))
        more = Limits(max_cost=50.0, max_memory=2**36, max_procs=9999, max_turns=7)
        await inside.ask(SESSION_CONTINUE, ContinueParams(name="child", message="x", limits=more))
        have = (await supervisor.get("child")).options.limits
        assert have.max_cost is not None
        assert have.max_cost <= 1.0
        assert (have.max_memory, have.max_procs, have.max_turns) == (2**30, 200, 7)
        for params in (
            ContinueParams(name="child", message="x", preset="full"),
            ContinueParams(name="child", message="x", allowed_tools=("Bash",)),
            ContinueParams(name="child", message="x", verify=("touch /x",)),
        ):
            with pytest.raises(UsageError, match="a session may not start one with"):
                await inside.ask(SESSION_CONTINUE, params)
        # A person may, as with any session.
        await supervisor.continue_("child", "x", terms=Terms(limits=Limits(max_procs=300)))
        assert (await supervisor.get("child")).options.limits.max_procs == 300


async def test_no_session_works_in_our_own_folder(tmp_path: Path) -> None:
    async with house(tmp_path) as supervisor:
        home, settings = supervisor.settings.home, supervisor.settings
        (tmp_path / "link").symlink_to(home / "raw")
        (home / "raw").mkdir(exist_ok=True)
        for changes in (
            {"work_dir": str(home)},
            {"work_dir": str(tmp_path / "link")},
            {"add_dirs": (str(home),)},
            {"allow_write": (f"{home}/**",)},
            {"allow_write": ("~/../cms/config.toml",)},
        ):
            with pytest.raises(UsageError, match="cms's own folder"):
                await supervisor.create(make_options(settings, "one", **changes))
        above = make_options(settings, "parent", work_dir=str(tmp_path), allow_cms=True)
        await supervisor.create(above)
        await supervisor.wait(await supervisor.submit("parent", "hello", type="spawn"))
        inside = Inside(supervisor, (await supervisor.get("parent")).id)
        with pytest.raises(UsageError, match="holds cms's own folder"):
            await inside.spawn("child", work_dir=str(tmp_path))
        await inside.spawn("child")


async def test_a_child_works_in_no_place_that_is_protected(tmp_path: Path) -> None:
    """Nor where its parent has put a link to one before the child is started again."""
    async with house(tmp_path) as supervisor:
        home = Path(supervisor.settings.environ["HOME"])
        project = home / "project"
        work, more = project / "work", project / "more"
        for folder in (home / ".ssh", project / ".git" / "hooks", work, more):
            folder.mkdir(parents=True)
        (project / "link").symlink_to(project / ".git" / "hooks")
        inside = Inside(supervisor, await spawn(supervisor, "parent", allow_cms=True, work_dir=str(home)))
        for folder in (home / ".ssh", project / ".git" / "hooks", project / "link"):
            with pytest.raises(UsageError, match="is protected"):
                await inside.spawn("child", work_dir=str(folder))
            with pytest.raises(UsageError, match="is protected"):
                await inside.spawn("child", work_dir=str(project), add_dirs=(str(folder),))
        await inside.spawn("child", work_dir=str(work), add_dirs=(str(more),))
        await inside.ask(SESSION_STOP, StopParams("child"))
        for folder in (work, more):
            was = folder.rename(f"{folder}-was")
            folder.symlink_to(home / ".ssh")
            with pytest.raises(UsageError, match=f"{folder} now leads to"):
                await inside.ask(SESSION_SEND, SendParams("child", "go on"))
            folder.unlink()
            was.rename(folder)
        await inside.ask(SESSION_SEND, SendParams("child", "go on"))


async def test_what_the_environment_moves_is_closed_to_a_child_as_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its own gate knows it, whatever the child's starter says of the environment."""
    keys = tmp_path / "work" / "keys"
    async with house(tmp_path, GNUPGHOME=str(keys)) as supervisor:
        keys.mkdir()
        inside = Inside(supervisor, await spawn(supervisor, "parent", allow_cms=True))
        monkeypatch.setenv("GNUPGHOME", str(tmp_path / "elsewhere"))
        with pytest.raises(UsageError, match="is protected"):
            await inside.spawn("child", work_dir=str(keys))
        write = call("Write", file_path=str(keys / "trusted"), content="x")
        await inside.spawn("child", prompt("go", write, say("done")))
        await supervisor.wait(next(iter(await supervisor.interactions("child"))))
        assert not (keys / "trusted").exists()
        (done,) = await supervisor.interactions("child")
        assert done.outcome is Outcome.PROTECTED_PATH


async def test_it_sees_and_reaches_what_is_below_it_and_nothing_else(tmp_path: Path) -> None:
    async with house(tmp_path) as supervisor:
        await spawn(supervisor, "stranger")
        parent = await spawn(supervisor, "parent", allow_cms=True)
        inside = Inside(supervisor, parent)
        await inside.spawn("child", allow_cms=True)
        child = Inside(supervisor, (await supervisor.get("child")).id)
        await child.spawn("grandchild")

        async def names(who: Inside) -> set[str]:
            reply = await who.ask(SESSION_LIST, ListParams())
            assert isinstance(reply, SessionsResult)
            return {record.name for record in reply.sessions}

        assert await names(inside) == {"child", "grandchild"}
        assert await names(child) == {"grandchild"}
        reply = await inside.ask(SESSION_GET, NameParams("grandchild"))
        assert isinstance(reply, SessionResult)
        assert reply.session.depth == 2
        for who, name in ((inside, "stranger"), (inside, "parent"), (child, "child"), (child, "parent")):
            for ask in (
                partial(who.ask, SESSION_GET, NameParams(name)),
                partial(who.ask, SESSION_KILL, NameParams(name)),
                partial(who.ask, SESSION_SEND, SendParams(name, "x")),
                partial(who.ask, SESSION_CONTINUE, ContinueParams(name, "x")),
            ):
                with pytest.raises(SessionNotFound) as caught:
                    await ask()
                assert not caught.value.nearest  # not even that it exists
            with pytest.raises(SessionNotFound) as caught:
                await who.ask(SESSION_LIST, ListParams(after=name))
            assert not caught.value.nearest
        with pytest.raises(SessionNotFound) as caught:
            await inside.ask(SESSION_GET, NameParams("strangr"))
        assert not caught.value.nearest
        listed = await inside.ask(SESSION_LIST, ListParams(after="grandchild"))
        assert [one.name for one in listed.sessions] == ["child"]
        assert (await supervisor.get("stranger")).status == "ready"


async def test_what_no_session_may_ask_for(tmp_path: Path) -> None:
    """The daemon's end, budgets, an odd name, a command that is run or something that is sent for it."""
    mark = tmp_path / "mark"
    async with house(tmp_path) as supervisor:
        inside = Inside(supervisor, await spawn(supervisor, "parent", allow_cms=True))
        for asking in (
            inside.ask(DAEMON_STOP, DaemonStopParams()),
            inside.ask(BUDGET_SET, SetBudgetParams({"day": 1000.0})),
            inside.ask(BUDGET_GET, Nothing()),
        ):
            with pytest.raises(UsageError, match="may not call"):
                await asking
        for name in ("../../escaped", "\x1b]0;x\x07", "a/b", "", "x" * 65, "a\n", "-rf"):
            with pytest.raises(UsageError, match="name"):
                await inside.spawn(name)
            for new in (name, f"{name}~1"):  # nor may a person
                with pytest.raises(UsageError, match="name"):
                    await supervisor.rename("parent", new)
            with pytest.raises(UsageError, match="name"):
                await supervisor.fork("parent", name)
        options = SessionOptions("child", inside.work_dir)
        for hooks in (
            Hooks(on_done=f"touch {mark}"),
            Hooks(webhook="http://127.0.0.1:1/"),
            Hooks(notify=("x",)),
        ):
            with pytest.raises(UsageError, match="may not have commands run"):
                await inside.ask(SESSION_SPAWN, SpawnParams(options, "hello", hooks=hooks))
            with pytest.raises(UsageError, match="may not have commands run"):
                await inside.ask(SESSION_DELEGATE, DelegateParams(options, "hello", hooks=hooks))
        assert [record.name for record in await supervisor.sessions()] == ["parent"]
        await inside.spawn("child")
        with pytest.raises(UsageError, match="may not have commands run"):
            await inside.ask(SESSION_SEND, SendParams("child", "hello", hooks=Hooks(on_fail="true")))
        traced = msgspec.structs.replace(options, name="traced", otel=True)
        with pytest.raises(UsageError, match="its trace exported"):
            await inside.ask(SESSION_SPAWN, SpawnParams(traced, "hello"))
    assert not mark.exists()


def test_every_way_to_name_a_session_is_looked_at() -> None:
    """A text in the params of a verb that a session may ask for: it names one, or nothing of anybody's."""
    texts = {
        field.name
        for verb in all_verbs().values()
        if verb.inside
        for field in msgspec.structs.fields(verb.params)
        if field.type in (str, str | None, tuple[str, ...])
    }
    plain = {"version", "prompt", "message", "task", "context", "json_schema", "status", "order"}
    plain |= {"tags", "label"}
    assert texts - plain <= {"name", "names", "after"}


async def test_depth_and_fan_out_end(tmp_path: Path) -> None:
    async with house(tmp_path, children=2) as supervisor:
        parent = Inside(supervisor, await spawn(supervisor, "parent", allow_cms=True))
        await parent.spawn("child", allow_cms=True)
        child = Inside(supervisor, (await supervisor.get("child")).id)
        await child.spawn("grandchild")
        with pytest.raises(UsageError, match="depth 2 may not start others"):
            await child.spawn("too-free", allow_cms=True)
        await parent.spawn("more")
        with pytest.raises(UsageError, match="2 sessions started from here are alive"):
            await parent.spawn("one-too-many")
        with pytest.raises(SessionNotFound):
            await supervisor.get("one-too-many")
        await parent.ask(SESSION_STOP, StopParams("more"))
        await parent.spawn("in-its-place")
        with pytest.raises(UsageError, match="2 sessions"):  # brought back by a message, it counts again
            await parent.ask(SESSION_SEND, SendParams("more", "x"))
        # A person is not held to it.
        await supervisor.wait(await supervisor.submit("more", "x", type="send"))


async def test_children_end_with_their_parent(tmp_path: Path) -> None:
    """However that ends; those of others live on."""
    async with house(tmp_path) as supervisor:
        families: dict[str, Inside] = {}
        for how in ("kill", "stop", "dies", "fails"):
            parent = families[how] = Inside(supervisor, await spawn(supervisor, how, allow_cms=True))
            await parent.spawn(f"{how}-idle", allow_cms=True, preset="full")
            idle = Inside(supervisor, (await supervisor.get(f"{how}-idle")).id)
            options = SessionOptions(f"{how}-working", parent.work_dir, preset="full")
            await idle.ask(SESSION_SPAWN, SpawnParams(options, prompt("go", LONG), wait=False))
        left = supervisor.live_count()
        for how, parent in families.items():
            if how == "kill":
                await supervisor.kill(how)
            elif how == "stop":
                await supervisor.stop(how)
            else:
                pid = (await supervisor.get(how)).pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL if how == "dies" else signal.SIGTERM)
            left -= 3
            while supervisor.live_count() > left:  # noqa: ASYNC110 - no event tells a test
                await trio.sleep(0.01)
            for name in (f"{how}-idle", f"{how}-working"):
                record = await supervisor.get(name)
                assert record.status == ("killed" if how == "kill" else "stopped")
                assert record.receipt is not None
                assert record.receipt.empty
            with pytest.raises(CmsError):
                await parent.ask(SESSION_LIST, ListParams())
            assert supervisor.live_count() == left
        assert left == 0
        assert not list(supervisor.settings.child_sockets.iterdir())


async def test_a_family_spends_no_more_than_its_head_may(tmp_path: Path) -> None:
    """Three children that may each spend what is left of $0.06: the sum is the parent's limit."""
    async with house(tmp_path) as supervisor:
        parent = Inside(
            supervisor,
            await spawn(
                supervisor, "parent", prompt("hi", say("x", cost_usd=0.02, model="sonnet")),
                allow_cms=True, limits=Limits(max_cost=0.06),
            ),
        )  # fmt: skip
        costly = [call("Bash", command="true").costing(0.01, "sonnet") for _ in range(30)]
        results: list[DelegateResult | AcceptedResult] = []
        refused: list[str] = []

        async def delegate(name: str) -> None:
            options = SessionOptions(name, parent.work_dir, preset="full")
            try:
                params = DelegateParams(options, prompt("work", *costly))
                results.append(await parent.ask(SESSION_DELEGATE, params))
            except UsageError as error:
                refused.append(error.message)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(delegate, f"child-{number}")
        outcomes = {str(one.status) for one in results if isinstance(one, DelegateResult)}
        assert outcomes == {"cost_exceeded"}
        assert all("nothing left to spend" in message for message in refused)
        spent = sum(record.total_cost_usd for record in await supervisor.sessions())
        assert spent <= 0.06 + 3 * 0.01 + 1e-9
        assert spent >= 0.06 - 0.01


async def test_a_session_without_leave_has_no_child_socket(tmp_path: Path) -> None:
    async with house(tmp_path) as supervisor:
        plain = await spawn(supervisor, "plain")
        assert not supervisor.settings.child_sockets.exists()
        inside = msgspec.structs.replace(supervisor.settings, inside=plain)
        with pytest.raises(DaemonUnavailable, match="may not use cms"):
            connect(inside)
        # Nor has one whose socket cannot be opened, and lives all the same.
        supervisor.settings.child_sockets.parent.mkdir(exist_ok=True)
        supervisor.settings.child_sockets.write_text("in the way")
        await spawn(supervisor, "parent", allow_cms=True)
        assert (await supervisor.get("parent")).status == "ready"


async def test_a_child_socket_bears_only_so_much(tmp_path: Path) -> None:
    async with house(tmp_path) as supervisor:
        path = Inside(supervisor, await spawn(supervisor, "parent", allow_cms=True)).settings.socket
        with reachable(path) as address:
            streams = [await trio.open_unix_socket(address) for _ in range(MAX_CHILD_CLIENTS + 1)]
            assert await streams[-1].receive_some(1) == b""  # hung up
            await streams[0].aclose()
            while True:  # its place is free once the daemon has seen that
                one = await trio.open_unix_socket(address)
                with trio.move_on_after(0.2):
                    if await one.receive_some(1) == b"":
                        await one.aclose()
                        continue
                break
            with suppress(trio.BrokenResourceError):
                for _ in range(MAX_GREETING // 65536 + 2):
                    await one.send_all(b" " * 65536)
            assert b"without `hello`" in await one.receive_some(65536)
        for stream in (one, *streams):
            await stream.aclose()


async def test_what_is_sent_at_a_child_socket_takes_only_so_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over all its connections, for what is not a whole request yet and for those under way."""
    monkeypatch.setattr(connection, "MAX_CHILD_BYTES", 300_000)
    async with house(tmp_path) as supervisor:
        inside = Inside(supervisor, await spawn(supervisor, "parent", allow_cms=True))
        busy = prompt("go", say("x").stalling("middle", 600))
        options = SessionOptions("child", inside.work_dir)
        await inside.ask(SESSION_SPAWN, SpawnParams(options, busy, wait=False))
        with reachable(inside.settings.socket) as address:
            streams = [await trio.open_unix_socket(address) for _ in range(4)]
            hello = msgspec.json.encode({"id": 1, "method": "hello", "params": Hello("x", PROTOCOL)})
            ask = {"id": 2, "method": "sessions.wait", "params": {"names": ["child"], "pad": "x" * 90_000}}
            told = []
            for number, stream in enumerate(streams):
                await stream.send_all(hello + b"\n")
                assert b"result" in await stream.receive_some(65536)
                whole = msgspec.json.encode(ask) + b"\n"
                await stream.send_all(whole if number % 2 else whole[:-2])
                # The last one is told, however late that is.
                with trio.move_on_after(math.inf if number == 3 else 0.2):
                    told.append(await stream.receive_some(65536))
            assert [b"bytes of requests at once" in one for one in told] == [True]
            for stream in streams:
                await stream.aclose()
        await inside.spawn("after")
