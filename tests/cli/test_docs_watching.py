"""docs/watching.md stays true: its commands are run, in order; its keys are those of `cms top`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from cli.shell import Shell, shell
from cms.cli.top_frames import HELP
from cms.testing.script import prompt, say

__all__ = ["shell"]

TEXT = (Path(__file__).parents[2] / "docs" / "watching.md").read_text()


def test_every_command_of_the_page_works(shell: Shell) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    commands = [shlex.split(line) for line in "".join(blocks).splitlines()]
    assert len(commands) > 8
    for command, *words in commands:
        assert command == "cms"
        if words[0] in ("delegate", "send"):
            words[-1] = prompt(words[-1], say("It says: login refused."))
        ran = shell.ok(*words)
        assert "top" in words or "login refused" in ran.out


def test_its_keys_are_those_of_the_help() -> None:
    told = {
        key for row in re.findall(r"^\| (.*?) \|", TEXT, re.MULTILINE) for key in re.findall(r"`(.)`", row)
    }
    assert told == {key for keys, _ in HELP for key in re.split(r"[ ,/]+", keys) if len(key) == 1}
