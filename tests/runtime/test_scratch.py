"""A session's temporary files are its own, and gone with it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from cms.runtime.scratch import clear_scratch, make_scratch, remove_scratch

FIRST, SECOND = "11111111-aaaa", "22222222-bbbb"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_session_finds_its_folder_again() -> None:
    folder = make_scratch(FIRST)
    (folder / "output").write_text("x")
    assert make_scratch(FIRST) == folder
    assert (folder / "output").read_text() == "x"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_last_one_takes_the_parent_along(place: Path) -> None:
    one, other = make_scratch(FIRST), make_scratch(SECOND)
    (one / "deep").mkdir()
    remove_scratch(one)
    assert other.is_dir()
    remove_scratch(other)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_parent_that_others_can_enter_is_not_used(place: Path, mode: int) -> None:
    parent = place / f"cms-{os.getuid()}"
    parent.mkdir()
    parent.chmod(mode)
    folder = make_scratch(FIRST)
    assert folder.parent == place
    remove_scratch(folder)
    assert list(place.iterdir()) == [parent]


def test_a_link_in_its_place_is_not_followed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (place / f"cms-{os.getuid()}").symlink_to(elsewhere)
    folder = make_scratch(FIRST)
    assert folder.parent == place
    assert list(elsewhere.iterdir()) == []
    remove_scratch(folder)


def test_what_a_crash_left_is_cleared(place: Path) -> None:
    (make_scratch(FIRST) / "output").write_text("x")
    kept = make_scratch(SECOND)
    clear_scratch([FIRST, "33333333-cccc"])
    assert list(kept.parent.iterdir()) == [kept]
    clear_scratch([SECOND])
    assert list(place.iterdir()) == []
