"""Which tool calls change something, for the verdict: what was done, and what was refused. Pure.

What is not known to change nothing counts as a change when it has succeeded. Of a shell command it is known
only where it is one plain program that reads, with nothing in the line that a shell acts upon.
"""

from __future__ import annotations

from typing import Final

from cms.protocol.tools import (
    AGENT_TOOLS,
    ANSWER_TOOL,
    ENTER_PLAN_TOOL,
    LOOKING_TOOLS,
    OWN_TOOLS,
    PLAN_TOOL,
    QUESTION_TOOL,
    READ_TOOLS,
    WORKTREE_TOOL,
)
from cms.session.tool_input import ToolInput

#: Tools whose refusal takes nothing from the work.
_NO_LOSS: Final = frozenset(
    {*READ_TOOLS, *OWN_TOOLS, QUESTION_TOOL, ANSWER_TOOL, PLAN_TOOL, ENTER_PLAN_TOOL, WORKTREE_TOOL}
)
#: Tools whose success changes nothing by itself; what a subagent does is counted where it does it.
_NO_ACT: Final = frozenset({*_NO_LOSS, *AGENT_TOOLS, *LOOKING_TOOLS})
#: Programs that only read, whatever their arguments.
_READ_NAMES: Final = (
    "cat cd cut df diff du echo false grep head id ls nproc printf ps pwd realpath stat tail test tr true"
    " uname wc which whoami"
)
_READERS: Final = frozenset(_READ_NAMES.split())
_GIT_READERS: Final = frozenset(
    ("blame", "describe", "diff", "log", "ls-files", "rev-parse", "show", "status")
)
#: What lets a line do more than run one program, or names a file to write.
_SHELL: Final = frozenset("><|&;$`(){}\n\\*?[]!#~")


def may_change(tool: str, given: ToolInput) -> bool:
    """Whether a call that has succeeded may have changed something."""
    if tool == "Bash":
        return not _only_reads(given.command or "")
    return tool not in _NO_ACT


def is_loss(tool: str, given: ToolInput) -> bool:
    """Whether a call that was refused would have changed something, or brought something that is missing."""
    return tool not in _NO_LOSS and not (tool == "Bash" and _only_reads(given.command or ""))


def _only_reads(command: str) -> bool:
    if _SHELL.intersection(command):
        return False
    program, *arguments = command.split() or [""]
    if program == "git":
        only = bool(arguments) and arguments[0] in _GIT_READERS
        return only and not any(one.startswith("--output") for one in arguments)
    return program in _READERS
