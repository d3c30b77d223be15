"""What others have made of the files at which a change was refused, told to the task so that it can answer.

A task that was told what the folder has at a path, and has written its own file anew since, has decided about
the lines that both changed: there its version is taken (`planning`), as long as the folder's is still the one
it was told. What others changed elsewhere in the file is merged as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from cms.changes import lines
from cms.changes.content import Store
from cms.changes.freeze import load, read_node
from cms.changes.model import UNBOUND, Node, Refusal
from cms.changes.tree import ThroughLink, Tree, node_type
from cms.errors import UNREADABLE
from cms.files import replace_file

_NAME: Final = "told.json"


class Told(msgspec.Struct, frozen=True):
    """What a task was told of a file.

    Attributes:
        now: content (SHA-256, hex) that the folder had then.
        after: content that the task's own file had then.
    """

    path: bytes
    now: str
    after: str

    def is_answered(self, now: Node, after: Node) -> bool:
        """Whether the task has written its file since, and the folder still has what it was told."""
        return now.content == self.now and after.content != self.after


def read_told(keep: Path) -> Mapping[bytes, Told]:
    """What the task of a change was told, by path; nothing, if what is noted makes no sense."""
    try:
        told = msgspec.json.decode((keep / _NAME).read_bytes(), type=tuple[Told, ...])
    except (OSError, *UNREADABLE):
        return {}
    return {each.path: each for each in told}


class Others(msgspec.Struct, frozen=True):
    """What others have made of a file.

    Attributes:
        told: to be noted (`note_told`) once the task was told.
        diff: hunks, from what was there before the task to what the folder has.
    """

    told: Told
    diff: bytes


def find_others(keep: Path, folder: Path, refused: Iterable[Refusal]) -> dict[bytes, Others]:
    """What others have done to each text at which the change is refused, by path.

    Raises:
        ChangeNotFound, ChangeUnreadable: there is no change, or it makes no sense.
        OSError: the folder cannot be read.
    """
    entries = {entry.path: entry for entry in load(keep).entries}
    store = Store(keep / "content", UNBOUND)
    found: dict[bytes, Others] = {}
    with Tree(folder) as tree:
        for refusal in refused:
            entry = entries.get(refusal.path)
            if entry is None or refusal.why not in ("conflict", "changed"):
                continue
            before, after, now = entry.before, entry.after, _text(tree, entry.path, store)
            if after is None or after.type != "file" or now is None:
                continue
            if before is not None and (before.type != "file" or before.size > lines.BIGGEST_TEXT):
                continue
            old = b"" if before is None else store.read(before.content)
            diff = b"".join(lines.hunks(lines.split(old), lines.split(now[1])))
            found[entry.path] = Others(Told(entry.path, now[0].content, after.content), diff)
    return found


def note_told(keep: Path, told: Iterable[Told]) -> None:
    """Note what the task of a change has been told. On disk when it returns."""
    known = {**read_told(keep), **{each.path: each for each in told}}
    replace_file(keep / _NAME, msgspec.json.encode(tuple(known.values())))


def _text(tree: Tree, path: bytes, store: Store) -> tuple[Node, bytes] | None:
    """The text that the folder has at a path now; None: it has none there."""
    try:
        found = tree.look(path, strict=True)
    except ThroughLink:
        return None
    if found is None or node_type(found) != "file" or found.st_size > lines.BIGGEST_TEXT:
        return None
    node = read_node(tree, path, found, store, known=True)
    text = store.read(node.content)
    return None if lines.is_binary(text) else (node, text)
