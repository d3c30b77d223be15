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
    UsageReply,
    User,
)
from cms.protocol.tools import AGENT_TOOLS, OWN_TOOLS, PLAN_TOOL, QUESTION_TOOL, READ_TOOLS
from cms.session.model import Denial, InteractionState, TokenUsage
from cms.session.repetition import follow
from cms.session.state import (
    Allowance,
    Began,
    Breached,
    BudgetAsked,
    Charged,
    Ended,
    Granted,
    InterruptSent,
    Judged,
    Local,
    LookingUp,
    MeterAsked,
    Opened,
    PathsFound,
    PendingCall,
    PersonAnswered,
    Phase,
    Settled,
    State,
    Turn,
)

#: The words with which claude says that a background task has ended.
_TASK_ENDS = frozenset({"completed", "failed", "killed", "stopped"})

#: Tools whose success changes nothing by itself; what a subagent does is counted where it does it.
_NO_ACT = frozenset({*READ_TOOLS, *OWN_TOOLS, *AGENT_TOOLS, QUESTION_TOOL, PLAN_TOOL})

#: The model name of lines that claude makes up itself (an API error as an assistant line).
SYNTHETIC = "<synthetic>"


_replace = msgspec.structs.replace


def fold(state: State, event: Event, now: float) -> State:
    """The state after `event`. Total: an event that makes no sense in a state changes nothing but `seq`."""
    ended = state.phase is Phase.ENDED
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
            return _at_gate(state, _pending_call(state, event, now))
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
            return _replace(state, idle=word == "idle")
        case CommandLifecycle():
            return _lifecycle(_replace(state, confirms=True), event)
        case Init():
            return _initialized(state, event)
        case ConversationReset(new_conversation_id=new):
            return _replace(state, conversation_id=new or state.conversation_id, ledger=state.ledger.reset())
        case TasksChanged() | TaskStarted() | TaskUpdated() | TaskNotification():
            return _replace(state, tasks=_tasks(state.tasks, event))
        case PermissionDenied():
            return _denied(state, event)
        case ApiRetry():
            return _retrying(state, event, now)
        case RateLimitEvent(rate_limit_info=info):
            return _replace(state, rate_limit=info)
        case Opened(total=total, models=models) if state.phase is Phase.STARTING:
            return _replace(state, phase=Phase.READY, ledger=state.ledger.open(total, models))
        case Began() if state.phase is Phase.READY:
            return _began(state, event, now)
        case Breached(breach=breach) if state.turn is not None and state.turn.breach is None:
            return _in_turn(state, breach=breach)
        case InterruptSent():
            return _in_turn(state, interrupted_at=now)
        case BudgetAsked() if state.turn is not None:
            asked = state.turn.allowance.asked + 1
            return _in_turn(state, allowance=_replace(state.turn.allowance, asked=asked, asked_at=now))
        case Granted():
            return _granted(state, event, now)
        case Charged(count=count):
            return _replace(state, charges=state.charges[count:])
        case Settled() if state.phase is Phase.BUSY:
            return _replace(state, phase=Phase.READY, turn=None, open_message="")
        case Ended():
            return _ended(state, event)
        case _:
            return state


_NO_WORK = (Local, Answered)


def _tells_of_work(event: Event) -> bool:
    if isinstance(event, Notice):
        return event.type != "keep_alive"
    return not isinstance(event, _NO_WORK)


def _began(state: State, event: Began, now: float) -> State:
    turn = Turn(
        event.interaction_id,
        started=now,
        spent_before=state.ledger.spent,
        allowance=Allowance(event.grant.amount),
    )
    # Told `idle` by the turn before: not so any more. Never told: stay so.
    idle = None if state.idle is None else False
    return _replace(state, phase=Phase.BUSY, turn=turn, idle=idle, last_stop="", last_heard=now)


def _ended(state: State, event: Ended) -> State:
    return _replace(
        state,
        phase=Phase.ENDED,
        returncode=event.returncode,
        ledger=state.ledger.close(exact=event.exact),
        gate=(),
        tasks={},
        open_message="",
    )


def _initialized(state: State, event: Init) -> State:
    return _replace(
        state,
        conversation_id=event.session_id,
        model=event.model,
        version=event.claude_code_version,
        api_key_source=event.apiKeySource,
    )


def _denied(state: State, event: PermissionDenied) -> State:
    turn, use = state.turn, event.tool_use_id
    if turn is None or use in turn.denied_ids:
        return state
    denial = Denial(event.tool_name, "", event.message, by="claude")
    return _in_turn(state, denials=(*turn.denials, denial), denied_ids=turn.denied_ids | {use})


def _retrying(state: State, event: ApiRetry, now: float) -> State:
    if state.turn is None:
        return state
    since = state.turn.retry_since if state.turn.retry is not None else now
    return _in_turn(state, retry=event, retry_since=since)


