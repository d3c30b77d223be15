"""What is to be done about a state: limits, the tool gate, and the verdict at the end. Pure.

`decide(state, rules, now)` returns actions; the runner carries them out and tells the state that it did.
Called after every event and at `wake_at`. The rules, in prose:

Limits
- Cost is looked at before each tool call, with a meter reading that covers the reply that made the call. The
  next API call would come after the call's result, so refusing here is refusing that next call: the cost at
  the end passes the limit by at most the one call that reached it. Subagents' replies are not streamed to us;
  for their calls the reading is from when the call arrived, and each running subagent may add one call of its
  own to the bound. claude's own `--max-budget-usd` stands behind this as a second lock.
- Between tool calls the meter is read after each reply and every `METER_EVERY` seconds while something runs.
- A meter that gives no figure for `METER_PATIENCE`, be it silent or in error, ends the interaction: an
  unknown cost is a breach.
- Shared budgets (session.budget) hold in the same way: what the interaction was granted is its limit until
  it gets more. A call waits at the gate while more is being asked for, and for `BUDGET_PATIENCE` when what is
  left is reserved by others; then the interaction ends.
- Turns and tool calls are counted at the gate, time and silence by the clock.
- Work without progress is stopped as stalled: silence, the same tool call again and again
  (session.repetition), an API that fails and fails (its retries are lines, so they are no silence).
- A final reply that passes the cost limit does not undo the work: nothing more would have been spent.

Breach
- What ends an interaction early is told to claude in the answer to a call at the gate (`deny` with
  `continue: false`: the turn ends cleanly, the conversation can go on). Without a call at the gate (a
  subagent's does not count: such an answer ends the subagent, and the main conversation goes on), or if the
  turn is not over `PATIENCE` later, `interrupt` is sent; if that does not help within `PATIENCE`, the process
  is stopped.
- A turn that nobody asked for (claude begins one when a background task ends) is ended the same way at its
  first tool call, so it costs one API call and does nothing.

The gate
- `judge` gives `allow`, `deny` or `pass`. `pass` leaves the call to claude's permission mode: it runs what it
  deems read-only and what `--allow` rules name (claude parses shell lines; we do not), and asks us about the
  rest, which is then refused, since nobody is there.
- What cannot be read (an input of a new shape for a tool that names files) is refused.
- With an `ask_timeout`, what only a person can settle (the model's question, a permission that nobody gave)
  waits that long for a person's word. It waits as claude's permission question, which knows no time-out, and
  not at the hook, which does. Silence does not count meanwhile, `max_time` does. Then it ends as without one.
- A tool that we do not know (of an MCP server, say) and that names a protected path is refused, but as it may
  only want to read, that does not end the work.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.messages import (
    Answer,
    HookAnswer,
    PermitAnswer,
    PreToolUseOutput,
    RefuseAnswer,
)
from cms.protocol.tools import AGENT_TOOLS, OWN_TOOLS, PLAN_TOOL, QUESTION_TOOL, READ_TOOLS, WRITE_TOOLS
from cms.session.ledger import EPSILON
from cms.session.model import Denial, Limits, Outcome, Preset, Question
from cms.session.paths import PathRules
from cms.session.questions import AskedQuestion, Choice, Word
from cms.session.state import (
    Breach,
    PendingCall,
    Phase,
    State,
    agents,
    is_over,
    more_to_come,
    out_of_budget,
    shells,
)

METER_EVERY = 2.0
METER_PATIENCE = 30.0
PATIENCE = 5.0  # a loaded machine took claude past 3 s to hear an interrupt, and cost the session its process
BUDGET_EVERY = 1.0
BUDGET_PATIENCE = 20.0  # well below the time-out of a hook, after which claude goes on without us

#: Words that the model reads when a call is refused.
NOBODY = "refused: nobody is there to permit this (name it with --allow to permit it)"


class Rules(msgspec.Struct, frozen=True):
    """Everything about a session that the policy needs and that does not change while it runs."""

    limits: Limits
    preset: Preset
    paths: PathRules
    read_paths: PathRules
    folders: tuple[str, ...]  # where `edit` may write: work dir and added dirs, as written and resolved
    safety: bool = True
    permission_mode: str = ""
    stop_on_violation: bool = True
    ask_timeout: float = 0.0  # seconds that a person gets to answer; 0: nobody is there


# --- the gate -------------------------------------------------------------------------------------


class GateDecision(msgspec.Struct, frozen=True):
    """The gate's word on one call."""

    word: Literal["allow", "deny", "pass"]
    reason: str = ""
    detail: str = ""
    violation: bool = False
    questions: tuple[Question, ...] = ()
    plan: str = ""
    by: Literal["gate", "nobody", "person"] = "gate"
    answers: dict[str, str] = {}  # to the model's questions, for a call that is allowed


