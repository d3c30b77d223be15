"""What each method does: params in, one result out, on top of a supervisor.

No sockets here (that is `server`), no processes (that is the supervisor). A method that waits for work does
so inside `Call.scope`, which ends when its client cancels or goes away: an attached delegation is stopped by
that, everything else only loses its listener. Outside of that scope nothing is abandoned half done.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec
import trio

from cms._version import __version__
from cms.config import Settings, find_claude
from cms.daemon.call import Begin, Call, RequestCancelled, bind, quick
from cms.daemon.care import Care, Keeper
from cms.errors import CmsError
from cms.rpc.api import (
    PROTOCOL,
    AcceptedReply,
    ContinueParams,
    DaemonStatus,
    DaemonStopParams,
    DelegateParams,
    Hello,
    HelloReply,
    InteractionsParams,
    InteractionsReply,
    ListParams,
    NameParams,
    Nothing,
    ResumeParams,
    SendParams,
    SessionReply,
    SessionsReply,
    SetBudgetParams,
    SpawnParams,
    StopParams,
    StopReply,
    WatchParams,
)
from cms.rpc.api_care import ForkParams
from cms.session.budget import Budget
from cms.session.model import (
    LIVE,
    DelegateResult,
    Interaction,
    Limits,
    Outcome,
    Progress,
    Receipt,
    Record,
    Reply,
    SessionOptions,
    SessionRecord,
    delegate_result,
)

__all__ = ["Call", "Host", "Methods", "RequestCancelled", "Supervisor"]

log = logging.getLogger(__name__)


class Supervisor(Keeper, Protocol):
    """The part of `fleet.supervisor.Supervisor` that is used here; a test's fake has no more."""

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
    ) -> DelegateResult: ...

    async def continue_(
        self,
        name: str,
        message: str,
        *,
        limits: Limits | None = None,
        accepted: Callable[[Interaction], None] | None = None,
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


class Host(Protocol):
    """The server around the methods: what they need to know of it, and what outlives a request."""

    @property
    def stopping(self) -> bool: ...

    @property
    def clients(self) -> int: ...

    async def stop(self, grace: float) -> None: ...

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None: ...


class Methods:
    """All methods, bound to one supervisor. `table` maps a name to a function that decodes and begins."""

    def __init__(
        self,
        supervisor: Supervisor,
        host: Host,
        settings: Settings,
        containment: str,
        extra: Mapping[str, Begin] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._host = host
        self._settings = settings
        self._containment = containment
        self._started = time.monotonic()
        self.table: Mapping[str, Begin] = {
            "hello": bind(Hello, quick(self.hello)),
            "session.spawn": bind(SpawnParams, self.spawn),
            "session.send": bind(SendParams, self.send),
            "session.resume": bind(ResumeParams, self.resume),
            "session.delegate": bind(DelegateParams, self.delegate),
            "session.continue": bind(ContinueParams, self.continue_),
            "session.interrupt": bind(NameParams, quick(self.interrupt)),
            "session.stop": bind(StopParams, quick(self.stop)),
            "session.kill": bind(NameParams, quick(self.kill)),
            "session.get": bind(NameParams, quick(self.get)),
            "session.list": bind(ListParams, quick(self.list_)),
            "session.interactions": bind(InteractionsParams, quick(self.interactions)),
            "session.watch": bind(WatchParams, self.watch),
            "budget.get": bind(Nothing, quick(self.get_budget)),
            "budget.set": bind(SetBudgetParams, quick(self.set_budget)),
            "daemon.status": bind(Nothing, quick(self.daemon_status)),
            "daemon.stop": bind(DaemonStopParams, quick(self.daemon_stop)),
            "session.fork": bind(ForkParams, self.fork),
            **Care(supervisor, settings).table,
            **(extra or {}),
        }

    # --- work ---------------------------------------------------------------------------------

    async def spawn(self, call: Call, params: SpawnParams) -> Record:
        session = await self._supervisor.create(params.options)
        interaction = await self._supervisor.submit(session.name, params.prompt, type="spawn")
        return await self._answer(call, session.name, interaction, wait=params.wait, stop=params.stop)

    async def send(self, call: Call, params: SendParams) -> Record:
        interaction = await self._supervisor.submit(params.name, params.message, type="send")
        return await self._answer(call, params.name, interaction, wait=params.wait, stop=params.stop)

    async def resume(self, call: Call, params: ResumeParams) -> Record:
        if params.message is None:
            return self._session(await self._supervisor.resume(params.name))
        if (await self._supervisor.get(params.name)).status in LIVE:  # and perhaps paused
            await self._supervisor.resume(params.name)
        interaction = await self._supervisor.submit(params.name, params.message, type="resume")
        return await self._answer(call, params.name, interaction, wait=params.wait, stop=False)

    async def fork(self, call: Call, params: ForkParams) -> Record:
        session = await self._supervisor.fork(params.name, params.new_name, model=params.model)
        interaction = await self._supervisor.submit(session.name, params.message, type="fork")
        return await self._answer(call, session.name, interaction, wait=params.wait, stop=False)

    async def delegate(self, call: Call, params: DelegateParams) -> Record:
        name = params.options.name
        if params.detach:
            interaction = await self._supervisor.start_delegate(
                params.options, params.task, context=params.context
            )
            return _accepted(name, interaction)
        return await self._attached(
            call,
            name,
            lambda accepted: self._supervisor.delegate(
                params.options, params.task, context=params.context, accepted=accepted
            ),
        )

    async def continue_(self, call: Call, params: ContinueParams) -> Record:
        if params.detach:
            interaction = await self._supervisor.start_continue(
                params.name, params.message, limits=params.limits
            )
            return _accepted(params.name, interaction)
        return await self._attached(
            call,
            params.name,
            lambda accepted: self._supervisor.continue_(
                params.name, params.message, limits=params.limits, accepted=accepted
            ),
        )

    async def _answer(
        self, call: Call, name: str, interaction: Interaction, *, wait: bool, stop: bool
    ) -> Record:
        """Wait for the reply where that is wanted. The work is the supervisor's, whoever listens."""
        if wait:
            call.accepted(name, interaction)
            with call.scope:
                reply = await self._supervisor.wait(interaction)
                if not stop:
                    return reply
            if not call.scope.cancelled_caught:
                session, _ = await self._supervisor.stop(name)
                return msgspec.structs.replace(reply, status=session.status, pid=session.pid)
        if stop:
            self._host.start_soon(lambda: self._stop_when_answered(name, interaction))
        return _accepted(name, interaction)

    async def _stop_when_answered(self, name: str, interaction: Interaction) -> None:
        await self._supervisor.wait(interaction)
        await self._supervisor.stop(name)

    async def _attached(
        self,
        call: Call,
        name: str,
        work: Callable[[Callable[[Interaction], None]], Awaitable[DelegateResult]],
    ) -> DelegateResult:
        """A delegation that lives no longer than its client's interest."""
        taken: list[Interaction] = []

        def accepted(interaction: Interaction) -> None:
            taken.append(interaction)
            call.accepted(name, interaction)

        with call.scope:
            return await work(accepted)
        if not taken:
            raise RequestCancelled
        # The supervisor's call did not live to say what became of it; the store do.
        session = await self._supervisor.get(name)
        done = next(i for i in await self._supervisor.interactions(name) if i.id == taken[0].id)
        return delegate_result(
            done,
            session,
            session.receipt,
            outcome=Outcome.INTERRUPTED,
            error=done.error or "stopped because the command that waited for it was",
            reasons=done.reasons or ("cancelled",),
        )

    # --- the session's life -------------------------------------------------------------------

    async def interrupt(self, params: NameParams) -> SessionReply:
        return self._session(await self._supervisor.interrupt(params.name))

    async def stop(self, params: StopParams) -> StopReply:
        return StopReply(*await self._supervisor.stop(params.name, grace=params.grace))

    async def kill(self, params: NameParams) -> StopReply:
        return StopReply(*await self._supervisor.kill(params.name))

    # --- questions ----------------------------------------------------------------------------

    async def get(self, params: NameParams) -> SessionReply:
        return self._session(await self._supervisor.get(params.name))

    async def list_(self, params: ListParams) -> SessionsReply:
        sessions = await self._supervisor.sessions(params.status)
        return SessionsReply(tuple(sessions), sum(session.total_cost_usd for session in sessions))

    async def interactions(self, params: InteractionsParams) -> InteractionsReply:
        session = await self._supervisor.get(params.name)
        return InteractionsReply(
            session, tuple(await self._supervisor.interactions(params.name, params.last))
        )

    async def watch(self, call: Call, params: WatchParams) -> SessionReply:
        await self._supervisor.get(params.name)  # an unknown name is told at once
        with call.scope:
            await call.follow(params.name)
        return self._session(await self._supervisor.get(params.name))

    def _session(self, session: SessionRecord) -> SessionReply:
        return SessionReply(session, self._supervisor.activity(session.name))

    # --- shared budgets -----------------------------------------------------------------------

    async def get_budget(self, _params: Nothing) -> Budget:
        return await self._supervisor.budget()

    async def set_budget(self, params: SetBudgetParams) -> Budget:
        for scope, usd in params.caps.items():
            await self._supervisor.set_cap(scope, usd)
        return await self._supervisor.budget()

    # --- the daemon itself --------------------------------------------------------------------

    async def hello(self, _params: Hello) -> HelloReply:
        return HelloReply(
            __version__, PROTOCOL, os.getpid(), str(self._settings.home), stopping=self._host.stopping
        )

    async def daemon_status(self, _params: Nothing) -> DaemonStatus:
        try:
            claude = " ".join(find_claude(self._settings))
        except CmsError as error:
            claude = error.message
        return DaemonStatus(
            pid=os.getpid(),
            version=__version__,
            home=str(self._settings.home),
            uptime=time.monotonic() - self._started,
            live=self._supervisor.live_count(),
            sessions=len(await self._supervisor.sessions()),
            clients=self._host.clients,
            containment=self._containment,
            claude=claude,
            idle_exit=self._settings.idle_exit,
        )

    async def daemon_stop(self, params: DaemonStopParams) -> Nothing:
        await self._host.stop(params.grace)
        return Nothing()


def _accepted(name: str, interaction: Interaction) -> AcceptedReply:
    return AcceptedReply(name, interaction.session_id, interaction.id)
