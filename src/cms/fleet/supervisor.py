"""The nursery of sessions: names, admission, and the end of everything.

    async with open_supervisor(settings) as supervisor:
        await supervisor.create(options)
        reply = await supervisor.wait(await supervisor.submit("fix-auth", "Fix the login bug", type="spawn"))

Each live session is a `Runner` task in one nursery; a session that is not alive is a row in the store, and is
brought back by the first message. Leaving the block, in whatever way, stops every session down the ladder and
returns only when each container is proved empty.

What is done to one session is done in turn (a lock per name), so that two shells cannot start it twice.
"""

from __future__ import annotations

import difflib
import logging
import math
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import msgspec
import trio

from cms.config import Settings, caller, caller_environ, find_claude, load_settings_and_file
from cms.containment import Level, Mechanism, find_mechanism
from cms.errors import (
    CmsError,
    ContainmentError,
    InternalError,
    NothingAsked,
    SessionNotFound,
    UsageError,
    WrongStatus,
)
from cms.fleet.checks import run_checks
from cms.fleet.children import Children
from cms.fleet.unkilled import Unkilled
from cms.live.process import check_work_dir
from cms.live.runner import OpenChildSocket, Runner
from cms.protection.rules import load_rules
from cms.protection.scratch import clear_scratch
from cms.session import lineage
from cms.session.audit import AuditLog, Decision
from cms.session.budget import ALL, DAY, Budget
from cms.session.model import (
    ENDED,
    LIVE,
    DelegateResult,
    Interaction,
    Limits,
    LiveSession,
    Outcome,
    Progress,
    Receipt,
    Reply,
    SessionOptions,
    SessionRecord,
    SessionStatus,
    delegate_result,
)
from cms.session.questions import OpenQuestion, read_answer
from cms.store import audit, money, sessions
from cms.store.rawlog import raw_log_path
from cms.store.records import Grouping, Recovery, Total
from cms.store.recovery import recover
from cms.store.store import Store, open_store
from cms.store.trash import Retired, retire

log = logging.getLogger(__name__)

Accepted = Callable[[Interaction], None]


@asynccontextmanager
async def open_supervisor(settings: Settings | None = None) -> AsyncIterator[Supervisor]:
    """A supervisor with its store and its nursery; at the end nothing that it started is left.

    Raises:
        HomeUnusable, StoreError: there is no place for the store.
        ContainmentError: no mechanism of this machine can hold a process tree.
    """
    settings = settings or load_settings_and_file()
    mechanism = await find_mechanism(settings.containment)
    # What the caller's block raises is the caller's, and comes out as it went in: not in a group of ours.
    raised: BaseException | None = None
    async with open_store(settings) as store:
        recovery = await store.write(recover, time.time())
        await trio.to_thread.run_sync(clear_scratch, [session.id for session in recovery.sessions])
        unkilled = Unkilled(store)
        try:
            async with trio.open_nursery() as nursery:
                supervisor = Supervisor(settings, store, mechanism, nursery, recovery, unkilled)
                try:
                    yield supervisor
                except GeneratorExit:
                    raise
                except BaseException as error:
                    raised = error
                finally:
                    # Each runner hears the cancellation, walks down its ladder under a shield, and only then
                    # lets the nursery end.
                    supervisor.close()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # No runner raises an Exception. What is left is Ctrl-C, which lands in any task.
            raise _first_of(group) from None
        finally:
            await unkilled.strike_all()
    if raised is not None:
        raise raised


