"""Background tasks, and the turns that claude begins by itself when one of them ends. Pure."""

from __future__ import annotations

import msgspec

from cms.protocol.messages import TaskNotification, TasksChanged, TaskStarted, TaskUpdated
from cms.session.model import InteractionState
from cms.session.state import Phase, State, Turn, Unasked

_replace = msgspec.structs.replace

#: The words with which claude says that a background task has ended.
TASK_ENDS = frozenset({"completed", "failed", "killed", "stopped"})

#: Of a message that claude has just begun: what it refused and did before was another turn's.
NOTHING_YET: dict[str, object] = {
    name: getattr(Turn("", 0.0, 0.0), name)
    for name in (
        "turns", "tool_calls", "tools_used", "asked", "acted", "refused", "calls", "at_work", "last_text",
        "plan", "denials", "questions", "repetitions",
    )
}  # fmt: skip

TaskEvent = TasksChanged | TaskStarted | TaskUpdated | TaskNotification


def follow_tasks(state: State, event: TaskEvent) -> State:
    """The background tasks that live after claude has said something of them, and who started them."""
    woken = state.woken or (isinstance(event, TaskNotification) and event.status in TASK_ENDS)
    return _replace(_started_by(state, event), tasks=_tasks(state.tasks, event), woken=woken)


def _tasks(tasks: dict[str, tuple[str, str]], event: TaskEvent) -> dict[str, tuple[str, str]]:
    if isinstance(event, TasksChanged):
        return {task.task_id: (task.task_type, task.description) for task in event.tasks}
    if isinstance(event, TaskStarted):
        return {**tasks, event.task_id: (event.task_type, event.description)}
    status = event.patch.status if isinstance(event, TaskUpdated) else event.status
    return {key: task for key, task in tasks.items() if key != event.task_id or status not in TASK_ENDS}


def _started_by(state: State, event: TaskEvent) -> State:
    """Which interaction started each task; the end of one may begin a turn that is charged to that."""
    if isinstance(event, TasksChanged):
        return state
    known = state.started_by
    if isinstance(event, TaskStarted):
        by = state.turn.id if state.turn is not None else state.last_turn
        return _replace(state, started_by={**known, event.task_id: by})
    status = event.patch.status if isinstance(event, TaskUpdated) else event.status
    if status not in TASK_ENDS or event.task_id not in known:
        return state
    rest = {key: by for key, by in known.items() if key != event.task_id}
    return _replace(state, started_by=rest, woken_for=known[event.task_id])


def begin_unasked(state: State) -> State:
    """claude has begun a turn: one that nobody asked for, if it has no message or did not begin ours.

    One that resumes a conversation whose shells died with its last process begins it before it is up.
    """
    turn = state.turn
    ours = turn is not None and (turn.state is not InteractionState.SENT or not state.confirms)
    if state.unasked is not None or ours or state.phase is Phase.ENDED:
        return state
    if state.phase is Phase.STARTING and not state.woken:
        return state
    return _replace(state, unasked=Unasked(state.woken_for or state.last_turn), woken=False, woken_for="")
