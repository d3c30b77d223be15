"""`cms` commands that start in a moment: each is a fork of a process that has loaded them all.

To load them is nine tenths of what a command takes, and the tests run thousands. Such a command is still a
process, with an environment, a folder, streams and an end of its own. What an interpreter does before
`cms.cli` has its turn is not seen: a test of that starts one itself (and so does `run` for other locales).

As a program this is the process that forks. It is nobody's child, for some tests count theirs, and leaves
with whoever started it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FrameType

#: What an interpreter reads when it starts. The one that is loaded has UTF-8, as on most machines.
LOCALE = ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONIOENCODING")
#: These commands load trio, with which any command would end more slowly: another process has them loaded.
_HEAVY = {"doctor", "drill", "setup", "trust"}
_LATE = {"cms.cli.setup", "cms.cli.trust"}
_LATEST = (
    *_LATE,
    *("cms.cli.foreground", "cms.fleet.supervisor", "cms.selftest.doctor", "cms.selftest.drill.run"),
)
#: What a test may have set for its process, and a child has from its parent.
_LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC)
_PIPE = 65536  # bytes that a pipe takes before anybody reads


def run(
    words: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float = 60,
) -> tuple[int, bytes, bytes]:
    """Run `cms` with these words to its end: its exit status, and what it wrote to stdout and stderr.

    Raises:
        subprocess.TimeoutExpired: after so many seconds it runs, or somebody holds its streams.
    """
    plain = all(env.get(name, "UTF-8").upper().endswith("UTF-8") for name in LOCALE)
    if not plain or len(stdin or b"") > _PIPE:
        return _run_anew(words, env=env, cwd=cwd, stdin=stdin, timeout=timeout)
    limits = {number: resource.getrlimit(number) for number in _LIMITS}
    request = json.dumps([list(words), dict(env), str(cwd or Path.cwd()), _umask(), limits]).encode()
    outputs = (bytearray(), bytearray())
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as answer, selectors.DefaultSelector() as ready:
        if stdin is None:
            given = os.open(os.devnull, os.O_RDONLY)
        else:
            given, giving = os.pipe()
            os.write(giving, stdin)
            os.close(giving)
        theirs = [given]
        for output in outputs:
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            ready.register(reading, selectors.EVENT_READ, output)
            theirs.append(writing)
        answer.connect(_loaded(heavy=not _HEAVY.isdisjoint(words[:1]) or "--foreground" in words))
        socket.send_fds(answer, [len(request).to_bytes(8)], theirs)
        answer.sendall(request)
        for file in theirs:
            os.close(file)
        pid = int.from_bytes(answer.recv(4))
        give_up = time.monotonic() + timeout
        while ready.get_map():
            found = ready.select(max(give_up - time.monotonic(), 0))
            if not found:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), timeout, *map(bytes, outputs))
            for key, _ in found:
                if data := os.read(key.fd, _PIPE):
                    key.data.extend(data)
                else:
                    ready.unregister(key.fd)
        answer.settimeout(max(give_up - time.monotonic(), 1))
        return int.from_bytes(answer.recv(4), signed=True), bytes(outputs[0]), bytes(outputs[1])


def _run_anew(
    words: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, stdin: bytes | None, timeout: float
) -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [sys.executable, "-m", "cms", *words],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        env=dict(env),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def _umask() -> int:
    """Without setting another, as `os.umask` would."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask:")
    )
    return int(line.split()[1], 8)


@cache
def _loaded(*, heavy: bool) -> str:
    """Where the process that forks such commands listens; it is started for the first of them."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")  # a name of the kernel's choice, in no folder
    listener.listen()
    ours, theirs = os.pipe()
    files = (listener.fileno(), ours)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    subprocess.run(
        [sys.executable, "-P", __file__, *map(str, (*files, int(heavy)))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # No HOME: one that a test has just set would make it a process that the test looks for.
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": path},
        pass_fds=files,
        check=True,
    )
    os.close(ours)
    assert theirs  # stays open for as long as we live
    name: str = listener.getsockname()
    listener.close()
    return name


class Server:
    """Forks a command for each connection, which hears its pid and, at its end, its exit status."""

    def __init__(self, listener: socket.socket, starter: int) -> None:
        self._listener = listener
        self._starter = starter
        self._running: dict[int, socket.socket] = {}

    def serve(self) -> list[str] | None:
        """The words of a command, in its own process; None when there is nobody any more to ask for one."""
        signal.signal(signal.SIGCHLD, self._reap)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, with which this ends
        starter = self._starter
        while True:
            found, _, _ = select.select([self._listener.fileno(), starter], [], [])
            if starter in found:
                return None
            connection, _ = self._listener.accept()
            length, files, _, _ = socket.recv_fds(connection, 8, 3)
            request = connection.makefile("rb").read(int.from_bytes(length))
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # a fork is known before it can end
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
                return _become(request, files)
            with suppress(OSError):
                connection.send(pid.to_bytes(4))
            self._running[pid] = connection
            for file in files:
                os.close(file)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _reap(self, _number: int, _frame: FrameType | None) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            # (Whoever gave up waiting has gone.)
            with self._running.pop(pid) as connection, suppress(OSError):
                connection.send(os.waitstatus_to_exitcode(status).to_bytes(4, signed=True))


def _become(request: bytes, files: list[int]) -> list[str]:
    """Have what a command of its own starts with."""
    words, env, cwd, umask, limits = json.loads(request)
    os.umask(umask)
    for number, limit in limits.items():
        resource.setrlimit(int(number), limit)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    tempfile.tempdir = None  # whoever has asked for it looked at another environment
    os.chdir(cwd)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, max(files) + 100)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good, like those that follow
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    return list(words)


def main(listener: int, starter: int, heavy: int) -> int:
    """Load, let whoever waits go on, and fork; in the process of a command: run it."""
    from cms.cli import main as run_command
    from cms.cli import parser
    from cms.cli.commands import COMMANDS, FAMILIES

    parser.build()  # before the commands: they are declared with what is loaded by then
    targets = [command.target for command in COMMANDS]
    targets += [target for _, _, family in FAMILIES.values() for _, target, _ in family]
    for module in {target.partition(":")[0] for target in targets} - _LATE:
        import_module(module)
    assert "trio" not in sys.modules
    for module in _LATEST if heavy else ():
        import_module(module)
    if os.fork():
        os._exit(0)
    words = Server(socket.socket(fileno=listener), starter).serve()
    if words is None:
        return 0
    sys.argv = ["cms", *words]
    return run_command()


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
