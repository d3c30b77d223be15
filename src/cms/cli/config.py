"""`cms config`: what holds here, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.config import VARIABLES, Settings, find_claude, load_settings, load_settings_and_file
from cms.config_file import NAME, ConfigFile, read_config
from cms.errors import CmsError, ExitCode, HomeUnusable, UsageError
from cms.session.model import Record

EXAMPLE = """\
# Settings of cms. Every line here is a comment; take the `#` away from what you want.
# A flag stands over a profile, a profile over [defaults], a CMS_ variable over [settings].

[settings]
# claude = "/opt/claude/bin/claude"   # the claude to run
# idle-exit = "10m"                   # when an idle daemon leaves; "never"
# grace = "5s"                        # what each step of the stop ladder gets
# trust = ["~/src/mine/**"]           # folders whose own configuration may run (`cms trust`)

[defaults]                            # for every spawn and delegate
# model = "sonnet"
# protect = ["deploy/**"]             # one more protected path
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


def config(
    *,
    init: Annotated[
        bool, flags.switch("--init", "Write a config.toml to start from, all commented out.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Show the settings, where each comes from, and the profiles.

    The file is config.toml in CMS_HOME. In it, keys are the flags' names without the hyphens in front::

        [settings]
        idle-exit = "never"

        [defaults]
        protect = ["deploy/**"]

        [profiles.night]
        preset = "full"
        max-cost = 5
        max-time = "2h"
        allow = ["Bash(pytest *)"]

    A flag stands over the profile that --profile names (spawn, delegate), that over [defaults]; lists are
    joined. A CMS_ variable stands over [settings]. A daemon reads the file when it starts.

    Examples::

        cms config
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
    else:
        io.show_lines(lines(view))
    return ExitCode.COMPLETED


def _write(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(EXAMPLE)
    except FileExistsError:
        raise UsageError(f"{path} is there already", hint="edit it; it was not changed") from None
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
        found += ["", "no profiles: cms config --help shows how to make one"]
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
