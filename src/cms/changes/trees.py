"""The difference of two folders: where there is no overlay, the task worked in a copy."""

from __future__ import annotations

from pathlib import Path

from cms.changes.model import UNBOUND, Bound
from cms.changes.reading import Reading


def read_trees(base: Path, after: Path, bound: Bound = UNBOUND) -> Reading:
    """Compare two folders, by what they hold.

    Args:
        base: the folder that the copy was made of. What has changed in it since is not taken for the task's:
            see `freeze`.
        after: the copy, in which the task worked.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: one of them cannot be read.
    """
    raise NotImplementedError
