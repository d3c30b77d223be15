"""A supervisor on a folder of its own, agents that behave or do not, and proof that nothing is left.

Children are real and so is time: each test waits for conditions, inside of `supervising`, which bounds it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from cms.config import Settings
from cms.errors import StoreError
from cms.fleet.supervisor import MakeChildSockets, Supervisor, open_supervisor
from cms.session.model import (
    ENDED,
    LIVE,
    DelegateResult,
    Interaction,
    Limits,
    Receipt,
    SessionOptions,
    SessionRecord,
)
from cms.session.model import Reply as Answer
from cms.store import sessions
from cms.store.database import Database
from cms.store.rawlog import raw_log_path
from cms.store.store import Store
from cms.testing import agent
from cms.testing.script import Quirk, ScriptedReply, call, say

T = TypeVar("T")

AGENT = agent.command()
#: Seconds that any test may take.
WITHIN = 20.0
#: In the environment of every process that a test starts, so that each can be found again.
_MARK = "REHEARSAL_MARK"


def awkward(stage: str) -> tuple[str, ...]:
    """A `claude` that goes wrong at `stage` (see awkward_child.py)."""
    return (sys.executable, str(Path(__file__).with_name("awkward_child.py")), stage)


def make_settings(
    place: Path,
    *,
    claude: tuple[str, ...] = AGENT,
    grace: float = 2.0,
    start_timeout: float = 10.0,
    environ: Mapping[str, str] = {},
) -> Settings:
    """Settings whose home, HOME and marked environment are below `place`."""
    for name in ("home", "work"):
        (place / name).mkdir(exist_ok=True)
    return Settings(
        home=place / "cms",
        claude=claude,
        environ={
            "PATH": "/usr/bin:/bin",
            "HOME": str(place / "home"),
            "CMS_REHEARSAL_RETRY_MS": "10",
            _MARK: str(place),
            **environ,
        },
        grace=grace,
        start_timeout=start_timeout,
    )


def make_options(settings: Settings, name: str = "one", /, **changes: object) -> SessionOptions:
    """A session in the test's work dir."""
    work_dir = str(settings.home.parent / "work")
    # The tests watch what it does by files beside its work dir.
    options = SessionOptions(name=name, work_dir=work_dir, preset="full", writes="anywhere")
    return msgspec.structs.replace(options, **changes)


@asynccontextmanager
async def supervising(
    settings: Settings, *, within: float = WITHIN, child_sockets: MakeChildSockets | None = None
) -> AsyncIterator[Supervisor]:
    """A supervisor for the length of the block; afterwards nothing that it started may live, nor be open."""
    with trio.fail_after(within):
        async with open_supervisor(settings, child_sockets=child_sockets) as supervisor:
            yield supervisor
    assert_nothing_left(settings)


def marked(settings: Settings) -> dict[int, bytes]:
    """The processes that a test with these settings has started, with their command lines."""
    mark = f"{_MARK}={settings.environ[_MARK]}".encode()
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found[int(folder.name)] = (folder / "cmdline").read_bytes()
            except OSError:
                continue
    return found


def assert_nothing_left(settings: Settings) -> None:
    """No process that carries the test's mark, and no child of ours."""
    left = marked(settings)
    assert not left, f"processes left: {left}"
    children = None
    while children is None:
        with contextlib.suppress(
            FileNotFoundError
        ):  # an idle thread has just ended: its children are another's
            children = [
                word
                for thread in Path(f"/proc/{os.getpid()}/task").iterdir()
                for word in (thread / "children").read_text().split()
            ]
    assert not children, f"children left: {children}"


async def consistent(settings: Settings) -> list[SessionRecord]:
    """What the store says once the supervisor is gone: nothing is alive, and nothing is open."""
    from cms.store.store import open_store

    async with open_store(settings) as store:
        records = await store.read(sessions.page)
        for record in records:
            assert record.status not in LIVE, record
            assert record.pid is None, record
            for one in await store.read(sessions.interactions, record.id):
                assert one.state in ENDED, one
                assert one.outcome is not None, one
    return records


async def ask(supervisor: Supervisor, name: str, message: str) -> Answer:
    """Send a message and wait for the reply."""
    return await supervisor.wait(await supervisor.submit(name, message, type="send"))


async def start(supervisor: Supervisor, name: str = "one", **changes: object) -> SessionRecord:
    """A new session in the store."""
    return await supervisor.create(make_options(supervisor.settings, name, **changes))


async def delegate(
    supervisor: Supervisor, task: str, *, name: str = "one", limits: Limits | None = None, **changes: object
) -> DelegateResult:
    """A delegation; its container is proved empty whatever came of it."""
    options = make_options(supervisor.settings, name, limits=limits or Limits(), **changes)
    result = await supervisor.delegate(options, task)
    assert result.receipt is not None
    assert result.receipt.empty
    return result


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces. The bound is the test's own."""
    while not condition():  # noqa: ASYNC110 - there is no event: the condition is in files and in others
        await trio.sleep(0.005)


def toil(name: str = "one") -> ScriptedReply:
    """A tool call that never ends by itself, and tells `at_work` that it has begun."""
    return call("Bash", command=f"touch at-work-{name}; sleep 600")


#: Hears nothing, neither on its stdin nor a SIGTERM; `is_deaf` waits until it does so.
DEAF = say("x").quirky(Quirk("ignore_sigterm"), Quirk("unknown"), Quirk("hang"))


async def is_deaf(settings: Settings, supervisor: Supervisor, name: str = "one") -> None:
    """Until the session has come to `DEAF`."""
    await until(lambda: supervisor.live_count() > 0)
    log = raw_log_path(settings.raw, (await supervisor.get(name)).id)
    await until(lambda: log.exists() and b"unheard_of" in log.read_bytes())


async def at_work(supervisor: Supervisor, name: str = "one") -> None:
    """Until a `toil` runs."""
    sign = supervisor.settings.home.parent / "work" / f"at-work-{name}"
    await until(sign.exists)
    sign.unlink()


async def talking(supervisor: Supervisor, name: str = "one") -> None:
    """Until the model's text comes in."""
    with supervisor.watch(name) as notes:
        async for note in notes:
            if note.kind == "text":
                return


def proved(ended: tuple[SessionRecord, Receipt | None]) -> Receipt:
    """The receipt of an end, which must be one that proves it."""
    receipt = ended[1]
    assert receipt is not None
    assert receipt.empty, receipt
    assert not receipt.left
    return receipt


async def last(supervisor: Supervisor, name: str = "one") -> Interaction:
    """The newest interaction as the store has it."""
    (one,) = await supervisor.interactions(name, 1)
    return one


class StoreOver(Store):
    """The same store once more, for tests that hold back or refuse what is written."""

    def __init__(self, real: Store) -> None:
        # Not made anew: who still uses the real one must not meet this one on a connection.
        self.__dict__.update(real.__dict__)


class FullDisk(StoreOver):
    """The real store for `writes` more writes; then there is no space left."""

    def __init__(self, real: Store, writes: int) -> None:
        super().__init__(real)
        self.writes = writes

    async def _write_in_turn(self, work: Callable[[Database], T]) -> T:
        if self.writes <= 0:
            await trio.lowlevel.checkpoint()
            raise StoreError("no space left to write the store", hint="free some disk space")
        self.writes -= 1
        return await super()._write_in_turn(work)