class Supervisor:
    """Made by `open_supervisor`.

    Attributes:
        recovery: what an earlier process left behind when it died, as it now stands.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        mechanism: Mechanism,
        nursery: trio.Nursery,
        recovery: Recovery,
        unkilled: Unkilled,
    ) -> None:
        self.settings = settings
        self.store = store
        self.mechanism = mechanism
        self.recovery = recovery
        self._nursery = nursery
        self._runners: dict[str, Runner] = {}
        self._unsaved: dict[str, Runner] = {}  # gone, and the store did not take its end
        self._locks: dict[str, trio.Lock] = {}
        self._delegations: dict[str, trio.Event] = {}  # under way, from the message to the verdict
        self._closed = False
        self.child_sockets: OpenChildSocket | None = None  # set by whoever can let sessions in (the daemon)
        self._unkilled = unkilled
        self.children = Children(settings.child_limits, self._runners, self._by_id)

    def __repr__(self) -> str:
        return f"<Supervisor {self.settings.home} live={self.live_count()}>"

    def live_count(self) -> int:
        """How many sessions have a process."""
        return len(self._runners)

    def close(self) -> None:
        """Take nothing more on."""
        self._closed = True

    # --- making and finding -----------------------------------------------------------------------

    async def create(self, options: SessionOptions, *, parent_id: str = "") -> SessionRecord:
        """Enter a session in the store; nothing is started yet.

        Raises:
            NameTaken, WorkDirError, ClaudeNotFound, StoreError: nothing was changed.
            UsageError: whoever asks may not start such a session (`session.lineage`).
        """
        who, options = caller.get(), await self.children.admit(options)
        await check_work_dir(options.work_dir)
        self._check_containment(options)
        await self._unkilled.check(options)
        find_claude(self._settings_now())
        now = time.time()
        record = SessionRecord(
            id=str(uuid.uuid4()),
            name=options.name,
            status=SessionStatus.CREATED,
            options=options,
            created=now,
            last_saved=now,
            parent_id=parent_id,
            depth=who.depth,
            started_by=who.session_id,
        )
        await self.store.write(sessions.add, record)
        await self._cap_children(record)
        return record

    def _check_containment(self, options: SessionOptions) -> None:
        """Whether this machine holds a session as well as was asked for, by it or by the settings.

        Raises:
            ContainmentError: it does not.
        """
        wanted = options.require_containment or self.settings.require_containment
        have = self.mechanism.level
        if wanted is not None and have < Level(wanted):
            raise ContainmentError(
                f"{options.name!r} needs containment of level {wanted}, and here is level {have.value} "
                f"({self.mechanism.name})",
                hint="`cms doctor` shows what is missing and how to get it",
            )

    async def _cap_children(self, record: SessionRecord) -> None:
        """What a session and everything that it starts may spend together is what it may spend."""
        if record.options.allow_cms and record.options.limits.max_cost is not None:
            await self.set_cap(lineage.scope(record.id), record.options.limits.max_cost)

    async def get(self, name: str) -> SessionRecord:
        """The session as it stands.

        Raises:
            SessionNotFound: with the nearest name that exists.
        """
        runner = self._known(name)
        if runner is not None:
            return runner.record
        record = await self.store.read(sessions.by_name, name)
        if record is None:
            near = difflib.get_close_matches(name, await self.store.read(sessions.names), n=1)
            raise SessionNotFound(name, near[0] if near else "")
        return record

    async def sessions(self, status: str = "") -> list[SessionRecord]:
        """All sessions, or those of one status, newest first. A session is shown those that it started."""
        records = [self._current(record) for record in await self.store.read(sessions.newest_first)]
        if inside := caller.get().session_id:
            records = [record for record in records if await self.children.descends(record, inside)]
        return [record for record in records if not status or record.status == status]

    def _known(self, name: str) -> Runner | None:
        """The runner that knows better than the store."""
        return self._runners.get(name) or self._unsaved.get(name)

    def _current(self, record: SessionRecord) -> SessionRecord:
        runner = self._known(record.name)
        return record if runner is None else runner.record

    async def interactions(self, name: str, last: int | None = None) -> list[Interaction]:
        """A session's interactions, oldest first, or only the newest `last`."""
        return await self.store.read(sessions.interactions, (await self.get(name)).id, last)

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

    def _settings_now(self) -> Settings:
        """Our settings, with the environment of whoever asks."""
        environ = caller_environ.get()
        return self.settings if environ is None else msgspec.structs.replace(self.settings, environ=environ)

    # --- shared budgets ---------------------------------------------------------------------------

    async def set_cap(self, scope: str, usd: float | None) -> None:
        """Put a cap on what may be spent in a scope, change it, or (None) take it off.

        `session.budget.DAY` and `ALL` hold for everybody; any other scope for the messages that name it.
        Whoever is at work learns it at once.
        """
        await self.store.write(money.set_cap, scope, usd)
        for runner in self._runners.values():
            runner.check_budget()

    async def budget(self) -> Budget:
        """What was spent today and ever, and how each capped scope stands."""
        now = time.time()
        today = await self.store.read(money.account, DAY, now)
        ever = await self.store.read(money.account, ALL, now)
        return Budget(today, ever, tuple(await self.store.read(money.standings, now)))

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

    # --- processes --------------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """One at a time for each name; the lock is there for as long as somebody holds it or waits for it."""
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._locks.get(name) is lock:
                del self._locks[name]

    async def _runner(self, name: str) -> Runner:
        """The session's runner, brought up if there is none. The caller holds the session's lock.

        Raises:
            CmsError: it cannot be brought up.
        """
        runner = self._runners.get(name)
        if runner is not None and runner.ending:
            await runner.wait_gone()
            runner = None
        if runner is not None:
            return runner
        runner = await self._bring_up(name)
        if runner.record.interaction_count == 0 or runner.record.total_turns > 0:
            return runner
        # Cut off in its first turn: only claude knows whether it has a conversation by now, and it says so by
        # refusing to resume it, or to begin it. Asked with nothing at stake yet, that costs nobody a message.
        try:
            await runner.wait_ready()
        except CmsError:
            if not runner.misled:
                raise
            await runner.wait_gone()
            runner = await self._bring_up(name)
        return runner

    async def _bring_up(self, name: str) -> Runner:
        await self._save_lost(name)
        record = await self.get(name)
        if record.status in LIVE:
            raise _elsewhere(record, "start")
        if self._closed:
            raise WrongStatus(name, "stopping", "start", hint="cms is shutting down")
        await check_work_dir(record.options.work_dir)
        self._check_containment(record.options)
        await self._unkilled.check(record.options)
        settings = self._settings_now()
        find_claude(settings)
        rules = await load_rules(record.options, settings.environ)
        self.children.check_room()
        runner = Runner(
            record,
            rules=rules,
            settings=settings,
            store=self.store,
            mechanism=self.mechanism,
            resume=record.claude_session_id or record.options.fork_of,
            fork=bool(record.options.fork_of) and not record.claude_session_id,
        )
        self._runners[name] = runner
        self._nursery.start_soon(self._run, name, runner)
        return runner

    async def _save_lost(self, name: str) -> None:
        """Before anything new is written about a session: what the store missed. The caller has its lock."""
        if (lost := self._unsaved.get(name)) is not None:
            await lost.save()
            del self._unsaved[name]

    async def _run(self, name: str, runner: Runner) -> None:
        if runner.record.options.allow_cms:
            runner.child_sockets = self.child_sockets
        try:
            await runner.run()
        finally:
            if self._runners.get(name) is runner:
                del self._runners[name]
            if runner.unsaved:
                self._unsaved[name] = runner
            if runner.record.status is SessionStatus.ERROR:
                log.error("session %s is UNKILLED: %s", name, runner.record.error)
                self._unkilled.keep(runner)
            self.children.end_with(runner.record)

    # --- messages ---------------------------------------------------------------------------------

    async def submit(
        self,
        name: str,
        message: str,
        *,
        type: str,  # noqa: A002 - the seed's name
        scopes: tuple[str, ...] = (),
    ) -> Interaction:
        """Accept a message: it is on disk when this returns, and will be sent when its turn comes.

        Args:
            scopes: shared budgets that it is charged to, beside the day's and the total one (`set_cap`).

        Raises:
            SessionNotFound, WrongStatus (paused), WorkDirError, ClaudeNotFound, StoreError: not accepted.
        """
        async with self._turn(name):
            runner = await self._runner(name)
            interaction = Interaction(
                id=str(uuid.uuid4()),
                session_id=runner.record.id,
                number=runner.record.interaction_count + 1,
                type=type,
                prompt=message,
                timestamp=time.time(),
                scopes=(*scopes, *await self.children.scopes(runner.record)),
            )
            await runner.accept(interaction)
        return interaction

    async def finished(self, interaction: Interaction) -> Interaction:
        """The interaction once it has ended; its outcome is on disk.

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
        if stored.state not in ENDED:
            raise _elsewhere(await self._by_id(stored.session_id), "be waited for")
        return stored

    async def wait(self, interaction: Interaction) -> Reply:
        """The answer to a message. What went wrong for the agent is in the reply, not raised."""
        done = await self.finished(interaction)
        record = await self._by_id(done.session_id)
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
        )

    async def _by_id(self, session_id: str) -> SessionRecord:
        for runner in (*self._runners.values(), *self._unsaved.values()):
            if runner.record.id == session_id:
                return runner.record
        record = await self.store.read(sessions.by_id, session_id)
        if record is None:
            raise InternalError(f"session {session_id} is not in the store")
        return record

    # --- delegations ------------------------------------------------------------------------------

    async def delegate(
        self,
        options: SessionOptions,
        task: str,
        *,
        context: str = "",
        accepted: Accepted | None = None,
        scopes: tuple[str, ...] = (),
    ) -> DelegateResult:
        """One task under limits: a new session, one interaction, checks, and the session stopped again.

        Cancelling it stops the delegation before the cancellation goes on.

        Raises:
            NameTaken, WorkDirError, ClaudeNotFound, StoreError: nothing was started.
        """
        await self.create(msgspec.structs.replace(options, delegated=True))
        prompt = f"{task}\n\nContext:\n{context}" if context else task
        return await self._delegation(options.name, prompt, "delegate", accepted, scopes)

    async def continue_(
        self,
        name: str,
        message: str,
        *,
        limits: Limits | None = None,
        accepted: Accepted | None = None,
        scopes: tuple[str, ...] = (),
    ) -> DelegateResult:
        """A follow-up to a session, under its limits, or under those given from now on.

        Raises:
            SessionNotFound, WrongStatus, WorkDirError, ClaudeNotFound, StoreError: nothing was started.
        """
        if limits is not None:
            await self._set_limits(name, limits)
        return await self._delegation(name, message, "continue", accepted, scopes)

    async def _set_limits(self, name: str, limits: Limits) -> None:
        async with self._turn(name):
            record = await self.get(name)
            if name in self._runners:
                raise WrongStatus(name, str(record.status), "change its limits", hint=f"cms stop {name}")
            await self._save_lost(name)
            given = {key: value for key, value in msgspec.structs.asdict(limits).items() if value is not None}
            merged = msgspec.structs.replace(record.options.limits, **given)
            options = msgspec.structs.replace(record.options, limits=merged)
            record = msgspec.structs.replace(record, options=options)
            await self.store.write(sessions.save, record)
            await self._cap_children(record)

    async def _delegation(
        self, name: str, prompt: str, kind: str, accepted: Accepted | None, scopes: tuple[str, ...]
    ) -> DelegateResult:
        over = trio.Event()
        self._delegations[name] = over
        try:
            return await self._carry_out(name, prompt, kind, accepted, scopes)
        finally:
            over.set()
            if self._delegations.get(name) is over:
                del self._delegations[name]

    async def _carry_out(
        self, name: str, prompt: str, kind: str, accepted: Accepted | None, scopes: tuple[str, ...]
    ) -> DelegateResult:
        before = self._runners.get(name)
        taken = False
        try:
            interaction = await self.submit(name, prompt, type=kind, scopes=scopes)
            taken = True
            if accepted is not None:
                accepted(interaction)
            done = await self.finished(interaction)
            outcome, reasons = done.outcome or Outcome.FAILED, list(done.reasons)
            error = done.error
            if outcome is Outcome.COMPLETED:
                record = await self.get(name)
                failed = await run_checks(self.mechanism, self._settings_now(), record.options)
                if failed:
                    outcome, error = Outcome.VERIFICATION_FAILED, failed[0]
                    reasons += failed
            record, receipt = await self.stop(name, reason="the delegation is over")
        except BaseException:
            # Cancelled, or never accepted: in both cases nothing of it may go on. (A session that was alive
            # before, and took nothing of ours, is somebody else's.)
            runner = self._runners.get(name)
            if runner is not None and (taken or runner is not before):
                runner.stop("the delegation was cancelled")
                with trio.CancelScope(shield=True):
                    await runner.wait_gone()
            raise
        if receipt is None:
            receipt = record.receipt  # it had ended by itself
        result = delegate_result(done, record, receipt, outcome=outcome, error=error, reasons=tuple(reasons))
        error = result.error or ""
        if result.status is not done.outcome:
            # A check that failed, or the tripwire: what the agent's own end did not tell.
            done = msgspec.structs.replace(
                done, outcome=result.status, is_error=True, error=error, reasons=result.reasons
            )
            await self.store.write(sessions.save_interaction, done)
        await self._mark(record, result.status, error)
        return result

    async def _mark(self, record: SessionRecord, outcome: Outcome, error: str) -> SessionRecord:
        """A delegation that is over has the status that it was judged with."""
        async with self._turn(record.name):
            if self._known(record.name) is not None:
                return record  # somebody has gone on with it already
            record = await self.get(record.name)
            if record.status is not SessionStatus.STOPPED:
                return record
            status = SessionStatus.COMPLETED if outcome is Outcome.COMPLETED else SessionStatus.STOPPED
            if outcome is Outcome.FAILED:
                status = SessionStatus.FAILED
            record = msgspec.structs.replace(record, status=status, error=error)
            await self.store.write(sessions.save, record)
            return record

    async def start_delegate(self, options: SessionOptions, task: str, *, context: str = "") -> Interaction:
        """Like `delegate`, but returns once accepted; the work goes on in the supervisor's nursery."""
        return await self._detach(
            lambda accepted: self.delegate(options, task, context=context, accepted=accepted)
        )

    async def start_continue(self, name: str, message: str, *, limits: Limits | None = None) -> Interaction:
        """Like `continue_`, but returns once accepted."""
        return await self._detach(
            lambda accepted: self.continue_(name, message, limits=limits, accepted=accepted)
        )

    async def _detach(self, work: Callable[[Accepted], Awaitable[DelegateResult]]) -> Interaction:
        """Start `work` in our own nursery and wait until it is accepted; an error before is the caller's."""
        accepted: list[Interaction] = []
        failures: list[Exception] = []
        told = trio.Event()

        def accept(interaction: Interaction) -> None:
            accepted.append(interaction)
            told.set()

        async def carry() -> None:
            try:
                await work(accept)
            except Exception as error:
                failures.append(error)
                if accepted:
                    # Nobody waits here any more: what came of the message is in the store, this in the log.
                    log.error("a delegation in the background ended by an error", exc_info=error)
            finally:
                told.set()

        self._nursery.start_soon(carry)
        await told.wait()
        if accepted:
            return accepted[0]
        raise failures[0] if failures else WrongStatus("", "stopping", "take on work")

    # --- ends ---------------------------------------------------------------------------------------

    async def resume(self, name: str) -> SessionRecord:
        """Bring a session's process up again, or open a paused one for messages.

        Raises:
            CmsError: it could not be started.
        """
        async with self._turn(name):
            runner = await self._runner(name)
            if runner.frozen:
                await runner.thaw()
            await runner.wait_ready()
            if not runner.paused:
                return runner.record
            runner.unpause()
            record = runner.record
            await self.store.write(sessions.save, record)
            return record

    async def pause(self, name: str, *, freeze: bool = False) -> SessionRecord:
        """Let a live session take no more messages; with `freeze` stop its whole process tree, too.

        Without `freeze`, what it is doing goes on. `resume` undoes both, and so does the end of the process.

        Raises:
            WrongStatus: it has no process.
            ContainmentError: it could not be frozen; it is paused.
            StoreError: it is paused, and that is not on disk.
        """
        async with self._turn(name):
            record = await self.get(name)
            runner = self._runners.get(name)
            if runner is None or runner.ending:
                raise WrongStatus(name, str(record.status), "be paused", hint="only what is alive can be")
            await runner.wait_ready()
            runner.pause()
            if freeze:
                await runner.freeze()
            record = runner.record
            await self.store.write(sessions.save, record)
            return record

    async def fork(self, name: str, new_name: str, *, model: str = "") -> SessionRecord:
        """Enter a session in the store that begins as a branch of another one's conversation.

        The other one goes on, alive or not. The branch has its options (and limits); its figures start at
        zero.

        Raises:
            SessionNotFound, NameTaken, WorkDirError, ClaudeNotFound, StoreError: nothing was changed.
            WrongStatus: there is no conversation yet.
        """
        parent = await self.get(name)
        if not parent.claude_session_id:
            raise WrongStatus(name, str(parent.status), "be forked", hint="it has no conversation yet")
        options = msgspec.structs.replace(
            parent.options,
            name=new_name,
            model=model or parent.options.model,
            delegated=False,
            fork_of=parent.claude_session_id,
        )
        return await self.create(options, parent_id=parent.id)

    async def delete(
        self, name: str, *, force: bool = False, purge: bool = False
    ) -> tuple[SessionRecord, Receipt | None, Retired]:
        """Remove a session and all that is known of it, but the money: that stays in the ledger.

        Its raw log goes to the trash and its audit log stays, or with `purge` both go.

        Raises:
            WrongStatus: it is alive, and not `force`; or its end cannot be proved.
            SessionNotFound, StoreError: nothing was removed.
        """
        record, receipt = await self.get(name), None
        if name in self._runners:
            if not force:
                hint = f"cms stop {name} first, or delete it with --force, which kills it"
                raise WrongStatus(name, str(record.status), "be deleted", hint=hint)
            record, receipt = await self.kill(name, reason="deleted")
        elif record.status is SessionStatus.ERROR:
            record, receipt = await self.kill(name)
        while (delegation := self._delegations.get(name)) is not None:
            await delegation.wait()
        async with self._turn(name):
            unproved = receipt is not None and not receipt.empty and bool(receipt.left or not force)
            if name in self._runners or unproved:
                raise WrongStatus(name, str((await self.get(name)).status), "be deleted")
            self._unsaved.pop(name, None)
            record = await self.get(name)
            if record.status in LIVE:
                raise _elsewhere(record, "be deleted")
            last = Decision(
                session_id=record.id,
                interaction_id="",
                at=time.time(),
                tool="",
                detail=name,
                verdict="deleted",
                cost=record.total_cost_usd,
                kind="delete",
            )
            await self.store.write(sessions.delete, record.id, time.time(), None if purge else last)
            self._unkilled.forget(record.id)
            await self.store.write(money.set_cap, lineage.scope(record.id), None)
            log = raw_log_path(self.settings.raw, record.id)
            gone = retire(log, self.settings.trash, name, purge=purge, now=time.time())
        return record, receipt, gone

    async def wait_quiet(self, name: str) -> None:
        """Until a session has nothing left to do: no message, and no delegation without its verdict.

        Raises:
            SessionNotFound: there is none of that name.
        """
        await self.get(name)
        while True:
            runner, delegation = self._runners.get(name), self._delegations.get(name)
            if delegation is not None:
                await delegation.wait()
            elif runner is not None and not runner.quiet:
                await runner.wait_quiet()
            else:
                return

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
        """The sessions whose last message ended because a person was needed, with that message."""
        found = []
        for interaction in await self.store.read(sessions.unanswered):
            record = await self._by_id(interaction.session_id)
            if not name or record.name == name:
                found.append((record, interaction))
        return found

    async def totals(self, by: Grouping, *, since: float | None = None) -> list[Total]:
        """What was spent, by session, model or day."""
        return await self.store.read(money.totals, by, since=since)

    async def interrupt(self, name: str) -> SessionRecord:
        """End what a session is doing; its process lives on.

        Raises:
            WrongStatus: it is doing nothing.
        """
        record = await self.get(name)
        runner = self._runners.get(name)
        if runner is None or not runner.interrupt():
            hint = f"it stands still: cms resume {name}" if runner is not None and runner.frozen else ""
            raise WrongStatus(name, str(record.status), "be interrupted", hint=hint)
        return runner.record

    async def stop(
        self, name: str, *, reason: str = "stopped", grace: float | None = None
    ) -> tuple[SessionRecord, Receipt | None]:
        """End a session's process gracefully; None instead of a receipt if it had none."""
        return await self._end(
            name, lambda runner: runner.stop(reason, grace=math.inf if grace is None else grace)
        )

    async def kill(self, name: str, *, reason: str = "killed") -> tuple[SessionRecord, Receipt | None]:
        """End a session's process tree by force, and prove it; those of the sessions that it started, too."""
        return await self._end(name, lambda runner: runner.kill(reason))

    async def _end(self, name: str, end: Callable[[Runner], None]) -> tuple[SessionRecord, Receipt | None]:
        # No lock: an end must get past whatever else waits for this session.
        runner = self._runners.get(name)
        if runner is None:
            record = await self.get(name)
            if record.status in LIVE:
                raise _elsewhere(record, "be ended")
            if record.status is SessionStatus.ERROR:
                async with self._turn(name):
                    return await self._unkilled.strike(record)
            return record, None
        for below in self.children.below(runner.record.id):
            end(below)  # at once: a parent that lingers must not go on through them
        end(runner)
        await runner.wait_gone()
        await self.children.wait_gone(runner.record.id)
        return runner.record, runner.receipt

    async def stop_all(self, *, grace: float) -> None:
        """Stop every session within `grace` seconds; what is not polite enough by then is killed."""
        self._closed = True
        for runner in list(self._runners.values()):
            runner.stop("cms is shutting down", grace=grace)
        for runner in list(self._runners.values()):
            await runner.wait_gone()


def _elsewhere(record: SessionRecord, wanted: str) -> WrongStatus:
    """The store says that it is alive, and it is not here."""
    hint = "another cms process has it: go on there, or end that"
    return WrongStatus(record.name, str(record.status), wanted, hint=hint)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What a group is about: what is no cancellation, if there is such."""
    told = group.subgroup(lambda error: not isinstance(error, trio.Cancelled))
    if told is None:
        return group
    first: BaseException = told
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
