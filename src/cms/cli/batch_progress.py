"""What `cms batch` shows while it waits."""

from __future__ import annotations

import os
import sys
import threading

from cms.batch.model import BatchRecord, BatchStatus
from cms.cli import batch_render as render
from cms.cli import io, terminal
from cms.cli.batch_client import Port
from cms.errors import CmsError
from cms.rpc.batches import (
    BATCH_ENDED,
    BATCH_GET,
    BatchPageParams,
    BatchParams,
)
from cms.units import clock

_POLL = 0.4  # seconds between two looks at a batch that runs


class BatchProgress:
    """What a command shows while it waits: a line for each task that ends, and on a terminal a status line.

    A thread looks at the batch on the port's other connection; the command itself waits for its end.
    """

    def __init__(self, port: Port, batch: BatchRecord, *, quiet: bool) -> None:
        self._port = port
        self._batch = batch
        self._quiet = quiet
        self._live = not quiet and terminal.can_rewrite(sys.stderr, os.environ)
        self._style = terminal.style_of(sys.stderr, os.environ)
        self._shown = 0
        self._parked: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="cms-batch", daemon=True)

    def __enter__(self) -> BatchProgress:
        # What had ended before is not news.
        self._shown = -1 if self._quiet else self._count_before()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._erase()

    def finish(self) -> None:
        """It has ended: tell what was not told yet."""
        self._over.set()
        self._thread.join()
        self._erase()
        if not self._quiet:
            self._tell_ended()

    def _count_before(self) -> int:
        if self._batch.status is BatchStatus.LOADING:
            return 0
        return render.over_count(self._batch)

    def _look(self) -> None:
        try:
            while not self._over.wait(_POLL):
                self._batch = self._port.ask(BATCH_GET, BatchParams(id=self._batch.id)).batch
                self._tell_park()
                if not self._quiet:
                    self._tell_ended()
                if self._live:
                    terminal.rewrite(sys.stderr, render.progress_line(self._batch, self._style))
        except (CmsError, OSError):
            pass  # whoever waits learns it, and says it better

    def _tell_park(self) -> None:
        batch = self._batch
        if batch.status is BatchStatus.PARKED and batch.until != self._parked and batch.until is not None:
            self._parked = batch.until
            self._erase()
            until = clock(batch.until, self._style.zone)
            io.warn(f"cms: {batch.id} waits until {until}: {batch.reason}")

    def _tell_ended(self) -> None:
        while True:
            page = self._port.ask(BATCH_ENDED, BatchPageParams(id=self._batch.id, after=self._shown))
            if not page.tasks:
                return
            self._erase()
            style = io.out_style()
            io.show_lines([render.task_line(task, style) for task in page.tasks])
            self._shown += len(page.tasks)

    def _erase(self) -> None:
        if self._live:
            terminal.rewrite(sys.stderr)
