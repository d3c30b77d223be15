"""A shell with a real daemon behind it and the simulated agent in front: every word goes the whole way.

One daemon serves a whole test module (starting one takes most of what a test takes), so each test names its
sessions after itself. At the end the daemon is asked to leave, and nothing of it may be left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

import forks
from cms.testing.agent import write_launcher


class Ran(msgspec.Struct, frozen=True):
    """What a command left."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """The one object on stdout."""
        return msgspec.json.decode(self.out, type=dict[str, object])

    def list(self, key: str) -> list[dict[str, object]]:
        """A list of objects in the one object on stdout."""
        return msgspec.convert(self.json()[key], list[dict[str, object]])


class Shell:
    """Commands with a HOME, a CMS_HOME and a work dir of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "cms"
        self.work_dir = root / "project"
        self._children: list[subprocess.Popen[str]] = []
        for name in ("home", "project"):
            (root / name).mkdir()
        self.env: dict[str, str] = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
            "HOME": str(root / "home"),
            "CMS_HOME": str(self.home),
            "CMS_CLAUDE": str(write_launcher(root / "claude")),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "COLUMNS": "80",
        }

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Begin a command; what a test leaves running is ended with the shell."""
        child = subprocess.Popen(
            [sys.executable, "-m", "cms", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.env, **(env or {})},
            cwd=self.work_dir,
        )
        self._children.append(child)
        return child

    def close(self) -> None:
        """End what was started."""
        for child in self._children:
            with child:
                child.kill()

    def cms(
        self, *words: str, stdin: str | None = None, env: Mapping[str, str] | None = None, timeout: float = 30
    ) -> Ran:
        """Run a command to its end."""
        code, out, err = forks.run(
            words,
            env={**self.env, **(env or {})},
            cwd=self.work_dir,
            stdin=None if stdin is None else stdin.encode(),
            timeout=timeout,
        )
        return Ran(code, out.decode(), err.decode())

    def ok(self, *words: str, stdin: str | None = None) -> Ran:
        """Run a command that must succeed."""
        ran = self.cms(*words, stdin=stdin)
        assert ran.code == 0, (words, ran)
        return ran

    def status(self, name: str) -> dict[str, object]:
        return self.ok("status", name, "--json").json()

    def wait_until(self, name: str, condition: Callable[[dict[str, object]], bool]) -> dict[str, object]:
        """Poll, because what is waited for happens in processes that are not ours."""
        end = time.monotonic() + 20
        while not condition(found := self.status(name)):
            assert time.monotonic() < end, found
            time.sleep(0.05)  # to ask again at once would keep from work what is waited for
        return found

    def wait_for(self, path: Path) -> None:
        """Until a file is there."""
        end = time.monotonic() + 20
        while not path.exists():
            assert time.monotonic() < end, path
            time.sleep(0.02)

    def survivors(self) -> list[str]:
        """Processes of this shell that are alive: told by the HOME in their environment."""
        mark = f"HOME={self.root / 'home'}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(f"{entry.name} {(entry / 'cmdline').read_bytes()[:120]!r}")
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("shell")) as here:
        yield here


@pytest.fixture
def own_shell(tmp_path: Path) -> Iterator[Shell]:
    """For a test that is to find nothing there: tests of a file may run in any order."""
    with open_shell(tmp_path) as here:
        yield here


@contextmanager
def open_shell(root: Path) -> Iterator[Shell]:
    """A shell in that folder, of which nothing is left at the end."""
    here = Shell(root)
    yield here
    here.close()
    here.cms("batches")  # where the last daemon was killed, the next one clears up behind it
    assert here.cms("daemon", "stop").code == 0
    assert not here.survivors()
