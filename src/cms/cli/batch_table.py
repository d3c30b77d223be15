"""The table of a batch (`--data`): opened, and read row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cms.batch.model import BatchOptions
from cms.batch.rows import BadTable, Row, read_rows, rows_of, selection_of, table_format
from cms.cli.batch_files import lines_of, open_file
from cms.errors import UsageError


@contextmanager
def open_rows(options: BatchOptions) -> Iterator[Iterator[Row] | None]:
    """The rows that a batch takes, one after the other; None: it has no table.

    Raises:
        UsageError: the table cannot be read.
    """
    if not options.data:
        yield None
        return
    kind = table_format(options.data)
    with open_file(options.data, "--data") as (file, _):
        rows = _parquet(options.data) if kind == "parquet" else read_rows(kind, lines_of(file, "--data"))
        yield selection_of(options).taken(rows)


def _parquet(name: str) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UsageError(
            f"--data: {name} is Parquet, and pyarrow is not installed",
            hint="pip install 'claude-multi-session[parquet]'",
        ) from None
    try:
        with parquet.ParquetFile(Path(name)) as file:
            yield from rows_of((0, one) for batch in file.iter_batches() for one in batch.to_pylist())
    except (ArrowException, OSError) as error:
        raise BadTable(f"not Parquet: {error}") from None
