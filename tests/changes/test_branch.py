"""A task's commits, and changes as branches; what git ignores. Nothing of a repository runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from changes.worlds import World, freeze_layer
from cms.changes import (
    apply,
    bring_branch,
    freeze,
    load,
    note_copy,
    note_start,
    read_layer,
    read_trees,
    revert,
    stat,
)
from cms.errors import MachineError, WrongChange


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    home = tmp_path / "user"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Ann Example\n\temail = ann@example.org\n")
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    world = World(tmp_path)
    world.write(a="1\n2\n3\n", sub__b="x\n")
    (world.project / ".gitignore").write_text("build/\n*.log\n")
    git(world.project, "init", "-q", "-b", "main")
    git(world.project, "add", ".")
    git(world.project, "commit", "-qm", "first")
    return world


def git(folder: Path, *argv: str) -> str:
    return subprocess.run(
        ["git", *argv], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def layer_of(world: World, place: Path) -> Path:
    """What a layer has after commits were made in it: here all of a copy's .git."""
    upper = world.root / "upper"
    upper.mkdir()
    subprocess.run(["cp", "-a", f"{place}/.git", upper], check=True)
    return upper


def test_one_commit_is_made_of_a_change(world: World) -> None:
    (world.project / ".git" / "hooks").mkdir(exist_ok=True)
    for hook in ("pre-commit", "post-commit", "reference-transaction", "post-index-change"):
        path = world.project / ".git" / "hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {world.root}/ran\n")
        path.chmod(0o755)
    git(world.project, "config", "filter.f.clean", f"touch {world.root}/ran; cat")
    (world.project / ".gitattributes").write_text("* filter=f\n")
    task = world.begin()
    (task.place / "a").write_text("1\n2\nthree\n")
    (task.place / "sub" / "b").unlink()
    (task.place / "tool").write_text("#!/bin/sh\n")
    (task.place / "tool").chmod(0o755)
    (task.place / "link").symlink_to("a")
    task.freeze()
    head, before = git(world.project, "rev-parse", "HEAD"), git(world.project, "status", "--porcelain")
    (world.root / "ran").unlink(missing_ok=True)
    commit = bring_branch(world.keep(), "task", message="What the task did")
    assert not (world.root / "ran").exists()
    assert git(world.project, "rev-parse", "task", "task^") == f"{commit}\n{head}"
    told = git(world.project, "show", "--raw", "--no-abbrev", "--format=%an %ae %cn|%s", commit).splitlines()
    assert told[0] == "Ann Example ann@example.org Ann Example|What the task did"
    assert sorted((line.split()[1], line.split("\t")[1]) for line in told[2:]) == [
        ("000000", "sub/b"), ("100644", "a"), ("100755", "tool"), ("120000", "link"),
    ]  # fmt: skip
    assert git(world.project, "rev-parse", "HEAD") == head
    assert git(world.project, "status", "--porcelain") == before
    with pytest.raises(WrongChange, match="already"):
        bring_branch(world.keep(), "task", message="x")
    with pytest.raises(WrongChange, match="not a valid branch name"):
        bring_branch(world.keep(), "-x..y", message="x")
    assert apply(world.keep()).applied


def test_the_commits_of_a_task_come_along(world: World) -> None:
    task = world.begin()
    (task.place / "a").write_text("1\n2\nthree\n")
    git(task.place, "commit", "-qam", "one \x1b[31m")
    git(task.place, "checkout", "-qb", "feature")
    (task.place / "c").write_text("c\n")
    git(task.place, "add", "c")
    git(task.place, "commit", "-qm", "two")
    git(task.place, "pack-refs", "--all")
    git(task.place, "gc", "-q")
    (task.place / "a").write_text("one\n2\nthree\n")
    upper = layer_of(world, task.place)
    for name in ("a", "c"):
        (upper / name).write_text((task.place / name).read_text())
    (upper / ".git" / "objects" / "info" / "alternates").write_text("/nowhere\n")
    change = freeze_layer(world, upper, task.start)
    assert change.commits is not None
    assert change.commits.branch == "feature"
    assert change.commits.subjects == ("two", "one ?[31m")
    assert stat(change).commits == 2
    assert [entry.path for entry in change.entries] == [b"a", b"c"]
    subprocess.run(["rm", "-rf", upper, task.place], check=True)
    commit = bring_branch(world.keep(), "task", message="left over")
    log = git(world.project, "log", "--format=%s", "main..task").splitlines()
    assert [line[:3] for line in log] == ["lef", "two", "one"]
    assert git(world.project, "show", f"{commit}:a") == "one\n2\nthree"
    assert git(world.project, "diff", "--name-only", f"{commit}^", commit) == "a"
    git(world.project, "fsck", "--strict")


