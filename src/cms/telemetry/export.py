"""From those who make spans and metrics to the programs that export them (`exporter.py`).

Nothing here waits for anybody: each exporter has a bounded queue, a thread that writes to it and one that
hears from it. What has no room is lost, and counted.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Final, Protocol

import msgspec

from cms.errors import UNREADABLE, UsageError
from cms.telemetry.exporter import LAST, Item, Told, number
from cms.telemetry.metrics import Family
from cms.telemetry.spans import Span

log = logging.getLogger(__name__)

_QUEUE: Final = 4096  # spans between us and a program
_MOST: Final = 8  # programs at once; more would mean as many different sets of variables
_NEEDED: Final = "opentelemetry.exporter.otlp.proto.http"
#: What an exporter's program gets of the environment of whoever asked.
_ENVIRON: Final = (
    *("OTEL_*", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
    *("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


def check_library() -> None:
    """Whether anything can be exported.

    Raises:
        UsageError: the extra is missing.
    """
    with suppress(ModuleNotFoundError):
        if find_spec(_NEEDED) is not None:
            return
    raise UsageError("--otel needs OpenTelemetry", hint="pip install 'claude-multi-session[otel]'")


class Exports:
    """All of one supervisor.

    Attributes:
        sent, lost: spans so far.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.lost = 0
        self._programs: dict[frozenset[tuple[str, str]], _Program] = {}
        self._began = time.time()

    def __repr__(self) -> str:
        return f"<Exports {len(self._programs)} programs, {self.sent} sent, {self.lost} lost>"

    def __bool__(self) -> bool:
        """Whether anything is exported."""
        return bool(self._programs)

    def span(self, environ: Mapping[str, str], span: Span) -> None:
        """Export one to where that environment says."""
        program = self._program(environ)
        if program is None or not program.put(Item(span=span)):
            self.lost += 1

    def metrics_due(self, now: float) -> bool:
        """Whether somebody is to be sent metrics."""
        return any(program.due <= now for program in self._programs.values())

    def metrics(self, families: Sequence[Family], now: float) -> None:
        """Send them to whoever is due."""
        item = Item(families=tuple(families), at=now, since=self._began)
        for program in self._programs.values():
            if program.due <= now:
                program.due = now + program.interval
                program.put(item)

    def close(self) -> None:
        """Let what there is go out, for a few seconds. Blocks."""
        programs = list(self._programs.values())
        for program in programs:
            program.end()
        until = time.monotonic() + LAST + 1
        for program in programs:
            program.wait(until)
        self._programs.clear()

    def _program(self, environ: Mapping[str, str]) -> _Program | None:
        wanted = {
            key: value for key, value in environ.items() if any(fnmatchcase(key, one) for one in _ENVIRON)
        }
        key = frozenset(wanted.items())
        found = self._programs.get(key)
        if found is not None and found.alive:
            return found
        if found is None and len(self._programs) >= _MOST:
            return None
        if (path := os.environ.get("PYTHONPATH")) is not None:
            wanted["PYTHONPATH"] = path  # ours: that is where this module was found
        try:
            found = _Program(wanted, self._hear)
        except OSError as error:
            log.warning("cannot export spans: %s", error.strerror or error)
            return None
        self._programs[key] = found
        return found

    def _hear(self, told: Told, *, first: bool) -> None:
        self.sent += told.sent
        self.lost += told.lost
        if told.trouble and first:
            log.warning("telemetry is lost: %s (told once)", told.trouble)


class _Hear(Protocol):
    def __call__(self, told: Told, *, first: bool) -> None: ...


class _Program:
    """One exporter's process, with its two threads.

    Attributes:
        interval: seconds between two times that it is sent metrics.
        due: the next of these times, in seconds since the epoch.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, environ: dict[str, str], hear: _Hear) -> None:
        self.interval = number(environ, "OTEL_METRIC_EXPORT_INTERVAL", 60_000) / 1000
        self.due = 0.0
        self._hear = hear
        self._queue: queue.Queue[Item | None] = queue.Queue(_QUEUE)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cms.telemetry.exporter"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environ,
            cwd="/",
            start_new_session=True,
        )
        for work in (self._write, self._read):
            threading.Thread(target=work, name="cms telemetry", daemon=True).start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def put(self, item: Item) -> bool:
        """False where there is no room."""
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            return False
        return True

    def end(self) -> None:
        """Nothing more comes."""
        with suppress(queue.Full):
            self._queue.put_nowait(None)
            return
        self._process.kill()  # it takes nothing

    def wait(self, until: float) -> None:
        """Until it has ended, by force if it takes longer."""
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        with suppress(OSError), self._process.stdin as pipe:
            while (item := self._queue.get()) is not None:
                pipe.write(msgspec.json.encode(item) + b"\n")
                if self._queue.empty():
                    pipe.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - likewise
        first = True
        with self._process.stdout as lines:
            for line in lines:
                with suppress(*UNREADABLE):
                    told = msgspec.json.decode(line, type=Told)
                    self._hear(told, first=first)
                    first = first and not told.trouble
