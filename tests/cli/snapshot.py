"""Snapshots: text that is to stay as it is, so that a change is seen in a review.

`CMS_UPDATE_SNAPSHOTS=1 pytest tests/cli/test_snapshots.py` writes them anew; then read the difference.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "snapshots"


def check(name: str, text: str) -> None:
    """Compare with the snapshot of that name, or write it when asked to."""
    path = FOLDER / name
    if os.environ.get("CMS_UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"there is no snapshot {name}: CMS_UPDATE_SNAPSHOTS=1 makes it"
    assert text == path.read_text(), f"{name} has changed: CMS_UPDATE_SNAPSHOTS=1 takes it as it is now"
