"""`cms help` and `cms demo`: commands about cms itself."""

from __future__ import annotations

from typing import Annotated

from cms.cli import flags
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode


def help_(*command: Annotated[str, flags.word("The command to explain.")]) -> int:
    """Explain cms, or one command.

    Examples::

        cms help delegate
        cms help batch show
    """
    from cms.cli.app import FAMILIES, build, check_command, complete_batch, summon

    app = build()
    if command[:1] == ("batch",):
        complete_batch(app)
    explained = app
    for word in command:
        explained = explained[check_command(explained, word)]
    if not command or command[0] in FAMILIES:
        summon(explained)
    app.help_print(command)
    return ExitCode.COMPLETED


def demo(*, json: JsonFlag = False) -> int:
    """Show a whole delegation on this machine: free, offline, with a scripted model.

    The real Claude Code edits a file in a scratch repository under limits, and a write to a protected path
    is refused. Needs no account.

    Example::

        cms demo
    """
    from cms.selftest.demo import main

    return main(json=json)
