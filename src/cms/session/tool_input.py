"""What a tool call is given: the fields of its input that the gate looks at. Pure.

The input is the agent's, and of tools that we may not know: any field can have any shape, or be missing.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from cms.errors import UNREADABLE


class ChoiceInput(msgspec.Struct, frozen=True):
    """One answer that the model offers to its question."""

    label: str = ""
    description: str = ""


class QuestionInput(msgspec.Struct, frozen=True, rename="camel"):
    """One question of the model's to a person."""

    question: str = ""
    header: str = ""
    options: tuple[ChoiceInput, ...] = ()
    multi_select: bool = False


class ToolInput(msgspec.Struct, frozen=True):
    """The fields of all tools' inputs that we look at."""

    file_path: str | None = None
    notebook_path: str | None = None
    path: str | None = None
    command: str | None = None
    pattern: str | None = None
    url: str | None = None
    query: str | None = None
    skill: str | None = None
    description: str | None = None
    isolation: str | None = None
    code: str | None = msgspec.field(default=None, name="filePath")  # LSP's word for a file
    plan: str = ""
    questions: tuple[QuestionInput, ...] = ()

    @property
    def target(self) -> str | None:
        """The file that the call is about; of one that writes, the file that is written."""
        return self.file_path or self.notebook_path

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that it names, each once."""
        named = (self.target, self.path, self.code)
        return tuple(dict.fromkeys(path for path in named if path is not None))

    @property
    def detail(self) -> str:
        """What the call is about, in a line."""
        lines = self.subject.splitlines()
        return lines[0][:200] if lines else ""

    @property
    def subject(self) -> str:
        """The path, the command: what the call is about."""
        for text in (
            self.file_path,
            self.notebook_path,
            self.command,
            self.url,
            self.pattern,
            self.path,
            self.code,
            self.query,
            self.skill,
            self.description,
        ):
            if text:
                return text
        return ""


#: The fields of an input that can be read one by one when the whole cannot.
_TEXTS = (
    "file_path",
    "notebook_path",
    "path",
    "command",
    "pattern",
    "url",
    "query",
    "skill",
    "description",
    "isolation",
    "filePath",
)


def _piecemeal(raw: msgspec.Raw) -> ToolInput:
    """What can be read of an input that has some field of another shape than ours."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return ToolInput()
    texts: dict[str, str] = {}
    for name in _TEXTS:
        try:
            texts[name] = msgspec.json.decode(fields[name], type=str)
        except (KeyError, *UNREADABLE):
            continue
    return msgspec.convert(texts, ToolInput)


#: Texts of one input that are looked at, and characters of a path.
MOST_TEXTS: Final = 256
_LONGEST: Final = 4096
#: Arguments that mean a file by their name: all texts in them are paths, those without a slash, too.
_FILE_WORDS: Final = re.compile(
    r"(?i)path|file|dir(ectory|s)?$|folder|uri|root|cwd|source|dest(ination)?$|^(src|dst)$"
)
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")


def guess_paths(raw: msgspec.Raw) -> tuple[str, ...] | None:
    """The paths that the input of a tool that we do not know may name; None: more than are looked at."""
    try:
        todo: list[tuple[str, object]] = [("", msgspec.json.decode(raw))]
    except UNREADABLE:
        return None
    found: dict[str, None] = {}
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            todo += ((key, inner) for key, inner in value.items())
        elif isinstance(value, list):
            todo += ((name, inner) for inner in value)
        elif isinstance(value, str) and (path := _path_of(name, value)):
            found[path] = None
        if len(todo) > MOST_TEXTS or len(found) > MOST_TEXTS:
            return None
    return tuple(found)


def _path_of(name: str, text: str) -> str:
    if text.startswith("file:"):
        place = re.sub(r"^file:(//[^/]*)?", "", text).encode("utf-8", "surrogateescape")
        return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), place).decode("utf-8", "replace")
    if len(text) > _LONGEST or "\n" in text or "://" in text:
        return ""
    return text if "/" in text or text.startswith("~") or _FILE_WORDS.search(name) else ""


def read_input(raw: msgspec.Raw) -> tuple[ToolInput, bool]:
    """An input as far as it can be read, and whether that is all of it that we know."""
    try:
        return msgspec.json.decode(raw, type=ToolInput), True
    except UNREADABLE:
        return _piecemeal(raw), False


def describe(raw: msgspec.Raw) -> str:
    """What a tool call is about, in a line; "" if its input says nothing that we know."""
    return read_input(raw)[0].detail
