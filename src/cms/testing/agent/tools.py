"""The tools of the simulated agent: Write, Edit, Read and Bash are really used, others only said to be."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from msgspec import Struct

from cms.testing.script import ToolCall

from .scope import Scope

SHELL: Final = ("/bin/sh", "-c")
_BASH_SECONDS: Final = 120.0

# Name to (required, optional) parameters; None where they are not checked.
_KNOWN: Final[dict[str, tuple[set[str], set[str]] | None]] = {
    "Agent": (
        {"description", "prompt"},
        {"subagent_type", "model", "run_in_background", "effort", "isolation"},
    ),
    "AskUserQuestion": ({"questions"}, {"answers", "annotations", "metadata"}),
    "Bash": ({"command"}, {"timeout", "description", "run_in_background", "dangerouslyDisableSandbox"}),
    "Edit": ({"file_path", "old_string", "new_string"}, {"replace_all"}),
    "Read": ({"file_path"}, {"offset", "limit", "pages"}),
    "Write": ({"file_path", "content"}, set()),
    "EnterWorktree": None,
    "ExitPlanMode": None,
    "Monitor": None,
    "NotebookEdit": None,
    "SendMessage": None,
    "Skill": None,
    "StructuredOutput": None,
    "TaskStop": None,
    "WebFetch": None,
    "WebSearch": None,
}

# `Task` is an older name of `Agent`, and the one the real init line still gives.
_UNSAID = ("Agent", "AskUserQuestion", "StructuredOutput")
NAMES: Final = ("Task", *(name for name in _KNOWN if name not in _UNSAID))


class Outcome(Struct, frozen=True):
    """What came of a tool call: the text the model sees, and the structured form the host sees."""

    content: str
    is_error: bool | None = None
    structured: object = None


def canonical(name: str) -> str:
    return "Agent" if name == "Task" else name


def misuse(call: ToolCall, enabled: tuple[str, ...] | None) -> Outcome | None:
    """Why a call cannot even be asked about: no such tool, or the wrong parameters. None if it can."""
    name = canonical(call.name)
    if name not in _KNOWN or (enabled is not None and name not in map(canonical, enabled)):
        return _error(f"Error: No such tool available: {call.name}")
    if (parameters := _KNOWN[name]) is None:
        return None
    required, optional = parameters
    problems = [f"The required parameter `{key}` is missing" for key in sorted(required - call.input.keys())]
    unexpected = sorted(call.input.keys() - required - optional)
    problems += [f"An unexpected parameter `{key}` was provided" for key in unexpected]
    if not problems:
        return None
    listed = "\n".join(problems)
    return _error(f"InputValidationError: {call.name} failed due to the following issues:\n{listed}")


def use(name: str, given: dict[str, object], scope: Scope, cwd: Path) -> Outcome:
    """Do it.

    Raises:
        Interrupted: the scope was cancelled on the way.
    """
    try:
        match name:
            case "Write":
                return _write(_path(given, cwd), str(given["content"]))
            case "Edit":
                return _edit(_path(given, cwd), given)
            case "Read":
                return _read(_path(given, cwd))
            case "Bash":
                return _bash(given, scope, cwd)
            case _:
                return Outcome(f"{name} is simulated: nothing was done.")
    except OSError as exc:
        return _failed(str(exc))


def _path(given: dict[str, object], cwd: Path) -> Path:
    return cwd / str(given["file_path"])


def _write(path: Path, content: str) -> Outcome:
    existed = path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    kind, verb = ("update", "updated") if existed else ("create", "created")
    structured = {"type": kind, "filePath": str(path), "content": content, "structuredPatch": []}
    return Outcome(f"File {verb} successfully at: {path}", structured=structured)


def _edit(path: Path, given: dict[str, object]) -> Outcome:
    old, new = str(given["old_string"]), str(given["new_string"])
    text = path.read_text()
    if old not in text:
        return _failed(
            f"<tool_use_error>String to replace not found in file.\nString: {old}</tool_use_error>"
        )
    path.write_text(text.replace(old, new, -1 if given.get("replace_all") else 1))
    structured = {"filePath": str(path), "oldString": old, "newString": new, "originalFile": text}
    return Outcome(f"The file {path} has been updated successfully.", structured=structured)


def _read(path: Path) -> Outcome:
    text = path.read_text(errors="replace")
    lines = text.split("\n")
    numbered = "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1))
    file = {"filePath": str(path), "content": text, "numLines": len(lines), "startLine": 1}
    return Outcome(numbered, structured={"type": "text", "file": file | {"totalLines": len(lines)}})


def _bash(given: dict[str, object], scope: Scope, cwd: Path) -> Outcome:
    timeout = given.get("timeout")
    seconds = timeout / 1000 if isinstance(timeout, int | float) else _BASH_SECONDS
    try:
        status, written = scope.run((*SHELL, str(given["command"])), cwd, seconds)
    except subprocess.TimeoutExpired:
        return _failed(f"Command timed out after {seconds:g}s")
    text = written.decode(errors="replace").rstrip("\n")
    if status:
        return _failed("\n".join(filter(None, (f"Exit code {status}", text))))
    structured = {"stdout": text, "stderr": "", "interrupted": False, "isImage": False}
    return Outcome(text or "(Bash completed with no output)", is_error=False, structured=structured)


def _error(text: str) -> Outcome:
    return Outcome(f"<tool_use_error>{text}</tool_use_error>", is_error=True, structured=text)


def _failed(text: str) -> Outcome:
    return Outcome(text, is_error=True, structured=f"Error: {text}")
