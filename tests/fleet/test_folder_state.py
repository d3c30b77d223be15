"""The state of a folder: the same for the same content, another for a change that counts; nothing is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cms.fleet import folder_state as module
from cms.fleet.folder_state import Untold, folder_state


def git(folder: Path, *words: str) -> None:
    who = ("-c", "user.email=a@b", "-c", "user.name=n")
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub" / "b").write_text("2")
    (folder / ".gitignore").write_text("*.o\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")
    return folder


def test_what_counts_and_what_does_not(repository: Path) -> None:
    a = repository / "a"
    states = {"clean": folder_state(repository)}

    def same(what: str) -> None:
        assert folder_state(repository / "sub") == states["clean"], what

    same("seen from below")
    (repository / "x.o").write_text("ignored")
    os.utime(a)
    same("ignored files and times")
    a.write_text("3")
    states["edited"] = folder_state(repository)
    git(repository, "add", "a")
    assert folder_state(repository) == states["edited"], "staged or not"
    a.write_text("1")
    same("taken back, but still staged otherwise")
    git(repository, "reset", "-q")
    a.chmod(0o755)
    states["executable"] = folder_state(repository)
    a.unlink()
    states["deleted"] = folder_state(repository)
    a.symlink_to("sub/b")
    states["link"] = folder_state(repository)
    a.unlink()
    git(repository, "checkout", "-q", "a")
    same("checked out again")
    (repository / "new").write_text("")
    states["new"] = folder_state(repository)
    (repository / "new").unlink()
    git(repository, "commit", "-qm", "empty", "--allow-empty")
    states["another commit"] = folder_state(repository)
    assert len(set(states.values())) == len(states)


def test_nothing_that_a_repository_names_is_run(repository: Path, tmp_path: Path) -> None:
    (repository / ".gitattributes").write_text("* filter=evil diff=evil\n")
    for key in ("filter.evil.clean", "filter.evil.process", "core.fsmonitor", "diff.evil.textconv"):
        git(repository, "config", key, f"touch {tmp_path}/run-{key}; cat")
    (repository / "a").write_text("11")
    folder_state(repository)
    assert not list(tmp_path.glob("run-*"))


def test_a_folder_without_a_repository_is_read_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "plain"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a").write_text("1")
    first = folder_state(folder)
    (folder / "deep" / "a").write_text("2")
    second = folder_state(folder)
    (folder / "deep" / "a").write_text("1")
    assert folder_state(folder) == first != second
    (folder / "empty").mkdir()
    assert folder_state(folder) != first
    os.mkfifo(folder / "pipe")
    with pytest.raises(Untold, match="neither a file nor a folder"):
        folder_state(folder)
    (folder / "pipe").unlink()
    monkeypatch.setattr(module, "MOST_FILES", 2)
    with pytest.raises(Untold, match="too much"):
        folder_state(folder)


def test_what_git_cannot_tell_is_not_guessed(repository: Path) -> None:
    nested = repository / "nested"
    nested.mkdir()
    git(nested, "init", "-q")
    (nested / "f").write_text("x")
    with pytest.raises(Untold):
        folder_state(repository)
    git(nested, "add", "-A")
    git(nested, "commit", "-qm", "y")
    git(repository, "add", "nested")
    with pytest.raises(Untold, match="submodules"):
        folder_state(repository)
