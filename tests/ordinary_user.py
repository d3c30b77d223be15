"""What runs as root must hold for everybody else, too: programs run again as nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

import cms

NOBODY = 65534
ROOT = Path(__file__).parents[1]
PACKAGES, SOURCE = sysconfig.get_paths()["purelib"], str(Path(cms.__file__).parents[1])


def find_python() -> str | None:
    """A Python of our version with which nobody can run what is installed, and the tests; None: none can."""
    if not all(map(_may_be_run, (PACKAGES, SOURCE, str(ROOT)))):
        return None
    ours = os.path.realpath(sys.executable)
    others = (shutil.which("python3", path=place) for place in ("/usr/bin", "/usr/local/bin"))
    return next((each for each in (ours, *others) if each is not None and _is_ours(each)), None)


def _may_be_run(path: str) -> bool:
    real = Path(path).resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (real, *real.parents))


def _is_ours(python: str) -> bool:
    if not _may_be_run(python):
        return False
    done = as_nobody([python, "-c", "import sys; print(sys.version_info[:2])"], env={}, cwd="/", within=20)
    return done.stdout.strip() == str(sys.version_info[:2])


def require_python() -> str:
    """The same, or the test is skipped: there is none, or it is run as an ordinary user already."""
    if os.geteuid() != 0:
        pytest.skip("these tests run as an ordinary user already")
    python = find_python()
    if python is None:
        pytest.skip("an ordinary user cannot run what is installed")
    return python


def as_nobody(
    argv: list[str], *, env: Mapping[str, str], cwd: str, within: float
) -> subprocess.CompletedProcess[str]:
    """Run a program as nobody. `within`: seconds."""
    return subprocess.run(
        argv,
        env=env,
        cwd=cwd,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
    )


def run_tests(*words: str, within: float, **environ: str) -> str:
    """Run tests as nobody, who has a HOME and a temporary folder of his own; gives what pytest says.

    Args:
        words: for pytest: files, `-k` ...
        environ: more for the environment.
    """
    python = require_python()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        argv = [
            *(python, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"--basetemp={folder}/t"),
            *(f"--rootdir={ROOT}", "-c", f"{ROOT}/pyproject.toml", *words),
        ]
        env = {
            "PATH": os.defpath,
            "HOME": folder,
            "TMPDIR": folder,
            "PYTHONPATH": os.pathsep.join((SOURCE, str(ROOT / "tests"), PACKAGES)),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environ,
        }
        done = as_nobody(argv, env=env, cwd=folder, within=within)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
