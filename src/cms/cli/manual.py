"""`cms help COMMAND --man`: the help of a command as a manual page (roff, macros of man(7))."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from cms._version import __version__
from cms.cli.help import Flag, Named, Page


def roff(page: Page, more: Mapping[str, str] = {}) -> list[str]:
    """The lines of the page.

    Args:
        more: further sections, by their headings, each a text that is kept as it is.
    """
    name = page.command.replace(" ", "-")
    found = [
        f'.TH {_text(name.upper())} 1 "" "cms {_text(__version__)}" "User Commands"',
        *(".SH NAME", rf"{_text(name)} \- {_text(page.purpose.rstrip('.'))}"),
        *(".SH SYNOPSIS", *_kept(page.usage)),
    ]
    if page.text:
        found.append(".SH DESCRIPTION")
    for paragraph in page.text:
        found += _kept(paragraph.splitlines()) if paragraph.startswith(" ") else [".PP", _line(paragraph)]
    if page.commands:
        found += [".SH COMMANDS", *_commands(page.commands)]
    if page.arguments:
        found += [".SH ARGUMENTS", *_flags(page.arguments)]
    if page.flags:
        found.append(".SH OPTIONS")
    for group in dict.fromkeys(flag.group for flag in page.flags):
        found += [f".SS {_text(group)}", *_flags(flag for flag in page.flags if flag.group == group)]
    for heading, text in more.items():
        found += [f".SH {heading}", *_kept(text.splitlines())]
    if page.examples:
        found += [".SH EXAMPLES", *_kept(page.examples)]
    return found


def _flags(flags: Iterable[Flag]) -> list[str]:
    found = []
    for flag in flags:
        names = ", ".join(rf"\fB{_text(name)}\fR" for name in flag.names)
        text = [flag.help]
        if flag.choices and not all(choice in flag.help for choice in flag.choices):
            text.append(f"One of: {', '.join(flag.choices)}.")
        if flag.default:
            text.append(f"Default: {flag.default}.")
        value = rf" \fI{_text(flag.value)}\fR" if flag.value else ""
        found += [".TP", f"{names}{value}", _line(" ".join(part for part in text if part))]
    return found


def _commands(commands: Iterable[Named]) -> list[str]:
    found = []
    for one in commands:
        found += [".TP", rf"\fB{_text(one.name)}\fR", _line(f"{one.purpose}.")]
    return found


def _kept(lines: Iterable[str]) -> list[str]:
    """Lines that are not filled."""
    return [".PP", ".nf", *(_line(line) for line in lines), ".fi"]


def _line(text: str) -> str:
    r"""A line that is no request of roff's, whatever it begins with. An empty one says so by `\&`."""
    return rf"\&{_text(text)}" if text[:1] in (".", "'", "") else _text(text)


def _text(text: str) -> str:
    r"""Characters as they are: `-` can be copied to a shell, `\` begins nothing, quotes stay ASCII."""
    return text.translate(_AS_IT_IS)


_AS_IT_IS: Final = str.maketrans(
    {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"}
)
