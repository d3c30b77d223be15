"""A change as people and programs read it: numbers, a list of files, a patch that `git apply` takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cms.changes.model import Change, Diffstat, FileRow


def stat(change: Change) -> Diffstat:
    """The change in numbers."""
    raise NotImplementedError


def stat_text(change: Change, *, width: int = 80, most: int = 200, ignored: bool = False) -> str:
    """As `git diff --stat` shows it, one line a file, and a line with the sums; "" if nothing was changed.

    Args:
        most: lines; then only how many more.
        ignored: with the files that git ignores.
    """
    raise NotImplementedError


def name_status(change: Change, *, ignored: bool = False) -> str:
    """As `git diff --name-status` shows it: a letter (A, M, D, T, R), a tab, the name as git quotes it."""
    raise NotImplementedError


def rows(change: Change) -> tuple[FileRow, ...]:
    """A record for each path."""
    raise NotImplementedError


def patch(keep: Path, *, ignored: bool = False) -> Iterator[bytes]:
    """A unified patch, in pieces: `git apply` makes the state after of the state before.

    Entries whose base is unknown come as comments, and so do empty folders and modes that git knows not.

    Raises:
        ChangeNotFound: there is none.
    """
    raise NotImplementedError


def excerpt(keep: Path, *, most_lines: int = 60, most_bytes: int = 4000) -> str:
    """The stat and the beginning of the patch, for a report: bounded, without control characters."""
    raise NotImplementedError
