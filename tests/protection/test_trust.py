"""What a person trusts is kept, and holds for what was there."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cms.errors import HomeUnusable
from cms.protection.trust import NAME, accept, foreign_servers, forget, grants, standing_of, write_root
from cms.session.trust import Standing

from .test_project import git, hooks, write
from .test_project import look as read


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cms"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / ".git").mkdir(parents=True)
    write(folder / ".claude/settings.json", hooks("one"))
    return folder


def look(folder: Path, home: Path, **more: object) -> Standing:
    environ = {"HOME": str(home.parent / "person")}
    return standing_of(read(folder), home=home, environ=environ, **more)  # type: ignore[arg-type]


def test_trust_lasts_until_the_content_changes_and_ends_when_it_is_taken_back(repo: Path, home: Path) -> None:
    assert not look(repo, home).trusted
    accept(home, read(repo), at=1.0)
    assert look(repo, home).by == "person"
    write(repo / ".claude/settings.json", hooks("two"))
    standing = look(repo, home)
    assert not standing.trusted
    assert [item.what for item in standing.difference.new] == ["two"]
    assert [item.what for item in standing.difference.gone] == ["one"]
    accept(home, read(repo), at=2.0)
    assert look(repo, home).trusted
    assert forget(home, str(repo))
    assert not forget(home, str(repo))
    assert not look(repo, home).trusted


def test_it_is_for_its_user_alone_and_is_replaced_as_a_whole(repo: Path, home: Path) -> None:
    accept(home, read(repo), at=1.0)
    assert stat.S_IMODE((home / NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert sorted(path.name for path in home.iterdir()) == [NAME, f"{NAME}.lock"]


def test_two_that_change_it_at_once_lose_nothing(tmp_path: Path, home: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cms.protection.trust import accept;"
        "from cms.protection.project import read_project;"
        "accept(Path(sys.argv[1]), read_project(sys.argv[2], own='/nowhere'), at=1.0)"
    )
    folders = [tmp_path / f"p{number}" for number in range(8)]
    for folder in folders:
        write(folder / ".claude/settings.json", hooks(folder.name))
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(home), str(folder)]) for folder in folders
    ]
    assert [child.wait() for child in children] == [0] * 8
    assert set(grants(home)) == {str(folder) for folder in folders}


def test_a_file_that_cannot_be_read_is_an_error_and_no_trust(repo: Path, home: Path) -> None:
    home.mkdir()
    for text in ("{bad", "[]", '{"folders": {"/": {"items": 5}}}'):
        (home / NAME).write_text(text)
        with pytest.raises(HomeUnusable):
            look(repo, home)


def test_a_folder_without_anything_to_trust_needs_no_file(tmp_path: Path, home: Path) -> None:
    assert not look(tmp_path, home).left_out
    assert not home.exists()


def test_trust_of_a_repository_holds_in_its_folders_and_its_own_work_trees(
    tmp_path: Path, home: Path
) -> None:
    main = tmp_path / "main"
    write(main / ".mcp.json", {"mcpServers": {"s": {"command": "s"}}})
    git(main, "init", "-q")
    git(main, "add", "-A")
    git(main, "commit", "-q", "-m", "x")
    git(main, "worktree", "add", "-q", "../tree")
    (main / "sub").mkdir()
    accept(home, read(main), at=1.0)
    assert look(main / "sub", home).trusted
    assert look(tmp_path / "tree", home).trusted
    write(tmp_path / "tree/.mcp.json", {"mcpServers": {"s": {"command": "other"}}})
    assert not look(tmp_path / "tree", home).trusted
    assert not look(tmp_path, home).trusted or not look(tmp_path, home).items


def test_globs_of_the_settings_are_exact(repo: Path, home: Path) -> None:
    parent = repo.parent
    for glob in (str(repo), f"{parent}/*", f"{parent}/**", f"{parent}/r?po"):
        assert look(repo, home, globs=(glob,)).by == "settings", glob
    for glob in (f"{parent}", "repo", f"{parent}/REPO", f"{repo}/**", "*", "~/**", str(repo)[:-1]):
        assert not look(repo, home, globs=(glob,)).trusted, glob
    environ = {"HOME": str(parent)}
    assert standing_of(read(repo), home=home, environ=environ, globs=("~/repo",)).by == "settings"


def test_one_session_is_trusted_by_its_flag_and_nothing_is_kept(repo: Path, home: Path) -> None:
    assert look(repo, home, this_session=True).by == "session"
    assert not home.exists()


def claude_says(home: Path, projects: object) -> None:
    write(home.parent / "person/.claude.json", {"projects": projects, "numStartups": 3})


def test_what_was_accepted_in_claudes_dialog_counts_as_it_is_at_the_first_look(
    repo: Path, home: Path
) -> None:
    claude_says(home, {str(repo): {"hasTrustDialogAccepted": True, "mcpServers": {}}})
    assert look(repo, home).by == "claude"
    assert look(repo, home).by == "claude"
    write(repo / ".claude/settings.json", hooks("two"))
    assert not look(repo, home).trusted


def test_what_claude_says_of_another_folder_does_not_count(repo: Path, home: Path) -> None:
    (repo / "sub").mkdir()
    write(repo / "sub/.claude/settings.json", hooks("x"))
    claude_says(
        home, {str(repo.parent): {"hasTrustDialogAccepted": True}, "/": {"hasTrustDialogAccepted": True}}
    )
    assert not look(repo, home).trusted
    claude_says(home, {str(repo): {"hasTrustDialogAccepted": True}})
    assert look(repo / "sub", home).by == "claude"
    (home.parent / "person/.claude.json").write_text("{bad")
    assert not look(repo, home).trusted


def test_the_folder_that_claude_reads_holds_what_is_in_force(repo: Path, home: Path, tmp_path: Path) -> None:
    write(repo / ".claude/skills/plain/SKILL.md", "---\nname: plain\n---\ntext")
    write(tmp_path / ".mcp.json", {"mcpServers": {"planted": {"command": "x"}}})
    project = read(repo)
    for number, trusted in enumerate((False, True)):
        standing = look(repo, home, this_session=trusted)
        root = tmp_path / f"root{number}"
        write_root(root, project, standing, every_tool=False)
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        said = json.loads((root / ".claude/settings.json").read_text())
        assert ("hooks" in said) == trusted
        assert "planted" in foreign_servers(root)
        assert (root / ".claude/skills/plain/SKILL.md").exists()
        subprocess.run(
            ["git", "-C", str(root), "rev-parse", "--show-toplevel"], check=True, capture_output=True
        )
    with pytest.raises(FileExistsError):
        write_root(tmp_path / "root0", project, look(repo, home), every_tool=False)
