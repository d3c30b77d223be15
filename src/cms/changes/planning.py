"""What an apply would do to a folder as it is now, and what stands in its way. The folder is only looked at.

For each path there are three states: before the task (the base), after it, and what the folder has now. What
the folder has is kept if the task did not change it, and replaced if nobody else did. Where both changed it,
two texts are merged; anything else is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from cms.changes import git, lines
from cms.changes.content import Store
from cms.changes.freeze import read_node
from cms.changes.model import Entry, Forbids, Node, Refusal, Why
from cms.changes.names import as_text
from cms.changes.told import Told
from cms.changes.tree import ThroughLink, Tree, node_type
from cms.units import plural

_LABELS: Final = ("folder", "before the task", "task")


class Step(msgspec.Struct, frozen=True):
    """One path to be changed.

    Attributes:
        now: what is there, None: nothing.
        then: what is to be there, None: nothing.
        device: of what is there, with `inode`, `size`, `mtime` (ns): by these it is known again. 0: nothing.
        ctime: of what is there, seconds since the epoch.
        merged: changes of both are in `then`.
        marked: with conflict markers.
    """

    path: bytes
    now: Node | None
    then: Node | None
    device: int = 0
    inode: int = 0
    size: int = 0
    mtime: int = 0
    ctime: float = 0.0
    merged: bool = False
    marked: bool = False

    @property
    def mode_only(self) -> bool:
        """Whether it is there already, but for its permissions."""
        return (
            self.now is not None
            and self.then is not None
            and self.now.type == self.then.type
            and self.now.type != "link"
            and self.now.content == self.then.content
        )


class Plan(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        steps: sorted by path.
        same: paths that are as they should be already.
        refused: what stands in the way.
    """

    steps: tuple[Step, ...] = ()
    same: tuple[bytes, ...] = ()
    refused: tuple[Refusal, ...] = ()


class _Refused(Exception):
    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why: Why = why
        self.detail = detail


def make_plan(
    entries: Sequence[Entry],
    folder: Path,
    tree: Tree,
    store: Store,
    forbids: Forbids,
    *,
    told: Mapping[bytes, Told],
    markers: bool = False,
) -> Plan:
    """Work it out. What the folder has now of the paths is kept in the store, and merged texts are put there.

    Args:
        told: what the task was told of others' changes.
        folder: the target, as people know it.
        tree: the target, open.

    Raises:
        OSError: the folder or the store cannot be read or written as a whole (no space).
    """
    busy = git.under_way(folder)
    if busy:
        return Plan(refused=(Refusal(b"", "repository", f"{folder} is in the middle of {busy}"),))
    planner = _Planner(folder, tree, store, forbids, told, markers)
    for entry in entries:
        planner.add(entry)
    planner.settle()
    return planner.plan()


