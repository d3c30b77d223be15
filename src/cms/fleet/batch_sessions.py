"""The few things that a local crew (`fleet.crew`) wants of sessions, on a supervisor.

A crew knows tasks; here are names, sessions and the traces that a try has left. Behind this interface a test
puts a fake that does ten thousand tasks in seconds.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import trio

from cms.batch.ends import Found, Report, Used
from cms.batch.forecast import View
from cms.batch.retry import Remains
from cms.config import find_claude
from cms.disk import ask_disk
from cms.errors import ClaudeUnfit, CmsError, SessionNotFound
from cms.fleet.delegation import Accepted
from cms.fleet.folder_state import Untold, folder_state
from cms.fleet.supervisor import Supervisor
from cms.live.argv import build_environment
from cms.live.handshake import ask_version
from cms.protocol.messages import (
    TaskNotification,
    TasksChanged,
    TaskStarted,
    TaskUpdated,
    ToolResultBlock,
    User,
    decode,
)
from cms.session.audit import let_through
from cms.session.background import TASK_ENDS
from cms.session.model import (
    Attachment,
    DelegateResult,
    InteractionState,
    Outcome,
    SessionOptions,
    SessionRecord,
)
from cms.store import audit, money, sessions
from cms.store.rawlog import raw_log_path, read_entries

News = Literal["answered", "retry"]
#: Seconds for a look at all of a folder.
_LOOK = 60.0


class BatchSessions(Protocol):
    """What the crew asks for."""

    async def begin(
        self,
        options: SessionOptions,
        prompt: str,
        context: str,
        accepted: Accepted,
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        """Do a task in a session of its own. Cancelling it stops the session first."""

    async def go_on(self, name: str, message: str, accepted: Accepted) -> DelegateResult:
        """Go on in the session of that name, under its limits."""

    async def around(self, work_dir: str) -> str:
        """claude's version and the state of the folder, in a word.

        Raises:
            CmsError: one of them cannot be told.
        """

    async def view(self, options: SessionOptions) -> View | None:
        """What an isolated session takes of the disk before it writes anything; None: it is not isolated."""

    async def used(self, name: str) -> Used:
        """What the session of that name has taken so far; nothing if there is none."""

    async def make_room(self, name: str) -> None:
        """See that no session has that name: what an earlier try left is kept under another."""

    async def allowed_tools(self, name: str) -> tuple[str, ...]:
        """The tools that the gate let through in the session of that name, a name for each call."""

    async def traces(self, name: str, before: str, messages: int, *, check: bool) -> Found:
        """What became of the newest try.

        Args:
            before: the session of that name when the try began, "" if there was none.
            messages: how many messages that had.
            check: run the checks, which may take a while, if they were cut off.
        """

    def unfit(self, name: str) -> ClaudeUnfit | None:
        """Why the claude of the session's last process was none to work with, if that is how it ended."""

    def news(self, name: str) -> AsyncGenerator[News, None]:
        """What the API does for the session, until its process has ended."""

    async def keep(self, name: str) -> None:
        """Have a process alive for the session."""