class _Option(msgspec.Struct, frozen=True):
    label: str = ""
    description: str = ""


class _Question(msgspec.Struct, frozen=True, rename="camel"):
    question: str = ""
    header: str = ""
    options: tuple[_Option, ...] = ()
    multi_select: bool = False


class ToolInput(msgspec.Struct, frozen=True):
    """The fields of all tools' inputs that we look at."""

    file_path: str | None = None
    notebook_path: str | None = None
    path: str | None = None
    command: str | None = None
    pattern: str | None = None
    url: str | None = None
    query: str | None = None
    description: str | None = None
    plan: str = ""
    questions: tuple[_Question, ...] = ()

    @property
    def detail(self) -> str:
        """What the call is about, in a line."""
        for text in (
            self.file_path,
            self.notebook_path,
            self.command,
            self.url,
            self.pattern,
            self.path,
            self.query,
            self.description,
        ):
            if text:
                return text.splitlines()[0][:200]
        return ""


#: The fields of an input that can be read one by one when the whole cannot.
_TEXTS = ("file_path", "notebook_path", "path", "command", "pattern", "url", "query", "description")


def _piecemeal(raw: msgspec.Raw) -> ToolInput:
    """What can be read of an input that has some field of another shape than ours."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return ToolInput()
    texts: dict[str, str] = {}
    for name in _TEXTS:
        try:
            texts[name] = msgspec.json.decode(fields[name], type=str)
        except (KeyError, *UNREADABLE):
            continue
    return msgspec.convert(texts, ToolInput)


def describe(raw: msgspec.Raw) -> str:
    """What a tool call is about, in a line; "" if its input says nothing that we know."""
    try:
        return msgspec.json.decode(raw, type=ToolInput).detail
    except UNREADABLE:
        return ""


_READS = frozenset(READ_TOOLS)
_WRITES = frozenset(WRITE_TOOLS)
_HARMLESS = frozenset(OWN_TOOLS)
_AGENTS = frozenset(AGENT_TOOLS)


def judge(call: PendingCall, rules: Rules) -> GateDecision:
    """The gate's word on a call, limits aside."""
    try:
        given = msgspec.json.decode(call.input, type=ToolInput)
    except UNREADABLE:
        if call.tool in _WRITES or call.tool in _READS or call.tool == QUESTION_TOOL:
            return GateDecision("deny", "refused: the gate cannot read this call's input")
        given = _piecemeal(call.input)
    detail = given.detail
    if call.tool == QUESTION_TOOL:
        if call.word is not None:
            return _by_person(call.word, given.questions[0].question if given.questions else detail)
        if call.kind == "hook" and rules.ask_timeout > 0:
            return GateDecision("pass", detail=detail)  # claude asks us next, as a permission question
        asked = tuple(
            Question(q.question, q.header, tuple(o.label for o in q.options), q.multi_select)
            for q in given.questions
        )
        return GateDecision(
            "deny", "the question was noted; nobody can answer it now", detail, questions=asked
        )
    if call.tool == PLAN_TOOL:
        return GateDecision("deny", "the plan was noted; nothing is carried out now", detail, plan=given.plan)
    if rules.safety and (refused := _violation(call, given, rules)) is not None:
        return refused
    if call.kind == "permission":
        if call.word is not None:
            return _by_person(call.word, detail)
        if not rules.safety:
            return GateDecision("allow", detail=detail)
        return GateDecision("deny", NOBODY, detail or call.blocked_path, by="nobody")
    if not rules.safety or rules.permission_mode == "bypassPermissions":
        return GateDecision("allow", detail=detail)
    if rules.permission_mode:
        return GateDecision("pass", detail=detail)
    return _by_preset(call.tool, given, rules)


def _by_person(word: Word, detail: str) -> GateDecision:
    if word.allow:
        return GateDecision("allow", detail=detail, by="person", answers=word.answers)
    why = f": {word.message}" if word.message else ""
    return GateDecision("deny", f"a person refused this{why}", detail, by="person")


def awaits_person(call: PendingCall, rules: Rules) -> bool:
    """Whether a call is one that a person could settle and nobody has yet, however long it has waited."""
    if rules.ask_timeout <= 0 or call.kind != "permission" or call.word is not None:
        return False
    verdict = judge(call, rules)
    return bool(verdict.questions) or verdict.by == "nobody"


