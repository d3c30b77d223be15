"""The flags of the commands that start a session, made of `cms.options`.

Apart from `flags` because the fast commands have none of them: some forty flags take 10 ms to define.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar, get_origin

import msgspec
from cyclopts import Group, Parameter, Token

from cms.cli import io
from cms.cli.flags import grouped, switch, text_flag, unmark
from cms.config import load_settings, said_by_person
from cms.folders import Folders, check_folder, flag_of
from cms.layers import resolve, session_options
from cms.option_kinds import MONEY, SECONDS, SWITCH, Option, Way
from cms.options import OPTIONS, Layer
from cms.session.model import SessionOptions
from cms.units import check_name

F = TypeVar("F")

TASK = Group("Task", sort_key=2)
SESSION = Group("Session", sort_key=2)
BATCH = Group("Batch", sort_key=1)
LIMITS = Group("Limits", sort_key=3)
_EACH_TASK = Group("Each task", sort_key=2)
_GROUPS: Final = {
    "batch": BATCH,
    "table": Group("Rows and attempts", sort_key=1.5),
    "nodes": Group("Other machines", sort_key=6),
    "news": Group("Results", sort_key=6.5),
    "limits": LIMITS,
    "safety": Group("Safety", sort_key=4),
    "claude": Group("Passed to claude", sort_key=5),
    "telemetry": Group("Telemetry", sort_key=5.5),
}
#: Where an option stands that has no group of its own.
_OWN: Final[Mapping[Way, Group]] = {
    "delegate": TASK,
    "continue": TASK,
    "spawn": SESSION,
    "batch": _EACH_TASK,
}
_NOTHING: Final = Layer()


def takes(
    way: Way, table: Mapping[str, Option] = OPTIONS, *, defaults: bool = True
) -> Callable[[type[F]], type[F]]:
    """Give a class a field for each flag that a command takes, and make a dataclass of it.

    Without `defaults` the help tells none: what is not given stays as it is.
    """

    def make(flags: type[F]) -> type[F]:
        taken = {field: option for field, option in table.items() if way in option.ways}
        flags.__annotations__ = {
            field: Annotated[
                bool if option.kind is SWITCH else option.kind.type | None,
                _parameter(option, way, defaults=defaults),
            ]
            for field, option in taken.items()
        }
        for field, option in taken.items():
            setattr(flags, field, False if option.kind is SWITCH else None)
        return dataclass(frozen=True, kw_only=True)(flags)

    return make


def typed(flags: object, table: Mapping[str, Option] = OPTIONS) -> dict[str, object]:
    """What was typed, by fields: nothing where nothing was."""
    said: dict[str, object] = {}
    for field, option in table.items():
        value: object = getattr(flags, field, None)
        if option.kind is SWITCH:
            value = not option.flags[0].startswith("--no-") if value else None
        if value is not None:
            said[field] = value
    return said


def _parameter(option: Option, way: Way, *, defaults: bool) -> Parameter:
    names, group = option.flags, _GROUPS.get(option.group) or _OWN.get(way)
    if way == "batch" and option.group == "limits":
        names, group = ("--task-" + names[0].removeprefix("--"),), _EACH_TASK
    rare = way not in option.common and way in ("delegate", "spawn", "batch")
    if option.kind is SWITCH:
        return switch(names[0], option.help, group, rare=rare)
    is_choice = get_origin(option.kind.type) is Literal  # cyclopts knows what to do with these
    default = _default(option, way) if defaults else ""
    flag = Parameter(
        name=names,
        help=option.help,
        metavar=option.metavar or option.kind.metavar,
        converter=None if is_choice else _converter(option),
        negative=(),
        allow_leading_hyphen=option.kind.many or option.kind.type is str,
        show_default=lambda _: default,
    )
    return grouped(flag, group, rare=rare)


def _converter(option: Option) -> Callable[[object, Sequence[Token]], object]:
    def convert(_: object, tokens: Sequence[Token]) -> object:
        texts = tuple(unmark(token.value) for token in tokens)
        return option.kind.parse(texts if option.kind.many else texts[0])

    return convert


def _default(option: Option, way: Way) -> str:
    """What holds where the flag is not given, in words."""
    if way == "continue":
        return ""  # what the session has
    value = {"delegate": option.delegation, "batch": option.task}.get(way)
    if value is None:
        return option.default or ("no limit" if option.group == "limits" else "")
    if option.kind is SECONDS:
        return f"{value / 60:g}m"
    return f"{value:.2f}" if option.kind is MONEY else f"{value:g}"


# --- what was typed -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TypedFlags:
    """What was typed about a session."""

    @property
    def layer(self) -> Layer:
        """What was typed, its folders and files absolute.

        Raises:
            UsageError: one is not there, or a file is none that can be meant.
        """
        return Folders(flag_of).settle(msgspec.structs.replace(Layer(), **typed(self)))


@dataclass(frozen=True, kw_only=True)
class SessionFlags(TypedFlags):
    """What was typed about a session that is to begin."""

    profile: Annotated[
        str, text_flag("--profile", "Use this profile of config.toml (`cms config`).", "NAME", rare=True)
    ] = ""

    @property
    def person(self) -> Layer:
        """What the profile says, the file's defaults, the environment.

        Raises:
            UsageError: there is no such profile, or the file makes no sense.
            HomeUnusable: the file cannot be read.
        """
        return Folders(flag_of).settle(said_by_person(load_settings(), self.profile))

    def options(
        self, name: str, below: Layer = _NOTHING, *, over: Layer = _NOTHING, delegated: bool = False
    ) -> SessionOptions:
        """The options of a session, with what counts less and more than what was typed.

        Raises:
            UsageError, WorkDirError: something typed cannot be meant.
        """
        said = resolve(over, self.layer, self.person, below)
        here = said.work_dir or check_folder("", "--work-dir")
        return session_options(said, check_name(name), here, delegated=delegated)

    def warn(self) -> None:
        """Say loudly what was switched off."""
        said = typed(self)
        if said.get("safety") is False:
            io.warn(
                "cms: safety is OFF: no protected paths, no permission checks (recorded with the session)"
            )
        if said.get("writes") == "anywhere":
            io.warn("cms: --writes anywhere: it can write whatever you can, except protected paths")
        if said.get("permission_mode") == "bypassPermissions":
            io.warn("cms: permission mode bypassPermissions: whatever is not refused is allowed")


@takes("delegate")
class DelegateFlags(SessionFlags):
    """What `delegate` takes."""


@takes("spawn")
class SpawnFlags(SessionFlags):
    """What `spawn` takes."""


_OF_CONVERSATION = msgspec.structs.replace(OPTIONS["work_dir"], default="the conversation's")


# (Here, as the fields of its base are named in words of this module.)
@takes("spawn", {**OPTIONS, "work_dir": _OF_CONVERSATION})
class AdoptFlags(SessionFlags):
    """What `adopt` takes: what a new session does."""


@takes("batch")
class TaskFlags(SessionFlags):
    """What `batch` takes of all its tasks."""


@takes("continue")
class LimitFlags(TypedFlags):
    """What `continue` takes: other limits, and what is to be different from now on."""
