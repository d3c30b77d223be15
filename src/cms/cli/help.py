"""What `--help` looks like: two aligned columns of plain text, no boxes; and the text of `cms help`.

ASCII only, so that it reads the same in any locale, in a pipe and in a screen reader.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated, Any

from cms.cli import flags
from cms.errors import ExitCode

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

#: Names longer than this get a line of their own.
_COLUMN = 26

EPILOGUE = """\
Examples:
  cms delegate fix-auth "make the login test pass" --verify "pytest -q"
  cms spawn notes "read the docs folder and remember what is in it"
  cms send notes "what does it say about retries?"
  cms list
  cms demo

Presets (delegate and spawn, --preset):
  read-only  search and read
  review     the same, for code review
  edit       read and edit files, run read-only shell commands (the default)
  full       everything, inside its container
  plan       explore only, nothing executed

Exit codes:
   0 completed        4 cost_exceeded    8 verification_failed   12 stalled
   1 failed           5 turns_exceeded   9 rate_limited         130 interrupted
   2 usage error      6 time_exceeded   10 not_found
   3 needs_input      7 protected_path  11 daemon unavailable

`cms help COMMAND` explains one command. Every command takes --json.
A text that begins with a hyphen goes after `--`, or by flag:
  cms send NAME -- "--why?"      cms send NAME --message "--why?"
State lives in ~/.claude-multi-session (CMS_HOME). CMS_CLAUDE names the claude
to run; else it is looked for on PATH, then in the claude-agent-sdk wheel.
"""


class TwoColumns:
    """A cyclopts help formatter."""

    # Each method takes rich's `options`, as the protocol of such formatters has it; nothing here needs them.

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:  # noqa: ARG002
        rows = [
            (", ".join(entry.display_labels_with_metavar), _describe(entry))
            for entry in panel.entries
            if entry.display_labels
        ]
        if not rows:
            return
        width = min(console.width, 100)
        indent = " " * (_COLUMN + 2)
        lines = [f"{_plain(panel.title)}:"]
        for label, text in rows:
            wrapped = textwrap.wrap(text, max(20, width - len(indent))) or [""]
            if len(label) + 4 > len(indent):
                lines.append(f"  {label}")
                lines.extend(indent + line for line in wrapped if line)
            else:
                lines.append(f"  {label:<{_COLUMN - 2}}  {wrapped[0]}".rstrip())
                lines.extend(indent + line for line in wrapped[1:])
        _print(console, "\n".join(lines) + "\n")

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:  # noqa: ARG002
        if usage:
            _print(console, f"usage: {_plain(usage).strip()}\n")

    def render_description(self, console: Console, options: ConsoleOptions, description: Any) -> None:  # noqa: ARG002
        width = min(console.width, 100)
        for paragraph in _plain(description).replace("::\n\n", ":\n").strip().split("\n\n"):
            # Examples are indented and stay as they are; prose is filled.
            if "\n " in paragraph:
                lines = (
                    line if line.startswith(" ") else textwrap.fill(line, width)
                    for line in paragraph.split("\n")
                )
                _print(console, "\n".join(lines) + "\n")
            elif paragraph:
                _print(console, textwrap.fill(" ".join(paragraph.split()), width) + "\n")


def _print(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _plain(value: Any) -> str:
    """The text of what cyclopts hands over: a str, a rich Text, or its own wrapper around one."""
    plain = getattr(getattr(value, "primary_renderable", value), "plain", None)
    return (
        plain
        if isinstance(plain, str)
        else ""
        if plain is None and not isinstance(value, str)
        else str(value)
    )


def _describe(entry: Any) -> str:
    parts = [_plain(entry.description).strip()]
    if entry.choices:
        parts.append(f"One of: {', '.join(entry.choices)}.")
    if entry.default not in (None, "", "()", '""'):
        parts.append(f"[default: {entry.default}]")
    return " ".join(part for part in parts if part)


def help_(*command: Annotated[str, flags.word("The command to explain.")]) -> int:
    """Explain cms, or one command.

    Examples::

        cms help delegate
        cms help batch show
    """
    from cms.cli.commands import FAMILIES
    from cms.cli.parser import build, check_command, complete, summon

    app = build()
    complete(app, command[0] if command else "")
    explained = app
    for word in command:
        explained = explained[check_command(explained, word)]
    if not command or command[0] in FAMILIES:
        summon(explained)
    app.help_print(command)
    return ExitCode.COMPLETED
