"""The files that a batch leaves: the results as they come (`--out`), the report at the end (`--report`).

`--out` gets a line of JSON for each task that is over, written as it ends, each exactly once whatever crashes
in between: when a batch goes on, the file is read, a torn last line is cut off, what is missing is added.

Both may lie in a folder in which agents work: no link is followed there (`cms.disk`), nothing protected is
written, and a file that is there already and holds anything else is left alone.

Whatever goes wrong here is told (`warn`) and forgotten.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.batch import report, scores
from cms.batch.model import BatchRecord, TaskView, view
from cms.batch.scores import CellScore
from cms.config import caller_environ
from cms.disk import NotOurs, ask_disk, open_own, replace_own
from cms.errors import CmsError, DiskTimeout
from cms.json_output import encode
from cms.page.document import batch_report
from cms.protection.links import locate
from cms.protection.rules import build_path_rules
from cms.store import batch_scores, batch_tasks, batches
from cms.store.store import Store

_PAGE: Final = 500
#: Seconds for one patch.
_PATCH: Final = 600.0
#: Bytes of a line; a longer one is not ours.
_LONGEST: Final = 64 * 1024 * 1024

Warn = Callable[[str], None]


class Results:
    """The results of one batch on their way to its file; without a path they stay in the store."""

    def __init__(self, store: Store, batch: BatchRecord, warn: Warn) -> None:
        self._store = store
        self._batch_id = batch.id
        self._path = batch.options.out
        self._work_dir = batch.options.work_dir
        self._warn = warn
        self._file: ResultFile | None = None
        self._written = 0  # place of the last task whose line is in the file
        self._writing = False

    async def open(self) -> None:
        """Begin, or go on, with what has ended before."""
        if not self._path:
            return
        try:
            self._file = await ask_disk(lambda: open_results(Path(self._path), self._work_dir), self._path)
        except (OSError, DiskTimeout) as error:
            self._tell(error)
            return
        await self.write()
        self._file.caught_up()

    async def write(self) -> None:
        """Add the lines of all that has ended since the last time, in the order in which it did."""
        if self._file is None or self._writing:
            return  # whoever is at it takes along what came meanwhile
        self._writing, file = True, self._file
        try:
            while tasks := await self._store.read(batch_tasks.ended, self._batch_id, self._written, _PAGE):
                lines = [view(task) for task in tasks]
                await ask_disk(partial(file.write, lines), self._path)
                self._written = tasks[-1].order
        except (OSError, DiskTimeout) as error:
            self._tell(error)
        finally:
            self._writing = False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _tell(self, error: OSError | DiskTimeout) -> None:
        self._warn(f"--out: {self._path}: {_why(error)}")


def open_results(path: Path, work_dir: str) -> ResultFile:
    """The file of `--out`, and what it holds already. Touches the disk.

    Raises:
        OSError: it cannot be opened, or is not ours.
    """
    _check_unprotected(path, work_dir)
    file = ResultFile(open_own(path, Path(work_dir)))
    try:
        file.reconcile()
    except BaseException:
        file.close()
        raise
    return file


class ResultFile:
    """The file of `--out`."""

    def __init__(self, fd: int) -> None:
        self.written: set[tuple[str, int]] = set()  # names, and after how many tries
        self._file = open(fd, "r+b", buffering=0)  # noqa: SIM115 - kept open; a descriptor, not a path

    def reconcile(self) -> None:
        """Learn which tasks have their line, and cut a torn one off.

        Raises:
            NotOurs: it holds something else.
        """
        whole = 0
        with open(os.dup(self._file.fileno()), "rb") as lines:  # noqa: PTH123 - a descriptor
            lines.seek(0)
            while line := lines.readline(_LONGEST):
                if not line.endswith(b"\n"):
                    if not line.startswith(_BEGINNING[: len(line)]):
                        raise NotOurs(_OTHER)
                    break
                try:
                    result = msgspec.json.decode(line, type=_Result)
                    self.written.add((result.name, result.tries))
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise NotOurs(_OTHER) from None
                whole += len(line)
        self._file.truncate(whole)

    def write(self, tasks: Sequence[TaskView]) -> None:
        """Add lines, of those that had none when `reconcile` looked. Who was done again has two.

        Raises:
            OSError: not all could be written; a later `reconcile` sees which.
        """
        fresh = [task for task in tasks if (task.name, task.tries) not in self.written]
        data = b"".join(encode(task) for task in fresh)
        while data:
            data = data[self._file.write(data) :]

    def caught_up(self) -> None:
        """All that ended before was offered to `write`: from here on nothing comes twice."""
        self.written.clear()

    def close(self) -> None:
        self._file.close()


#: How each line begins, and what of it no other program's lines have.
_BEGINNING: Final = b'{"name":'
_OTHER: Final = "a file of that name already exists and holds no results"


class _Result(msgspec.Struct):
    name: str
    status: str
    tries: int


# --- patches --------------------------------------------------------------------------------------


# --- the report -----------------------------------------------------------------------------------


async def write_report(store: Store, batch: BatchRecord, warn: Warn) -> None:
    """The report of a batch, where its options want it."""
    path = batch.options.report
    if not path:
        return
    try:
        text = await render_report(store, batch, html=path.lower().endswith((".html", ".htm")))
        await ask_disk(lambda: write_own_report(Path(path), text, batch.options.work_dir), path)
    except (OSError, DiskTimeout) as error:
        warn(f"--report: {path}: {_why(error)}")


def write_own_report(path: Path, text: str, work_dir: str) -> None:
    """Touches the disk.

    Raises:
        OSError: it cannot be written, or something else has its name.
    """
    _check_unprotected(path, work_dir)
    replace_own(path, text, Path(work_dir), report.is_report)


async def render_report(store: Store, batch: BatchRecord, *, html: bool) -> str:
    """The report of a batch as it stands, as Markdown or as a page."""
    gathered = report.Gathering(report.PAGE_ROWS if html else report.ROWS)
    after = -1
    while tasks := await store.read(batch_tasks.page, batch.id, after, _PAGE):
        gathered.add([view(task) for task in tasks])
        after = tasks[-1].seq
    passed = await scores_of(store, batch)
    found = gathered.found(await store.read(batches.cost_by_model, batch.id), passed)
    if not html:
        return report.markdown(batch, found)
    # Ten thousand rows take the better part of a second: not on trio's thread.
    return await trio.to_thread.run_sync(batch_report, batch, found, time.time())


async def scores_of(store: Store, batch: BatchRecord) -> tuple[CellScore, ...]:
    """Pass rates, cell by cell, of a batch of several attempts or cells."""
    options = batch.options
    if options.attempts < 2 and not options.matrix:
        return ()
    return scores.scores(await store.read(batch_scores.tallies, batch.id), options.attempts)


def _check_unprotected(path: Path, work_dir: str) -> None:
    rules = build_path_rules(work_dir, caller_environ.get() or os.environ)
    if pattern := rules.match(locate(rules, str(path))):
        raise NotOurs(f"{pattern} is protected")


def _why(error: OSError | CmsError) -> str:
    return str(error) if isinstance(error, CmsError) else error.strerror or str(error)
