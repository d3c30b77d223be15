"""What was found that may be different, before it is kept: where the states before and after can be read."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Final

import msgspec

from cms.changes.model import Bound, LeftOut
from cms.changes.tree import Tree, join
from cms.errors import ChangeTooBig

#: How a folder says that it holds nothing of value (bford.info/cachedir), and under which name.
_TAG: Final = b"CACHEDIR.TAG"
_SIGNATURE: Final = b"Signature: 8a477f597d28d172789f06886806bc55"


class Seen(msgspec.Struct, frozen=True):
    """A path that may have changed: whether it did is seen when the contents are compared.

    What was there before is in `Reading.base`, under the same path.

    Attributes:
        path: relative to the folder.
        after: what is there now is in `Reading.after`, under the same path. If not, and there is no `origin`,
            there is nothing any more.
        origin: what is there now came from this path of `Reading.base`: the content of a file, and, unless
            `after`, all of it. overlayfs does not copy what was only renamed, or had its mode changed.
    """

    path: bytes
    after: bool = True
    origin: bytes | None = None


class Reading(msgspec.Struct, frozen=True):
    """What `read_layer` or `read_trees` found.

    Attributes:
        base: the folder before: of a layer, the folder itself.
        after: the layer, or the folder after.
        seen: sorted by path.
        left_out: what is no file, folder or link, and caches.
        git: there may be something in `.git` that the task wrote, in `after`.
        layer: `after` is the upper folder of a layer, so it has only what differs.
        beside: other folders in which git keeps what it writes, and the upper folders of layers on them.
        commit: `after` began as a checkout of this commit of the repository in `base`, or "".
        copied: paths that were copied into that checkout.
    """

    base: Path
    after: Path
    seen: tuple[Seen, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    git: bool = False
    layer: bool = False
    beside: tuple[tuple[Path, Path], ...] = ()
    commit: str = ""
    copied: frozenset[bytes] = frozenset()


class Collector:
    """What is found, counted."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.left_out: list[LeftOut] = []
        self._seen: dict[bytes, Seen] = {}

    def add(self, seen: Seen) -> None:
        self._seen[seen.path] = seen
        self.count()

    def leave_out(self, path: bytes, why: str) -> None:
        self.left_out.append(LeftOut(path, why))
        self.count()

    def count(self, more: int = 0) -> None:
        """Hold the bound.

        Args:
            more: paths besides those that were told.

        Raises:
            ChangeTooBig: it is passed.
        """
        if len(self._seen) + len(self.left_out) + more > self.bound.entries:
            raise ChangeTooBig(f"the task changed more than {self.bound.entries} files")
        check_time(self.bound)

    def seen(self) -> tuple[Seen, ...]:
        return tuple(self._seen[path] for path in sorted(self._seen))


def check_time(bound: Bound) -> None:
    """Raises `ChangeTooBig` if the time is up."""
    if time.monotonic() > bound.until:
        raise ChangeTooBig("reading what the task changed took too long")


def overlay(tree: Tree, path: bytes, name: str) -> bytes | None:
    """An attribute that overlayfs has given a file or folder of a layer, or None."""
    for space in ("user", "trusted"):
        value = tree.attribute(path, f"{space}.overlay.{name}")
        if value is not None:
            return value
    return None


def is_whiteout(tree: Tree, path: bytes, found: os.stat_result) -> bool:
    """Whether what is found in a layer says that nothing is there."""
    if stat.S_ISCHR(found.st_mode):
        return found.st_rdev == 0
    return stat.S_ISREG(found.st_mode) and not found.st_size and overlay(tree, path, "whiteout") is not None


def is_cache(tree: Tree, path: bytes, base: Tree) -> bool:
    """Whether a folder holds what programs make again: bytecode, or it says so and was not there before."""
    if path.rpartition(b"/")[2] == b"__pycache__":
        return True
    tag = join(path, _TAG)
    if tree.look(tag) is None or (base.look(path) is not None and base.look(tag) is None):
        return False
    try:
        fd = tree.open(tag)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        return file.read(len(_SIGNATURE)) == _SIGNATURE
