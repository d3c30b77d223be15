"""Results of needed tasks, and fields of rows, in the prompts of tasks.

In a prompt or a context, `{{needs.NAME.FIELD}}` stands for a field of the result of the task NAME, which must
be among the task's `needs`:

| field | text |
| --- | --- |
| `response` | what the task answered; beyond 200,000 characters it is cut, and the cut is told |
| `output` | its answer by `jsonSchema`, as JSON; `output.KEY.0`: a part of that, and a text stands as it is |
| `status` | `completed`: nothing else starts a task that needs it |
| `cost` | US dollars with four decimals |
| `turns` | how many |
| `workDir` | where it worked |
| `sessionId` | the session, for `cms` commands |

In a task that was made of a row of a table, `{{row.FIELD}}` stands for a value of that row.

`\\{{needs.` gives the braces as they are. All else in braces is text, and so is everything behind a dollar
sign: `${{ ... }}` is of CI files. What is put in is not looked at again, so an answer or a value that
contains a placeholder cannot pull in another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from cms.units import BadValue, shown

#: The fields that can be asked for.
FIELDS: Final = ("response", "output", "status", "cost", "turns", "workDir", "sessionId")
#: Characters of one response that go into a prompt.
MOST: Final = 200_000

_NEED: Final = r"(?<!\$)\{\{\s*needs\.(?P<need>[^{}]*?)\s*\}\}"
_ROW: Final = r"(?<!\$)\{\{\s*row\.(?P<row>[^{}]*?)\s*\}\}"
_PLACE: Final = re.compile(r"\\(?P<as_is>\{\{\s*needs\.)|" + _NEED)
#: Where there is no row, `{{row.x}}` is text.
_ROW_PLACE: Final = re.compile(r"\\(?P<as_is>\{\{\s*(?:needs|row)\.)|" + _NEED + "|" + _ROW)


class Wanted(msgspec.Struct, frozen=True):
    """One placeholder. `path`: of a part of the field, with dots between its steps."""

    name: str
    field: str
    path: str = ""

    def __str__(self) -> str:
        return "needs." + ".".join(part for part in (self.name, self.field, self.path) if part)


class NoSuchPart(BadValue):
    """A result does not have what is wanted of it."""


def wanted(text: str, names: Collection[str] = ()) -> tuple[Wanted, ...]:
    """The placeholders of a text, in order, each once.

    Args:
        names: of tasks. Names may contain dots: where none of these fits, the field follows the last one.
    """
    found = (_read(one["need"], names) for one in _PLACE.finditer(text) if one["as_is"] is None)
    return tuple(dict.fromkeys(found))


def _read(inside: str, names: Collection[str]) -> Wanted:
    for name in sorted(names, key=len, reverse=True):
        if inside.startswith(f"{name}."):
            field, _, path = inside.removeprefix(f"{name}.").partition(".")
            return Wanted(name, field, path)
    name, found, path = inside.partition(".output.")
    if found:
        return Wanted(name, "output", path)
    name, dot, field = inside.rpartition(".")
    return Wanted(name, field) if dot and (not field or field.isalpha()) else Wanted(inside, "")


def wanted_fields(text: str) -> tuple[str, ...]:
    """The fields of a row that a text wants, in order, each once."""
    found = (one["row"] for one in _ROW_PLACE.finditer(text) if one["row"] is not None)
    return tuple(dict.fromkeys(found))


def renamed(text: str, names: Mapping[str, str], *, row: bool = False) -> str:
    """The text with the tasks that it wants something of under their new names.

    Args:
        row: it belongs to a row.
    """

    def put(match: re.Match[str]) -> str:
        if match["need"] is None or (place := _read(match["need"], names)).name not in names:
            return match[0]
        return f"{{{{{msgspec.structs.replace(place, name=names[place.name])}}}}}"

    return (_ROW_PLACE if row else _PLACE).sub(put, text)


def fill(
    text: str,
    names: Collection[str],
    result: Callable[[Wanted], str],
    row: Mapping[str, str] | None = None,
) -> str:
    """The text with every placeholder replaced, by what `result` gives or the row's value, in one pass.

    Args:
        names: of the tasks that it may name.
    """

    def put(match: re.Match[str]) -> str:
        if match["as_is"] is not None:
            return match["as_is"]
        if row is not None and match["row"] is not None:
            return row[match["row"]]
        given = result(_read(match["need"], names))
        if len(given) <= MOST:
            return given
        return f"{given[:MOST]}\n[cut: {len(given) - MOST} more characters]"

    return (_PLACE if row is None else _ROW_PLACE).sub(put, text)


def part_of(output: str, place: Wanted) -> str:
    """A part of a task's output: a text as it is, else JSON.

    Raises:
        NoSuchPart: there is none, or no output.
    """
    if not output:
        raise NoSuchPart(f"{{{{{place}}}}}: {place.name!r} has no output with a schema (jsonSchema)")
    value: object = msgspec.json.decode(output)
    for step in place.path.split(".") if place.path else ():
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise NoSuchPart(f"{{{{{place}}}}}: the output of {place.name!r} has no {step!r} there")
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


#: What a row's value may be made of where it becomes part of a shell command.
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]*")


def fill_row(text: str, row: Mapping[str, str], *, command: bool = False) -> str:
    """The text with the values of a row.

    Args:
        command: it is a shell command.

    Raises:
        BadValue: a value has no place in a command.
    """

    def put(match: re.Match[str]) -> str:
        if match["row"] is None:
            return match["as_is"] if match["as_is"] and "row" in match["as_is"] else match[0]
        value = row[match["row"]]
        if command and not _HARMLESS.fullmatch(value):
            raise BadValue(
                f"{shown(value)} ({match['row']}) cannot be used in a check",
                hint="use only letters, digits and _./:@%+,=-, or let the check read a file",
            )
        return value

    return _ROW_PLACE.sub(put, text)
