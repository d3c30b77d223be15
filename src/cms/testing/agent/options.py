"""The command line of the simulated agent: `claude`'s own flags, as far as they change what it does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

VERSION: Final = "2.1.330"
"""The version of the real binary whose behaviour was measured."""

# Flags that take no value; any other flag without `=` takes the next argument, unless that is a flag itself.
_SWITCHES: Final = frozenset(
    {
        "-p",
        "--print",
        "--verbose",
        "--version",
        "-v",
        "--fork-session",
        "--include-partial-messages",
        "--replay-user-messages",
        "--no-session-persistence",
        "--strict-mcp-config",
        "--dangerously-skip-permissions",
        "--allow-dangerously-skip-permissions",
    }
)

_MODELS: Final = {
    "opus": "claude-opus-5-5",
    "sonnet": "claude-sonnet-5-5",
    "haiku": "claude-haiku-5-5",
}

# Two spellings of each of these are in use.
_SYNONYMS: Final = {"--allowed-tools": "--allowedTools", "--disallowed-tools": "--disallowedTools"}


class Options(Struct, frozen=True):
    """What the flags ask for. Flags that change nothing here are accepted and forgotten."""

    version: bool
    session_id: str
    resume: str
    fork: bool
    model: str
    mode: str
    host_decides: bool
    tools: tuple[str, ...] | None
    allowed: tuple[str, ...]
    disallowed: tuple[str, ...]
    max_turns: int | None
    max_budget: float | None
    partial: bool
    replay: bool
    persist: bool
    shape: str


def parse(argv: Sequence[str]) -> Options:
    """Read the flags.

    Raises:
        ValueError: a number is none.
    """
    pairs = list(_pairs(argv))
    given = dict(pairs)
    turns, budget = given.get("--max-turns"), given.get("--max-budget-usd")
    mode = given.get("--permission-mode", "default")
    if "--dangerously-skip-permissions" in given:
        mode = "bypassPermissions"
    return Options(
        version="--version" in given or "-v" in given,
        session_id=given.get("--session-id", ""),
        resume=given.get("--resume", given.get("-r", "")),
        fork="--fork-session" in given,
        model=full_model(given.get("--model", "")),
        mode="default" if mode == "manual" else mode,
        host_decides=given.get("--permission-prompt-tool") == "stdio",
        tools=None if given.get("--tools", "default") == "default" else _names(given["--tools"]),
        allowed=_rules(pairs, "--allowedTools"),
        disallowed=_rules(pairs, "--disallowedTools"),
        max_turns=None if turns is None else int(turns),
        max_budget=None if budget is None else float(budget),
        partial="--include-partial-messages" in given,
        replay="--replay-user-messages" in given,
        persist="--no-session-persistence" not in given,
        shape=given.get("--json-schema", ""),
    )


def full_model(name: str) -> str:
    """A model's full id from its alias; the default is another one for a plan's user (measured)."""
    if name in ("", "default"):
        plan = "CLAUDE_CODE_OAUTH_TOKEN" in os.environ and "ANTHROPIC_API_KEY" not in os.environ
        name = "sonnet" if plan else "opus"
    return _MODELS.get(name, name)


def _pairs(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    waiting = list(reversed(argv))
    while waiting:
        flag, equals, value = waiting.pop().partition("=")
        if not flag.startswith("-"):
            continue
        if not equals and flag not in _SWITCHES and waiting and not waiting[-1].startswith("-"):
            value = waiting.pop()
        yield _SYNONYMS.get(flag, flag), value


def _rules(pairs: Iterable[tuple[str, str]], flag: str) -> tuple[str, ...]:
    """A flag that adds up."""
    return tuple(name for given, value in pairs if given == flag for name in _names(value))


def _names(value: str) -> tuple[str, ...]:
    """`A,B C` and `Bash(git add, git rm),Read`: what is in brackets belongs together."""
    return tuple(re.findall(r"[^\s,(]+(?:\([^)]*\))?", value))
