"""The command line as cyclopts reads it: all of it, its help, and its errors in our words.

Commands are named as strings, `module:function`: cyclopts imports a command's module when that command is
called, so `cms daemon` does not pay for `delegate`. cyclopts itself is two thirds of what a fast command
would take; a plain line does without it (`cms.cli.quick`). Help is ours (`cms.cli.help`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from itertools import takewhile
from typing import Literal, get_args, get_origin

from cyclopts import App, CycloptsError, Group, UnknownCommandError
from cyclopts.exceptions import CoercionError, MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from cms._version import __version__
from cms.cli import io
from cms.cli.commands import COMMANDS, FAMILIES
from cms.cli.flags import NO_GROUP, mark_hyphens, shorten, unmark
from cms.cli.help import explain
from cms.errors import ExitCode, UsageError
from cms.units import meant, nearest


def build() -> App:
    """The whole command line. Cheap: nothing but names."""
    app = App(
        name="cms",
        help="Run many Claude Code sessions under limits, in containers, alone or in batches.",
        usage="cms COMMAND [arguments] [flags]",
        help_flags=(),
        version_flags=(),
        group_arguments=Group("Arguments", sort_key=0),
        group_parameters=NO_GROUP,
        print_error=False,
        exit_on_error=False,
    )
    for names, target, usage, *_ in COMMANDS:
        app.command(target, name=names, usage=_forms(names[0], usage))
    for family, (text, _, commands) in FAMILIES.items():
        parent = App(name=family, help=text, usage=f"cms {family} COMMAND [flags]")
        app.command(parent)
        for name, target, usage in commands:
            parent.command(target, name=name, usage=_forms(f"{family} {name}", usage))
    return app


def _forms(command: str, usage: str) -> str:
    """The usual forms of a command, a line each."""
    return "\n".join(f"cms {command} {form}".rstrip() for form in usage.split("\n"))


#: Families that are commands as well (`run` in their module), and what follows the name.
BOTH = {
    "batch": "--file FILE [flags]\n--data TABLE --prompt TEXT [flags]\n--resume ID [flags]",
    "node": "--on URL [flags]\n--dev-server [flags]",
    "config": "[flags]\nset KEY VALUE\nget KEY",
}


#: What commands call the text that they are given.
_TEXTS = ("task", "prompt", "message")
#: What is no command of a family, but is looked for there, and the one that does it.
_ELSEWHERE = {"batch": {"list": "cms batches", "status": "cms batch show ID"}, "node": {"list": "cms fleet"}}
_BY_FLAG = {"batch": "give the file with --file; ", "node": "give the engine with --on; "}


def complete(app: App, family: str) -> None:
    """Make the family's own command. Not in `build`: its function is wanted at once."""
    if family not in BOTH:
        return
    run = import_module(f"cms.cli.{family}").run
    children = app[family]
    children.default(run)
    children.help = run.__doc__
    children.usage = _forms(family, BOTH[family])


def find(words: list[str]) -> Callable[[], object]:
    """The call that a command line stands for.

    Raises:
        UsageError: it stands for none.
    """
    flags = words[: words.index("--")] if "--" in words else words
    json = "--json" in flags
    if not {"-h", "--help", "--help-all"}.isdisjoint(flags) or set(words) <= {"--json"}:
        path = list(takewhile(lambda word: not word.startswith("-"), words))
        whole = "--help-all" in flags
        if path[:1] == ["help"] and whole:
            path = path[1:]
        return partial(explain, path, whole=whole, json=json)
    if words[:1] == ["--version"]:
        return partial(_show_version, json=json)
    app = build()
    complete(app, words[0])
    try:
        command, bound, _ = app.parse_args(mark_hyphens(words))
    except CycloptsError as error:
        raise _explain(error, app) from None
    return lambda: command(*bound.args, **bound.kwargs)


def _show_version(*, json: bool) -> int:
    if json:
        io.show_json({"version": __version__})
    else:
        io.show_lines([__version__])
    return ExitCode.COMPLETED


# --- usage errors ---------------------------------------------------------------------------------


def check_command(app: App, word: str) -> str:
    """The word, if it is a command.

    Raises:
        UsageError: with the nearest command.
    """
    names = [name for name in app if not name.startswith("-")]
    if word in names:
        return word
    raise _unknown("command", word, names, "`cms help` lists all commands")


def _same_text(word: str, known: Sequence[str]) -> str:
    """The flag by which this command takes its text, for one by which another does; else ""."""
    for suffix in ("", "-file"):
        names = [f"--{text}{suffix}" for text in _TEXTS]
        if word in names:
            return next((name for name in names if name in known), "")
    return ""


def _unknown(what: str, word: str, names: Sequence[str], otherwise: str, *, near: str = "") -> UsageError:
    near = near or nearest(word, names)
    return UsageError(
        f"unknown {what} {shorten(word)!r}",
        hint=f"did you mean {near!r}? {otherwise}" if near else otherwise,
    )


def _explain(error: CycloptsError, app: App) -> UsageError:
    """A parse error of cyclopts in our words: what was typed, and the nearest thing that would do."""
    chain = " ".join(error.command_chain or ())
    ask = f"`cms {chain} --help` lists its flags" if chain else "`cms help` lists all commands"
    if isinstance(error, UnknownCommandError):
        word = unmark((error.unused_tokens or ["?"])[0])
        parent = error.app or app
        ask = ask.replace("its flags", "its commands")
        if word.startswith("-"):
            return _unknown("flag", word, ("--help", "--help-all", "--version"), ask)
        return _unknown("command", word, [name for name in parent if not name.startswith("-")], ask)
    if isinstance(error, UnknownOptionError):
        known = [
            name for argument in error.argument_collection for name in argument.names if name[:2] == "--"
        ]
        word = error.token.keyword or error.token.value
        if chain == "schedule":
            ask = "the command goes after `--`: cms schedule NAME WHEN -- COMMAND..."
        if " " in word:
            return UsageError(
                f"unknown flag {shorten(word)!r}", hint="put a text that begins with a hyphen after `--`"
            )
        return _unknown("flag", word, [*known, "--help"], ask, near=_same_text(word, known))
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return UsageError(f"{error.keyword or error.argument.name} needs a value", hint=ask)
    if isinstance(error, UnusedCliTokensError):
        word = unmark((error.unused_tokens or ["?"])[0])
        if chain in BOTH:
            names = [name for name, *_ in FAMILIES[chain][2]]
            elsewhere = _ELSEWHERE.get(chain, {})
            found = nearest(word, [*names, *elsewhere])
            if found in elsewhere:
                return UsageError(
                    f"unknown command {shorten(word)!r}", hint=f"did you mean `{elsewhere[found]}`? {ask}"
                )
            if found:
                return _unknown("command", word, names, ask)
            hint = _BY_FLAG.get(chain, "")
        else:
            hint = "quote a text of several words; "
        return UsageError(f"unexpected argument {shorten(word)!r}", hint=hint + ask)
    if (
        isinstance(error, CoercionError)
        and error.token is not None
        and get_origin(error.target_type) is Literal
    ):
        choices = [str(choice) for choice in get_args(error.target_type)]
        return UsageError(
            f"{error.token.keyword} cannot be {shorten(error.token.value)!r}",
            hint=meant(error.token.value, choices),
        )
    text = str(error).strip()
    return UsageError(text[:1].lower() + text[1:].rstrip("."), hint=ask)
