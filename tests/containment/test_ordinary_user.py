"""Where the tests run as root, what they show must hold for everybody else, too: run them again as nobody."""

from __future__ import annotations

from pathlib import Path

import ordinary_user

HERE = Path(__file__).parent
FILES = ("test_lifecycle.py", "test_walls.py", "test_limits.py", "test_copies.py", "test_tampering.py")
#: What can differ for them: namespaces and what is mounted there, not pipes and exit codes.
CHOSEN = "(bwrap or unshare) and not cgroup and not exit_status and not many and not git_still"


def test_as_nobody() -> None:
    files = (str(HERE / name) for name in FILES)
    assert " passed" in ordinary_user.run_tests("-k", CHOSEN, *files, within=60)
