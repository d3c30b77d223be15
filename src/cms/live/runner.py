"""One live session, from the start of its process to the proof that nothing of it is left.

A `Runner` is born with a process and dies with it; a session has one at a time. Its tasks:

- the reader (reader.py) takes events from the process; the driver (driver.py) folds them into the state and
  carries out what `decide` says;
- the clock (`Driver.clock`) calls `decide` again when `wake_at` says that something is due without an event;
- the write queue (write_queue.py) carries out, in order, what must be on disk before it is done: a tool call
  is answered after its decision and the money so far are stored, an interaction is over after its outcome is
  stored;
- the sender (sender.py) takes one queued message at a time, stores that it is being sent, sends it, and
  waits for its end;
- the door (`run` itself) waits for the reason to end (ending.py), whatever it is, and walks down the stop
  ladder while the reader still reads. Cancellation from outside is one such reason: everything else runs
  shielded from it, so that `claude` is never cut off from a reader while it still flushes.

What they share is the context (context.py). A task that fails, by a bug too, is one more reason to end
(`Ending.guard`): it never takes the others with it, for they are needed until the end is reached.

A runner raises nothing: what went wrong is in `failure`, in the session's record and in each interaction.
Each message that was accepted is a promise: it ends, its end is stored, and whoever waits is told.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import msgspec
import trio

from cms.config import Settings, find_claude
from cms.containment import Mechanism
from cms.errors import (
    CmsError,
    ContainmentError,
    StoreError,
    WrongStatus,
)
from cms.live.argv import build_argv, build_environment
from cms.live.context import SessionContext
from cms.live.driver import Driver
from cms.live.ending import Ending
from cms.live.handshake import shake_hands
from cms.live.log_rows import lines_of_end, lines_of_walls
from cms.live.pending import PendingMessages
from cms.live.process import AgentProcess, Ladder
from cms.live.reader import Reader
from cms.live.sender import Sender
from cms.live.watchers import Watchers
from cms.live.write_queue import WriteQueue
from cms.protection.path_guard import PathGuard
from cms.protection.rules import build_rules
from cms.protection.scratch import make_scratch, remove_scratch
from cms.session.decide import PATIENCE
from cms.session.model import Interaction, Outcome, Progress, Receipt, SessionRecord, SessionStatus, Walls
from cms.session.questions import LiveSession, OpenQuestion, Word
from cms.session.state import Phase
from cms.store import audit, sessions
from cms.store.rawlog import RawLog, raw_log_path
from cms.store.store import Store

#: Seconds for a whole process tree to stand still.
_FREEZE_PATIENCE = 5.0
#: claude's words when it cannot resume, and when it should have.
_NO_CONVERSATION = "No conversation found"
_IN_USE = "is already in use"


#: Opens the way from a session to cms, and gives the socket at its end. Only the daemon has one.
OpenChildSocket = Callable[[SessionRecord], AbstractAsyncContextManager[Path]]


class Runner:
    """A session with a live process.

    Attributes:
        receipt: how its process ended, once it has.
        child_sockets: opens the way through which it may use cms, for as long as it lives; None if it may
            not. Set before `run`.
    """

    def __init__(
        self,
        record: SessionRecord,
        *,
        settings: Settings,
        store: Store,
        mechanism: Mechanism,
        resume: str,
        fork: bool = False,
    ) -> None:
        self.receipt: Receipt | None = None
        self.child_sockets: OpenChildSocket | None = None
        self._settings = settings
        self._store = store
        self._mechanism = mechanism
        self._resume = resume
        self._fork = fork
        rules = build_rules(record.options, settings.environ.get("HOME") or str(Path.home()))
        self._context = context = SessionContext(record)
        self._end = end = Ending(context)
        self._writes = writes = WriteQueue(end.fail)
        self._watchers = watchers = Watchers(context.progress)
        self._pending = pending = PendingMessages()
        self._driver = driver = Driver(
            context, end, rules, store=store, writes=writes, watchers=watchers, pending=pending
        )
        self._sender = Sender(context, end, driver, store=store, watchers=watchers)
        self._path_guard = PathGuard(rules, settings.environ, settings.home)
        self._process: AgentProcess | None = None
        self._process_id = ""
        self._ready = trio.Event()
        self._opened = False
        self._ladder: Ladder | None = None
        self._gone = trio.Event()
        self._closed = False
        self._unsaved = False
        self._receipt_saved = False
        self._forgotten = False
        self._fallen = ""  # which wall, and why

    def __repr__(self) -> str:
        record = self.record
        return f"<Runner {record.name!r} {record.status} pid={record.pid} queue={len(self._sender)}>"

    # --- what others may ask and do ---------------------------------------------------------------

    @property
    def record(self) -> SessionRecord:
        """The session as it stands, always current."""
        return self._context.record

    @property
    def failure(self) -> CmsError | None:
        """Why it could not start or did not go on, or None."""
        return self._end.failure

    @property
    def activity(self) -> str:
        """What it is doing now, in a line."""
        if self.frozen:
            return f"frozen: {self._driver.activity}" if self._driver.activity else "frozen"
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
        refusal = self._driver.refusal
        return not self._opened and (refusal.startswith(_NO_CONVERSATION) or _IN_USE in refusal)

    @property
    def unsaved(self) -> bool:
        """Whether something of its end is not on disk; `save` tries again."""
        return self._unsaved

    async def wait_gone(self) -> None:
        """Until nothing of the process is left and that is stored."""
        await self._gone.wait()

    async def accept(self, interaction: Interaction) -> None:
        """Put a message on disk, then in the queue: from here on it is not lost.

        Raises:
            WrongStatus: the session is paused, or its end has begun.
            StoreError: it could not be stored; nothing was accepted.
        """
        self._check_open()
        before = self.record.interaction_count
        self._context.update(interaction_count=interaction.number)
        try:
            await self._store.write(sessions.save, self.record, interaction)
        except BaseException:
            self._context.update(interaction_count=before)
            raise
        self._pending.make(interaction)
        self._sender.put(interaction)
        if self._closed:
            # Its end came while the message was being stored, and nobody will look into the queue again.
            with trio.CancelScope(shield=True):
                await self._write_end()

    def _check_open(self) -> None:
        name = self.record.name
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
        self._driver.cut(Outcome.INTERRUPTED, reason)
        return True

    def stop(self, reason: str, *, grace: float = math.inf, failed: bool = False) -> None:
        """Begin the end, gracefully; `wait_gone` tells when it is done."""
        self._end.begin(reason, SessionStatus.FAILED if failed else SessionStatus.STOPPED, grace=grace)

    def kill(self, reason: str) -> None:
        """Begin the end by force, or make a graceful one forceful."""
        self._end.force(reason)

    def pause(self) -> None:
        """Accept no more messages; what is in flight goes on."""
        self._set_paused(True)

    def unpause(self) -> None:
        """Accept messages again."""
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        self._context.paused = paused
        if not self._end.has_begun():
            self._context.update(status=self._context.status())
            self._context.signal_change()

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
        self._context.halt()
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
                f"not every process of {self.record.name!r} stood still within {_FREEZE_PATIENCE:g} s",
                hint=f"`cms doctor` shows what this machine can freeze; cms kill {self.record.name} ends it",
            )
        if not self._end.has_begun():
            self._context.update(status=self._context.status())
        self._watchers.notify(self._context.progress("status"))

    async def thaw(self) -> None:
        """Let a frozen session go on from where it stood."""
        if self._process is not None:
            await self._process.container.thaw()
        self._context.go_on()
        if not self._end.has_begun():
            self._context.update(status=self._context.status())
        self._heed_fallen_wall()

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
        )

    @property
    def quiet(self) -> bool:
        """Whether it owes nothing."""
        return self._pending.quiet

    async def wait_quiet(self) -> None:
        """Until every message that it has accepted by now, or accepts meanwhile, has ended."""
        await self._pending.wait_quiet()

    def questions(self) -> list[OpenQuestion]:
        """The calls that wait for a person's word."""
        return self._driver.questions()

    def speak(self, question_id: str, word: Word) -> None:
        """A person's word on a call that waits.

        Raises:
            WrongStatus: it does not wait any more.
        """
        if not self._driver.speak(question_id, word):
            raise WrongStatus(self.record.name, str(self.record.status), f"take an answer to {question_id}")

    def check_budget(self) -> None:
        """A cap has changed: learn at once what the interaction in flight may still spend."""
        self._driver.check_budget()

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Progress]]:
        """Notes on what the session does, until its process is gone. Who lags behind loses some."""
        with self._watchers.watch() as notes:
            yield notes

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
            self._end.begin("the supervisor is ending", SessionStatus.STOPPED)

    async def _live(self) -> None:
        try:
            await self._end.guard(self._work)
        finally:
            # Also after what is no Exception (Ctrl-C lands in any task): that goes on afterwards.
            await self._end.guard(self._finish)

    async def _work(self) -> None:
        """Prepare what the process may use, and take it away once nothing of the process is left."""
        async with AsyncExitStack() as stack:
            raw = RawLog(raw_log_path(self._settings.raw, self.record.id))
            stack.callback(raw.close)
            child_socket = None
            if self.child_sockets is not None:
                child_socket = await stack.enter_async_context(self.child_sockets(self.record))
            self._context.update(status=SessionStatus.STARTING, error="", receipt=None, caps_hit=())
            # First: what is made from here on is cleared after a crash, for then the session counts as alive.
            await self._store.write(sessions.save, self.record)
            scratch = make_scratch(self.record.id)
            stack.push_async_callback(trio.to_thread.run_sync, remove_scratch, scratch)
            # Guarded here already, so that what ends the process knows why it has to.
            try:
                await self._end.guard(lambda: self._start_and_serve(raw, child_socket, scratch))
            finally:
                await self._leave_nothing()

    async def _start_and_serve(self, raw: RawLog, child_socket: Path | None, scratch: Path) -> None:
        process = await self._start(raw, child_socket, scratch)
        if process is not None:
            await self._serve(process)

    async def _start(
        self, raw: RawLog, child_socket_folder: Path | None, scratch: Path
    ) -> AgentProcess | None:
        """The process, or None if the end has begun before it."""
        options, limits = self.record.options, self.record.options.limits
        paths = await self._path_guard.prepare()
        if self._end.has_begun():
            return None
        spent = self._context.state.ledger.spent
        child_socket = "" if child_socket_folder is None else str(child_socket_folder)
        argv = build_argv(
            find_claude(self._settings),
            options,
            session_id=self.record.id,
            resume=self._resume,
            fork=self._fork,
            # The second lock counts from the start of the process.
            budget=None if limits.max_cost is None else max(limits.max_cost - spent, 0.0001),
            turns=None if limits.max_turns is None else max(limits.max_turns - self._context.state.turns, 1),
            server=(sys.executable, "-P", "-m", "cms", "mcp") if child_socket else (),
        )
        self._process = process = await AgentProcess.start(
            self._mechanism,
            self._settings,
            argv=argv,
            env=build_environment(
                self._settings.environ,
                inside=self.record.id,
                depth=self.record.depth,
                child_socket=child_socket,
                scratch=str(scratch),
                deny=options.env_deny,
            ),
            work_dir=options.work_dir,
            child_socket=child_socket_folder,
            scratch=scratch,
            paths=paths,
            log=raw,
            label=self.record.name,
            now=self._context.now,
            max_memory=limits.max_memory,
            max_procs=limits.max_procs,
        )
        self._process_id = f"{self.record.id}/{process.pid}@{self._context.now():.3f}"
        self._driver.take(process, self._process_id)
        walls = self._path_guard.started(process.container)
        self._context.update(walls=walls)
        mode = f", permission mode {options.permission_mode}" if options.permission_mode else ""
        how = f"{process.container.mechanism}, pid {process.pid}, {options.preset}, {options.model}{mode}"
        lines = (self._context.line("start", "started", how), *lines_of_walls(walls, self._context.line))
        # Not here and now: from here on whatever fails must find the process in `_serve`, which ends it.
        self._writes.after(lambda: self._store.write(audit.add, lines))
        return process

    async def _serve(self, process: AgentProcess) -> None:
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
                lambda: self._path_guard.watch(self._wall_lost),
                reader.watch_caps,
                lambda: self._open_and_deliver(process),
            ):
                nursery.start_soon(self._end.guard, task)
            await self._end.wait()
            self.receipt = await self._descend(ladder)
            # What it flushed before its end is still in the pipe: let the reader have it, and the
            # write queue store it.
            with trio.move_on_after(self._settings.grace):
                await reader.wait_drained()
            self._driver.close_books()
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
                self.receipt = await ladder.strike(
                    self._end.reason or "cms is ending", at=self._context.now()
                )
        finally:
            await process.container.aclose(deadline=self._settings.grace)

    # --- its tasks --------------------------------------------------------------------------------

    async def _open_and_deliver(self, process: AgentProcess) -> None:
        self._driver.apply(await shake_hands(process, timeout=self._settings.start_timeout))
        self._context.update(status=self._context.status(), pid=process.pid)
        await self._store.write(sessions.save, self.record)
        self._opened = True
        self._ready.set()
        await self._sender.run(process)

    def _wall_lost(self, walls: Walls, what: str) -> None:
        self._context.update(walls=walls)
        self._watchers.notify(self._context.progress("note", what))
        self._driver.log(self._context.line("safety", "lost", what))
        self._fallen = self._fallen or what
        self._heed_fallen_wall()

    def _heed_fallen_wall(self) -> None:
        """Nothing works on without its walls, unless that was asked for: the next process gets new ones.

        A wall cannot be put up again around a process that runs. And whoever waits for the end of the work
        would find it `protected_path` by the tripwire anyway, only later and dearer.
        """
        if not self._fallen or self.frozen or self.record.options.on_violation == "deny":
            return  # what is frozen does nothing
        self._driver.cut(Outcome.PROTECTED_PATH, self._fallen)
        self._end.begin(self._fallen, SessionStatus.STOPPED)

    # --- the end ------------------------------------------------------------------------------------

    async def _descend(self, ladder: Ladder) -> Receipt:
        turn = self._context.state.turn if self._context.state.phase is Phase.BUSY else None
        # An interrupt that was sent and did not help is not tried again.
        sent = turn.interrupted_at if turn is not None else None
        tried = sent is not None and self._context.work_now() >= sent + PATIENCE
        if self.frozen and not self._end.forced:
            await self.thaw()  # what is frozen cannot be polite

        async def interrupt() -> None:
            self._driver.cut(
                Outcome.INTERRUPTED if self._end.failure is None else Outcome.FAILED, self._end.reason
            )
            await self._driver.wait_settled()

        return await ladder.descend(
            self._end.reason,
            interrupt=interrupt if turn is not None and not tried else None,
            total=self._end.grace,
            at=self._context.now(),
        )

    async def _finish(self) -> None:
        """Whatever happened: write down how it ended, and let nobody wait for ever."""
        receipt, error = self.receipt, ""
        status = self._context.end_status if self._end.has_begun() else SessionStatus.FAILED
        if self._process is not None:
            self._driver.close_books()
            self._driver.look_at_caps()
            receipt = await self._look_at_paths(receipt)
            if receipt is None or not receipt.empty:
                left = ", ".join(receipt.left) if receipt is not None else ""
                status = SessionStatus.ERROR
                error = f"its end is not proved, processes may be left: {left or 'unknown'}"
        if self.failure is not None:
            error = f"{self.failure}; {error}" if error else str(self.failure)
        self._context.update(
            status=status,
            pid=None,
            claude_session_id=self._conversation(),
            error=error,
            receipt=receipt,
        )
        self._driver.tally()
        await self._write_end()

    async def _look_at_paths(self, receipt: Receipt | None) -> Receipt | None:
        """What became of the protected places, for the record and the receipt. Not worth the end itself."""
        try:
            walls = await self._path_guard.finish()
        except Exception as error:
            self._end.failure = self.failure or self._end.bug(error)
            return receipt
        self._context.update(walls=walls)
        if receipt is not None:
            self.receipt = receipt = msgspec.structs.replace(receipt, walls=walls)
        return receipt

    def _conversation(self) -> str:
        """What the next process is to resume; "" for a conversation that never began.

        A message that was written need not have been read. But what claude wrote was read to the end, and
        there it says that it begins one. Where that is lost (a crash of ours) claude itself says that there
        is nothing to resume, or that there is, and the next attempt is right.
        """
        if self._driver.refusal.startswith(_NO_CONVERSATION) and self._context.state.turns == 0:
            return ""
        begun = self._driver.begun or _IN_USE in self._driver.refusal
        return self._context.state.conversation_id or (self.record.id if begun else "")

    async def strike_again(self) -> Receipt:
        """Try once more to end what the end has left alive, and store what came of it, unless it was deleted.

        Only after `wait_gone`, and only where the receipt does not prove that nothing is left.
        """
        process = self._process
        if process is None:
            return self.receipt or Receipt("never started", empty=True)
        ladder = Ladder(process, grace=self._settings.grace)
        self.receipt = receipt = await ladder.strike("killed again", at=self._context.now())
        if receipt.empty:
            self._context.update(status=SessionStatus.KILLED, error="")
        self._context.update(receipt=receipt)
        self._receipt_saved = False
        if not self._forgotten:
            await self._write_end()
        return receipt

    def forget(self) -> None:
        """The session is being deleted: what is still to be ended of it is not written down any more."""
        self._forgotten = True

    async def save(self) -> None:
        """Try again to store the end.

        Raises:
            StoreError: it still cannot be written.
        """
        await self._write_end()
        if self._unsaved:
            raise self._end.failure or StoreError("the store cannot be written")

    async def _write_end(self) -> None:
        """Store the session as it ended, and the end of every message that is still owed one."""
        while True:
            self._sender.clear()
            reason, failed = str(self._end.failure or self._end.reason), self._end.failure is not None
            owed = self._pending.cut_off(reason, failed=failed, at=self._context.now())
            receipt = None if self._receipt_saved else self.receipt
            error: CmsError | None = None
            try:
                await self._store.write(
                    sessions.save_end,
                    self.record,
                    [pending.interaction for pending in owed],
                    receipt,
                    process=self._process_id,
                    decisions=() if receipt is None else tuple(lines_of_end(receipt, self._context.line)),
                )
            except CmsError as refused:
                error = refused
            except Exception as bug:
                error = self._end.bug(bug)
            self._receipt_saved = self._receipt_saved or error is None
            if error is not None:
                self._end.failure = self.failure or error
                self._context.update(error=str(error))
            # (Any other error than the store's: another cms has the session by now, and it is not ours.)
            self._unsaved = isinstance(error, StoreError)
            for pending in owed:
                self._driver.conclude(pending, error)
            if not len(self._sender):
                break
        # No await since the queue was seen empty: what comes later sees this.
        self._closed = True
