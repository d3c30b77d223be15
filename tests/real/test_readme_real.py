"""The README stays true: every command in its `sh` blocks is run, in order, in one private world."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cms.errors import ExitCode
from real.conftest import World

pytestmark = pytest.mark.real

README = (Path(__file__).parents[2] / "README.md").read_text()


def commands() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("cms ")]


def files() -> dict[str, str]:
    """What the README shows as the contents of a file."""
    return dict(re.findall(r"^`([\w.]+)`:\n\n```(?:json|csv)\n(.*?)^```", README, re.DOTALL | re.MULTILINE))


def test_there_are_commands_to_run() -> None:
    assert len(commands()) > 20
    assert files()


def test_every_command_of_the_readme_works(world: World) -> None:
    for name, text in files().items():
        (world.work_dir / name).write_text(text)
    (world.work_dir / "test_project.py").write_text("def test_it() -> None:\n    pass\n")
    for words in commands():
        ran = world.cms(*words)
        assert ran.code == 0, (words, ran)


def test_the_table_of_exit_codes_is_complete() -> None:
    rows = re.findall(r"^\| (\d+) \|", README, re.MULTILINE)
    assert [int(row) for row in rows] == sorted(ExitCode)
