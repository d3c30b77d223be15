"""Where the tests run as root, what they show must hold for everybody else, too: run them again as nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest
import trio

import cms

NOBODY = 65534
FILES = ("test_lifecycle.py", "test_walls.py", "test_limits.py", "test_copies.py", "test_tampering.py")
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
#: What can differ for them: namespaces and what is mounted there, not pipes and exit codes.
CHOSEN = "(bwrap or unshare) and not cgroup and not exit_status and not many and not git_still"


def interpreter() -> str | None:
    """A Python of our version that nobody may run: ours, or the system's."""
    ours = os.path.realpath(sys.executable)
    for each in (
        ours,
        shutil.which("python3", path="/usr/bin"),
        shutil.which("python3", path="/usr/local/bin"),
    ):
        if each is None:
            continue
        done = (
            subprocess.run(
                [each, "-c", "import sys; print(sys.version_info[:2])"],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                text=True,
                check=False,
            )
            if runnable_by_nobody(each)
            else None
        )
        if done is not None and done.stdout.strip() == str(sys.version_info[:2]):
            return each
    return None


def runnable_by_nobody(path: str) -> bool:
    return all(
        folder.stat().st_mode & 0o001 for folder in (Path(path).resolve(), *Path(path).resolve().parents)
    )


async def test_as_nobody() -> None:
    if os.geteuid() != 0:
        pytest.skip("these tests run as an ordinary user already")
    python = interpreter()
    if python is None:
        pytest.skip("there is no Python that an ordinary user could run")
    packages = sysconfig.get_paths()["purelib"]
    source = str(Path(cms.__file__).parents[1])
    if not all(runnable_by_nobody(path) for path in (packages, source, str(ROOT))):
        pytest.skip("an ordinary user cannot read what is installed")
    with tempfile.TemporaryDirectory() as folder, trio.fail_after(60):
        os.chmod(folder, 0o777)  # noqa: PTH101, S103 (nobody must get in)
        done = await trio.run_process(
            [
                python,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--basetemp={folder}/t",
                f"--rootdir={ROOT}",
            ]
            + ["-c", str(ROOT / "pyproject.toml"), "-k", CHOSEN]
            + [str(HERE / name) for name in FILES],
            env={
                "PATH": os.defpath,
                "HOME": folder,
                "PYTHONPATH": os.pathsep.join((source, str(ROOT / "tests"), packages)),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode()
        assert b" passed" in done.stdout
