"""What is to be done about a state now: `decide(state, rules, now)` returns actions. Pure.

The driver carries them out and tells the state that it did. It asks after every event and at `wake_at`. Which
limit was passed is found in `session.limits`, what happens to a call in `session.gate`; here is the order of
things, and how an interaction is ended before its time.

- What ends an interaction early is told to claude in the answer to a call at the gate (`deny` with
  `continue: false`: the turn ends cleanly, the conversation can go on). Without a call at the gate (a
  subagent's does not count: such an answer ends the subagent, and the main conversation goes on), or if the
  turn is not over `PATIENCE` later, `interrupt` is sent; if that does not help within `PATIENCE`, the process
  is stopped.
- Calls are judged in the order in which they came. One whose paths are still looked up holds those behind it:
  it may be what ends the interaction, and then they must not have run.
- A turn that nobody asked for (claude begins one when a background task ends) is ended the same way at its
  first tool call, and interrupted if it goes on all the same: it costs one API call and does nothing. It is
  interrupted as it begins once a limit of the session, or a shared budget, is used up.
"""

from __future__ import annotations

import msgspec

from cms.protocol.messages import (
    Answer,
    HookAnswer,
    PermitAnswer,
    PreToolUseOutput,
    RefuseAnswer,
    WorktreeAnswer,
    WorktreeOutput,
)
from cms.session.gate import (
    GateDecision,
    Rules,
    awaits_person,
    breach_of,
    is_elsewhere,
    judge,
    needs_paths,
    touched,
)
from cms.session.limits import (
    METER_EVERY,
    asks_budget_at,
    find_breach,
    is_metered,
    limits_due,
    used_up,
    wants_meter,
)
from cms.session.model import Denial, Outcome
from cms.session.permission_rules import permitting
from cms.session.startup import limit_passed, must_be_up_by, start_due
from cms.session.state import (
    CLOUD_TASK,
    Breach,
    PendingCall,
    Phase,
    State,
    is_out_of_turn,
    is_over,
    out_of_budget,
)

PATIENCE = 5.0  # a loaded machine took claude past 3 s to hear an interrupt, and cost the session its process


class Action(msgspec.Struct, frozen=True):
    """Something for the driver to do."""


class AnswerCall(Action, frozen=True):
    """Answer a call at the gate; goes into the audit log."""

    call: PendingCall
    decision: GateDecision
    answer: Answer
    denial: Denial | None


class FindPaths(Action, frozen=True):
    """Look up where the paths that a call names lead."""

    call: PendingCall


class AskMeter(Action, frozen=True):
    """Ask claude what it has spent."""


class AskBudget(Action, frozen=True):
    """Ask for more of the shared budgets."""


class SendInterrupt(Action, frozen=True):
    """Ask claude to end its turn now."""


class AskStanding(Action, frozen=True):
    """Ask whether the shared budgets have anything for a turn that nobody asked for."""


class EndUnasked(Action, frozen=True):
    """Interrupt that turn."""

    reason: str


class StopProcess(Action, frozen=True):
    """The turn does not end by itself: walk down the stop ladder."""

    reason: str


class GiveUp(Action, frozen=True):
    """The process has not come up in time: a limit of the message that waits for it (or None) is passed."""

    breach: Breach | None


class Unfit(Action, frozen=True):
    """This claude lacks what safety rests on: end the session."""

    lacks: str


class Note(Action, frozen=True):
    """An interaction is being ended early, from now on."""

    breach: Breach


class Settle(Action, frozen=True):
    """The interaction is over: judge it and store it."""


def decide(state: State, rules: Rules, now: float) -> tuple[Action, ...]:
    """What to do now. Each call at the gate is answered at most once, when its time has come."""
    turn = state.turn
    if state.phase is Phase.ENDED:
        return ()
    if state.phase is Phase.STARTING:
        return _wait_for_start(state, rules, now)
    if turn is None or is_over(state):
        refusals = (*_refuse_out_of_turn(state, now), *_end_unasked(state, rules, now))
        return refusals if turn is None else (*refusals, Settle())
    actions: list[Action] = [Unfit(state.lacks)] if state.lacks else []
    if is_out_of_turn(state):
        actions += (*_refuse_out_of_turn(state, now), *_end_unasked(state, rules, now))
        state = msgspec.structs.replace(state, gate=())
    breach = turn.breach
    if breach is None:
        breach = find_breach(state, rules, now) or _gone_away(state, rules, now) or touched(state, rules, now)
        if breach is not None:
            actions.append(Note(breach))
    answered_main = False  # a call of the main conversation is answered with the breach
    waits = False  # for where an earlier call's paths lead
    for call in state.gate:
        if breach is None and needs_paths(call, rules):
            waits = True
            if not call.looking:
                actions.append(FindPaths(call))
        if breach is None and (waits or not is_metered(state, rules, call) or out_of_budget(state)):
            continue
        if breach is None and now < call.at + rules.ask_timeout and awaits_person(call, rules):
            continue
        # (Of a call that ends with the turn nobody finds out where its paths lead.)
        decision = GateDecision("pass") if needs_paths(call, rules) else judge(call, rules)
        if breach is None:
            breach = breach_of(decision, rules, now)
            if breach is not None:
                actions.append(Note(breach))
        actions.append(_answer(call, decision, breach, rules.folders))
        answered_main = answered_main or call.of_main
    if breach is None:
        if wants_meter(state, now):
            actions.append(AskMeter())
        ask_at = asks_budget_at(state)
        if ask_at is not None and now >= ask_at:
            actions.append(AskBudget())
    elif turn.unheeded:
        actions.append(StopProcess(f"{breach.reason}, and claude went on after being told to stop"))
    elif turn.interrupted_at is not None:
        if now >= turn.interrupted_at + PATIENCE:
            actions.append(StopProcess(breach.reason))
    elif not answered_main and (turn.refused_at is None or now >= turn.refused_at + PATIENCE):
        actions.append(SendInterrupt())
    return tuple(actions)


