"""docs/day.md stays true: every command in it is run, in order, in one home."""

from __future__ import annotations

from cli.shell import Shell, shell
from cms.testing.script import prompt, say
from documents import ROOT, commands

__all__ = ["shell"]


def test_every_command_of_the_page_works(shell: Shell) -> None:
    typed = commands((ROOT / "docs" / "day.md").read_text())
    assert len(typed) > 12
    shell.ok("spawn", "fix-auth", prompt("Why?", say("An expired token: connection refused.")))
    for words in typed:
        ran = shell.ok(*words)
        if words[0] == "search" and "migrat*" not in words:
            assert "fix-auth" in ran.out
        if words[0] == "list":
            assert "fix-login" in ran.out
