"""A session cannot have others start what it may not: the sockets of such servers are not there for it."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cms.live.argv import build_environment
from cms.protection.escape_sockets import find_escape_sockets
from cms.protection.rules import build_rules
from cms.session.model import SessionOptions
from cms.testing.script import call, prompt, say
from fleet.kit import ask, make_settings, start, supervising

#: Says of each socket whether it could be reached.
PROBE = """
import socket, sys
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as sock:
        try: sock.connect(path)
        except OSError: print('closed')
        else: print('open')
"""


class Servers:
    """Sockets where a user's servers would have theirs."""

    def __init__(self, root: Path) -> None:
        self.environ = {"XDG_RUNTIME_DIR": str(root / "run"), "TMUX_TMPDIR": str(root / "tmux")}
        self.bus = root / "run" / "bus"
        self.tmux = root / "tmux" / f"tmux-{os.getuid()}" / "default"
        self.docker = root / "run" / "docker.sock"
        self.other = root / "run" / "pulse"  # starts nothing for anybody
        self._sockets = [self._listen(path) for path in (self.bus, self.tmux, self.docker, self.other)]

    @staticmethod
    def _listen(path: Path) -> socket.socket:
        path.parent.mkdir(parents=True, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen()
        return sock

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    found = Servers(tmp_path)
    yield found
    found.close()


async def test_they_are_hidden_but_for_those_that_are_allowed(tmp_path: Path, servers: Servers) -> None:
    settings = make_settings(tmp_path, environ=servers.environ)
    paths = (servers.bus, servers.tmux, servers.docker, servers.other)
    command = shlex.join([sys.executable, "-I", "-S", "-c", PROBE, *map(str, paths)])
    work = tmp_path / "work"
    async with supervising(settings) as supervisor:
        walls = supervisor.mechanism.guarantees.hidden_paths.strong
        await start(supervisor, "shut")
        await start(supervisor, "docker", allow_write=(str(servers.docker),))
        await start(supervisor, "unsafe", safety=False)
        for name in ("shut", "docker", "unsafe"):
            told = prompt("go", call("Bash", command=f"{command} > {name}"), say("done"))
            await ask(supervisor, name, told)
        record = await supervisor.get("shut")
    closed = "closed" if walls else "open"
    assert (work / "shut").read_text().split() == [closed, closed, closed, "open"]
    assert (work / "docker").read_text().split() == [closed, closed, "open", "open"]
    assert (work / "unsafe").read_text().split() == ["open"] * 4
    if not walls:
        assert record.walls is not None
        assert any(str(servers.bus) in one or "paths: " in one for one in record.walls.unheld)


def test_where_they_are_looked_for(tmp_path: Path, servers: Servers) -> None:
    rules = build_rules(SessionOptions(name="x", work_dir=str(tmp_path)), {"HOME": str(tmp_path)}).paths
    environ = {
        "XDG_RUNTIME_DIR": "/nowhere",
        "TMUX_TMPDIR": "/nowhere",
        "TMUX": f"{servers.tmux},123,0",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:abstract=/x;unix:path={servers.bus},guid=1",
        "DOCKER_HOST": f"unix://{servers.docker}",
    }
    found = find_escape_sockets(rules, environ)
    assert {servers.tmux, servers.bus, servers.docker} <= set(found)
    assert servers.other not in found
    relative = find_escape_sockets(rules, {**environ, "DOCKER_HOST": "unix://relative", "TMUX": ""})
    assert not any("relative" in str(path) for path in relative)


@pytest.mark.parametrize(
    "name",
    [
        "bus",
        "systemd",
        "podman",
        "libvirt",
        "emacs",
        "zellij",
        "i3",
        "nvim.1.0",
        "sway-ipc.0.sock",
        "cc-socks",
    ],
)
def test_what_starts_things_in_the_runtime_folder(tmp_path: Path, name: str) -> None:
    rules = build_rules(SessionOptions(name="x", work_dir=str(tmp_path)), {"HOME": str(tmp_path)}).paths
    place = tmp_path / "run" / name
    place.mkdir(parents=True)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert place in find_escape_sockets(rules, environ)
    allowed = build_rules(
        SessionOptions(name="x", work_dir=str(tmp_path), allow_write=(str(place),)), {"HOME": str(tmp_path)}
    )
    assert place not in find_escape_sockets(allowed.paths, environ)


@pytest.mark.parametrize("name", ["NVIM", "SWAYSOCK", "I3SOCK"])
def test_what_says_in_the_environment_where_it_is(tmp_path: Path, servers: Servers, name: str) -> None:
    rules = build_rules(SessionOptions(name="x", work_dir=str(tmp_path)), {"HOME": str(tmp_path)}).paths
    assert servers.other in find_escape_sockets(
        rules, {"XDG_RUNTIME_DIR": "/nowhere", name: str(servers.other)}
    )


def test_a_session_has_a_place_for_a_tmux_of_its_own() -> None:
    env = build_environment({"TMUX": "/tmp/x,1,0", "STY": "1.x", "TMUX_TMPDIR": "/mine"}, scratch="/scratch")
    assert env["TMUX_TMPDIR"] == "/scratch"
    assert not {"TMUX", "STY"} & set(env)
