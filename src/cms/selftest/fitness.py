"""Whether this machine's claude has what safety rests on, by what it does: its version alone says little.

It is started as for a session, in a container; shaken hands with; and given one message that asks no model
(`/cost`), for some of it shows only as a turn begins (`session.startup`). It has a home of its own for that:
nothing is spent, none of the user's hooks runs, nothing is left behind. That a refused call ends the turn
needs a model, and is seen in each session.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import msgspec
import trio

from cms.config import Settings
from cms.containment import Mechanism
from cms.disk import ask_disk
from cms.errors import AgentDied, ClaudeUnfit, ControlTimeout
from cms.groups import single_error
from cms.live.argv import build_command, build_environment
from cms.live.configuration import prepare_configuration
from cms.live.handshake import shake_hands
from cms.live.process import AgentProcess
from cms.protection.scratch import write_files
from cms.protocol.messages import Event
from cms.protocol.versions import MINIMUM
from cms.session.fold import fold
from cms.session.model import SessionOptions
from cms.session.state import Began, Opened, State, is_over

_PATIENCE = 30.0
_ASKS_NO_MODEL = "/cost"


class _NoLog:
    def extend(self, direction: Literal["in", "out", "err"], lines: Iterable[bytes], now: float) -> None:
        """Nobody reads it."""


async def try_claude(settings: Settings, claude: tuple[str, ...], mechanism: Mechanism) -> None:
    """Look whether it can be worked with.

    Raises:
        ClaudeUnfit: it lacks something.
        CmsError: it does not come up, or cannot be tried.
    """
    with tempfile.TemporaryDirectory(prefix="cms-doctor-", ignore_cleanup_errors=True) as place:
        folder, work_dir, home, tmp = (Path(place) / name for name in ("made", "work", "home", "tmp"))
        for each in (folder, work_dir, home, tmp):
            each.mkdir()
        own = {"HOME": home, "CLAUDE_CONFIG_DIR": home / ".claude", "TMPDIR": tmp, "CLAUDE_CODE_TMPDIR": tmp}
        own_environ = {key: str(path) for key, path in own.items()}
        quiet = {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        settings = msgspec.structs.replace(settings, environ={**quiet, **settings.environ, **own_environ})
        options = SessionOptions(name="doctor", work_dir=str(work_dir), preset="read-only")
        configuration = await ask_disk(
            lambda: prepare_configuration(options, settings, folder, now=time.time()), "the configuration"
        )
        command = build_command(
            claude,
            configuration.take_place(options),
            folder=folder,
            session_id=str(uuid.uuid4()),
            config_root=str(configuration.root),
        )
        write_files(command.files)
        process = await AgentProcess.start(
            mechanism,
            settings,
            argv=(*command.argv, "--no-session-persistence"),
            env=build_environment(settings.environ) | configuration.environ,
            work_dir=str(work_dir),
            configuration=folder,
            log=_NoLog(),
            label="doctor",
            now=time.time,
        )
        talk = _Talk(process)
        with single_error():
            async with process.container, trio.open_nursery() as nursery:
                for task in (process.write_out, process.read_errors, talk.read):
                    nursery.start_soon(task)
                with trio.move_on_after(_PATIENCE) as patience:
                    greeting = await shake_hands(process, configuration.expected)
                    await talk.see_a_turn(greeting.opened)
                if patience.cancelled_caught:
                    asked = process.connection.waits_for or "a message"
                    raise ControlTimeout(asked, _PATIENCE, process.last_words)
                nursery.cancel_scope.cancel(reason="it was seen")


class _Talk:
    """What it says, folded as in a session."""

    def __init__(self, process: AgentProcess) -> None:
        self._process = process
        self._state = State()
        self._news = trio.Event()
        self._closed = False

    def _apply(self, event: Event) -> None:
        self._state = fold(self._state, event, time.time())
        self._news.set()
        self._news = trio.Event()

    async def read(self) -> None:
        async with aclosing(self._process.events()) as events:
            async for event in events:
                self._apply(event)
        with trio.move_on_after(1):
            await self._process.container.wait()  # how it ended is told
        self._closed = True
        self._process.abandon()
        self._news.set()

    async def see_a_turn(self, opened: Opened) -> None:
        """Send the message, and wait for its end.

        Raises:
            ClaudeUnfit: it lacks something.
            AgentDied: it ended instead.
        """
        self._apply(opened)
        message = str(uuid.uuid4())
        self._apply(Began(message, command=True))
        self._process.send(self._process.connection.send_message(message, _ASKS_NO_MODEL))
        while not is_over(self._state):
            if self._state.lacks:
                raise ClaudeUnfit(self._state.version, self._state.lacks, MINIMUM)
            if self._closed:
                code = self._process.container.returncode
                raise AgentDied("in the middle of a turn", code, self._process.last_words)
            await self._news.wait()
