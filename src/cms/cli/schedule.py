"""`cms schedule`: a command of cms at its time, by the system's own scheduler: systemd's timers, or cron."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cms import systemd
from cms.cli import flags, io, parser
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object
from cms.units import check_name

_USAGE = "NAME WHEN -- COMMAND..."
#: What a command needs of the environment to find the same home, claude and git as here.
_KEPT = ("CMS_HOME", "CMS_CLAUDE", "PATH")
_END = "CMS_END"


def schedule(
    name: Annotated[str, flags.word("The timer's name.")],
    when: Annotated[
        str, flags.word("daily, hourly, weekly, 02:00, 'mon-fri 02:00', or a cron line: '0 2 * * 1-5'.")
    ],
    /,
    *command: Annotated[str, flags.word("The cms command, after `--`.")],
    cron: Annotated[bool, flags.switch("--cron", "Print a line for a crontab instead.")] = False,
    catch_up: Annotated[
        bool, flags.switch("--catch-up", "Run what was missed while the machine was off.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Print a systemd timer or cron line for a cms command.

    Nothing is installed: what is printed is a shell script that writes a systemd timer and its service, and
    enables them; with --cron, a line for a crontab. The command runs in this folder with this CMS_HOME and
    PATH; no secret is written down. {date} and {time} stand for when it starts, as a session needs a new name
    each time.

    Examples::

        cms schedule nightly 02:00 -- batch --file tasks.jsonl --max-cost 20 | sh
        cms schedule sort 'mon-fri 8:30' -- delegate 'sort-{date}' "Sort the issues"
        cms schedule costs weekly --cron -- cost --by day --since 7d
    """
    check_name(name)
    at = systemd.parse_when(when)
    if cron and catch_up:
        raise UsageError("--catch-up needs systemd; cron does not remember what it missed")
    _check(command)
    words = [sys.executable, "-P", "-m", "cms", *command]
    folder = str(Path.cwd())
    if not folder.isprintable() or folder != folder.strip():
        raise UsageError(f"the name of this folder, {folder!r}, cannot be written in a unit or a crontab")
    environ = {key: os.environ[key] for key in _KEPT if os.environ.get(key)}
    if home := environ.get("CMS_HOME"):
        environ["CMS_HOME"] = os.path.abspath(home)  # noqa: PTH100 - links stay as they are written
    if cron:
        line = systemd.cron_line(words, at, folder=folder, environ=environ)
        if json:
            io.show_json(json_object(name=name, cron=line))
        else:
            io.show_lines([f"# cms {name}; add it with `crontab -e`", line])
        return ExitCode.COMPLETED
    unit = f"cms-{name}"
    files = {
        f"{unit}.service": systemd.service(
            words, about=f"cms {' '.join(command)}", folder=folder, environ=environ
        ),
        f"{unit}.timer": systemd.timer(unit, at, catch_up=catch_up),
    }
    enable = ["systemctl --user daemon-reload", f"systemctl --user enable --now {unit}.timer"]
    if json:
        units = [{"name": file, "text": text} for file, text in files.items()]
        io.show_json(json_object(name=name, calendar=at.calendar, units=units, enable=enable))
    else:
        io.show(_script(unit, files, enable))
    return ExitCode.COMPLETED


def _check(command: tuple[str, ...]) -> None:
    """Fails if the command would be refused, or means what is here now."""
    if not command:
        raise UsageError("schedule needs a command", hint=flags.usage_hint("schedule", _USAGE))
    words = [*command]
    for place in systemd.PLACES:
        words = [word.replace(place, "1") for word in words]
    try:
        "".join(command).encode()
    except UnicodeEncodeError:
        raise UsageError("the command is not valid UTF-8 text") from None
    if "-" in words:
        raise UsageError("nothing is on stdin then", hint="put the text in a file: --task-file, --file")
    parser.find(words)


def _script(unit: str, files: dict[str, str], enable: list[str]) -> str:
    folder = '"${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user"'
    lines = [
        "# Read this, then run the command again with `| sh` at the end.",
        f"# Its runs:   systemctl --user list-timers {unit}.timer",
        f"# Its output: journalctl --user -u {unit}.service",
        f"# To end it:  systemctl --user disable --now {unit}.timer",
        "# To run while you are logged out: loginctl enable-linger",
        "set -e",
        f"mkdir -p {folder}",
    ]
    for file, text in files.items():
        lines += [f"cat > {folder}/{file} <<'{_END}'", text.rstrip("\n"), _END]
    return "\n".join([*lines, *enable]) + "\n"
