"""Where the tests run as root, what they show must hold for everybody else, too: run them again as nobody."""

from __future__ import annotations

from pathlib import Path

import ordinary_user

HERE = Path(__file__).parent
FILES = ("test_lifecycle.py", "test_walls.py", "test_limits.py", "test_copies.py", "test_tampering.py")
#: What can differ for them: namespaces and what is mounted there, not pipes, names, exit codes,
#: or how memory is counted.
THE_SAME = (
    "cgroup", "exit_status", "many", "git_still", "odd_names", "big_lines", "end_of_file", "reads_nothing",
    "memory_is_seen", "written_to_memory", "hooks", "pipes_carry", "longer_than_trios",
)  # fmt: skip
CHOSEN = " and not ".join(("(bwrap or unshare)", *THE_SAME))


def test_as_nobody() -> None:
    files = (str(HERE / name) for name in FILES)
    assert " passed" in ordinary_user.run_tests("-k", CHOSEN, *files, within=60)
