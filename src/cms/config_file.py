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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from cms.errors import HomeUnusable, UsageError
from cms.layers import resolve
from cms.options import OPTIONS, Layer
from cms.session.model import ContainmentLevel
from cms.units import BadValue, meant, parse_seconds, parse_size

NAME = "config.toml"

_TABLES = ("settings", "defaults", "profiles")
_HELP = "`cms config --help-all` shows an example"
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")

S = TypeVar("S", bound="Section")


class Section(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True, omit_defaults=True):
    """A table of the file."""


class FileSettings(Section, frozen=True):
    """`[settings]`: each is overridden by its variable (`cms.config.VARIABLES`)."""

    claude: str | None = None
    max_line: str | int | None = None
    max_raw_log: str | int | None = None
    idle_exit: str | float | None = None  # seconds, or "never"
    start_timeout: str | float | None = None
    grace: str | float | None = None
    containment: str | None = None
    require_containment: ContainmentLevel | None = None
    max_depth: int | None = None
    max_children: int | None = None
    trust: tuple[str, ...] = ()  # has no variable: an environment is too easily another's

    def as_text(self) -> dict[str, str]:
        """What it says, as a variable would: plain seconds and bytes. Raises ValueError."""
        said = {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}
        del said["trust"]
        for key in ("idle_exit", "start_timeout", "grace"):
            if key in said and said[key] != "never":
                said[key] = f"{parse_seconds(str(said[key])):g}"
        for key in ("max_line", "max_raw_log"):
            if key in said:
                said[key] = parse_size(str(said[key]))
        return {key: str(value) for key, value in said.items()}


class ConfigFile(msgspec.Struct, frozen=True):
    """The whole file.

    Attributes:
        defaults: of every new session.
        profiles: by their names; without the defaults.
        written: the tables of both, as they stand in the file.
    """

    settings: FileSettings = FileSettings()
    defaults: Layer = Layer()
    profiles: dict[str, Layer] = {}
    written: dict[str, dict[str, object]] = {}

    def profile(self, name: str) -> Layer:
        """What a new session begins with: the profile of that name over the defaults; "" the defaults alone.

        Raises:
            UsageError: there is none, with the nearest there is.
        """
        if not name:
            return self.defaults
        if name not in self.profiles:
            raise UsageError(f"there is no profile {name!r}", hint=_nearest(name, self.profiles))
        return resolve(self.profiles[name], self.defaults)


def read_config(home: Path) -> ConfigFile:
    """The file of that home; an empty one if there is none.

    Raises:
        UsageError: it makes no sense; the message says where.
        HomeUnusable: it cannot be read.
    """
    path = home / NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ConfigFile()
    except OSError as error:
        raise HomeUnusable(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: {_lower(str(error))}", hint=_HELP) from None
    return parse_config(path, text)[0]


def parse_config(path: Path, text: str) -> tuple[ConfigFile, dict[str, dict[str, object]]]:
    """A file, and its tables as they stand in it.

    Raises:
        UsageError: it makes no sense; the message says where.
    """
    try:
        raw = msgspec.toml.decode(text, type=dict[str, dict[str, object]])
    except msgspec.DecodeError as error:
        raise UsageError(f"{path}: {_lower(str(error))}", hint=_HELP) from None
    for key in raw:
        if key not in _TABLES:
            raise UsageError(f"{path}: there is no table [{key}]", hint=_nearest(key, _TABLES))
    settings = _table(path, "settings", raw.get("settings", {}), FileSettings)
    try:
        settings.as_text()
    except ValueError as error:
        raise UsageError(f"{path}: [settings] {error}") from None
    defaults = raw.get("defaults", {})
    profiles = {
        name: _as_table(path, f"profiles.{name}", one) for name, one in raw.get("profiles", {}).items()
    }
    found = ConfigFile(
        settings=settings,
        defaults=_layer(path, "defaults", defaults),
        profiles={name: _layer(path, f"profiles.{name}", table) for name, table in profiles.items()},
        written={
            **({"defaults": defaults} if defaults else {}),
            **{f"profiles.{name}": table for name, table in profiles.items()},
        },
    )
    return found, raw


def _table(path: Path, where: str, raw: object, kind: type[S]) -> S:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown is None:
            raise UsageError(f"{path}: [{where}] {_lower(str(error))}", hint=_HELP) from None
        key = unknown["field"]
        hint = _nearest(key, kind.__struct_encode_fields__)
        raise UsageError(f"{path}: [{where}] has no key {key!r}", hint=hint) from None


def _as_table(path: Path, where: str, raw: object) -> dict[str, object]:
    try:
        return msgspec.convert(raw, dict[str, object])
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: [{where}] {_lower(str(error))}", hint=_HELP) from None


def _layer(path: Path, where: str, table: Mapping[str, object]) -> Layer:
    said: dict[str, object] = {}
    for key, value in table.items():
        option = KEYS.get(key)
        if option is None or "profile" not in option.ways:
            known = [one for one, other in KEYS.items() if "profile" in other.ways]
            named = option or OPTIONS.get(key)
            typed = named is not None and "profile" not in named.ways
            hint = "it has to be given as a flag each time" if typed else _nearest(key, known)
            raise UsageError(f"{path}: [{where}] has no key {key!r}", hint=hint)
        if option.field in said:
            raise UsageError(f"{path}: [{where}] sets {key} twice, under two names")
        try:
            said[option.field] = option.read(value)
        except BadValue as error:
            raise UsageError(f"{path}: [{where}] {key}: {error.message}", hint=error.hint) from None
    return msgspec.structs.replace(Layer(), **said)


#: The options by their keys. What weakens a session is no key of the file: it is typed each time.
KEYS = {flag.removeprefix("--"): option for option in OPTIONS.values() for flag in option.flags}


def _nearest(word: str, known: Iterable[str]) -> str:
    names = list(known)
    return meant(word, names) if names else "`cms config` shows what is set"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
