"""Results of needed tasks in the prompts of those that need them.

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

`\\{{needs.` gives the braces as they are. All else in braces is text. What is put in is not looked at again,
so an answer that contains a placeholder cannot pull in another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from cms.batch.model import Task, TaskResult

#: The fields that can be asked for.
FIELDS: Final = ("response", "status", "cost", "turns", "workDir", "sessionId")
#: Characters of one response that go into a prompt.
MOST: Final = 200_000

# A task's name may contain dots, so the field is what follows the last one.
_PLACE: Final = re.compile(r"\\(\{\{\s*needs\.)|\{\{\s*needs\.([^{}]*?)\.?([A-Za-z]*)\s*\}\}")


class Wanted(msgspec.Struct, frozen=True):
    """One placeholder."""

    name: str
    field: str


def wanted(text: str) -> tuple[Wanted, ...]:
    """The placeholders of a text, in order, each once."""
    found = (Wanted(match[2], match[3]) for match in _PLACE.finditer(text) if match[1] is None)
    return tuple(dict.fromkeys(found))


def fill(text: str, result: Callable[[str, str], str]) -> str:
    """The text with every placeholder replaced by `result(name, field)`, in one pass."""

    def put(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1]
        given = result(match[2], match[3])
        if len(given) <= MOST:
            return given
        return f"{given[:MOST]}\n[cut: {len(given) - MOST} more characters]"

    return _PLACE.sub(put, text)


def field_of(task: Task, field: str) -> str:
    """What stands for a field (`FIELDS`) of a task's result."""
    result = task.result or TaskResult()
    match field:
        case "response":
            return result.response
        case "status":
            return task.status.value
        case "cost":
            return f"{task.cost:.4f}"
        case "turns":
            return str(result.turns)
        case "workDir":
            return task.options.session.work_dir
        case "sessionId":
            return result.session_id
        case _:
            return ""
