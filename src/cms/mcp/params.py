"""What several tools take: words with their limits, and everything about a new session."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast

import msgspec

from cms.config import said_by_person
from cms.folders import Folders
from cms.layers import DELEGATION, resolve, session_options
from cms.mcp.call import DaemonCall
from cms.mcp.results import described
from cms.mcp.tool import Params
from cms.option_kinds import COMMANDS, FOLDER, SWITCH, TEXT, Kind, Option, Tool, ToolName
from cms.options import OPTIONS, Layer
from cms.session.model import SessionOptions
from cms.units import NAME_PATTERN

A = TypeVar("A", bound="Options")

#: What says nothing, where that is not null. A schema is shorter by it.
_NOTHING: Mapping[Kind, object] = {SWITCH: False, TEXT: "", FOLDER: ""}

LONG_TEXT = 1_000_000  # characters of a prompt: far past what a model can read at once

#: Of a session that is there. (What no person can give, like `fix-auth~judge1`, may be one's name, too.)
Name = Annotated[str, msgspec.Meta(description="The session's name.", min_length=1, max_length=100)]
NewName = Annotated[
    str,
    msgspec.Meta(
        description="A name for the new session, not in use yet; say what it is for, like fix-auth-tests.",
        pattern=NAME_PATTERN,
        min_length=1,
        max_length=64,
        examples=["fix-auth-tests"],
    ),
]
Text = Annotated[str, msgspec.Meta(description="The message.", min_length=1, max_length=LONG_TEXT)]
Model = Annotated[str, msgspec.Meta(pattern=r"^\S+$", max_length=100)]
MaxChars = Annotated[
    int,
    msgspec.Meta(description="Cut the answer's text here; you pay for what you read.", ge=100, le=100_000),
]
Detach = Annotated[
    bool,
    described("Return at once; it works on in the background, also when you have gone. Collect with `wait`."),
]


class Options(Params, frozen=True, kw_only=True):
    """Arguments with options among them: the fields are added by `takes`."""

    #: The options by the fields that they have here.
    taken: ClassVar[Mapping[str, Option]] = {}

    @property
    def layer(self) -> Layer:
        """What was given of the options, its folders absolute.

        Raises:
            UsageError: one is not there.
        """
        said: dict[str, object] = {}
        for field, option in self.taken.items():
            value: object = getattr(self, field)
            if isinstance(value, float) and option.tool is not None:
                value *= option.tool.unit
            if option.kind is COMMANDS and value is not None:
                value = option.read(list(value) if isinstance(value, tuple) else value)
            if value is not None and value != _NOTHING.get(option.kind):
                said[option.field] = value
        return Folders(_key).settle(msgspec.structs.replace(Layer(), **said))


class NewSession(Options, frozen=True, kw_only=True):
    """Arguments of what begins sessions."""

    profile: Annotated[
        str,
        msgspec.Meta(
            description="A profile from the person's config.toml to begin with; what you give counts more.",
            max_length=100,
        ),
    ] = ""

    def person(self, call: DaemonCall) -> Layer:
        """What the person has said beforehand.

        Raises:
            UsageError: there is no such profile, or the person's file makes no sense.
        """
        return Folders(_key).settle(said_by_person(call.settings, self.profile))

    def options(self, call: DaemonCall, name: str, *, delegated: bool) -> SessionOptions:
        """The options of a new session: what was given, then the person's word, then ours.

        Raises:
            UsageError: something cannot be meant.
        """
        said = resolve(self.layer, self.person(call), DELEGATION)
        return session_options(said, name, said.work_dir or str(Path.cwd()), delegated=delegated)


def takes(tool: ToolName) -> Callable[[type[A]], type[A]]:
    """Add the options that a tool takes to its arguments, as the table has them."""

    def make(arguments: type[A]) -> type[A]:
        fields: list[tuple[str, Any, Any]] = []
        taken: dict[str, Option] = {}
        for option in OPTIONS.values():
            if option.tool is None or tool not in option.tool.on:
                continue
            field, key = option.field, _key(option)
            if field in arguments.__struct_fields__:  # of the whole batch; this one is of each task
                field, key = f"task_{field}", f"task{key[0].upper()}{key[1:]}"
            nothing = _NOTHING.get(option.kind)
            kind = _type(option, option.tool, tool)
            kind = kind | None if nothing is None else kind
            fields.append((field, kind, msgspec.field(default=nothing, name=key)))
            taken[field] = option
        name, more = arguments.__name__, {"taken": taken}
        made: Any = msgspec.defstruct(
            name, fields, bases=(arguments,), namespace=more, frozen=True, kw_only=True
        )
        return cast("type[A]", made)  # its base is what it was made of

    return make


def _type(option: Option, said: Tool, tool: ToolName) -> Any:
    """The type of an argument, with all that its schema says."""
    kind = option.kind.type
    if option.kind.many:
        kind = tuple[Annotated[str, said.each], ...]
    return Annotated[kind, said.bounds, msgspec.Meta(description=said.on[tool] or said.description)]


def _key(option: Option) -> str:
    return (option.tool.key if option.tool else "") or option.key


class NameArguments(Params, frozen=True, kw_only=True):
    name: Name
