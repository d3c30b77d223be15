"""A private world for the real `claude`: HOME, work dir and a scripted model of its own, and no survivors.

These tests fail, and do not skip, where the binary cannot be had: a green run must mean that it was run.

To start a daemon costs more than most tests do, so that one serves all worlds of a worker, as one serves
all shells of a user. A test that does something to the daemon, or to what all sessions share (a budget,
figures), is marked `own_daemon`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

import forks
from cli.shell import Ran
from cms.config import Settings, find_claude, load_settings
from cms.rpc.client import NoDaemon, connect
from cms.rpc.sessions import SESSION_DELETE, SESSION_LIST, DeleteParams, ListParams
from cms.testing.api import environment


class World:
    """Where a test's commands live.

    Args:
        cms_home: with the daemon that it shares with others; by default it has its own.
    """

    def __init__(self, root: Path, url: str, cms_home: Path | None = None) -> None:
        self.root = root
        self.home = root / "home"
        self.cms_home = cms_home or root / "cms"
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

    def left_behind(self) -> list[str]:
        """Processes, and temporary folders, once nothing of it is to live any more."""
        # The folder that all homes of a user share stays, and nothing in it.
        shared = self.tmp / f"cms-{os.getuid()}"
        folders = [path for path in self.tmp.iterdir() if path.name.startswith(("cms-", "claude-"))]
        folders = [path for path in folders if path != shared]
        if shared.exists():
            folders += shared.iterdir()
        return self.survivors() + list(map(str, folders))

    def end_sessions(self) -> None:
        """Delete every session, the live ones too, so that the next test may use their names."""
        settings = Settings(home=self.cms_home)
        with suppress(NoDaemon), connect(settings, start=False) as client:
            for record in client.call(SESSION_LIST, ListParams()).sessions:
                client.call(SESSION_DELETE, DeleteParams(record.name, force=True))


@pytest.fixture(scope="session")
def claude() -> str:
    """The real binary."""
    return find_claude(load_settings())[0]


@pytest.fixture(scope="session")
def model() -> Iterator[str]:
    """The address of the scripted model, which keeps nothing between two conversations.

    It ends with its standard input, and is nobody's child, for some tests count theirs.
    """
    stdin, held = os.pipe()
    told, stdout = os.pipe()
    beside = 'exec 3<&0; "$0" -m cms.testing.api <&3 &'
    subprocess.run(["sh", "-c", beside, sys.executable], stdin=stdin, stdout=stdout, check=True)
    os.close(stdin)
    os.close(stdout)
    with os.fdopen(told) as lines, os.fdopen(held, "w"):
        yield lines.readline().strip()


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory, model: str) -> Iterator[Path]:
    """The home of the daemon that the worlds share. Its own environment is none of theirs."""
    host = World(tmp_path_factory.mktemp("host"), model)
    started = host.cms("list")
    assert started.code == 0, started
    yield host.cms_home
    host.cms("daemon", "stop")
    assert not host.left_behind()


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path, claude: str, model: str) -> Iterator[World]:
    own = request.node.get_closest_marker("own_daemon") is not None
    here = World(tmp_path, model, None if own else request.getfixturevalue("daemon"))
    yield here
    if own:
        here.cms("daemon", "stop")
    else:
        here.end_sessions()
    assert not here.left_behind()
