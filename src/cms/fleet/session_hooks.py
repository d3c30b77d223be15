"""Hooks of messages to sessions: followed beside the work, told when there is news. None of it holds it up.

Each message that has hooks is followed by a task of its own, from its acceptance to its end: what it ended as
is told, and each call that waits for a person meanwhile. What runs and where is bounded: `AT_ONCE` are told
side by side, a hook has a minute, and once the supervisor closes `LAST` seconds. A crash leaves them in the
store, for the next supervisor to tell.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from cms.config import caller
from cms.errors import CmsError, UsageError
from cms.fleet import notifications
from cms.fleet.notify import check_webhook, post, run_hook
from cms.groups import at_own_door
from cms.json_output import json_object
from cms.session.hooks import TOLD, Hooks, SessionNews, news_of_end, news_of_question, title_and_body
from cms.session.model import Interaction
from cms.store import hooks as stored
from cms.store import sessions

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

log = logging.getLogger(__name__)

AT_ONCE: Final = 8
LAST: Final = 5.0  # seconds that telling gets once the supervisor closes


class SessionHooks:
    """Those of one supervisor."""

    def __init__(self, supervisor: Supervisor, nursery: trio.Nursery) -> None:
        self._supervisor = supervisor
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._telling: set[trio.CancelScope] = set()
        self._following = 0
        self._idle = trio.Event()
        self._idle.set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<SessionHooks {self._following} followed>"

    async def check(self, hooks: Hooks) -> None:
        """Whether they can be told, by whoever asks.

        Raises:
            UsageError: an agent may have none; an address is none; the library for it is missing.
        """
        if not hooks:
            return
        if caller.get().depth:
            raise UsageError(
                "a session may not have commands run or anything sent for it",
                hint="--on-done and its like are for people",
            )
        check_webhook(hooks.webhook)
        if hooks.notify:
            await notifications.check(hooks.notify)

    def follow(self, interaction: Interaction, hooks: Hooks) -> None:
        """A message was accepted: tell of it from now on."""
        if hooks:
            self._start(interaction, hooks, new=True)

    async def recover(self) -> None:
        """Tell what a crash has kept from being told. What is at work elsewhere is told there."""
        store = self._supervisor.store
        for interaction_id, hooks in await store.write(stored.take_orphans):
            left = await store.read(sessions.interaction, interaction_id)
            if left is None or left.outcome is None:
                await store.write(stored.remove, interaction_id)
            else:
                self._start(left, hooks, new=False)

    def close(self) -> None:
        """Hurry: nothing is told for longer than `LAST` from now on."""
        self._closed = True
        for scope in self._telling:
            scope.deadline = min(scope.deadline, trio.current_time() + LAST)

    async def drained(self) -> None:
        """Until all that was followed has ended and been told."""
        await self._idle.wait()

    def _start(self, interaction: Interaction, hooks: Hooks, *, new: bool) -> None:
        if not self._following:
            self._idle = trio.Event()
        self._following += 1
        follow = partial(self._follow, interaction, hooks, new=new)
        self._nursery.start_soon(at_own_door, "the hooks of a message", follow)

    async def _follow(self, interaction: Interaction, hooks: Hooks, *, new: bool) -> None:
        store = self._supervisor.store
        try:
            # Shielded: the end of the supervisor ends every message, and that is news. What is waited for
            # comes, for each runner ends its messages whatever happens.
            with trio.CancelScope(shield=True):
                if new:
                    await store.write(stored.add, interaction.id, hooks)
                await self._tell_all(interaction, hooks)
                await store.write(stored.remove, interaction.id)
        except CmsError as error:
            log.warning("the hooks of message %s were not told: %s", interaction.id, error)
        finally:
            self._following -= 1
            if not self._following:
                self._idle.set()

    async def _tell_all(self, interaction: Interaction, hooks: Hooks) -> None:
        supervisor = self._supervisor
        async with trio.open_nursery() as nursery:
            if hooks.on_ask or hooks.webhook or hooks.notify:
                nursery.start_soon(self._watch, interaction, hooks)
            done = await supervisor.finished(interaction)
            nursery.cancel_scope.cancel()
        await self._tell(news_of_end(await supervisor.by_id(done.session_id), done), hooks)

    async def _watch(self, interaction: Interaction, hooks: Hooks) -> None:
        """Tell of each call of a session that waits for a person, once."""
        supervisor = self._supervisor
        told: set[str] = set()
        try:
            name = (await supervisor.by_id(interaction.session_id)).name
            with supervisor.watch(name) as notes:
                async for note in notes:
                    if note.kind != "note":
                        continue
                    session = await supervisor.by_id(interaction.session_id)
                    for asked in supervisor.questions(session.name):
                        if asked.id not in told:
                            told.add(asked.id)
                            await self._tell(news_of_question(session, interaction, asked), hooks)
        except CmsError:
            return  # it has ended, which is told by itself

    async def _tell(self, news: SessionNews, hooks: Hooks) -> None:
        data = msgspec.json.encode(json_object(news, TOLD))
        async with self._limiter:
            with trio.CancelScope() as scope:
                if self._closed:
                    scope.deadline = trio.current_time() + LAST
                self._telling.add(scope)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._run, news, hooks, data)
                        nursery.start_soon(self._post, news, hooks, data)
                        nursery.start_soon(self._notify, news, hooks)
                finally:
                    self._telling.discard(scope)
            if scope.cancelled_caught:
                log.warning("%s: not all was told of %r, for cms is leaving", news.name, news.event)

    async def _run(self, news: SessionNews, hooks: Hooks, data: bytes) -> None:
        if command := hooks.command(news.event):
            umask = self._supervisor.settings.umask
            trouble = await run_hook(command, data, cwd=news.work_dir, umask=umask)
            _warn(news, f"--on-{news.event}", trouble)

    async def _post(self, news: SessionNews, hooks: Hooks, data: bytes) -> None:
        if hooks.webhook:
            trouble = await trio.to_thread.run_sync(post, hooks.webhook, data, abandon_on_cancel=True)
            _warn(news, "--webhook", trouble)

    async def _notify(self, news: SessionNews, hooks: Hooks) -> None:
        if hooks.notify:
            _warn(news, "--notify", await notifications.send(hooks.notify, *title_and_body(news)))


def _warn(news: SessionNews, what: str, trouble: str) -> None:
    if trouble:
        log.warning("%s: %s: %s", news.name, what, trouble)
