"""What overlayfs left in the upper folder of a layer."""

from __future__ import annotations

from pathlib import Path

from cms.changes.model import UNBOUND, Bound
from cms.changes.reading import Reading


def read_layer(lower: Path, upper: Path, bound: Bound = UNBOUND) -> Reading:
    """Look through the upper folder of an overlay on `lower`. The overlay may still be mounted.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: it cannot be read, or is no layer that we understand.
    """
    raise NotImplementedError
