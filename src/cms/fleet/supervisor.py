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

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import trio

from cms.config import Settings, caller, find_claude, load_settings_and_file
from cms.containment import Mechanism, find_mechanism
from cms.disk import ask_disk
from cms.errors import UsageError, WrongStatus
from cms.fleet.admission import check_containment
from cms.fleet.changes import end_cut_off
from cms.fleet.conversations import who_has
from cms.fleet.delegation import Accepted, Delegation, Delegations
from cms.fleet.merge_queue import MergeQueue
from cms.fleet.processes import Processes
from cms.fleet.search import Search, open_search
from cms.fleet.session_hooks import SessionHooks
from cms.fleet.sessions import elsewhere
from cms.fleet.telemetry import Telemetry
from cms.fleet.unkilled import Unkilled
from cms.groups import at_own_door, single_error
from cms.layers import change
from cms.live.process import check_work_dir
from cms.live.runner import OpenChildSocket
from cms.session import lineage
from cms.session.audit import about
from cms.session.judge import SCHEMA
from cms.session.model import (
    LIVE,
    Attachment,
    DelegateResult,
    Interaction,
    Receipt,
    SessionOptions,
    SessionRecord,
    SessionStatus,
)
from cms.session.rounds import NextMessage
from cms.session.terms import Terms
from cms.store import batch_tasks, money, sessions
from cms.store.attachments import of_session
from cms.store.rawlog import raw_log_path
from cms.store.records import Recovery
from cms.store.recovery import recover
from cms.store.store import Store, open_store
from cms.store.trash import Retired, retire
from cms.transcripts import kept_environ
from cms.units import check_commands, check_name

log = logging.getLogger(__name__)

#: Gives the way from the sessions of a supervisor to cms.
MakeChildSockets = Callable[["Supervisor"], OpenChildSocket]


@asynccontextmanager
async def open_supervisor(
    settings: Settings | None = None, *, child_sockets: MakeChildSockets | None = None
) -> AsyncIterator[Supervisor]:
    """A supervisor with its store and its nursery; at the end nothing that it started is left.

    Args:
        child_sockets: how its sessions can use it themselves; None: they cannot.

    Raises:
        HomeUnusable, StoreError: there is no place for the store.
        ContainmentError: no mechanism of this machine can hold a process tree.
    """
    settings = settings or load_settings_and_file()
    mechanism = await find_mechanism(settings.containment)
    # What the caller's block raises is the caller's, and comes out as it went in: not in a group of ours.
    raised: BaseException | None = None
    telemetry: Telemetry | None = None
    async with open_store(settings) as store, open_search(settings, store) as search:
        recovery = await store.write(recover, time.time())
        await end_cut_off(settings)
        unkilled = Unkilled(store)
        try:
            async with trio.open_nursery() as nursery:
                supervisor = Supervisor(
                    settings,
                    store,
                    mechanism,
                    nursery,
                    recovery,
                    unkilled,
                    search,
                    child_sockets=child_sockets,
                )
                nursery.start_soon(at_own_door, "the clearing", supervisor.clear_left_scratch)
                nursery.start_soon(at_own_door, "what is still to be told", supervisor.hooks.recover)
                try:
                    yield supervisor
                except GeneratorExit:
                    raise
                except BaseException as error:
                    raised = error
                finally:
                    # Each runner hears the cancellation, walks down its ladder under a shield, and only then
                    # lets the nursery end.
                    telemetry = supervisor.telemetry
                    supervisor.close()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            # No runner raises an Exception. What is left is a cancellation, or Ctrl-C (it lands in any task).
            with single_error():
                raise group if raised is None else BaseExceptionGroup("at the end", [raised, group]) from None
        finally:
            await unkilled.strike_all()
            if telemetry is not None:
                await telemetry.close()
    if raised is not None:
        raise raised


