"""The help of every command: one page, made of what the command declares, in a short and a whole form.

`cms help CMD`, `cms CMD --help`, `--help-all` and their `--json` all come from `page_of`. The short form fits
a screen: the purpose, the usual forms, the common flags with their defaults, two examples. Text is ASCII, so
that it reads the same in any locale and in a screen reader; bold and colour only on a terminal.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

from msgspec.structs import replace

from cms.cli import flags, io
from cms.cli.flags import JsonFlag
from cms.cli.render import paint
from cms.cli.terminal import Style, columns
from cms.errors import ExitCode
from cms.session.model import Record

if TYPE_CHECKING:
    from cyclopts import App
    from cyclopts.argument import Argument

#: No line is longer, however wide the terminal: longer ones are hard to read.
_WIDEST: Final = 100
#: Labels longer than this get a line of their own.
_LABEL: Final = 27
_EXAMPLES: Final = 2
#: Where flags without a group stand: behind those that have one.
_LAST: Final = 9

_HEADING, _LITERAL, _VALUE, _FAINT = "1;32", "1;36", "36", "2"

_PRESETS: Final = """\
Presets (--preset of delegate, spawn and batch):
  read-only  search and read files
  review     the same, asked to report findings
  edit       also edit files and run read-only commands (the default)
  full       everything, inside its container
  plan       explore and write a plan, change nothing
"""
_EXIT_CODES: Final = """\
Exit codes:
   0 completed        4 cost_exceeded    8 verification_failed   12 stalled
   1 failed           5 turns_exceeded   9 rate_limited         130 interrupted
   2 usage error      6 time_exceeded   10 not_found
   3 needs_input      7 protected_path  11 daemon unavailable