def _gone_away(state: State, rules: Rules, now: float) -> Breach | None:
    """Work that is done elsewhere than where its checks run."""
    if is_elsewhere(state.cwd, rules):
        # A conversation that was in a work tree of claude's when it was left goes on in there.
        why = f"claude moved to {state.cwd}, where no check runs; start a session in that folder"
        return Breach(Outcome.FAILED, why, now)
    cloud = next((text for kind, text in state.tasks.values() if kind == CLOUD_TASK), None)
    if cloud is None:
        return None
    return Breach(Outcome.FAILED, f"a subagent runs in the cloud, where no check runs: {cloud}", now)


def wake_at(state: State, rules: Rules) -> float | None:
    """When `decide` must be called again though no event came, or None."""
    turn, unasked = state.turn, state.unasked
    if state.phase is Phase.STARTING:
        return start_due(state, rules)
    if unasked is not None and unasked.interrupted_at is not None:
        return unasked.interrupted_at + PATIENCE
    if turn is None or state.phase is not Phase.BUSY:
        return None
    if turn.breach is not None:
        if turn.interrupted_at is not None:
            return turn.interrupted_at + PATIENCE
        return turn.breach.at if turn.refused_at is None else turn.refused_at + PATIENCE
    times = limits_due(state, rules)
    if state.asked_seq is None:
        times.append(state.asked_at + METER_EVERY)
    if (ask_at := asks_budget_at(state)) is not None:
        times.append(ask_at)
    # A call that waits for money too is looked at again when that is known.
    times += [
        call.at + rules.ask_timeout
        for call in state.gate
        if awaits_person(call, rules) and is_metered(state, rules, call) and not out_of_budget(state)
    ]
    return min(times, default=None)


def _refuse_out_of_turn(state: State, now: float) -> tuple[Action, ...]:
    """Calls of a turn that nobody asked for, or of a subagent that outlived its interaction.

    Nothing runs unwatched.
    """
    stop = Breach(Outcome.INTERRUPTED, "no message is in flight", now)
    decision = GateDecision("deny", f"refused: {stop.reason}")
    return tuple(_answer(call, decision, stop) for call in state.gate)


def _end_unasked(state: State, rules: Rules, now: float) -> tuple[Action, ...]:
    """What a turn that nobody asked for may come to: one API call, if there is money for it."""
    unasked = state.unasked
    if unasked is None:
        return ()
    if unasked.interrupted_at is not None:
        late = now >= unasked.interrupted_at + PATIENCE
        return (StopProcess("claude worked on its own and went on after being told to stop"),) if late else ()
    gone = used_up(state, rules.limits)
    why = gone[1] if gone is not None else unasked.short
    if not why and unasked.replies > 1:
        why = "it went on after its first call was refused"
    if why:
        return (EndUnasked(f"ended a turn that nobody asked for: {why}"),)
    return () if unasked.asked else (AskStanding(),)


def _wait_for_start(state: State, rules: Rules, now: float) -> tuple[Action, ...]:
    breach, until = limit_passed(state, rules, now), must_be_up_by(state, rules)
    return (GiveUp(breach),) if breach is not None or (until is not None and now >= until) else ()


def _answer(
    call: PendingCall, decision: GateDecision, breach: Breach | None, folders: tuple[str, ...] = ()
) -> AnswerCall:
    if breach is not None and decision.effect != "deny":
        decision = GateDecision("deny", breach.reason, decision.detail or call.given.detail)
    denial = None
    if decision.effect == "deny" and not (decision.questions or decision.plan or decision.noted):
        allow = permitting(call, folders) if decision.by == "nobody" else ()
        denial = Denial(call.tool, decision.detail, decision.reason, decision.by, decision.violation, allow)
    answer: Answer
    if call.kind == "permission":
        if decision.effect == "allow":
            answer = PermitAnswer(_with_answers(call.input, decision.answers))
        else:
            answer = RefuseAnswer(decision.reason, interrupt=breach is not None)
    elif call.kind == "worktree":
        # A failure would be told to the model without our words; that this is no folder is told with them.
        answer = WorktreeAnswer(WorktreeOutput(f"/dev/null/{decision.reason}"))
    elif decision.effect == "pass":
        answer = HookAnswer()
    elif decision.effect == "allow":
        answer = HookAnswer(PreToolUseOutput("allow"))
    elif breach is None:
        answer = HookAnswer(PreToolUseOutput("deny", decision.reason))
    else:
        answer = HookAnswer(PreToolUseOutput("deny", decision.reason), False, breach.reason)
    return AnswerCall(call, decision, answer, denial)


def _with_answers(raw: msgspec.Raw, answers: dict[str, str]) -> msgspec.Raw:
    """The input of a question with a person's answers, as claude takes them: by question, in labels."""
    if not answers:
        return raw
    fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    fields["answers"] = msgspec.Raw(msgspec.json.encode(answers))
    return msgspec.Raw(msgspec.json.encode(fields))
