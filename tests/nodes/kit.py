"""An engine, nodes and a head on this machine: each with a home of its own, in processes that can be killed.

The engine is Temporal's development server from its wheel, on loopback. A `Proxy` stands between one node and
it: what is cut there is cut for that node alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from cli.shell import Ran, Shell
from cms.nodes.start import dev_server_argv
from cms.nodes.state import Claim
from cms.testing.script import ScriptedReply, call, prompt, say

PATIENCE = 30.0


def eventually(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"not within {patience:g} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """Temporal, with its memory in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = shutil.which("temporal") or str(Path(sys.executable).with_name("temporal"))
        with (self.folder / "engine.log").open("ab") as log:
            argv = dev_server_argv(program, self.port, self.folder / "engine.db")
            self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually(lambda: is_open(self.port), "the engine is up")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def url(self, heartbeat: float = 6.0) -> str:
        return f"temporal://127.0.0.1:{self.port}/default?heartbeat={heartbeat:g}"


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Proxy:
    """A road to a port that can be cut: nothing goes through any more, and nobody is told."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def _begin(self, work: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=work, args=args)
        thread.start()
        self._threads.append(thread)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:  # nobody is there just now
                    near.close()
                    continue
                self._sockets += [near, far]
                self._begin(self._pump, near, far)
                self._begin(self._pump, far, near)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                while self.cut:
                    time.sleep(0.05)
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.cut = False
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listener, *self._sockets):
            one.close()


class Host(Shell):
    """A machine: a home with a daemon of its own, and perhaps a node."""

    node: subprocess.Popen[str]

    def __init__(self, root: Path) -> None:
        root.mkdir()
        super().__init__(root)
        self.env["CMS_GRACE"] = "1"

    def start_node(self, url: str, *flags: str, slots: int = 2) -> None:
        self.node = self.start("node", "--on", url, "--slots", str(slots), *flags)
        eventually(lambda: self.node_state().get("pid") == self.node.pid, "the node is up")

    def node_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.home / "node/state.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return state

    @property
    def node_id(self) -> str:
        return (self.home / "node/id").read_text()

    def claims(self) -> list[Claim]:
        return [
            msgspec.json.decode(path.read_bytes(), type=Claim)
            for path in (self.home / "node/claims").iterdir()
            if len(path.name) == 64
        ]

    def sleepers(self) -> list[int]:
        """What agents of this host have started, and is alive."""
        mark, found = f"HOME={self.env['HOME']}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):  # tests ask often
            with suppress(OSError):
                name = (entry / "comm").read_bytes()
                if name == b"sleep\n" and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def git(self, *words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=self.work_dir, env=self.env, check=True)

    def leave(self) -> None:
        """End all that runs here."""
        if hasattr(self, "node") and self.node.poll() is None:
            self.node.send_signal(signal.SIGCONT)
        self.close()
        self.cms("daemon", "stop", "--grace", "1")


class Head(Host):
    """The machine that a batch is started on."""

    def file(self, tasks: list[dict[str, Any]], name: str = "tasks.json") -> str:
        (self.work_dir / name).write_text(json.dumps(tasks))
        return str(self.work_dir / name)

    def batch(self, tasks: list[dict[str, Any]], url: str, *flags: str, timeout: float = PATIENCE) -> Ran:
        return self.cms("batch", "--file", self.file(tasks), "--on", url, "--json", *flags, timeout=timeout)

    def begin(
        self, tasks: list[dict[str, Any]], url: str, *flags: str, file: str = "tasks.json"
    ) -> subprocess.Popen[str]:
        return self.start("batch", "--file", self.file(tasks, file), "--on", url, "--json", *flags)

    def show(self, batch: str = "tasks") -> dict[str, Any]:
        return json.loads(self.ok("batch", "show", batch, "--json").out)  # type: ignore[no-any-return]

    def counts(self, batch: str = "tasks") -> dict[str, int]:
        ran = self.cms("batch", "show", batch, "--json")
        return json.loads(ran.out)["counts"] if ran.code == 0 else {}

    def kill_daemon(self) -> None:
        """As by power: nothing of it is told."""
        pid = json.loads(self.ok("daemon", "status", "--json").out)["pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid), "the daemon is dead")


def task(name: str, *replies: ScriptedReply, **keys: object) -> dict[str, Any]:
    """A task of a file, that does what the replies say, and then says its name."""
    text = prompt(f"do {name}", *replies, say(f"answer of {name}"))
    return {"name": name, "prompt": text, "preset": "full", "maxCost": 0.5, **keys}


def sleeps(seconds: float, mark: Path | None = None) -> ScriptedReply:
    """A call that takes so long, and leaves a line in the file."""
    leave = f"echo x >> {mark}; " if mark is not None else ""
    return call("Bash", command=f"{leave}sleep {seconds:g}")
