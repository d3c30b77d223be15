"""What overlayfs leaves, read: as bubblewrap makes it, and as other mounts would."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from changes.edits import snapshot
from changes.worlds import World, bwrap, edit_in_overlay, freeze_layer
from cms.changes import Bound, apply, read_layer, read_trees, revert
from cms.errors import ChangeTooBig, ChangeUnreadable

ROOT = os.geteuid() == 0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    folder.mkdir()
    return folder


def mark(path: Path, name: str, value: bytes = b"y", space: str = "user") -> None:
    try:
        os.setxattr(path, f"{space}.overlay.{name}", value)
    except OSError:
        pytest.skip(f"no attributes of {space} here")


def kinds(world: World, upper: Path, start: object) -> dict[bytes, str]:
    del start
    change = freeze_layer(world, upper, world.start())
    return {entry.path: entry.kind for entry in change.entries}


def test_as_bubblewrap_leaves_it(world: World) -> None:
    program = bwrap()
    if program is None:
        pytest.skip("there is no bubblewrap that knows overlays")
    world.write(
        a="a\n", gone="x\n", mode="x\n", touched="x\n", r__x="x\n", r__s__y="y\n", op__z="z\n", twin="t\n"
    )
    (world.project / "l").symlink_to("a")
    os.link(world.project / "twin", world.project / "twin2")
    start = world.start()
    made = [
        ("append", b"a", b"more\n"), ("remove", b"gone", b""), ("chmod", b"mode", b"755"),
        ("append", b"touched", b""), ("rename", b"r", b"rr"), ("remove", b"op", b""),
        ("write", b"caf\xe9", b"new"), ("mkdir", b"op", b""),
        ("write", b"op/n", b"n"), ("append", b"twin", b"x"), ("remove", b"l", b""), ("mkdir", b"l", b""),
        ("write", b"l/q", b"q"), ("fifo", b"pipe", b""), ("link", b"a", b"hard"),
    ]  # fmt: skip
    upper = edit_in_overlay(program, world.project, world.root, made)
    change = freeze_layer(world, upper, start)
    assert {entry.path: entry.kind for entry in change.entries} == {
        b"a": "modified", b"caf\xe9": "added", b"gone": "deleted", b"hard": "added", b"l": "type",
        b"l/q": "added",
        b"mode": "mode", b"op/n": "added", b"op/z": "deleted", b"r": "deleted", b"r/s": "deleted",
        b"r/s/y": "deleted", b"r/x": "deleted", b"rr": "added", b"rr/s": "added", b"rr/s/y": "added",
        b"rr/x": "added", b"twin": "modified",
    }  # fmt: skip
    assert [(left.path, left.why) for left in change.left_out] == [
        (b"pipe", "a named pipe: only files, folders and links are kept")
    ]
    assert apply(world.keep()).applied
    assert (world.project / "twin").read_text() == "t\nx"
    assert (world.project / "twin2").read_text() == "t\n", "as the task saw it"


@pytest.mark.parametrize("space", ["user", "trusted"])
def test_attributes_for_what_is_gone_and_for_what_is_hidden(world: World, upper: Path, space: str) -> None:
    world.write(d__gone="x\n", d__stays="x\n", op__old="x\n", plain="x\n")
    (upper / "d").mkdir()
    mark(upper / "d", "opaque", b"x", space)  # it has such files in it, and hides nothing
    (upper / "d" / "gone").write_text("")
    mark(upper / "d" / "gone", "whiteout", b"", space)
    (upper / "op").mkdir()
    mark(upper / "op", "opaque", b"y", space)
    (upper / "op" / "new").write_text("n\n")
    (upper / "plain").write_text("")
    assert kinds(world, upper, None) == {
        b"d/gone": "deleted", b"op/new": "added", b"op/old": "deleted", b"plain": "modified",
    }  # fmt: skip


@pytest.mark.skipif(not ROOT, reason="only root can make a device")
def test_a_device_in_place_of_what_is_gone(world: World, upper: Path) -> None:
    world.write(gone__a__b="x\n")
    os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.mknod(upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    change = freeze_layer(world, upper, world.start())
    assert [entry.path for entry in change.entries] == [b"gone", b"gone/a", b"gone/a/b"]
    assert [left.path for left in change.left_out] == [b"null"]


def test_a_renamed_folder_that_was_not_copied(world: World, upper: Path) -> None:
    """`redirect_dir`: by its whole old path, or its old name alone; what is in it is below."""
    world.write(old__keep="k\n", old__gone="g\n", old__sub__deep="d\n", p__a__x="x\n")
    (upper / "new").mkdir()
    mark(upper / "new", "redirect", b"/old")
    (upper / "new" / "sub").mkdir()
    (upper / "new" / "sub" / "more").write_text("m\n")
    (upper / "new" / "gone").write_text("")
    mark(upper / "new" / "gone", "whiteout", b"")
    (upper / "p").mkdir()
    (upper / "p" / "b").mkdir()
    mark(upper / "p" / "b", "redirect", b"a")
    for name in ("old", "p/a"):
        (upper / name).write_text("")
        mark(upper / name, "whiteout", b"")
    freeze_layer(world, upper, world.start())
    assert apply(world.keep()).applied
    found = {path: state[2] for path, state in snapshot(world.project).items() if state[0] == "file"}
    assert found == {b"new/keep": b"k\n", b"new/sub/deep": b"d\n", b"new/sub/more": b"m\n", b"p/b/x": b"x\n"}


def test_a_file_whose_attributes_alone_were_copied(world: World, upper: Path) -> None:
    world.write(a="content\n")
    (upper / "a").write_text("")
    os.truncate(upper / "a", 8)
    (upper / "a").chmod(0o755)
    mark(upper / "a", "metacopy", b"")
    assert kinds(world, upper, None) == {b"a": "mode"}
    assert apply(world.keep()).applied
    assert (world.project / "a").read_text() == "content\n"


@pytest.mark.parametrize("target", [b"/../../etc", b"..", b"/a//b", b""])
def test_a_layer_that_leads_out_is_not_read(world: World, upper: Path, target: bytes) -> None:
    (upper / "a").mkdir()
    mark(upper / "a", "redirect", target)
    with pytest.raises(ChangeUnreadable, match="leads out"):
        read_layer(world.project, upper)


def test_what_is_left_out(world: World, upper: Path) -> None:
    world.write(sock="x\n", inner__a="x\n")
    with socket.socket(socket.AF_UNIX) as sock:
        here = Path.cwd()
        os.chdir(upper)  # a path to a socket must be short
        try:
            sock.bind("sock")
        finally:
            os.chdir(here)
    (upper / "inner").mkdir()
    (upper / "inner" / ".git").mkdir()
    (upper / "inner" / ".git" / "config").write_text("x")
    (upper / "__pycache__").mkdir()
    (upper / "__pycache__" / "a.pyc").write_text("x")
    (upper / "cache").mkdir()
    (upper / "cache" / "CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
    (upper / "cache" / "big").write_text("x")
    (upper / ".git").mkdir()
    (upper / ".git" / "HEAD").write_text("ref: refs/heads/x\n")
    reading = read_layer(world.project, upper)
    assert reading.git
    change = freeze_layer(world, upper, world.start())
    assert {left.path: left.why for left in change.left_out} == {
        b"sock": "a socket: only files, folders and links are kept",
        b"inner/.git": "a repository of its own",
        b"__pycache__": "a cache",
        b"cache": "a cache",
        b".git": "a git repository that the task made: its files are kept, its history is not",
    }
    assert {entry.path: entry.kind for entry in change.entries} == {b"sock": "deleted"}


def test_bounds(world: World, upper: Path) -> None:
    for number in range(5):
        (upper / str(number)).write_text("x" * 100)
    with pytest.raises(ChangeTooBig, match="more than 4 files"):
        read_layer(world.project, upper, Bound(entries=4))
    with pytest.raises(ChangeTooBig, match="too long"):
        read_layer(world.project, upper, Bound(until=0.0))
    shutil.rmtree(upper)
    with pytest.raises(ChangeUnreadable):
        read_layer(world.project, upper)


def make_deep(folder: Path, name: str, depth: int) -> None:
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)


def test_folders_deeper_than_a_path_may_be_long(world: World, upper: Path) -> None:
    make_deep(upper, "x" * 250, 20)
    change = freeze_layer(world, upper, world.start())
    assert len(change.entries) == 20
    assert apply(world.keep()).applied
    assert revert(world.keep()).applied
    assert list(world.project.iterdir()) == []


def test_folders_deeper_than_python_recurses(world: World, upper: Path) -> None:
    make_deep(upper, "x", 1200)
    assert len(read_layer(world.project, upper).seen) == 1200
    subprocess.run(["rm", "-rf", upper], check=True)  # pytest would recurse


def test_the_copy_that_a_task_worked_in(world: World) -> None:
    """What was not touched in the copy is not the task's, whatever has become of the folder meanwhile."""
    from cms.changes import CopyStart, freeze, load, note_copy

    world.write(a="x\n", b="x\n", gone="x\n", theirs="x\n")
    start = world.start()
    copy = world.root / "copy"
    shutil.copytree(world.project, copy)
    noted = note_copy(copy)
    assert isinstance(noted, CopyStart)
    (copy / "a").write_text("task\n")
    (copy / "gone").unlink()
    (copy / "new").write_text("task\n")
    world.write(b="person\n", created="person\n")
    (world.project / "theirs").unlink()
    freeze(read_trees(world.project, copy, copy=noted), world.keep(), start)
    assert {entry.path: (entry.kind, entry.base) for entry in load(world.keep()).entries} == {
        b"a": ("modified", "folder"), b"gone": ("deleted", "folder"), b"new": ("added", "folder"),
    }  # fmt: skip
    assert apply(world.keep()).applied