def held(state: State, rules: Rules, now: float) -> tuple[PendingCall, ...]:
    """The calls at the gate that wait for a person's word."""
    turn = state.turn
    if turn is None or turn.breach is not None:
        return ()
    return tuple(
        call for call in state.gate if now < call.at + rules.ask_timeout and awaits_person(call, rules)
    )


def asked_questions(call: PendingCall) -> tuple[AskedQuestion, ...]:
    """What the model asks in this call, with what it offers."""
    try:
        given = msgspec.json.decode(call.input, type=ToolInput)
    except UNREADABLE:
        return ()
    return tuple(
        AskedQuestion(
            one.question,
            one.header,
            tuple(Choice(option.label, option.description) for option in one.options),
            one.multi_select,
        )
        for one in given.questions
    )


def _violation(call: PendingCall, given: ToolInput, rules: Rules) -> GateDecision | None:
    target = given.file_path or given.notebook_path
    if call.tool in _WRITES:
        if target is None:
            return GateDecision("deny", "refused: a write that names no file")
        if pattern := rules.paths.match(target):
            return GateDecision("deny", f"{target} is protected ({pattern})", given.detail, violation=True)
        return None
    for place in (target, given.path):
        if place is None:
            continue
        if pattern := rules.read_paths.match(place):
            reason = f"{place} is protected from reading ({pattern})"
            return GateDecision("deny", reason, given.detail, violation=True)
        if call.tool not in _READS and (pattern := rules.paths.match(place)):
            reason = f"{place} is protected ({pattern}), and {call.tool} may write"
            return GateDecision("deny", reason, given.detail)
    return None


def _by_preset(tool: str, given: ToolInput, rules: Rules) -> GateDecision:
    detail = given.detail
    if tool in _READS or tool in _HARMLESS:
        return GateDecision("allow", detail=detail)
    if rules.preset == "full":
        return GateDecision("allow", detail=detail)
    if tool in _AGENTS and rules.preset in ("edit", "review"):
        return GateDecision("allow", detail=detail)
    if rules.preset == "edit":
        if tool in _WRITES:
            target = given.file_path or given.notebook_path or ""
            if rules.paths.within(target, rules.folders):
                return GateDecision("allow", detail=detail)
            return GateDecision("deny", f"{target} is outside of the work dir (preset edit)", detail)
        return GateDecision("pass", detail=detail)
    return GateDecision("deny", f"{tool} is not in preset {rules.preset}", detail)


# --- limits ---------------------------------------------------------------------------------------


def _money(usd: float) -> str:
    return f"${usd:.4f}"


def _meter_until(state: State) -> float | None:
    """Until when the meter must have given a figure; None if it owes none."""
    if state.unread_since is None or state.turn is None:
        return None
    return max(state.unread_since, state.turn.started) + METER_PATIENCE


def _cost_matters(state: State, rules: Rules) -> bool:
    """Whether anything depends on what the interaction in flight costs."""
    return rules.limits.max_cost is not None or (
        state.turn is not None and state.turn.allowance.amount is not None
    )


def _silent_at(state: State, rules: Rules) -> float | None:
    """When claude has been silent for too long; None: no limit. To wait for a person is no silence."""
    if rules.limits.max_silence is None:
        return None
    waits = (call.at + rules.ask_timeout for call in state.gate if awaits_person(call, rules))
    return max([state.last_heard, *waits]) + rules.limits.max_silence


def _retry_until(state: State, rules: Rules) -> float | None:
    """Until when the API must have answered; None if it does, or no limit was set."""
    turn = state.turn
    if turn is None or turn.retry is None or rules.limits.max_retry_time is None:
        return None
    return turn.retry_since + rules.limits.max_retry_time


