"""Whether a tool call may run, decided in the order in which the real one asks: hooks, rules, mode, host.

Facts from measurement: a hook's `deny` always refuses and its `allow` grants even what the mode would refuse;
what the hooks leave open (`{}`, an error, an unknown shape) is the mode's to decide, so that
`bypassPermissions` fails open; a hook that does not answer in time, or a host that is gone, refuses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

Source = Literal["hook", "rule", "mode", "host"]


class PermissionDecision(Struct, frozen=True):
    """Whether a call runs.

    Attributes:
        granted: yes, no, or None for "ask somebody else".
        source: who decided.
        reason: why it was refused, in the words the model is told.
        stop: the turn is to end after this call.
        interrupt: the turn is to end now, as if interrupted.
        updated: the input to use in place of the given one.
    """

    granted: bool | None
    source: Source
    reason: str = ""
    stop: bool = False
    interrupt: bool = False
    updated: dict[str, object] | None = None


OPEN: Final = PermissionDecision(None, "mode")

_EDITS: Final = frozenset({"Write", "Edit", "NotebookEdit"})
_HARMLESS: Final = frozenset({"Read", "Agent", "Skill"})
_READING: Final = frozenset(
    {"cat", "echo", "false", "grep", "head", "ls", "pwd", "sleep", "tail", "true", "wc"}
)
_FILING: Final = frozenset({"mkdir", "touch", "rm", "rmdir", "mv", "cp", "sed"})


def from_hook(response: dict[str, object] | None, tool: str) -> PermissionDecision:
    """What a PreToolUse hook's answer means; None is no answer."""
    if response is None:
        return PermissionDecision(False, "hook", f"PreToolUse:{tool} hook error: no answer")
    answer = response.get("response")
    if response.get("subtype") != "success" or not isinstance(answer, dict):
        return OPEN
    stop = answer.get("continue") is False
    output = answer.get("hookSpecificOutput")
    decision = output.get("permissionDecision") if isinstance(output, dict) else None
    if isinstance(output, dict) and decision == "deny":
        reason = f"PreToolUse:{tool} hook error: {output.get('permissionDecisionReason', '')}"
        return PermissionDecision(False, "hook", reason, stop=stop)
    updated = output.get("updatedInput") if isinstance(output, dict) else None
    return PermissionDecision(
        True if decision == "allow" else None,
        "hook",
        stop=stop,
        updated=updated if isinstance(updated, dict) else None,
    )


def from_mode(
    tool: str,
    given: dict[str, object],
    *,
    mode: str,
    allowed: Sequence[str],
    disallowed: Sequence[str],
    cwd: Path,
) -> PermissionDecision:
    """What rules and mode say; an open verdict is for the host, if there is one."""
    subject = str(given.get("command", given.get("file_path", "")))
    if any(_covers(rule, tool, subject) for rule in disallowed):
        return PermissionDecision(False, "rule", f"Permission to use {tool} has been denied.")
    if tool == "AskUserQuestion":
        # Nothing but a person can answer it, whatever the mode.
        return PermissionDecision(False, "mode", _denied(tool, mode)) if mode == "dontAsk" else OPEN
    if mode == "bypassPermissions" or any(_covers(rule, tool, subject) for rule in allowed):
        return PermissionDecision(True, "mode")
    if tool in _HARMLESS or (tool == "Bash" and _only(_READING, subject)):
        return PermissionDecision(True, "mode")
    if mode == "acceptEdits" and (
        (tool in _EDITS and (cwd / subject).resolve().is_relative_to(cwd))
        or (tool == "Bash" and _only(_READING | _FILING, subject))
    ):
        return PermissionDecision(True, "mode")
    if mode == "dontAsk":
        return PermissionDecision(False, "mode", _denied(tool, mode))
    return OPEN


def from_host(response: dict[str, object] | None) -> PermissionDecision:
    """What the host's answer to `can_use_tool` means; anything but a plain `allow` refuses."""
    answer = None if response is None else response.get("response")
    if response is None or response.get("subtype") != "success" or not isinstance(answer, dict):
        return PermissionDecision(False, "host", "Tool permission request failed")
    if answer.get("behavior") == "allow":
        updated = answer.get("updatedInput")
        return PermissionDecision(True, "host", updated=updated if isinstance(updated, dict) else None)
    return PermissionDecision(
        False, "host", str(answer.get("message", "denied")), interrupt=answer.get("interrupt") is True
    )


def nobody(tool: str, mode: str) -> PermissionDecision:
    """There is no host to ask."""
    return PermissionDecision(False, "mode", _denied(tool, mode))


def _denied(tool: str, mode: str) -> str:
    why = "Claude Code is running in don't ask mode" if mode == "dontAsk" else "nobody can be asked"
    return f"Permission to use {tool} has been denied because {why}."


def _covers(rule: str, tool: str, subject: str) -> bool:
    """`Bash`, `Bash(git status)`, `Bash(git:*)`, `Edit(src/*)`."""
    name, _, pattern = rule.removesuffix(")").partition("(")
    if name != tool and (name, tool) != ("Task", "Agent"):
        return False
    return not pattern or fnmatchcase(subject, re.sub(r":\*$", "*", pattern))


def _only(programs: frozenset[str], command: str) -> bool:
    """Whether a command line runs these programs alone and redirects nothing."""
    if re.search(r"[>`]|\$\(", command):
        return False
    parts = [part.split() for part in re.split(r"[;&|\n]+", command)]
    return all(words[0] in programs for words in parts if words)