"""
_PLACES: Final = """\
A text that begins with a hyphen goes after `--`: cms send NAME -- "--why?"
State is kept in ~/.claude-multi-session (CMS_HOME). CMS_CLAUDE names the claude
to run; without it, the one on PATH or in the claude-agent-sdk wheel is used.
"""
_MORE_ALL: Final = ("`cms help COMMAND` explains a command. Every command takes --json.",)
_MORE: Final = (
    *_MORE_ALL,
    "`cms --help-all` explains every command, the presets and the exit codes.",
)


class Flag(Record, frozen=True):
    """A flag or an argument. `group`: the heading it stands under; `common`: the short form shows it."""

    names: tuple[str, ...]
    value: str = ""
    help: str = ""
    default: str = ""
    choices: tuple[str, ...] = ()
    group: str = ""
    common: bool = True


class Named(Record, frozen=True):
    """A command and what it is for."""

    name: str
    purpose: str
    group: str = ""
    common: bool = True


class Page(Record, frozen=True):
    """All that help can say of a command. `text`: the paragraphs of the whole form."""

    command: str
    purpose: str
    usage: tuple[str, ...]
    arguments: tuple[Flag, ...] = ()
    flags: tuple[Flag, ...] = ()
    commands: tuple[Named, ...] = ()
    examples: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


def help_(
    *command: Annotated[str, flags.word("The command to explain.")],
    man: Annotated[bool, flags.switch("--man", "Print a manual page, for man(1).")] = False,
    json: JsonFlag = False,
) -> int:
    """Explain cms, or one command.

    Examples::

        cms help delegate
        cms help batch show
        cms help delegate --man | man -l -
    """
    return explain(command, json=json, man=man)


def explain(path: Sequence[str], *, whole: bool = False, json: bool = False, man: bool = False) -> int:
    """Print the help of a command, or of cms itself for an empty path.

    Raises:
        UsageError: there is no such command.
    """
    page = page_of(path)
    if json:
        io.show_json(page)
        return ExitCode.COMPLETED
    if man:
        from cms.cli.manual import roff

        more = {"PRESETS": _PRESETS, "EXIT STATUS": _EXIT_CODES, "NOTES": _PLACES}
        io.show_lines(roff(page, {} if path else {head: _body(text) for head, text in more.items()}))
        return ExitCode.COMPLETED
    style = io.out_style()
    width = min(columns(sys.stdout, os.environ), _WIDEST)
    io.show_lines(lines(page, style, width, whole=whole) if path else overview(page, style, width, whole))
    return ExitCode.COMPLETED


def _body(block: str) -> str:
    """A block without the line that is its heading."""
    return block.partition(":\n")[2] or block


# --- from declarations to a page ------------------------------------------------------------------


def page_of(path: Sequence[str]) -> Page:
    """The help of one command.

    Raises:
        UsageError: there is no such command.
    """
    from cms.cli.parser import build, check_command, complete

    app = build()
    complete(app, path[0] if path else "")
    found: list[str] = []
    for word in path:
        if found and not any(not name.startswith("-") for name in app):
            break  # `cms delegate NAME --help`: what follows a command is its own
        app = app[check_command(app, word)]
        found.append(word)
    purpose, text, examples = _sections(app.help or "")
    arguments, options = _declared(app)
    return Page(
        command=" ".join(("cms", *found)),
        purpose=purpose,
        usage=tuple(line.strip() for line in str(app.usage or "").splitlines()),
        arguments=tuple(arguments),
        flags=tuple(options),
        commands=tuple(_commands(app)),
        examples=tuple(examples),
        text=tuple(text),
    )


def _sections(text: str) -> tuple[str, list[str], list[str]]:
    """A docstring as its purpose, its paragraphs, its examples."""
    purpose, *rest = inspect.cleandoc(text).split("\n\n")
    told: list[str] = []
    examples: list[str] = []
    places = iter(rest)
    for paragraph in places:
        if paragraph.strip() in ("Examples::", "Example::"):
            examples = [line.strip() for line in next(places, "").splitlines()]
        elif paragraph.startswith(" "):
            told.append(paragraph)
        else:
            told.append(" ".join(paragraph.replace("::", ":").split()))
    return " ".join(purpose.split()), told, examples


def _declared(app: App) -> tuple[list[Flag], list[Flag]]:
    """What a command takes: arguments, and flags in the order of their groups."""
    if app.default_command is None:
        return [], []
    arguments: list[Flag] = []
    found: list[tuple[float, Flag]] = []
    for argument in app.assemble_argument_collection():
        if not argument.show or argument.names[:1] == ("*",):
            continue
        if argument.is_positional_only() or argument.is_var_positional():
            many = "..." if argument.is_var_positional() else ""
            name = argument.parameter.metavar or argument.name.replace("_", "-")
            arguments.append(Flag((name + many,), help=_text(argument)))
        else:
            found.append(_flag(argument))
    named = any(flag.group for _, flag in found)
    return arguments, [
        flag if flag.group else replace(flag, group="Other flags" if named else "Flags")
        for _, flag in sorted(found, key=lambda one: one[0])
    ]


def _flag(argument: Argument) -> tuple[float, Flag]:
    """A flag, and where its group stands."""
    from cyclopts import Group

    said = argument.parameter.group
    groups = [group for group in said if isinstance(group, Group)] if isinstance(said, tuple) else []
    group = next((one for one in groups if one.name not in (flags.RARE.name, flags.NO_GROUP.name)), None)
    heading, place = (group.name, group.sort_key) if group else ("", _LAST)
    choices = argument.get_choices() or ()
    # One that may be left open (`bool | None`) is a switch, too.
    is_switch = argument.is_flag() or {*get_args(argument.hint)} == {bool, NoneType}
    return float(place if isinstance(place, int | float) else 0), Flag(
        names=tuple(argument.names),
        value="" if is_switch else argument.parameter.metavar or "TEXT",
        help=_text(argument),
        default=_default(argument),
        choices=tuple(choices),
        group=heading,
        common=all(one.name != flags.RARE.name for one in groups),
    )


def _text(argument: Argument) -> str:
    return " ".join((argument.parameter.help or "").split())


def _default(argument: Argument) -> str:
    """What holds where nothing is typed, in words; "" where there is nothing to say."""
    show: Any = argument.parameter.show_default
    value: Any = argument.field_info.default
    if show is False:
        return ""
    if callable(show):
        return str(show(value))
    if value is argument.field_info.empty or value in (None, "", False, ()):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _commands(app: App) -> list[Named]:
    from cms.cli.commands import COMMANDS, FAMILIES

    rows = {command.names[0]: (command.group, command.common) for command in COMMANDS}
    rows |= {name: (group, True) for name, (_, group, _) in FAMILIES.items()}
    found = {}
    for name in app:
        if not name.startswith("-"):
            group, common = rows.get(name, ("", False)) if not app.default_command else ("", True)
            found[name] = Named(name, _sections(app[name].help or "")[0].rstrip("."), group, common)
    return list(found.values())


# --- from a page to lines -------------------------------------------------------------------------


def lines(page: Page, style: Style, width: int, *, whole: bool = False) -> list[str]:
    """The help of a command.

    Args:
        width: columns.
        whole: every flag, every example, and the text.
    """
    found = [*textwrap.wrap(page.purpose, width), "", *_usage(page.usage, style)]
    if whole:
        for paragraph in page.text:
            found += ["", *(paragraph.split("\n") if paragraph.startswith(" ") else _fill(paragraph, width))]
    shown = [flag for flag in page.flags if whole or flag.common]
    rows = [_row(flag, whole) for flag in (*page.arguments, *shown)]
    rows += [(one.name, "", one.purpose) for one in page.commands]
    column = _column(rows)
    if page.arguments:
        found += _table("Arguments", [_row(flag, whole) for flag in page.arguments], column, style, width)
    if page.commands and (whole or not page.flags):
        commands = [(one.name, "", one.purpose) for one in page.commands]
        found += _table("Commands", commands, column, style, width)
    elif page.commands:
        names = ", ".join(one.name for one in page.commands)
        found += [
            "",
            f"{paint('Commands:', _HEADING, style)} {names}",
        ]
    for group in dict.fromkeys(flag.group for flag in shown):
        of_group = [_row(flag, whole) for flag in shown if flag.group == group]
        found += _table(group, of_group, column, style, width)
    if page.examples:
        examples = page.examples if whole else page.examples[:_EXAMPLES]
        found += ["", paint("Examples:", _HEADING, style), *(f"  {line}" for line in examples)]
    if not whole and (page.text or len(shown) < len(page.flags) or len(page.examples) > _EXAMPLES):
        what = "all flags, and more" if len(shown) < len(page.flags) else "more"
        found += ["", f"`{page.command} --help-all` shows {what}."]
    return found


def overview(page: Page, style: Style, width: int, whole: bool) -> list[str]:
    """The help of cms itself: the commands people use first, or all of them."""
    found = [page.purpose, "", *_usage(page.usage, style)]
    rows = [(one.name, "", one.purpose) for one in page.commands]
    column = _column(rows)
    for group in _groups(page):
        ours = [one for one in page.commands if one.group == group]
        shown = [(one.name, "", one.purpose) for one in ours if whole or one.common]
        found += _table(group, shown, column, style, width)
        rest = ", ".join(one.name for one in ours if not (whole or one.common))
        if rest:
            found += [f"  {line}" for line in _fill(f"also: {rest}", width - 2)]
    blocks = (_PRESETS, _EXIT_CODES, _PLACES) if whole else ()
    for block in blocks:
        head, colon, rest = block.partition(":\n")
        found += ["", *(f"{paint(head + ':', _HEADING, style)}\n{rest}" if colon else block).splitlines()]
    return [*found, "", *(_MORE_ALL if whole else _MORE)]


def _groups(page: Page) -> list[str]:
    from cms.cli.commands import GROUPS

    present = {one.group for one in page.commands}
    return [group for group in GROUPS if group in present]


def _usage(forms: Sequence[str], style: Style) -> list[str]:
    heads = (f"{paint('Usage:', _HEADING, style)} ", *[" " * 7] * (len(forms) - 1))
    return [f"{head}{form}" for head, form in zip(heads, forms, strict=True)]


_Row = tuple[str, str, str]  # the literal, its value, the text


def _row(flag: Flag, whole: bool) -> _Row:
    parts = [flag.help]
    if flag.choices and not all(choice in flag.help for choice in flag.choices):
        parts.append(f"[one of: {', '.join(flag.choices)}]")
    if flag.default:
        parts.append(f"[default: {flag.default}]")
    return (
        ", ".join(name for name in flag.names if whole or name == flag.names[0] or len(name) == 2),
        flag.value,
        " ".join(part for part in parts if part),
    )


def _column(rows: Sequence[_Row]) -> int:
    """Where the texts begin: behind the longest label that is not too long."""
    widths = [len(f"{literal} {value}".rstrip()) for literal, value, _ in rows]
    return 4 + max((width for width in widths if width <= _LABEL), default=_LABEL)


def _table(heading: str, rows: Sequence[_Row], column: int, style: Style, width: int) -> list[str]:
    if not rows:
        return []
    found = ["", paint(f"{heading}:", _HEADING, style)]
    for literal, value, text in rows:
        plain = f"  {literal} {value}".rstrip()
        label = "  " + paint(literal, _LITERAL, style) + (f" {paint(value, _VALUE, style)}" if value else "")
        wrapped = [_faint(line, style) for line in _fill(text, max(20, width - column))] or [""]
        if len(plain) + 2 > column:
            found += [label, *(" " * column + line for line in wrapped)]
        else:
            found.append(f"{label}{' ' * (column - len(plain))}{wrapped[0]}".rstrip())
            found += [" " * column + line for line in wrapped[1:]]
    return found


def _fill(text: str, width: int) -> list[str]:
    """Lines of that width; a default is not broken in two."""
    kept = re.sub(r"\[default: [^\]]{0,30}\]", lambda found: found[0].replace(" ", "\0"), text)
    wrapped = textwrap.wrap(kept, width, break_on_hyphens=False, break_long_words=False)
    return [line.replace("\0", " ") for line in wrapped]


def _faint(line: str, style: Style) -> str:
    """A default stands back behind what the flag is for."""
    head, bracket, tail = line.partition("[default:")
    return f"{head}{paint(bracket + tail, _FAINT, style)}" if bracket else line
