"""What was found to be different, before it is kept: where the states before and after can be read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cms.changes.model import LeftOut


class Seen(msgspec.Struct, frozen=True):
    """A path that may have changed: whether it did is seen when the contents are compared.

    Attributes:
        path: relative to the folder.
        before: where its state before is, relative to `Reading.base`; None: there was nothing.
        after: where its state after is, relative to `Reading.after`; None: there is nothing.
        content: where a file's content is, relative to `Reading.base`, if not in `after`: overlayfs has
            copied nothing but its attributes (metacopy).
    """

    path: bytes
    before: bytes | None
    after: bytes | None
    content: bytes | None = None


class Reading(msgspec.Struct, frozen=True):
    """What `read_layer` or `read_trees` found.

    Attributes:
        base: the folder before: of a layer, the folder itself.
        after: the layer, or the folder after.
        seen: sorted by path.
        left_out: what is no file, folder or link.
        git: there is something in `.git` that the task wrote (relative to `after`).
    """

    base: Path
    after: Path
    seen: tuple[Seen, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    git: bool = False
