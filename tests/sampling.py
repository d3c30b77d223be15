"""How many cases a sampled test looks at: few in the suite, REHEARSAL_SCALE times as many by hand."""

from __future__ import annotations

import os

SCALE = int(os.environ.get("REHEARSAL_SCALE", "1"))


def sized(number: int) -> int:
    """So many cases, or more by REHEARSAL_SCALE."""
    return number * SCALE