def find_breach(state: State, rules: Rules, now: float) -> Breach | None:
    """The first limit that the interaction in flight has passed, or None."""
    turn, limits = state.turn, rules.limits
    if turn is None or is_over(state):
        return None
    hooks = [call for call in state.gate if call.kind == "hook"]
    spent = state.ledger.spent
    if limits.max_cost is not None and spent >= limits.max_cost - EPSILON and more_to_come(state):
        return Breach(Outcome.COST_EXCEEDED, f"{_money(spent)} spent of {_money(limits.max_cost)}", now)
    allowance = turn.allowance
    if (
        allowance.short
        and out_of_budget(state)
        and more_to_come(state)
        and (allowance.final or now >= allowance.short_since + BUDGET_PATIENCE)
    ):
        return Breach(Outcome.COST_EXCEEDED, allowance.short, now)
    # A call in the last turn asks for one turn more. (A subagent's calls are not turns of ours, but once the
    # turns are used up nothing may act any more.)
    used_up = limits.max_turns is not None and state.turns + bool(hooks) > limits.max_turns
    if used_up:
        return Breach(Outcome.TURNS_EXCEEDED, f"{state.turns} of {limits.max_turns} turns used", now)
    if limits.max_tool_calls is not None and state.tool_calls + len(hooks) > limits.max_tool_calls:
        return Breach(Outcome.TURNS_EXCEEDED, f"all {limits.max_tool_calls} permitted tool calls used", now)
    if limits.max_time is not None and now >= turn.started + limits.max_time:
        return Breach(Outcome.TIME_EXCEEDED, f"{limits.max_time:g} s are over", now)
    silent_at = _silent_at(state, rules)
    if silent_at is not None and now >= silent_at:
        return Breach(Outcome.STALLED, f"no sign of life for {limits.max_silence:g} s", now)
    if turn.retry is not None and turn.retry.error_status in (401, 403):
        return Breach(
            Outcome.FAILED,
            f"the API refused the credentials ({turn.retry.error_status}): log in again, or mend the key",
            now,
            turn.retry.error_status,
        )
    until = _retry_until(state, rules)
    if until is not None and now >= until:
        why = f"the API has not answered for {limits.max_retry_time:g} s"
        against = turn.retry.error_status if turn.retry is not None else None
        return Breach(Outcome.STALLED, why, now, against)
    if limits.max_repeats is not None:
        for repetition in turn.repetitions.values():
            if repetition.count > limits.max_repeats:
                times = f"{limits.max_repeats} times in a row"
                return Breach(Outcome.STALLED, f"no progress: the same {repetition.tool} call {times}", now)
    until = _meter_until(state)
    if _cost_matters(state, rules) and until is not None and now >= until:
        return Breach(Outcome.COST_EXCEEDED, "claude does not say any more what it has spent", now)
    return None


# --- decide ---------------------------------------------------------------------------------------


class Action(msgspec.Struct, frozen=True):
    """Something for the runner to do."""


class AnswerCall(Action, frozen=True):
    """Answer a call at the gate; goes into the audit log."""

    call: PendingCall
    verdict: GateDecision
    answer: Answer
    denial: Denial | None


class AskMeter(Action, frozen=True):
    """Ask claude what it has spent."""


class AskBudget(Action, frozen=True):
    """Ask for more of the shared budgets."""


class SendInterrupt(Action, frozen=True):
    """Ask claude to end its turn now."""


class StopProcess(Action, frozen=True):
    """The turn does not end by itself: walk down the stop ladder."""

    reason: str


class Note(Action, frozen=True):
    """An interaction is being ended early, from now on."""

    breach: Breach


class Settle(Action, frozen=True):
    """The interaction is over: judge it and store it."""


def _answer(call: PendingCall, verdict: GateDecision, breach: Breach | None) -> AnswerCall:
    if breach is not None and verdict.word != "deny":
        verdict = GateDecision("deny", breach.reason, verdict.detail or describe(call.input))
    denial = None
    if verdict.word == "deny" and not verdict.questions and not verdict.plan:
        denial = Denial(call.tool, verdict.detail, verdict.reason, verdict.by, verdict.violation)
    answer: Answer
    if call.kind == "permission":
        if verdict.word == "allow":
            answer = PermitAnswer(_with_answers(call.input, verdict.answers))
        else:
            answer = RefuseAnswer(verdict.reason, interrupt=breach is not None)
    elif verdict.word == "pass":
        answer = HookAnswer()
    elif verdict.word == "allow":
        answer = HookAnswer(PreToolUseOutput("allow"))
    elif breach is None:
        answer = HookAnswer(PreToolUseOutput("deny", verdict.reason))
    else:
        answer = HookAnswer(PreToolUseOutput("deny", verdict.reason), False, breach.reason)
    return AnswerCall(call, verdict, answer, denial)


def _with_answers(raw: msgspec.Raw, answers: dict[str, str]) -> msgspec.Raw:
    """The input of a question with a person's answers, as claude takes them: by question, in labels."""
    if not answers:
        return raw
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    fields["answers"] = msgspec.Raw(msgspec.json.encode(answers))
    return msgspec.Raw(msgspec.json.encode(fields))


