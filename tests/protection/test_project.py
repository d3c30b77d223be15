"""A folder's configuration is read as what a stranger wrote."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cms.protection import project as reading
from cms.protection.project import Project, Unread, read_project, read_regular


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def hooks(command: str) -> dict[str, object]:
    return {"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": command}]}]}}


def look(folder: Path, **more: Path) -> Project:
    return read_project(folder, own=folder / "nowhere", **more)


def items(project: Project) -> set[tuple[str, str]]:
    return {(item.kind, item.path) for item in project.items}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    (folder / ".git").mkdir(parents=True)
    return folder


def test_it_looks_where_claude_looks(repo: Path) -> None:
    deep = repo / "a" / "b"
    for place, name in (repo.parent, "above"), (repo, "top"), (repo / "a", "mid"), (deep, "here"):
        write(place / ".claude/settings.json", hooks(name))
        write(place / ".claude/settings.local.json", hooks(name))
        write(place / ".mcp.json", {"mcpServers": {name: {"command": name}}})
        write(place / f".claude/skills/{name}/SKILL.md", "!`x`")
        write(place / f".claude/commands/sub/{name}.md", "!`x`")
        write(place / f".claude/agents/{name}.md", "---\nhooks: {}\n---\n")
        write(place / f".claude/workflows/{name}.js", "")
    project = look(deep)
    assert (project.folder, project.base, project.main) == (str(deep), str(repo), str(repo))
    assert items(project) == {
        ("hook", "a/b/.claude/settings.json"),
        ("hook", "a/b/.claude/settings.local.json"),
        ("hook", ".claude/settings.local.json"),
        ("server", str(repo.parent / ".mcp.json")),
        *(
            (kind, f"{place}{path}")
            for place in ("", "a/", "a/b/")
            for kind, path in (("server", ".mcp.json"),)
        ),
        *(
            (kind, f"{place}.claude/{path}")
            for place, name in (("", "top"), ("a/", "mid"), ("a/b/", "here"))
            for kind, path in (
                ("skill", f"skills/{name}/SKILL.md"),
                ("command", f"commands/sub/{name}.md"),
                ("agent", f"agents/{name}.md"),
                ("workflow", f"workflows/{name}.js"),
            )
        ),
    }
    added = look(deep, added_to=repo)
    assert items(added) == {
        ("skill", "a/b/.claude/skills/here/SKILL.md"),
        ("command", "a/b/.claude/commands/sub/here.md"),
        ("agent", "a/b/.claude/agents/here.md"),
        ("workflow", "a/b/.claude/workflows/here.js"),
    }


def test_outside_of_a_repository_only_the_folder_itself_counts(tmp_path: Path) -> None:
    write(tmp_path / ".claude/commands/x.md", "!`x`")
    (tmp_path / "sub").mkdir()
    assert look(tmp_path / "sub").items == ()


def test_a_program_that_a_command_names_is_a_part_of_it(repo: Path) -> None:
    write(repo / "run.sh", "one")
    write(repo / ".claude/hooks/pre.py", "one")
    write(
        repo / ".claude/settings.json", hooks('python "$CLAUDE_PROJECT_DIR/.claude/hooks/pre.py"; ./run.sh')
    )
    before = look(repo).items
    assert {item.path for item in before if item.kind == "program"} == {"run.sh", ".claude/hooks/pre.py"}
    write(repo / ".claude/hooks/pre.py", "two")
    assert look(repo).items != before


# --- a hostile folder -----------------------------------------------------------------------------


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def abroad(path: Path) -> None:
    outside = next(place for place in path.parents if (place / ".git").exists()).parent / "outside"
    write(outside, hooks("x"))
    path.symlink_to(outside)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(100 * 1024 * 1024)


def deep(path: Path) -> None:
    path.write_text('{"a":' * 200_000)


def no_text(path: Path) -> None:
    path.write_bytes(b'{"a": "\xff\xfe"}')


def folder(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path.name)


HOSTILE = [fifo, endless, abroad, huge, deep, no_text, folder, loop]


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize(
    "name", [".claude/settings.json", ".mcp.json", ".claude/skills/x/SKILL.md", ".claude/agents/x.md"]
)
def test_nothing_that_stands_for_a_file_holds_or_fools_the_reading(
    repo: Path, name: str, make: Callable[[Path], None]
) -> None:
    path = repo / name
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)
    began = time.monotonic()
    project = look(repo)
    assert time.monotonic() - began < 5
    found = {item.kind for item in project.items}
    # A skill of deep brackets is a text; a folder for an agent is a folder of agents.
    assert found == {"unreadable"} or (make is deep and "md" in name) or (make is folder and "agents" in name)


def test_links_that_stay_in_the_repository_are_followed(repo: Path) -> None:
    write(repo / "shared/x/SKILL.md", "!`x`")
    (repo / ".claude").mkdir()
    (repo / ".claude/skills").symlink_to("../shared")
    assert items(look(repo)) == {("skill", ".claude/skills/x/SKILL.md")}


def test_a_folder_of_the_configuration_that_leads_out_is_told(repo: Path) -> None:
    write(repo.parent / "elsewhere/skills/x/SKILL.md", "!`x`")
    (repo / ".claude").symlink_to("../elsewhere")
    assert items(look(repo)) == {("unreadable", ".claude/skills")}


def test_names_that_no_terminal_should_see_are_told_in_ascii(repo: Path) -> None:
    for name in ("a\x1b[2Jb.md", "\u202eb.md", os.fsdecode(b"\xff.md")):
        write(repo / ".claude/commands" / name, "x")
    project = look(repo)
    assert {item.kind for item in project.items} == {"unreadable"}
    assert all(item.path.isascii() and item.path.isprintable() for item in project.items)


def test_more_than_anybody_has_is_not_read(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_ENTRIES", 10)
    monkeypatch.setattr(reading, "MAX_FILES", 5)
    for number in range(9):
        write(repo / f".claude/commands/{number}.md", "x")
        write(repo / f".claude/agents/{number}.md", "x")
    assert len([item for item in look(repo).items if item.kind == "unreadable"]) == 13
    for number in range(9):
        write(repo / f".claude/commands/more{number}.md", "x")
    assert ("unreadable", ".claude/commands") in items(look(repo))


def test_an_at_sign_that_brings_what_lies_elsewhere_is_seen(repo: Path) -> None:
    write(repo.parent / "secret", "x")
    write(repo / "plain.md", "x")
    write(repo / ".env", "x")
    (repo / "link").symlink_to("../secret")
    for name, body in ("a", "@plain.md"), ("b", "a@b.org @pytest.fixture @nothing"):
        write(repo / f".claude/commands/{name}.md", body)
    assert look(repo).items == ()
    for spelt in (
        "@../secret",
        f"@{repo.parent}/secret.",
        "see @link",
        "@.env",
        '@"../secret"',
        "@../secret#L1",
    ):
        write(repo / ".claude/commands/c.md", spelt)
        assert items(look(repo)) == {("command", ".claude/commands/c.md")}, spelt


def test_a_read_of_a_regular_file_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 10)
    assert read_regular(tmp_path, "f", 10) == b"x" * 10
    with pytest.raises(Unread, match="larger than 9"):
        read_regular(tmp_path, "f", 9)
    with pytest.raises(Unread):
        read_regular(tmp_path, "../" + tmp_path.name + "/../x", 9)
    with pytest.raises(Unread):
        read_regular(tmp_path, "a\0b", 9)


# --- work trees -----------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> None:
    me = ("-c", "user.name=x", "-c", "user.email=x@x")
    subprocess.run(["git", *me, *words], cwd=folder, check=True, capture_output=True)


def test_a_work_tree_belongs_to_its_repository_only_if_that_knows_it(tmp_path: Path) -> None:
    main = tmp_path / "main"
    main.mkdir()
    git(main, "init", "-q")
    git(main, "commit", "-q", "--allow-empty", "-m", "x")
    git(main, "worktree", "add", "-q", "../tree")
    assert look(tmp_path / "tree").main == str(main)
    forged = tmp_path / "forged"
    forged.mkdir()
    (forged / ".git").write_bytes((tmp_path / "tree/.git").read_bytes())
    assert look(forged).main == str(forged)
    for text in ("gitdir: /nowhere", "gitdir: \0", "\xff", ""):
        write(forged / ".git", text)
        assert look(forged).main == str(forged)


def test_a_users_own_configuration_is_no_project(tmp_path: Path) -> None:
    """A home that is a repository, or a work dir: what claude reads as the user's is not held against it."""
    home = tmp_path / "home"
    (home / ".git").mkdir(parents=True)
    (home / "src").mkdir()
    write(home / ".claude/settings.json", hooks("own"))
    write(home / ".claude/skills/own/SKILL.md", "!`x`")
    for folder in (home, home / "src"):
        assert read_project(folder, own=home / ".claude").items == ()
        assert read_project(folder, own=tmp_path / "other").items
