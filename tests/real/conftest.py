"""A private world for the real `claude`: HOME, CMS_HOME and a scripted model of its own, and no survivors.

These tests fail, and do not skip, where the binary cannot be had: a green run must mean that it was run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import forks
from cli.shell import Ran
from cms.config import find_claude, load_settings
from cms.testing.api import api_process, environment


class World:
    """Where a test's commands live."""

    def __init__(self, root: Path, url: str) -> None:
        self.root = root
        self.home = root / "home"
        self.cms_home = root / "cms"
        self.work_dir = root / "project"
        self.home.mkdir()
        self.work_dir.mkdir()
        self.tmp = root / "tmp"
        self.tmp.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.env: dict[str, str] = {
            "PATH": path,
            "HOME": str(self.home),
            "CMS_HOME": str(self.cms_home),
            "LANG": "C.UTF-8",
            "TMPDIR": str(self.tmp),
            "ANTHROPIC_API_KEY": "test",
            **environment(url),
            # Where our packages are, if the interpreter does not know (these tests as another user).
            **{name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ},
        }

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin a command, as a shell in the work dir would."""
        return subprocess.Popen(
            [sys.executable, "-m", "cms", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, **(env or {})},
            cwd=self.work_dir,
        )

    def cms(self, *words: str, env: Mapping[str, str] | None = None, timeout: float = 60) -> Ran:
        """Run a command to its end."""
        try:
            code, out, err = forks.run(
                words, env={**self.env, **(env or {})}, cwd=self.work_dir, timeout=timeout
            )
        except subprocess.TimeoutExpired as hangs:
            raise AssertionError(f"cms {words[0]} hangs: {hangs.output!r} {hangs.stderr!r}") from None
        return Ran(code, out.decode(), err.decode())

    def daemon_pid(self) -> int:
        """The pid in the lock file."""
        return int((self.cms_home / "daemon.lock").read_text().split()[0])

    def survivors(self) -> list[str]:
        """Processes of this world that are alive: told by the HOME in their environment."""
        mark = f"HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()[:120]!r}")
            except OSError:
                continue
        return found


@pytest.fixture(scope="session")
def claude() -> str:
    """The real binary."""
    return find_claude(load_settings())[0]


@pytest.fixture
def world(tmp_path: Path, claude: str) -> Iterator[World]:  # the binary must be there
    with api_process() as url:
        here = World(tmp_path, url)
        yield here
        here.cms("daemon", "stop")
        left = here.survivors()
        # The folder that all homes of a user share stays, and nothing in it.
        shared = here.tmp / f"cms-{os.getuid()}"
        found = [*here.tmp.iterdir(), *(shared.iterdir() if shared.exists() else ())]
        folders = [
            path.name for path in found if path != shared and path.name.startswith(("cms-", "claude-"))
        ]
        folders += [path.name for path in found if path.parent == shared]
    assert not left, f"processes were left behind: {left}"
    assert not folders, f"temporary folders were left behind: {folders}"
