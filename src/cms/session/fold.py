"""How each event changes the state of a session: `fold(state, event, now) -> state`. Pure.

The table; the rules in prose that it follows stand in `session.state`. Nothing is decided here: that is
`session.decide`.
"""

from __future__ import annotations

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.connection import Answered
from cms.protocol.messages import (
    ApiRetry,
    Assistant,
    CanUseTool,
    CommandLifecycle,
    ControlCancelRequest,
    ConversationReset,
    Event,
    GetUsage,
    HookCallback,
    HookEnded,
    HookStarted,
    Informational,
    Init,
    ModelUsage,
    Notice,
    PermissionDenied,
    RateLimitEvent,
    Result,
    SessionState,
    StreamEvent,
    TaskNotification,
    TasksChanged,
    TaskStarted,
    TaskUpdated,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UsageReply,
    User,
    blocks_of,
)
from cms.protocol.tools import PLAN_TOOL
from cms.session.acts import is_loss, may_change
from cms.session.background import NOTHING_YET, begin_unasked, follow_tasks
from cms.session.model import InteractionState, TokenUsage
from cms.session.refusals import permit, refuse
from cms.session.repetition import follow
from cms.session.startup import lacks
from cms.session.state import (
    Accepted,
    Allowance,
    Began,
    Breached,
    BudgetAsked,
    Charged,
    Ended,
    Granted,
    InterruptSent,
    Judged,
    Launched,
    Local,
    LookingUp,
    MeterAsked,
    Opened,
    PathsFound,
    PendingCall,
    PersonAnswered,
    Phase,
    Settled,
    StandingAsked,
    StandingKnown,
    State,
    Turn,
    agents,
    is_out_of_turn,
    pending_call,
)
from cms.session.tool_input import ToolInput, read_input

#: The model name of lines that claude makes up itself (an API error as an assistant line).
SYNTHETIC = "<synthetic>"


_replace = msgspec.structs.replace


