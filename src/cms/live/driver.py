"""What follows from what a session's process says: fold it into the state, decide, carry it out.

Whatever must be on disk before it is done goes through the write queue: a tool call is answered after its
decision and the money so far are stored, an interaction is over after its outcome is stored. So everything
here but the clock and the waiting is done at once, and the reader never waits for the disk.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import trio

from cms.errors import ClaudeUnfit, CmsError, ControlTimeout, InternalError
from cms.live import resource_caps
from cms.live.context import SessionContext
from cms.live.ending import Ending
from cms.live.log_rows import rows_of_charges
from cms.live.path_lookup import PathLookup
from cms.live.pending import PendingMessage, PendingMessages, ended
from cms.live.process import AgentProcess
from cms.live.resource_caps import ResourceCap
from cms.live.watchers import Notes, Watchers, activity_of
from cms.live.write_queue import WriteQueue
from cms.protocol.messages import CanUseTool, Event, GetUsage, HookStarted, Interrupt, Result
from cms.protocol.tools import QUESTION_TOOL
from cms.protocol.versions import MINIMUM
from cms.session.audit import AuditEntry
from cms.session.budget import Grant
from cms.session.decide import (
    AnswerCall,
    AskBudget,
    AskMeter,
    AskStanding,
    EndUnasked,
    FindPaths,
    GiveUp,
    Note,
    SendInterrupt,
    Settle,
    StopProcess,
    Unfit,
    decide,
    wake_at,
)
from cms.session.fold import is_piece
from cms.session.gate import GateDecision, Rules, asked_questions, held
from cms.session.model import Interaction, InteractionState, Outcome, SessionStatus
from cms.session.plan_events import told_by
from cms.session.plan_usage import UsageWindow
from cms.session.questions import OpenQuestion, PersonAnswer
from cms.session.startup import waits_for
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
    LookingUp,
    MeterAsked,
    PathsFound,
    PendingCall,
    PersonAnswered,
    Phase,
    Settled,
    StandingAsked,
    StandingKnown,
    may_owe,
)
from cms.session.transcript import first_line
from cms.session.verdict import api_part, conclude, response_of
from cms.store import money, plan_usage, sessions, turns
from cms.store.store import Store

#: Seconds after which what is told of the plan once more is stored, for the time at which it was heard.
_PLAN_EVERY = 60.0
#: Seconds for the end of a process that has not come up within a limit.
_GIVE_UP = 1.0


class Driver:
    """Of one session. `apply` is called for each event, `clock` is a task.

    Attributes:
        activity: what the agent is doing, in a line.
        task: what the newest message begins with.
        since: when that was begun, or else ended.
        begun: claude has said that it began a message.
        refusal: claude's own words on why it does not come up.
        lookup: finds out where the paths of calls lead; its `run` is a task.
    """

    def __init__(
        self,
        context: SessionContext,
        end: Ending,
        rules: Rules,
        *,
        store: Store,
        writes: WriteQueue,
        watchers: Watchers,
        pending: PendingMessages,
    ) -> None:
        self.activity = ""
        self.task = ""
        self.since = context.now()
        self.begun = False
        self.refusal = ""
        self.lookup = PathLookup(rules.paths, self.apply)
        self._cap_passed: ResourceCap | None = None
        self._context = context
        self._end = end
        self._rules = rules
        self._store = store
        self._writes = writes
        self._watchers = watchers
        self._notes = Notes()
        self._pending = pending
        self._process: AgentProcess | None = None
        self._process_id = ""
        self._current: Interaction | None = None  # in flight, as it stands
        self._lines_before = (context.record.unknown_lines, context.record.noise_lines)
        self._settled = trio.Event()
        self._sleeps_until = math.inf
        self._plan_said: frozenset[UsageWindow] = frozenset()
        self._plan_stored = -math.inf

    def __repr__(self) -> str:
        return f"<Driver {self._context.state.phase} activity={self.activity!r}>"

    def take(self, process: AgentProcess, process_id: str) -> None:
        """This is what is driven from now on; its charges are entered under that id."""
        self._process = process
        self._process_id = process_id

    # --- events and time --------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Fold an event in, and do what follows from it."""
        context = self._context
        before = context.state
        context.fold(event)
        if context.trace is not None:
            context.trace.heard(event)
        if (doing := activity_of(event)) is not None:
            self.activity = doing
        if self._watchers and (note := self._notes.of(event)) is not None:
            self._watchers.notify(context.progress(*note))
        if is_piece(event):
            return  # what becomes due with time is the clock's
        if windows := told_by(event):
            self._store_plan_usage(windows)
        if isinstance(event, HookStarted) and before.phase is Phase.STARTING:
            self._watchers.notify(context.progress("note", waits_for(context.state)))
        if isinstance(event, Result) and before.phase is Phase.STARTING:
            self.refusal = event.result or " ".join(event.errors)
        if context.state.charges:
            self._store_charges()
        self._act()
        if isinstance(event, CanUseTool | PathsFound):
            self._note_held(event.request_id)
        due = wake_at(context.state, self._rules)
        if due is not None and due < self._sleeps_until:
            context.signal_change()
        if before.phase is not context.state.phase:
            context.signal_change()
        elif before.turn is not None and before.turn.state is not InteractionState.RUNNING:
            self._store_running()

    async def clock(self) -> None:
        """Decide again whenever something is due without an event. Never ends by itself."""
        context = self._context
        while True:
            due = wake_at(context.state, self._rules)
            turn = context.state.turn
            if self._end.has_begun() and (
                turn is None or turn.breach is None or turn.interrupted_at is not None
            ):
                due = None  # the ladder keeps the time
            if context.frozen:
                due = None
            self._sleeps_until = math.inf if due is None else due
            with trio.move_on_after(math.inf if due is None else max(due - context.work_now(), 0.0)):
                await context.wait_change()
                continue
            self._act()

    def break_off(self, outcome: Outcome, reason: str) -> None:
        """End the interaction in flight: it is interrupted, and settled when that is over."""
        self.apply(Breached(Breach(outcome, reason, self._context.work_now())))

    def log(self, entry: AuditEntry) -> None:
        """Have an entry of the audit log stored."""
        self._writes.after(lambda: self._store.add_entry(entry))

    # --- carrying out -----------------------------------------------------------------------------

    def _act(self) -> None:
        process, context = self._process, self._context
        if process is None:
            return
        now = context.work_now()
        for action in decide(context.state, self._rules, now):
            match action:
                case AnswerCall():
                    self._answer(process, action, now)
                case FindPaths(call=call):
                    context.fold(LookingUp(call.request_id), now)
                    self.lookup.find(call)
                case AskMeter():
                    context.fold(MeterAsked(), now)
                    process.ask(GetUsage())
                case AskBudget():
                    self.check_budget()
                case AskStanding():
                    self._ask_standing()
                case EndUnasked(reason=reason):
                    context.fold(InterruptSent(unasked=True), now)
                    self.log(context.entry("limit", "interrupted", reason=reason))
                    self._watchers.notify(context.progress("note", reason))
                    process.ask(Interrupt())
                case SendInterrupt():
                    context.fold(InterruptSent(), now)
                    process.ask(Interrupt())
                case Note(breach=breach):
                    context.fold(Breached(breach), now)
                    self.log(context.entry("limit", breach.outcome, reason=breach.reason))
                    self._watchers.notify(context.progress("note", breach.reason))
                case StopProcess(reason=reason):
                    self._end.begin(reason, SessionStatus.STOPPED)
                case Settle():
                    self._settle()
                case GiveUp() | Unfit():
                    self._give_up(process, action)
                case _:
                    raise InternalError(f"no way to carry out {action!r}")

    def _give_up(self, process: AgentProcess, action: GiveUp | Unfit) -> None:
        """It did not come up in time, or is none that can be worked with."""
        if isinstance(action, Unfit):
            self._end.fail(ClaudeUnfit(self._context.state.version, action.lacks, MINIMUM))
        elif action.breach is None:
            asked, waited = process.connection.waits_for, self._rules.start_timeout
            self._end.fail(ControlTimeout(asked, waited, process.last_words))
        else:
            # Nothing was sent: there is nothing to be polite about.
            why, outcome = action.breach.reason, action.breach.outcome
            self._end.begin(why, SessionStatus.STOPPED, grace=_GIVE_UP, outcome=outcome)

    def _answer(self, process: AgentProcess, action: AnswerCall, now: float) -> None:
        call, decision, context = action.call, action.decision, self._context
        turn = context.state.turn
        allowed = decision.effect != "deny"
        judged = Judged(
            call.request_id,
            action.denial,
            decision.questions,
            decision.plan,
            noted=not allowed and action.denial is None,
        )
        context.fold(judged, now)
        entry = AuditEntry(
            session_id=context.record.id,
            interaction_id=turn.id if turn is not None else "",
            at=context.now(),
            tool=call.tool,
            detail=decision.detail,
            verdict="allowed" if allowed else "refused",
            reason=decision.reason or _permitted(call, decision),
            cost=context.state.ledger.spent,
            tool_use_id=call.tool_use_id,
        )
        if context.trace is not None:
            context.trace.answered(call, decision.reason, allowed=allowed)
        if allowed:
            self.activity = f"{call.tool} {decision.detail}".strip()
            self._watchers.notify(context.progress("tool", decision.detail, tool=call.tool))
        else:
            self._watchers.notify(context.progress("denied", decision.reason, tool=call.tool))

        async def store() -> None:
            await self._store.add_entry(entry)

        def then(error: CmsError | None) -> None:
            # What may act does so only with its decision on disk, and never once the end has begun: an
            # earlier failure of the store is such an end. Silence refuses.
            if not allowed or (error is None and not self._end.has_begun()):
                process.answer(call.request_id, action.answer)

        self._writes.after(store, then)

    # --- a person's answer --------------------------------------------------------------------------

    def questions(self) -> list[OpenQuestion]:
        """The calls that wait for a person's answer."""
        context = self._context
        return [
            OpenQuestion(
                name=context.record.name,
                id=str(call.complete),
                kind="question" if call.tool == QUESTION_TOOL else "permission",
                tool=call.tool,
                detail=call.given.detail or call.blocked_path,
                questions=asked_questions(call),
                asked=context.wall(call.at),
                expires=context.wall(call.at + self._rules.ask_timeout),
                whole="" if call.tool == QUESTION_TOOL else call.whole,
            )
            for call in held(context.state, self._rules, context.work_now())
        ]

    def answer_question(self, question_id: str, answer: PersonAnswer) -> bool:
        """A person's answer to a call that waits; False if it does not wait any more."""
        for call in self._context.state.gate:
            if str(call.complete) == question_id and call.kind == "permission":
                self.apply(PersonAnswered(call.request_id, answer))
                return True
        return False

    def _note_held(self, request_id: str) -> None:
        context = self._context
        if any(c.request_id == request_id for c in held(context.state, self._rules, context.work_now())):
            self.activity = f"waits for a person: cms ask {context.record.name}"
            self._watchers.notify(context.progress("note", self.activity))

    # --- money ------------------------------------------------------------------------------------

    def _store_charges(self) -> None:
        context = self._context
        charges = context.state.charges
        context.fold(Charged(len(charges)), context.state.last_heard)
        turn, now = context.state.turn, context.now()
        key = turn.id if turn is not None else ""
        rows = rows_of_charges(
            charges,
            session_id=context.record.id,
            process=self._process_id,
            model=context.state.model,
            at=now,
        )
        context.update(
            total_cost_usd=context.state.ledger.spent,
            total_turns=context.state.turns,
            tool_calls=context.state.tool_calls,
        )
        record = context.record
        self._ask_budget(lambda: self._store.write(turns.spend, record, rows, key, now))

    def _store_plan_usage(self, windows: Sequence[UsageWindow]) -> None:
        """Keep what claude tells of the plan: where it is news, and now and then where it is not."""
        now, name = self._context.now(), self._context.record.name
        said = frozenset(windows)
        if said == self._plan_said and now < self._plan_stored + _PLAN_EVERY:
            return
        self._plan_said, self._plan_stored = said, now
        heard = [msgspec.structs.replace(one, heard=now, heard_from=name) for one in windows]
        self._writes.after(lambda: self._store.write(plan_usage.save, heard))

    def check_budget(self) -> None:
        """Learn anew what the interaction in flight may still spend of the shared money."""
        record, now, turn = self._context.record, self._context.now(), self._context.state.turn
        if turn is not None:
            key = turn.id
            self._ask_budget(lambda: self._store.write(turns.renew, record.id, key, now))

    def _ask_budget(self, ask: Callable[[], Awaitable[Grant]]) -> None:
        """Have something stored that tells in the same step what may be spent from now on."""
        turn = self._context.state.turn
        self._context.fold(BudgetAsked())
        grants: list[Grant] = []

        async def store() -> None:
            grants.append(await ask())

        def then(_error: CmsError | None) -> None:
            if turn is not None and grants:
                self.apply(Granted(turn.id, grants[0]))

        self._writes.after(store, then)

    def _ask_standing(self) -> None:
        """Learn what the shared budgets have for the turn that nobody asked for."""
        context, unasked = self._context, self._context.state.unasked
        if unasked is None:
            return
        context.fold(StandingAsked())
        grants: list[Grant] = []

        async def store() -> None:
            grants.append(await self._store.read(money.left_for, unasked.payer, context.now()))

        def then(_error: CmsError | None) -> None:
            if grants:
                self.apply(StandingKnown(grants[0]))

        self._writes.after(store, then)

    # --- an interaction, from its beginning to its end --------------------------------------------

    def begin(self, interaction: Interaction, granted: Grant) -> None:
        """This message is being written."""
        self._settled = trio.Event()
        self._set_current(interaction)
        self.task, self.since = first_line(interaction.prompt), self._context.now()
        if self._context.trace is not None:
            self._context.trace.began(interaction)
        command = interaction.prompt.lstrip().startswith("/")
        self.apply(Began(interaction.id, granted, command=command, before=interaction.before))

    async def refuse(self, interaction: Interaction, outcome: Outcome, why: str) -> None:
        """This one is not sent: give it an end, and wait until that is stored."""
        self._settled = trio.Event()
        self.store_end(ended(interaction, outcome, why, at=self._context.now()))
        await self.wait_settled()

    async def wait_settled(self) -> None:
        """Until the message of the last `begin` or `refuse` is over, and that is stored."""
        await self._settled.wait()

    def _set_current(self, interaction: Interaction) -> None:
        self._current = interaction
        self._pending.update(interaction)

    def _store_running(self) -> None:
        """claude says that it has begun: after a crash the message is no longer in doubt."""
        turn, current = self._context.state.turn, self._current
        if turn is None or current is None or turn.state is not InteractionState.RUNNING:
            return
        self.begun = True
        running = msgspec.structs.replace(current, state=InteractionState.RUNNING)
        self._set_current(running)

        async def store() -> None:
            await self._store.write(sessions.save_interaction, running)

        self._writes.after(store)

    def _settle(self, error: CmsError | None = None, *, exact: bool = True) -> None:
        """The interaction in flight is over: judge it, write it down, tell who waits."""
        context = self._context
        state, current = context.state, self._current
        turn = state.turn
        if turn is None or current is None:
            return
        conclusion = conclude(state, end=self._end.reason, failure="" if error is None else str(error))
        api_status, resets_at = api_part(state)
        finished = msgspec.structs.replace(
            ended(current, conclusion.outcome, conclusion.error, at=context.now()),
            response=response_of(state),
            output=turn.output,
            cost=state.ledger.spent - turn.spent_before,
            cost_exact=exact,
            turns=turn.turns,
            duration=context.work_now() - turn.started,
            reasons=(*conclusion.reasons, *self.note_caps()),
            tools_used=turn.tools_used,
            tool_calls=turn.tool_calls,
            denials=turn.denials,
            questions=turn.questions,
            usage=turn.models,
            api_status=api_status,
            resets_at=resets_at,
        )
        context.fold(Settled())
        self.activity = ""
        self.store_end(finished)

    def store_end(self, finished: Interaction) -> None:
        """A message has ended so: have it stored, and then whoever waits told."""
        context = self._context
        if context.trace is not None:
            context.trace.settled(finished)
        self._current = None
        self.since = context.now()
        pending = self._pending.update(finished)
        context.update(
            status=context.status(),
            claude_session_id=context.state.conversation_id or context.record.claude_session_id,
            claude_version=context.state.version or context.record.claude_version,
        )
        self.note_usage()
        record = context.record

        async def store() -> None:
            await self._store.write(sessions.save, record, finished)

        self._writes.after(store, lambda error: self.release(pending, error))

    def release(self, pending: PendingMessage, error: CmsError | None = None) -> None:
        """The end of a message is on disk, or (`error`) cannot be: tell who waits."""
        self._pending.settle(pending, error)
        self._settled.set()
        self._context.signal_change()
        self._watchers.notify(self._context.progress("status"))

    # --- the store --------------------------------------------------------------------------------

    def note_usage(self) -> None:
        """Enter into the record what was spent and used, and how many lines were not understood."""
        state, (unknown, noise) = self._context.state, self._lines_before
        if self._process is not None:
            unknown += self._process.connection.unknown
            noise += self._process.connection.noise
        self._context.update(
            total_cost_usd=state.ledger.spent,
            cost_exact=state.ledger.exact,
            total_turns=state.turns,
            tool_calls=state.tool_calls,
            unknown_lines=unknown,
            noise_lines=noise,
        )

    def note_caps(self) -> tuple[str, ...]:
        """Which caps were hit so far, for the verdict; the record has it too."""
        context = self._context
        if self._process is not None:
            limits, hit = context.record.options.limits, self._process.container.limits_hit()
            context.update(caps_hit=resource_caps.describe_hits(limits, hit, self._cap_passed))
        return context.record.caps_hit

    def note_cap_passed(self, cap: ResourceCap) -> None:
        """We have seen it pass a cap, where the kernel does not hold the tree to it."""
        self._cap_passed = cap

    def note_refusal(self, words: str) -> None:
        """Why it does not come up, if it has not said so better itself."""
        self.refusal = self.refusal or words

    def process_gone(self) -> None:
        """The process is gone: what was in flight has ended with it."""
        context, process = self._context, self._process
        if process is None or context.state.phase is Phase.ENDED:
            return
        exact = not may_owe(context.state)
        context.fold(Ended(process.container.returncode, exact=exact))
        self._settle(self._end.failure, exact=exact)


def _permitted(call: PendingCall, decision: GateDecision) -> str:
    """What exactly a person has permitted: the line of the audit log has but the beginning of it."""
    if decision.by != "person" or call.tool == QUESTION_TOOL:
        return ""
    whole = call.whole.encode(errors="backslashreplace")
    return f"a person allowed it: sha256 {hashlib.sha256(whole).hexdigest()}"