class _Planner:
    def __init__(
        self,
        folder: Path,
        tree: Tree,
        store: Store,
        forbids: Forbids,
        told: Mapping[bytes, Told],
        markers: bool,
    ) -> None:
        self.folder = folder
        self.tree = tree
        self.store = store
        self.forbids = forbids
        self.told = told
        self.markers = markers
        self.device = os.fstat(tree.fd).st_dev
        self.steps: dict[bytes, Step] = {}
        self.same: list[bytes] = []
        self.refused: dict[bytes, Refusal] = {}
        self._nested: dict[bytes, bool] = {b"": False}
        self._listed: dict[bytes, frozenset[bytes]] = {}

    def plan(self) -> Plan:
        return Plan(
            tuple(self.steps[path] for path in sorted(self.steps)),
            tuple(self.same),
            tuple(self.refused[path] for path in sorted(self.refused)),
        )

    def refuse(self, path: bytes, why: Why, detail: str) -> None:
        self.refused[path] = Refusal(path, why, detail)
        self.steps.pop(path, None)

    # --- one path ---------------------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Decide about one path by itself."""
        path = entry.path
        try:
            found = self._find(path)
            now = None if found is None else self._read(path, found)
            then, merged, conflicts = self._decide(entry, now)
            if then == now:
                self.same.append(path)
                return
            self._check_allowed(path)
            if then is not None and then.type == "link" and then != entry.before:
                self._check_link(path, then.target)
        except _Refused as refused:
            self.refuse(path, refused.why, refused.detail)
            return
        except ThroughLink:
            self.refuse(path, "link", "one of its parent folders is a link now")
            return
        except PermissionError as error:
            self.refuse(path, "permission", f"cannot be read: {error.strerror}")
            return
        step = Step(path, now, then, merged=merged, marked=bool(conflicts))
        if found is not None:
            step = msgspec.structs.replace(
                step,
                device=found.st_dev,
                inode=found.st_ino,
                size=found.st_size,
                mtime=found.st_mtime_ns,
                ctime=found.st_ctime,
            )
        self.steps[path] = step

    def _find(self, path: bytes) -> os.stat_result | None:
        try:
            found = self.tree.look(path, strict=True)
        except ThroughLink:
            if not self._becomes_folder(path.rpartition(b"/")[0]):
                raise
            return None
        if found is None:
            return None
        above, _, name = path.rpartition(b"/")
        if name not in self._names(above):
            other = next((each for each in self._names(above) if _folded(each) == _folded(name)), b"?")
            raise _Refused("case", f"is one with {as_text(other)} on this file system")
        if found.st_dev != self.device:
            raise _Refused("mount", "lies on another file system than the folder")
        return found

    def _becomes_folder(self, folder: bytes) -> bool:
        """Whether a link on the way there is to be replaced by a folder: that was planned before."""
        while folder:
            step = self.steps.get(folder)
            if step is None or step.then is None or step.then.type != "dir":
                return False
            if step.now is not None and step.now.type == "link":
                return True
            folder = folder.rpartition(b"/")[0]
        return False

    def _names(self, folder: bytes) -> frozenset[bytes]:
        if folder not in self._listed:
            names: frozenset[bytes] = frozenset()
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                names = frozenset(self.tree.names(folder))
            self._listed[folder] = names
        return self._listed[folder]

    def _read(self, path: bytes, found: os.stat_result) -> Node:
        kind = node_type(found)
        if kind not in ("file", "dir", "link"):
            raise _Refused("changed", f"{kind} is there now")
        return read_node(self.tree, path, found, self.store, known=True)

    def _decide(self, entry: Entry, now: Node | None) -> tuple[Node | None, bool, int]:
        """What is to be there; whether that is a merge; how many conflicts it has."""
        before, after = entry.before, entry.after
        if now == after:
            return now, False, 0
        if entry.base == "unknown":
            raise _Refused(
                "unknown",
                "it changed after the task started, and its earlier content is unknown"
                if now is not None
                else "it was deleted after the task started",
            )
        if now == before:
            return after, False, 0
        if now is None:
            raise _Refused("changed", "it was deleted in the folder meanwhile")
        if after is None:
            raise _Refused("changed", "the task deleted it, but it was changed in the folder meanwhile")
        if now.type == after.type == "dir":
            mode = after.mode if before is not None and now.mode == before.mode else now.mode
            return msgspec.structs.replace(now, mode=mode), False, 0
        if now.type == after.type == "file" and (before is None or before.type == "file"):
            return self._merge(entry.path, before, after, now)
        raise _Refused(
            "changed",
            "it was created in the folder meanwhile, with other content"
            if before is None
            else "it was changed in the folder meanwhile",
        )

    def _merge(self, path: bytes, before: Node | None, after: Node, now: Node) -> tuple[Node, bool, int]:
        mode = now.mode if before is None or after.mode == before.mode else after.mode
        if before is not None and now.mode not in (before.mode, mode) and after.mode != before.mode:
            raise _Refused("changed", "its permissions were changed differently in the folder meanwhile")
        if now.content == after.content or (before is not None and before.content == after.content):
            return msgspec.structs.replace(now, mode=mode), True, 0
        if before is not None and before.content == now.content:
            return msgspec.structs.replace(after, mode=mode), True, 0
        answered = path in self.told and self.told[path].is_answered(now, after)
        if before is None and not self.markers and not answered:
            raise _Refused("changed", "it was created in the folder meanwhile, with other content")
        texts = []
        for node in (now, before, after):
            if node is not None and node.size > lines.BIGGEST_TEXT:
                raise _Refused("changed", "it was changed in the folder meanwhile, and is too big to merge")
            texts.append(b"" if node is None else self.store.read(node.content))
        if any(lines.is_binary(text) for text in texts):
            raise _Refused("changed", "it was changed in the folder meanwhile, and is not text")
        merged = lines.merge(
            texts[0], texts[1], texts[2], _LABELS, self.store.folder.parent, theirs_wins=answered
        )
        if merged.conflicts and not self.markers:
            where = plural(merged.conflicts, "place")
            raise _Refused("conflict", f"both changed the same lines, in {where}")
        content = self.store.add_bytes(merged.text)
        return Node("file", mode, len(merged.text), content), True, merged.conflicts

    # --- what must not be -------------------------------------------------------------------------

    def _check_allowed(self, path: bytes) -> None:
        why = self.forbids(path)
        if why:
            raise _Refused("protected", why)
        if any(is_git_name(name) for name in path.split(b"/")):
            raise _Refused("nested", "it belongs to a repository itself")
        above = path.rpartition(b"/")[0]
        if self._in_nested(above):
            raise _Refused("nested", "it is inside a nested git repository")

    def _in_nested(self, folder: bytes) -> bool:
        way = [folder]
        while way[-1] not in self._nested:
            way.append(way[-1].rpartition(b"/")[0])
        nested = self._nested[way.pop()]
        for each in reversed(way):
            nested = nested or self.tree.look(each + b"/.git") is not None
            self._nested[each] = nested
        return nested

    def _check_link(self, path: bytes, target: bytes) -> None:
        root = os.fsencode(os.path.realpath(self.folder))
        if target.startswith(b"/"):
            inside = target == root or target.startswith(root.rstrip(b"/") + b"/")
            if not inside or b".." in target.split(b"/"):
                raise _Refused("outside", f"a link to {as_text(target)}, outside the folder")
            return
        depth = path.count(b"/")
        names = [name for name in target.split(b"/") if name not in (b"", b".")]
        ups = 0
        while ups < len(names) and names[ups] == b"..":
            ups += 1
        # After a name there may be no way up: the name may be a link itself, and up from where that leads.
        if ups > depth or b".." in names[ups:]:
            raise _Refused("outside", f"a link to {as_text(target)}, outside the folder")

    # --- one for the others -----------------------------------------------------------------------

    def settle(self) -> None:
        """Refuse what hangs on a path that is refused, or on what the folder has besides."""
        self._check_names()
        before = -1
        while len(self.refused) != before:
            before = len(self.refused)
            for step in list(self.steps.values()):
                self._check_way(step)
                self._check_emptied(step)

    def _check_way(self, step: Step) -> None:
        """What is to be made needs a folder to be in."""
        above = step.path.rpartition(b"/")[0]
        if step.then is None or not above:
            return
        made = self.steps.get(above)
        if made is not None and made.then is not None and made.then.type == "dir":
            return
        found = self.tree.look(above)
        if made is None and found is not None and stat.S_ISDIR(found.st_mode):
            return
        self.refuse(step.path, "changed", f"{as_text(above)} is not a folder there")

    def _check_emptied(self, step: Step) -> None:
        """A folder that is to go must hold nothing but what goes, too."""
        if step.now is None or step.now.type != "dir" or (step.then is not None and step.then.type == "dir"):
            return
        for name in self._names(step.path):
            child = self.steps.get(step.path + b"/" + name)
            if child is None or child.then is not None:
                self.refuse(step.path, "changed", f"{as_text(name)} is in it and stays")
                return

    def _check_names(self) -> None:
        """Two new names that are one where no case is told apart."""
        known: dict[str, bytes] = {}
        for step in list(self.steps.values()):
            if step.then is None or step.now is not None:
                continue
            folded = _folded(step.path)
            if folded in known and ignores_case(self.tree):
                self.refuse(step.path, "case", f"is one with {as_text(known[folded])} on this file system")
            known.setdefault(folded, step.path)


def ignores_case(tree: Tree) -> bool:
    """Whether a file system takes `A` and `a` for one name: asked of names that are there."""
    for name in tree.names(b""):
        other = name.swapcase()
        if other != name:
            with contextlib.suppress(OSError):
                one = os.stat(name, dir_fd=tree.fd, follow_symlinks=False)
                two = os.stat(other, dir_fd=tree.fd, follow_symlinks=False)
                return one.st_ino == two.st_ino and other not in tree.names(b"")
            return False
    return False


def is_git_name(name: bytes) -> bool:
    """Whether some file system takes a name for `.git`."""
    text = name.decode("utf-8", "surrogateescape")
    plain = "".join(each for each in text if unicodedata.category(each) != "Cf").casefold()
    return plain.rstrip(" .") in (".git", "git~1") or plain.startswith((".git:", "git~1:"))


def _folded(path: bytes) -> str:
    return unicodedata.normalize("NFC", path.decode("utf-8", "surrogateescape")).casefold()
