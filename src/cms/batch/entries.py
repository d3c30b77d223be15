"""What a file of tasks gives, entry by entry, and what its keys mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from cms import units
from cms.batch.model import TaskSpec
from cms.option_kinds import Option
from cms.options import options_of
from cms.units import BadValue, nearest

Keys = Mapping[str, tuple[Option, bool]]


class Entry(msgspec.Struct, frozen=True):
    """One task and where it stands."""

    spec: TaskSpec
    line: int


class Fault(msgspec.Struct, frozen=True):
    """One mistake and where it stands."""

    where: str  # "line 7", "entry 3 (line 12)"
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def keys_of(options: Iterable[Option]) -> dict[str, tuple[Option, bool]]:
    """What each key means, and whether it says the contrary."""
    return {
        key.removeprefix("!"): (option, key.startswith("!"))
        for option in options
        for key in (option.key, *option.aliases)
    }


TASK_OPTIONS: Final = options_of(TaskSpec).values()
#: The keys of a task.
TASK_KEYS: Final[Keys] = keys_of(option for option in TASK_OPTIONS if "task" in option.ways)


def camel(key: str) -> str:
    """`work_dir` and `work-dir` as `workDir`."""
    head, *rest = re.split(r"[-_]", key)
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def find_key(key: str, keys: Keys) -> tuple[Option, bool]:
    """What a key means.

    Raises:
        BadValue: nothing.
    """
    known = keys.get(key) or keys.get(camel(key))
    if known is None:
        near = nearest(camel(key), keys)
        hint = f"did you mean {near!r}?" if near else f"the keys are {', '.join(keys)}"
        raise BadValue(f"unknown key {key!r}", hint=hint)
    return known


def read_keys(raw: object, keys: Keys, what: str) -> dict[str, object]:
    """The values of an object, by the fields of its options.

    Raises:
        BadValue: one cannot be meant.
    """
    if not isinstance(raw, dict):
        raise BadValue(f"{what} must be an object with keys, not {units.shown(raw)}")
    fields: dict[str, object] = {}
    for key, value in raw.items():
        option, contrary = find_key(str(key), keys)
        if value is None:
            continue  # JSON's way not to say anything
        if option.field in fields:
            raise BadValue(f"{key!r} is given twice, under two names")
        try:
            read = option.read(value)
        except BadValue as bad:
            raise BadValue(f"{key}: {bad.message}", hint=bad.hint) from None
        fields[option.field] = not read if contrary else read
    return fields