def fold(state: State, event: Event, now: float) -> State:
    """The state after `event`. Total: an event that makes no sense in a state changes nothing but `seq`."""
    ended = state.phase is Phase.ENDED
    if is_piece(event) and not ended:
        return _replace(state, seq=state.seq + 1, last_heard=now)
    heard = now if not ended and _tells_of_work(event) else state.last_heard
    state = _replace(state, seq=state.seq + 1, last_heard=heard)
    if ended:
        return _replace(state, turn=None) if isinstance(event, Settled) else state
    match event:
        case StreamEvent():
            return _stream(state, event)
        case Assistant():
            return _assistant(state, event)
        case User():
            return _user(state, event)
        case Result():
            return _result(state, event)
        case HookCallback() | CanUseTool():
            return _at_gate(state, pending_call(state, event, now))
        case ControlCancelRequest(request_id=key):
            return _replace(state, gate=tuple(call for call in state.gate if call.request_id != key))
        case LookingUp(request_id=key):
            return _in_call(state, key, looking=True)
        case PathsFound():
            return _paths_found(state, event)
        case PersonAnswered():
            return _person_answered(state, event, now)
        case Judged():
            return _judged(state, event, now)
        case Answered(ask=GetUsage()):
            return _metered(state, event)
        case MeterAsked():
            since = now if state.unread_since is None else state.unread_since
            return _replace(state, asked_seq=state.seq, asked_at=now, unread_since=since)
        case SessionState(state=word):
            # Older ones say it also while a subagent lives, whose end will bring one more turn.
            state = _replace(state, idle=word == "idle" and not agents(state))
            if word == "idle":
                return _replace(state, unasked=None)
            return begin_unasked(state) if state.turn is None else state  # (else it may be our message)
        case CommandLifecycle():
            return _lifecycle(_replace(state, confirms=True), event)
        case Init():
            return _initialized(state, event)
        case ConversationReset(new_conversation_id=new):
            return _replace(state, conversation_id=new or state.conversation_id, ledger=state.ledger.reset())
        case TasksChanged() | TaskStarted() | TaskUpdated() | TaskNotification():
            return follow_tasks(state, event)
        case PermissionDenied():
            return refuse(state, event.tool_use_id, event.tool_name, event.message)
        case Informational(content=text, prevent_continuation=True) if not _is_asked(state):
            return _in_turn(state, blocked=text.strip() or "claude did not go on with it")
        case ApiRetry():
            return _retrying(state, event, now)
        case RateLimitEvent(rate_limit_info=info):
            return _replace(state, rate_limit=info)
        case Launched():
            return _replace(state, owes_since=now)
        case Accepted() if state.phase is Phase.STARTING and state.waits_since is None:
            return _replace(state, waits_since=now)
        case HookStarted(hook_id=key, hook_name=name) if state.phase is Phase.STARTING:
            return _replace(state, hooks={**state.hooks, key: name})
        case HookEnded():
            hooks = {key: name for key, name in state.hooks.items() if key != event.hook_id}
            return _replace(state, hooks=hooks, owes_since=now)
        case Opened(total=total, models=models, version=version) if state.phase is Phase.STARTING:
            ledger = state.ledger.open(total, models)
            return _replace(state, phase=Phase.READY, ledger=ledger, version=version or state.version)
        case Began() if state.phase is Phase.READY:
            return _began(state, event, now)
        case Breached(breach=breach) if state.turn is not None and state.turn.breach is None:
            denials = tuple(
                _replace(one, violation=True, reason=breach.reason)
                if breach.denied and (one.by, one.detail) == ("claude", breach.denied)
                else one
                for one in state.turn.denials
            )
            return _in_turn(state, breach=breach, denials=denials)
        case InterruptSent(unasked=True) if state.unasked is not None:
            return _replace(state, unasked=_replace(state.unasked, interrupted_at=now))
        case InterruptSent():
            return _in_turn(state, interrupted_at=now)
        case StandingAsked() if state.unasked is not None:
            return _replace(state, unasked=_replace(state.unasked, asked=True))
        case StandingKnown(grant=grant) if state.unasked is not None:
            return _replace(state, unasked=_replace(state.unasked, short=grant.short))
        case BudgetAsked() if state.turn is not None:
            asked = state.turn.allowance.asked + 1
            return _in_turn(state, allowance=_replace(state.turn.allowance, asked=asked, asked_at=now))
        case Granted():
            return _granted(state, event, now)
        case Charged(count=count):
            return _replace(state, charges=state.charges[count:])
        case Settled() if state.phase is Phase.BUSY:
            last = state.turn.id if state.turn is not None else state.last_turn
            return _replace(state, phase=Phase.READY, turn=None, open_message="", last_turn=last)
        case Ended():
            return _ended(state, event)
        case _:
            return state


_NO_WORK = (Local, Answered)
_PIECES = frozenset({"content_block_start", "content_block_delta", "content_block_stop", "ping"})


def is_piece(event: Event) -> bool:
    """Whether it is a piece of a reply under way, as most events are.

    It shows that claude is at work, and changes nothing else: what `decide` says, it has said before.
    """
    return isinstance(event, StreamEvent) and event.event.type in _PIECES


def _tells_of_work(event: Event) -> bool:
    if isinstance(event, Notice):
        return event.type != "keep_alive"
    return not isinstance(event, _NO_WORK)


def _began(state: State, event: Began, now: float) -> State:
    turn = Turn(
        event.interaction_id,
        started=now,
        since=(now if state.waits_since is None else state.waits_since) - event.before,
        spent_before=state.ledger.spent,
        allowance=Allowance(event.grant.amount),
        command=event.command,
    )
    # Told `idle` by the turn before: not so any more. Never told: stay so.
    idle = None if state.idle is None else False
    return _replace(
        state,
        phase=Phase.BUSY,
        turn=turn,
        idle=idle,
        last_stop="",
        last_heard=now,
        waits_since=None,
    )


def _ended(state: State, event: Ended) -> State:
    return _replace(
        state,
        phase=Phase.ENDED,
        returncode=event.returncode,
        ledger=state.ledger.close(exact=event.exact),
        gate=(),
        tasks={},
        started_by={},
        unasked=None,
        open_message="",
    )


