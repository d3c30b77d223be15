"""Subagents and background shells as the host sees them: a list, a beginning, an end, and what it starts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from .scope import Scope
from .voice import Voice
from .wire import Line, new_uuid

Kind = Literal["local_agent", "local_bash"]


class Task(Struct, frozen=True):
    """One of them. `scope` ends it: its own if it runs in the background, else the turn's."""

    id: str
    kind: Kind
    description: str
    tool_use_id: str
    scope: Scope
    background: bool


class Tasks:
    """Those that are alive in the background, and the lines about all of them.

    `notify` is called with the notice of a background task's end, holding `changed`.
    """

    def __init__(self, voice: Voice, changed: threading.Condition, notify: Callable[[str], None]) -> None:
        self._voice = voice
        self._changed = changed
        self._notify = notify
        self._live: dict[str, Task] = {}

    def __bool__(self) -> bool:
        return bool(self._live)

    def owe_a_turn(self) -> bool:
        """Whether a subagent is alive; a live shell keeps no session running (measured)."""
        return any(task.kind == "local_agent" for task in list(self._live.values()))

    def begin(
        self, kind: Kind, description: str, tool_use_id: str, scope: Scope | None, prompt: str = ""
    ) -> Task:
        """Announce one; without a scope of its caller's it is a background task."""
        id_ = new_uuid().replace("-", "")[:17]
        task = Task(id_, kind, description, tool_use_id, scope or Scope(), background=scope is None)
        if task.background:
            self._live[task.id] = task
            self.list()
        agent: Line = {"subagent_type": "general-purpose", "prompt": prompt} if kind == "local_agent" else {}
        self._voice.system(
            "task_started",
            task_id=task.id,
            tool_use_id=tool_use_id,
            description=description,
            is_backgrounded=task.background,
            task_type=kind,
            **agent,
        )
        return task

    def end(self, task: Task, status: str, summary: str) -> None:
        """Say how it ended; a background task's end starts a turn."""
        ended = {"status": status, "end_time": round(time.time() * 1000)}
        self._voice.system("task_updated", task_id=task.id, patch=ended)
        self._voice.system(
            "task_notification",
            task_id=task.id,
            tool_use_id=task.tool_use_id,
            status=status,
            output_file="",
            summary=summary,
        )
        if task.background:
            self.list(without=task)
            with self._changed:  # at once, or in between the session would seem to owe nothing
                del self._live[task.id]
                self._notify(f"<task-notification>{task.id} {status}</task-notification>")

    def list(self, without: Task | None = None) -> None:
        """Tell which are alive in the background."""
        listed = [
            {"task_id": task.id, "task_type": task.kind, "description": task.description}
            for task in list(self._live.values())
            if task is not without
        ]
        self._voice.system("background_tasks_changed", tasks=listed)

    def cancel(self, task_id: str | None = None) -> None:
        """End one, or all; of one that is not there nothing is said."""
        for task in list(self._live.values()):
            if task_id in (None, task.id):
                task.scope.cancel()


def start_thread(work: Callable[[], object]) -> None:
    """In the background, ending with the process."""
    threading.Thread(target=work, daemon=True).start()
