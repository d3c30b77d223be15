"""File systems for tests, mounted where no other test is disturbed.

While there is a mount below /tmp the kernel covers no /tmp: every session of this machine then has an empty
one, without what the tests beside this one have put there (and a virtual environment may stand there, too).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def folder_for_mounts() -> Iterator[Path]:
    """A new folder, not below /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="cms-test-", dir="/var/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def mounted(*commands: tuple[str, ...]) -> Iterator[None]:
    """Mounts, each by the words of `mount`, the place last. Who may not mount skips the test."""
    places: list[str] = []
    try:
        for words in commands:
            if subprocess.run(["mount", *words], capture_output=True, check=False).returncode != 0:
                pytest.skip("may not mount a file system here")
            places.append(words[-1])
        yield
    finally:
        for place in places:
            subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of that size."""
    with folder_for_mounts() as folder:
        disk = folder / "disk"
        disk.mkdir()
        with mounted(("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk))):
            yield disk