def _pending_call(state: State, event: HookCallback | CanUseTool, now: float) -> PendingCall:
    if isinstance(event, HookCallback):
        hook = event.request.input
        streaming = hook.agent_id is None and state.open_message
        return PendingCall.of(
            event.request_id,
            "hook",
            hook.tool_name,
            hook.tool_input,
            tool_use_id=hook.tool_use_id,
            agent_id=hook.agent_id,
            complete=None if streaming else state.seq,
            at=now,
        )
    ask = event.request
    return PendingCall.of(
        event.request_id,
        "permission",
        ask.tool_name,
        ask.input,
        tool_use_id=ask.tool_use_id,
        complete=state.seq,
        blocked_path=ask.blocked_path or "",
        at=now,
    )


def _at_gate(state: State, call: PendingCall) -> State:
    if any(waiting.request_id == call.request_id for waiting in state.gate):
        return state  # said twice: it is one request, and gets one answer
    if call.kind == "hook" and state.turn is not None:
        who, repetitions = call.agent_id or "", state.turn.repetitions
        state = _in_turn(
            state, repetitions={**repetitions, who: follow(repetitions.get(who), call.tool, call.input)}
        )
    return _replace(state, gate=(*state.gate, call))


def _in_call(state: State, request_id: str, /, **changes: object) -> State:
    gate = tuple(_replace(c, **changes) if c.request_id == request_id else c for c in state.gate)
    return _replace(state, gate=gate)


def _paths_found(state: State, event: PathsFound) -> State:
    """For the call that was looked at alone: another one may have come under its id since."""
    names = tuple(path.name for path in event.paths)
    gate = tuple(
        _replace(call, looking=False, paths=event.paths)
        if call.request_id == event.request_id and call.given.paths == names
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
    paths = None if call.given.paths else ()
    return _in_call(state, call.request_id, person=event.answer, paths=paths)


def _tasks(
    tasks: dict[str, tuple[str, str]], event: TasksChanged | TaskStarted | TaskUpdated | TaskNotification
) -> dict[str, tuple[str, str]]:
    """The background tasks that live after claude has said something of them."""
    if isinstance(event, TasksChanged):
        return {task.task_id: (task.task_type, task.description) for task in event.tasks}
    if isinstance(event, TaskStarted):
        return {**tasks, event.task_id: (event.task_type, event.description)}
    status = event.patch.status if isinstance(event, TaskUpdated) else event.status
    return {key: task for key, task in tasks.items() if key != event.task_id or status not in _TASK_ENDS}


def _lifecycle(state: State, event: CommandLifecycle) -> State:
    turn = state.turn
    if turn is None or turn.id != event.command_uuid or turn.state is not InteractionState.SENT:
        return state
    match event.state:
        case "started":
            # What was said before belongs to a turn that nobody asked for.
            return _in_turn(state, state=InteractionState.RUNNING, last_text="")
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
    if state.turn is not None:
        state = _in_turn(state, turns=state.turn.turns + 1, retry=None)
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


def _assistant(state: State, line: Assistant) -> State:
    if line.parent_tool_use_id is not None:
        return state
    if state.open_message and line.message.id != state.open_message:
        # The stream broke off and claude got its answer another way: no `message_stop` will come.
        state = _close_reply(state)
    state = _count_reply(state, line.message.id, line.message.model)
    if line.message.model == SYNTHETIC:
        return state  # an error in the shape of an answer; the result tells it too
    text = "".join(block.text for block in line.blocks if isinstance(block, TextBlock))
    return _in_turn(state, last_text=text) if text else state


def _user(state: State, line: User) -> State:
    turn = state.turn
    if turn is None:
        return state
    at_work = dict(turn.at_work)
    acted = turn.acted
    for block in line.blocks:
        if isinstance(block, ToolResultBlock) and block.tool_use_id in at_work:
            tool = at_work.pop(block.tool_use_id)
            acted += not block.is_error and tool not in _NO_ACT
    return state if at_work == turn.at_work else _in_turn(state, at_work=at_work, acted=acted)


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
    if event.denial is None:
        at_work[call.tool_use_id] = call.tool
    else:
        at_work.pop(call.tool_use_id, None)
    return _in_turn(
        state,
        tool_calls=turn.tool_calls + first,
        tools_used=turn.tools_used if call.tool in turn.tools_used else (*turn.tools_used, call.tool),
        at_work=at_work,
        denials=turn.denials if event.denial is None else (*turn.denials, event.denial),
        denied_ids=turn.denied_ids if event.denial is None else turn.denied_ids | {call.tool_use_id},
        questions=(*turn.questions, *event.questions),
        plan=event.plan or turn.plan,
        # What a subagent is told ends the subagent, not the turn.
        refused_at=now if turn.breach is not None and call.agent_id is None else turn.refused_at,
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
    if state.turn is not None:
        merged = dict(state.turn.models)
        for name, more in charge.usage.items():
            merged[name] = merged.get(name, TokenUsage()) + more
        state = _in_turn(state, models=merged)
    return _replace(state, charges=(*state.charges, charge))


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
    if turn is None or (state.confirms and turn.state is InteractionState.SENT):
        return state
    # An error's `result` is prose about the error, not an answer; what the model said before it is kept.
    text = (event.result or "") if not event.is_error else ""
    text = text or turn.last_text
    return _in_turn(
        state,
        result=event,
        texts=(*turn.texts, text) if text else turn.texts,
        last_text="",
        retry=None,
    )
