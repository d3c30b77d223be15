"""The files of a change as the task left them, in a folder of the user's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cms.changes.content import Store
from cms.changes.freeze import load
from cms.changes.model import UNBOUND


def write_files(keep: Path, target: Path) -> None:
    """Write every file, folder and link that the task made or changed into a new folder.

    Raises:
        ChangeNotFound: there is no change.
        OSError: they cannot be written.
    """
    change = load(keep)
    store = Store(keep / "content", UNBOUND)
    target.mkdir()
    left = [
        (target / os.fsdecode(entry.path), entry.after) for entry in change.entries if entry.after is not None
    ]
    for place, node in left:
        if node.type == "dir":
            place.mkdir(parents=True, exist_ok=True)
        elif node.type == "file":
            place.parent.mkdir(parents=True, exist_ok=True)
            with store.path(node.content).open("rb") as read, place.open("xb") as written:
                shutil.copyfileobj(read, written, 1 << 20)
            place.chmod(node.mode)
    # Links at last, so that nothing is written through one; modes of folders from the inside out.
    for place, node in reversed(left):
        if node.type == "link":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(os.fsdecode(node.target))
        elif node.type == "dir":
            place.chmod(node.mode)