def _metered(state: State, rules: Rules, call: PendingCall) -> bool:
    """Whether the store cover everything that led to this call."""
    if not _cost_matters(state, rules):
        return True
    return call.ripe is not None and state.metered_seq >= call.ripe


def _asks_budget_at(state: State) -> float | None:
    """When to ask again for more of the shared budgets, or None. The first question goes with each charge."""
    turn = state.turn
    if turn is None or turn.allowance.asked or turn.allowance.final or not out_of_budget(state):
        return None
    return turn.allowance.asked_at + BUDGET_EVERY


def _wants_meter(state: State, now: float) -> bool:
    """A reply has ended since the last reading, or the reading grows old while something runs."""
    if state.phase is not Phase.BUSY or state.asked_seq is not None:
        return False
    if now >= state.asked_at + METER_EVERY:
        return True
    # After an answer without a figure only time brings the next question, else the two go round and round.
    newest = max(state.reply_seq, *(c.ripe or 0 for c in state.gate), 0)
    return state.unread_since is None and newest > state.metered_seq


def _breach_of(verdict: GateDecision, rules: Rules, now: float) -> Breach | None:
    """What the verdict on one call means for the whole interaction."""
    if verdict.questions:
        return Breach(Outcome.NEEDS_INPUT, verdict.questions[0].question, now)
    if verdict.plan:
        return Breach(Outcome.COMPLETED, "the plan is complete", now)
    if verdict.violation and rules.stop_on_violation:
        return Breach(Outcome.PROTECTED_PATH, verdict.reason, now)
    return None


def decide(state: State, rules: Rules, now: float) -> tuple[Action, ...]:
    """What to do now. Each call at the gate is answered at most once, when its time has come."""
    turn = state.turn
    if state.phase is Phase.ENDED:
        return ()
    if turn is None or is_over(state):
        # A call out of turn (a turn that nobody asked for, a subagent that outlived its interaction):
        # nothing runs unwatched.
        stop = Breach(Outcome.INTERRUPTED, "no message is in flight", now)
        verdict = GateDecision("deny", f"refused: {stop.reason}")
        refusals = tuple(_answer(call, verdict, stop) for call in state.gate)
        return refusals if turn is None else (*refusals, Settle())
    actions: list[Action] = []
    breach = turn.breach
    if breach is None:
        breach = find_breach(state, rules, now)
        if breach is not None:
            actions.append(Note(breach))
    told = False
    for call in state.gate:
        if breach is None and (not _metered(state, rules, call) or out_of_budget(state)):
            continue
        if breach is None and now < call.at + rules.ask_timeout and awaits_person(call, rules):
            continue
        verdict = judge(call, rules)
        if breach is None:
            breach = _breach_of(verdict, rules, now)
            if breach is not None:
                actions.append(Note(breach))
        actions.append(_answer(call, verdict, breach))
        told = told or call.agent_id is None
    if breach is None:
        if _wants_meter(state, now):
            actions.append(AskMeter())
        ask_at = _asks_budget_at(state)
        if ask_at is not None and now >= ask_at:
            actions.append(AskBudget())
    elif turn.interrupted_at is not None:
        if now >= turn.interrupted_at + PATIENCE:
            actions.append(StopProcess(breach.reason))
    elif not told and (turn.told_at is None or now >= turn.told_at + PATIENCE):
        actions.append(SendInterrupt())
    return tuple(actions)


def wake_at(state: State, rules: Rules) -> float | None:
    """When `decide` must be called again though no event came, or None."""
    turn, limits = state.turn, rules.limits
    if turn is None or state.phase is not Phase.BUSY:
        return None
    if turn.breach is not None:
        if turn.interrupted_at is not None:
            return turn.interrupted_at + PATIENCE
        return turn.breach.at if turn.told_at is None else turn.told_at + PATIENCE
    times = []
    if state.asked_seq is None:
        times.append(state.asked_at + METER_EVERY)
    if _cost_matters(state, rules) and (until := _meter_until(state)) is not None:
        times.append(until)
    if (ask_at := _asks_budget_at(state)) is not None:
        times.append(ask_at)
    if (until := _retry_until(state, rules)) is not None:
        times.append(until)
    if limits.max_time is not None:
        times.append(turn.started + limits.max_time)
    if (silent_at := _silent_at(state, rules)) is not None:
        times.append(silent_at)
    # A call that waits for money too is looked at again when that is known.
    times += [
        call.at + rules.ask_timeout
        for call in state.gate
        if awaits_person(call, rules) and _metered(state, rules, call) and not out_of_budget(state)
    ]
    return min(times, default=None)


