"""`cms config`: what holds here, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.config import VARIABLES, Settings, find_claude, load_settings, load_settings_and_file
from cms.config_edit import Place, change, place_of
from cms.config_file import NAME, ConfigFile, read_config
from cms.errors import CmsError, ExitCode, HomeUnusable, UsageError
from cms.json_output import json_object
from cms.session.model import Record

EXAMPLE = """\
# Settings of cms. Every line is commented out; remove the `#` from what you want.
# A flag overrides a profile, a profile overrides [defaults], a CMS_ variable overrides [settings].

[settings]
# claude = "/opt/claude/bin/claude"   # the claude to run
# idle-exit = "10m"                   # an idle daemon leaves after this long; or "never"
# grace = "5s"                        # time for each step of stopping a session
# trust = ["~/src/mine/**"]           # folders whose own configuration may run (`cms trust`)

[defaults]                            # for every spawn and delegate
# model = "sonnet"
# protect = ["deploy/**"]             # also protect these
# protect-read = ["secrets/**"]

# [profiles.night]                    # cms delegate NAME TASK --profile night
# preset = "full"
# max-cost = 5
# max-turns = 200
# max-time = "2h"
# allow = ["Bash(pytest *)"]
# verify = ["pytest -q"]
"""


class ValueView(Record, frozen=True):
    """One setting. `source`: `environment`, `file` or `default`."""

    name: str
    value: str | float | None
    source: str
    variable: str


class ConfigView(Record, frozen=True):
    home: str
    path: str
    exists: bool
    settings: tuple[ValueView, ...]
    defaults: dict[str, object]
    profiles: dict[str, dict[str, object]]


def run(
    *,
    init: Annotated[
        bool, flags.switch("--init", "Write a config.toml to start from, all commented out.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Show the settings, where each comes from, and the profiles.

    The file is config.toml in CMS_HOME. Its keys are the names of flags without the hyphens in front::

        [settings]
        idle-exit = "never"

        [defaults]
        protect = ["deploy/**"]

        [profiles.night]
        preset = "full"
        max-cost = 5
        max-time = "2h"
        allow = ["Bash(pytest *)"]

    A flag overrides the profile that --profile names, and that overrides [defaults]; lists are joined. A CMS_
    variable overrides [settings]. The daemon reads the file when it starts.

    Examples::

        cms config
        cms config set defaults.model opus
        cms config set profiles.night.max-cost 5
        cms config --init
        cms delegate fix-auth "make the login test pass" --profile night
    """
    home = load_settings().home
    path = home / NAME
    if init:
        _write(path)
    view = look(path, read_config(home))
    if json:
        io.show_json(view)
    elif init:
        io.show_lines(
            [f"wrote {path}, every line commented out", "edit it, or use `cms config set KEY VALUE`"]
        )
    else:
        io.show_lines(lines(view))
    return ExitCode.COMPLETED


KeyWord = Annotated[
    str | None, flags.word("Like grace, defaults.model or profiles.night.max-cost; alone: [settings] first.")
]


def set_(
    key: KeyWord = None,
    /,
    *values: Annotated[str, flags.word("The value; several for a list.", "VALUE")],
    json: JsonFlag = False,
) -> int:
    """Set a key of config.toml; the rest of the file stays as it is.

    Examples::

        cms config set grace 10s
        cms config set profiles.night.allow 'Bash(pytest *)' 'Bash(make *)'
    """
    place = place_of(_key("set", key))
    if not values:
        raise UsageError(f"config set needs a value for {place.key}", hint=f"cms config set {key} VALUE")
    return _changed(place, values, json=json)


def unset(key: KeyWord = None, /, *, json: JsonFlag = False) -> int:
    """Remove a key from config.toml.

    Example::

        cms config unset profiles.night.max-cost
    """
    return _changed(place_of(_key("unset", key)), (), json=json)


