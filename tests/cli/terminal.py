"""A command on a real (pseudo) terminal."""

from __future__ import annotations

import codecs
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class OnTerminal:
    """A command whose stdin, stdout and stderr are a terminal. `wait_for` reads until it shows something."""

    def __init__(
        self,
        *words: str,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        program: tuple[str, ...] = (sys.executable, "-m", "cms"),
    ) -> None:
        self.master, slave = pty.openpty()
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LANG": "C.UTF-8", **(env or {})}
        self.process = subprocess.Popen(
            [*program, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            cwd=cwd,
            start_new_session=True,
        )
        os.close(slave)
        self.raw = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def _read(self, deadline: float) -> bool:
        if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"nothing more came after {self.raw!r}")
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the last process that held the terminal has ended
            return False
        self.raw += self._decoder.decode(data)
        return bool(data)

    def wait_for(self, condition: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition(self.raw):
            assert self._read(deadline), f"ended with {self.raw!r}"

    def settle(self, seconds: float) -> None:
        """Read for so long, for a program of which nothing says that it is ready."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.master], [], [], left)[0]:
                self._read(end)

    def press(self, keys: str, answer: str) -> None:
        """Type that, again and again, until the answer is there."""
        seen, end = len(self.raw), time.monotonic() + 30
        while answer not in self.raw[seen:]:
            assert time.monotonic() < end, f"no {answer!r} in {self.raw[seen:]!r}"
            self.settle(0.7)
            self.type(keys)
            self.settle(0.7)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def finish(self) -> int:
        deadline = time.monotonic() + 30
        while self._read(deadline):
            pass
        os.close(self.master)
        return self.process.wait(30)

    @property
    def text(self) -> str:
        """What stands on the screen at the end: erased lines are gone, colour is stripped."""
        lines = (line.rsplit("\r\x1b[2K", 1)[-1] for line in self.raw.replace("\r\n", "\n").split("\n"))
        return "\n".join(ESCAPE.sub("", line) for line in lines)
