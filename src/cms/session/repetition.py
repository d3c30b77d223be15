"""Work without progress: the same tool call again and again.

A model that has lost its way repeats itself: it reads the same file, or runs the same failing command, and
pays for it each time. What counts as the same: the same tool with the same input, with nothing else called in
between by the same conversation (a subagent has a count of its own). A test that is run after each edit is
no repetition, because the edit stands between. The words with which a call describes itself do not count.

Waiting for a background task is honest however often it looks: the tools that only look at one never count.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cms.errors import UNREADABLE

#: They ask how a background task is doing.
_WAITING: Final = frozenset({"TaskOutput", "BashOutput", "AgentOutputTool", "ListAgents"})


class Repetition(msgspec.Struct, frozen=True):
    """The newest call of a conversation, and how many times in a row it was made."""

    tool: str
    input: bytes
    count: int


def follow(repetition: Repetition | None, tool: str, given: msgspec.Raw) -> Repetition:
    """The repetition after one more call."""
    if tool in _WAITING:
        return Repetition(tool, b"", 0)
    said = _essence(given)
    if repetition is not None and (repetition.tool, repetition.input) == (tool, said):
        return Repetition(tool, said, repetition.count + 1)
    return Repetition(tool, said, 1)


def _essence(given: msgspec.Raw) -> bytes:
    try:
        fields = msgspec.json.decode(given, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return bytes(given)
    fields.pop("description", None)
    return msgspec.json.encode(fields, order="sorted")