class Supervisor(Processes):
    """Made by `open_supervisor`. What it can be asked is in `sessions.Sessions`.

    Attributes:
        recovery: what an earlier process left behind when it died, as it now stands.
        search: what was said and done, by words.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        mechanism: Mechanism,
        nursery: trio.Nursery,
        recovery: Recovery,
        unkilled: Unkilled,
        search: Search,
        *,
        child_sockets: MakeChildSockets | None = None,
    ) -> None:
        super().__init__(settings, store, mechanism, nursery, unkilled)
        self.recovery = recovery
        self.merge_queue = MergeQueue(self)
        self.search = search
        self._delegations = Delegations(self, nursery)
        self.hooks = SessionHooks(self, nursery)
        if child_sockets is not None:
            self._child_sockets = child_sockets(self)

    def __repr__(self) -> str:
        return f"<Supervisor {self.settings.home} live={self.live_count()}>"

    def close(self) -> None:
        super().close()
        self.hooks.close()

    # --- making and finding -----------------------------------------------------------------------

    async def create(
        self,
        options: SessionOptions,
        *,
        parent: SessionRecord | None = None,
        judges: str = "",
        conversation: str = "",
    ) -> SessionRecord:
        """Enter a session in the store; nothing is started yet.

        Args:
            parent: the one whose conversation it branches off.
            conversation: that it goes on with; "": it begins one.
            judges: the message whose work it judges; then its name is of our making.

        Raises:
            NameTaken, WorkDirError, ClaudeNotFound, StoreError: nothing was changed.
            UsageError: no session can be called so, a check is empty, its schema is none, or whoever asks
                may not start such a session (`session.lineage`).
        """
        if not judges:
            check_name(options.name)
        check_commands(options.verify)
        who, settings = caller.get(), self.settings_now()
        for schema in (options.json_schema, SCHEMA if options.judge else ""):
            await self.answers.check(schema)
        options = await self.children.admit(options, settings.environ)
        await check_work_dir(options.work_dir)
        check_containment(self.mechanism, self.settings, options)
        if options.apply and options.isolate == "no":
            raise UsageError(
                "--apply on-pass needs --isolate",
                hint="add --isolate, or leave out --apply",
            )
        await self.changes.check(options)
        self.telemetry.check(options, settings.environ)
        await self._unkilled.check(options)
        find_claude(settings)
        now = time.time()
        record = SessionRecord(
            id=str(uuid.uuid4()),
            name=options.name,
            status=SessionStatus.CREATED,
            options=options,
            created=now,
            last_saved=now,
            parent_id="" if parent is None else parent.id,
            begun_in=kept_environ(settings.environ) if parent is None else parent.begun_in,
            depth=who.depth,
            started_by=who.session_id,
            judges=judges,
            claude_session_id=conversation,
        )
        await self.store.write(sessions.add, record)
        await self._cap_children(record)
        return record

    async def _cap_children(self, record: SessionRecord) -> None:
        """What a session and everything that it starts may spend together is what it may spend."""
        if record.options.allow_cms and record.options.limits.max_cost is not None:
            await self.set_cap(lineage.scope(record.id), record.options.limits.max_cost)

    # --- shared budgets ---------------------------------------------------------------------------

    async def set_cap(self, scope: str, usd: float | None) -> None:
        """Put a cap on what may be spent in a scope, change it, or (None) take it off.

        `session.budget.DAY` and `ALL` hold for everybody; any other scope for the messages that name it.
        Whoever is at work learns it at once.
        """
        await self.store.write(money.set_cap, scope, usd)
        for runner in self._runners.values():
            runner.check_budget()

    # --- messages ---------------------------------------------------------------------------------

    async def submit(
        self,
        name: str,
        message: str,
        *,
        type: str,  # noqa: A002 - the seed's name
        scopes: tuple[str, ...] = (),
        of: Delegation | None = None,
        round: int = 0,  # noqa: A002 - the record's name
        before: float = 0.0,
        after: Interaction | None = None,
        attachments: tuple[Attachment, ...] = (),
    ) -> Interaction:
        """Accept a message: it is on disk when this returns, and will be sent when its turn comes.

        Args:
            scopes: shared budgets that it is charged to, beside the day's and the total one (`set_cap`).
            of: the delegation that it begins, or that it goes on with.
            round, before: as `Interaction` has them.
            after: the round that it repairs, as that is to be stored in the same step; only a session that
                is still up gets it.

        Raises:
            SessionNotFound, WorkDirError, ClaudeNotFound, StoreError: not accepted.
            WrongStatus: nor then: the session is paused, at work on a delegation, or not up any more.
        """
        async with self.turn(name):
            self.under_way.check_free(name, of)
            if after is not None and ((warm := self._runners.get(name)) is None or warm.ending):
                raise WrongStatus(name, "not alive any more", "go on")
            runner = await self._ensure_runner(name)
            interaction = Interaction(
                id=str(uuid.uuid4()),
                session_id=runner.record.id,
                number=runner.record.interaction_count + 1,
                type=type,
                prompt=message,
                timestamp=time.time(),
                scopes=tuple(dict.fromkeys((*scopes, *await self.children.scopes(runner.record)))),
                round=round,
                before=before,
                attachments=attachments,
            )
            await runner.accept(interaction, *(() if after is None else (after,)))
        return interaction

    # --- delegations ------------------------------------------------------------------------------

    async def delegate(
        self,
        options: SessionOptions,
        task: str,
        *,
        context: str = "",
        accepted: Accepted | None = None,
        scopes: tuple[str, ...] = (),
        within: trio.CancelScope | None = None,
        grace: float | None = None,
        judges: str = "",
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        """One task under limits: a new session, one interaction, checks, and the session stopped again.

        Cancelling it stops the delegation and gives it its verdict before the cancellation goes on.

        Args:
            context: put below the task.
            accepted: called once the message is on disk.
            scopes: shared budgets that it is charged to, beside the day's and the total one (`set_cap`).
            within: not entered yet; to cancel it is to cancel the delegation, and to have its result.
            grace: seconds that it may take to end once it is cancelled, before it is forced to.
            judges: as in `create`.

        Raises:
            NameTaken, WorkDirError, ClaudeNotFound, StoreError: nothing was started.
            Interrupted: `within` was cancelled before anything was accepted.
        """

        await self.create(msgspec.structs.replace(options, delegated=True), judges=judges)
        prompt = f"{task}\n\nContext:\n{context}" if context else task
        message = NextMessage(prompt, "delegate", attachments=attachments)
        return await self._delegations.carry_out(
            options.name, message, accepted=accepted, scopes=scopes, within=within, grace=grace
        )

    async def continue_(
        self,
        name: str,
        message: str,
        *,
        terms: Terms = Terms(),  # noqa: B008 - it is frozen
        accepted: Accepted | None = None,
        scopes: tuple[str, ...] = (),
        within: trio.CancelScope | None = None,
        grace: float | None = None,
        attachments: tuple[Attachment, ...] = (),
    ) -> DelegateResult:
        """A follow-up to a session. Else like `delegate`.

        Args:
            terms: what is to be different from now on. What is alive and has nothing to do is stopped
                first: its process was started under the old ones.

        Raises:
            SessionNotFound, WrongStatus, WorkDirError, ClaudeNotFound, StoreError: nothing was started.
            Interrupted: as there.
        """
        if not terms.empty:
            await self.set_terms(name, terms)
        following = NextMessage(message, "continue", attachments=attachments)
        return await self._delegations.carry_out(
            name, following, accepted=accepted, scopes=scopes, within=within, grace=grace
        )

    async def go_on(
        self, name: str, message: str, *, accepted: Accepted | None = None, scopes: tuple[str, ...] = ()
    ) -> DelegateResult:
        """Go on with a delegation that was cut off, a repair that it owes first. Else like `continue_`.

        Args:
            message: what the session is told where no repair is owed.
        """
        return await self._delegations.go_on(name, message, accepted=accepted, scopes=scopes)

    async def judge_again(self, name: str) -> DelegateResult:
        """The result of a session's newest delegation, which nobody lived to hear, or to judge.

        Raises:
            SessionNotFound: there is none of that name.
            WrongStatus: it has had no message, or is at work.
        """
        session = await self.get(name)
        last = next(iter(await self.interactions(name, 1)), None)
        if last is None or last.outcome is None:
            raise WrongStatus(name, str(session.status), "be judged")
        return await self._delegations.judge_again(session, last)

    async def set_terms(self, name: str, terms: Terms) -> None:
        """Other terms for a session from now on; what they leave open stays as it was."""
        await self.answers.check(terms.json_schema or "")
        runner = self.runner(name)
        if runner is not None and runner.quiet:
            # Refused, if it is, before anything is ended.
            await self.children.narrow_again(runner.record, change(runner.record.options, terms))
            await self.stop(name, reason="it goes on under other terms")
        async with self.turn(name):
            record = await self.get(name)
            if name in self._runners:
                raise WrongStatus(name, str(record.status), "change its limits", hint=f"cms stop {name}")
            await self._save_lost(name)
            options = await self.children.narrow_again(record, change(record.options, terms))
            record = msgspec.structs.replace(record, options=options)
            await self.store.write(sessions.save, record)
            await self._cap_children(record)

    async def start_delegate(
        self,
        options: SessionOptions,
        task: str,
        *,
        context: str = "",
        attachments: tuple[Attachment, ...] = (),
    ) -> Interaction:
        """Like `delegate`, but returns once accepted; the work goes on in the supervisor's nursery."""
        work = partial(self.delegate, options, task, context=context, attachments=attachments)
        return await self._delegations.start(lambda accepted: work(accepted=accepted))

    async def start_continue(
        self,
        name: str,
        message: str,
        *,
        terms: Terms = Terms(),  # noqa: B008 - it is frozen
        attachments: tuple[Attachment, ...] = (),
    ) -> Interaction:
        """Like `continue_`, but returns once accepted."""
        go_on = partial(self.continue_, name, message, terms=terms, attachments=attachments)
        return await self._delegations.start(lambda accepted: go_on(accepted=accepted))

    # --- the record -----------------------------------------------------------------------------------

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
        return await self.create(options, parent=parent)

    async def adopt(self, options: SessionOptions, conversation_id: str) -> SessionRecord:
        """Make a session of a conversation that was begun outside. What it has cost until now is not ours.

        Raises:
            UsageError: there is no such conversation, it is a session's already, or a claude is in it.
            CmsError: as from `create`.
        """
        found = next(iter(await self.conversations(conversation_id, 1)), None)
        if found is None or found.id != conversation_id:
            raise UsageError(f"there is no conversation {conversation_id}", hint="`cms adopt` lists them")
        if found.session:
            raise UsageError(
                f"that conversation is session {found.session!r} already",
                hint=f"cms send {found.session} continues it",
            )
        environ = self.settings_now().environ
        if pid := await ask_disk(partial(who_has, conversation_id, environ), "what claude runs"):
            raise UsageError(
                f"claude is running in that conversation (pid {pid})", hint="leave it there first (/exit)"
            )
        return await self.create(options, conversation=conversation_id)

    async def rename(self, name: str, new_name: str, *, by_batch: bool = False) -> SessionRecord:
        """Give a session another name, alive or not. All that is its own goes by its id, and stays.

        Args:
            by_batch: a batch whose task has the name makes room for another try.

        Raises:
            UsageError: no session can be called so.
            SessionNotFound, NameTaken, StoreError: nothing was changed.
            WrongStatus: somebody works with it by its name (a delegation, a batch, the session that started
                it); or it lives in another cms process.
        """
        check_name(re.sub(r"~[0-9]+\Z", "", new_name))  # `batch_sessions` makes room like that
        async with self.turn(name):
            record = await self.get(name)
            if self.under_way.has(name):
                hint = f"wait for the delegation, or end it with `cms stop {name}`"
                raise WrongStatus(name, str(record.status), "be renamed", hint=hint)
            if record.status in LIVE and name not in self._runners:
                raise elsewhere(record, "be renamed")
            if not by_batch:
                await self._check_not_needed(record)
            await self._save_lost(name)
            entry = about(record, "rename", "renamed", at=time.time(), detail=f"{name} -> {new_name}")
            await self.store.write(sessions.rename, record.id, new_name, entry)
            for runners in (self._runners, self._unsaved):
                if (runner := runners.pop(name, None)) is not None:
                    runner.rename(new_name)
                    runners[new_name] = runner
            return await self.get(new_name)

    async def _check_not_needed(self, record: SessionRecord) -> None:
        """Fails if the session's name is what a batch or a session that lives knows it by."""
        if batch := await self.store.read(batch_tasks.batch_that_needs, record.name):
            hint = f"batch {batch} works in it by its name: once that task is over"
            raise WrongStatus(record.name, str(record.status), "be renamed", hint=hint)
        starters = [one.record for one in self._runners.values() if one.record.id == record.started_by]
        if starters:
            hint = f"{starters[0].name} started it and knows it by its name: once that has ended"
            raise WrongStatus(record.name, str(record.status), "be renamed", hint=hint)

    async def tag(self, name: str, add: Sequence[str], remove: Sequence[str]) -> SessionRecord:
        """Give a session tags and take others away, alive or not.

        Raises:
            SessionNotFound, StoreError: nothing was changed.
            WrongStatus: nor then: it lives in another cms process.
        """
        async with self.turn(name):
            record = await self.get(name)
            tags = await self.store.write(sessions.tag, record.id, add, remove)
            if (runner := self.known(name)) is not None:
                runner.set_tags(tags)
            return await self.get(name)

    async def delete(
        self, name: str, *, force: bool = False, purge: bool = False
    ) -> tuple[SessionRecord, Receipt | None, Retired]:
        """Remove a session and all that is known of it, but the money: that stays in the ledger.

        Its raw log goes to the trash and its audit log stays, or with `purge` both go.

        Raises:
            WrongStatus: it is alive, or has a change that would be lost, and not `force`; or its end cannot
                be proved.
            SessionNotFound, StoreError: nothing was removed.
        """
        record, receipt = await self.get(name), None
        if name in self._runners:
            if not force:
                hint = f"run `cms stop {name}` first, or use --force to kill it"
                raise WrongStatus(name, str(record.status), "be deleted", hint=hint)
            record, receipt = await self.kill(name, reason="deleted")
        elif record.status is SessionStatus.ERROR:
            record, receipt = await self.kill(name)
        while await self.under_way.wait_over(name):
            pass
        async with self.turn(name):
            unproved = receipt is not None and not receipt.empty and bool(receipt.left or not force)
            if name in self._runners or unproved:
                raise WrongStatus(name, str((await self.get(name)).status), "be deleted")
            self._unsaved.pop(name, None)
            record = await self.get(name)
            if record.status in LIVE:
                raise elsewhere(record, "be deleted")
            if not force:
                await self.changes.check_droppable(record)
            last = about(record, "delete", "deleted", at=time.time(), detail=name)
            with_it = await self.store.read(of_session, record.id)
            await self.store.write(sessions.delete, record.id, time.time(), None if purge else last)
            await self.forget_attachments(with_it)
            self._unkilled.forget(record.id)
            await self.store.write(money.set_cap, lineage.scope(record.id), None)
            log = raw_log_path(self.settings.raw, record.id)
            gone = retire(log, self.settings.trash, name, purge=purge, now=time.time())
            await self.changes.remove(record)
            await self.search.forget(record.id)
        return record, receipt, gone
