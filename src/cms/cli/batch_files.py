"""The files that `cms batch` reads, opened by name; `-` is stdin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cms.errors import UsageError
from cms.folders import nearest_path

#: Bytes of one line of a file: a longer one is no task.
LINE = 64 * 1024 * 1024


@contextmanager
def open_file(name: str, flag: str = "--file") -> Iterator[tuple[BinaryIO, str]]:
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
        raise UsageError(f"{flag}: there is no file {path}", hint=nearest_path(absolute)) from None
    except OSError as error:
        raise UsageError(f"{flag}: {path}: {error.strerror}") from None
    with file:
        yield file, str(path)


def lines_of(file: BinaryIO, flag: str = "--file") -> Iterator[bytes]:
    """The lines of a file, each of bounded length."""
    try:
        while line := file.readline(LINE):
            yield line
    except OSError as error:
        raise UsageError(f"{flag}: {error.strerror}") from None
