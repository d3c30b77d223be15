"""One live session, from the start of its process to the proof that nothing of it is left.

A `Runner` is born with a process and dies with it; a session has one at a time. Its tasks:

- the reader (reader.py) takes events; the driver (driver.py) folds them and carries out what `decide` says;
- the clock (`Driver.clock`) calls `decide` again when something is due without an event (`wake_at`);
- the write queue (write_queue.py) carries out, in order, what must be on disk before it is done;
- the sender (sender.py) stores that a queued message is being sent, sends it, and waits for its end;
- the path lookup (path_lookup.py) finds out where the paths of tool calls lead, in threads;
- `run` itself waits for the reason to end (ending.py), whatever it is, walks down the stop ladder while the
  reader still reads, and has written down what came of it (final_record.py). Cancellation from outside is one
  such reason: everything else runs shielded from it, so that `claude` is never cut off from a reader while it
  still flushes.

What they share is the context (context.py). A task that fails, by a bug too, is one more reason to end
(`Ending.guard`): it never takes the others with it, for they are needed until the end is reached.

A runner raises nothing: what went wrong is in `failure`, in the record and in each interaction. Each message
that was accepted ends, its end is stored, and whoever waits is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, suppress
from pathlib import Path

import msgspec
import trio

from cms.config import Settings, find_claude
from cms.containment import Mechanism
from cms.errors import AgentDied, ClaudeUnfit, CmsError, ContainmentError, StoreError, WrongStatus
from cms.live.argv import build_environment
from cms.live.context import SessionContext
from cms.live.driver import Driver
from cms.live.ending import Ending
from cms.live.final_record import FinalRecord
from cms.live.handshake import check_version, shake_hands
from cms.live.launch import Launcher
from cms.live.log_rows import entries_of_walls
from cms.live.pending import PendingMessages
from cms.live.process import AgentProcess
from cms.live.reader import Reader
from cms.live.sender import Sender
from cms.live.stop_ladder import Ladder
from cms.live.watchers import Watchers
from cms.live.workspace import LentView, Workspace
from cms.live.write_queue import WriteQueue
from cms.protection.path_guard import PathGuard
from cms.protection.scratch import session_folders
from cms.session.decide import PATIENCE
from cms.session.gate import Rules
from cms.session.in_force import Expected
from cms.session.model import (
    Interaction,
    LiveSession,
    Outcome,
    Progress,
    Receipt,
    SessionRecord,
    SessionStatus,
    Walls,
)
from cms.session.questions import OpenQuestion, PersonAnswer
from cms.session.startup import waits_for
from cms.session.state import Accepted, Launched, Phase
from cms.store import audit, live_files, sessions
from cms.store.rawlog import RawLog, raw_log_path
from cms.store.store import Store
from cms.telemetry.session_trace import SessionTrace

#: Seconds for a whole process tree to stand still.
_FREEZE_PATIENCE = 5.0

#: Opens the way from a session with that environment to cms, and gives the socket at its end. Only the daemon
#: has one.
OpenChildSocket = Callable[[SessionRecord, Mapping[str, str]], AbstractAsyncContextManager[Path]]


class Runner:
    """A session with a live process.

    Args:
        rules: what it is held to (`protection.rules.load_rules`).
        workspace: the view of its folder that it works in; None: the folder itself.
        resume: the conversation that the process goes on with; "": a new one.
        fork: it branches off from that one.
        trace: is told what it does (`telemetry.session_trace`).
        child_sockets: opens the way through which it may use cms, for as long as it lives; None: it may not.
        terminal: where a person is to have it, in claude's own interface (`attached.AttachedRunner`).

    Attributes:
        held_by: who has it by hand; "": nobody, and it takes messages.
    """

    held_by = ""

    def __init__(
        self,
        record: SessionRecord,
        *,
        rules: Rules,
        settings: Settings,
        store: Store,
        mechanism: Mechanism,
        workspace: Workspace | LentView | None = None,
        resume: str,
        fork: bool = False,
        child_sockets: OpenChildSocket | None = None,
        trace: SessionTrace | None = None,
        terminal: Path | None = None,
    ) -> None:
        self._child_sockets = child_sockets
        self._settings = settings
        self._store = store
        self._context = context = SessionContext(record, trace)
        rules = msgspec.structs.replace(rules, start_timeout=settings.start_timeout)
        self._end = end = Ending(context)
        self._writes = writes = WriteQueue(end.fail)
        self._watchers = watchers = Watchers(context.progress)
        self._pending = pending = PendingMessages()
        self._driver = driver = Driver(
            context, end, rules, store=store, writes=writes, watchers=watchers, pending=pending
        )
        self._sender = Sender(
            context, end, driver, store=store, watchers=watchers, attachments=settings.attachments
        )
        self._final = FinalRecord(
            context, end, driver, self._sender, store=store, pending=pending, grace=settings.grace
        )
        self._path_guard = PathGuard(rules, settings.environ, settings.home)
        self._launcher = Launcher(
            context,
            self._path_guard,
            settings=settings,
            mechanism=mechanism,
            workspace=workspace,
            resume=resume,
            fork=fork,
            terminal=terminal,
        )
        self._process: AgentProcess | None = None
        self._process_id = ""
        self._ready = trio.Event()
        self._opened = False
        self._ladder: Ladder | None = None
        self._gone = trio.Event()
        self._lost_wall = ""  # which, and why

    def __repr__(self) -> str:
        record = self.record
        return f"<Runner {record.name!r} {record.status} pid={record.pid} queue={len(self._sender)}>"

    # --- what others may ask and do ---------------------------------------------------------------

    def rename(self, name: str) -> None:
        """It is called so from now on. (A save on its way takes nothing back: `store.sessions.save`.)"""
        self._context.update(name=name, options=msgspec.structs.replace(self.record.options, name=name))
        with suppress(StoreError):  # the old name stands there, and finds it too
            self._note_whereabouts()

    def set_tags(self, tags: tuple[str, ...]) -> None:
        """Those that it has in the store. (A save on its way takes nothing back: `store.sessions.save`.)"""
        self._context.update(options=msgspec.structs.replace(self.record.options, tags=tags))

    @property
    def record(self) -> SessionRecord:
        """The session as it stands, always current."""
        return self._context.record

    @property
    def receipt(self) -> Receipt | None:
        """How its process ended, once it has."""
        return self._final.receipt

    @property
    def failure(self) -> CmsError | None:
        """Why it could not start or did not go on, or None."""
        return self._end.failure

    @property
    def activity(self) -> str:
        """What it is doing now, in a line."""
        if self.frozen:
            return f"frozen: {self._driver.activity}" if self._driver.activity else "frozen"
        if self._context.state.phase is Phase.STARTING:
            return waits_for(self._context.state)
        return self._driver.activity if self._context.state.phase is Phase.BUSY else ""

    @property
    def ending(self) -> bool:
        """Whether its end has begun: it takes no more messages."""
        return self._end.has_begun()

    async def wait_ready(self) -> None:
        """Until the process is up.

        Raises:
            CmsError: it could not be started.
        """
        await self._ready.wait()
        if not self._opened:
            raise self._end.failure or WrongStatus(self.record.name, "stopping", "start")

    @property
    def misled(self) -> bool:
        """Whether it never came up because it took the wrong one of two ways to begin: to resume, or anew.

        Its record knows better now.
        """
        return not self._opened and self._final.misled

    @property
    def unsaved(self) -> bool:
        """Whether something of its end is not on disk; `save` tries again."""
        return self._final.unsaved

    async def save(self) -> None:
        """Try again to store the end.

        Raises:
            StoreError: it still cannot be written.
        """
        await self._final.save()

    async def kill_again(self) -> Receipt:
        """Try once more to end what the end has left alive. Only after `wait_gone`."""
        return await self._final.kill_again()

    def forget(self) -> None:
        """The session is being deleted: what is still to be ended of it is not written down any more."""
        self._final.forget()

    async def wait_gone(self) -> None:
        """Until nothing of the process is left and that is stored."""
        await self._gone.wait()

    async def accept(self, interaction: Interaction, *others: Interaction) -> None:
        """Put a message on disk, then in the queue: from here on it is not lost.

        Args:
            others: messages that stand differently from then on, stored in the same step.

        Raises:
            WrongStatus: the session is paused, or its end has begun.
            StoreError: it could not be stored; nothing was accepted.
        """
        self._check_open()
        before = self.record.interaction_count
        self._context.update(interaction_count=interaction.number)
        try:
            await self._store.write(sessions.save, self.record, *others, interaction)
        except BaseException:
            self._context.update(interaction_count=before)
            raise
        self._pending.add(interaction)
        self._sender.put(interaction)
        self._driver.apply(Accepted())
        if self._final.closed:
            # Its end came while the message was being stored, and nobody will look into the queue again.
            with trio.CancelScope(shield=True):
                await self._final.write()

    def check_not_held(self, wanted: str) -> None:
        """Nobody has it by hand.

        Raises:
            WrongStatus: somebody has.
        """
        if self.held_by:
            name = self.record.name
            hint = f"{self.held_by} has it; leave claude there, or end it with `cms stop {name}`"
            raise WrongStatus(name, "attached", wanted, hint=hint)

    def _check_open(self) -> None:
        name = self.record.name
        self.check_not_held("take a message")
        if self._end.has_begun():
            raise WrongStatus(name, "stopping", "take a message", hint="try again in a moment")
        if self._context.paused:
            raise WrongStatus(name, "paused", "take a message", hint=f"cms resume {name}")

    async def wait_interaction(self, interaction_id: str) -> Interaction | None:
        """Until that interaction has ended. None if it is not owed (any more): then the store has it."""
        return await self._pending.wait(interaction_id)

    def interrupt(self, reason: str = "interrupted") -> bool:
        """End the interaction in flight; the process lives on. False if there is none, or it is frozen."""
        if self.frozen:
            return False
        if self._sender.recall(reason):
            return True  # it is not written yet, and will not be
        if self._context.state.turn is None or self._context.state.phase is not Phase.BUSY:
            return False
        self._driver.break_off(Outcome.INTERRUPTED, reason)
        return True

    def stop(self, reason: str, *, grace: float = math.inf, failed: bool = False) -> None:
        """Begin the end, gracefully; `wait_gone` tells when it is done."""
        self._end.begin(reason, SessionStatus.FAILED if failed else SessionStatus.STOPPED, grace=grace)

    def kill(self, reason: str) -> None:
        """Begin the end by force, or make a graceful one forceful."""
        self._end.force(reason)

    def set_paused(self, paused: bool) -> None:
        """Accept no more messages (what is in flight goes on), or accept them again."""
        self._context.set_paused(paused)
        if not self._end.has_begun():
            self._context.update(status=self._context.status())

    @property
    def paused(self) -> bool:
        return self._context.paused

    async def freeze(self) -> None:
        """Stop every process of the session at once, and the clock of its limits with them.

        What it was waiting for (an API call, a server) may give up meanwhile; claude asks again afterwards.

        Raises:
            WrongStatus: it has no process, or is ending.
            ContainmentError: some of it would not stand still; it goes on.
        """
        process = self._process
        if process is None or self.ending:
            raise WrongStatus(self.record.name, str(self.record.status), "be frozen")
        self._context.stop_clock()
        stands = False
        try:
            with trio.move_on_after(_FREEZE_PATIENCE):
                await process.container.freeze()
                stands = True
        finally:
            if not stands:
                with trio.CancelScope(shield=True):
                    await self.thaw()
        if not stands:
            raise ContainmentError(
                f"not every process of {self.record.name!r} was frozen within {_FREEZE_PATIENCE:g} s",
                hint=f"`cms doctor` shows what can be frozen here; `cms kill {self.record.name}` ends it",
            )
        if not self._end.has_begun():
            self._context.update(status=self._context.status())
        self._watchers.notify(self._context.progress("status"))

    async def thaw(self) -> None:
        """Let a frozen session go on from where it stood."""
        if self._process is not None:
            await self._process.container.thaw()
        self._context.start_clock()
        if not self._end.has_begun():
            self._context.update(status=self._context.status())
        self._end_without_wall()

    @property
    def frozen(self) -> bool:
        return self._context.frozen

    def live(self) -> LiveSession:
        """How it stands, and what its process tree takes just now."""
        process = self._process
        taken = process.container.statistics() if process is not None and not self._gone.is_set() else None
        return LiveSession(
            session=self.record,
            activity=self.activity,
            frozen=self.frozen,
            queued=len(self._sender),
            questions=len(self.questions()),
            processes=0 if taken is None else taken.processes,
            memory=0 if taken is None else taken.rss if taken.memory is None else taken.memory,
            task=self._driver.task,
            since=self._driver.since,
        )

    @property
    def quiet(self) -> bool:
        """Whether it owes nothing."""
        return self._pending.quiet

    async def wait_quiet(self) -> None:
        """Until every message that it has accepted by now, or accepts meanwhile, has ended."""
        await self._pending.wait_quiet()

    def questions(self) -> list[OpenQuestion]:
        """The calls that wait for a person's answer."""
        return self._driver.questions()

    def answer_question(self, question_id: str, answer: PersonAnswer) -> None:
        """A person's answer to a call that waits.

        Raises:
            WrongStatus: it does not wait any more.
        """
        if not self._driver.answer_question(question_id, answer):
            raise WrongStatus(self.record.name, str(self.record.status), f"take an answer to {question_id}")

    def check_budget(self) -> None:
        """A cap has changed: learn at once what the interaction in flight may still spend."""
        self._driver.check_budget()

    def watch(self) -> AbstractContextManager[trio.MemoryReceiveChannel[Progress]]:
        """Notes on what the session does, until its process is gone. Who lags behind loses some."""
        return self._watchers.watch()

    # --- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole life, from start to proof. Ends only when nothing of the process is left."""
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._hear_cancel)
                with trio.CancelScope(shield=True):
                    await self._live()
                outer.cancel_scope.cancel()
        finally:
            self._ready.set()
            self._pending.release()
            self._gone.set()
            self._watchers.close()

    async def _hear_cancel(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._end.begin("the supervisor is shutting down", SessionStatus.STOPPED)

    async def _live(self) -> None:
        try:
            await self._end.guard(self._work)
        finally:
            # Also after what is no Exception (Ctrl-C lands in any task): that goes on afterwards.
            await self._end.guard(self._final.finish)
            if self._context.trace is not None:
                self._context.trace.ended(self.record)

    async def _work(self) -> None:
        """Prepare what the process may use, and take it away once nothing of the process is left."""
        async with AsyncExitStack() as stack:
            raw = RawLog(raw_log_path(self._settings.raw, self.record.id), self._settings.max_raw_log)
            stack.callback(raw.close)
            child_socket = None
            if self._child_sockets is not None:
                child_socket = await stack.enter_async_context(
                    self._child_sockets(self.record, self._settings.environ)
                )
            self._context.update(status=SessionStatus.STARTING, error="", receipt=None, caps_hit=())
            # First: what is made from here on is cleared after a crash, for then the session counts as alive.
            await self._store.write(sessions.save, self.record)
            scratch, folder = await stack.enter_async_context(session_folders(self.record.id))
            # Guarded here already, so that what ends the process knows why it has to.
            try:
                await self._end.guard(lambda: self._start_and_serve(raw, child_socket, scratch, folder))
            finally:
                await self._leave_nothing()
            if not self._opened and isinstance(self.failure, AgentDied | ClaudeUnfit):
                # It may be too old, and know our flags as little as its version: then that is what to tell.
                await check_version(find_claude(self._settings), build_environment(self._settings.environ))

    async def _start_and_serve(
        self, raw: RawLog, child_socket: Path | None, scratch: Path, folder: Path
    ) -> None:
        configuration = await self._launcher.configure(folder)
        # Ours from the same step on, so that whatever fails after it finds it to end.
        self._process = process = await self._launcher.start(
            configuration, scratch, raw=raw, child_socket=child_socket, ended=self._end.has_begun
        )
        if process is not None:
            self._take(process)
            await self._serve(process, configuration.expected)

    def _take(self, process: AgentProcess) -> None:
        self._context.fold(Launched())
        self._process_id = process_id = f"{self.record.id}/{process.pid}@{self._context.now():.3f}"
        self._driver.take(process, process_id)
        self._final.take(process, process_id, self._path_guard)
        walls = self._path_guard.started(process.container)
        self._context.update(walls=walls)
        options = self.record.options
        mode = f", permission mode {options.permission_mode}" if options.permission_mode else ""
        how = f"{process.container.mechanism}, pid {process.pid}, {options.preset}, {options.model}{mode}"
        entries = (
            self._context.entry("start", "attached" if self.held_by else "started", how),
            *entries_of_walls(walls, self._context.entry),
        )
        self._note_whereabouts()
        # Not here and now: from here on whatever fails must find the process in `_serve`, which ends it.
        self._writes.after(lambda: self._store.write(audit.add, entries))

    async def _serve(self, process: AgentProcess, expected: Expected) -> None:
        self._ladder = ladder = Ladder(process, grace=self._settings.grace)
        self._end.use(ladder)
        reader = Reader(process, self._context, self._end, self._driver, grace=self._settings.grace)
        async with trio.open_nursery() as nursery:
            for task in (
                self._writes.run,
                reader.read,
                process.read_errors,
                reader.write,
                self._driver.clock,
                self._driver.lookup.run,
                lambda: self._path_guard.watch(self._wall_lost),
                reader.watch_caps,
                *(() if self._launcher.login is None else (self._launcher.login.keep,)),
                lambda: self._open_and_deliver(process, expected),
            ):
                nursery.start_soon(self._end.guard, task)
            await self._end.wait()
            self._final.note_receipt(await self._descend(ladder))
            # What it flushed before its end is still in the pipe: let the reader have it, and the
            # write queue store it.
            with trio.move_on_after(self._settings.grace):
                await reader.wait_drained()
            self._final.note_gone()
            self._writes.close()
            await self._writes.wait_done()
            nursery.cancel_scope.cancel()

    async def _leave_nothing(self) -> None:
        """Whatever happened since the start of the process (a bug, Ctrl-C): nothing of it goes on."""
        process = self._process
        if process is None:
            return
        try:
            if self.receipt is None:
                ladder = self._ladder or Ladder(process, grace=self._settings.grace)
                reason = self._end.reason or "cms is shutting down"
                self._final.note_receipt(await ladder.kill(reason, at=self._context.now()))
        finally:
            await process.container.aclose(deadline=self._settings.grace)
            if (await process.container.kill(deadline=0.0)).empty:
                live_files.remove(self._settings.live, self.record.id)

    def _note_whereabouts(self) -> None:
        """For whoever must end it without us."""
        if self._process is not None and not self._gone.is_set():
            live_files.write(self._settings.live, self.record, self._process.container.whereabouts())

    # --- its tasks --------------------------------------------------------------------------------

    async def _open_and_deliver(self, process: AgentProcess, expected: Expected) -> None:
        greeting = await shake_hands(process, expected)
        self._driver.apply(greeting.opened)
        if greeting.mistakes:
            self._context.update(walls=self._path_guard.note_mistakes(greeting.mistakes))
        self._context.update(status=self._context.status(), pid=process.pid)
        await self._store.write(sessions.save, self.record)
        self._opened = True
        self._ready.set()
        await self._sender.run(process)

    def _wall_lost(self, walls: Walls, what: str) -> None:
        self._context.update(walls=walls)
        self._watchers.notify(self._context.progress("note", what))
        self._driver.log(self._context.entry("safety", "lost", what))
        self._lost_wall = self._lost_wall or what
        self._end_without_wall()

    def _end_without_wall(self) -> None:
        """Nothing works on without its walls, which only a new process can have; unless that was asked."""
        if not self._lost_wall or self.frozen or self.record.options.on_violation == "deny":
            return  # what is frozen does nothing
        self._driver.break_off(Outcome.PROTECTED_PATH, self._lost_wall)
        self._end.begin(self._lost_wall, SessionStatus.STOPPED)

    # --- the end ------------------------------------------------------------------------------------

    async def _descend(self, ladder: Ladder) -> Receipt:
        turn = self._context.state.turn if self._context.state.phase is Phase.BUSY else None
        # An interrupt that was sent and did not help is not tried again.
        sent = turn.interrupted_at if turn is not None else None
        tried = sent is not None and self._context.work_now() >= sent + PATIENCE
        if self.frozen and not self._end.forced:
            await self.thaw()  # what is frozen cannot be polite

        async def interrupt() -> None:
            self._driver.break_off(
                Outcome.INTERRUPTED if self._end.failure is None else Outcome.FAILED, self._end.reason
            )
            await self._driver.wait_settled()

        return await ladder.descend(
            self._end.reason,
            interrupt=interrupt if turn is not None and not tried else None,
            total=self._end.grace,
            at=self._context.now(),
        )
