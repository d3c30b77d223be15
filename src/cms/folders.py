"""Folders and files that a person names: made absolute, and looked at, before the daemon is bothered.

Links are kept as they were typed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cms.errors import UsageError, WorkDirError
from cms.option_kinds import Option
from cms.options import OPTIONS, Layer
from cms.units import BadValue, nearest

L = TypeVar("L", bound=Layer)


def flag_of(option: Option) -> str:
    """What a person who typed it calls an option."""
    return option.flags[0]


def key_of(option: Option) -> str:
    """What a person who wrote a file of tasks calls it."""
    return option.key


def nearest_path(wanted: Path) -> str:
    """A hint: the entry beside a missing path that is most like it, or the folder that is missing, too."""
    path, beside = wanted, wanted.parent
    while not beside.is_dir() and beside != beside.parent:
        path, beside = beside, beside.parent
    try:
        found = nearest(path.name, os.listdir(beside))  # noqa: PTH208 - names, not paths
    except OSError:
        found = ""
    if found:
        return f"did you mean {beside / found}?"
    return f"there is no folder {path} either" if path.parent != wanted.parent else ""


def check_folder(text: str, name: str, base: str = "") -> str:
    """A folder as an absolute path; the current one for "".

    Args:
        name: what it is for.
        base: what it is relative to, if not to the current folder.

    Raises:
        WorkDirError: it is not there, no folder, cannot be entered, or has a name that is no text.
    """
    try:
        path = Path(os.path.abspath(Path(base or Path.cwd(), Path(text).expanduser())))  # noqa: PTH100
    except FileNotFoundError:
        raise WorkDirError(
            "the current folder is gone", hint=f"cd to one that exists, or use {name} DIR"
        ) from None
    try:
        str(path).encode()
    except UnicodeEncodeError:
        told = str(path).encode(errors="backslashreplace").decode()
        raise WorkDirError(
            f"{name}: {told} is not valid UTF-8 text", hint=f"use a link to it: {name} LINK"
        ) from None
    if not path.exists():
        raise WorkDirError(f"{name}: {path} does not exist", hint=nearest_path(path))
    if not path.is_dir():
        raise WorkDirError(f"{name}: {path} is not a folder", hint=f"its folder is {path.parent}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise WorkDirError(f"{name}: {path} cannot be entered", hint="check its permissions")
    return str(path)


def check_file_or_json(text: str, name: str, base: str = "") -> str:
    """JSON as it is; a file's name made absolute, because the daemon runs elsewhere.

    Raises:
        UsageError: no such file.
    """
    if text.lstrip().startswith(("{", "[")):
        return text
    path = Path(os.path.abspath(Path(base, Path(text).expanduser())))  # noqa: PTH100
    if not path.is_file():
        raise UsageError(f"{name}: there is no file {path}", hint=nearest_path(path))
    return str(path)


def check_schema_of(text: str, name: str, base: str = "") -> str:
    """The JSON Schema that is given, or is in the file that is named: read now, so that it stays what it is.

    Raises:
        UsageError: no such file, or it is no schema.
    """
    from cms.json_schema import MOST_SCHEMA, check_schema

    given = check_file_or_json(text, name, base)
    try:
        if given != text or not text.lstrip().startswith(("{", "[")):
            with Path(given).open("rb") as file:
                given = file.read(MOST_SCHEMA + 1).decode()
        return check_schema(given)
    except BadValue as bad:
        raise UsageError(f"{name}: {bad.message}", hint=bad.hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {given} cannot be read: {error}") from None


def check_repo(text: str, name: str, base: str = "") -> str:
    """A repository: its URL as it is, a folder as an absolute path. What a row is to fill is left alone.

    Raises:
        UsageError: it is neither.
    """
    from cms.batch.remote import Repo
    from cms.batch.template import wanted_fields

    if wanted_fields(text):
        return text
    if "://" in text or text.startswith("bundle:") or (":" in text and not Path(base, text).exists()):
        Repo.parse(text)
        return text
    return check_folder(text, name, base)


_CHECKS: Final = {
    "folder": check_folder,
    "file": check_file_or_json,
    "schema": check_schema_of,
    "repo": check_repo,
}


class Folders:
    """What layers name, made absolute. Each place is looked at once.

    Args:
        name: how an error calls an option.
        base: what relative ones are relative to; "": the current folder.
    """

    def __init__(self, name: Callable[[Option], str], base: str = "") -> None:
        self._name = name
        self._base = base
        self._seen: dict[tuple[str, str], str] = {}

    def settle(self, layer: L) -> L:
        """The layer with absolute paths.

        Raises:
            UsageError: one is not there.
        """
        changes: dict[str, object] = {}
        for field, option in OPTIONS.items():
            value = getattr(layer, field) if option.kind.place else None
            if isinstance(value, str) and (value or option.kind.place == "folder"):
                changes[field] = self._absolute(option, value)
            elif isinstance(value, tuple):
                changes[field] = tuple(self._absolute(option, one) for one in value)
        return msgspec.structs.replace(layer, **changes) if changes else layer

    def _absolute(self, option: Option, text: str) -> str:
        if (known := self._seen.get((option.kind.place, text))) is not None:
            return known
        check = _CHECKS[option.kind.place]
        return self._seen.setdefault((option.kind.place, text), check(text, self._name(option), self._base))
