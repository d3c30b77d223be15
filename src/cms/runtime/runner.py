"""One live session: read, fold, decide, act.

A `Runner` is born with a process and dies with it; a session has one at a time. Its tasks:

- the reader takes events from the process, folds them into the state, and carries out what `decide` says;
- the clock calls `decide` again when `wake_at` says that something is due without an event;
- the scribe carries out, in order, what must be on disk before it is done: a tool call is answered after
  its decision and the money so far are stored, an interaction is over after its outcome is stored;
- the courier takes one queued message at a time, stores that it is being sent, sends it, and waits for its
  end;
- the door (`run` itself) waits for the reason to end, whatever it is, and walks down the stop ladder while
  the reader still reads. Cancellation from outside is one such reason: everything else runs shielded from
  it, so that `claude` is never cut off from a reader while it still flushes.

A runner raises nothing: what went wrong is in `failure`, in the session's record and in each interaction.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import trio

from cms.config import Settings, find_claude
from cms.errors import (
    AgentDied,
    CmsError,
    ControlTimeout,
    InternalError,
    ProtocolError,
    StoreError,
    WrongStatus,
)
from cms.protocol.argv import build_argv, build_environment
from cms.protocol.messages import (
    ApiRetry,
    Assistant,
    GetUsage,
    HookMatcher,
    Initialize,
    Interrupt,
    Line,
    RateLimitEvent,
    Result,
    StreamEvent,
    TextBlock,
    ToolUseBlock,
    UnknownControlRequest,
    UsageReply,
)
from cms.runtime.containment import Mechanism
from cms.runtime.process import AgentProcess, Ladder
from cms.session.ledger import Ledger
from cms.session.model import (
    Interaction,
    InteractionState,
    Outcome,
    Progress,
    ProgressKind,
    Receipt,
    SessionOptions,
    SessionRecord,
    SessionStatus,
)
from cms.session.paths import PathRules
from cms.session.policy import (
    AnswerCall,
    AskMeter,
    Note,
    Rules,
    SendInterrupt,
    Settle,
    StopProcess,
    conclude,
    decide,
    describe,
    response_of,
    wake_at,
)
from cms.session.state import (
    Began,
    Breach,
    Breached,
    Charged,
    Ended,
    InterruptSent,
    Judged,
    MeterAsked,
    Opened,
    Phase,
    Settled,
    State,
    fold,
    may_owe,
    usage_of,
)
from cms.store.journal import Journal
from cms.store.rawlog import RawLog, raw_log_path
from cms.store.records import Charge, Decision

#: Seconds for our own answer to a tool call; claude refuses the call afterwards. Long, because the answer may
#: wait for the end of a long reply, and being silent is safe.
_HOOK_TIMEOUT = 600.0
#: Progress notes that a watcher may lag behind before it loses some.
_WATCHER_LAG = 256
_EFFECTS = 4096


def build_rules(options: SessionOptions, environ_home: str) -> Rules:
    """The policy's rules from what a person chose; this is where links are resolved for it."""
    work_dir = Path(options.work_dir)

    def resolve(path: str) -> str:
        return str(Path(path).resolve())

    folders = [options.work_dir, resolve(options.work_dir)]
    for extra in options.add_dirs:
        folders += [str(work_dir / extra), resolve(str(work_dir / extra))]
    return Rules(
        limits=options.limits,
        preset=options.preset,
        paths=PathRules(
            work_dir=options.work_dir,
            home=environ_home,
            resolve=resolve,
            protect=options.protect,
            allow=options.allow_write,
        ),
        read_paths=PathRules(
            work_dir=options.work_dir,
            home=environ_home,
            resolve=resolve,
            protect=options.protect_read,
            defaults=(),
        ),
        folders=tuple(dict.fromkeys(folders)),
        safety=options.safety,
        permission_mode=options.permission_mode,
        stop_on_violation=options.on_violation == "stop",
    )


class _Effect(msgspec.Struct):
    """Something to be done once what it rests on is on disk."""

    store: Callable[[], Awaitable[None]] | None
    then: Callable[[StoreError | None], None]


