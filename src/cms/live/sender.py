"""The queue of a session, and who takes one message at a time out of it, sends it and waits for its end.

That a message is being sent, and the shared money that it may spend, are on disk before it is written: after
a crash it is known which message is in doubt, and nothing is sent twice.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec
import trio

from cms.errors import CmsError
from cms.live.context import SessionContext
from cms.live.driver import Driver
from cms.live.ending import Ending
from cms.live.log_rows import first_line
from cms.live.process import AgentProcess
from cms.live.watchers import Watchers
from cms.protocol.messages import Part
from cms.session.attachments import part_of, with_names
from cms.session.budget import Grant
from cms.session.limits import BUDGET_EVERY, BUDGET_PATIENCE, used_up
from cms.session.model import Interaction, InteractionState, Outcome, SessionStatus
from cms.session.state import Phase
from cms.store import turns
from cms.store.attachments import read
from cms.store.recovery import recover
from cms.store.store import Store


class Sender:
    """Of one session. `len()` is how many messages wait; `run` is the task."""

    def __init__(
        self,
        context: SessionContext,
        end: Ending,
        driver: Driver,
        *,
        store: Store,
        watchers: Watchers,
        attachments: Path,
    ) -> None:
        """`attachments`: the folder of files that go with messages."""
        self._attachments = attachments
        self._context = context
        self._end = end
        self._driver = driver
        self._store = store
        self._watchers = watchers
        self._queue: deque[Interaction] = deque()
        self._sending = False  # about to send one
        self._recalled = ""  # why that one is not to be sent

    def __repr__(self) -> str:
        return f"<Sender queue={len(self)} sending={self._sending}>"

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, interaction: Interaction) -> None:
        """One more, that is on disk."""
        self._queue.append(interaction)
        self._context.signal_change()

    def clear(self) -> None:
        """Nothing of it will be sent any more."""
        self._queue.clear()

    def recall(self, reason: str) -> bool:
        """Do not send what is about to be sent. False if there is no such message."""
        if self._sending:
            self._recalled = reason
        return self._sending

    async def run(self, process: AgentProcess) -> None:
        """Carry messages to the process until the end begins.

        Raises:
            CmsError: it could not be stored that one is sent; that one is in the queue again.
        """
        while not self._end.has_begun():
            context = self._context
            if not self._queue or context.paused or context.state.phase is not Phase.READY:
                await context.wait_change()
                continue
            queued = self._queue.popleft()
            interaction = msgspec.structs.replace(queued, state=InteractionState.SENT)
            if (spent := used_up(context.state, context.record.options.limits)) is not None:
                outcome, why = spent
                await self._driver.refuse(interaction, outcome, f"{why}; not sent")
                continue
            try:
                parts = await self._parts(interaction)
            except CmsError as error:
                await self._driver.refuse(interaction, Outcome.FAILED, f"{error}; not sent")
                continue
            try:
                # After this a crash leaves the message doubtful; before it, certainly unsent.
                self._sending, self._recalled = True, ""
                granted = await self._reserve(interaction)
                line = process.connection.send_message(interaction.id, interaction.prompt, parts)
                logged = (
                    process.connection.send_message(interaction.id, with_names(interaction))
                    if parts
                    else line
                )
            except CmsError:
                self._queue.appendleft(queued)
                raise
            finally:
                self._sending = False
            if self._end.has_begun():
                # Nothing was written: it stays unsent, and is told so with the rest of the queue.
                self._queue.appendleft(queued)
                return
            if self._recalled:
                await self._driver.refuse(interaction, Outcome.INTERRUPTED, f"never sent: {self._recalled}")
                continue
            if granted.short:
                await self._driver.refuse(interaction, Outcome.COST_EXCEEDED, f"{granted.short}; not sent")
                continue
            self._driver.begin(interaction, granted)
            process.send(line, logged)
            await self._driver.wait_settled()

    async def _parts(self, interaction: Interaction) -> list[Part]:
        """What goes with a message.

        Raises:
            CmsError: it is not there any more, or cannot be read.
        """
        if not (attachments := interaction.attachments):
            return []
        found = await trio.to_thread.run_sync(lambda: read(self._attachments, attachments))
        return [part_of(one, data) for one, data in found]

    async def _reserve(self, interaction: Interaction) -> Grant:
        """Store that a message is about to be sent, with the shared money that it may spend.

        Where what is left is reserved by others this waits a while, in case they do not spend it. Nothing is
        stored if it gets none.
        """
        context = self._context
        patience = trio.current_time() + BUDGET_PATIENCE
        recovered = False
        while True:
            before = context.record
            context.update(
                status=SessionStatus.BUSY,
                claude_session_id=context.record.conversation,
            )
            entry = context.entry("message", "sent", first_line(interaction.prompt), interaction.type)
            entry = msgspec.structs.replace(entry, interaction_id=interaction.id)
            granted = await self._store.write(
                turns.begin, context.record, interaction, context.now(), (entry,)
            )
            if not granted.short:
                return granted
            context.update(status=before.status, claude_session_id=before.claude_session_id)
            if granted.final or self._end.has_begun() or self._recalled or trio.current_time() >= patience:
                return granted
            if not recovered:
                # Some of it may be held by what a dead process had under way.
                recovered = True
                await self._store.write(recover, context.now())
                continue
            self._watchers.notify(context.progress("note", f"waits: {granted.short}"))
            with trio.move_on_after(BUDGET_EVERY):
                await self._end.wait()