def _initialized(state: State, event: Init) -> State:
    state = _replace(
        state,
        conversation_id=event.session_id,
        model=event.model,
        version=event.claude_code_version,
        api_key_source=event.apiKeySource,
        servers_down=event.servers_down,
        cwd=event.cwd,
        been=state.been | {event.cwd},
    )
    state = begin_unasked(state)
    judged = state.turn is not None and not is_out_of_turn(state)
    return _replace(state, lacks=lacks(state)) if judged else state


def _is_asked(state: State) -> bool:
    return state.turn is not None and state.turn.asked


def _retrying(state: State, event: ApiRetry, now: float) -> State:
    if state.turn is None:
        return state
    since = state.turn.retry_since if state.turn.retry is not None else now
    return _in_turn(state, retry=event, retry_since=since)


def _at_gate(state: State, call: PendingCall) -> State:
    if any(waiting.request_id == call.request_id for waiting in state.gate):
        return state  # said twice: it is one request, and gets one answer
    if call.tool == PLAN_TOOL and not call.given.plan and state.turn is not None:
        # The hook is not told what the model gives; where claude has a file for the plan, it gives nothing.
        said = state.turn.calls.get(call.tool_use_id, (PLAN_TOOL, ToolInput()))[1]
        call = _replace(call, given=_replace(call.given, plan=said.plan))
    if call.kind == "hook" and state.turn is not None:
        who, repetitions = call.agent_id or "", state.turn.repetitions
        state = _in_turn(
            state, repetitions={**repetitions, who: follow(repetitions.get(who), call.tool, call.input)}
        )
    return _replace(
        state,
        gate=(*state.gate, call),
        been=state.been | {call.cwd} if call.kind == "hook" and call.of_main else state.been,
        kept_here=state.kept_here or call.kind == "worktree",
    )


def _in_call(state: State, request_id: str, /, **changes: object) -> State:
    gate = tuple(_replace(c, **changes) if c.request_id == request_id else c for c in state.gate)
    return _replace(state, gate=gate)


def _paths_found(state: State, event: PathsFound) -> State:
    """For the call that was looked at alone: another one may have come under its id since."""
    names = tuple(path.name for path in event.paths)
    gate = tuple(
        _replace(call, looking=False, paths=event.paths)
        if call.request_id == event.request_id and call.names == names
        else call
        for call in state.gate
    )
    return _replace(state, gate=gate)


def _person_answered(state: State, event: PersonAnswered, now: float) -> State:
    """What a person has answered holds; where the paths lead may be different since it was asked."""
    call = next((call for call in state.gate if call.request_id == event.request_id), None)
    # It waited for us: what comes next is not late.
    state = _replace(state, last_heard=now)
    if call is None:
        return state
    paths = None if call.names else ()
    return _in_call(state, call.request_id, person=event.answer, paths=paths)


def _lifecycle(state: State, event: CommandLifecycle) -> State:
    turn = state.turn
    if turn is None or turn.id != event.command_uuid or turn.state is not InteractionState.SENT:
        return state
    match event.state:
        case "started":
            # What was said before belongs to a turn that nobody asked for.
            state = _replace(state, unasked=None, woken_for="")
            return _in_turn(state, **NOTHING_YET, state=InteractionState.RUNNING)
        case "cancelled":
            return _in_turn(state, state=InteractionState.INTERRUPTED)
        case _:
            return state


def _in_turn(state: State, /, **changes: object) -> State:
    if state.turn is None:
        return state
    return _replace(state, turn=_replace(state.turn, **changes))


def _granted(state: State, event: Granted, now: float) -> State:
    turn = state.turn
    if turn is None or turn.id != event.interaction_id:
        return state
    grant, allowance = event.grant, turn.allowance
    since = allowance.short_since if allowance.short else now
    return _in_turn(
        state,
        allowance=Allowance(
            grant.amount, grant.short, grant.final, since, max(allowance.asked - 1, 0), allowance.asked_at
        ),
    )


def _count_reply(state: State, message_id: str, model: str) -> State:
    """A reply of the main conversation has begun: one more turn, once per message id."""
    if not message_id or message_id == state.last_message or model == SYNTHETIC:
        return state
    state = _replace(state, last_message=message_id, turns=state.turns + 1, last_stop="")
    if state.unasked is not None and is_out_of_turn(state):
        return _replace(state, unasked=_replace(state.unasked, replies=state.unasked.replies + 1))
    if state.turn is not None:
        unheeded = state.turn.refused_at is not None and not state.turn.heeded
        state = _in_turn(state, turns=state.turn.turns + 1, retry=None, asked=True, unheeded=unheeded)
    return state