class Runner:
    """A session with a live process.

    Attributes:
        record: the session as it stands, always current.
        failure: why it could not start or did not go on, or None.
        receipt: how its process ended, once it has.
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
        self._settings = settings
        self._journal = journal
        self._mechanism = mechanism
        self._resume = resume
        self._fork = fork
        self._epoch = time.time() - trio.current_time()
        home = settings.environ.get("HOME") or str(Path.home())
        self._rules = build_rules(record.options, home)
        self._state = State(
            conversation_id=record.claude_session_id,
            turns=record.total_turns,
            tool_calls=record.tool_calls,
            ledger=Ledger(spent=record.total_cost_usd, exact=record.cost_exact),
        )
        self._odd_before = (record.unknown_lines, record.noise_lines)
        self._process: AgentProcess | None = None
        self._process_id = ""
        self._ladder: Ladder | None = None
        self._queue: deque[Interaction] = deque()
        self._current: Interaction | None = None
        self._news = trio.Event()  # for the courier: something that it waits for has changed
        self._poke = trio.Event()  # for the clock: something is due earlier than it thinks
        self._sleeps_until = math.inf
        self._settled = trio.Event()
        self._waiters: dict[str, trio.Event] = {}
        self._finished: dict[str, Interaction] = {}
        self._effects_in, self._effects = trio.open_memory_channel[_Effect](_EFFECTS)
        self._end = trio.Event()
        self._end_reason = ""
        self._end_force = False
        self._end_status = SessionStatus.STOPPED
        self._end_grace = math.inf
        self._ready = trio.Event()
        self._opened = False
        self._gone = trio.Event()
        self._closed = False
        self._paused = False
        self._drained = trio.Event()  # the reader has come to the end of stdout
        self._scribed = trio.Event()  # the scribe has come to the end of its effects
        self._watchers: dict[trio.MemorySendChannel[Progress], int] = {}
        self._activity = ""

    def __repr__(self) -> str:
        record = self.record
        return f"<Runner {record.name!r} {record.status} pid={record.pid} queue={len(self._queue)}>"

    # --- what others may ask and do ---------------------------------------------------------------

    @property
    def activity(self) -> str:
        """What it is doing now, in a line."""
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
        self._update(interaction_count=interaction.number)
        await self._journal.commit(session=self.record, interaction=interaction)
        self._waiters[interaction.id] = trio.Event()
        self._queue.append(interaction)
        self._wake_courier()
        if self._closed:
            # Its end came while the message was being stored, and nobody will look into the queue again.
            await self._write_end()

    def _check_open(self) -> None:
        name = self.record.name
        if self.ending:
            raise WrongStatus(name, "stopping", "take a message", hint="try again in a moment")
        if self._paused:
            raise WrongStatus(name, "paused", "take a message", hint=f"cms resume {name}")

    async def wait_interaction(self, interaction_id: str) -> Interaction:
        """Until that interaction has ended and its outcome is stored."""
        event = self._waiters.get(interaction_id)
        if event is not None:
            await event.wait()
        if interaction_id not in self._finished:
            raise InternalError(f"interaction {interaction_id} is not this session's")
        return self._finished[interaction_id]

    def interrupt(self, reason: str = "interrupted") -> bool:
        """End the interaction in flight; the process lives on. False if there is none."""
        if self._state.turn is None or self._state.phase is not Phase.BUSY:
            return False
        self._apply(Breached(Breach(Outcome.INTERRUPTED, reason, self._now())))
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
        self._paused = True
        self._update(status=self._status())

    def unpause(self) -> None:
        self._paused = False
        self._update(status=self._status())
        self._wake_courier()

    @property
    def paused(self) -> bool:
        return self._paused

    @contextmanager
    def watch(self) -> Iterator[trio.MemoryReceiveChannel[Progress]]:
        """Notes on what the session does, until its process is gone. Who lags behind loses some."""
        send, receive = trio.open_memory_channel[Progress](_WATCHER_LAG)
        self._watchers[send] = 0
        if self._gone.is_set():
            send.close()
        try:
            send.send_nowait(self._progress("status"))
        except (trio.WouldBlock, trio.ClosedResourceError):
            pass
        try:
            with receive:
                yield receive
        finally:
            self._watchers.pop(send, None)
            send.close()

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
            self._gone.set()
            for watcher in list(self._watchers):
                watcher.close()

    async def _hear_cancel(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._begin_end("the supervisor is ending", SessionStatus.STOPPED)

    async def _live(self) -> None:
        raw: RawLog | None = None
        try:
            raw = RawLog(raw_log_path(self._settings.raw, self.record.id))
            await self._start(raw)
            await self._serve()
        except CmsError as error:
            self._fail(error)
        except BaseExceptionGroup as group:
            ours, rest = group.split(CmsError)
            if rest is not None:
                # A bug. The session ends like any other, and the bug is told.
                self._fail(InternalError(f"in session {self.record.name!r}: {rest.exceptions[0]!r}"))
            elif ours is not None:
                self._fail(_first(ours))
        except Exception as error:  # a bug outside of any nursery: the same door
            self._fail(InternalError(f"in session {self.record.name!r}: {error!r}"))
        finally:
            await self._finish()
            if raw is not None:
                raw.close()

    def _fail(self, error: CmsError) -> None:
        if self.failure is None:
            self.failure = error
        self._begin_end(str(error), SessionStatus.FAILED)

    async def _start(self, raw: RawLog) -> None:
        options, limits = self.record.options, self.record.options.limits
        self._update(status=SessionStatus.STARTING, error="", receipt=None)
        await self._journal.commit(session=self.record)
        spent = self._state.ledger.spent
        argv = build_argv(
            find_claude(self._settings),
            options,
            session_id=self.record.id,
            resume=self._resume,
            fork=self._fork,
            # The second lock counts from the start of the process.
            budget=None if limits.max_cost is None else max(limits.max_cost - spent, 0.0001),
            turns=None if limits.max_turns is None else max(limits.max_turns - self._state.turns, 1),
        )
        self._process = await AgentProcess.start(
            self._mechanism,
            self._settings,
            argv=argv,
            env=build_environment(self._settings.environ),
            work_dir=options.work_dir,
            log=raw,
            label=self.record.name,
            now=self._now,
            max_memory=limits.max_memory,
            max_procs=limits.max_procs,
        )
        self._process_id = f"{self.record.id}/{self._process.pid}@{self._now():.3f}"

    async def _serve(self) -> None:
        process = self._process
        assert process is not None  # noqa: S101 - for the type checker: `_start` has set it
        self._ladder = ladder = Ladder(process, grace=self._settings.grace)
        if self._end_force:
            ladder.hurry()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, process)
                nursery.start_soon(process.read_errors)
                nursery.start_soon(process.write_out)
                nursery.start_soon(self._scribe)
                nursery.start_soon(self._clock)
                nursery.start_soon(self._open_and_deliver, process)
                await self._end.wait()
                self.receipt = await self._descend(ladder)
                # What it flushed before its end is still in the pipe: let the reader have it, and the
                # scribe store it.
                with trio.move_on_after(self._settings.grace):
                    await self._drained.wait()
                self._close_books(process)
                self._effects_in.close()
                with trio.move_on_after(self._settings.grace):
                    await self._scribed.wait()
                nursery.cancel_scope.cancel()
        finally:
            # After a bug in any of the tasks: nothing of the process outlives this block.
            if self.receipt is None:
                ladder.hurry()
                self.receipt = await self._descend(ladder)
            await process.container.aclose(deadline=self._settings.grace)

    # --- start ------------------------------------------------------------------------------------

    async def _open_and_deliver(self, process: AgentProcess) -> None:
        try:
            await self._handshake(process)
        except CmsError as error:
            self._fail(error)
            return
        self._update(status=self._status(), pid=process.pid)
        try:
            await self._journal.commit(session=self.record)
        except CmsError as error:
            self._fail(error)
            return
        self._opened = True
        self._ready.set()
        self._wake_courier()
        await self._courier(process)

    async def _handshake(self, process: AgentProcess) -> None:
        """Register the gate, then learn the baseline: nothing is sent before both are known."""
        matcher = HookMatcher(("pre",), timeout=_HOOK_TIMEOUT)
        initialize = Initialize({"PreToolUse": (matcher,)})
        with trio.move_on_after(self._settings.start_timeout) as scope:
            answer = await process.request(initialize)
            if answer.error:
                raise ProtocolError(f"claude refused to register the tool gate: {answer.error}")
            usage = await process.request(GetUsage())
            if usage.error:
                raise ProtocolError(f"claude does not tell its cost: {usage.error}")
            try:
                totals = msgspec.json.decode(usage.response, type=UsageReply).session
            except msgspec.DecodeError as error:
                raise ProtocolError(f"claude's cost report cannot be read: {error}") from error
            self._apply(Opened(totals.total_cost_usd, usage_of(totals.model_usage)))
        if scope.cancelled_caught:
            raise ControlTimeout("initialize", self._settings.start_timeout)

    # --- reader and clock -------------------------------------------------------------------------

    def _now(self) -> float:
        return self._epoch + trio.current_time()

    async def _read(self, process: AgentProcess) -> None:
        try:
            async for event in process.events():
                if isinstance(event, UnknownControlRequest):
                    process.refuse(event.request_id, f"cms does not know `{event.subtype}`")
                self._apply(event)
        except CmsError as error:
            self._fail(error)
            if self._ladder is not None:
                self._ladder.hurry()
        if not self.ending:
            # Its stdout ended though nobody asked it to: it has died, or is about to.
            with trio.move_on_after(self._settings.grace):
                await process.container.wait()
            if self._state.turn is not None:
                stage = "in the middle of a turn"
            else:
                stage = "while idle" if self._opened else "before it was ready"
            self._fail(AgentDied(stage, process.container.returncode, process.stderr_tail))
        self._drained.set()
        process.abandon()

    def _apply(self, event: Line) -> None:
        """Fold an event in, and do what follows from it."""
        before = self._state
        self._state = state = fold(before, event, self._now())
        if self._watchers or type(event) is not StreamEvent:
            self._tell(event)
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
        # Once the end has begun, the ladder keeps the time.
        while not self.ending:
            due = wake_at(self._state, self._rules)
            self._sleeps_until = math.inf if due is None else due
            self._poke = trio.Event()
            with trio.move_on_after(math.inf if due is None else max(due - self._now(), 0.0)):
                await self._poke.wait()
                continue
            self._act()

    def _act(self) -> None:
        process = self._process
        if process is None:
            return
        now = self._now()
        for action in decide(self._state, self._rules, now):
            match action:
                case AnswerCall():
                    self._answer(process, action, now)
                case AskMeter():
                    self._state = fold(self._state, MeterAsked(), now)
                    process.ask(GetUsage())
                case SendInterrupt():
                    self._state = fold(self._state, InterruptSent(), now)
                    process.ask(Interrupt())
                case Note(breach=breach):
                    self._state = fold(self._state, Breached(breach), now)
                    self._notify(self._progress("note", breach.reason))
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
            at=now,
            tool=call.tool,
            detail=verdict.detail,
            verdict="allowed" if allowed else "refused",
            reason=verdict.reason,
            cost=self._state.ledger.spent,
        )
        if allowed:
            self._activity = f"{call.tool} {verdict.detail}".strip()
            self._notify(self._progress("tool", verdict.detail, tool=call.tool))
        else:
            self._notify(self._progress("denied", verdict.reason, tool=call.tool))

        async def store() -> None:
            await self._journal.add_decision(decision)

        def then(error: StoreError | None) -> None:
            if error is None or not allowed:
                process.answer(call.request_id, action.answer)
            # A decision that is not on disk lets nothing run: silence refuses, and the end has begun.

        self._after(store, then)

    # --- scribe -----------------------------------------------------------------------------------

    def _after(
        self, store: Callable[[], Awaitable[None]] | None, then: Callable[[StoreError | None], None]
    ) -> None:
        try:
            self._effects_in.send_nowait(_Effect(store, then))
        except trio.WouldBlock:
            self._fail(ProtocolError("claude asks faster than the store can write"))
        except trio.ClosedResourceError:
            pass  # the books of this process are closed: what is answered now reaches nobody

    async def _scribe(self) -> None:
        async for effect in self._effects:
            failure: StoreError | None = None
            try:
                if effect.store is not None:
                    await effect.store()
            except StoreError as error:
                failure = error
                self._fail(error)
            except CmsError as error:
                failure = StoreError(str(error))
                self._fail(error)
            effect.then(failure)
        self._scribed.set()

    def _store_charges(self) -> None:
        charges = self._state.charges
        self._state = fold(self._state, Charged(len(charges)), self._state.last_heard)
        turn = self._state.turn
        rows = [
            Charge(
                session_id=self.record.id,
                interaction_id=turn.id if turn is not None else "",
                process=self._process_id,
                model=model,
                usage=usage,
                at=self._state.last_heard,
                process_total=charge.total,
            )
            for charge in charges
            for model, usage in charge.usage.items()
        ]
        self._update(
            total_cost_usd=self._state.ledger.spent,
            total_turns=self._state.turns,
            tool_calls=self._state.tool_calls,
        )
        record = self.record

        async def store() -> None:
            await self._journal.commit(session=record, charges=rows)

        self._after(store, lambda _error: None)

    def _store_running(self) -> None:
        """claude says that it has begun: after a crash the message is no longer in doubt."""
        turn, current = self._state.turn, self._current
        if turn is None or current is None or turn.state is not InteractionState.RUNNING:
            return
        self._current = running = msgspec.structs.replace(current, state=InteractionState.RUNNING)

        async def store() -> None:
            await self._journal.commit(interaction=running)

        self._after(store, lambda _error: None)

    # --- courier ----------------------------------------------------------------------------------

    def _wake_courier(self) -> None:
        self._news.set()

    async def _courier(self, process: AgentProcess) -> None:
        while not self.ending:
            if not self._queue or self._paused or self._state.phase is not Phase.READY:
                self._news = trio.Event()
                await self._news.wait()
                continue
            interaction = msgspec.structs.replace(self._queue.popleft(), state=InteractionState.SENT)
            self._current = interaction
            self._settled = trio.Event()
            if (spent := self._limit_reached()) is not None:
                self._store_end(self._ended_unsent(interaction, *spent))
                await self._settled.wait()
                continue
            self._update(
                status=SessionStatus.BUSY,
                claude_session_id=self.record.claude_session_id or self.record.id,
            )
            try:
                # After this a crash leaves the message doubtful; before it, certainly unsent.
                await self._journal.commit(session=self.record, interaction=interaction)
                line = process.connection.send_message(interaction.id, interaction.prompt)
            except CmsError as error:
                self._queue.appendleft(interaction)
                self._current = None
                self._fail(error)
                return
            if self._end.is_set():
                # Nothing was written: it stays unsent, and is told so with the rest of the queue.
                self._queue.appendleft(interaction)
                self._current = None
                return
            self._apply(Began(interaction.id))
            process.send(line)
            await self._settled.wait()

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

    def _ended_unsent(self, interaction: Interaction, outcome: Outcome, error: str) -> Interaction:
        return msgspec.structs.replace(
            interaction,
            state=InteractionState.INTERRUPTED,
            outcome=outcome,
            error=error,
            is_error=True,
            ended=self._now(),
        )

    # --- the end of an interaction ------------------------------------------------------------------

    def _settle(self, error: CmsError | None = None) -> None:
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
        ended = self._now()
        state_word = InteractionState.DONE
        if outcome is Outcome.FAILED:
            state_word = InteractionState.FAILED
        elif outcome is not Outcome.COMPLETED and outcome is not Outcome.NEEDS_INPUT:
            state_word = InteractionState.INTERRUPTED
        finished = msgspec.structs.replace(
            current,
            state=state_word,
            response=response_of(state),
            cost=state.ledger.spent - turn.spent_before,
            cost_exact=state.phase is not Phase.ENDED or state.ledger.exact,
            turns=turn.turns,
            duration=ended - turn.started,
            ended=ended,
            is_error=outcome is not Outcome.COMPLETED,
            error=text,
            outcome=outcome,
            reasons=conclusion.reasons,
            tools_used=turn.tools_used,
            tool_calls=turn.tool_calls,
            denials=turn.denials,
            questions=turn.questions,
            usage=turn.models,
        )
        if state.phase is Phase.BUSY:
            self._state = fold(state, Settled(), ended)
        else:
            self._state = msgspec.structs.replace(state, turn=None)
        self._activity = ""
        self._store_end(finished)

    def _store_end(self, finished: Interaction) -> None:
        self._current = None
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

        def then(error: StoreError | None) -> None:
            # If it could not be stored the answer is still given: it came, and the raw log has it.
            self._conclude(finished, error)

        self._after(store, then)

    def _oddities(self) -> dict[str, int]:
        """How many lines were not understood, over the session's life."""
        unknown, noise = self._odd_before
        if self._process is not None:
            unknown += self._process.connection.unknown
            noise += self._process.connection.noise
        return {"unknown_lines": unknown, "noise_lines": noise}

    def _conclude(self, finished: Interaction, error: StoreError | None = None) -> None:
        if error is not None and not finished.is_error:
            finished = msgspec.structs.replace(
                finished, is_error=True, error=str(error), outcome=Outcome.FAILED
            )
        self._finished[finished.id] = finished
        self._settled.set()
        self._wake_courier()
        if (waiter := self._waiters.get(finished.id)) is not None:
            waiter.set()
        self._notify(self._progress("status"))

    # --- the end ------------------------------------------------------------------------------------

    def _begin_end(self, reason: str, status: SessionStatus, *, grace: float = math.inf) -> None:
        if self._end.is_set():
            return
        self._end_reason = reason
        self._end_status = status
        self._end_grace = grace
        self._end.set()
        self._wake_courier()

    async def _descend(self, ladder: Ladder) -> Receipt:
        in_flight = self._state.turn is not None and self._state.phase is Phase.BUSY
        dead = self._drained.is_set()

        async def interrupt() -> None:
            settled = self._settled
            self.interrupt(self._end_reason)
            await settled.wait()

        if dead:
            ladder.hurry()
        return await ladder.descend(
            self._end_reason,
            interrupt=interrupt if in_flight and not dead else None,
            total=self._end_grace,
            at=self._now(),
        )

    def _close_books(self, process: AgentProcess) -> None:
        """The process is gone: what was in flight has ended with it."""
        in_flight = self._state.turn is not None
        ended = Ended(process.container.returncode, exact=not may_owe(self._state))
        self._state = fold(self._state, ended, self._now())
        if in_flight:
            self._settle(self.failure)

    async def _finish(self) -> None:
        """Whatever happened: write down how it ended, and let nobody wait for ever."""
        receipt = self.receipt
        status = self._end_status if self._end.is_set() else SessionStatus.FAILED
        if receipt is not None and not receipt.empty:
            status = SessionStatus.ERROR
        self._update(
            status=status,
            pid=None,
            error=str(self.failure) if self.failure is not None else "",
            receipt=receipt,
            cost_exact=self._state.ledger.exact,
            total_cost_usd=self._state.ledger.spent,
            total_turns=self._state.turns,
            tool_calls=self._state.tool_calls,
            **self._oddities(),
        )
        await self._write_end()

    async def _write_end(self) -> None:
        """Store the session as it ended, and every message that was accepted and not sent."""
        while True:
            why = f"never sent: {self._end_reason or self.failure}; send it again"
            unsent = [self._ended_unsent(one, Outcome.INTERRUPTED, why) for one in self._queue]
            self._queue.clear()
            try:
                await self._journal.commit(
                    session=self.record, interactions=unsent, receipt=self.receipt, process=self._process_id
                )
            except CmsError as error:
                self.failure = self.failure or error
                self._update(error=str(error))
            for one in unsent:
                self._conclude(one)
            if not self._queue:
                break
        # No await since the queue was seen empty: what comes later sees this.
        self._closed = True

    # --- telling ------------------------------------------------------------------------------------

    def _status(self) -> SessionStatus:
        if self._state.phase is Phase.BUSY:
            return SessionStatus.BUSY
        if self._state.phase is Phase.STARTING:
            return SessionStatus.STARTING
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

    def _tell(self, event: Line) -> None:
        match event:
            case StreamEvent(event=api, parent_tool_use_id=None) if api.delta is not None and api.delta.text:
                self._notify(self._progress("text", api.delta.text))
            case Assistant(parent_tool_use_id=None):
                for block in event.blocks:
                    if isinstance(block, TextBlock) and block.text.strip():
                        self._activity = block.text.strip().splitlines()[0][:120]
                    elif isinstance(block, ToolUseBlock):
                        self._activity = f"{block.name} {describe(block.input)}".strip()
            case ApiRetry(attempt=attempt, error_status=status, retry_delay_ms=delay):
                text = f"API error {status}, try {attempt} in {delay / 1000:.0f} s"
                self._activity = text
                self._notify(self._progress("retry", text))
            case RateLimitEvent(rate_limit_info=info):
                self._notify(self._progress("rate_limit", f"{info.rateLimitType}: {info.status}"))
            case Result():
                self._notify(self._progress("turn"))
            case _:
                pass

    def _notify(self, note: Progress) -> None:
        for watcher in list(self._watchers):
            try:
                lost = self._watchers[watcher]
                if lost:
                    watcher.send_nowait(self._progress("note", f"{lost} notes lost: this watcher is slow"))
                    self._watchers[watcher] = 0
                watcher.send_nowait(note)
            except trio.WouldBlock:
                self._watchers[watcher] += 1
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                self._watchers.pop(watcher, None)


def _first(group: BaseExceptionGroup[CmsError]) -> CmsError:
    for one in group.exceptions:
        return _first(one) if isinstance(one, BaseExceptionGroup) else one
    raise InternalError("an empty group of errors")
