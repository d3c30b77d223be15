"""Sessions: params in, one result out, on top of a supervisor.

No sockets here (that is `daemon.server`), no processes (that is the supervisor). A method that waits for work
does so inside `Call.scope`, which ends when its client cancels or goes away: that stops an attached
delegation, everything else only loses its listener. Outside of that scope nothing is abandoned half done.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import trio

from cms.config import Settings
from cms.daemon.call import Call, Handler, Host, bind, quick
from cms.errors import CmsError
from cms.groups import single_error
from cms.rpc.audit import SESSION_AUDIT, AuditParams
from cms.rpc.sessions import (
    MAX_LISTED,
    SESSION_ATTACH,
    SESSION_CONTINUE,
    SESSION_DELEGATE,
    SESSION_DELETE,
    SESSION_FORK,
    SESSION_GET,
    SESSION_INTERACTIONS,
    SESSION_INTERRUPT,
    SESSION_KILL,
    SESSION_LIST,
    SESSION_PAUSE,
    SESSION_RENAME,
    SESSION_RESUME,
    SESSION_SEND,
    SESSION_SPAWN,
    SESSION_STOP,
    SESSION_TAG,
    SESSION_WATCH,
    SESSIONS_CLEANUP,
    SESSIONS_WAIT,
    AcceptedResult,
    AttachParams,
    AttachResult,
    CleanupParams,
    CleanupResult,
    ContinueParams,
    DelegateParams,
    Deleted,
    DeleteParams,
    ForkParams,
    InteractionsParams,
    InteractionsResult,
    KeptSession,
    ListParams,
    NameParams,
    PauseParams,
    RenameParams,
    SendParams,
    SessionResult,
    SessionsResult,
    SpawnParams,
    StopParams,
    StopResult,
    TagParams,
    Waited,
    WaitParams,
    WaitResult,
    WatchParams,
)
from cms.session.audit import AuditLog
from cms.session.hooks import Hooks
from cms.session.model import (
    LIVE,
    DelegateResult,
    Interaction,
    Limits,
    Receipt,
    Reply,
    SessionRecord,
)
from cms.session.next_step import next_step
from cms.session.terms import Terms
from cms.store.rawlog import raw_log_path
from cms.store.trash import Retired, empty_trash
from cms.units import check_name, check_tags

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

_DAY = 86400.0


class SessionHandlers:
    """The verbs of sessions, bound to one supervisor."""

    def __init__(self, supervisor: Supervisor, host: Host, settings: Settings) -> None:
        self._supervisor = supervisor
        self._host = host
        self._settings = settings
        self.all: tuple[Handler, ...] = (
            bind(SESSION_SPAWN, self.spawn),
            bind(SESSION_SEND, self.send),
            bind(SESSION_RESUME, quick(self.resume)),
            bind(SESSION_FORK, self.fork),
            bind(SESSION_DELEGATE, self.delegate),
            bind(SESSION_CONTINUE, self.continue_),
            bind(SESSION_ATTACH, self.attach),
            bind(SESSION_INTERRUPT, quick(self.interrupt)),
            bind(SESSION_PAUSE, quick(self.pause)),
            bind(SESSION_RENAME, quick(self.rename)),
            bind(SESSION_TAG, quick(self.tag)),
            bind(SESSION_STOP, quick(self.stop)),
            bind(SESSION_KILL, quick(self.kill)),
            bind(SESSION_DELETE, quick(self.delete)),
            bind(SESSIONS_CLEANUP, quick(self.cleanup)),
            bind(SESSION_GET, quick(self.get)),
            bind(SESSION_LIST, quick(self.list_)),
            bind(SESSION_INTERACTIONS, quick(self.interactions)),
            bind(SESSION_WATCH, self.watch),
            bind(SESSIONS_WAIT, self.wait),
            bind(SESSION_AUDIT, quick(self.audit)),
        )

    # --- work ---------------------------------------------------------------------------------

    async def spawn(self, call: Call, params: SpawnParams) -> Reply | AcceptedResult:
        await self._check(params)
        session = await self._supervisor.create(params.options)
        interaction = await self._supervisor.submit(
            session.name, params.prompt, type="spawn", attachments=params.attachments
        )
        self._supervisor.hooks.follow(interaction, params.hooks)
        return await self._answer(call, session.name, interaction, wait=params.wait, stop=params.stop)

    async def send(self, call: Call, params: SendParams) -> Reply | AcceptedResult:
        await self._check(params)
        if params.resume and (await self._supervisor.get(params.name)).status in LIVE:  # perhaps paused
            await self._supervisor.resume(params.name)
        kind = "resume" if params.resume else "send"
        interaction = await self._supervisor.submit(
            params.name, params.message, type=kind, attachments=params.attachments
        )
        self._supervisor.hooks.follow(interaction, params.hooks)
        return await self._answer(call, params.name, interaction, wait=params.wait, stop=params.stop)

    async def fork(self, call: Call, params: ForkParams) -> Reply | AcceptedResult:
        session = await self._supervisor.fork(params.name, params.new_name, model=params.model)
        interaction = await self._supervisor.submit(session.name, params.message, type="fork")
        return await self._answer(call, session.name, interaction, wait=params.wait, stop=False)

    async def delegate(self, call: Call, params: DelegateParams) -> DelegateResult | AcceptedResult:
        name = params.options.name
        await self._check(params)
        if params.detach:
            interaction = await self._supervisor.start_delegate(
                params.options, params.task, context=params.context, attachments=params.attachments
            )
            self._supervisor.hooks.follow(interaction, params.hooks)
            return _accepted(name, interaction)
        return await self._supervisor.delegate(
            params.options,
            params.task,
            context=params.context,
            attachments=params.attachments,
            accepted=partial(self._accepted, call, name, params.hooks),
            within=call.scope,
            grace=call.grace,
        )

    async def continue_(self, call: Call, params: ContinueParams) -> DelegateResult | AcceptedResult:
        await self._check(params)
        if params.detach:
            interaction = await self._supervisor.start_continue(
                params.name, params.message, terms=params, attachments=params.attachments
            )
            self._supervisor.hooks.follow(interaction, params.hooks)
            return _accepted(params.name, interaction)
        return await self._supervisor.continue_(
            params.name,
            params.message,
            terms=params,
            attachments=params.attachments,
            accepted=partial(self._accepted, call, params.name, params.hooks),
            within=call.scope,
            grace=call.grace,
        )

    async def _check(self, params: SpawnParams | SendParams | DelegateParams | ContinueParams) -> None:
        await self._supervisor.hooks.check(params.hooks)
        await self._supervisor.check_attachments(params.attachments)

    def _accepted(self, call: Call, name: str, hooks: Hooks, interaction: Interaction) -> None:
        self._supervisor.hooks.follow(interaction, hooks)
        call.accepted(name, interaction)

    async def attach(self, call: Call, params: AttachParams) -> AttachResult:
        stopped = await self._supervisor.make_way(params.name, params.who)
        if params.max_cost is not None:
            await self._supervisor.set_terms(params.name, Terms(limits=Limits(max_cost=params.max_cost)))
        runner = await self._supervisor.attach(params.name, Path(params.terminal), params.who)
        call.accepted(params.name, runner.interaction)
        with call.scope:
            await runner.wait_gone()
        if call.scope.cancelled_caught:
            runner.stop("its terminal is gone")
            await runner.wait_gone()
        ended = await self._supervisor.work_ended(runner.interaction)
        return AttachResult(runner.record, ended, runner.receipt, stopped)

    async def _answer(
        self, call: Call, name: str, interaction: Interaction, *, wait: bool, stop: bool
    ) -> Reply | AcceptedResult:
        """Wait for the reply where that is wanted. The work is the supervisor's, whoever listens."""
        if wait:
            call.accepted(name, interaction)
            with call.scope:
                reply = await self._supervisor.wait(interaction)
                if not stop:
                    return reply
            if not call.scope.cancelled_caught:
                session, _ = await self._supervisor.stop(reply.name)
                return msgspec.structs.replace(reply, status=session.status, pid=session.pid)
        if stop:
            self._host.start_soon(lambda: self._stop_when_answered(interaction))
        return _accepted(name, interaction)

    async def _stop_when_answered(self, interaction: Interaction) -> None:
        reply = await self._supervisor.wait(interaction)
        await self._supervisor.stop(reply.name)

    # --- the session's life -------------------------------------------------------------------

    async def resume(self, params: NameParams) -> SessionResult:
        return self._session(await self._supervisor.resume(params.name))

    async def interrupt(self, params: NameParams) -> SessionResult:
        return self._session(await self._supervisor.interrupt(params.name))

    async def rename(self, params: RenameParams) -> SessionResult:
        return self._session(await self._supervisor.rename(params.name, check_name(params.new_name)))

    async def tag(self, params: TagParams) -> SessionResult:
        add = check_tags(params.add)
        return self._session(await self._supervisor.tag(params.name, add, params.remove))

    async def stop(self, params: StopParams) -> StopResult:
        return StopResult(*await self._supervisor.stop(params.name, grace=params.grace))

    async def kill(self, params: NameParams) -> StopResult:
        return StopResult(*await self._supervisor.kill(params.name))

    async def pause(self, params: PauseParams) -> SessionResult:
        session = await self._supervisor.pause(params.name, freeze=params.freeze)
        return SessionResult(session, self._supervisor.activity(session.name))

    async def delete(self, params: DeleteParams) -> Deleted:
        gone = await self._supervisor.delete(params.name, force=params.force, purge=params.purge)
        return _deleted(gone, audited=not params.purge)

    async def cleanup(self, params: CleanupParams) -> CleanupResult:
        now = time.time()
        before = now - params.days * _DAY
        old = await self._supervisor.sessions(saved_before=before)
        live = [session for session in old if session.status in LIVE and not params.force]
        deleted, kept = [], []
        changes = self._supervisor.changes
        for session in old:
            if session in live:
                continue
            if not params.force and (lost := await changes.lost_with(session)):
                why = str(changes.not_droppable(session, lost))
                kept.append(KeptSession(session.name, why, lost))
                continue
            if params.dry_run:
                deleted.append(self._would_delete(session))
                continue
            try:
                gone = await self._supervisor.delete(session.name, force=params.force, purge=params.purge)
            except CmsError:
                # Somebody has brought it back in the meantime, or another cms has it: not old any more.
                live.append(session)
                continue
            deleted.append(_deleted(gone, audited=not params.purge))
        files, size = await trio.to_thread.run_sync(
            lambda: empty_trash(self._settings.trash, before, dry_run=params.dry_run)
        )
        if not params.dry_run:
            await self._supervisor.sweep_attachments(before)
        audits = 0
        if params.purge:
            audits = await self._supervisor.forget_audits(before, dry_run=params.dry_run)
        return CleanupResult(tuple(deleted), tuple(live), files, size, audits, tuple(kept))

    def _would_delete(self, session: SessionRecord) -> Deleted:
        log = raw_log_path(self._settings.raw, session.id)
        try:
            return Deleted(session, str(log), log.stat().st_size)
        except OSError:
            return Deleted(session, "", 0)

    # --- looking and waiting ------------------------------------------------------------------------

    async def get(self, params: NameParams) -> SessionResult:
        return self._session(await self._supervisor.get(params.name))

    async def list_(self, params: ListParams) -> SessionsResult:
        limit = min(params.limit, MAX_LISTED)
        sessions = await self._supervisor.sessions(
            params.status, order=params.order, limit=limit, after=params.after, tags=params.tags
        )
        total, usd = await self._supervisor.count(params.status, tags=params.tags)
        ended = await self._supervisor.outcomes(sessions)
        more = len(sessions) == limit < total
        return SessionsResult(tuple(sessions), usd, total, more, ended)

    async def interactions(self, params: InteractionsParams) -> InteractionsResult:
        session = await self._supervisor.get(params.name)
        found = await self._supervisor.interactions(params.name, params.last)
        return InteractionsResult(session, tuple(found), next_step(session, found[-1] if found else None))

    async def watch(self, call: Call, params: WatchParams) -> SessionResult:
        await self._supervisor.get(params.name)  # an unknown name is told at once
        with call.scope:
            await call.follow(params.name)
        return self._session(await self._supervisor.get(params.name))

    async def wait(self, call: Call, params: WaitParams) -> WaitResult:
        names = tuple(dict.fromkeys(params.names))
        for name in names:
            await self._supervisor.get(name)  # an unknown name is told at once
        done: dict[str, Waited] = {}
        limit = math.inf if params.timeout is None else params.timeout
        with single_error(), call.scope, trio.move_on_after(limit) as patience:
            async with trio.open_nursery() as nursery:

                async def wait_one(name: str) -> None:
                    await self._supervisor.wait_quiet(name)
                    done[name] = await self._waited(name)
                    if params.first:
                        nursery.cancel_scope.cancel()

                for name in names:
                    nursery.start_soon(wait_one, name)
        return WaitResult(
            tuple(done[name] for name in names if name in done),
            tuple(name for name in names if name not in done),
            timed_out=patience.cancelled_caught,
        )

    async def _waited(self, name: str) -> Waited:
        last = next(iter(await self._supervisor.interactions(name, 1)), None)
        session = await self._supervisor.get(name)
        return Waited(session, last, next_step(session, last))

    async def audit(self, params: AuditParams) -> AuditLog:
        return await self._supervisor.audit(params.name, params.head)

    def _session(self, session: SessionRecord) -> SessionResult:
        return SessionResult(session, self._supervisor.activity(session.name))


def _accepted(name: str, interaction: Interaction) -> AcceptedResult:
    return AcceptedResult(name, interaction.session_id, interaction.id)


def _deleted(gone: tuple[SessionRecord, Receipt | None, Retired], *, audited: bool) -> Deleted:
    session, receipt, log = gone
    path: Path | None = log.path
    return Deleted(session, "" if path is None else str(path), log.size, receipt, audited)
