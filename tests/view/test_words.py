"""What docs/view.md tells is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_names_flags_that_are_there() -> None:
    text = (ROOT / "docs/view.md").read_text()
    flags = set(re.findall(r"cms view[^`\n]*", text))
    named = {word for line in flags for word in line.split() if word.startswith("--")}
    known = (ROOT / "tests/cli/snapshots/help/view.txt").read_text()
    assert named == {"--act", "--export", "--no-open", "--port"}
    assert all(f"\n  {flag} " in known for flag in named)
