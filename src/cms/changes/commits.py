"""The commits that a task made in its own view of the repository: a pack, which is checked when brought in.

Only objects are taken from that view, and where its HEAD stood. Its hooks, settings and index are not looked
at: no program runs that an agent could name.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from cms.changes import git
from cms.changes.content import sync_paths
from cms.changes.model import Commits, Start
from cms.changes.reading import Reading, is_whiteout, overlay
from cms.changes.tree import Tree, join
from cms.errors import MachineError

PACK: Final = "commits.pack"
_MOST_SUBJECTS: Final = 20
#: Bytes of a file that names a commit, and of one that names many.
_LONGEST: Final = 4096
_LONGEST_LIST: Final = 1 << 24


def keep_commits(reading: Reading, keep: Path, start: Start) -> Commits | None:
    """Keep what the task committed, durably. None: nothing, or there is no git or no repository.

    Raises:
        OSError: it cannot be kept.
    """
    repository = git.find_repository(Path(os.path.realpath(reading.base)))
    if git.find() is None or repository is None:
        return None
    with ExitStack() as stack:
        view = _View(reading, repository, stack)
        head, branch = view.head()
        if not head or head == start.commit:
            return None
        lent = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="git-", dir=keep)))
        view.lend_objects(lent)
        places = [lent, repository.common / "objects"]
        objects = stack.enter_context(git.ObjectStore(places, keep, sha256=len(head) == 64))
        wanted = (f"{head}\n" + (f"^{start.commit}\n" if start.commit else "")).encode()
        limit = f"-n{_MOST_SUBJECTS}"
        try:
            count = int(objects.ask("rev-list", "--count", "--stdin", input=wanted))
            subjects = objects.ask("log", "-z", "--format=%s", limit, "--stdin", input=wanted)
            data = objects.ask("pack-objects", "--revs", "--stdout", "-q", input=wanted)
        except MachineError:
            return None  # its HEAD names what is not there: nothing was committed that could be kept
    pack = keep / PACK
    pack.write_bytes(data)
    sync_paths([pack])
    told = tuple(_clean(each) for each in subjects.split(b"\0") if each)
    return Commits(head, branch, count, told)


class _View:
    """The repository's own files as the task left them: in a copy, or in layers on the real ones."""

    def __init__(self, reading: Reading, repository: git.Repository, stack: ExitStack) -> None:
        self.repository = repository
        base = Path(os.path.realpath(reading.base))
        after = stack.enter_context(Tree(reading.after))
        #: Which real folders were covered, by what; of a layer the rest shows through.
        self.covers = [(base, after, reading.layer)]
        for folder, upper in reading.beside:
            with contextlib.suppress(FileNotFoundError):
                self.covers.append((Path(os.path.realpath(folder)), stack.enter_context(Tree(upper)), True))
        if not reading.layer and _is_file(after, b".git"):  # a linked worktree of the repository itself
            self.repository = git.find_repository(reading.after) or repository
            self.covers = []

    def head(self) -> tuple[str, str]:
        """The commit and the branch that HEAD stood at; "" what cannot be told."""
        found = self._read(self.repository.git / "HEAD")
        if not found.startswith(b"ref: refs/heads/"):
            return (found.decode() if git.is_id(found) else ""), ""
        name = found[5:]
        if any(part in (b"", b".", b"..") for part in name.split(b"/")):
            return "", ""
        common = self.repository.common
        commit = self._read(common / os.fsdecode(name))
        if not commit:
            for line in self._read(common / "packed-refs", most=_LONGEST_LIST).splitlines():
                if line.endswith(b" " + name):
                    commit = line.partition(b" ")[0]
        branch = name.removeprefix(b"refs/heads/").decode("utf-8", "backslashreplace")
        return (commit.decode() if git.is_id(commit) else ""), branch

    def lend_objects(self, target: Path) -> None:
        """The task's objects, where git can read them: plain files alone, and no list of further places."""
        objects = self.repository.common / "objects"
        for folder, tree, _ in self.covers:
            if not objects.is_relative_to(folder):
                continue
            place = _relative(objects, folder)
            with contextlib.suppress(OSError):
                for name in tree.names(place):
                    if len(name) == 2 or name == b"pack":
                        _lend_all(tree, join(place, name), target / os.fsdecode(name))

    def _read(self, path: Path, *, most: int = _LONGEST) -> bytes:
        """A small file, as the task had it; b"" if it is not there."""
        covers = [cover for cover in self.covers if path.is_relative_to(cover[0])]
        if covers:  # the innermost
            folder, tree, layer = max(covers, key=lambda cover: len(cover[0].parts))
            below = _relative(path, folder)
            if _is_file(tree, below):
                with contextlib.suppress(OSError), os.fdopen(tree.open(below), "rb") as file:
                    return file.read(most).strip()
            if not layer or _is_hidden(tree, below):
                return b""
        with contextlib.suppress(OSError), path.open("rb") as file:
            return file.read(most).strip()
        return b""


def _relative(path: Path, folder: Path) -> bytes:
    found = os.fsencode(path.relative_to(folder))
    return b"" if found == b"." else found


def _is_file(tree: Tree, path: bytes) -> bool:
    found = tree.look(path)
    return found is not None and stat.S_ISREG(found.st_mode) and not is_whiteout(tree, path, found)


def _is_hidden(tree: Tree, path: bytes) -> bool:
    """Whether a layer hides what is below it at a path: it has something else there, or on the way."""
    for place in _way(path):
        found = tree.look(place)
        if found is None:
            return False
        if not stat.S_ISDIR(found.st_mode) or overlay(tree, place, "opaque") == b"y":
            return True
    return False


def _way(path: bytes) -> Iterator[bytes]:
    names = path.split(b"/")
    for end in range(1, len(names) + 1):
        yield b"/".join(names[:end])


def _lend_all(tree: Tree, folder: bytes, target: Path) -> None:
    with contextlib.suppress(OSError):
        names = tree.names(folder)
        target.mkdir(exist_ok=True)
        for name in names:
            _lend(tree, join(folder, name), target / os.fsdecode(name))


def _lend(tree: Tree, path: bytes, target: Path) -> None:
    found = tree.look(path)
    if found is None or not stat.S_ISREG(found.st_mode):
        return
    above, name = tree.place(path)
    try:
        os.link(name, os.fsencode(target), src_dir_fd=above, follow_symlinks=False)
    except OSError:
        with os.fdopen(tree.open(path), "rb") as source, target.open("wb") as copy:
            while piece := source.read(1 << 20):
                copy.write(piece)


def _clean(subject: bytes) -> str:
    text = subject.decode("utf-8", "backslashreplace")
    return "".join(each if each.isprintable() else "?" for each in text)[:200]
