"""What the system's own schedulers are told: words and times as systemd and cron write them."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cms.errors import UsageError

_DAYS: Final = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
#: The fields of a cron line: what each is called, its bounds.
_FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
)
_WORDS: Final = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1"}
_FORMS: Final = "daily, hourly, weekly, 02:00, 'mon-fri 02:00', or a cron line like '0 2 * * 1-5'"
_AT: Final = re.compile(r"(?:([a-z,-]+)\s+)?(\d{1,2}):(\d{2})")
#: What a schedule may put into a word when its time has come, and how a shell says it.
PLACES: Final = {"{date}": "$(date +%Y-%m-%d)", "{time}": "$(date +%H%M)"}


# --- words ------------------------------------------------------------------------------------------


def quoted(text: str) -> str:
    """A word of a unit file that stays one word, and means nothing else (`%`). See `exec_word`."""
    text = text.replace("%", "%%")
    if re.fullmatch(r"[\w%@:,./=+-]+", text, re.ASCII):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text) + '"'


def exec_word(text: str) -> str:
    """A word of an `ExecStart` line, where a `$` would be a variable, too."""
    return quoted(text.replace("$", "$$"))


def shell_line(words: Sequence[str]) -> str:
    """Words as a shell reads them, with the places (`PLACES`) as what it is to put there."""
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    parts = re.split(f"({'|'.join(map(re.escape, PLACES))})", word)
    if len(parts) == 1:
        return shlex.quote(word)
    return "".join(f'"{PLACES[part]}"' if part in PLACES else shlex.quote(part) for part in parts if part)


def user_unit(template: str, name: str, environ: Mapping[str, str]) -> str:
    """A user unit that runs cms, for this environment's home, with this very Python.

    Args:
        template: with `{path}` of the unit's own file, `{command}` and `{environment}`.
    """
    home = environ.get("CMS_HOME", "")
    home = os.path.abspath(home) if home else ""  # noqa: PTH100 - links stay as they are written
    return template.format(
        path=f"~/.config/systemd/user/{name}.service",
        command=f"{exec_word(sys.executable)} -P -m cms",
        environment=f"Environment={quoted(f'CMS_HOME={home}')}\n" if home else "",
    )


# --- times ------------------------------------------------------------------------------------------


class When(NamedTuple):
    """When something is to be done, by cron's five fields."""

    minute: str
    hour: str
    day: str
    month: str
    weekday: str

    @property
    def cron(self) -> str:
        return " ".join(self)

    @property
    def calendar(self) -> str:
        """The same as an `OnCalendar` of systemd."""
        minute, hour, day, month = (
            _listed(field, least, most) for field, (_, least, most) in zip(self[:4], _FIELDS[:4], strict=True)
        )
        days = sorted({number % 7 for part in self.weekday.split(",") for number in _numbers(part, 0, 6)})
        names = "" if len(days) == len(_DAYS) else ",".join(_DAYS[number] for number in days) + " "
        return f"{names}*-{month}-{day} {hour}:{minute}:00"


def parse_when(text: str) -> When:
    """`daily`, `02:00`, `mon-fri 02:00`, or a line of cron.

    Raises:
        UsageError: it is no time, or one that systemd and cron would not read alike.
    """
    said = " ".join(text.lower().split())
    said = _WORDS.get(said, said)
    if at := _AT.fullmatch(said):
        said = f"{int(at[3])} {int(at[2])} * * {at[1] or '*'}"
    fields = said.split(" ")
    if len(fields) != len(_FIELDS):
        raise UsageError(f"{text!r} is not a time to schedule", hint=_FORMS)
    fields[4] = re.sub(r"-sun\b", "-7", fields[4])
    for number, day in enumerate(_DAYS):
        fields[4] = re.sub(rf"\b{day.lower()}\b", str(number), fields[4])
    for field, (name, least, most) in zip(fields, _FIELDS, strict=True):
        for part in field.split(","):
            if not _is_field(part, least, most):
                raise UsageError(f"{text!r} is not a time to schedule: {part!r} is no {name}", hint=_FORMS)
    when = When(*fields)
    if when.day != "*" and when.weekday != "*":
        # For cron the one or the other, for systemd both.
        raise UsageError(f"{text!r} has a day of the month and a weekday", hint="schedule it twice")
    return when


_PART: Final = re.compile(r"(\*|\d{1,2}(?:-\d{1,2})?)(?:/(\d{1,2}))?")


def _is_field(part: str, least: int, most: int) -> bool:
    found = _PART.fullmatch(part)
    if found is None or (found[2] is not None and (not int(found[2]) or found[1].isdigit())):
        return False
    bounds = [int(number) for number in found[1].split("-") if number != "*"]
    return all(least <= number <= most for number in bounds) and bounds == sorted(bounds)


def _numbers(part: str, least: int, most: int) -> range:
    found = _PART.fullmatch(part)
    assert found is not None  # noqa: S101 - `parse_when` has looked
    first, _, last = found[1].partition("-")
    start = least if first == "*" else int(first)
    end = most if first == "*" else int(last or first)
    return range(start, end + 1, int(found[2] or 1))


def _listed(field: str, least: int, most: int) -> str:
    """A field number by number: systemd has steps and ranges, too, but takes fewer of them than cron."""
    numbers = {number for part in field.split(",") for number in _numbers(part, least, most)}
    return "*" if len(numbers) == most - least + 1 else ",".join(map(str, sorted(numbers)))


# --- units ------------------------------------------------------------------------------------------


_SERVICE: Final = """\
[Unit]
Description={about}
# If `cms daemon unit` is installed: the sessions run there.
Wants=cms.service
After=cms.service

[Service]
Type=oneshot
WorkingDirectory={folder}
{environment}ExecStart={command}
# Else the command starts a daemon, which others may use when this has ended.
KillMode=process
"""
_TIMER: Final = """\
[Unit]
Description={about}

[Timer]
OnCalendar={calendar}
{persistent}
[Install]
WantedBy=timers.target
"""


def service(words: Sequence[str], *, about: str, folder: str, environ: Mapping[str, str]) -> str:
    """The text of a unit that does a command once."""
    if any(place in word for word in words for place in PLACES):
        words = ["/bin/sh", "-c", f"exec {shell_line(words)}"]
    return _SERVICE.format(
        about=_about(about),
        folder=folder.replace("%", "%%"),
        environment="".join(f"Environment={quoted(f'{key}={value}')}\n" for key, value in environ.items()),
        command=" ".join(map(exec_word, words)),
    )


def timer(name: str, when: When, *, catch_up: bool) -> str:
    """The text of a timer for the unit of that name. `catch_up`: what was missed is done later."""
    persistent = "# What was missed while the machine was off is done when it is on again.\nPersistent=true\n"
    return _TIMER.format(
        about=f"When {name}.service runs", calendar=when.calendar, persistent=persistent if catch_up else ""
    )


def _about(text: str) -> str:
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[:80]
    return text.replace("\\", "/").replace("%", "%%")


def cron_line(words: Sequence[str], when: When, *, folder: str, environ: Mapping[str, str]) -> str:
    """The line of a crontab that does a command.

    Raises:
        UsageError: it has a line break: a crontab has none.
    """
    said = " ".join(f"{key}={shlex.quote(value)}" for key, value in environ.items())
    line = f"cd {shlex.quote(folder)} && {said} {shell_line(words)}"
    if "\n" in line or "\r" in line:
        raise UsageError("a line of a crontab has no line break", hint="put the text in a file: --task-file")
    return f"{when.cron} {line.replace('%', chr(92) + '%')}"
