"""What could stand next on a command line: behind `cms __complete`, which the shells call on TAB.

The scripts of `cms completion` are a few lines each and hold no knowledge: they hand over the words and show
what comes back, a candidate a line with its description behind a tab, or `@files` and `@dirs`. So they never
grow stale, and all there is to test is here.

A session's name, which is most of what anybody completes, is found without loading the command line (cyclopts
is most of a fast command's time) and without a daemon.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from cms.cli.commands import COMMANDS

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument

_SESSION = {name: command.session for command in COMMANDS for name in command.names}
_LIVE = frozenset({"starting", "ready", "busy", "paused", "attached"})
_SHELLS = ("bash", "zsh", "fish")

Candidate = tuple[str, str]
FILES: Candidate = ("@files", "")
DIRS: Candidate = ("@dirs", "")


def main(words: Sequence[str]) -> int:
    """Print the candidates for the last of the words. Whatever goes wrong, nothing is said."""
    try:
        lines = [f"{value}\t{about}" if about else value for value, about in candidates(words)]
        sys.stdout.buffer.write("".join(f"{line}\n" for line in lines).encode("utf-8", "replace"))
        sys.stdout.flush()
    except Exception:
        # In the middle of somebody's command line there is no place for an error.
        if os.environ.get("CMS_DEBUG"):
            raise
    return 0


def candidates(words: Sequence[str]) -> list[Candidate]:
    """What the last word could become. Only what goes on from what is there."""
    # bash cuts words at `=`; the flag and its value are what is meant.
    given = [word for word in words[:-1] if word != "="]
    current = words[-1] if words and words[-1] != "=" else ""
    before, wanted = "", current
    if current.startswith("--") and "=" in current:
        flag, _, wanted = current.partition("=")
        before, given = flag + "=", [*given, flag]
    found = [(before + value if value[:1] != "@" else value, about) for value, about in _next(given, wanted)]
    return [one for one in found if one[0].startswith(current) or one[0][:1] == "@"]


def _next(given: Sequence[str], wanted: str) -> list[Candidate]:
    command = given[0] if given else ""
    position = len(given) - 1
    if "--" in given:
        return []
    which = _SESSION.get(command, "")
    if (
        which
        and not wanted.startswith("-")
        and not given[-1].startswith("-")
        and (position == 0 or ("many" in which and not _flags_in(given[1:])))
    ):
        return list(_sessions(which, given[1:], wanted))
    if given and given[-1] in ("--name", "--after", "--session"):
        return list(_sessions("any", (), wanted))
    if given and (given[-1] in ("--tag", "--remove") or (command == "tag" and not wanted.startswith("-"))):
        return [one for one in _tags(wanted) if one[0] not in given]
    from cms.cli.parser import build, complete

    app = build()
    complete(app, command)
    return _by_command_line(app, given, wanted)


def _flags_in(words: Sequence[str]) -> bool:
    return any(word.startswith("-") for word in words)


def _sessions(which: str, taken: Sequence[str], start: str) -> Iterator[Candidate]:
    from cms.store.read_only import names_and_statuses

    for name, status in names_and_statuses(_database(), start, _LIVE if "live" in which else ()):
        if name not in taken:
            yield name, status


def _tags(start: str) -> list[Candidate]:
    from cms.store.read_only import tags

    return tags(_database(), start)


def _batches() -> list[Candidate]:
    from cms.store.read_only import batches

    return batches(_database())


def _database() -> str:
    home = os.environ.get("CMS_HOME") or "~/.claude-multi-session"
    return os.path.join(os.path.expanduser(home), "cms.db")  # noqa: PTH111, PTH118 - pathlib is not loaded


def _by_command_line(app: App, given: Sequence[str], wanted: str) -> list[Candidate]:
    words = list(given)
    while words and words[0] in app and not words[0].startswith("-"):
        app = app[words.pop(0)]
    names = [name for name in app if not name.startswith("-")]
    if names and not words and not wanted.startswith("-"):
        return [(name, _first_line(app[name])) for name in sorted(names)]
    if names and app.default_command is None:
        return []
    arguments = list(app.assemble_argument_collection())
    if words and (argument := _valued(arguments, words[-1])) is not None:
        return _values(argument)
    if not wanted.startswith("-"):
        values = [after for word, after in itertools.pairwise(words) if _valued(arguments, word) is not None]
        plain = [word for word in words if not word.startswith("-")]
        return _positional(given, len(plain) - len(values), plain, wanted)
    return [
        (name, " ".join((argument.parameter.help or "").split()))
        for argument in arguments
        for name in argument.names
        if name.startswith("--") and (argument.show or name not in words)
    ] + [("--help", "Explain this command."), ("--help-all", "Explain all of it.")]


def _first_line(app: App) -> str:
    return app.help.strip().split("\n")[0] if app.help else ""


def _valued(arguments: Sequence[Argument], word: str) -> Argument | None:
    """The flag of that name, if it takes a value."""
    for argument in arguments:
        if word in argument.names and word.startswith("-") and argument.token_count()[0]:
            return argument
    return None


def _values(argument: Argument) -> list[Candidate]:
    choices = argument.get_choices()
    if choices:
        return [(choice, "") for choice in choices]
    match argument.names[0]:
        case "--model" | "--fallback-model":
            from cms.units import MODELS

            return [(model, "") for model in MODELS]
        case "--profile":
            return _profiles()
        case "--resume":
            return _batches()
        case "--status":
            from cms.session.model import SessionStatus

            return [(status.value, "") for status in SessionStatus]
        case "--permission-mode":
            from cms.units import PERMISSION_MODES

            return [(mode, "") for mode in PERMISSION_MODES]
        case "--work-dir" | "--add-dir":
            return [DIRS]
        case name if name.endswith("-file") or name in (
            "--file",
            "--data",
            "--settings",
            "--mcp-config",
            "--out",
        ):
            return [FILES]
    return []


def _profiles() -> list[Candidate]:
    from cms.config import load_settings
    from cms.config_file import read_config

    return [(name, "") for name in read_config(load_settings().home).profiles]


def _positional(given: Sequence[str], position: int, words: Sequence[str], wanted: str) -> list[Candidate]:
    """What an argument could be, when flags stand before it, or it is no session's name."""
    command = given[0] if given else ""
    which = _SESSION.get(command, "")
    if which and "--name" not in given and (position == 0 or "many" in which):
        return list(_sessions(which, words, wanted))
    if command == "batch" and position == 0 and len(given) > 1 and not given[1].startswith("-"):
        return _batches()
    if command == "completion" and position == 0:
        return [(shell, "") for shell in _SHELLS]
    if command == "help" and position == 0:
        from cms.cli.parser import build

        return [(name, "") for name in sorted(build()) if not name.startswith("-")]
    return []
