"""What overlayfs left in the upper folder of a layer.

Seen with bubblewrap 0.11 on Linux 6.18, as root and as an ordinary user (the kernel's documentation says the
rest, `Documentation/filesystems/overlayfs.rst`):

- What was written or had its mode changed is there, whole. A hard link is not kept: of two names that were
  one file, the one that was written is a copy.
- What is gone has a character device 0:0 in its place, or (in a folder with `overlay.opaque` = `x`) an empty
  file with `overlay.whiteout`.
- A folder that was made where another one had been has `overlay.opaque` = `y`: nothing below shows through.
- To rename a folder fails with EXDEV, and programs copy it then. With `redirect_dir` (root's mounts can have
  it) it has `overlay.redirect` instead, with its old path, and shows what is there.
- With `metacopy` a file whose mode alone was changed has `overlay.metacopy`, and its bytes are below.

The attributes have the prefix `user.` in a user namespace, `trusted.` else.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

from cms.changes.model import UNBOUND, Bound
from cms.changes.reading import Collector, Reading, Seen, is_cache, is_whiteout, overlay
from cms.changes.tree import Tree, join, node_type
from cms.errors import ChangeUnreadable


def read_layer(
    lower: Path, upper: Path, bound: Bound = UNBOUND, *, beside: Sequence[tuple[Path, Path]] = ()
) -> Reading:
    """Look through the upper folder of an overlay on `lower`. The overlay may still be mounted.

    Args:
        beside: other folders in which git keeps what it writes, and the upper folders of layers on them: for
            the commits of a task in a part of a repository, or in a linked worktree.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: it cannot be read, or is no layer that we understand.
    """
    try:
        with Tree(lower) as below, Tree(upper) as above:
            reader = _Reader(below, above, bound)
            reader.walk()
            found = reader.found
            git = reader.git or any(any(place.iterdir()) for _, place in beside)
            return Reading(
                lower,
                upper,
                found.seen(),
                tuple(found.left_out),
                git=git,
                layer=True,
                beside=tuple(beside),
            )
    except OSError as error:
        raise ChangeUnreadable(f"the layer {upper} cannot be read: {error.strerror or error}") from error


class _Reader:
    def __init__(self, below: Tree, above: Tree, bound: Bound) -> None:
        self.below = below
        self.above = above
        self.found = Collector(bound)
        self.git = False
        #: Folders of the layer to look into, and which folder of the base shows through, if any.
        self._todo: list[tuple[bytes, bytes | None]] = [(b"", b"")]

    def walk(self) -> None:
        while self._todo:
            folder, through = self._todo.pop()
            try:
                names = self.above.names(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue  # the task is at work, and has removed it
            for name in names:
                path = join(folder, name)
                self._look(path, None if through is None else join(through, name))
            if through != folder:
                self._what_does_not_show(folder, through, set(names))

    def _look(self, path: bytes, through: bytes | None) -> None:
        """One name in the layer.

        Args:
            through: the path in the base that would show if this name were not in the layer.
        """
        found = self.above.look(path)
        if found is None:
            return
        if is_whiteout(self.above, path, found):
            self._gone(path)
            return
        if path == b".git":
            self.git = True
            return
        kind = node_type(found)
        if kind not in ("file", "dir", "link"):
            self.found.leave_out(path, f"{kind}: only files, folders and links are kept")
            if self.below.look(path) is not None:
                self._gone(path)
            return
        if kind == "dir":
            if path.endswith(b"/.git") or is_cache(self.above, path, self.below):
                self.found.leave_out(
                    path, "a repository of its own" if path.endswith(b"/.git") else "a cache"
                )
                return
            self.found.add(Seen(path))
            self._todo.append((path, self._shown_by(path, through)))
            return
        if path.endswith(b"/.git"):
            self.found.leave_out(path, "a repository of its own")
            return
        origin = None
        if kind == "file" and overlay(self.above, path, "metacopy") is not None:
            origin = self._redirected(path, through) or through
            if origin is None:
                raise ChangeUnreadable(f"the layer has no content of {path!r}")
        self.found.add(Seen(path, origin=origin))
        self._gone_below(path)

    def _shown_by(self, path: bytes, through: bytes | None) -> bytes | None:
        """Which folder of the base shows through one of the layer."""
        if overlay(self.above, path, "opaque") == b"y":
            return None
        through = self._redirected(path, through) or through
        below = None if through is None else self.below.look(through)
        if below is None:
            return path  # nothing does; nor was anything there that could be gone
        return through if stat.S_ISDIR(below.st_mode) else None

    def _redirected(self, path: bytes, through: bytes | None) -> bytes | None:
        told = overlay(self.above, path, "redirect")
        if told is None:
            return None
        if told.startswith(b"/"):
            target = told.strip(b"/")
        else:
            target = join((path if through is None else through).rpartition(b"/")[0], told)
        if any(name in (b"", b".", b"..") for name in target.split(b"/")):
            raise ChangeUnreadable(f"the layer leads out of the folder at {path!r}")
        return target

    def _what_does_not_show(self, folder: bytes, through: bytes | None, names: set[bytes]) -> None:
        """A folder that hides what was there, or shows another one's content: what is gone, what came."""
        came = set()
        if through is not None:
            for name in self.below.names(through):
                if name not in names:
                    came.add(name)
                    self._came(join(folder, name), join(through, name))
        below = self.below.look(folder)
        if below is not None and stat.S_ISDIR(below.st_mode):
            for name in self.below.names(folder):
                if name not in names and name not in came:
                    self._gone(join(folder, name))

    def _came(self, path: bytes, origin: bytes) -> None:
        """What a redirected folder shows of its old place."""
        todo = [(path, origin)]
        while todo:
            path, origin = todo.pop()
            found = self.below.look(origin)
            if found is None or node_type(found) not in ("file", "dir", "link"):
                continue
            self.found.add(Seen(path, after=False, origin=origin))
            if stat.S_ISDIR(found.st_mode):
                todo += [(join(path, name), join(origin, name)) for name in self.below.names(origin)]
            else:
                self._gone_below(path)

    def _gone(self, path: bytes) -> None:
        """A path that is not there any more, and all that was in it."""
        below = self.below.look(path)
        if path == b".git":
            self.git = True
        elif path.endswith(b"/.git"):
            self.found.leave_out(path, "a repository of its own")
        elif below is None or node_type(below) in ("file", "dir", "link"):
            self.found.add(Seen(path, after=False))
            self._gone_below(path)
        else:
            self.found.leave_out(path, f"{node_type(below)}: only files, folders and links are kept")

    def _gone_below(self, path: bytes) -> None:
        todo = [path]
        while todo:
            folder = todo.pop()
            found = self.below.look(folder)
            if found is not None and stat.S_ISDIR(found.st_mode):
                for name in self.below.names(folder):
                    child = join(folder, name)
                    if name == b".git":
                        self.found.leave_out(child, "a repository of its own")
                        continue
                    self.found.add(Seen(child, after=False))
                    todo.append(child)
