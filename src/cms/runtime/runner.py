"""One live session: read, fold, decide, act.

A `Runner` is born with a process and dies with it; a session has one at a time. Its tasks:

- the reader takes events from the process, folds them into the state, and carries out what `decide` says;
- the clock calls `decide` again when `wake_at` says that something is due without an event;
- the scribe (scribe.py) carries out, in order, what must be on disk before it is done: a tool call is
  answered after its decision and the money so far are stored, an interaction is over after its outcome is
  stored;
- the courier takes one queued message at a time, stores that it is being sent, sends it, and waits for its
  end;
- the door (`run` itself) waits for the reason to end, whatever it is, and walks down the stop ladder while
  the reader still reads. Cancellation from outside is one such reason: everything else runs shielded from
  it, so that `claude` is never cut off from a reader while it still flushes.

A task that fails, by a bug too, is one more reason to end (`_guard`): it never takes the others with it, for
they are needed until the end is reached.

A runner raises nothing: what went wrong is in `failure`, in the session's record and in each interaction.
Each message that was accepted is a promise: it ends, its end is stored, and whoever waits is told.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import msgspec
import trio

from cms.config import Settings, find_claude
from cms.errors import (
    AgentDied,
    AgentError,
    CmsError,
    ContainmentError,
    InternalError,
    ProtocolError,
    StoreError,
    WrongStatus,
)
from cms.protocol.argv import QUESTION_TOOL, build_argv, build_environment
from cms.protocol.messages import (
    CanUseTool,
    GetUsage,
    Interrupt,
    Line,
    Result,
    UnknownControlRequest,
)
from cms.runtime import caps
from cms.runtime.caps import Cap
from cms.runtime.containment import Mechanism
from cms.runtime.guard import Guard
from cms.runtime.handshake import shake_hands
from cms.runtime.lines import first_line, lines_of_end, lines_of_walls, rows_of_charges
from cms.runtime.process import AgentProcess, Ladder
from cms.runtime.promises import Promise, Promises, ended
from cms.runtime.rules import build_rules
from cms.runtime.scratch import make_scratch, remove_scratch
from cms.runtime.scribe import Scribe
from cms.runtime.watchers import Watchers, activity_of, note_of
from cms.runtime.workclock import WorkClock
from cms.session.audit import Decision, DecisionKind
from cms.session.budget import Grant
from cms.session.ledger import Ledger
from cms.session.live import LiveSession, OpenQuestion, Word
from cms.session.model import (
    Interaction,
    InteractionState,
    Outcome,
    Progress,
    ProgressKind,
    Receipt,
    SessionRecord,
    SessionStatus,
    Walls,
)
from cms.session.policy import (
    BUDGET_EVERY,
    BUDGET_PATIENCE,
    PATIENCE,
    AnswerCall,
    AskBudget,
    AskMeter,
    Note,
    SendInterrupt,
    Settle,
    StopProcess,
    api_part,
    asked_questions,
    conclude,
    decide,
    describe,
    held,
    response_of,
    wake_at,
)
from cms.session.state import (
    Began,
    Breach,
    Breached,
    BudgetAsked,
    Charged,
    Ended,
    Granted,
    InterruptSent,
    Judged,
    MeterAsked,
    Phase,
    Settled,
    Spoken,
    State,
    fold,
    may_owe,
)
from cms.store.journal import Journal
from cms.store.rawlog import RawLog, raw_log_path

#: Seconds for a whole process tree to stand still.
_FREEZE_PATIENCE = 5.0
#: claude's words when it cannot resume, and when it should have.
_NO_CONVERSATION = "No conversation found"
_IN_USE = "is already in use"


#: Opens the way from a session to cms, and gives the socket at its end. Only the daemon has one.
Doors = Callable[[SessionRecord], AbstractAsyncContextManager[Path]]


class Runner:
    """A session with a live process.

    Attributes:
        record: the session as it stands, always current.
        failure: why it could not start or did not go on, or None.
        receipt: how its process ended, once it has.
        doors: opens the way through which it may use cms, for as long as it lives; None if it may not. Set
            before `run`.
    """

    def __init__(
        self,
        record: SessionRecord,
        *,
        settings: Settings,
        journal: Journal,
        mechanism: Mechanism,
        resume: str,
        fork: bool = False,
    ) -> None:
        self.record = record
        self.failure: CmsError | None = None
        self.receipt: Receipt | None = None
        self.doors: Doors | None = None
        self._settings = settings
        self._journal = journal
        self._mechanism = mechanism
        self._resume = resume
        self._fork = fork
        self._epoch = time.time() - trio.current_time()
        self._work = WorkClock()
        home = settings.environ.get("HOME") or str(Path.home())
        self._rules = build_rules(record.options, home)
        self._state = State(
            conversation_id=record.claude_session_id,
            turns=record.total_turns,
            tool_calls=record.tool_calls,
            ledger=Ledger(spent=record.total_cost_usd, exact=record.cost_exact),
        )
        self._odd_before = (record.unknown_lines, record.noise_lines)
        self._places = Guard(self._rules, settings.environ)
        self._process: AgentProcess | None = None
        self._process_id = ""
        self._ladder: Ladder | None = None
        self._queue: deque[Interaction] = deque()
        self._current: Interaction | None = None
        self._sending = False  # the courier is about to send one
        self._recalled = ""  # why that one is not to be sent
        self._news = trio.Event()  # for the courier: something that it waits for has changed
        self._poke = trio.Event()  # for the clock: something is due earlier than it thinks
        self._sleeps_until = math.inf
        self._settled = trio.Event()
        self._promises = Promises()
        self._scribe = Scribe(self._fail)
        self._end = trio.Event()
        self._end_reason = ""
        self._end_force = False
        self._end_status = SessionStatus.STOPPED
        self._end_grace = math.inf
        self._ready = trio.Event()
        self._opened = False
        self._gone = trio.Event()
        self._closed = False
        self._unsaved = False
        self._receipt_saved = False
        self._paused = False
        self._begun = False  # claude has said that it began a message
        self._refusal = ""  # claude's own words on why it does not come up
        self._cap_passed: Cap | None = None
        self._drained = trio.Event()  # the reader has come to the end of stdout
        self._watchers = Watchers(self._progress)
        self._activity = ""

    def __repr__(self) -> str:
        record = self.record
        return f"<Runner {record.name!r} {record.status} pid={record.pid} queue={len(self._queue)}>"

    # --- what others may ask and do ---------------------------------------------------------------

    @property
    def activity(self) -> str:
        """What it is doing now, in a line."""
        if self.frozen:
            return f"frozen: {self._activity}" if self._activity else "frozen"
        return self._activity if self._state.phase is Phase.BUSY else ""

    @property
    def ending(self) -> bool:
        """Whether its end has begun: it takes no more messages."""
        return self._end.is_set()

    async def wait_ready(self) -> None:
        """Until the process is up.

        Raises:
            CmsError: it could not be started.
        """
        await self._ready.wait()
        if not self._opened:
            raise self.failure or WrongStatus(self.record.name, "stopping", "start")

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
        self._update(interaction_count=interaction.number)
        try:
            await self._journal.commit(session=self.record, interaction=interaction)
        except BaseException:
            self._update(interaction_count=before)
            raise
        self._promises.make(interaction)
        self._queue.append(interaction)
        self._wake_courier()
        if self._closed:
            # Its end came while the message was being stored, and nobody will look into the queue again.
            with trio.CancelScope(shield=True):
                await self._write_end()

    def _check_open(self) -> None:
        name = self.record.name
        if self.ending:
            raise WrongStatus(name, "stopping", "take a message", hint="try again in a moment")
        if self._paused:
            raise WrongStatus(name, "paused", "take a message", hint=f"cms resume {name}")

    async def wait_interaction(self, interaction_id: str) -> Interaction | None:
        """Until that interaction has ended. None if it is not owed (any more): then the store has it."""
        return await self._promises.wait(interaction_id)

    def interrupt(self, reason: str = "interrupted") -> bool:
        """End the interaction in flight; the process lives on. False if there is none, or it is frozen."""
        if self.frozen:
            return False
        if self._sending:
            self._recalled = reason  # it is not written yet, and will not be
            return True
        if self._state.turn is None or self._state.phase is not Phase.BUSY:
            return False
        self._apply(Breached(Breach(Outcome.INTERRUPTED, reason, self._work_now())))
        return True

    def stop(self, reason: str, *, grace: float = math.inf, failed: bool = False) -> None:
        """Begin the end, gracefully; `wait_gone` tells when it is done."""
        self._begin_end(reason, SessionStatus.FAILED if failed else SessionStatus.STOPPED, grace=grace)

    def kill(self, reason: str) -> None:
        """Begin the end by force, or make a graceful one forceful."""
        self._end_force = True
        self._end_status = SessionStatus.KILLED
        self._begin_end(reason, SessionStatus.KILLED)
        if self._ladder is not None:
            self._ladder.hurry()

    def pause(self) -> None:
        """Accept no more messages; what is in flight goes on."""
        self._set_paused(True)

    def unpause(self) -> None:
        """Accept messages again."""
        self._set_paused(False)

    def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        if not self.ending:
            self._update(status=self._status())
            self._wake_courier()

    @property
    def paused(self) -> bool:
        return self._paused

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
        self._work.halt(self._now())
        self._poke.set()
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
        if not self.ending:
            self._update(status=self._status())
        self._watchers.notify(self._progress("status"))

    async def thaw(self) -> None:
        """Let a frozen session go on from where it stood."""
        if self._process is not None:
            await self._process.container.thaw()
        self._work.go_on(self._now())
        self._poke.set()
        if not self.ending:
            self._update(status=self._status())

    @property
    def frozen(self) -> bool:
        return self._work.halted

    def live(self) -> LiveSession:
        """How it stands, and what its process tree takes just now."""
        process = self._process
        taken = process.container.statistics() if process is not None and not self._gone.is_set() else None
        return LiveSession(
            session=self.record,
            activity=self.activity,
            frozen=self.frozen,
            queued=len(self._queue),
            questions=len(self.questions()),
            processes=0 if taken is None else taken.processes,
            memory=0 if taken is None else taken.rss if taken.memory is None else taken.memory,
        )

    @property
    def quiet(self) -> bool:
        """Whether it owes nothing."""
        return self._promises.quiet

    async def wait_quiet(self) -> None:
        """Until every message that it has accepted by now, or accepts meanwhile, has ended."""
        await self._promises.wait_quiet()

    def questions(self) -> list[OpenQuestion]:
        """The calls that wait for a person's word."""
        now = self._now()
        return [
            OpenQuestion(
                name=self.record.name,
                id=str(call.ripe),
                kind="question" if call.tool == QUESTION_TOOL else "permission",
                tool=call.tool,
                detail=describe(call.input) or call.blocked_path,
                questions=asked_questions(call),
                asked=self._work.wall(call.at, now),
                expires=self._work.wall(call.at + self._rules.ask_timeout, now),
            )
            for call in held(self._state, self._rules, self._work.read(now))
        ]

    def speak(self, question_id: str, word: Word) -> None:
        """A person's word on a call that waits.

        Raises:
            WrongStatus: it does not wait any more.
        """
        for call in self._state.gate:
            if str(call.ripe) == question_id and call.kind == "permission":
                self._apply(Spoken(call.request_id, word))
                return
        raise WrongStatus(self.record.name, str(self.record.status), f"take an answer to {question_id}")

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
            self._promises.release()
            self._gone.set()
            self._watchers.close()

    async def _hear_cancel(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._begin_end("the supervisor is ending", SessionStatus.STOPPED)

    async def _live(self) -> None:
        raw: RawLog | None = None
        try:
            try:
                raw = RawLog(raw_log_path(self._settings.raw, self.record.id))
                async with AsyncExitStack() as stack:
                    door = None
                    if self.doors is not None:
                        door = await stack.enter_async_context(self.doors(self.record))
                    scratch = make_scratch(self.record.id)
                    stack.push_async_callback(trio.to_thread.run_sync, remove_scratch, scratch)
                    process = await self._start(raw, door, scratch)
                    if process is not None:
                        await self._serve(process)
            except CmsError as error:
                self._fail(error)
            except Exception as error:
                self._fail(self._bug(error))
            finally:
                # Also after what is no Exception (Ctrl-C lands in any task): that goes on afterwards.
                try:
                    await self._leave_nothing()
                finally:
                    await self._finish()
        except Exception as error:
            self.failure = self.failure or self._bug(error)
        finally:
            if raw is not None:
                raw.close()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """One of the tasks: its failure is a reason to end, for the session and for nobody else."""
        try:
            await task()
        except CmsError as error:
            self._fail(error)
        except Exception as error:
            self._fail(self._bug(error))

    def _bug(self, error: Exception) -> InternalError:
        bug = InternalError(f"in session {self.record.name!r}: {error!r}")
        bug.__cause__ = error
        return bug

    def _fail(self, error: CmsError) -> None:
        """Something went wrong: the first such thing is told, and the end begins."""
        if self.ending and isinstance(error, AgentError):
            return  # how a process behaves that is being ended is no news
        if self.failure is None:
            self.failure = error
        self._begin_end(str(error), SessionStatus.FAILED)

    async def _start(self, raw: RawLog, door_path: Path | None, scratch: Path) -> AgentProcess | None:
        """The process, or None if the end has begun before it."""
        options, limits = self.record.options, self.record.options.limits
        self._update(status=SessionStatus.STARTING, error="", receipt=None, caps_hit=())
        await self._journal.commit(session=self.record)
        places = await self._places.prepare()
        if self.ending:
            return None
        spent = self._state.ledger.spent
        door = "" if door_path is None else str(door_path)
        argv = build_argv(
            find_claude(self._settings),
            options,
            session_id=self.record.id,
            resume=self._resume,
            fork=self._fork,
            # The second lock counts from the start of the process.
            budget=None if limits.max_cost is None else max(limits.max_cost - spent, 0.0001),
            turns=None if limits.max_turns is None else max(limits.max_turns - self._state.turns, 1),
            server=(sys.executable, "-P", "-m", "cms", "mcp") if door else (),
        )
        self._process = process = await AgentProcess.start(
            self._mechanism,
            self._settings,
            argv=argv,
            env=build_environment(
                self._settings.environ,
                inside=self.record.id,
                depth=self.record.depth,
                door=door,
                scratch=str(scratch),
                deny=options.env_deny,
            ),
            work_dir=options.work_dir,
            door=door_path,
            places=places,
            log=raw,
            label=self.record.name,
            now=self._now,
            max_memory=limits.max_memory,
            max_procs=limits.max_procs,
        )
        self._process_id = f"{self.record.id}/{process.pid}@{self._now():.3f}"
        walls = self._places.started(process.container)
        self._update(walls=walls)
        how = f"{process.container.mechanism}, pid {process.pid}, {options.preset}, {options.model}"
        lines = (self._line("start", "started", how), *lines_of_walls(walls, self._line))
        # Not here and now: from here on whatever fails must find the process in `_serve`, which ends it.
        self._scribe.after(lambda: self._journal.commit(decisions=lines))
        return process

    async def _serve(self, process: AgentProcess) -> None:
        self._ladder = ladder = Ladder(process, grace=self._settings.grace)
        if self._end_force:
            ladder.hurry()
        async with trio.open_nursery() as nursery:
            for task in (
                self._scribe.run,
                lambda: self._read(process),
                process.read_errors,
                lambda: self._write(process),
                self._clock,
                lambda: self._places.watch(self._wall_lost),
                lambda: self._watch_caps(process),
                lambda: self._open_and_deliver(process),
            ):
                nursery.start_soon(self._guard, task)
            await self._end.wait()
            self.receipt = await self._descend(ladder)
            # What it flushed before its end is still in the pipe: let the reader have it, and the
            # scribe store it.
            with trio.move_on_after(self._settings.grace):
                await self._drained.wait()
            self._close_books(process)
            self._scribe.close()
            await self._scribe.wait_done()
            nursery.cancel_scope.cancel()

    async def _leave_nothing(self) -> None:
        """Whatever happened since the start of the process (a bug, Ctrl-C): nothing of it goes on."""
        process = self._process
        if process is None:
            return
        try:
            if self.receipt is None:
                ladder = self._ladder or Ladder(process, grace=self._settings.grace)
                self.receipt = await ladder.strike(self._end_reason or "cms is ending", at=self._now())
        finally:
            await process.container.aclose(deadline=self._settings.grace)

    # --- the audit log ----------------------------------------------------------------------------

    def _line(self, kind: DecisionKind, verdict: str, detail: str = "", reason: str = "") -> Decision:
        """A line about now. What the gate decides about a call has its own (`_answer`)."""
        current = self._current
        return Decision(
            session_id=self.record.id,
            interaction_id="" if current is None else current.id,
            at=self._now(),
            tool="",
            detail=detail,
            verdict=verdict,
            reason=reason,
            cost=self._state.ledger.spent,
            kind=kind,
        )

    def _note_line(self, line: Decision) -> None:
        self._scribe.after(lambda: self._journal.add_decision(line))

    def _wall_lost(self, walls: Walls, what: str) -> None:
        self._update(walls=walls)
        self._watchers.notify(self._progress("note", what))
        self._note_line(self._line("safety", "lost", what))

    # --- start ------------------------------------------------------------------------------------

    async def _open_and_deliver(self, process: AgentProcess) -> None:
        self._apply(await shake_hands(process, timeout=self._settings.start_timeout))
        self._update(status=self._status(), pid=process.pid)
        await self._journal.commit(session=self.record)
        self._opened = True
        self._ready.set()
        await self._courier(process)

    # --- reader and clock -------------------------------------------------------------------------

    def _now(self) -> float:
        return self._epoch + trio.current_time()

    def _work_now(self) -> float:
        """The time that the state knows: it stands still while the session is frozen."""
        return self._work.read(self._now())

    async def _read(self, process: AgentProcess) -> None:
        asked = False
        try:
            async for event in process.events():
                if isinstance(event, UnknownControlRequest):
                    process.refuse(event.request_id, f"cms does not know `{event.subtype}`")
                self._apply(event)
            asked = self.ending
            if not asked:
                await self._report_death(process)
        finally:
            self._drained.set()
            process.abandon()
            if not asked and self._ladder is not None:
                # It has died, or nobody reads any more: there is no point in being polite.
                self._ladder.hurry()

    async def _write(self, process: AgentProcess) -> None:
        try:
            await process.write_out()
        except BaseException:
            # It hears nothing any more, so an interrupt would be waited for in vain.
            if self._ladder is not None:
                self._ladder.hurry()
            raise

    async def _watch_caps(self, process: AgentProcess) -> None:
        """Where the kernel does not hold the tree to its caps, this does."""
        self._cap_passed = cap = await process.container.watch_limits()
        self._fail(AgentError(f"the processes of this session passed their cap on {cap}"))
        if self._ladder is not None:
            self._ladder.hurry()

    def _look_at_caps(self) -> tuple[str, ...]:
        """Which caps were hit so far, for the verdict; the record has it too."""
        if self._process is not None:
            limits, hit = self.record.options.limits, self._process.container.limits_hit()
            self._update(caps_hit=caps.told(limits, hit, self._cap_passed))
        return self.record.caps_hit

    async def _report_death(self, process: AgentProcess) -> None:
        """Its stdout ended though nobody asked it to: it has died, or is about to."""
        with trio.move_on_after(self._settings.grace):
            await process.container.wait()
        stage = "while idle"
        if self._state.turn is not None:
            stage = "in the middle of a turn"
        elif self._state.phase is Phase.STARTING:
            stage = "before it was ready"
            self._refusal = self._refusal or process.stderr_tail
        returncode = process.container.returncode
        if returncode is None:
            self._fail(ProtocolError(f"claude closed its output {stage}, and did not end"))
        elif returncode < 0 and (hit := self._look_at_caps()):
            self._fail(AgentError(f"claude was killed {stage}: {hit[0]}"))
        else:
            self._fail(AgentDied(stage, returncode, self._refusal or process.stderr_tail))

    def _apply(self, event: Line) -> None:
        """Fold an event in, and do what follows from it."""
        before = self._state
        self._state = state = fold(before, event, self._work_now())
        if (doing := activity_of(event)) is not None:
            self._activity = doing
        if self._watchers and (note := note_of(event)) is not None:
            self._watchers.notify(self._progress(*note))
        if isinstance(event, CanUseTool) and self.questions():
            self._activity = f"waits for a person: cms ask {self.record.name}"
            self._watchers.notify(self._progress("note", self._activity))
        if isinstance(event, Result) and before.phase is Phase.STARTING:
            self._refusal = event.result or " ".join(event.errors)
        if state.charges:
            self._store_charges()
        self._act()
        due = wake_at(self._state, self._rules)
        if due is not None and due < self._sleeps_until:
            self._poke.set()
        if before.phase is not self._state.phase:
            self._wake_courier()
        elif before.turn is not None and before.turn.state is not InteractionState.RUNNING:
            self._store_running()

    async def _clock(self) -> None:
        while True:
            due = wake_at(self._state, self._rules)
            turn = self._state.turn
            if self.ending and (turn is None or turn.breach is None or turn.interrupted_at is not None):
                due = None  # the ladder keeps the time
            if self._work.halted:
                due = None
            self._sleeps_until = math.inf if due is None else due
            self._poke = trio.Event()
            with trio.move_on_after(math.inf if due is None else max(due - self._work_now(), 0.0)):
                await self._poke.wait()
                continue
            self._act()

    def _act(self) -> None:
        process = self._process
        if process is None:
            return
        now = self._work_now()
        for action in decide(self._state, self._rules, now):
            match action:
                case AnswerCall():
                    self._answer(process, action, now)
                case AskMeter():
                    self._state = fold(self._state, MeterAsked(), now)
                    process.ask(GetUsage())
                case AskBudget():
                    self._renew()
                case SendInterrupt():
                    self._state = fold(self._state, InterruptSent(), now)
                    process.ask(Interrupt())
                case Note(breach=breach):
                    self._state = fold(self._state, Breached(breach), now)
                    self._note_line(self._line("limit", breach.outcome, reason=breach.reason))
                    self._watchers.notify(self._progress("note", breach.reason))
                case StopProcess(reason=reason):
                    self._begin_end(reason, SessionStatus.STOPPED)
                case Settle():
                    self._settle()
                case _:
                    raise InternalError(f"no way to carry out {action!r}")

    def _answer(self, process: AgentProcess, action: AnswerCall, now: float) -> None:
        call, verdict = action.call, action.verdict
        judged = Judged(call.request_id, action.denial, verdict.questions, verdict.plan)
        turn = self._state.turn
        self._state = fold(self._state, judged, now)
        allowed = verdict.word != "deny"
        decision = Decision(
            session_id=self.record.id,
            interaction_id=turn.id if turn is not None else "",
            at=self._now(),
            tool=call.tool,
            detail=verdict.detail,
            verdict="allowed" if allowed else "refused",
            reason=verdict.reason,
            cost=self._state.ledger.spent,
        )
        if allowed:
            self._activity = f"{call.tool} {verdict.detail}".strip()
            self._watchers.notify(self._progress("tool", verdict.detail, tool=call.tool))
        else:
            self._watchers.notify(self._progress("denied", verdict.reason, tool=call.tool))

        async def store() -> None:
            await self._journal.add_decision(decision)

        def then(error: CmsError | None) -> None:
            # What may act does so only with its decision on disk, and never once the end has begun: an
            # earlier failure of the store is such an end. Silence refuses.
            if not allowed or (error is None and not self.ending):
                process.answer(call.request_id, action.answer)

        self._scribe.after(store, then)

    # --- money ------------------------------------------------------------------------------------

    def _store_charges(self) -> None:
        charges = self._state.charges
        self._state = fold(self._state, Charged(len(charges)), self._state.last_heard)
        turn, now = self._state.turn, self._now()
        rows = rows_of_charges(
            charges,
            session_id=self.record.id,
            interaction_id=turn.id if turn is not None else "",
            process=self._process_id,
            model=self._state.model,
            at=now,
        )
        self._update(
            total_cost_usd=self._state.ledger.spent,
            total_turns=self._state.turns,
            tool_calls=self._state.tool_calls,
        )
        record, key = self.record, turn.id if turn is not None else ""
        self._ask_budget(lambda: self._journal.spend(record, rows, key, now))

    def _renew(self) -> None:
        record, now, turn = self.record, self._now(), self._state.turn
        if turn is not None:
            key = turn.id
            self._ask_budget(lambda: self._journal.renew(record.id, key, now))

    def check_budget(self) -> None:
        """A cap has changed: learn at once what the interaction in flight may still spend."""
        self._renew()

    def _ask_budget(self, ask: Callable[[], Awaitable[Grant]]) -> None:
        """Have something stored that tells in the same step what may be spent from now on."""
        turn = self._state.turn
        self._state = fold(self._state, BudgetAsked(), self._work_now())
        grants: list[Grant] = []

        async def store() -> None:
            grants.append(await ask())

        def then(_error: CmsError | None) -> None:
            if turn is not None and grants:
                self._apply(Granted(turn.id, grants[0]))

        self._scribe.after(store, then)

    def _store_running(self) -> None:
        """claude says that it has begun: after a crash the message is no longer in doubt."""
        turn, current = self._state.turn, self._current
        if turn is None or current is None or turn.state is not InteractionState.RUNNING:
            return
        self._begun = True
        running = msgspec.structs.replace(current, state=InteractionState.RUNNING)
        self._promise(running)

        async def store() -> None:
            await self._journal.commit(interaction=running)

        self._scribe.after(store)

    # --- courier ----------------------------------------------------------------------------------

    def _wake_courier(self) -> None:
        self._news.set()

    async def _courier(self, process: AgentProcess) -> None:
        while not self.ending:
            if not self._queue or self._paused or self._state.phase is not Phase.READY:
                self._news = trio.Event()
                await self._news.wait()
                continue
            queued = self._queue.popleft()
            interaction = msgspec.structs.replace(queued, state=InteractionState.SENT)
            self._settled = trio.Event()
            if (spent := self._limit_reached()) is not None:
                self._store_end(ended(interaction, *spent, at=self._now()))
                await self._settled.wait()
                continue
            try:
                # After this a crash leaves the message doubtful; before it, certainly unsent.
                self._sending, self._recalled = True, ""
                granted = await self._reserve(interaction)
                line = process.connection.send_message(interaction.id, interaction.prompt)
            except CmsError:
                self._queue.appendleft(queued)
                raise
            finally:
                self._sending = False
            if self._end.is_set():
                # Nothing was written: it stays unsent, and is told so with the rest of the queue.
                self._queue.appendleft(queued)
                return
            if self._recalled:
                why = f"never sent: {self._recalled}"
                self._store_end(ended(interaction, Outcome.INTERRUPTED, why, at=self._now()))
                await self._settled.wait()
                continue
            if granted.short:
                why = f"{granted.short}; not sent"
                self._store_end(ended(interaction, Outcome.COST_EXCEEDED, why, at=self._now()))
                await self._settled.wait()
                continue
            self._promise(interaction)
            self._apply(Began(interaction.id, granted))
            process.send(line)
            await self._settled.wait()

    async def _reserve(self, interaction: Interaction) -> Grant:
        """Store that a message is about to be sent, with the shared money that it may spend.

        Where what is left is reserved by others this waits a while, in case they do not spend it. Nothing is
        stored if it gets none.
        """
        patience = trio.current_time() + BUDGET_PATIENCE
        recovered = False
        while True:
            before = self.record
            self._update(
                status=SessionStatus.BUSY,
                claude_session_id=self.record.claude_session_id or self.record.id,
            )
            line = self._line("message", "sent", first_line(interaction.prompt), interaction.type)
            line = msgspec.structs.replace(line, interaction_id=interaction.id)
            granted = await self._journal.begin(self.record, interaction, self._now(), (line,))
            if not granted.short:
                return granted
            self._update(status=before.status, claude_session_id=before.claude_session_id)
            if granted.final or self._end.is_set() or self._recalled or trio.current_time() >= patience:
                return granted
            if not recovered:
                # Some of it may be held by what a dead process had under way.
                recovered = True
                await self._journal.recover(self._now())
                continue
            self._watchers.notify(self._progress("note", f"waits: {granted.short}"))
            with trio.move_on_after(BUDGET_EVERY):
                await self._end.wait()

    def _promise(self, interaction: Interaction) -> None:
        """The message in flight, as it stands."""
        self._current = interaction
        self._promises.update(interaction)

    def _limit_reached(self) -> tuple[Outcome, str] | None:
        limits, state = self.record.options.limits, self._state
        if limits.max_cost is not None and state.ledger.spent >= limits.max_cost:
            return (
                Outcome.COST_EXCEEDED,
                f"${state.ledger.spent:.4f} of ${limits.max_cost:.4f} were spent before; not sent",
            )
        if limits.max_turns is not None and state.turns >= limits.max_turns:
            return (
                Outcome.TURNS_EXCEEDED,
                f"{state.turns} of {limits.max_turns} turns were used before; not sent",
            )
        return None

    # --- the end of an interaction ------------------------------------------------------------------

    def _settle(self, error: CmsError | None = None, *, exact: bool = True) -> None:
        """The interaction in flight is over: judge it, write it down, tell who waits."""
        state, current = self._state, self._current
        turn = state.turn
        if turn is None or current is None:
            return
        conclusion = conclude(state)
        outcome, text = conclusion.outcome, conclusion.error
        if turn.breach is None and error is not None:
            outcome, text = Outcome.FAILED, str(error)
        elif turn.breach is None and state.phase is Phase.ENDED:
            outcome, text = Outcome.INTERRUPTED, self._end_reason
        api_status, resets_at = api_part(state)
        finished = msgspec.structs.replace(
            ended(current, outcome, text, at=self._now()),
            response=response_of(state),
            cost=state.ledger.spent - turn.spent_before,
            cost_exact=exact,
            turns=turn.turns,
            duration=self._work_now() - turn.started,
            reasons=(*conclusion.reasons, *self._look_at_caps()),
            tools_used=turn.tools_used,
            tool_calls=turn.tool_calls,
            denials=turn.denials,
            questions=turn.questions,
            usage=turn.models,
            api_status=api_status,
            resets_at=resets_at,
        )
        if state.phase is Phase.BUSY:
            self._state = fold(state, Settled(), self._work_now())
        else:
            self._state = msgspec.structs.replace(state, turn=None)
        self._activity = ""
        self._store_end(finished)

    def _store_end(self, finished: Interaction) -> None:
        self._current = None
        promise = self._promises.update(finished)
        self._update(
            status=self._status(),
            claude_session_id=self._state.conversation_id or self.record.claude_session_id,
            total_cost_usd=self._state.ledger.spent,
            cost_exact=self._state.ledger.exact,
            total_turns=self._state.turns,
            tool_calls=self._state.tool_calls,
            claude_version=self._state.version or self.record.claude_version,
            **self._oddities(),
        )
        record = self.record

        async def store() -> None:
            await self._journal.commit(session=record, interaction=finished)

        self._scribe.after(store, lambda error: self._conclude(promise, error))

    def _oddities(self) -> dict[str, int]:
        """How many lines were not understood, over the session's life."""
        unknown, noise = self._odd_before
        if self._process is not None:
            unknown += self._process.connection.unknown
            noise += self._process.connection.noise
        return {"unknown_lines": unknown, "noise_lines": noise}

    def _conclude(self, promise: Promise, error: CmsError | None = None) -> None:
        self._promises.keep(promise, error)
        self._settled.set()
        self._wake_courier()
        self._watchers.notify(self._progress("status"))

    # --- the end ------------------------------------------------------------------------------------

    def _begin_end(self, reason: str, status: SessionStatus, *, grace: float = math.inf) -> None:
        if self._end.is_set():
            # Under way already; it may have to be quicker.
            if self._ladder is not None:
                self._ladder.hurry_within(grace)
            self._end_grace = min(self._end_grace, grace)
            return
        self._end_reason = reason
        self._end_status = status
        self._end_grace = grace
        self._end.set()
        self._poke.set()
        self._wake_courier()

    async def _descend(self, ladder: Ladder) -> Receipt:
        turn = self._state.turn if self._state.phase is Phase.BUSY else None
        # An interrupt that was sent and did not help is not tried again.
        sent = turn.interrupted_at if turn is not None else None
        tried = sent is not None and self._work_now() >= sent + PATIENCE
        if self.frozen and not self._end_force:
            await self.thaw()  # what is frozen cannot be polite

        async def interrupt() -> None:
            settled = self._settled
            outcome = Outcome.INTERRUPTED if self.failure is None else Outcome.FAILED
            self._apply(Breached(Breach(outcome, self._end_reason, self._work_now())))
            await settled.wait()

        return await ladder.descend(
            self._end_reason,
            interrupt=interrupt if turn is not None and not tried else None,
            total=self._end_grace,
            at=self._now(),
        )

    def _close_books(self, process: AgentProcess) -> None:
        """The process is gone: what was in flight has ended with it."""
        if self._state.phase is Phase.ENDED:
            return
        exact = not may_owe(self._state)
        self._state = fold(self._state, Ended(process.container.returncode, exact=exact), self._work_now())
        self._settle(self.failure, exact=exact)

    async def _finish(self) -> None:
        """Whatever happened: write down how it ended, and let nobody wait for ever."""
        receipt, error = self.receipt, ""
        status = self._end_status if self.ending else SessionStatus.FAILED
        if self._process is not None:
            self._close_books(self._process)
            self._look_at_caps()
            receipt = await self._look_at_places(receipt)
            if receipt is None or not receipt.empty:
                left = ", ".join(receipt.left) if receipt is not None else ""
                status = SessionStatus.ERROR
                error = f"its end is not proved, processes may be left: {left or 'unknown'}"
        if self.failure is not None:
            error = f"{self.failure}; {error}" if error else str(self.failure)
        self._update(
            status=status,
            pid=None,
            claude_session_id=self._conversation(),
            error=error,
            receipt=receipt,
            cost_exact=self._state.ledger.exact,
            total_cost_usd=self._state.ledger.spent,
            total_turns=self._state.turns,
            tool_calls=self._state.tool_calls,
            **self._oddities(),
        )
        await self._write_end()

    async def _look_at_places(self, receipt: Receipt | None) -> Receipt | None:
        """What became of the protected places, for the record and the receipt. Not worth the end itself."""
        try:
            walls = await self._places.finish()
        except Exception as error:
            self.failure = self.failure or self._bug(error)
            return receipt
        self._update(walls=walls)
        if receipt is not None:
            self.receipt = receipt = msgspec.structs.replace(receipt, walls=walls)
        return receipt

    def _conversation(self) -> str:
        """What the next process is to resume; "" for a conversation that never began.

        A message that was written need not have been read. But what claude wrote was read to the end, and
        there it says that it begins one. Where that is lost (a crash of ours) claude itself says that there
        is nothing to resume, or that there is, and the next attempt is right.
        """
        if self._refusal.startswith(_NO_CONVERSATION) and self._state.turns == 0:
            return ""
        begun = self._begun or _IN_USE in self._refusal
        return self._state.conversation_id or (self.record.id if begun else "")

    async def strike_again(self) -> Receipt:
        """Try once more to end what the end has left alive, and store what came of it.

        Only after `wait_gone`, and only where the receipt does not prove that nothing is left.
        """
        process = self._process
        if process is None:
            return self.receipt or Receipt("never started", empty=True)
        ladder = Ladder(process, grace=self._settings.grace)
        self.receipt = receipt = await ladder.strike("killed again", at=self._now())
        if receipt.empty:
            self._update(status=SessionStatus.KILLED, error="")
        self._update(receipt=receipt)
        self._receipt_saved = False
        await self._write_end()
        return receipt

    async def save(self) -> None:
        """Try again to store the end.

        Raises:
            StoreError: it still cannot be written.
        """
        await self._write_end()
        if self._unsaved:
            raise self.failure or StoreError("the store cannot be written")

    async def _write_end(self) -> None:
        """Store the session as it ended, and the end of every message that is still owed one."""
        while True:
            self._queue.clear()
            reason, failed = str(self.failure or self._end_reason), self.failure is not None
            owed = self._promises.cut_off(reason, failed=failed, at=self._now())
            receipt = None if self._receipt_saved else self.receipt
            error: CmsError | None = None
            try:
                await self._journal.commit(
                    session=self.record,
                    interactions=[promise.interaction for promise in owed],
                    receipt=receipt,
                    process=self._process_id,
                    decisions=() if receipt is None else lines_of_end(receipt, self._line),
                )
            except CmsError as refused:
                error = refused
            except Exception as bug:
                error = self._bug(bug)
            self._receipt_saved = self._receipt_saved or error is None
            if error is not None:
                self.failure = self.failure or error
                self._update(error=str(error))
            # (Any other error than the store's: another cms has the session by now, and it is not ours.)
            self._unsaved = isinstance(error, StoreError)
            for promise in owed:
                self._conclude(promise, error)
            if not self._queue:
                break
        # No await since the queue was seen empty: what comes later sees this.
        self._closed = True

    # --- telling ------------------------------------------------------------------------------------

    def _status(self) -> SessionStatus:
        match self._state.phase:
            case Phase.STARTING:
                return SessionStatus.STARTING
            case Phase.BUSY:
                return SessionStatus.PAUSED if self.frozen else SessionStatus.BUSY
            case Phase.ENDED:
                return self._end_status
            case Phase.READY:
                return SessionStatus.PAUSED if self._paused else SessionStatus.READY

    def _update(self, **changes: object) -> None:
        self.record = msgspec.structs.replace(self.record, last_saved=self._now(), **changes)

    def _progress(self, kind: ProgressKind, text: str = "", *, tool: str = "") -> Progress:
        limits = self.record.options.limits
        return Progress(
            name=self.record.name,
            kind=kind,
            text=text,
            status=self.record.status,
            cost=self._state.ledger.spent,
            max_cost=limits.max_cost,
            turns=self._state.turns,
            max_turns=limits.max_turns,
            tool=tool,
            at=self._now(),
        )
