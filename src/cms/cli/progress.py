"""The status line of a command that waits: one line on stderr that rewrites itself, and leaves no trace.

The elapsed time must move when nothing else does, so a small thread paints once a second; it is the only
thread of the command, ends with it, and shares one lock with the notes. A timer signal was the other way:
it would interrupt whatever the main thread does, `flush` included.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TextIO

from cms.cli import render
from cms.cli.terminal import Style, rewrite
from cms.rpc.wire import ProgressNote
from cms.session.model import Progress, SessionStatus


class StatusLine:
    """A context manager; `note` takes what the daemon tells."""

    def __init__(self, stream: TextIO, name: str, style: Style, *, period: float = 1.0) -> None:
        self._stream = stream
        self._style = style
        self._period = period
        self._last = Progress(name=name, kind="status", status=SessionStatus.STARTING)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._tick, name="cms-progress", daemon=True)

    def note(self, note: ProgressNote) -> None:
        with self._lock:
            self._last = _merge(self._last, note.progress)
        self._paint()

    def __enter__(self) -> StatusLine:
        self._began = time.monotonic()
        self._paint()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            rewrite(self._stream)

    def _tick(self) -> None:
        while not self._over.wait(self._period):
            self._paint()

    def _paint(self) -> None:
        with self._lock:
            line = render.progress_line(self._last, time.monotonic() - self._began, self._style)
            rewrite(self._stream, line)


def _merge(last: Progress, new: Progress) -> Progress:
    """The new note; where it does not know a limit or a figure that was known before, the old one stands."""
    return Progress(
        name=new.name or last.name,
        kind=new.kind,
        text=new.text,
        status=new.status,
        cost=max(new.cost, last.cost),
        max_cost=last.max_cost if new.max_cost is None else new.max_cost,
        turns=max(new.turns, last.turns),
        max_turns=last.max_turns if new.max_turns is None else new.max_turns,
        tool=new.tool,
        at=new.at,
    )
