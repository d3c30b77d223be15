"""The home folder: private, ours, and prepared the same way by every door."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cms import open_supervisor
from cms.config import Settings
from cms.errors import HomeUnusable
from cms.home import prepare_home

NOBODY = 65534


def test_it_is_made_for_the_user_alone(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    mask = os.umask(0)
    try:
        prepare_home(home)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_one_that_was_too_open_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    prepare_home(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_file_where_it_should_be(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeUnusable, match="set CMS_HOME"):
        prepare_home(tmp_path / "file" / below)


def test_one_that_cannot_be_made() -> None:
    with pytest.raises(HomeUnusable, match="set CMS_HOME"):
        prepare_home(Path("/proc/cms-home"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_program_that_uses_the_library_is_refused_a_home_of_somebody_else(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(HomeUnusable, match=f"belongs to another user .uid {NOBODY}."):
        async with open_supervisor(Settings(home=home)):
            pass
    assert list(home.iterdir()) == [], "nothing is left in it"
