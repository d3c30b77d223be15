"""`cms help` and `cms demo`: commands about cms itself."""

from __future__ import annotations

from typing import Annotated

from cms.cli import flags
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode


def help_(command: Annotated[str | None, flags.word("The command to explain.")] = None, /) -> int:
    """Explain cms, or one command.

    Example::

        cms help delegate
    """
    from cms.cli.app import FAMILIES, build, check_command, complete_batch, summon

    app = build()
    if command == "batch":
        complete_batch(app)
    if command is None or command in FAMILIES:
        summon(app if command is None else app[command])
    app.help_print([] if command is None else [check_command(app, command)])
    return ExitCode.COMPLETED


def demo(*, json: JsonFlag = False) -> int:
    """Show a whole delegation on this machine: free, offline, with a scripted model.

    The real Claude Code edits a file in a scratch repository under limits, and a write to a protected path
    is refused. Needs no account.

    Example::

        cms demo
    """
    from cms.demo import main

    return main(json=json)
