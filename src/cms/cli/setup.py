"""`cms setup`: register the MCP server with Claude Code, or take it back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cms.cli import flags, io
from cms.cli.flags import JsonFlag
from cms.cli.mcp import check_sdk
from cms.config import load_settings_and_file
from cms.errors import ExitCode, UsageError
from cms.setup.claude_cli import Scope
from cms.setup.install import Report, Setup

#: The project first: its own note on Claude Code's file is the newer one.
SCOPES: tuple[Scope, ...] = ("project", "user")


def setup(
    *,
    for_all: Annotated[
        bool, flags.switch("--global", "For all your projects (Claude Code's user scope).")
    ] = False,
    local: Annotated[
        bool, flags.switch("--local", "For the project in the current folder (.mcp.json).")
    ] = False,
    uninstall: Annotated[
        bool, flags.switch("--uninstall", "Remove the server and the guide; leave the rest as it was.")
    ] = False,
    guide: Annotated[
        bool | None,
        Parameter(
            name="--guide",
            negative="--no-guide",
            show_default=False,
            help="Install a guide for Claude as a skill; --no-guide removes it.",
        ),
    ] = None,
    dry_run: Annotated[bool, flags.switch("--dry-run", "Show what would be done; do nothing.")] = False,
    json: JsonFlag = False,
) -> int:
    """Register cms with Claude Code as an MCP server.

    Without flags it asks. It uses `claude mcp add` and checks that Claude Code connects. Files are backed up
    first, and running it again changes nothing. --uninstall without a scope looks at both.

    Examples::

        cms setup
        cms setup --global --guide
        cms setup --uninstall
    """
    if for_all and local:
        raise UsageError("--global and --local exclude each other", hint="run it twice for both")
    if uninstall and guide is not None:
        raise UsageError("--uninstall also removes the guide", hint="leave out --guide and --no-guide")
    if not uninstall:
        check_sdk()
    scope: Scope = "project" if local else "user"
    if not (for_all or local or uninstall or dry_run):
        scope, guide = _ask(guide)
    work = Setup(load_settings_and_file(), Path.cwd(), dry=dry_run)
    if uninstall:
        report = work.uninstall((scope,) if for_all or local else SCOPES)
    else:
        report = work.install(scope, with_guide=guide)
    if json:
        io.show_json(report)
    else:
        io.show_lines(report_lines(report))
    return ExitCode.FAILED if report.health in ("failed", "absent") else ExitCode.COMPLETED


def report_lines(report: Report) -> list[str]:
    """What was done, for a person."""
    lines = [f"  {step}" for step in report.steps]
    if report.dry_run:
        return ["Would do:" if report.changed else "Nothing to do:", *lines]
    if not report.changed:
        lines.append("Nothing changed.")
    if report.action == "uninstall":
        return lines
    match report.health:
        case "connected":
            lines.append("Claude Code connects to cms. Restart it if it is running.")
        case "pending approval":
            lines.append("The server works. Start `claude` here and approve it once.")
        case _:
            lines.append(f"Registered, but Claude Code does not connect: {report.detail}")
            lines.append("  Look again with `claude mcp get cms`; `cms mcp < /dev/null` shows the error.")
    return lines


_WIZARD = """\
This registers cms with Claude Code as an MCP server, so that Claude can hand
tasks to other sessions. It backs up Claude Code's settings, runs
`claude mcp add`, and checks that Claude Code connects.
`cms setup --uninstall` takes it back.

"""


def _ask(guide: bool | None) -> tuple[Scope, bool]:
    """Scope and guide from a person; the guide only where no flag says it.

    Raises:
        UsageError: nobody is there to ask.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "setup cannot ask here whether to register for all projects",
            hint="use `cms setup --global`, or `cms setup --local` for this project",
        )
    sys.stderr.write(_WIZARD)
    where = _question(f"For [A]ll projects, or only for [t]his one ({Path.cwd()})? [A/t] ", "at")
    if guide is None:
        sys.stderr.write("\nA short guide, as a skill, tells Claude when delegating pays and how to do it.\n")
        guide = _question("Install the guide? [Y/n] ", "yn") == "y"
    return ("project" if where == "t" else "user"), guide


def _question(text: str, letters: str) -> str:
    """One of the letters; the first is the default."""
    while True:
        sys.stderr.write(text)
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise UsageError("no answer", hint="use `cms setup --global` or `cms setup --local`")
        answer = line.strip().lower()[:1] or letters[0]
        if answer in letters:
            return answer
