"""The difference of two folders: where there is no overlay, the task worked in a copy or a git worktree.

What the copy was is noted before the task sees it. A path whose inode has not changed since (ctime, which no
program can set back) is not the task's doing, however the real folder has moved on; and what was never in the
copy cannot have been deleted there.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from cms.changes.model import UNBOUND, Bound
from cms.changes.reading import Collector, Reading, Seen, is_cache
from cms.changes.tree import Tree, join, node_type
from cms.errors import ChangeUnreadable

_KEPT = ("file", "dir", "link")
#: Seconds in which a file system may give the same time to two changes.
_TICK = 0.02


class CopyStart(msgspec.Struct, frozen=True):
    """A copy before the task sees it, to be kept beside it.

    Attributes:
        since: the newest ctime in it.
        names: all paths in it.
    """

    since: float
    names: tuple[bytes, ...]


def note_copy(after: Path, bound: Bound = UNBOUND) -> CopyStart:
    """To be called when the copy is made, and kept for `read_trees`.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: it cannot be read.
    """
    names: list[bytes] = []
    since = 0.0
    found = Collector(bound)
    try:
        with Tree(after) as tree:
            todo = [b""]
            while todo:
                folder = todo.pop()
                for name in tree.names(folder):
                    path = join(folder, name)
                    if (place := tree.look(path)) is None:
                        continue
                    found.count(len(names))
                    names.append(path)
                    since = max(since, place.st_ctime)
                    if stat.S_ISDIR(place.st_mode) and name != b".git":
                        todo.append(path)
            since = max(since, os.fstat(tree.fd).st_ctime)
    except OSError as error:
        raise ChangeUnreadable(f"{after} cannot be read: {error.strerror or error}") from error
    time.sleep(_TICK)
    return CopyStart(since, tuple(names))


def read_trees(
    base: Path,
    after: Path,
    bound: Bound = UNBOUND,
    *,
    copy: CopyStart | None = None,
    commit: str = "",
    copied: Collection[bytes] = (),
) -> Reading:
    """Compare two folders, by what they hold.

    Args:
        base: the folder that the copy was made of. What has changed in it since is not taken for the task's:
            see `freeze`.
        after: the copy, in which the task worked.
        copy: what was noted of it. None: `base` has not been touched since either.
        commit: the copy began as a checkout of this commit of the repository in `base` (a git worktree), so
            that is what it is compared with.
        copied: files that were copied from `base` into that checkout.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: one of them cannot be read.
    """
    try:
        with Tree(base) as old, Tree(after) as new:
            comparer = _Comparer(old, new, Collector(bound), copy)
            comparer.walk()
    except OSError as error:
        raise ChangeUnreadable(
            f"{after} cannot be compared with {base}: {error.strerror or error}"
        ) from error
    found = comparer.found
    return Reading(
        base,
        after,
        found.seen(),
        tuple(found.left_out),
        git=comparer.git,
        commit=commit,
        copied=frozenset(copied),
    )


class _Comparer:
    def __init__(self, old: Tree, new: Tree, found: Collector, copy: CopyStart | None) -> None:
        self.old = old
        self.new = new
        self.found = found
        self.copy = copy
        self.had = None if copy is None else frozenset(copy.names)
        self.git = False

    def walk(self) -> None:
        todo = [b""]
        while todo:
            folder = todo.pop()
            names: set[bytes] = set()
            for tree in (self.old, self.new):
                place = tree.look(folder)
                if place is not None and stat.S_ISDIR(place.st_mode):
                    names.update(tree.names(folder))
            todo += [join(folder, name) for name in sorted(names) if self._compare(join(folder, name), name)]

    def _compare(self, path: bytes, name: bytes) -> bool:
        """One name of either. Returns whether to look into it."""
        before, now = self.old.look(path), self.new.look(path)
        if path == b".git":
            self.git = now is not None
            return False
        if name == b".git":
            if before is None or now is None:
                self.found.leave_out(path, "a repository of its own")
            return False
        if now is not None and node_type(now) not in _KEPT:
            if before is None or node_type(before) != node_type(now):
                self.found.leave_out(path, f"{node_type(now)}: only files, folders and links are kept")
            now = None
        if before is not None and node_type(before) not in _KEPT:
            before = None
        if now is None and (before is None or (self.had is not None and path not in self.had)):
            return False
        is_folder = now is not None and stat.S_ISDIR(now.st_mode)
        if is_folder and is_cache(self.new, path, self.old):
            self.found.leave_out(path, "a cache")
            return False
        if now is not None and self.copy is not None and now.st_ctime <= self.copy.since:
            self.found.count()
        else:
            self.found.add(Seen(path, after=now is not None))
        return is_folder or (before is not None and stat.S_ISDIR(before.st_mode))
