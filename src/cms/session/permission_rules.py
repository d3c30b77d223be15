"""Which `--allow` rules would have permitted a call that was refused because nobody was there to ask. Pure.

claude says with its question which rules it would add if a person agreed. Measured on 2.1.331: those are
right, but for files that a shell line writes to by redirection. There it names the file where it can
(`blocked_path`), and wants a rule for editing that; where it cannot (`make | tee log`) only a rule for the
whole tool will do, as for lines that it does not take apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Final

import msgspec

from cms.errors import UNREADABLE
from cms.session.state import PendingCall
from cms.units import split_rules

#: Characters of a rule that is proposed to a person; MCP takes no longer one either.
_LONGEST: Final = 500


class _Rule(msgspec.Struct, frozen=True, rename="camel"):
    tool_name: str
    rule_content: str | None = None


class _Suggestion(msgspec.Struct, frozen=True):
    type: str = ""
    behavior: str = ""
    rules: tuple[_Rule, ...] = ()


def permitting(call: PendingCall, folders: Sequence[str]) -> tuple[str, ...]:
    """The rules, each once; none where no rule would do.

    Args:
        folders: where the session may write, its work dir first.
    """
    edited = ""
    if call.blocked_path.startswith("/"):
        edited = _editing(call.blocked_path, folders)
        if not edited:
            return ()  # no rule opens a folder
    try:
        suggestions = msgspec.json.decode(call.suggestions, type=tuple[_Suggestion, ...])
    except UNREADABLE:
        suggestions = ()
    kinds = {one.type for one in suggestions}
    rules = list(_rules(suggestions))
    if "addDirectories" in kinds and not call.blocked_path:
        rules = []  # it writes somewhere, and does not say where
    elif edited and "setMode" not in kinds:
        rules.append(edited)
    if not rules or not all(_can_be_typed(rule) for rule in rules):
        return (call.tool,) if _can_be_typed(call.tool) else ()
    return tuple(dict.fromkeys(rules))


def _rules(suggestions: Sequence[_Suggestion]) -> Iterator[str]:
    for one in suggestions:
        if (one.type, one.behavior) == ("addRules", "allow"):
            for rule in one.rules:
                yield (
                    rule.tool_name if rule.rule_content is None else f"{rule.tool_name}({rule.rule_content})"
                )


def _editing(path: str, folders: Sequence[str]) -> str:
    """The rule for editing a file in one of the folders: relative to the first, or whole."""
    place = PurePosixPath(path)
    if not any(place.is_relative_to(folder) for folder in folders):
        return ""
    if place.is_relative_to(folders[0]):
        return f"Edit({place.relative_to(folders[0])})"
    return f"Edit(/{path})"


def _can_be_typed(rule: str) -> bool:
    return len(rule) <= _LONGEST and rule.isprintable() and split_rules(rule) == [rule]
