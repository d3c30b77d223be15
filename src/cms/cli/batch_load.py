"""From a file of tasks to a batch in the store: read, check, hand over by chunks. Nothing is started here.

The whole file is read to its end whatever is wrong in it, so that a person sees every mistake at once, with
its line; but only as long as none was found is anything handed over.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cms.batch.model import BatchOptions, BatchRecord
from cms.batch.spec import Entry, Fault, Header, Reader, sniff
from cms.cli.batch_client import Port
from cms.errors import CmsError, UsageError
from cms.folders import Folders, key_of, nearest_path
from cms.rpc.batches import (
    BATCH_ADD,
    BATCH_CHECK,
    BATCH_CREATE,
    BATCH_DISCARD,
    CHUNK,
    CHUNK_BYTES,
    BatchAddParams,
    BatchCreateParams,
    BatchParams,
    LineOf,
)

#: Mistakes that are shown.
SHOWN = 20
#: Bytes of one line of a file: a longer one is no task.
_LINE = 64 * 1024 * 1024


class BadTasks(UsageError):
    """What is wrong with a file of tasks.

    Attributes:
        problems: all of it, a line each.
    """

    code = "bad_tasks"

    def __init__(self, source: str, problems: list[str], count: int) -> None:
        more = f" (and {count - 1} more)" if count > 1 else ""
        super().__init__(f"{source}: {problems[0]}{more}", hint="nothing was started")
        self.source = source
        self.problems = problems


@contextmanager
def open_file(name: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file and what to call it; `-` is stdin.

    Raises:
        UsageError: it cannot be read; with the nearest name.
    """
    if name == "-":
        yield sys.stdin.buffer, "stdin"
        return
    path = Path(name).expanduser()
    try:
        file = path.open("rb")
    except FileNotFoundError:
        absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links are kept as typed
        raise UsageError(f"--file: there is no file {path}", hint=nearest_path(absolute)) from None
    except OSError as error:
        raise UsageError(f"--file: {path}: {error.strerror}") from None
    with file:
        yield file, str(path)


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, each of bounded length."""
    try:
        while line := file.readline(_LINE):
            yield line
    except OSError as error:
        raise UsageError(f"--file: {error.strerror}") from None


def load(
    port: Port, name: str, options_of: Callable[[Header, str], BatchOptions]
) -> tuple[BatchRecord, list[str]]:
    """Bring a file into the store as a batch that is not started; returns it with its problems as a whole.

    Args:
        options_of: the batch's options, from what the file says at its top and where it is.

    Raises:
        BadTasks: there are mistakes in it; nothing is left in the store.
    """
    with open_file(name) as (file, source):
        first = _peek(file)
        reader = Reader(sniff(name, first), _behind(first, file))
        loading = _Loading(port, source, options_of, reader)
        try:
            for found in reader:
                loading.take(found)
            return loading.finish()
        except BaseException:
            loading.drop()
            raise


def _peek(file: BinaryIO) -> bytes:
    """The first line that says anything."""
    start = b""
    while (line := file.readline(_LINE)) and not start.strip():
        start += line
        if line.strip():
            return start
    return start + line


def _behind(first: bytes, file: BinaryIO) -> Iterator[bytes]:
    yield from first.splitlines(keepends=True)
    yield from lines_of(file)


class _Loading:
    """One file on its way."""

    def __init__(
        self,
        port: Port,
        source: str,
        options_of: Callable[[Header, str], BatchOptions],
        reader: Reader,
    ) -> None:
        self._port = port
        self._source = source
        self._options_of = options_of
        self._reader = reader
        self._batch: BatchRecord | None = None
        self._chunk: list[LineOf] = []
        self._size = 0
        self._sent = 0
        self._problems: list[str] = []
        self._count = 0

    def take(self, found: Entry | Fault) -> None:
        """The next task, or mistake."""
        if isinstance(found, Fault):
            self._wrong(f"{found}{f' ({found.hint})' if found.hint else ''}")
            return
        if self._batch is None:
            self._create()
        try:
            spec = self._folders.settle(found.spec)
        except CmsError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self._wrong(f"line {found.line}: task {found.spec.name!r}: {error.message}{hint}")
            return
        self._chunk.append(LineOf(spec, found.line))
        self._size += len(spec.prompt) + len(spec.context or "")
        if len(self._chunk) >= CHUNK or self._size >= CHUNK_BYTES:
            self._send()

    def finish(self) -> tuple[BatchRecord, list[str]]:
        """All of it is there: check it as a whole."""
        if self._batch is None and not self._problems:
            self._create()
        self._send()
        if self._problems or self._batch is None:
            raise BadTasks(self._source, self._problems, self._count)
        checked = self._port.ask(BATCH_CHECK, BatchParams(id=self._batch.id))
        return self._batch, list(checked.problems)

    def drop(self) -> None:
        """Leave nothing behind."""
        if self._batch is not None:
            try:
                self._port.ask(BATCH_DISCARD, BatchParams(id=self._batch.id))
            except CmsError:
                pass  # whatever is wrong is being told already; the next daemon sweeps it away

    def _create(self) -> None:
        options = self._options_of(self._reader.header, self._source)
        self._folders = Folders(key_of, options.work_dir)
        stem = Path(self._source).stem if self._source != "stdin" else "batch"
        params = BatchCreateParams(options, stem)
        self._batch = self._port.ask(BATCH_CREATE, params).batch

    def _send(self) -> None:
        if self._batch is not None and self._chunk and not self._problems:
            params = BatchAddParams(self._batch.id, self._sent, tuple(self._chunk))
            for problem in self._port.ask(BATCH_ADD, params).problems:
                self._wrong(problem)
        self._sent += len(self._chunk)
        self._chunk, self._size = [], 0

    def _wrong(self, problem: str) -> None:
        self._count += 1
        if len(self._problems) < SHOWN:
            self._problems.append(problem)
