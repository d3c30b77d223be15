"""Daemons that start in a moment and are killed again and again, in a private world."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cms.config import Settings, load_settings
from cms.containment._cgroup import find_delegation
from cms.testing.agent import write_launcher


class Forge:
    """daemon_forge.py, which starts and kills."""

    def __init__(self, log: Path) -> None:
        with log.open("wb") as stderr:
            self._child = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("daemon_forge.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    def __call__(self, word: str) -> str:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{word}\n")
        self._child.stdin.flush()
        return self._child.stdout.readline().strip()

    def close(self) -> None:
        self._child.communicate(timeout=20)


def private_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A private world, for the clients in this process too: they send their environment along."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CMS_HOME", str(tmp_path / "cms"))
    monkeypatch.setenv("CMS_CLAUDE", str(write_launcher(tmp_path / "claude")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if entry))
    monkeypatch.setenv("CMS_GRACE", "1")
    yield load_settings()
    delegation, _ = find_delegation()
    if delegation is not None:
        delegation.sweep()  # the leaves of daemons that could not
