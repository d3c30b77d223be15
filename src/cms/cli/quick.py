"""A plain command line, read without cyclopts: most of what people and scripts type.

It reads the same declarations as cyclopts, and only what cannot be meant in two ways: words, flags of their
full names, each once, with values that do not begin with a hyphen. Whatever else is typed, a mistake above
all, it leaves to cyclopts, which explains. That both read a line alike is tested with lines made at random.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Literal, NamedTuple, get_args, get_origin, get_type_hints

from cms.cli.commands import COMMANDS

#: What has its declarations from `cms.cli.declare`.
MODULES = (
    "cms.cli.cost",
    "cms.cli.ends",
    "cms.cli.search",
    "cms.cli.metrics",
    "cms.cli.sessions",
    "cms.cli.status",
    "cms.cli.usage",
)
_TARGETS = {
    name: command.target
    for command in COMMANDS
    if command.target.partition(":")[0] in MODULES
    for name in command.names
}
#: Where declarations stand that several of these modules use.
_SHARED = ("cms.cli.declare", "cms.cli.flags", "cms.cli.hook_flags")
_VARIADIC = 0x04  # of `co_flags`: the function takes any number of words

Values = tuple[tuple[object, ...], dict[str, object]]


class _Word(NamedTuple):
    """What a converter is given: a token of cyclopts has a `value`, too."""

    value: str


class _Unclear(Exception):
    """It is for cyclopts."""


def find(words: Sequence[str]) -> Callable[[], object] | None:
    """The call that a command line stands for, or None where cyclopts is to say."""
    target = _TARGETS.get(words[0]) if words else None
    if target is None:
        return None
    module, _, name = target.partition(":")
    command: Callable[..., object] = getattr(import_module(module), name)
    values = read(command, words[1:])
    return None if values is None else lambda: command(*values[0], **values[1])


def withdraw() -> None:
    """Forget what was loaded with the light declarations, so that it is loaded anew with cyclopts' own."""
    declare = sys.modules.get("cms.cli.declare")
    if declare is None or not declare.LIGHT:
        return
    package = sys.modules["cms.cli"]
    for name in (*_SHARED, *MODULES):
        sys.modules.pop(name, None)
        vars(package).pop(name.rpartition(".")[2], None)


def read(command: Callable[..., object], words: Sequence[str]) -> Values | None:
    """What a command is called with: positional and named. None: not plain."""
    try:
        return _read(command, words)
    except (_Unclear, ValueError):
        return None


def _read(command: Callable[..., object], words: Sequence[str]) -> Values:
    code = command.__code__
    hints: dict[str, object] = get_type_hints(command, include_extras=True)
    places = code.co_varnames[: code.co_posonlyargcount]
    first = code.co_argcount
    named = code.co_varnames[first : first + code.co_kwonlyargcount]
    rest = code.co_varnames[first + code.co_kwonlyargcount] if code.co_flags & _VARIADIC else ""
    flags = {flag: field for field in named for flag in _names(hints[field])}
    found: list[object] = []
    said: dict[str, object] = {}
    coming = iter(words)
    for word in coming:
        if word.startswith("-") and word != "-":
            flag, equals, value = word.partition("=")
            field = flags.get(flag)
            if field is None or field in said:
                raise _Unclear
            if get_args(hints[field])[0] is bool:
                if equals:
                    raise _Unclear
                said[field] = True
                continue
            said[field] = _convert(hints[field], value if equals else next(coming, ""))
        elif len(found) < len(places):
            found.append(_convert(hints[places[len(found)]], word))
        elif rest:
            found.append(_convert(hints[rest], word))
        else:
            raise _Unclear
    return tuple(found), said


def _names(hint: object) -> tuple[str, ...]:
    """The flags of a declaration."""
    (declared,) = get_args(hint)[1:]
    names: tuple[str, ...] = declared.name
    if not names:
        raise _Unclear
    return names


def _convert(hint: object, word: str) -> object:
    if not word or (word.startswith("-") and word != "-") or get_origin(hint) is not Annotated:
        raise _Unclear
    kind, declared = get_args(hint)
    if declared.converter is not None:
        return declared.converter(kind, (_Word(word),))
    if get_origin(kind) is Literal:
        if word not in get_args(kind):
            raise _Unclear
    elif kind not in (str, str | None):
        raise _Unclear
    return word
