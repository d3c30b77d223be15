"""Where the tests run as root, what they show must hold for everybody else, too: run them again as nobody."""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

import cms
from containment import test_ordinary_user as ordinary

HERE = Path(__file__).parent
FILES = ("test_property.py", "test_layer.py", "test_apply.py")


def test_as_nobody() -> None:
    if os.geteuid() != 0:
        pytest.skip("these tests run as an ordinary user already")
    python = ordinary.interpreter()
    packages, source = sysconfig.get_paths()["purelib"], str(Path(cms.__file__).parents[1])
    if python is None or not all(ordinary.runnable_by_nobody(p) for p in (packages, source, str(HERE))):
        pytest.skip("an ordinary user cannot run what is installed")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [
                *(python, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", f"--basetemp={folder}/t"),
                *(f"--rootdir={ordinary.ROOT}", "-c", f"{ordinary.ROOT}/pyproject.toml"),
                *(str(HERE / name) for name in FILES),
            ],
            env={
                "PATH": os.defpath,
                "HOME": folder,
                "TMPDIR": folder,
                "CMS_CHANGE_EXAMPLES": "6",
                "PYTHONPATH": os.pathsep.join((source, str(ordinary.ROOT / "tests"), packages)),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd=folder,
            user=ordinary.NOBODY,
            group=ordinary.NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
