"""Records as programs read them: what `--json` prints, a batch writes to `--out`, and the MCP tools tell.

The store's records do not go out as they are, because programs written against the original read flat
sessions (`model`, `workDir`). The rules, for all of them:

- names in camelCase, each field by its own unless the record's form says otherwise;
- a time (`TIMES`) is ISO 8601 in UTC, to the millisecond;
- US dollars (`MONEY`) are rounded to 10 decimals: a sum of floats has digits that no price has;
- durations are in seconds, except an interaction's, which is in milliseconds;
- `output` holds JSON, and is told as that: null where there is none.

A form is a line of words, one for each field that is told, in this order:

- `name`: the field of that name;
- `model=options.model`: another one, or one from within, under this name;
- `duration:ms`: seconds as whole milliseconds;
- `*session`: all that is told of that record, flat;
- `-left_ids`: all fields but this one; then every word is such a one.

Pure, and quick to import: the commands that only ask load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Final, NamedTuple

import msgspec

from cms.session.model import Attachment, DelegateResult, Interaction, Receipt, SessionRecord

#: Fields that hold a time, in seconds since the epoch.
TIMES: Final = frozenset(
    {
        "asked",
        "at",
        "created",
        "ended",
        "expires",
        "heard",
        "last_saved",
        "resets_at",
        "since",
        "started",
        "timestamp",
        "until",
    }
)
#: Fields that hold US dollars.
MONEY: Final = frozenset(
    {
        "cap",
        "cost",
        "cost_by_model",
        "cost_high",
        "cost_limit",
        "cost_usd",
        "free",
        "held",
        "judge_max_cost",
        "left",
        "max_cost",
        "reserved",
        "spent",
        "spent_ever",
        "spent_today",
        "total_cost_usd",
        "unknown",
        "used",
    }
)

_DECIMALS = 10

#: The form of each record that is not told field by field; others stand beside the command that needs them.
FORMS: Final[Mapping[type, str]] = {
    SessionRecord: (
        "name status model=options.model id claude_session_id=conversation work_dir=options.work_dir"
        " total_cost_usd cost_exact total_turns interaction_count tool_calls pid created last_saved"
        " preset=options.preset delegated=options.delegated safety=options.safety limits=options.limits"
        " tags=options.tags parent_id depth error claude_version unknown_lines noise_lines receipt walls"
        " caps_hit isolate=options.isolate change"
    ),
    Interaction: (
        "number type timestamp prompt response cost duration:ms id state ended cost_exact turns is_error"
        " error outcome tools_used tool_calls denials questions usage round output judge"
        " attachments"
    ),
    Attachment: "-id",
    DelegateResult: "-api_status -resets_at -repairable",
    Receipt: "-left_ids",
}


class Field(NamedTuple):
    """One word of a form: where the value is, and how it is told. No `name`: its fields are told, flat."""

    name: str
    path: tuple[str, ...]
    milliseconds: bool = False


def iso(seconds: float) -> str:
    """A time as ISO 8601 in UTC, to the millisecond: `2026-11-22T11:30:00.250Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_object(record: msgspec.Struct | None = None, form: str = "", /, **more: object) -> dict[str, object]:
    """A record as a JSON object.

    Args:
        form: instead of the record's own.
        more: fields that are told besides, or instead of the record's of that name; in snake_case.
    """
    found = {} if record is None else dict(_members(record, form))
    found.update((camel(name), plain(name, value)) for name, value in more.items())
    return found


def plain(name: str, value: object) -> object:
    """A value as JSON has it. `name`: of its field, which tells times and money from other numbers."""
    if name == "output" and isinstance(value, str):
        return _embedded(value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        if name in TIMES:
            return iso(value)
        return round(value, _DECIMALS) if name in MONEY else value
    if isinstance(value, msgspec.Struct):
        return dict(_members(value, ""))
    if isinstance(value, (tuple, list)):
        return [plain(name, one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(name, one) for key, one in value.items()}
    raise TypeError(f"no JSON for {name}: {type(value).__name__}")


def _embedded(text: str) -> object:
    """JSON within JSON: as it came, for there are numbers that would not come through."""
    try:
        msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text or None
    return msgspec.Raw(text.encode())


def encode(value: Mapping[str, object] | msgspec.Struct) -> bytes:
    """An object as one line of UTF-8 JSON with its newline."""
    return msgspec.json.encode(value if isinstance(value, Mapping) else json_object(value)) + b"\n"


def camel(name: str) -> str:
    """`total_cost_usd` as `totalCostUsd`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def value_at(record: object, path: Iterable[str]) -> object:
    """What `options.limits` means; None where a part of the path is None."""
    for name in path:
        if record is None:
            return None
        record = getattr(record, name)
    return record


def _members(record: msgspec.Struct, form: str) -> Iterator[tuple[str, object]]:
    for name, path, milliseconds in fields_of(type(record), form):
        value = value_at(record, path)
        if not name and isinstance(value, msgspec.Struct):
            yield from _members(value, "")
        elif milliseconds and isinstance(value, float):
            yield name, round(value * 1000)
        else:
            yield name, plain(path[-1], value)


@cache
def fields_of(kind: type[msgspec.Struct], form: str = "") -> tuple[Field, ...]:
    """What is told of a record, from its form."""
    words = (form or FORMS.get(kind, "")).split()
    if all(word.startswith("-") for word in words):
        names = zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True)
        return tuple(Field(outside, (name,)) for name, outside in names if f"-{name}" not in words)
    return tuple(_field(word) for word in words)


def _field(word: str) -> Field:
    word, _, unit = word.partition(":")
    if word.startswith("*"):
        return Field("", (word[1:],))
    name, _, path = word.partition("=")
    return Field(camel(name), tuple((path or name).split(".")), unit == "ms")
