"""What may be typed, made into values, or refused in one clear line before the daemon is bothered.

Two kinds of thing live here. The `Annotated` types say to cyclopts which flags exist and to `--help` what
they are for; those of commands that start a session are in `option_flags`. The functions check and build:
each raises `UsageError` with what was typed and, where there is one, the nearest thing that would do.

Only what a person or program types is checked here; whether a session exists, the daemon knows.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from cms.cli.declare import Group, Parameter, Token
from cms.errors import UsageError
from cms.units import MAX_TEXT, parse_count, parse_money, parse_seconds

# --- converters: cyclopts calls them, a ValueError becomes "invalid value for --flag: ..." -------


def to_seconds(_: object, tokens: Sequence[Token]) -> float:
    return parse_seconds(tokens[0].value)


def to_money(_: object, tokens: Sequence[Token]) -> float:
    return parse_money(tokens[0].value)


def to_count(_: object, tokens: Sequence[Token]) -> int:
    return parse_count(tokens[0].value)


def parse_since(text: str, now: float) -> float:
    """`7d`, `24h`, `today`, `2026-11-22`, `2026-11-22T08:00` (local time) as seconds since the epoch.

    Raises:
        ValueError: it is none of these.
    """
    if text.casefold() == "today":
        return datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    try:
        if "-" in text:
            return datetime.fromisoformat(text).timestamp()
        return now - parse_seconds(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time: write today, 24h, 7d, or a date like 2026-11-22") from None


def to_since(_: object, tokens: Sequence[Token]) -> float:
    return parse_since(tokens[0].value, time.time())


#: Stands for a lone `-` while cyclopts parses, which would take that for a flag. No argv can hold a NUL.
_HYPHEN = "\0-"


#: Flags that mean something without a value: what, and the values that may follow as a word.
_BARE: Final = {"--isolate": ("auto", ("auto", "overlay", "worktree", "copy", "no"))}
#: Flags whose value may be such a word.
_TAKES_ALL: Final = frozenset(
    {"--message", "--task", "--prompt", "--context", "--system-prompt", "--append-system-prompt"}
)


def mark_hyphens(words: Sequence[str]) -> list[str]:
    """The words with each lone `-` marked, so that it can be an argument (stdin), and bare flags whole."""
    end = words.index("--") if "--" in words else len(words)
    found = [_HYPHEN if word == "-" and place < end else word for place, word in enumerate(words)]
    for place in range(end):
        if found[place] in _BARE and (not place or found[place - 1] not in _TAKES_ALL):
            meant, values = _BARE[found[place]]
            if not set(found[place + 1 : place + 2]) & set(values):
                found[place] += f"={meant}"
    return found


def unmark(word: str) -> str:
    return word.replace(_HYPHEN, "-")


def _word(_: object, tokens: Sequence[Token]) -> str:
    return unmark(tokens[0].value)


def _words(_: object, tokens: Sequence[Token]) -> tuple[str, ...]:
    return tuple(unmark(token.value) for token in tokens)


# --- the flags ------------------------------------------------------------------------------------

#: Of a flag that names none.
NO_GROUP = Group("Flags", sort_key=9)
#: Beside a flag's own group: only `--help-all` shows it.
RARE = Group("(rare)")


def text_flag(
    flag: str, help_text: str, metavar: str = "TEXT", group: Group | None = None, *, rare: bool = False
) -> Parameter:
    """A flag with a text, which may begin with a hyphen: `--message --foo` says "--foo"."""
    return grouped(
        Parameter(
            name=flag,
            help=help_text,
            metavar=metavar,
            converter=_word,
            allow_leading_hyphen=True,
            show_default=_unless_empty,
        ),
        group,
        rare=rare,
    )


def word(help_text: str, metavar: str | None = None) -> Parameter:
    """An argument by its place. `metavar`: what help calls it, if not by its name here."""
    return Parameter(help=help_text, converter=_word, metavar=metavar)


def switch(flag: str, help_text: str, group: Group | None = None, *, rare: bool = False) -> Parameter:
    """A flag without a value."""
    return grouped(Parameter(name=flag, help=help_text, negative=(), show_default=False), group, rare=rare)


def count(flag: str, help_text: str) -> Parameter:
    """A flag with a number from 1 on."""
    return Parameter(name=flag, converter=to_count, metavar="N", help=help_text)


def seconds(flag: str, help_text: str) -> Parameter:
    """A flag with a length of time: 90s, 15m, 2h."""
    return Parameter(name=flag, converter=to_seconds, metavar="TIME", help=help_text)


def follow(help_text: str) -> Parameter:
    """`--follow`, `-f`: go on with what comes."""
    return Parameter(name=("--follow", "-f"), negative=(), show_default=False, help=help_text)


def since(help_text: str) -> Parameter:
    """`--since`: a moment in the past (`to_since`)."""
    return Parameter(name="--since", converter=to_since, metavar="TIME", help=help_text)


def many(flag: str, help_text: str, metavar: str, group: Group | None = None) -> Parameter:
    """A flag that may be given again and again, one value each."""
    return grouped(
        Parameter(
            name=flag,
            help=help_text,
            metavar=metavar,
            converter=_words,
            negative=(),
            allow_leading_hyphen=True,
            show_default=False,
        ),
        group,
    )


def grouped(parameter: Parameter, group: Group | None, *, rare: bool = False) -> Parameter:
    """The flag in a group of the help; None: among the others.

    Args:
        rare: only `--help-all` shows it.
    """
    groups = (*((group,) if group else ()), *((RARE,) if rare else ()))
    return Parameter.combine(parameter, Parameter(group=groups)) if groups else parameter


def _unless_empty(value: object) -> str:
    return str(value) if value else ""


NameWord = Annotated[str | None, word("The session's name.")]
NameFlag = Annotated[
    str | None, text_flag("--name", "The session's name, instead of NAME.", "NAME", rare=True)
]
JsonFlag = Annotated[bool, switch("--json", "Print one JSON object on stdout.")]
#: Of commands that serve until they are ended: they have no answer, only errors.
JsonErrorFlag = Annotated[bool, switch("--json", "Print an error as one JSON object on stdout.")]
StopFlag = Annotated[bool, switch("--stop", "Stop the session after the answer.")]
DetachFlag = Annotated[
    bool, switch("--detach", "Return as soon as the message is stored; do not wait for the answer.")
]
AttachFlag = Annotated[
    tuple[str, ...],
    many("--attach", "Attach an image, a PDF or a text file. Repeatable.", "FILE"),
]
FullFlag = Annotated[bool, switch("--full", "Cut nothing.")]


# --- names and texts, positional or by flag -------------------------------------------------------


def shorten(text: str, limit: int = 60) -> str:
    """For quoting in an error line."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


