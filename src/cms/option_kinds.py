"""What can be said of an option (`Option`), and how its values are written: a parser for each kind.

The options themselves stand in `options`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, get_args

import msgspec
from msgspec import Meta

from cms import units
from cms.session import lineage
from cms.session.model import PRESETS, Apply, ContainmentLevel, Isolate, OnViolation, Outcome, Preset, Writes

Texts = tuple[str, ...]


class Kind(msgspec.Struct, frozen=True):
    """How a value is written.

    Attributes:
        parse: from a text of the command line, or a value of JSON or TOML. Raises ValueError or BadValue.
        type: what it becomes.
        metavar: what stands for it in the help.
        many: a flag may be given again and again; `parse` gets the texts of all.
        place: it names folders or files: whoever knows the file system makes them absolute, or ("schema")
            reads the file at once. A "repo" may also be a URL.
    """

    parse: Callable[[object], object]
    type: Any
    metavar: str = "TEXT"
    many: bool = False
    place: Literal["", "folder", "file", "schema", "repo"] = ""


def _outcomes(value: object) -> tuple[Outcome, ...]:
    return tuple(Outcome(_RETRYABLE(word)) for word in units.check_rules(value))


_RETRYABLE: Final = units.choice(*sorted(one.value for one in Outcome if one is not Outcome.COMPLETED))
SECONDS: Final = Kind(units.check_seconds, float, "TIME")
MONEY: Final = Kind(units.check_money, float, "USD")
SIZE: Final = Kind(units.check_size, int, "SIZE")
COUNT: Final = Kind(units.check_count, int, "N")
TRIES: Final = Kind(units.check_tries, int, "N")
SWITCH: Final = Kind(units.check_switch, bool)
TEXT: Final = Kind(units.check_word, str)
TEXTS: Final = Kind(units.check_words, Texts, "GLOB", many=True)
TAGS: Final = Kind(units.check_tags, Texts, "TAG", many=True)
RULES: Final = Kind(units.check_rules, Texts, "A,B", many=True)
COMMANDS: Final = Kind(units.check_commands, Texts, "CMD", many=True)
NAME: Final = Kind(units.check_name, str, "NAME")
PROMPT: Final = Kind(units.check_prompt, str)
QUESTION: Final = Kind(units.check_question, str, "PROMPT")
MODEL: Final = Kind(units.check_model, str, "MODEL")
MODE: Final = Kind(units.check_permission_mode, str, "MODE")
OUTCOMES: Final = Kind(_outcomes, tuple[Outcome, ...], "A,B", many=True)
FOLDER: Final = Kind(units.check_word, str, "DIR", place="folder")
REPO: Final = Kind(units.check_word, str, "REPO", place="repo")
FOLDERS: Final = Kind(units.check_words, Texts, "DIR", many=True, place="folder")
FILE: Final = Kind(units.check_word, str, "FILE", place="file")
FILES: Final = Kind(units.check_words, Texts, "FILE", many=True, place="file")
SCHEMA: Final = Kind(units.check_json_text, str, "FILE", place="schema")
PRESET: Final = Kind(units.choice(*PRESETS), Preset, "PRESET")
LEVEL: Final = Kind(units.choice(*get_args(ContainmentLevel)), ContainmentLevel, "LEVEL")
WRITES: Final = Kind(units.choice(*get_args(Writes)), Writes, "WHERE")
ISOLATE: Final = Kind(units.check_isolation, Isolate, "HOW")
APPLY: Final = Kind(units.choice("on-pass"), Apply, "WHEN")
VIOLATION: Final = Kind(units.choice(*get_args(OnViolation)), OnViolation, "WHAT")

Group = Literal["", "batch", "table", "nodes", "task", "limits", "safety", "claude", "news", "telemetry"]
Combine = Literal["later", "adds_up", "own", "stricter"]
#: Who may say it: a command by its flag; [defaults] and profiles ("profile"); a file of tasks, for all of
#: them ("file") or for one ("task"). What MCP tools take says `Option.tool`.
Way = Literal["delegate", "spawn", "continue", "batch", "profile", "file", "task"]
ToolName = Literal["delegate", "spawn", "continue", "batch_start", "task", "batch_requeue"]


class Tool(msgspec.Struct, frozen=True):
    """How MCP tools take an option.

    Attributes:
        description: what a model is told of it.
        on: the tools that take it, each with its own description or "". "task": a task of `batch_start`.
        bounds: of the value, as JSON Schema has them; `each`: of one of several texts.
        key: its name there, where it is not that of files.
        unit: 60: it is given in minutes.
    """

    description: str
    on: Mapping[ToolName, str]
    bounds: Meta = Meta()
    each: Meta = Meta()
    key: str = ""
    unit: float = 1.0


class Option(msgspec.Struct, frozen=True):
    """One option.

    Attributes:
        kind, help: how it is written, and what `--help` says of it.
        default: what holds where nobody says anything, in the words of `--help`, if no number below says it.
        common: the commands with many flags whose short help shows it; elsewhere `--help-all` does.
        flag: by default `--` and the field's name. Without the hyphens it is the key in TOML.
        metavar: by default the kind's.
        group: where `--help` shows it.
        ways: who may say it.
        combine: what several layers say together.
        child: what a session that this one starts may have of it (`lineage`); `noun` is for the error.
        aliases: other keys that mean the same; with `!` in front, the contrary.
        other: another flag for it, and another key in TOML.
        delegation, task: what it is where nobody says anything, if that is not what `session.model` says.
        tool: how MCP tools take it; None: they do not.
        field: of `Layer`, filled in there.
    """

    kind: Kind
    help: str = ""
    flag: str = ""
    metavar: str = ""
    group: Group = ""
    default: str = ""
    common: frozenset[Way] = frozenset()
    ways: frozenset[Way] = frozenset({"delegate", "spawn", "batch", "file", "task", "profile"})
    combine: Combine = "later"
    child: lineage.Child = "own"
    noun: str = ""
    aliases: tuple[str, ...] = ()
    other: str = ""
    delegation: float | int | None = None
    task: float | int | None = None
    tool: Tool | None = None
    field: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags, whether any command takes them or not."""
        first = self.flag or "--" + self.field.replace("_", "-")
        return (first, self.other) if self.other else (first,)

    @property
    def key(self) -> str:
        """The key in JSON."""
        head, *rest = self.field.split("_")
        return head + "".join(part.capitalize() for part in rest)

    def read(self, value: object) -> object:
        """A value from a text of the command line, from JSON or TOML.

        Raises:
            BadValue: it cannot be meant.
        """
        try:
            return self.kind.parse(value)
        except ValueError as error:
            raise units.BadValue(str(error)) from None