# --- the verdict ----------------------------------------------------------------------------------


#: `terminal_reason`s of a turn that the model itself brought to its end (a command of claude's has none).
_FINISHED = frozenset({"completed", "stop_hook_prevented"})


class Conclusion(msgspec.Struct, frozen=True):
    """How an interaction ended, and what that rests on."""

    outcome: Outcome
    error: str = ""
    reasons: tuple[str, ...] = ()


def api_part(state: State) -> tuple[int | None, float | None]:
    """The API's part in how the interaction in flight ended: its HTTP status, and when its usage limit ends.

    Who is not logged in never reached the API; that reads as the 401 that it would have been.
    """
    turn = state.turn
    if turn is None:
        return None, None
    if turn.breach is not None:
        return turn.breach.api_status, None
    result = turn.result
    if result is None or not result.is_error:
        return None, None
    status = result.api_error_status
    if status is None and state.api_key_source == "none" and "logged in" in (result.result or "").lower():
        status = 401
    limit = state.rate_limit
    rejected = limit is not None and limit.status == "rejected"
    return status, limit.resetsAt if limit is not None and rejected else None


def conclude(state: State) -> Conclusion:
    """The verdict on the interaction in flight, from what was seen and not from what was said."""
    turn = state.turn
    if turn is None:
        return Conclusion(Outcome.FAILED, "nothing was in flight")
    reasons: list[str] = []
    if turn.denials:
        reasons.append(f"{len(turn.denials)} tool call(s) refused")
    left = shells(state)
    if left:
        reasons.append(f"still running in the background: {', '.join(left)}")
    if (alive := agents(state)) and not is_over(state):
        reasons.append(f"subagents still at work: {', '.join(alive)}")
    breach, result = turn.breach, turn.result
    if breach is not None and breach.outcome is not Outcome.COMPLETED:
        return Conclusion(breach.outcome, breach.reason, (breach.reason, *reasons))
    if result is None:
        return Conclusion(Outcome.INTERRUPTED, "it did not come to an end", tuple(reasons))
    if breach is not None:
        # What was wanted was there before the turn was ended; how it ended does not matter.
        return Conclusion(Outcome.COMPLETED, "", tuple(reasons))
    if result.subtype == "error_max_budget_usd":
        error = f"{_money(state.ledger.spent)} spent: claude's own lock closed"
        return Conclusion(Outcome.COST_EXCEEDED, error, (error, *reasons))
    if result.subtype == "error_max_turns":
        error = f"{state.turns} turns used: claude's own lock closed"
        return Conclusion(Outcome.TURNS_EXCEEDED, error, (error, *reasons))
    if result.is_error:
        said = result.result or " ".join(result.errors) or result.subtype.removeprefix("success")
        error = said.strip() or "claude reported an error and did not say which"
        limited = result.api_error_status == 429 or (
            state.rate_limit is not None and state.rate_limit.status == "rejected"
        )
        if state.api_key_source == "none" and "logged in" in error.lower():
            error += " (run `claude` once and log in, or set ANTHROPIC_API_KEY)"
        outcome = Outcome.RATE_LIMITED if limited else Outcome.FAILED
        if (result.terminal_reason or "").startswith("aborted"):
            outcome, error = Outcome.INTERRUPTED, "interrupted"
        return Conclusion(outcome, error, tuple(reasons))
    if (result.terminal_reason or "completed") not in _FINISHED:
        error = f"claude ended its turn before the work was done ({result.terminal_reason})"
        return Conclusion(Outcome.FAILED, error, (error, *reasons))
    if not turn.acted and any(d.tool not in _READS and d.tool not in _HARMLESS for d in turn.denials):
        # It asked to act, was refused each time, and says it is done: it did nothing.
        error = "every tool call that would have changed something was refused"
        return Conclusion(Outcome.NEEDS_INPUT, error, (error, *reasons))
    if not turn.turns:
        reasons.append("claude answered by itself: the model was not asked")
    return Conclusion(Outcome.COMPLETED, "", tuple(reasons))


def response_of(state: State) -> str:
    """The text that answers the interaction in flight: one paragraph per result, or the plan."""
    turn = state.turn
    if turn is None:
        return ""
    texts = list(turn.texts)
    if turn.last_text and turn.last_text not in texts:
        texts.append(turn.last_text)
    if turn.plan:
        texts.append(turn.plan)
    return "\n\n".join(texts)