def usage_hint(command: str, what: str) -> str:
    return f"usage: cms {command} {what} (cms {command} --help)"


def pick_name(command: str, word: str | None, flag: str | None, what: str = "NAME") -> str:
    """The one name of a command that takes nothing else.

    Raises:
        UsageError: missing, or given twice.
    """
    if word is not None and flag is not None:
        raise UsageError(
            f"unexpected argument {shorten(word)!r}: --name was given", hint=usage_hint(command, what)
        )
    name = word if word is not None else flag
    if not name:
        raise UsageError(f"{command} needs the name of a session", hint=usage_hint(command, what))
    return name


def pick_name_and_word(
    command: str, first: str | None, second: str | None, name_flag: str | None, what: str
) -> tuple[str, str | None]:
    """The name and the text of `cms COMMAND NAME TEXT`; with `--name`, of `cms COMMAND TEXT`.

    Raises:
        UsageError: no name, or a word too many.
    """
    usage = f"NAME {what.upper()}"
    if name_flag is None:
        return pick_name(command, first, None, usage), second
    if second is not None:
        raise UsageError(
            f"unexpected argument {shorten(second)!r}: --name was given", hint=usage_hint(command, usage)
        )
    return pick_name(command, None, name_flag, usage), first


def pick_text(
    command: str, what: str, *, word: str | None, flag: str | None, file: str | None, required: bool = True
) -> str | None:
    """The prompt, message or task: a word, a flag's value, a file's content, or (for `-`) stdin.

    Raises:
        UsageError: missing, given twice, empty, not text, or a file that cannot be read.
    """
    given = [value for value in (word, flag, file) if value is not None]
    if len(given) > 1:
        raise UsageError(
            f"the {what} is given twice", hint=f"give it as an argument, with --{what} or with --{what}-file"
        )
    if not given:
        if not required:
            return None
        raise UsageError(f"{command} needs a {what}", hint=usage_hint(command, f"NAME {what.upper()}"))
    text = _read(file, what) if file is not None and file != "-" else given[0]
    if given[0] == "-":
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError:
            raise UsageError(f"the {what} on stdin is not valid UTF-8 text") from None
    if not text.strip():
        raise UsageError(
            f"the {what} is empty", hint=f"say what the session should do, or use --{what}-file FILE"
        )
    if len(text) > MAX_TEXT:
        raise UsageError(f"the {what} is {len(text)} characters long; at most {MAX_TEXT} are allowed")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {what} is not valid UTF-8 text") from None
    return text


def _read(name: str, what: str) -> str:
    path = Path(name).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"--{what}-file: {path} is not valid UTF-8 text") from None
    except FileNotFoundError:
        from cms.folders import nearest_path

        raise UsageError(
            f"--{what}-file: there is no file {path}",
            hint=nearest_path(Path(os.path.abspath(path))),  # noqa: PTH100
        ) from None
    except OSError as error:
        raise UsageError(f"--{what}-file: {path}: {error.strerror}") from None
