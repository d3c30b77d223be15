"""`config.toml` in CMS_HOME: settings, defaults for new sessions, and named profiles.

    [settings]                  # what the environment (CMS_GRACE ...) can say as well, and overrides
    grace = "10s"

    [defaults]                  # for every new session, below the flags and the profile
    model = "opus"
    protect = ["deploy/**"]

    [profiles.night]            # cms delegate ... --profile night
    preset = "full"
    max-cost = 5
    max-time = "2h"
    allow = ["Bash(pytest *)"]

Keys are the flags' names without `--`. A profile cannot switch the safety net off: that has to be typed. What
is not known is refused, with the nearest key that is, because a limit that is mistyped must not be no limit.

Apart from `config`, and read only where it matters, because the parser takes as long as a fast command may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from cms.errors import HomeUnusable, UsageError
from cms.session.model import ContainmentLevel, Limits, OnViolation, Preset
from cms.units import parse_seconds, parse_size

NAME = "config.toml"

_HELP = "`cms config --help` shows what a file looks like"
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
#: What weakens a session is said each time, and loudly.
_TYPED = frozenset({"no-safety", "safety", "permission-mode"})

S = TypeVar("S", bound="Section")


class Section(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True, omit_defaults=True):
    """A table of the file."""


class FileSettings(Section, frozen=True):
    """`[settings]`: each is overridden by its variable (`cms.config.VARIABLES`)."""

    claude: str | None = None
    max_line: str | int | None = None
    idle_exit: str | float | None = None  # seconds, or "never"
    start_timeout: str | float | None = None
    grace: str | float | None = None
    containment: str | None = None
    require_containment: ContainmentLevel | None = None
    max_depth: int | None = None
    max_children: int | None = None

    def as_text(self) -> dict[str, str]:
        """What it says, as a variable would: plain seconds and bytes. Raises ValueError."""
        said = {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}
        for key in ("idle_exit", "start_timeout", "grace"):
            if key in said and said[key] != "never":
                said[key] = f"{parse_seconds(str(said[key])):g}"
        if "max_line" in said:
            said["max_line"] = parse_size(str(said["max_line"]))
        return {key: str(value) for key, value in said.items()}


class Profile(Section, frozen=True):
    """What a new session has where no flag says otherwise. Lists are added to the flags' lists."""

    model: str | None = None
    preset: Preset | None = None
    max_cost: float | None = None
    max_turns: int | None = None
    max_time: str | float | None = None
    max_silence: str | float | None = None
    max_tool_calls: int | None = None
    max_repeats: int | None = None
    max_retry_time: str | float | None = None
    max_memory: str | int | None = None
    max_procs: int | None = None
    ask_timeout: str | float | None = None
    on_violation: OnViolation | None = None
    require_containment: ContainmentLevel | None = None
    allow: tuple[str, ...] = ()
    disallowed_tools: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    protect_read: tuple[str, ...] = ()
    allow_write: tuple[str, ...] = ()
    env_deny: tuple[str, ...] = ()
    system_prompt: str | None = None
    append_system_prompt: str | None = None
    agent: str | None = None
    effort: str | None = None
    fallback_model: str | None = None
    add_dir: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()

    def over(self, below: Profile) -> Profile:
        """This profile, and what is below it where it says nothing. Lists are joined, ours first."""
        said = {
            key: (*value, *getattr(below, key)) if isinstance(value, tuple) else value
            for key, value in msgspec.structs.asdict(self).items()
            if value is not None
        }
        return msgspec.structs.replace(below, **said)

    @property
    def limits(self) -> Limits:
        """Its limits, in the units of the model."""
        return Limits(
            max_cost=self.max_cost,
            max_turns=self.max_turns,
            max_time=seconds(self.max_time),
            max_silence=seconds(self.max_silence),
            max_tool_calls=self.max_tool_calls,
            max_repeats=self.max_repeats,
            max_retry_time=seconds(self.max_retry_time),
            max_memory=size(self.max_memory),
            max_procs=self.max_procs,
        )


class ConfigFile(Section, frozen=True):
    """The whole file."""

    settings: FileSettings = FileSettings()
    defaults: Profile = Profile()
    profiles: dict[str, Profile] = {}

    def profile(self, name: str) -> Profile:
        """What a new session begins with: the profile of that name over the defaults; "" the defaults alone.

        Raises:
            UsageError: there is none, with the nearest there is.
        """
        if not name:
            return self.defaults
        if name not in self.profiles:
            raise UsageError(f"there is no profile {name!r}", hint=_nearest(name, self.profiles))
        return self.profiles[name].over(self.defaults)


def seconds(value: str | float | None) -> float | None:
    """A duration of the file. Raises ValueError."""
    return None if value is None else parse_seconds(str(value))


def size(value: str | int | None) -> int | None:
    """A size of the file. Raises ValueError."""
    return None if value is None else parse_size(str(value))


def read_config(home: Path) -> ConfigFile:
    """The file of that home; an empty one if there is none.

    Raises:
        UsageError: it makes no sense; the message says where.
        HomeUnusable: it cannot be read.
    """
    path = home / NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return ConfigFile()
    except OSError as error:
        raise HomeUnusable(f"cannot read {path}: {error.strerror or error}") from error
    try:
        raw = msgspec.toml.decode(text, type=dict[str, dict[str, object]])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {_lower(str(error))}", hint=_HELP) from None
    for key in raw:
        if key not in ConfigFile.__struct_fields__:
            raise UsageError(f"{path}: there is no table [{key}]", hint=_nearest(key, ConfigFile))
    settings = _table(path, "settings", raw.get("settings", {}), FileSettings)
    try:
        settings.as_text()
    except ValueError as error:
        raise UsageError(f"{path}: [settings] {error}") from None
    return ConfigFile(
        settings=settings,
        defaults=_profile(path, "defaults", raw.get("defaults", {})),
        profiles={
            name: _profile(path, f"profiles.{name}", table) for name, table in raw.get("profiles", {}).items()
        },
    )


def _table(path: Path, where: str, raw: object, kind: type[S]) -> S:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown is None:
            raise UsageError(f"{path}: [{where}] {_lower(str(error))}", hint=_HELP) from None
        key = unknown["field"]
        hint = "that has to be typed each time" if key in _TYPED else _nearest(key, kind)
        raise UsageError(f"{path}: [{where}] knows no {key!r}", hint=hint) from None


def _profile(path: Path, where: str, raw: object) -> Profile:
    profile = _table(path, where, raw, Profile)
    _check(path, where, profile)
    return profile


def _check(path: Path, where: str, profile: Profile) -> None:
    """What the types do not say: a limit must be one that `--max-...` would take."""
    try:
        limits = profile.limits
        seconds(profile.ask_timeout)
    except ValueError as error:
        raise UsageError(f"{path}: [{where}] {error}") from None
    for key, value in msgspec.structs.asdict(limits).items():
        if isinstance(value, int | float) and not 0 < value < float("inf"):
            raise UsageError(f"{path}: [{where}] {key.replace('_', '-')} must be more than 0")


def _nearest(word: str, known: type[Section] | Mapping[str, object]) -> str:
    import difflib

    names = list(known) if isinstance(known, Mapping) else list(known.__struct_encode_fields__)
    near = difflib.get_close_matches(word, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "`cms config` shows what there is"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
