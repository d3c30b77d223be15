"""A supervisor without processes: sessions in memory, work that ends when a test says so.

A message that contains "hang" is answered only by `release` (or a stop); any other at once. It overrides
what the handlers ask a supervisor for; nothing else of one is there.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import trio

from cms.config import Settings
from cms.daemon.main import Fleet
from cms.errors import Interrupted, NameTaken, NothingAsked, SessionNotFound, WrongStatus
from cms.fleet.changes import Changes
from cms.fleet.session_hooks import SessionHooks
from cms.fleet.supervisor import Supervisor
from cms.fleet.telemetry import Telemetry
from cms.session.audit import AuditLog
from cms.session.budget import Account, Budget, Cap, stand
from cms.session.hooks import Hooks
from cms.session.model import (
    LIVE,
    Attachment,
    DelegateResult,
    Grouping,
    Interaction,
    InteractionState,
    LiveSession,
    Order,
    Outcome,
    Progress,
    ProgressKind,
    Receipt,
    Reply,
    Safety,
    SessionOptions,
    SessionRecord,
    SessionStatus,
    TokenUsage,
)
from cms.session.plan_usage import UsageWindow
from cms.session.questions import OpenQuestion, read_answer
from cms.session.terms import Terms
from cms.session.verdict import delegate_result
from cms.store.records import Total
from cms.store.sessions import in_order
from cms.store.trash import Retired


def options(name: str) -> SessionOptions:
    return SessionOptions(name=name, work_dir="/")


class NothingChanged(Changes):
    """No session has a change."""

    def __init__(self) -> None:
        pass

    async def lost_with(self, record: SessionRecord) -> str:
        await trio.lowlevel.checkpoint()
        return ""


class NoHooks(SessionHooks):
    """Nobody is told anything."""

    def __init__(self) -> None:
        pass

    async def check(self, hooks: Hooks) -> None:
        await trio.lowlevel.checkpoint()

    def follow(self, interaction: Interaction, hooks: Hooks) -> None:
        pass


class FakeSupervisor(Supervisor):
    """Attributes named `..._calls` and the like are for tests to look at."""

    def __init__(self) -> None:
        self.records: dict[str, SessionRecord] = {}
        self.open_questions: list[OpenQuestion] = []
        self.needed: list[tuple[SessionRecord, Interaction]] = []
        self.spent: list[Total] = []
        self.alive: list[LiveSession] = []
        self.quiet: dict[str, trio.Event] = {}  # a name that is not in here has nothing to do
        self.words: list[object] = []
        self.said: dict[str, list[Interaction]] = {}
        self.stopped: list[str] = []
        self.cancelled: list[str] = []  # delegations whose task was cancelled, by name
        self.graces: list[float | None] = []  # of delegations
        self.stop_all_calls: list[float] = []
        self.hold_stop_all = trio.Event()
        self.hold_stop_all.set()
        self.raises: Exception | None = None  # what `get` raises, for errors on demand
        self.changed = trio.Condition()
        self.caps: dict[str, float] = {}
        self.changes = NothingChanged()
        self.hooks = NoHooks()
        self.telemetry = Telemetry()
        self._released: dict[str, trio.Event] = {}
        self._watchers: dict[str, list[trio.MemorySendChannel[Progress]]] = {}

    # --- for tests --------------------------------------------------------------------------

    def release(self, name: str) -> None:
        self._released[name].set()

    def watchers(self, name: str) -> int:
        return len(self._watchers.get(name, []))

    def tell(self, name: str, text: str, kind: ProgressKind = "note") -> int:
        """A progress note to every watcher; how many there were."""
        watchers = self._watchers.get(name, [])
        for watcher in watchers:
            watcher.send_nowait(Progress(name, kind, text))
        return len(watchers)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            async with self.changed:
                while not condition():
                    await self.changed.wait()

    async def wait_watched(self, name: str) -> None:
        with trio.fail_after(10):
            while not self._watchers.get(name):
                await trio.lowlevel.checkpoint()

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    # --- Supervisor -------------------------------------------------------------------------

    def live_count(self) -> int:
        return sum(record.status in LIVE for record in self.records.values())

    async def plan_usage(self) -> tuple[UsageWindow, ...]:
        return ()

    async def create(
        self,
        options: SessionOptions,
        *,
        parent: SessionRecord | None = None,
        judges: str = "",
        conversation: str = "",
    ) -> SessionRecord:
        if options.name in self.records:
            raise NameTaken(options.name)
        now = time.time()
        record = SessionRecord(
            str(uuid.uuid4()),
            options.name,
            SessionStatus.CREATED,
            options,
            now,
            now,
            parent_id=parent.id if parent else "",
        )
        self.records[options.name] = record
        self.said[options.name] = []
        return record

    async def submit(
        self,
        name: str,
        message: str,
        *,
        type: str,  # noqa: A002 - as in Supervisor
        scopes: tuple[str, ...] = (),
        of: object = None,
        round: int = 0,  # noqa: A002 - as in Supervisor
        before: float = 0.0,
        after: Interaction | None = None,
        attachments: tuple[Attachment, ...] = (),
    ) -> Interaction:
        record = await self.get(name)
        interaction = Interaction(
            str(uuid.uuid4()), record.id, len(self.said[name]) + 1, type, message, time.time()
        )
        self.said[name].append(interaction)
        self._released[name] = trio.Event()
        if "hang" not in message:
            self._released[name].set()
        self._set(name, SessionStatus.BUSY)
        await self._notify()
        return interaction

    async def wait(self, interaction: Interaction) -> Reply:
        (name,) = [name for name, record in self.records.items() if record.id == interaction.session_id]
        await self._released[name].wait()
        await trio.lowlevel.checkpoint()
        if self.records[name].status is SessionStatus.BUSY:
            self._set(name, SessionStatus.READY)
        record = self.records[name]
        return Reply(
            name, record.status, f"re: {interaction.prompt}", 0.01, 1, 5, False, record.id, interaction.id
        )

    async def delegate(
        self,
        options: SessionOptions,
        task: str,
        *,
        context: str = "",
        accepted: Callable[[Interaction], None] | None = None,
        scopes: tuple[str, ...] = (),
        within: trio.CancelScope | None = None,
        grace: float | None = None,
        judges: str = "",
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        await self.create(options)
        return await self.continue_(
            options.name, context + task, accepted=accepted, within=within, grace=grace
        )

    async def continue_(
        self,
        name: str,
        message: str,
        *,
        terms: Terms = Terms(),  # noqa: B008 - it is frozen
        accepted: Callable[[Interaction], None] | None = None,
        scopes: tuple[str, ...] = (),
        within: trio.CancelScope | None = None,
        grace: float | None = None,
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        self.graces.append(grace)
        with within or trio.CancelScope():
            return await self._carry_out(name, message, accepted)
        if not self.said[name]:
            raise Interrupted("cancelled before anything was accepted")
        return delegate_result(self.said[name][-1:], self.records[name], None, has_conversation=True)

    async def _carry_out(
        self, name: str, message: str, accepted: Callable[[Interaction], None] | None
    ) -> DelegateResult:
        try:
            if "hang before" in message:
                await trio.sleep_forever()
            interaction = await self.submit(name, message, type="delegate")
            if accepted is not None:
                accepted(interaction)
            reply = await self.wait(interaction)
        except trio.Cancelled:
            self.cancelled.append(name)
            self._set(name, SessionStatus.STOPPED)
            if self.said[name]:
                self.said[name][-1] = msgspec.structs.replace(
                    self.said[name][-1], state=InteractionState.INTERRUPTED, cost=0.5
                )
            with trio.CancelScope(shield=True):
                await self._notify()
            raise
        status = (
            Outcome.COMPLETED if self.records[name].status is SessionStatus.READY else Outcome.INTERRUPTED
        )
        return DelegateResult(status, name, reply.text, None, 0.01, 1, 5, (), True, Safety())

    async def start_delegate(
        self,
        options: SessionOptions,
        task: str,
        *,
        context: str = "",
        attachments: tuple[Attachment, ...] = (),
    ) -> Interaction:
        await self.create(options)
        return await self.submit(options.name, context + task, type="delegate")

    async def start_continue(
        self,
        name: str,
        message: str,
        *,
        terms: Terms = Terms(),  # noqa: B008 - it is frozen
        attachments: tuple[Attachment, ...] = (),
    ) -> Interaction:
        return await self.submit(name, message, type="continue")

    async def resume(self, name: str) -> SessionRecord:
        await self.get(name)
        return self._set(name, SessionStatus.READY)

    async def interrupt(self, name: str) -> SessionRecord:
        await self.get(name)
        self._released[name].set()
        return self.records[name]

    async def stop(
        self, name: str, *, reason: str = "stop", grace: float | None = None, checks: bool = True
    ) -> tuple[SessionRecord, Receipt | None]:
        record = await self.get(name)
        if record.status not in LIVE:
            return record, None
        self.stopped.append(name)
        self._set(name, SessionStatus.STOPPED)
        if name in self._released:
            self._released[name].set()
        for watcher in self._watchers.pop(name, []):
            watcher.close()
        await self._notify()
        return self.records[name], Receipt(reason, empty=True)

    async def kill(self, name: str, *, reason: str = "kill") -> tuple[SessionRecord, Receipt | None]:
        return await self.stop(name, reason=reason)

    async def stop_all(self, *, grace: float) -> None:
        self.stop_all_calls.append(grace)
        await self._notify()
        await self.hold_stop_all.wait()
        for name in list(self.records):
            await self.stop(name)

    async def get(self, name: str) -> SessionRecord:
        if self.raises is not None:
            raise self.raises
        if name not in self.records:
            raise SessionNotFound(name, nearest=next(iter(self.records), ""))
        return self.records[name]

    async def set_cap(self, scope: str, usd: float | None) -> None:
        self.caps.pop(scope, None)
        if usd is not None:
            self.caps[scope] = usd

    async def budget(self) -> Budget:
        return Budget(
            Account(), Account(), tuple(stand(Cap(*cap), Account(), ()) for cap in self.caps.items())
        )

    def activity(self, name: str) -> str:
        return "thinking" if self.records[name].status is SessionStatus.BUSY else ""

    async def sessions(
        self,
        status: str = "",
        *,
        order: Order = "age",
        limit: int | None = None,
        after: str = "",
        saved_before: float = math.inf,
        tags: Sequence[str] = (),
    ) -> list[SessionRecord]:
        newest = [
            record
            for record in reversed(self.records.values())
            if status in ("", record.status)
            and record.last_saved <= saved_before
            and set(tags) <= set(record.options.tags)
        ]
        if order != "age":
            newest = in_order(newest, order)
        names = [record.name for record in newest]
        return newest[names.index(after) + 1 if after else 0 :][:limit]

    async def outcomes(self, records: Sequence[SessionRecord]) -> dict[str, Outcome]:
        last = {one.id: self.said.get(one.name, [])[-1:] for one in records}
        return {key: said[0].outcome for key, said in last.items() if said and said[0].outcome is not None}

    async def count(self, status: str = "", *, tags: Sequence[str] = ()) -> tuple[int, float]:
        found = await self.sessions(status, tags=tags)
        return len(found), sum(record.total_cost_usd for record in found)

    async def interactions(self, name: str, last: int | None = None) -> list[Interaction]:
        await self.get(name)
        return self.said[name][-last if last else 0 :]

    @contextmanager
    def watch(self, name: str) -> Iterator[trio.MemoryReceiveChannel[Progress]]:
        if name not in self.records:
            raise SessionNotFound(name)
        send, receive = trio.open_memory_channel[Progress](1000)
        self._watchers.setdefault(name, []).append(send)
        try:
            with receive:
                yield receive
        finally:
            if send in self._watchers.get(name, []):
                self._watchers[name].remove(send)
            send.close()

    async def fork(self, name: str, new_name: str, *, model: str = "") -> SessionRecord:
        raise SessionNotFound(name)

    async def pause(self, name: str, *, freeze: bool = False) -> SessionRecord:
        if self.records[name].status not in LIVE:
            raise WrongStatus(name, self.records[name].status, "be paused")
        return self._set(name, SessionStatus.PAUSED)

    async def delete(
        self, name: str, *, force: bool = False, purge: bool = False
    ) -> tuple[SessionRecord, Receipt | None, Retired]:
        if self.records[name].status in LIVE and not force:
            raise WrongStatus(name, self.records[name].status, "be deleted")
        return self.records.pop(name), None, Retired(None if purge else Path("/trash") / name, 10)

    async def audit(self, name: str, head: str = "") -> AuditLog:
        return AuditLog(name, self.records[name].id, (), None)

    async def sweep_attachments(self, before: float) -> None:
        await trio.lowlevel.checkpoint()

    async def forget_audits(self, before: float, *, dry_run: bool) -> int:
        return 0

    async def wait_quiet(self, name: str) -> None:
        if name in self.quiet:
            await self.quiet[name].wait()

    def live(self) -> list[LiveSession]:
        return self.alive

    def questions(self, name: str = "") -> list[OpenQuestion]:
        return [one for one in self.open_questions if name in ("", one.name)]

    def answer(
        self, name: str, question_id: str, texts: Sequence[str], *, deny: bool = False, message: str = ""
    ) -> OpenQuestion:
        waiting = self.questions(name)
        if not waiting:
            raise NothingAsked(name)
        self.words.append(read_answer(waiting[0], texts, deny=deny, message=message))
        self.open_questions.remove(waiting[0])
        return waiting[0]

    async def unanswered(self, name: str = "") -> list[tuple[SessionRecord, Interaction]]:
        return [one for one in self.needed if name in ("", one[0].name)]

    async def totals(self, by: Grouping, *, since: float | None = None, limit: int = -1) -> list[Total]:
        return self.spent[: None if limit < 0 else limit]

    async def total(self, since: float | None = None) -> Total:
        usage = sum((one.usage for one in self.spent), TokenUsage())
        return Total("", usage, len(self.spent), all(one.exact for one in self.spent))

    def _set(self, name: str, status: SessionStatus) -> SessionRecord:
        self.records[name] = msgspec.structs.replace(self.records[name], status=status)
        return self.records[name]


@asynccontextmanager
async def open_fake(settings: Settings) -> AsyncIterator[Fleet]:
    """For `cms.daemon.main.main(opener=...)`."""
    yield Fleet(FakeSupervisor(), None, "fake, level Z")
