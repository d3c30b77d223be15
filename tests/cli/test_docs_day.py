"""docs/day.md stays true: every command in it is run, in order, in one home."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cli.shell import Shell, shell
from cms.testing.script import prompt, say

__all__ = ["shell"]

TEXT = (Path(__file__).parents[2] / "docs" / "day.md").read_text()


def test_every_command_of_the_page_works(shell: Shell) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in "".join(blocks).splitlines()]
    assert len(commands) > 12
    shell.ok("spawn", "fix-auth", prompt("Why?", say("An expired token: connection refused.")))
    for command, *words in commands:
        assert command == "cms"
        ran = shell.ok(*words)
        if words[0] == "search" and "migrat*" not in words:
            assert "fix-auth" in ran.out
        if words[0] == "list":
            assert "fix-login" in ran.out