def _close_reply(state: State) -> State:
    """The reply is complete: and so are its calls at the gate."""
    gate = tuple(
        call if call.complete is not None else _replace(call, complete=state.seq) for call in state.gate
    )
    return _replace(state, open_message="", reply_seq=state.seq, gate=gate)


def _stream(state: State, line: StreamEvent) -> State:
    if line.parent_tool_use_id is not None:
        return state
    event = line.event
    match event.type:
        case "message_start" if event.message is not None:
            state = _count_reply(state, event.message.id, event.message.model)
            return _replace(state, open_message=event.message.id)
        case "message_delta" if event.delta is not None and event.delta.stop_reason:
            return _replace(state, last_stop=event.delta.stop_reason)
        case "message_stop":
            return _close_reply(state)
        case _:
            return state


def _called(state: State, line: Assistant) -> State:
    """What is called in a reply, for what never comes to the gate, and for what the hook is not told."""
    if state.turn is None:
        return state
    called = {
        block.id: (block.name, read_input(block.input)[0])
        for block in line.blocks
        if isinstance(block, ToolUseBlock)
    }
    return _in_turn(state, calls={**state.turn.calls, **called}) if called else state


def _assistant(state: State, line: Assistant) -> State:
    state = _called(state, line)
    if line.parent_tool_use_id is not None:
        return state
    if state.open_message and line.message.id != state.open_message:
        # The stream broke off and claude got its answer another way: no `message_stop` will come.
        state = _close_reply(state)
    state = _count_reply(state, line.message.id, line.message.model)
    if line.message.model == SYNTHETIC and not (state.turn is not None and state.turn.command):
        return state  # an error in the shape of an answer; the result tells it too
    text = "".join(block.text for block in line.blocks if isinstance(block, TextBlock))
    return _in_turn(state, last_text=text) if text else state


def _user(state: State, line: User) -> State:
    turn = state.turn
    if turn is None:
        return state
    at_work, calls, acted = dict(turn.at_work), dict(turn.calls), turn.acted
    refused: list[ToolResultBlock] = []
    ran: list[str] = []
    for block in line.blocks:
        if not isinstance(block, ToolResultBlock):
            continue
        use = block.tool_use_id
        # (Let through, and refused afterwards; or refused before it came to the gate.)
        if block.is_error and (use in line.not_run or (use in calls and use not in at_work)):
            refused.append(block)
            continue
        calls.pop(use, None)
        if use in turn.unpermitted and not block.is_error:
            ran.append(use)
        if use in at_work:
            acted += at_work.pop(use) and not block.is_error
    state = _in_turn(state, at_work=at_work, calls=calls, acted=acted)
    for use in ran:
        state = permit(state, use)
    for block in refused:
        tool, given = calls.get(block.tool_use_id, ("", ToolInput()))
        state = refuse(state, block.tool_use_id, tool, _words(block), given)
    return state


def _words(block: ToolResultBlock) -> str:
    """What a tool's result says, in a line."""
    (first, *_) = (*(one.text for one in blocks_of(block.content) if isinstance(one, TextBlock)), "")
    return " ".join(first.replace("<tool_use_error>", "").replace("</tool_use_error>", "").split())[:500]