class SupervisorSessions:
    """A batch's sessions, on a supervisor.

    Args:
        scope: the shared budget that all of it is charged to (`session.budget`).
    """

    def __init__(self, supervisor: Supervisor, scope: str) -> None:
        self._supervisor = supervisor
        self._scopes = (scope,)
        self._versions: dict[tuple[str, int, int], str] = {}  # of claude, by what is on disk

    async def begin(
        self,
        options: SessionOptions,
        prompt: str,
        context: str,
        accepted: Accepted,
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        return await self._supervisor.delegate(
            options,
            prompt,
            context=context,
            accepted=accepted,
            scopes=self._scopes,
            attachments=attachments,
        )

    async def go_on(self, name: str, message: str, accepted: Accepted) -> DelegateResult:
        return await self._supervisor.go_on(name, message, accepted=accepted, scopes=self._scopes)

    async def around(self, work_dir: str) -> str:
        claude = find_claude(self._supervisor.settings)
        facts = await ask_disk(lambda: _facts_of(claude[0]), claude[0])
        if facts not in self._versions:
            # It may be replaced while a batch works.
            environ = build_environment(self._supervisor.settings.environ)
            self._versions[facts] = await ask_version(claude, environ)
        if not (version := self._versions[facts]):
            raise Untold("claude does not tell its version")
        state = await ask_disk(partial(folder_state, Path(work_dir)), work_dir, seconds=_LOOK)
        return f"{version} {state}"

    async def view(self, options: SessionOptions) -> View | None:
        return await self._supervisor.changes.view(options)

    async def used(self, name: str) -> Used:
        session = await self._find(name)
        if session is None:
            return Used()
        judges = await self._supervisor.judges(session)
        cost = session.total_cost_usd + sum(one.total_cost_usd for one in judges)
        taken = 0
        for one in (session, *judges):
            taken += await self._supervisor.store.read(money.tokens, one.name)
        return Used(cost, taken)

    async def make_room(self, name: str) -> None:
        session = await self._find(name)
        if session is None:
            return
        if not session.total_turns and not session.total_cost_usd and not session.tool_calls:
            await self._supervisor.delete(name)
            return
        # No name that a person can give holds a tilde.
        taken = frozenset(await self._supervisor.store.read(sessions.names, f"{name}~"))
        number = next(n for n in range(1, len(taken) + 2) if f"{name}~{n}" not in taken)
        await self._supervisor.rename(name, f"{name}~{number}", by_batch=True)

    async def allowed_tools(self, name: str) -> tuple[str, ...]:
        session = await self._find(name)
        return () if session is None else tuple((await self._let_through(session.id)).values())

    async def _let_through(self, session_id: str) -> dict[str, str]:
        return let_through(await self._supervisor.store.read(audit.entries, session_id))

    async def traces(self, name: str, before: str, messages: int, *, check: bool) -> Found:
        session = await self._find(name)
        if session is None or (session.id == before and session.interaction_count <= messages):
            return None
        last = next(iter(await self._supervisor.interactions(name, 1)), None)
        if last is None:
            return None
        there = await self._supervisor.can_continue(session)
        if last.state is InteractionState.UNCHECKED and not check:
            result = await self._supervisor.whole(last, session, session.receipt)
            return Report(result, checked=False)
        if last.outcome not in (None, Outcome.INTERRUPTED) or last.state is InteractionState.UNCHECKED:
            return Report(await self._supervisor.judge_again(name))
        path = raw_log_path(self._supervisor.settings.raw, session.id)
        allowed = await self._let_through(session.id)
        ended = await trio.to_thread.run_sync(ended_calls, path)
        return Remains(
            # Not so if the store never saw it leave the queue: claude has had nothing of it.
            sent=bool(session.claude_session_id),
            turns=session.total_turns,
            allowed=tuple(allowed.values()),
            at_work=tuple(tool for use, tool in allowed.items() if use not in ended),
            exact=last.cost_exact and session.cost_exact,
            can_continue=there,
        )

    def unfit(self, name: str) -> ClaudeUnfit | None:
        return self._supervisor.unfit(name)

    async def news(self, name: str) -> AsyncGenerator[News, None]:
        try:
            with self._supervisor.watch(name) as notes:
                async for note in notes:
                    if note.kind == "retry":
                        yield "retry"
                    elif note.kind in ("text", "tool", "turn"):
                        yield "answered"
        except CmsError:
            return  # it has ended already: there is no more news

    async def keep(self, name: str) -> None:
        await self._supervisor.resume(name)

    async def _find(self, name: str) -> SessionRecord | None:
        try:
            return await self._supervisor.get(name)
        except SessionNotFound:
            return None


def _facts_of(program: str) -> tuple[str, int, int]:
    """What is on disk of a program: it is another one when this changes."""
    path = Path(shutil.which(program) or program).resolve()
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


#: What a line must hold to tell of the end of a call, or of a process's beginning.
_TELLING = (b'"tool_result"', b'"task_', b'"background_tasks_changed"', b'"initialize"')


def ended_calls(log: Path) -> frozenset[str]:
    """The ids of the tool calls that have come to an end, by what claude reported.

    Not those that went on in the background when the newest process ended.

    Args:
        log: the raw line log of a session.

    Raises:
        StoreError: it cannot be read.
    """
    ended: set[str] = set()
    background: dict[str, str] = {}  # task -> call
    for _at, direction, line, _end in read_entries(log):
        if not any(word in line for word in _TELLING):
            continue
        if direction == "in":
            if b'"subtype":"initialize"' in line:
                background.clear()  # what an earlier process had there ended with it
            continue
        match decode(line):
            case User() as user:
                ended |= {block.tool_use_id for block in user.blocks if isinstance(block, ToolResultBlock)}
            case TaskStarted(task_id=task, tool_use_id=use) if use:
                background[task] = use
            case TaskUpdated(task_id=task, patch=patch) if patch.status in TASK_ENDS:
                background.pop(task, None)
            case TaskNotification(task_id=task, status=status) if status in TASK_ENDS:
                background.pop(task, None)
            case TasksChanged(tasks=alive):
                # (A task that is not in the background is not in this list.)
                ids = {task.task_id for task in alive}
                background = {t: use for t, use in background.items() if t in ids or use not in ended}
            case _:
                pass
    return frozenset(ended - set(background.values()))