@pytest.mark.parametrize("where", ["part", "worktree"])
def test_commits_in_a_repository_that_lies_beside(world: World, where: str) -> None:
    """The folder is a part of a work tree, or a linked one: git writes elsewhere, in more layers."""
    repository = world.project
    if where == "worktree":
        git(repository, "worktree", "add", "-q", "-b", "side", str(world.root / "linked"))
        inner, written = world.root / "linked", [repository / ".git" / "worktrees" / "linked"]
        written += [repository / ".git" / name for name in ("objects", "refs", "logs")]
    else:
        inner, written = repository / "sub", [repository / ".git"]
    start = note_start(inner)
    assert start.branch == ("side" if where == "worktree" else "main")
    # The same work in a twin of all of it: what it wrote is what the layers have.
    subprocess.run(["cp", "-a", repository, world.root / "saved"], check=True)
    (inner / "b").write_text("task\n")
    git(inner, "add", "b")
    git(inner, "commit", "-qm", "from a part")
    commit = git(inner, "rev-parse", "HEAD")
    beside = []
    for number, folder in enumerate(written):
        subprocess.run(["cp", "-a", folder, world.root / f"upper{number}"], check=True)
        beside.append((folder, world.root / f"upper{number}"))
    shutil.rmtree(repository)
    (world.root / "saved").rename(repository)
    upper = world.root / "upper"
    upper.mkdir()
    (upper / "b").write_text("task\n")
    change = freeze(read_layer(inner, upper, beside=beside), world.keep(), start)
    assert change.commits is not None
    assert (change.commits.head, change.commits.count) == (commit, 1)
    assert change.commits.subjects == ("from a part",)
    bring_branch(world.keep(), "task", message="x")
    assert git(repository, "log", "--format=%s", "main..task").splitlines()[-1] == "from a part"
    assert git(repository, "branch", "--list", "side", "--format=%(objectname)") in ("", start.commit)


def test_a_branch_that_the_task_deleted_and_packed(world: World) -> None:
    """What a layer hides is not read from below: HEAD names a branch that is in `packed-refs` by now."""
    task = world.begin()
    (task.place / "c").write_text("c\n")
    git(task.place, "add", "c")
    git(task.place, "commit", "-qm", "packed")
    git(task.place, "pack-refs", "--all")
    upper = layer_of(world, task.place)
    (upper / ".git" / "refs" / "heads").mkdir(parents=True, exist_ok=True)
    gone = upper / ".git" / "refs" / "heads" / "main"
    gone.write_text("")
    try:
        os.setxattr(gone, "user.overlay.whiteout", b"")
    except OSError:
        pytest.skip("no attributes here")
    change = freeze_layer(world, upper, task.start)
    assert change.commits is not None
    assert change.commits.subjects == ("packed",)


def test_a_repository_that_the_task_made(tmp_path: Path) -> None:
    plain = World(make(tmp_path / "plain"))
    task = plain.begin()
    git(task.place, "init", "-q")
    (task.place / "a").write_text("a\n")
    change = freeze(read_trees(plain.project, task.place), plain.keep(), task.start)
    assert change.commits is None
    assert [left.path for left in change.left_out] == [b".git"]


def test_nothing_to_bring(world: World) -> None:
    task = world.begin()
    (task.place / "x.log").write_text("x\n")
    task.freeze()
    with pytest.raises(WrongChange, match="nothing"):
        bring_branch(world.keep(), "task", message="x")
    assert git(world.project, "branch", "--list", "task") == ""


def test_in_a_folder_of_a_repository(world: World) -> None:
    inner = World.__new__(World)
    inner.__dict__.update({**world.__dict__, "project": world.project / "sub"})
    task = inner.begin()
    (task.place / "b").write_text("y\n")
    task.freeze()
    commit = bring_branch(world.keep(), "task", message="x")
    assert git(world.project, "diff", "--name-only", "main", commit) == "sub/b"


def test_no_repository_and_no_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    task = world.begin()
    (task.place / "a").write_text("y\n")
    task.freeze()
    with pytest.raises(WrongChange, match="not in a git repository"):
        bring_branch(world.keep(), "task", message="x", folder=world.root / "user")
    (world.root / "user" / ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    with pytest.raises(MachineError):
        bring_branch(world.keep(), "task", message="x")


def test_what_git_ignores_is_kept_but_not_applied(world: World) -> None:
    (world.project / "link").symlink_to("sub")
    task = world.begin()
    (task.place / "a").write_text("y\n")
    (task.place / "build").mkdir()
    (task.place / "build" / "out").write_text("x\n")
    for name in ("x.log", ":(top)y.log", "kept"):
        (task.place / name).write_text("x\n")
    (task.place / "link").unlink()
    (task.place / "link").mkdir()
    (task.place / "link" / "a").write_text("x\n")
    task.freeze()
    change = load(world.keep())
    ignored = {entry.path for entry in change.entries if entry.ignored}
    assert ignored == {b"build", b"build/out", b"x.log", b":(top)y.log"}
    assert (stat(change).files, stat(change).ignored) == (4, 4)
    assert apply(world.keep()).written == (b"a", b"kept", b"link", b"link/a")
    assert git(world.project, "status", "--porcelain").splitlines() == ["M a", "?? kept", "?? link/"]
    assert revert(world.keep()).applied
    assert apply(world.keep(), ignored=True).applied
    assert (world.project / "build" / "out").exists()


def test_a_worktree_is_compared_with_its_commit(world: World) -> None:
    """What is dirty in the folder is not in the worktree, and no change of the task's."""
    world.write(dirty="mine\n", sub__b="dirty\n", env="KEY=1\n")
    place = world.root / "worktree"
    start = world.start()
    git(world.project, "worktree", "add", "-q", "--detach", str(place))
    (place / "env").write_text("KEY=1\n")
    noted = note_copy(place)
    (place / "a").write_text("1\n2\nthree\n")
    (place / "new").write_text("n\n")
    git(place, "add", "new")
    git(place, "commit", "-qm", "in the worktree")
    reading = read_trees(world.project, place, copy=noted, commit=start.commit, copied=[b"env"])
    change = freeze(reading, world.keep(), start)
    assert {entry.path: (entry.kind, entry.base) for entry in change.entries} == {
        b"a": ("modified", "commit"), b"new": ("added", "commit"),
    }  # fmt: skip
    assert change.commits is not None
    assert change.commits.count == 1
    assert apply(world.keep()).applied
    assert (world.project / "sub" / "b").read_text() == "dirty\n"
