"""Asks whether a tool call may run: hooks first, then rules and mode, then the host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from cms.testing.script import ToolCall

from . import permissions, tools
from .options import Options
from .permissions import PermissionDecision
from .scope import Scope
from .transcript import Transcript
from .voice import Voice
from .wire import Line, Wire


class Hook(Struct, frozen=True):
    """A registered PreToolUse callback; `timeout` in seconds, None for no limit."""

    callback_id: str
    timeout: float | None


class Gate:
    """The order in which the real one asks.

    Attributes:
        hooks: as the host registered them.
        mode: the permission mode in force.
    """

    def __init__(self, options: Options, wire: Wire, voice: Voice) -> None:
        self.hooks: Sequence[Hook] = ()
        self.mode = options.mode
        self._options = options
        self._wire = wire
        self._voice = voice
        self._cwd = Path.cwd()

    def judge(
        self, call: ToolCall, tool_use_id: str, scope: Scope, agent_id: str, transcript: Transcript
    ) -> PermissionDecision:
        """Whether it runs, with which input, and whether the turn goes on.

        Raises:
            Interrupted: the scope was cancelled while somebody was asked.
        """
        name, given = tools.canonical(call.name), call.input
        about: Line = {
            "session_id": self._voice.session_id,
            "transcript_path": str(transcript.path or ""),
            "cwd": str(self._cwd),
            "permission_mode": self.mode,
            "hook_event_name": "PreToolUse",
            "tool_name": name,
            "tool_use_id": tool_use_id,
        }
        agent: Line = {"agent_id": agent_id} if agent_id else {}
        if agent:
            about |= agent | {"agent_type": "general-purpose"}
        stop = False
        for hook in self.hooks:
            request: Line = {"subtype": "hook_callback", "callback_id": hook.callback_id}
            request |= {"input": about | {"tool_input": given}, "tool_use_id": tool_use_id}
            verdict = permissions.from_hook(scope.ask(self._wire, request, hook.timeout), name)
            stop |= verdict.stop
            given = verdict.updated or given
            # A question to a person is not answered by letting it through.
            if verdict.granted is False or (verdict.granted and name != "AskUserQuestion"):
                return PermissionDecision(verdict.granted, "hook", verdict.reason, stop=stop, updated=given)
        verdict = permissions.from_mode(
            name,
            given,
            mode=self.mode,
            allowed=self._options.allowed,
            disallowed=self._options.disallowed,
            cwd=self._cwd,
        )
        if verdict.granted is None:
            request = {"subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": given}
            request |= agent | {"tool_use_id": tool_use_id}
            rule: Line = {"toolName": name}
            if isinstance(command := given.get("command"), str):
                rule["ruleContent"] = command
            request["permission_suggestions"] = [{"type": "addRules", "rules": [rule], "behavior": "allow"}]
            verdict = self._ask_host(name, request, scope)
        return PermissionDecision(
            verdict.granted,
            verdict.source,
            verdict.reason,
            stop=stop,
            interrupt=verdict.interrupt,
            updated=verdict.updated or given,
        )

    def _ask_host(self, name: str, request: Line, scope: Scope) -> PermissionDecision:
        if not self._options.host_decides:
            return permissions.nobody(name, self.mode)
        if name == "AskUserQuestion":
            request["requires_user_interaction"] = True
        self._voice.state("requires_action")
        try:
            return permissions.from_host(scope.ask(self._wire, request))
        finally:
            self._voice.state("running")
