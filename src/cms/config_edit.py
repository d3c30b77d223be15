"""One key of `config.toml` set or taken out, everything else in it as a person wrote it.

The line of the key is edited, and nothing else. What comes out is parsed before it is written: it must say
what the file said with that one change, and make sense as a whole. Where it does not (a value over several
lines, a table written in another way) nothing is written, and a person is asked to edit the file. A library
that keeps comments would be one more dependency for one command.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, get_args, get_type_hints

import msgspec

from cms.config_file import KEYS, NAME, FileSettings, parse_config
from cms.errors import HomeUnusable, UsageError
from cms.files import rewrite_file
from cms.option_kinds import COUNT, MONEY, TRIES, Option
from cms.units import nearest

_SETTINGS: Final = get_type_hints(FileSettings)
_HEADER: Final = re.compile(r"\s*\[\[?\s*(?P<name>[^\[\]]+?)\s*\]\]?\s*(#.*)?$")


class Place(msgspec.Struct, frozen=True):
    """Where a key stands: `settings`, `defaults`, or `profiles.NAME`."""

    table: str
    key: str


def place_of(word: str) -> Place:
    """`grace`, `model`, `settings.grace`, `defaults.model`, `profiles.night.max-cost`.

    Raises:
        UsageError: there is no such key, with the nearest there is.
    """
    table, _, key = word.rpartition(".")
    if not table:
        table = "settings" if key.replace("-", "_") in _SETTINGS else "defaults"
    profile = table.removeprefix("profiles.") if table.startswith("profiles.") else ""
    if table not in ("settings", "defaults") and not profile:
        raise UsageError(
            f"there is no table [{table}]", hint="use settings.KEY, defaults.KEY or profiles.NAME.KEY"
        )
    known = _known(table)
    if key not in known:
        every = known if "." in word else {*_known("settings"), *known}
        near = nearest(key, sorted(every))
        hint = f"did you mean {near!r}?" if near else "`cms config --help-all` shows the keys"
        if key in KEYS:
            hint = "it has to be given as a flag each time"
        raise UsageError(f"there is no setting {key!r}", hint=hint)
    return Place(table, key)


def _known(table: str) -> set[str]:
    if table == "settings":
        return {field.replace("_", "-") for field in _SETTINGS}
    return {key for key, option in KEYS.items() if "profile" in option.ways}


def change(home: Path, place: Place, values: Sequence[str]) -> None:
    """Set a key, or with no values take it out.

    Raises:
        UsageError: the value cannot be meant, or the file cannot be edited by a program.
        HomeUnusable: the file cannot be read or written.
    """
    path = Path(os.path.realpath(home / NAME))  # a link to a folder of settings stays a link
    text = _read(path)
    before = parse_config(path, text)[1]
    after = copy.deepcopy(before)
    table = _table(after, place.table)
    if values:
        table[place.key] = _value(place, values)
    elif table.pop(place.key, None) is None:
        raise UsageError(f"{place.key} is not set in [{place.table}] of {path}")
    edited = _edit(text, place, table.get(place.key))
    try:
        says = msgspec.toml.decode(edited)
    except msgspec.DecodeError:
        says = None
    if _filled(says) != _filled(after):
        raise UsageError(
            f"cannot change {place.key} in {path} without touching the rest", hint="edit the file by hand"
        )
    parse_config(path, edited)
    _write(path, edited)


def _table(tree: dict[str, dict[str, object]], name: str) -> dict[str, object]:
    """The table of that name, made if it is not there."""
    first, _, profile = name.partition(".")
    found = tree.setdefault(first, {})
    if not profile:
        return found
    table = found.setdefault(profile, {})
    return table if isinstance(table, dict) else {}


def _filled(tree: object) -> object:
    """Without empty tables: whether one is written says nothing."""
    if not isinstance(tree, dict):
        return tree
    return {key: _filled(value) for key, value in tree.items() if value != {}}


def _value(place: Place, values: Sequence[str]) -> object:
    """What was typed as a value of TOML: a number where one can stand, else a text."""
    if place.table == "settings":
        kinds = get_args(_SETTINGS[place.key.replace("-", "_")])
        many, number = Ellipsis in kinds, bool({int, float} & set(kinds))
    else:
        option: Option = KEYS[place.key]
        many, number = option.kind.many, option.kind in (COUNT, TRIES, MONEY)
    if many:
        return list(values)
    if len(values) > 1:
        raise UsageError(f"{place.key} takes one value", hint="quote a value with spaces")
    for parse in (int, float) if number else ():
        try:
            return parse(values[0])
        except ValueError:
            continue
    return values[0]


def _edit(text: str, place: Place, value: object) -> str:
    """The text with the key's line changed, added behind its table's last line, or taken out (None)."""
    lines = text.splitlines(keepends=True)
    start, end = _span(lines, place.table)
    key_line = re.compile(rf"\s*[\"']?{re.escape(place.key)}[\"']?\s*=[^#]*?(?P<tail>\s*(#.*)?)\n?$")
    said = "" if value is None else f"{place.key} = {_toml(value)}"
    for number in range(start, end):
        if found := key_line.match(lines[number]):
            lines[number] = f"{said}{found['tail'].rstrip()}\n" if said else ""
            return "".join(lines)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if start < 0:
        head = "\n" if lines else ""
        return "".join([*lines, f"{head}[{place.table}]\n{said}\n"])
    while end > start and not lines[end - 1].partition("#")[0].strip():
        end -= 1
    return "".join([*lines[:end], f"{said}\n", *lines[end:]])


def _span(lines: Sequence[str], table: str) -> tuple[int, int]:
    """The lines of a table without its header; (-1, -1): it is not there."""
    start = -1
    for number, line in enumerate(lines):
        found = _HEADER.match(line)
        if found and start >= 0:
            return start, number
        if found and re.sub(r"\s*\.\s*", ".", found["name"]).replace('"', "") == table:
            start = number + 1
    return (start, len(lines)) if start >= 0 else (-1, -1)


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else repr(value)
    return msgspec.json.encode(value).decode()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise HomeUnusable(f"cannot read {path}: {error}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        rewrite_file(path, text.encode())
    except OSError as error:
        raise HomeUnusable(f"cannot write {path}: {error.strerror}") from None
