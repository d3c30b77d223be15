"""Put a member into a JSON text, or take one out, with every other byte as it was. Pure.

Parsing and writing again would change what we do not own: indentation, escapes, the digits of numbers.
`remove(insert(text))` is `text` again, unless the object was empty but for white space.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import msgspec

_SPACE = re.compile(r"[ \t\n\r]*")
_decoder = json.JSONDecoder()


class _Member(msgspec.Struct, frozen=True):
    """Where a member stands: from the quote of its key to the end of its value."""

    key: str
    start: int
    value: int
    end: int


class _Object(msgspec.Struct, frozen=True):
    """An object in the text, from its brace to behind its closing brace."""

    start: int
    end: int
    members: tuple[_Member, ...]

    def member(self, key: str) -> _Member | None:
        # The last one counts, as every JSON reader has it.
        return next((member for member in reversed(self.members) if member.key == key), None)


def get(text: str, path: Sequence[str]) -> object:
    """The value at a path of keys, or None.

    Raises:
        ValueError: the text is not a JSON object, or something on the way is none.
    """
    found = _find(text, path[:-1])
    member = found.member(path[-1]) if found is not None else None
    if member is None:
        return None
    value: object = _value(text, member.value)[0]
    return value


def insert(text: str, path: Sequence[str], key: str, value: object) -> str:
    """The text with one more member at the end of the object at `path`, which is made if it is missing.

    Raises:
        ValueError: as `get`, or the object has the key already.
    """
    target = _find(text, path)
    if target is None:
        return insert(text, path[:-1], path[-1], {key: value})
    if target.member(key) is not None:
        raise ValueError(f"{key} is there already")
    unit, depth, newline = _indent(text), len(path) + 1, "\r\n" if "\r\n" in text else "\n"
    if target.members:
        gap = text[target.start + 1 : target.members[0].start]
        at = target.members[-1].end
        if "\n" not in gap:
            return f"{text[:at]}, {_dump(key)}: {_dump(value)}{text[at:]}"
        written = _written(value, unit, depth).replace("\n", newline)
        return f"{text[:at]},{gap}{_dump(key)}: {written}{text[at:]}"
    inside = f"\n{unit * depth}{_dump(key)}: {_written(value, unit, depth)}\n{unit * (depth - 1)}"
    return text[: target.start + 1] + inside.replace("\n", newline) + text[target.end - 1 :]


def remove(text: str, path: Sequence[str], key: str) -> str:
    """The text without that member.

    Raises:
        ValueError: as `get`, or there is no such member.
    """
    target = _find(text, path)
    member = target.member(key) if target is not None else None
    if target is None or member is None:
        raise ValueError(f"{key} is not there")
    at = target.members.index(member)
    if len(target.members) == 1:
        return text[: target.start + 1] + text[target.end - 1 :]
    if at > 0:
        return text[: target.members[at - 1].end] + text[member.end :]
    return text[: member.start] + text[target.members[1].start :]


def _find(text: str, path: Sequence[str]) -> _Object | None:
    found = _object(text, _skip(text, 0))
    if _skip(text, found.end) != len(text):
        raise ValueError("something follows the object")
    for key in path:
        member = found.member(key)
        if member is None:
            return None
        found = _object(text, member.value)
    return found


def _object(text: str, start: int) -> _Object:
    if text[start : start + 1] != "{":
        raise ValueError(f"no JSON object at character {start}")
    members: list[_Member] = []
    at = _skip(text, start + 1)
    while text[at : at + 1] != "}":
        if members:
            if text[at : at + 1] != ",":
                raise ValueError(f"no comma at character {at}")
            at = _skip(text, at + 1)
        if text[at : at + 1] != '"':
            raise ValueError(f"no key at character {at}")
        key, end = _value(text, at)
        colon = _skip(text, end)
        if text[colon : colon + 1] != ":":
            raise ValueError(f"no colon at character {colon}")
        value = _skip(text, colon + 1)
        _, end = _value(text, value)
        members.append(_Member(str(key), at, value, end))
        at = _skip(text, end)
    return _Object(start, at + 1, tuple(members))


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int) -> tuple[object, int]:
    try:
        value, end = _decoder.raw_decode(text, at)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value, end


def _indent(text: str) -> str:
    """What the text indents by: the white space of its first indented line."""
    found = re.search(r"\n([ \t]+)\S", text)
    return found.group(1) if found else "  "


def _written(value: object, unit: str, depth: int) -> str:
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", "\n" + unit * depth)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
