"""What is shown of a change; and `git apply` makes of it what the task saw."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from changes import edits
from changes.edits import Edit, Snapshot, snapshot
from changes.worlds import World, lists_of_edits, trees, worlds
from cms.changes import (
    excerpt,
    fits_a_patch,
    freeze,
    load,
    patch,
    read_trees,
    rows,
    stat,
    stat_text,
)
from cms.changes.model import FileChange


def as_git_sees(found: Snapshot) -> Snapshot:
    """Without folders, and of the permissions whether a file may be executed."""
    return {
        path: (kind, 0o755 if mode & 0o100 else 0o644, content)
        for path, (kind, mode, content) in found.items()
        if kind != "dir"
    }


def git_apply(folder: Path, text: bytes) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": "/nonexistent",
        "GIT_DIR": "/dev/null",
    }
    done = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", "-"],
        input=text,
        cwd=folder,
        env=env,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, (done.stderr, text)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=trees(), made=lists_of_edits(12))
def test_git_apply_takes_the_patch(tree: list[Edit], made: list[Edit]) -> None:
    with worlds() as world:
        edits.do(os.fsencode(world.project), tree)
        task = world.begin()
        edits.do(os.fsencode(task.place), made)
        freeze(read_trees(world.project, task.place), world.keep(), task.start)
        text = b"".join(patch(world.keep()))
        for folder, _, _ in os.walk(world.project, topdown=False):
            with contextlib.suppress(OSError):  # git knows no empty folders, and would not replace one
                Path(folder).rmdir()
        world.project.mkdir(exist_ok=True)
        if b"diff --git" in text:
            git_apply(world.project, text)
        assert as_git_sees(snapshot(world.project)) == as_git_sees(snapshot(task.place))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_shown(world: World) -> None:
    world.write(a="1\n2\n3\n", old="moved\n", gone="x\n", run="#!/bin/sh\n")
    (world.project / "data").write_bytes(b"\0\1")
    task = world.begin()
    (task.place / "a").write_text("1\ntwo\n3\n4\n")
    (task.place / "old").rename(task.place / "new name")
    (task.place / "gone").unlink()
    (task.place / "run").chmod(0o755)
    (task.place / "data").write_bytes(b"\0\1\2")
    (task.place / "link").symlink_to("a")
    Path(os.fsdecode(os.fsencode(task.place) + b"/caf\xe9")).write_text("")
    (task.place / "empty").mkdir()
    change = task.freeze()
    found = stat(change)
    assert (found.files, found.added, found.removed) == (8, 4, 3)
    assert " a" in (text := stat_text(change))
    assert "Bin 2 -> 3 bytes" in text
    assert "(mode 100644 => 100755)" in text
    assert text.endswith(" 8 files changed, 4 insertions(+), 3 deletions(-)\n")
    told = {row.path: row for row in rows(change)}
    assert told["new name"].renamed_from == "old"
    assert told["caf\\xe9"].path_base64 == "Y2Fm6Q=="
    assert told["empty"].type == "dir"
    kinds = {path: row.kind for path, row in told.items() if row.kind != "added"}
    assert kinds == {"a": "modified", "data": "modified", "gone": "deleted", "old": "deleted", "run": "mode"}
    assert told["a"] == FileChange(
        "a", "modified", "file", 2, 1, False, "folder", old_mode="100644", mode="100644", size=10
    )


@pytest.mark.parametrize("what", ["text", "folder", "empty folder", "huge", "unknown"])
def test_what_a_patch_cannot_carry(world: World, what: str) -> None:
    world.write(a="1\n")
    task = world.begin()
    if what == "text":
        (task.place / "a").write_text("2\n")
    elif what == "huge":
        with (task.place / "huge").open("wb") as file:
            file.truncate(65 << 20)
    elif what == "unknown":
        (task.place / "a").write_text("2\n")
        world.write(a="3\n")
    else:
        (task.place / "d").mkdir()
    if what == "folder":
        (task.place / "d" / "x").write_text("x\n")
    change = task.freeze()
    assert fits_a_patch(change) == (what in ("text", "folder"))
    text = b"".join(patch(world.keep()))
    assert (b"diff --git" in text) == fits_a_patch(change)


def test_nothing_changed_is_nothing_to_show(world: World) -> None:
    world.write(a="1\n")
    change = world.begin().freeze()
    assert (change.entries, stat_text(change), rows(change)) == ((), "", ())
    assert list(patch(world.keep())) == []
    assert change.empty


def test_an_excerpt_is_bounded_and_has_no_control_characters(world: World) -> None:
    task = world.begin()
    (task.place / "a\x1b[31m").write_text("\x1b]0;title\x07\n" * 1000)
    task.freeze()
    text = excerpt(world.keep(), most_lines=20, most_bytes=500)
    assert len(text) <= 510
    assert text.count("\n") <= 21
    assert all(each.isprintable() or each in "\n\t" for each in text)
    assert "\\x1b]0;title\\x07" in text


def test_a_huge_sparse_file_costs_neither_memory_nor_disk(world: World) -> None:
    world.write(a="1\n")
    task = world.begin()
    with (task.place / "disk").open("wb") as file:
        file.truncate(200 << 30)
        file.seek(100 << 30)
        file.write(b"in the middle")
    freeze(read_trees(world.project, task.place), world.keep(), task.start)
    (entry,) = load(world.keep()).entries
    assert entry.after is not None
    assert entry.after.size == 200 << 30
    assert entry.binary
    kept = next(path for path in (world.keep() / "content").rglob("*") if path.is_file())
    assert kept.stat().st_blocks * 512 < 1 << 22
