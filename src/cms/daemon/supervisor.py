"""What the handlers need of a supervisor, and of the server around them; a test's fakes have no more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import trio

from cms.rpc.money import Grouping
from cms.session.audit import AuditLog
from cms.session.budget import Budget
from cms.session.model import (
    DelegateResult,
    Interaction,
    Limits,
    LiveSession,
    Progress,
    Receipt,
    Reply,
    SessionOptions,
    SessionRecord,
)
from cms.session.questions import OpenQuestion
from cms.store.records import Total
from cms.store.trash import Retired


class Supervisor(Protocol):
    """The part of `fleet.supervisor.Supervisor` that is used here."""

    def live_count(self) -> int: ...

    async def create(self, options: SessionOptions, *, parent_id: str = "") -> SessionRecord: ...

    async def fork(self, name: str, new_name: str, *, model: str = "") -> SessionRecord: ...

    async def submit(self, name: str, message: str, *, type: str) -> Interaction: ...  # noqa: A002 - as in the record

    async def wait(self, interaction: Interaction) -> Reply: ...

    async def delegate(
        self,
        options: SessionOptions,
        task: str,
        *,
        context: str = "",
        accepted: Callable[[Interaction], None] | None = None,
        within: trio.CancelScope | None = None,
    ) -> DelegateResult: ...

    async def continue_(
        self,
        name: str,
        message: str,
        *,
        limits: Limits | None = None,
        accepted: Callable[[Interaction], None] | None = None,
        within: trio.CancelScope | None = None,
    ) -> DelegateResult: ...

    def start_delegate(
        self, options: SessionOptions, task: str, *, context: str = ""
    ) -> Awaitable[Interaction]: ...

    def start_continue(
        self, name: str, message: str, *, limits: Limits | None = None
    ) -> Awaitable[Interaction]: ...

    async def resume(self, name: str) -> SessionRecord: ...

    async def interrupt(self, name: str) -> SessionRecord: ...

    async def stop(
        self, name: str, *, reason: str = "stop", grace: float | None = None
    ) -> tuple[SessionRecord, Receipt | None]: ...

    async def kill(self, name: str, *, reason: str = "kill") -> tuple[SessionRecord, Receipt | None]: ...

    async def stop_all(self, *, grace: float) -> None: ...

    async def get(self, name: str) -> SessionRecord: ...

    def activity(self, name: str) -> str: ...

    async def sessions(self, status: str = "") -> list[SessionRecord]: ...

    async def interactions(self, name: str, last: int | None = None) -> list[Interaction]: ...

    def watch(self, name: str) -> AbstractContextManager[trio.MemoryReceiveChannel[Progress]]: ...

    async def set_cap(self, scope: str, usd: float | None) -> None: ...

    async def budget(self) -> Budget: ...

    async def pause(self, name: str, *, freeze: bool = False) -> SessionRecord: ...

    async def delete(
        self, name: str, *, force: bool = False, purge: bool = False
    ) -> tuple[SessionRecord, Receipt | None, Retired]: ...

    async def wait_quiet(self, name: str) -> None: ...

    def live(self) -> list[LiveSession]: ...

    def questions(self, name: str = "") -> list[OpenQuestion]: ...

    def answer(
        self, name: str, question_id: str, texts: Sequence[str], *, deny: bool, message: str
    ) -> OpenQuestion: ...

    async def unanswered(self, name: str = "") -> list[tuple[SessionRecord, Interaction]]: ...

    async def totals(self, by: Grouping, *, since: float | None = None) -> list[Total]: ...

    async def audit(self, name: str, head: str = "") -> AuditLog: ...

    async def forget_audits(self, before: float, *, dry_run: bool) -> int: ...


class Host(Protocol):
    """The server around the methods: what they need to know of it, and what outlives a request."""

    @property
    def stopping(self) -> bool: ...

    @property
    def clients(self) -> int: ...

    async def stop(self, grace: float) -> None: ...

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None: ...
