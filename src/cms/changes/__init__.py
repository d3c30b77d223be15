"""What a task changed in a folder: read, kept, shown, applied, taken back.

    start = note_start(folder)                       # before the task can see the folder
    ...
    reading = read_layer(folder, upper)              # or read_trees(copy_of_before, after)
    change = freeze(reading, keep, start)            # durable, with the contents, in a folder of its own
    for piece in patch(keep): ...                    # or stat, rows, excerpt
    outcome = apply(keep, folder, forbids=is_protected)
    outcome = revert(keep)

`keep` is a change's own folder. The folder above it holds the changes of one user and belongs to us: it is
made 0700, and must be hidden from agents. In it are also the locks, one a target.

Nothing here knows trio. Every function touches the disk, and a folder of an agent's at that: call them in a
thread, with a deadline. After a crash `recover` comes before anything else.

Where to read on: `model.py` (the words), `layer.py` (what overlayfs leaves), `freeze.py` (what the base is),
`planning.py` (what an apply would do, and what stands in its way), `apply.py` (why it is all or nothing).
"""

from __future__ import annotations

from cms.changes.apply import apply, discard, find_applied, recover, revert
from cms.changes.branch import bring_branch
from cms.changes.checkout import check_out, why_no_checkout
from cms.changes.diff import excerpt, fits_a_patch, patch, rows, stat, stat_text
from cms.changes.export import write_files
from cms.changes.freeze import freeze, load, note_start
from cms.changes.layer import read_layer
from cms.changes.model import (
    Applied,
    Base,
    Bound,
    Change,
    Commits,
    Diffstat,
    Entry,
    Forbids,
    LeftOut,
    Node,
    Outcome,
    Recovered,
    Refusal,
    Start,
)
from cms.changes.names import as_text
from cms.changes.preview import preview
from cms.changes.reading import Reading
from cms.changes.told import Others, Told, find_others, note_told
from cms.changes.trees import CopyStart, note_copy, read_trees

__all__ = [
    "Applied",
    "Base",
    "Bound",
    "Change",
    "Commits",
    "CopyStart",
    "Diffstat",
    "Entry",
    "Forbids",
    "LeftOut",
    "Node",
    "Others",
    "Outcome",
    "Reading",
    "Recovered",
    "Refusal",
    "Start",
    "Told",
    "apply",
    "as_text",
    "bring_branch",
    "check_out",
    "discard",
    "excerpt",
    "find_applied",
    "find_others",
    "fits_a_patch",
    "freeze",
    "load",
    "note_copy",
    "note_start",
    "note_told",
    "patch",
    "preview",
    "read_layer",
    "read_trees",
    "recover",
    "revert",
    "rows",
    "stat",
    "stat_text",
    "why_no_checkout",
    "write_files",
]
