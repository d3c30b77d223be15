from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import cyclopts
import pytest

import forks
from cli.shell import Ran

# Before the commands: in one process that reads many lines their modules are to be loaded once.
assert cyclopts.__name__ in sys.modules

Cms = Callable[..., Ran]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private CMS_HOME, for this process and for the commands that it runs."""
    path = tmp_path / "home"
    monkeypatch.setenv("CMS_HOME", str(path))
    for name in ("NO_COLOR", "COLUMNS", "CMS_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def cms(capfdbinary: pytest.CaptureFixture[bytes], home: Path) -> Cms:
    """Run a command in this process."""
    from cms.cli.app import main

    def run(*words: str) -> Ran:
        code = main(words)
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode())

    return run


@pytest.fixture
def cms_process(home: Path) -> Cms:
    """Run a command as a process of its own, as a shell does."""

    def run(*words: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Ran:
        code, out, err = forks.run(
            words, env={**os.environ, **(env or {})}, stdin=None if stdin is None else stdin.encode()
        )
        return Ran(code, out.decode(), err.decode())

    return run
