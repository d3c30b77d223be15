"""Which versions of Claude Code can be held to what we promise. Pure.

The number is one sign among several: what safety rests on is looked for in what a process says
(`live.handshake` before the first message, `session.startup` in the first turn), so that a newer version that
has lost something is found too. docs/versions.md has what was tried with which version; `python -m
tests.matrix` tries it again.
"""

from __future__ import annotations

import re
from typing import Final, Literal

#: The oldest version in which everything held. What is older has no way to keep a project's own configuration
#: from it, does not say that it has taken the tool gate, or cannot end a turn by refusing a call.
MINIMUM: Final = "2.1.306"
#: The newest version that was tried.
TESTED: Final = "2.1.332"

Standing = Literal["too old", "tested", "newer than tested", "unknown"]


def standing(version: str) -> Standing:
    """What is known of a version, as `claude --version` or `init` tells it."""
    number, least, most = _number(version), _number(MINIMUM), _number(TESTED)
    if number is None or least is None or most is None:
        return "unknown"
    if number < least:
        return "too old"
    return "tested" if number <= most else "newer than tested"


def _number(version: str) -> tuple[int, ...] | None:
    found = re.match(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", version)
    return tuple(map(int, found.groups())) if found else None