def _judged(state: State, event: Judged, now: float) -> State:
    call = next((call for call in state.gate if call.request_id == event.request_id), None)
    if call is None:
        return state
    # It waited for us: what comes next is not late.
    state = _replace(state, gate=tuple(c for c in state.gate if c is not call), last_heard=now)
    turn = state.turn
    first = call.kind == "hook"  # a permission question repeats a call that the hook has seen
    if first:
        state = _replace(state, tool_calls=state.tool_calls + 1)
    if turn is None:
        return state
    at_work = dict(turn.at_work)
    allowed = event.denial is None and not event.noted
    if allowed:
        at_work[call.tool_use_id] = may_change(call.tool, call.given)
    else:
        at_work.pop(call.tool_use_id, None)
    told = event.noted and call.tool == PLAN_TOOL and bool(turn.last_text)  # the plan, perhaps
    return _in_turn(
        state,
        tool_calls=turn.tool_calls + first,
        tools_used=turn.tools_used if call.tool in turn.tools_used else (*turn.tools_used, call.tool),
        at_work=at_work,
        denials=turn.denials if event.denial is None else (*turn.denials, event.denial),
        denied_ids=turn.denied_ids if allowed else turn.denied_ids | {call.tool_use_id},
        refused=turn.refused + (event.denial is not None and is_loss(call.tool, call.given)),
        calls=turn.calls if allowed else {k: v for k, v in turn.calls.items() if k != call.tool_use_id},
        texts=(*turn.texts, turn.last_text) if told else turn.texts,
        last_text="" if told else turn.last_text,
        unpermitted={**turn.unpermitted, call.tool_use_id: (call.tool, call.given)}
        if event.denial is not None and event.denial.by == "nobody"
        else turn.unpermitted,
        questions=(*turn.questions, *event.questions),
        plan=event.plan or turn.plan,
        # What a subagent is told ends the subagent, not the turn.
        refused_at=now
        if turn.breach is not None and turn.refused_at is None and call.of_main
        else turn.refused_at,
    )


def usage_of(models: dict[str, ModelUsage]) -> dict[str, TokenUsage]:
    """claude's figures per model in our own terms."""
    return {
        name: TokenUsage(
            m.input_tokens,
            m.output_tokens,
            m.cache_read_input_tokens,
            m.cache_creation_input_tokens,
            m.cost_usd,
        )
        for name, m in models.items()
    }


def _observed(state: State, total: float, models: dict[str, ModelUsage]) -> State:
    ledger, charge = state.ledger.observe(total, usage_of(models))
    state = _replace(state, ledger=ledger)
    if charge is None:
        return state
    turn = state.turn
    if state.unasked is not None and is_out_of_turn(state):
        payer = state.unasked.payer
        if turn is not None:
            state = _in_turn(state, spent_before=turn.spent_before + charge.usd)
    elif turn is not None:
        payer = turn.id
        merged = dict(turn.models)
        for name, more in charge.usage.items():
            merged[name] = merged.get(name, TokenUsage()) + more
        state = _in_turn(state, models=merged)
    else:
        payer = state.last_turn
    return _replace(state, charges=(*state.charges, _replace(charge, interaction_id=payer)))


def _metered(state: State, event: Answered) -> State:
    asked = state.asked_seq
    state = _replace(state, asked_seq=None)
    if event.error or asked is None:
        return state
    try:
        reply = msgspec.json.decode(event.response, type=UsageReply)
    except UNREADABLE:
        # No figure, so no fresh reading: whoever waits for one goes on waiting, and nothing runs.
        return state
    state = _observed(state, reply.session.total_cost_usd, reply.session.model_usage)
    return _replace(state, metered_seq=asked, unread_since=None)


def _result(state: State, event: Result) -> State:
    if event.total_cost_usd is not None:
        state = _observed(state, event.total_cost_usd, event.modelUsage)
    state = _replace(_close_reply(state), last_stop="")
    turn = state.turn
    if turn is None or is_out_of_turn(state) or (state.confirms and turn.state is InteractionState.SENT):
        return _replace(state, unasked=None)
    # An error's `result` is prose about the error, not an answer; what the model said before it is kept.
    text = (event.result or "") if not event.is_error else ""
    text = text or turn.last_text
    for call in event.permission_denials:
        given, _ = read_input(call.tool_input)
        # (Its reason was told before, where claude tells reasons.)
        reason = "refused by claude's permission mode, or by a rule or a hook of your own"
        state = refuse(state, call.tool_use_id, call.tool_name, reason, given)
    return _in_turn(
        state,
        result=event,
        texts=(*turn.texts, text) if text else turn.texts,
        last_text="",
        retry=None,
        answered=turn.answered or event.answers,
        output=event.output or turn.output,
        calls={},
        heeded=turn.refused_at is not None,
    )
