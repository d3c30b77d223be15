"""The sessions of one store as they stand: found, listed, watched, waited for, asked for figures.

What lives is known by its runner, what does not by the store. Nothing is started or ended here: that is
`supervisor.Supervisor`, which has all of this as well.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import msgspec
import trio

from cms.config import Settings, caller, caller_environ
from cms.disk import ask_disk
from cms.errors import DiskTimeout, InternalError, NothingAsked, SessionNotFound, UsageError, WrongStatus
from cms.fleet.children import Children
from cms.fleet.conversations import find_conversations
from cms.fleet.delegation import UnderWay
from cms.fleet.schema_checks import Answers
from cms.fleet.turns import Turns
from cms.live.runner import Runner
from cms.protection.scratch import clear_scratch, left_scratch
from cms.session.attachments import check_all
from cms.session.audit import AuditLog
from cms.session.budget import ALL, DAY, Budget
from cms.session.conversation import Conversation
from cms.session.judge import SCHEMA
from cms.session.model import (
    ENDED,
    LIVE,
    STATUSES,
    Attachment,
    DelegateResult,
    Grouping,
    Interaction,
    InteractionState,
    LiveSession,
    Order,
    Outcome,
    Progress,
    Receipt,
    Reply,
    SessionRecord,
    SessionStatus,
)
from cms.session.next_step import next_step
from cms.session.plan_usage import UsageWindow
from cms.session.questions import OpenQuestion, read_answer
from cms.session.rounds import together
from cms.session.verdict import delegate_result
from cms.store import audit, counters, money, plan_usage, sessions
from cms.store.attachments import check_kept, in_use, left, remove
from cms.store.counters import Figures
from cms.store.records import Total
from cms.store.recovery import recover
from cms.store.sessions import Place
from cms.store.store import Store
from cms.transcripts import environ_of, has_transcript
from cms.units import nearest

#: Of a session that is not here: somebody works on it, or did.
_ELSEWHERE = LIVE - {SessionStatus.ATTACHED}
_LIKE = 1000  # names that are looked at for the one that was meant
_ON_ITS_WAY = 3600.0  # seconds
_UNANSWERED = 500  # sessions that wait for a person, of which one question is told


class Sessions:
    """Those of one supervisor.

    Attributes:
        children: which of them started which.
        under_way: the delegations that have no verdict yet.
        answers: holds answers against their schemas.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self._runners: dict[str, Runner] = {}
        self._unsaved: dict[str, Runner] = {}  # gone, and the store did not take its end
        self.turn = Turns()
        self.under_way = UnderWay(store)
        self.answers = Answers(SCHEMA)
        self.children = Children(settings.child_limits, self._runners, self.by_id, settings.home)

    def live_count(self) -> int:
        """How many sessions have a process."""
        return len(self._runners)

    # --- finding ---------------------------------------------------------------------------------

    async def get(self, name: str) -> SessionRecord:
        """The session as it stands.

        Raises:
            SessionNotFound: with the nearest name that exists.
        """
        runner = self.known(name)
        if runner is not None:
            return runner.record
        record = await self.store.read(sessions.by_name, name)
        if record is None:
            raise SessionNotFound(name, await self._nearest(name))
        if record.status in _ELSEWHERE:
            # Another cms has it, or has died with it. (What lives is left alone.)
            lost = await self.store.write(recover, time.time())
            record = next((one for one in lost.sessions if one.id == record.id), record)
        return record

    async def _nearest(self, name: str) -> str:
        """The name most like one that is none's: of those that begin like it, else of the first in order."""
        for start in (name[:1], ""):
            if near := nearest(name, await self.store.read(sessions.names, start, _LIKE)):
                return near
        return ""

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
        """Sessions, newest first or in another order. A session is shown those that it started.

        Args:
            status: only those that have it; or an outcome, with which their last message has ended.
            limit: at most so many.
            after: the name of one: only those that come after it.
            saved_before: only those that nothing was saved of since.
            tags: only those that have all of them.

        Raises:
            SessionNotFound: `after` is none's name.
        """
        place = sessions.place_of(await self.get(after), order) if after else None
        by_outcome = bool(status) and status not in STATUSES
        if inside := caller.get().session_id:
            stored = await self.store.read(sessions.started_by, inside)
            found = sessions.in_order((self._current(record) for record in stored), order)
            if by_outcome:
                ended = await self.outcomes(found)
                found = [record for record in found if ended.get(record.id) == status]
        elif by_outcome:
            found = await self._stored(status, order, limit, place, saved_before, tags)
            found = [self._current(record) for record in found]
        else:
            # What lives may be in another status than the store knows; it is in the store, wherever.
            live = {record.id: record for record in self._known()}
            most = None if limit is None else limit + len(live)
            stored = await self._stored(status, order, most, place, saved_before, tags)
            found = [record for record in stored if record.id not in live]
            found = sessions.in_order([*found, *live.values()], order)
        fitting = [
            record
            for record in found
            if (not status or by_outcome or record.status == status)
            and (place is None or sessions.comes_after(sessions.place_of(record, order), place, order))
            and record.last_saved <= saved_before
            and set(tags) <= set(record.options.tags)
        ]
        return fitting[:limit]

    async def _stored(
        self,
        status: str,
        order: Order,
        limit: int | None,
        after: Place | None,
        saved_before: float,
        tags: Sequence[str],
    ) -> list[SessionRecord]:
        return await self.store.read(
            sessions.page,
            status,
            order=order,
            limit=-1 if limit is None else limit,
            after=after,
            saved_before=None if saved_before == math.inf else saved_before,
            tags=tags,
        )

    async def outcomes(self, records: Sequence[SessionRecord]) -> dict[str, Outcome]:
        """How the last message of each of those ended, by their ids."""
        return await self.store.read(sessions.outcomes, [record.id for record in records])

    async def count(self, status: str = "", *, tags: Sequence[str] = ()) -> tuple[int, float]:
        """How many `sessions` there are, and their cost. A session is told of its own."""
        if caller.get().session_id:
            known = await self.sessions(status, tags=tags)
            return len(known), sum(record.total_cost_usd for record in known)
        # (How a message ended is on disk for those that live, too.)
        live = self._known() if status in ("", *STATUSES) else []
        but = [record.id for record in live]
        stored, usd = await self.store.read(sessions.count, status, but=but, tags=tags)
        fitting = [
            record
            for record in live
            if (not status or record.status == status) and set(tags) <= set(record.options.tags)
        ]
        return stored + len(fitting), usd + sum(record.total_cost_usd for record in fitting)

    def runner(self, name: str) -> Runner | None:
        """Of a session with a process."""
        return self._runners.get(name)

    def known(self, name: str) -> Runner | None:
        """The runner that knows better than the store."""
        return self._runners.get(name) or self._unsaved.get(name)

    def _known(self) -> list[SessionRecord]:
        """The records that are newer than the store's."""
        newest = {one.record.id: one.record for one in (*self._unsaved.values(), *self._runners.values())}
        return list(newest.values())

    def _current(self, record: SessionRecord) -> SessionRecord:
        runner = self.known(record.name)
        return record if runner is None else runner.record

    async def by_id(self, session_id: str) -> SessionRecord:
        for runner in (*self._runners.values(), *self._unsaved.values()):
            if runner.record.id == session_id:
                return runner.record
        record = await self.store.read(sessions.by_id, session_id)
        if record is None:
            raise InternalError(f"session {session_id} is not in the store")
        return record

    async def conversations(self, start: str, limit: int) -> list[Conversation]:
        """The latest conversations of whoever asks, those of sessions named; `start`: how their ids begin."""
        look = partial(find_conversations, self.settings_now().environ, start, limit)
        found = await ask_disk(look, "the conversations")
        names = await self.store.read(sessions.of_conversations, [one.id for one in found])
        return [msgspec.structs.replace(one, session=names.get(one.id, "")) for one in found]

    async def check_attachments(self, attachments: tuple[Attachment, ...]) -> None:
        """That these can go with a message.

        Raises:
            UsageError: they cannot.
        """
        if attachments:
            check_all(attachments)
            await trio.to_thread.run_sync(check_kept, self.settings.attachments, attachments)

    async def forget_attachments(self, ids: set[str]) -> None:
        """Remove those of them that no message and no task has any more."""
        if ids:
            unused = ids - await self.store.read(in_use)
            await trio.to_thread.run_sync(remove, self.settings.attachments, unused)

    async def sweep_attachments(self, before: float) -> None:
        """Remove what was kept before that time and no message has. (One that is on its way has an hour.)"""
        before = min(before, time.time() - _ON_ITS_WAY)
        await self.forget_attachments(await trio.to_thread.run_sync(left, self.settings.attachments, before))

    async def interactions(self, name: str, last: int | None = None) -> list[Interaction]:
        """A session's interactions, oldest first, or only the newest `last`."""
        return await self.store.read(sessions.interactions, (await self.get(name)).id, last)

    async def clear_left_scratch(self) -> None:
        """Remove what sessions have left that no process works on; one that is brought up waits for it.

        By what is there, not by what the last crash ended: who cleared after that may have been killed at it.
        """
        # To the end, even where cms ends meanwhile: the next one would begin anew.
        with trio.CancelScope(shield=True), suppress(DiskTimeout):
            starts = await ask_disk(left_scratch, "scratch folders that were left")
            for left in await self.store.read(sessions.by_id_start, starts):
                async with self.turn(left.name):
                    # Another program that has this store open may be at work on it, too.
                    if (await self.by_id(left.id)).status not in LIVE:
                        await ask_disk(partial(clear_scratch, left.id), "a scratch folder that was left")

    def settings_now(self) -> Settings:
        """Our settings, with the environment of whoever asks."""
        environ = caller_environ.get()
        return self.settings if environ is None else msgspec.structs.replace(self.settings, environ=environ)

    def settings_of(self, record: SessionRecord) -> Settings:
        """Those for a process of that session: whoever asks, its conversation is where it was begun."""
        settings = self.settings_now()
        return msgspec.structs.replace(settings, environ=environ_of(record, settings.environ))

    async def can_continue(self, record: SessionRecord) -> bool:
        """Whether there is a conversation to go on with. Who cannot be asked in time has none."""
        environ = self.settings_now().environ
        try:
            return await ask_disk(lambda: has_transcript(record, environ), "the transcript")
        except DiskTimeout:
            return False

    # --- what lives -------------------------------------------------------------------------------

    def activity(self, name: str) -> str:
        """What a session is doing now, in a line; "" if nothing."""
        runner = self._runners.get(name)
        return runner.activity if runner is not None else ""

    @contextmanager
    def watch(self, name: str) -> Iterator[trio.MemoryReceiveChannel[Progress]]:
        """Notes on what a live session does; the channel ends with its process.

        Raises:
            WrongStatus: it has no process.
        """
        runner = self._runners.get(name)
        if runner is None:
            raise WrongStatus(name, "not alive", "be watched")
        with runner.watch() as notes:
            yield notes

    def live(self) -> list[LiveSession]:
        """Every session with a process, and what that takes just now."""
        return [runner.live() for runner in self._runners.values()]

    # --- questions to a person ----------------------------------------------------------------------

    def questions(self, name: str = "") -> list[OpenQuestion]:
        """The calls that wait for a person's word, in one session or in all, oldest first."""
        runners = [one for key, one in self._runners.items() if not name or key == name]
        found = [question for runner in runners for question in runner.questions()]
        return sorted(found, key=lambda one: one.asked)

    def answer(
        self, name: str, question_id: str, texts: Sequence[str], *, deny: bool = False, message: str = ""
    ) -> OpenQuestion:
        """A person's answer to a call that waits (`session.questions.read_answer`), which goes on with it.

        Raises:
            UsageError: nothing waits, it is not clear what is meant, or it is no answer to what was asked.
        """
        waiting = self.questions(name)
        if not waiting:
            raise NothingAsked(name)
        asked = [one for one in waiting if not question_id or one.id == question_id]
        if len(asked) != 1:
            ids = ", ".join(one.id for one in waiting)
            raise UsageError(
                f"{len(waiting)} calls of {name} wait for an answer", hint=f"name one with --id: {ids}"
            )
        answer = read_answer(asked[0], texts, deny=deny, message=message)
        self._runners[name].answer_question(asked[0].id, answer)
        return asked[0]

    async def unanswered(self, name: str = "") -> list[tuple[SessionRecord, Interaction]]:
        """The newest sessions whose last message ended because a person was needed, with that message."""
        one = (await self.get(name)).id if name else ""
        found = await self.store.read(sessions.unanswered, one, _UNANSWERED)
        return [(self._current(record), interaction) for record, interaction in found]

    # --- waiting -----------------------------------------------------------------------------------

    async def work_ended(self, interaction: Interaction) -> Interaction:
        """The interaction once its work has ended, which is on disk; a delegation's is not judged yet.

        Raises:
            WrongStatus: its session lives in another cms process, which alone knows.
            UsageError: its session was deleted.
        """
        for runner in (*self._runners.values(), *self._unsaved.values()):
            if runner.record.id == interaction.session_id:
                ended = await runner.wait_interaction(interaction.id)
                if ended is not None:
                    return ended
        stored = await self.store.read(sessions.interaction, interaction.id)
        if stored is None:
            raise UsageError("the session of this message was deleted", hint="`cms list` shows what there is")
        if stored.state not in ENDED and stored.state is not InteractionState.CHECKING:
            raise elsewhere(await self.by_id(stored.session_id), "be waited for")
        return stored

    async def finished(self, interaction: Interaction) -> Interaction:
        """The interaction once it has ended; its outcome is on disk.

        Raises:
            WrongStatus: its session lives in another cms process, which alone knows.
            UsageError: its session was deleted.
            StoreError: what became of it could not be stored.
        """
        work = await self.work_ended(interaction)
        judged = await self.under_way.wait_verdict(work) or await self._last_round(work)
        if judged.outcome is None:
            raise elsewhere(await self.by_id(work.session_id), "be waited for")
        return judged

    async def _last_round(self, work: Interaction) -> Interaction:
        """Of a delegation that is over: what the message came to in the end, its repairs included."""
        while (following := await self.store.read(sessions.round_after, work)) is not None:
            work = following
        return work

    async def wait(self, interaction: Interaction) -> Reply:
        """The answer to a message. What went wrong for the agent is in the reply, not raised."""
        done = await self.finished(interaction)
        done = together((*await self.store.read(sessions.rounds_before, done), done))
        record = await self.by_id(done.session_id)
        return Reply(
            name=record.name,
            status=record.status,
            text=done.response,
            cost=done.cost,
            turns=done.turns,
            duration=round(done.duration * 1000),
            is_error=done.is_error and done.outcome is not Outcome.NEEDS_INPUT,
            session_id=record.id,
            interaction_id=done.id,
            pid=record.pid,
            error=done.error,
            total_cost_usd=record.total_cost_usd,
            outcome=done.outcome or Outcome.FAILED,
            questions=done.questions,
            denials=done.denials,
            next_step=next_step(record, done),
        )

    async def whole(
        self, last: Interaction, session: SessionRecord, receipt: Receipt | None
    ) -> DelegateResult:
        """The result of a delegation, from its last round: with the others, and with those who judged it."""
        rounds = (*await self.store.read(sessions.rounds_before, last), last)
        judges: Sequence[SessionRecord] = ()
        if session.options.judge:
            ids = {one.id for one in rounds}
            judges = [one for one in await self.judges(session) if one.judges in ids]
        there = await self.can_continue(session)
        return delegate_result(rounds, session, receipt, has_conversation=there, judges=judges)

    async def judges(self, session: SessionRecord) -> list[SessionRecord]:
        """The sessions that judge work of that one, as they stand."""
        if not session.options.judge:
            return []
        return [self._current(one) for one in await self.store.read(sessions.judges_of, session.id)]

    async def wait_quiet(self, name: str) -> None:
        """Until a session has nothing left to do: no message, and no delegation without its verdict.

        Raises:
            SessionNotFound: there is none of that name.
        """
        await self.get(name)
        while True:
            if await self.under_way.wait_over(name):
                continue
            runner = self._runners.get(name)
            if runner is None or runner.quiet:
                return
            await runner.wait_quiet()

    # --- figures ------------------------------------------------------------------------------------

    async def budget(self) -> Budget:
        """What was spent today and ever, and how each capped scope stands."""
        now = time.time()
        today = await self.store.read(money.account, DAY, now)
        ever = await self.store.read(money.account, ALL, now)
        return Budget(today, ever, tuple(await self.store.read(money.standings, now)))

    async def plan_usage(self) -> tuple[UsageWindow, ...]:
        """The subscription's windows, as claude told them last."""
        return tuple(await self.store.read(plan_usage.windows))

    async def figures(self) -> Figures:
        """What the store holds, in numbers."""
        return await self.store.read(counters.figures, time.time())

    async def audit(self, name: str, head: str = "") -> AuditLog:
        """The audit log of a session, checked (`Store.audit`); a deleted one is found by its name or id.

        Raises:
            SessionNotFound: there is none, and was none.
        """
        try:
            record = await self.get(name)
            session_id = record.id
        except SessionNotFound:
            deleted = await self.store.read(audit.find_deleted, name)
            if deleted is None:
                raise
            session_id, name = deleted
        rows, broken = await self.store.read(audit.verified, session_id, head)
        return AuditLog(name, session_id, tuple(rows), broken)

    async def forget_audits(self, before: float, *, dry_run: bool) -> int:
        """Remove the audit logs of sessions that were deleted before that time; gives how many."""
        return await self.store.write(audit.forget_deleted, before, dry_run=dry_run)

    async def totals(self, by: Grouping, *, since: float | None = None, limit: int = -1) -> list[Total]:
        """What was spent, by whatever; at most so many rows, if `limit` is not below 0."""
        return await self.store.read(money.totals, by, since=since, limit=limit)

    async def total(self, since: float | None = None) -> Total:
        """What was spent in all, since then or ever."""
        return await self.store.read(money.total, since=since)


def elsewhere(record: SessionRecord, wanted: str) -> WrongStatus:
    """The store says that it is alive, and it is not here."""
    hint = "another cms process is using it; continue there, or end that process"
    return WrongStatus(record.name, str(record.status), wanted, hint=hint)