def get(key: KeyWord = None, /, *, json: JsonFlag = False) -> int:
    """Print the value of one setting or key.

    A setting is printed as it applies, whether it comes from the environment, the file or the default. Exits
    with 1 if a key of [defaults] or of a profile is not set.

    Examples::

        cms config get grace
        cms config get profiles.night.max-cost
    """
    place = place_of(_key("get", key))
    home = load_settings().home
    view = look(home / NAME, read_config(home))
    value: object = None
    source = "file"
    if place.table == "settings":
        one = next(one for one in view.settings if one.name == place.key)
        value, source = one.value, one.source
    else:
        table = view.defaults if place.table == "defaults" else view.profiles.get(place.table[9:], {})
        value = table.get(place.key)
    if json:
        io.show_json(json_object(key=f"{place.table}.{place.key}", value=value, source=source))
    elif value is None:
        raise CmsError(
            f"{place.key} is not set in [{place.table}]",
            hint=f"cms config set {place.table}.{place.key} VALUE",
        )
    else:
        io.show_lines([_shown(value)])
    return ExitCode.COMPLETED if value is not None else ExitCode.FAILED


def _key(command: str, key: str | None) -> str:
    if not key:
        raise UsageError(f"config {command} needs a key", hint=f"cms config {command} defaults.model")
    return key


def _changed(place: Place, values: Sequence[str], *, json: bool) -> int:
    settings = load_settings()
    if settings.inside:
        raise UsageError("a session cannot change settings", hint="ask the person who started it")
    change(settings.home, place, values)
    path = settings.home / NAME
    if json:
        io.show_json(json_object(key=f"{place.table}.{place.key}", path=str(path)))
        return ExitCode.COMPLETED
    told = [f"{'set' if values else 'removed'} {place.key} in [{place.table}] of {path}"]
    if place.table == "settings":
        told.append("a running daemon reads it after `cms daemon stop`")
    io.show_lines(told)
    return ExitCode.COMPLETED


def _write(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(EXAMPLE)
    except FileExistsError:
        raise UsageError(
            f"{path} already exists; it was not changed", hint="edit it, or use `cms config set KEY VALUE`"
        ) from None
    except OSError as error:
        raise HomeUnusable(f"cannot write {path}: {error.strerror}") from None


def look(path: Path, file: ConfigFile) -> ConfigView:
    """Everything that holds, with its source."""
    settings = load_settings_and_file()
    said = file.settings.as_text()
    return ConfigView(
        home=str(path.parent),
        path=str(path),
        exists=path.exists(),
        settings=(*(_setting(settings, name, said) for name in VARIABLES), _trust(settings)),
        defaults=file.written.get("defaults", {}),
        profiles={name: file.written[f"profiles.{name}"] for name in file.profiles},
    )


def _setting(settings: Settings, name: str, said: Mapping[str, str]) -> ValueView:
    variable = VARIABLES[name]
    source = "environment" if os.environ.get(variable) else "file" if name in said else "default"
    return ValueView(name.replace("_", "-"), _value(settings, name), source, variable)


def _trust(settings: Settings) -> ValueView:
    value = ", ".join(settings.trust)
    return ValueView("trust", value or "no folder", "file" if value else "default", "")


def _value(settings: Settings, name: str) -> str | float | None:
    if name == "claude":
        try:
            return " ".join(find_claude(settings))
        except CmsError as error:
            return f"({error.message})"
    if name == "idle_exit" and settings.idle_exit is None:
        return "never"
    if name == "require_containment" and settings.require_containment is None:
        return "no"
    holder: object = settings.child_limits if name in ("max_depth", "max_children") else settings
    value: object = getattr(holder, name)
    return value if isinstance(value, str | int | float) else str(value)


def lines(view: ConfigView) -> list[str]:
    """The settings as a table, then each profile as it stands in the file."""
    found = [f"home   {view.home}", f"file   {view.path}" + ("" if view.exists else " (none yet)"), ""]
    rows = [(one.name, _shown(one.value), _source(one)) for one in view.settings]
    width = max(len(source) for _, _, source in rows)
    longest = max(len(name) for name, _, _ in rows)
    found += [f"{name:<{longest}}  {source:<{width}}  {value}" for name, value, source in rows]
    for title, table in (("[defaults]", view.defaults), *_tables(view)):
        if table:
            found += ["", title, *render.fields((key, _shown(value)) for key, value in table.items())]
    if not view.profiles:
        found += ["", "no profiles; `cms config --help-all` shows how to make one"]
    return found


def _tables(view: ConfigView) -> list[tuple[str, dict[str, object]]]:
    return [(f"[profiles.{name}]", table) for name, table in view.profiles.items()]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(one) for one in value)
    return str(value)


def _source(one: ValueView) -> str:
    return one.variable if one.source == "environment" else one.source
