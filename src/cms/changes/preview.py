"""What a folder would be with a change applied, without touching it: for whoever checks that first.

Written as a layer for an overlay on the folder (what is gone is a whiteout there), or into a copy of it.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from cms.changes import locks
from cms.changes.content import Store
from cms.changes.freeze import load
from cms.changes.model import UNBOUND, Forbids, Node, Outcome, Refusal
from cms.changes.planning import Step, make_plan
from cms.changes.told import read_told
from cms.changes.tree import Tree


def preview(
    keep: Path, folder: Path, into: Path, *, forbids: Forbids, layer: bool, wait: float = 60.0
) -> Outcome:
    """Write what an apply would write, were it done now; nothing if something stands in its way.

    Args:
        folder: where it would be applied.
        into: an empty folder, which becomes the layer; or the copy.
        layer: which of them it is.
        wait: seconds for another apply to end.

    Raises:
        ChangeNotFound: there is none.
        OSError: it cannot be written.
    """
    entries = [entry for entry in load(keep).entries if not entry.ignored]
    try:
        with locks.hold(keep.parent, folder, wait), Tree(folder) as tree:
            store = Store(keep / "content", UNBOUND)
            plan = make_plan(entries, folder, tree, store, forbids, told=read_told(keep))
            if not plan.refused:
                writer = _Writer(tree, into, store, layer=layer)
                for step in plan.steps:
                    writer.put(step)
                writer.close()
    except locks.Busy:
        return Outcome(
            applied=False, refused=(Refusal(b"", "busy", f"another apply is running in {folder}"),)
        )
    return Outcome(
        applied=False,
        written=tuple(step.path for step in plan.steps),
        merged=tuple(step.path for step in plan.steps if step.merged),
        same=plan.same,
        refused=plan.refused,
    )


class _Writer:
    def __init__(self, tree: Tree, into: Path, store: Store, *, layer: bool) -> None:
        self.tree = tree
        self.into = into
        self.store = store
        self.layer = layer
        self._gone: set[bytes] = set()  # folders that are none any more
        self._modes: list[tuple[Path, int]] = []

    def put(self, step: Step) -> None:
        """Make it so. Steps come in the order of their paths: folders before what is in them."""
        names = step.path.split(b"/")
        above = [b"/".join(names[:end]) for end in range(1, len(names))]
        if any(each in self._gone for each in above):
            return
        for each in above:
            place = self.into / os.fsdecode(each)
            if not place.is_dir():
                found = self.tree.look(each)
                place.mkdir()
                self._modes.append((place, 0o755 if found is None else stat.S_IMODE(found.st_mode)))
        place = self.into / os.fsdecode(step.path)
        kept = step.then is not None and step.then.type == "dir"
        if step.now is not None and step.now.type == "dir" and not kept:
            self._gone.add(step.path)
        if not kept:
            self._clear(place)
        if step.then is not None:
            self._write(place, step.then)
        elif self.layer:
            os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))

    def _write(self, place: Path, node: Node) -> None:
        if node.type == "link":
            place.symlink_to(os.fsdecode(node.target))
        elif node.type == "dir":
            if not place.is_dir():
                self._clear(place)
                place.mkdir()
            self._modes.append((place, node.mode))
        else:
            with self.store.path(node.content).open("rb") as read, place.open("xb") as written:
                shutil.copyfileobj(read, written, 1 << 20)
            place.chmod(node.mode)

    def _clear(self, place: Path) -> None:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif os.path.lexists(place):
            place.unlink()

    def close(self) -> None:
        """Modes at last, from the inside out: what may not be written had to be filled."""
        for place, mode in reversed(self._modes):
            if place.is_dir():
                place.chmod(mode)
