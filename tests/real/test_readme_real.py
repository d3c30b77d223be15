"""The README stays true: every command in its `sh` blocks is run, in order, in one private world."""

from __future__ import annotations

import pytest

from documents import README, commands, files
from real.conftest import World

pytestmark = [pytest.mark.real, pytest.mark.own_daemon]


def test_every_command_of_the_readme_works(world: World) -> None:
    text = README.read_text()
    typed = commands(text)
    assert len(typed) > 12
    for name, content in files(text).items():
        (world.work_dir / name).write_text(content)
    for words in typed:
        ran = world.cms(*words)
        assert ran.code == 0, (words, ran)
