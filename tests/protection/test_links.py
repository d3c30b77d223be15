"""Following the links of many paths at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cms.protection.links import Lookup


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "folder/file").write_text("")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "up").symlink_to("folder/below/..")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop/loop")
    return tmp_path


_BELOW = (
    "", "folder", "folder/file", "folder/file/x", "link", "link/below", "link/below/x", "link/none/x/y",
    "up/below", "dangling", "dangling/x", "nowhere", "nowhere/x", "loop", "loop/x", "folder/../link/file",
    "link/..", "folder/./file", "folder//file", "folder/", "link/", "none/../folder",
)  # fmt: skip


def test_it_says_what_the_system_says_in_any_order(tree: Path) -> None:
    paths = [f"{tree}/{name}" for name in _BELOW] + ["/", "/nowhere", "folder"]
    for order in (paths, paths[::-1], sorted(paths)):
        lookup = Lookup()
        for path in order * 2:
            assert lookup.real(path) == os.path.realpath(path)
            assert lookup.is_there(path) == os.path.lexists(path)


def test_what_no_file_can_be_called_is_not_there(tree: Path) -> None:
    assert not Lookup().is_there(f"{tree}/with\0nul")


def test_each_folder_is_looked_at_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    lstat = os.lstat

    def counted(path: str) -> os.stat_result:
        looks.append(path)
        return lstat(path)

    monkeypatch.setattr("cms.protection.links.os.lstat", counted)
    lookup = Lookup()
    for number in range(100):
        lookup.real(f"{tree}/folder/below/{number}")
        assert not lookup.is_there(f"{tree}/none/such/{number}")
    assert len(looks) == len(set(looks)) == len(tree.parts) - 1 + 2 + 100 + 1
