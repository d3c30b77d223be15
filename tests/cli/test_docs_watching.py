"""docs/watching.md stays true: its commands are run, in order; its keys are those of `cms top`."""

from __future__ import annotations

import re

from cli.shell import Shell, shell
from cms.cli.top_frames import HELP
from cms.testing.script import prompt, say
from documents import ROOT, commands

__all__ = ["shell"]

TEXT = (ROOT / "docs" / "watching.md").read_text()


def test_every_command_of_the_page_works(shell: Shell) -> None:
    typed = commands(TEXT)
    assert len(typed) > 8
    for words in typed:
        if words[0] in ("delegate", "send"):
            words[-1] = prompt(words[-1], say("It says: login refused."))
        ran = shell.ok(*words)
        assert "top" in words or "login refused" in ran.out


def test_its_keys_are_those_of_the_help() -> None:
    told = {
        key for row in re.findall(r"^\| (.*?) \|", TEXT, re.MULTILINE) for key in re.findall(r"`(.)`", row)
    }
    assert told == {key for keys, _ in HELP for key in re.split(r"[ ,/]+", keys) if len(key) == 1}
