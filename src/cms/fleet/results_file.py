"""The files that a batch leaves: the results as they come (`--out`), the report at the end (`--report`).

`--out` gets a line of JSON for each task that is over, written as it ends, each exactly once whatever crashes
in between: when a batch goes on, the file is read, a torn last line is cut off, what is missing is added.

Whatever goes wrong here is told (`warn`) and forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.batch import report
from cms.batch.model import BatchRecord, TaskView, view
from cms.json_output import encode
from cms.store import batch_tasks, batches
from cms.store.store import Store

_PAGE: Final = 500

Warn = Callable[[str], None]


class Results:
    """The results of one batch on their way to its file; without a path they stay in the store."""

    def __init__(self, store: Store, batch_id: str, path: str, warn: Warn) -> None:
        self._store = store
        self._batch_id = batch_id
        self._path = path
        self._warn = warn
        self._file: ResultFile | None = None
        self._written = 0  # place of the last task whose line is in the file
        self._writing = False

    async def open(self) -> None:
        """Begin, or go on, with what has ended before."""
        if not self._path:
            return
        try:
            self._file = ResultFile(Path(self._path))
            self._file.reconcile()
        except OSError as error:
            self._tell(error)
            return
        await self.write()
        self._file.caught_up()

    async def write(self) -> None:
        """Add the lines of all that has ended since the last time, in the order in which it did."""
        if self._file is None or self._writing:
            return  # whoever is at it takes along what came meanwhile
        self._writing = True
        try:
            while tasks := await self._store.read(batch_tasks.ended, self._batch_id, self._written, _PAGE):
                self._file.write([view(task) for task in tasks])
                self._written = tasks[-1].order
        except OSError as error:
            self._tell(error)
        finally:
            self._writing = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _tell(self, error: OSError) -> None:
        self._warn(f"--out: {self._path}: {error.strerror or error}")


class ResultFile:
    """The file of `--out`."""

    def __init__(self, path: Path) -> None:
        """Opens it, and sees what it holds already.

        Raises:
            OSError: it cannot be opened.
        """
        self.names: set[str] = set()
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._file = open(fd, "r+b", buffering=0)  # noqa: SIM115, PTH123 - kept open; a descriptor, not a path

    def reconcile(self) -> None:
        """Learn which tasks have their line, and cut a torn one off."""
        whole = 0
        with open(os.dup(self._file.fileno()), "rb") as lines:  # noqa: PTH123 - a descriptor
            lines.seek(0)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                with suppress(msgspec.DecodeError):
                    self.names.add(msgspec.json.decode(line, type=_Named).name)
                whole += len(line)
        self._file.truncate(whole)

    def write(self, tasks: Sequence[TaskView]) -> None:
        """Add lines, of those that had none when `reconcile` looked.

        Raises:
            OSError: not all could be written; a later `reconcile` sees which.
        """
        fresh = [task for task in tasks if task.name not in self.names]
        data = b"".join(encode(task) for task in fresh)
        while data:
            data = data[self._file.write(data) :]

    def caught_up(self) -> None:
        """All that ended before was offered to `write`: from here on nothing comes twice."""
        self.names.clear()

    def close(self) -> None:
        self._file.close()


class _Named(msgspec.Struct):
    name: str = ""


# --- the report -----------------------------------------------------------------------------------


async def write_report(store: Store, batch: BatchRecord, warn: Warn) -> None:
    """The report of a batch, where its options want it."""
    path = batch.options.report
    if not path:
        return
    try:
        text = await render_report(store, batch, html=path.lower().endswith((".html", ".htm")))
        await trio.to_thread.run_sync(_replace, Path(path), text)
    except OSError as error:
        warn(f"--report: {path}: {error.strerror or error}")


async def render_report(store: Store, batch: BatchRecord, *, html: bool) -> str:
    """The report of a batch as it stands, as Markdown or as a page."""
    gathered = report.Gathering()
    after = -1
    while tasks := await store.read(batch_tasks.page, batch.id, after, _PAGE):
        gathered.add([view(task) for task in tasks])
        after = tasks[-1].seq
    found = gathered.found(await store.read(batches.cost_by_model, batch.id))
    return report.page(batch, found) if html else report.markdown(batch, found)


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader never sees half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
