"""From a file of tasks to a batch in the store: read, check, hand over by chunks. Nothing is started here.

The whole file is read to its end whatever is wrong in it, so that a person sees every mistake at once, with
its line; but only as long as none was found is anything handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from cms.batch.entries import Entry, Fault
from cms.batch.header import Header, check_table
from cms.batch.model import BatchOptions, BatchRecord, TaskSpec
from cms.batch.spec import Reader, not_tasks, sniff
from cms.batch.table import Table
from cms.batch.template import fill_row, wanted_fields
from cms.cli.batch_client import Port
from cms.cli.batch_files import LINE, lines_of, open_file
from cms.cli.batch_table import open_rows
from cms.errors import CmsError, UsageError
from cms.folders import Folders, check_repo, key_of
from cms.rpc.attachments import attach, read_file
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
from cms.session.attachments import check_all
from cms.session.model import Attachment

#: Mistakes that are shown.
SHOWN = 20


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


def load(
    port: Port, name: str, options_of: Callable[[Header, str], BatchOptions], prompt: str = ""
) -> tuple[BatchRecord, list[str]]:
    """Bring tasks into the store as a batch that is not started; returns it with its problems as a whole.

    Args:
        name: their file; "": there is none, but one task.
        options_of: the batch's options, from what the file says at its top and where it is.
        prompt: of the one task.

    Raises:
        BadTasks: there are mistakes in it; nothing is left in the store.
    """
    if not name:
        return _load(port, "--prompt", options_of, _One(prompt))
    with open_file(name) as (file, source):
        first = _peek(file)
        if other := not_tasks(name, first):
            raise BadTasks(source, [other], 1)
        return _load(port, source, options_of, Reader(sniff(name, first), _behind(first, file)))


class _One:
    """The one task that a command line gives."""

    header = Header()

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    def __iter__(self) -> Iterator[Entry | Fault]:
        yield Entry(TaskSpec(prompt=self._prompt), 1)


def _load(
    port: Port, source: str, options_of: Callable[[Header, str], BatchOptions], tasks: Reader | _One
) -> tuple[BatchRecord, list[str]]:
    loading = _Loading(port, source, options_of, tasks)
    try:
        templates: list[Entry] = []
        for found in tasks:
            if isinstance(found, Entry) and not found.spec.name and not loading.options.data:
                found = Entry(msgspec.structs.replace(found.spec, name="task"), found.line)
            if isinstance(found, Entry) and loading.table is not None:
                templates.append(found)
            else:
                loading.take(found)
        if templates and loading.table is not None:
            loading.multiply(loading.table, templates)
        return loading.finish()
    except BaseException:
        loading.drop()
        raise


def _peek(file: BinaryIO) -> bytes:
    """The first line that says anything."""
    start = b""
    while (line := file.readline(LINE)) and not start.strip():
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
        tasks: Reader | _One,
    ) -> None:
        self._port = port
        self._source = source
        self._options_of = options_of
        self._tasks = tasks
        self._options: BatchOptions | None = None
        self._batch: BatchRecord | None = None
        self._chunk: list[LineOf] = []
        self._size = 0
        self._sent = 0
        self._problems: list[str] = []
        self._count = 0
        self._files: dict[Path, Attachment] = {}
        self._repos: dict[str, str] = {}

    @property
    def options(self) -> BatchOptions:
        """Of the batch. What the file says at its top is known once its first task has come."""
        if self._options is None:
            self._options = self._options_of(self._tasks.header, self._source)
            check_table(self._options)
        return self._options

    @property
    def table(self) -> Table | None:
        """How the tasks are multiplied, if they are."""
        return Table.of(self.options)

    def multiply(self, table: Table, templates: list[Entry]) -> None:
        """Each task of the file for each row, in each cell."""
        if self._problems:
            return
        if self.options.data:
            self._source = "stdin" if self.options.data == "-" else self.options.data
        with open_rows(self.options) as rows:
            for found in table.tasks(templates, rows):
                self.take(found)

    def take(self, found: Entry | Fault) -> None:
        """The next task, or mistake."""
        if isinstance(found, Fault):
            self._wrong(f"{found}{f' ({found.hint})' if found.hint else ''}")
            return
        if self._batch is None:
            self._create()
        try:
            spec = self._attached(self._with_repo(self._folders.settle(found.spec)))
        except CmsError as error:
            hint = f" ({error.hint})" if error.hint else ""
            self._wrong(f"line {found.line}: task {found.spec.name!r}: {error.message}{hint}")
            return
        self._chunk.append(LineOf(spec, found.line))
        self._size += len(spec.prompt) + len(spec.context or "")
        if len(self._chunk) >= CHUNK or self._size >= CHUNK_BYTES:
            self._send()

    def _with_repo(self, spec: TaskSpec) -> TaskSpec:
        """With its repository as nodes can read it: a folder is bundled once, for all tasks that have it.

        Raises:
            UsageError: there is none, or a row chose what it may not.
        """
        said = self.options.defaults.repo if spec.repo is None else spec.repo
        if not said or not self.options.on:
            return spec  # here none is checked out: whoever takes the task in says so
        text = said
        if spec.row is not None and wanted_fields(said):
            # What a row holds is data, perhaps a stranger's: it has no choice among all folders.
            text = check_repo(fill_row(said, spec.row), "repo", self.options.work_dir)
            here = Path(self.options.work_dir).resolve()
            if text.startswith("/") and not Path(text).resolve().is_relative_to(here):
                raise UsageError(f"{text} cannot be checked out for a row: it is outside of {here}")
            if text.startswith("file:") and not said.startswith("file:"):
                raise UsageError(f"{text} cannot be checked out for a row: write file:// in the task")
        if text not in self._repos:
            from cms.cli.repo import settled

            self._repos[text] = settled(text, self.options.artifacts)
        return msgspec.structs.replace(spec, repo=self._repos[text])

    def _attached(self, spec: TaskSpec) -> TaskSpec:
        """With its files kept, each once for all tasks that have it.

        Raises:
            UsageError: one cannot be read or attached.
        """
        if not spec.attach:
            return spec
        if self.options.on:
            raise UsageError("files can be attached to what this machine does, not to what nodes do")
        paths = [Path(self.options.work_dir, Path(text).expanduser()) for text in spec.attach]
        if spec.row is not None:
            # What a row holds is data, perhaps a stranger's: it has no choice among all of a person's files.
            here = Path(self.options.work_dir).resolve()
            for path in paths:
                if not path.resolve().is_relative_to(here):
                    raise UsageError(f"{path} cannot be attached for a row: it is outside of {here}")
        kept = tuple(map(self._kept, paths))
        check_all(kept)
        return msgspec.structs.replace(spec, attach=(), attachments=kept)

    def _kept(self, path: Path) -> Attachment:
        if path not in self._files:
            (self._files[path],) = attach(self._port.ask, [(path.name, read_file(path))])
        return self._files[path]

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
        options = self.options
        self._folders = Folders(key_of, options.work_dir)
        stem = Path(self._source).stem if self._source not in ("stdin", "--prompt") else "batch"
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
