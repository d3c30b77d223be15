"""The user's own SessionStart hooks, which the real one runs before it answers anything."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
from msgspec import Struct

from .tools import SHELL
from .voice import Voice
from .wire import new_uuid


class _Hook(Struct):
    command: str = ""


class _Matcher(Struct):
    hooks: list[_Hook] = []


class _Settings(Struct):
    hooks: dict[str, list[_Matcher]] = {}


def run_start_hooks(voice: Voice) -> None:
    """Run those of the user's settings, and tell of each."""
    config = os.environ.get("CLAUDE_CONFIG_DIR") or Path(os.environ.get("HOME", "/")) / ".claude"
    try:
        settings = msgspec.json.decode((Path(config) / "settings.json").read_bytes(), type=_Settings)
    except (OSError, msgspec.DecodeError):
        return
    for matcher in settings.hooks.get("SessionStart", []):
        for hook in matcher.hooks:
            told = {"hook_id": new_uuid(), "hook_name": "SessionStart:startup", "hook_event": "SessionStart"}
            voice.system("hook_started", **told)
            done = subprocess.run(
                (*SHELL, hook.command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            output = {"stdout": done.stdout, "stderr": done.stderr, "exit_code": done.returncode}
            voice.system("hook_response", **told, **output)
