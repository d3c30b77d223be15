"""SIGKILL in the middle of an apply, of taking it back, of clearing up: before or after, never between."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from changes import kills

#: Each is killed twice at least.
TRIALS = int(os.environ.get("CMS_APPLY_KILLS", "24")) // 2
SEED = int(os.environ.get("CMS_FAULT_SEED", "1"))


def test_killed_at_any_instant() -> None:
    done = subprocess.run(
        [sys.executable, kills.__file__, str(TRIALS), str(SEED)],
        env={**os.environ, "PYTHONPATH": str(Path(kills.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + TRIALS * 2,
    )
    assert done.returncode == 0, done.stderr
