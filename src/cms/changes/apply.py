"""A change into the real folder: all or nothing, whatever happens meanwhile."""

from __future__ import annotations

from pathlib import Path

from cms.changes.model import Applied, Forbids, Outcome, Recovered


def _nothing(_path: bytes) -> str:
    return ""


def apply(
    keep: Path,
    folder: Path | None = None,
    *,
    forbids: Forbids = _nothing,
    conflict_markers: bool = False,
    partial: bool = False,
    ignored: bool = False,
    dry_run: bool = False,
    wait: float = 60.0,
) -> Outcome:
    """Bring the change into a folder, three-way where that has moved on.

    If anything stands in the way, nothing is written, and all of it is listed. One apply at a time for a
    folder and those around it; the second waits.

    Args:
        folder: by default the one that it is a change of.
        forbids: says which paths may not be written, and why.
        conflict_markers: a text file changed on both sides in the same lines is written with markers.
        partial: what is refused for one path's sake is left aside, and the rest applied.
        ignored: with the files that git ignores.
        dry_run: only tell.
        wait: seconds for another apply to end.

    Raises:
        ChangeNotFound: there is none.
        WrongChange: it is applied already.
    """
    raise NotImplementedError


def revert(keep: Path, *, wait: float = 60.0) -> Outcome:
    """Take an applied change back: the folder is as it was, modes and links too. All or nothing.

    A file that has been changed since is refused (`changed`), and then nothing is taken back.

    Raises:
        ChangeNotFound: there is none.
        WrongChange: it is not applied.
    """
    raise NotImplementedError


def find_applied(keep: Path) -> Applied | None:
    """Where and when it was applied, if it is."""
    raise NotImplementedError


def discard(keep: Path) -> None:
    """Drop what is kept: the folder `keep` is gone then. Looks at no other folder.

    Raises:
        OSError: it could not be removed.
    """
    raise NotImplementedError


def recover(changes: Path) -> tuple[Recovered, ...]:
    """End what a crash cut off, in all changes kept there: an apply is undone unless it was finished.

    To be called when no apply of ours runs; one that does run, in another process, is left alone.
    """
    raise NotImplementedError
