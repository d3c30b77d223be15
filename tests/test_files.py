"""Files of ours: whoever reads one finds what was there, or what was written; nothing is left beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import pytest

from cms.files import create_file, open_regular, replace_file, rewrite_file


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    return path


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def breaking() -> Iterator[bytes]:
    yield b"half of it"
    raise OSError(5, "broken")


@pytest.mark.parametrize("step", ["data", "fsync", "replace"])
def test_what_cannot_be_written_leaves_all_as_it_was(old: Path, step: str) -> None:
    fault = nullcontext() if step == "data" else mock.patch(f"os.{step}", side_effect=OSError(5, "broken"))
    with fault, pytest.raises(OSError, match="broken"):
        replace_file(old, breaking() if step == "data" else b"new")
    assert [path.name for path in old.parent.iterdir()] == ["file"]
    assert old.read_text() == "old"


@pytest.mark.parametrize("relative", [False, True])
def test_a_file_is_replaced_and_is_its_user_s_alone(old: Path, relative: bool) -> None:
    at = os.open(old.parent, os.O_RDONLY) if relative else None
    try:
        replace_file(Path(old.name) if relative else old, b"new", at=at)
    finally:
        if at is not None:
            os.close(at)
    assert [path.name for path in old.parent.iterdir()] == ["file"]
    assert (old.read_text(), mode_of(old)) == ("new", 0o600)


def test_content_name_and_folder_are_synced_in_that_order(old: Path) -> None:
    steps = mock.Mock()
    with mock.patch("os.fsync", steps.fsync), mock.patch("os.replace", steps.replace):
        replace_file(old, b"new")
        assert [call[0] for call in steps.mock_calls] == ["fsync", "replace", "fsync"]
        steps.reset_mock()
        replace_file(old, b"new", durable=False)
        assert [call[0] for call in steps.mock_calls] == ["replace"]


def test_nothing_is_written_over_or_through_a_link(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old)
    for path in (old, link):
        with pytest.raises(FileExistsError):
            create_file(path, b"new")
    replace_file(link, b"new")
    assert (old.read_text(), link.is_symlink(), link.read_text()) == ("old", False, "new")


def test_the_umask_holds_where_it_is_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        create_file(tmp_path / "shared", b"", mode=None)
        create_file(tmp_path / "exact", b"", mode=0o755)
    finally:
        os.umask(before)
    assert (mode_of(tmp_path / "shared"), mode_of(tmp_path / "exact")) == (0o640, 0o755)


def test_a_person_s_file_stays_behind_its_link_with_its_permissions(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old.name)
    rewrite_file(link, b"new")
    assert (link.is_symlink(), old.read_text(), mode_of(old)) == (True, "new", 0o640)
    rewrite_file(link, b"newer", mode=0o600)
    assert (old.read_text(), mode_of(old)) == ("newer", 0o600)


def test_only_a_regular_file_is_opened(old: Path) -> None:
    link, pipe = old.with_name("link"), old.with_name("pipe")
    link.symlink_to(old)
    os.mkfifo(pipe)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names, not paths
    for path in (link, pipe, old.parent, Path("/dev/zero"), old.with_name("none")):
        with pytest.raises(OSError, match=r"regular file|symbolic links|No such"):
            open_regular(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    with os.fdopen(open_regular(old)) as file:
        assert file.read() == "old"
