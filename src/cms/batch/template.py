"""Results of needed tasks, and fields of rows, in the prompts of tasks.

In a prompt or a context, `{{needs.NAME.FIELD}}` stands for a field of the result of the task NAME, which must
be among the task's `needs`:

| field | text |
| --- | --- |
| `response` | what the task answered; beyond 200,000 characters it is cut, and the cut is told |
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
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from cms.units import BadValue, shown

#: The fields that can be asked for.
FIELDS: Final = ("response", "status", "cost", "turns", "workDir", "sessionId")
#: Characters of one response that go into a prompt.
MOST: Final = 200_000

# A task's name may contain dots, so the field is what follows the last one.
_NEED: Final = r"(?<!\$)\{\{\s*needs\.(?P<name>[^{}]*?)\.?(?P<field>[A-Za-z]*)\s*\}\}"
_ROW: Final = r"(?<!\$)\{\{\s*row\.(?P<row>[^{}]*?)\s*\}\}"
_PLACE: Final = re.compile(r"\\(?P<as_is>\{\{\s*needs\.)|" + _NEED)
#: Where there is no row, `{{row.x}}` is text.
_ROW_PLACE: Final = re.compile(r"\\(?P<as_is>\{\{\s*(?:needs|row)\.)|" + _NEED + "|" + _ROW)


class Wanted(msgspec.Struct, frozen=True):
    """One placeholder."""

    name: str
    field: str


def wanted(text: str) -> tuple[Wanted, ...]:
    """The placeholders of a text, in order, each once."""
    found = (Wanted(one["name"], one["field"]) for one in _PLACE.finditer(text) if one["as_is"] is None)
    return tuple(dict.fromkeys(found))


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
        if match["as_is"] is not None or match["name"] not in names:
            return match[0]
        return f"{{{{needs.{names[match['name']]}.{match['field']}}}}}"

    return (_ROW_PLACE if row else _PLACE).sub(put, text)


def fill(text: str, result: Callable[[str, str], str], row: Mapping[str, str] | None = None) -> str:
    """The text with every placeholder replaced, by `result(name, field)` or the row's value, in one pass."""

    def put(match: re.Match[str]) -> str:
        if match["as_is"] is not None:
            return match["as_is"]
        if row is not None and match["row"] is not None:
            return row[match["row"]]
        given = result(match["name"], match["field"])
        if len(given) <= MOST:
            return given
        return f"{given[:MOST]}\n[cut: {len(given) - MOST} more characters]"

    return (_PLACE if row is None else _ROW_PLACE).sub(put, text)


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
                f"{shown(value)} ({match['row']}) cannot be part of a check",
                hint="only letters, digits and _./:@%+,=- can; let the check read a file instead",
            )
        return value

    return _ROW_PLACE.sub(put, text)
