"""What is done to sessions besides work: pausing, branching, deleting, waiting, questions, figures.

The second half of `methods`, with the same rules: no sockets, no processes, and what waits does so inside
`Call.scope`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import trio

from cms.config import Settings
from cms.daemon.call import Begin, Call, bind, quick
from cms.errors import CmsError
from cms.rpc.api import Nothing, SessionReply
from cms.rpc.api_audit import AuditParams
from cms.rpc.api_care import (
    AnswerParams,
    AnswerReply,
    AskParams,
    AskReply,
    CleanupParams,
    CleanupReply,
    CostParams,
    CostReply,
    CostRow,
    Deleted,
    DeleteParams,
    Grouping,
    OverviewReply,
    PauseParams,
    Unanswered,
    Waited,
    WaitParams,
    WaitReply,
)
from cms.session.audit import AuditLog
from cms.session.budget import Budget
from cms.session.model import LIVE, Interaction, Receipt, SessionRecord, TokenUsage
from cms.session.questions import LiveSession, OpenQuestion
from cms.store.rawlog import raw_log_path
from cms.store.records import Total
from cms.store.trash import Retired, empty_trash

_DAY = 86400.0


class Keeper(Protocol):
    """The part of `fleet.supervisor.Supervisor` that is used here."""

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

    async def budget(self) -> Budget: ...

    async def audit(self, name: str, head: str = "") -> AuditLog: ...

    async def forget_audits(self, before: float, *, dry_run: bool) -> int: ...

    def activity(self, name: str) -> str: ...

    async def get(self, name: str) -> SessionRecord: ...

    async def sessions(self, status: str = "") -> list[SessionRecord]: ...

    async def interactions(self, name: str, last: int | None = None) -> list[Interaction]: ...


class Care:
    """The methods, bound to one supervisor. `table` as in `Methods`."""

    def __init__(self, keeper: Keeper, settings: Settings) -> None:
        self._keeper = keeper
        self._settings = settings
        self.table: Mapping[str, Begin] = {
            "session.pause": bind(PauseParams, quick(self.pause)),
            "session.delete": bind(DeleteParams, quick(self.delete)),
            "session.audit": bind(AuditParams, quick(self.audit)),
            "session.answer": bind(AnswerParams, quick(self.answer)),
            "sessions.cleanup": bind(CleanupParams, quick(self.cleanup)),
            "sessions.wait": bind(WaitParams, self.wait),
            "sessions.overview": bind(Nothing, quick(self.overview)),
            "sessions.questions": bind(AskParams, quick(self.questions)),
            "ledger.totals": bind(CostParams, quick(self.totals)),
        }

    # --- the session's life -------------------------------------------------------------------

    async def pause(self, params: PauseParams) -> SessionReply:
        session = await self._keeper.pause(params.name, freeze=params.freeze)
        return SessionReply(session, self._keeper.activity(session.name))

    async def delete(self, params: DeleteParams) -> Deleted:
        gone = await self._keeper.delete(params.name, force=params.force, purge=params.purge)
        return _deleted(gone, audited=not params.purge)

    async def cleanup(self, params: CleanupParams) -> CleanupReply:
        now = time.time()
        before = now - params.days * _DAY
        old = [session for session in await self._keeper.sessions() if session.last_saved <= before]
        live = [session for session in old if session.status in LIVE and not params.force]
        deleted = []
        for session in old:
            if session in live:
                continue
            if params.dry_run:
                deleted.append(self._would_delete(session))
                continue
            try:
                gone = await self._keeper.delete(session.name, force=params.force, purge=params.purge)
            except CmsError:
                # Somebody has brought it back in the meantime, or another cms has it: not old any more.
                live.append(session)
                continue
            deleted.append(_deleted(gone, audited=not params.purge))
        files, size = await trio.to_thread.run_sync(
            lambda: empty_trash(self._settings.trash, before, dry_run=params.dry_run)
        )
        audits = 0
        if params.purge:
            audits = await self._keeper.forget_audits(before, dry_run=params.dry_run)
        return CleanupReply(tuple(deleted), tuple(live), files, size, audits)

    def _would_delete(self, session: SessionRecord) -> Deleted:
        log = raw_log_path(self._settings.raw, session.id)
        try:
            return Deleted(session, str(log), log.stat().st_size)
        except OSError:
            return Deleted(session, "", 0)

    # --- waiting and watching -----------------------------------------------------------------

    async def wait(self, call: Call, params: WaitParams) -> WaitReply:
        names = tuple(dict.fromkeys(params.names))
        for name in names:
            await self._keeper.get(name)  # an unknown name is told at once
        done: dict[str, Waited] = {}
        failures: list[CmsError] = []
        limit = math.inf if params.timeout is None else params.timeout
        with call.scope, trio.move_on_after(limit) as patience:
            async with trio.open_nursery() as nursery:

                async def wait_one(name: str) -> None:
                    try:
                        await self._keeper.wait_quiet(name)
                        done[name] = await self._waited(name)
                    except CmsError as error:
                        failures.append(error)
                    if params.first or failures:
                        nursery.cancel_scope.cancel()

                for name in names:
                    nursery.start_soon(wait_one, name)
        if failures:
            raise failures[0]
        return WaitReply(
            tuple(done[name] for name in names if name in done),
            tuple(name for name in names if name not in done),
            timed_out=patience.cancelled_caught,
        )

    async def _waited(self, name: str) -> Waited:
        last = await self._keeper.interactions(name, 1)
        return Waited(await self._keeper.get(name), last[0] if last else None)

    async def overview(self, _params: Nothing) -> OverviewReply:
        budget = await self._keeper.budget()
        return OverviewReply(tuple(self._keeper.live()), budget.today.spent, time.time())

    # --- questions ----------------------------------------------------------------------------

    async def questions(self, params: AskParams) -> AskReply:
        if params.name:
            await self._keeper.get(params.name)
        unanswered = await self._keeper.unanswered(params.name)
        return AskReply(
            tuple(self._keeper.questions(params.name)), tuple(Unanswered(*one) for one in unanswered)
        )

    async def answer(self, params: AnswerParams) -> AnswerReply:
        session = await self._keeper.get(params.name)
        question = self._keeper.answer(
            params.name, params.id, params.texts, deny=params.deny, message=params.message
        )
        return AnswerReply(session, question, len(self._keeper.questions(params.name)))

    # --- the audit log ------------------------------------------------------------------------

    async def audit(self, params: AuditParams) -> AuditLog:
        return await self._keeper.audit(params.name, params.head)

    # --- figures ------------------------------------------------------------------------------

    async def totals(self, params: CostParams) -> CostReply:
        totals = await self._keeper.totals(params.by, since=params.since)
        rows = tuple(CostRow(one.key, one.name, one.usage, one.exact) for one in totals)
        total = sum((row.usage for row in rows), TokenUsage())
        return CostReply(rows, total, all(row.exact for row in rows))


def _deleted(gone: tuple[SessionRecord, Receipt | None, Retired], *, audited: bool) -> Deleted:
    session, receipt, log = gone
    path: Path | None = log.path
    return Deleted(session, "" if path is None else str(path), log.size, receipt, audited)
