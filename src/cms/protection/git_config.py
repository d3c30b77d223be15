"""git's configuration files, read without git, which in an agent's folder could run what stands there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

_HEADER: Final = re.compile(r'\[\s*([-.\w]+)\s*(?:"((?:\\.|[^"\\\n])*)")?\s*\]')
_KEY: Final = re.compile(r"([A-Za-z][-A-Za-z0-9]*)[ \t]*(=?)")
_ESCAPES: Final = {"n": "\n", "t": "\t", "b": "\b"}


class Entry(msgspec.Struct, frozen=True):
    """One setting: `section.Subsection.key`, section and key in lower case. A key without a value: ""."""

    key: str
    value: str


def parse(text: str) -> Iterator[Entry]:
    """The settings of a file, in order. A line that git would not take is passed over."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    at, section = 0, ""
    while at < len(text):
        if text[at] in " \t\n\v\f\r":
            at += 1
        elif text[at] in "#;":
            at = _next_line(text, at)
        elif found := _HEADER.match(text, at):
            section, at = _section(found[1], found[2]), found.end()
        elif section and (found := _KEY.match(text, at)):
            value, at = _value(text, found.end()) if found[2] else ("", _next_line(text, found.end()))
            yield Entry(f"{section}.{found[1].lower()}", value)
        else:
            at = _next_line(text, at)


def _next_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _section(name: str, below: str | None) -> str:
    return name.lower() if below is None else f"{name.lower()}." + re.sub(r"\\(.)", r"\1", below)


def _value(text: str, at: int) -> tuple[str, int]:
    """A value that begins at `at`, and where the next line does."""
    value, space, quoted = "", "", False
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\n":
            break
        if char in " \t\v\f\r" and not quoted:
            space += char if value else ""
            continue
        if char in "#;" and not quoted:
            at = _next_line(text, at)
            break
        if char == '"':
            quoted = not quoted
            char = ""
        elif char == "\\":
            char, at = text[at : at + 1], at + 1
            char = "" if char == "\n" else _ESCAPES.get(char, char)
        value, space = value + space + char, ""
    return value, at


def from_environment(environ: Mapping[str, str]) -> Iterator[Entry]:
    """The settings that `GIT_CONFIG_COUNT` and its like hand over, and commands that variables name."""
    count = environ.get("GIT_CONFIG_COUNT", "")
    for number in range(min(int(count), 1000) if count.isdecimal() else 0):
        key = environ.get(f"GIT_CONFIG_KEY_{number}", "")
        yield Entry(_folded(key), environ.get(f"GIT_CONFIG_VALUE_{number}", ""))
    # What `git -c` passes on: 'key=value', or 'key'='value'.
    for key, value in re.findall(r"'([^'=]+)(?:'=')?=?([^']*)'", environ.get("GIT_CONFIG_PARAMETERS", "")):
        yield Entry(_folded(key), value)
    for name, key in _COMMANDS.items():
        if value := environ.get(name, ""):
            yield Entry(key, value)


_COMMANDS: Final = {
    "GIT_SSH_COMMAND": "core.sshcommand",
    "GIT_EDITOR": "core.editor",
    "GIT_SEQUENCE_EDITOR": "sequence.editor",
    "GIT_PAGER": "core.pager",
    "GIT_EXTERNAL_DIFF": "diff.external",
    "GIT_PROXY_COMMAND": "core.gitproxy",
}


def _folded(key: str) -> str:
    section, _, rest = key.partition(".")
    below, dot, name = rest.rpartition(".")
    return f"{section.lower()}.{below}{dot}{name.lower()}"
