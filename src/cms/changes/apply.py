"""A change into the real folder, and out of it again: all or nothing, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from cms.changes import locks, transaction
from cms.changes.content import Store
from cms.changes.freeze import load
from cms.changes.history import find_applied, read_history
from cms.changes.model import UNBOUND, Entry, Forbids, Outcome, Recovered, Refusal, Why
from cms.changes.names import as_text
from cms.changes.planning import Plan, make_plan
from cms.changes.stage import Failed, Overtaken
from cms.changes.told import read_told
from cms.changes.tree import Tree
from cms.errors import ChangeUnreadable, WrongChange
from cms.files import NO_ACCESS, NO_SPACE


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
        ChangeUnreadable: it makes no sense.
        WrongChange: it is applied already.
        OSError: the change's own folder cannot be written.
    """
    change = load(keep)
    target = folder or Path(change.folder)
    entries = [entry for entry in change.entries if ignored or not entry.ignored]

    def plan(tree: Tree, store: Store) -> Plan:
        if (applied := find_applied(keep)) is not None:
            raise WrongChange(f"the change is already applied to {applied.folder}")
        told = read_told(keep)
        return make_plan(entries, target, tree, store, forbids, told=told, markers=conflict_markers)

    return _change(keep, target, plan, "apply", partial=partial, dry_run=dry_run, wait=wait)


def revert(keep: Path, *, forbids: Forbids = _nothing, dry_run: bool = False, wait: float = 60.0) -> Outcome:
    """Take an applied change back: what it replaced is there again, modes and links too. All or nothing.

    Where the folder has moved on since, what others changed is kept as an apply keeps it, or it is refused
    and nothing is taken back.

    Args:
        forbids: as for `apply`.
        dry_run: only tell.
        wait: seconds for another apply to end.

    Raises:
        ChangeNotFound: there is none.
        WrongChange: it is not applied.
        OSError: the change's own folder cannot be written.
    """
    load(keep)
    event = read_history(keep).standing
    if event is None:
        raise WrongChange("the change is not applied")
    entries = [Entry(item.path, "modified", item.after, item.before) for item in event.items]
    target = Path(event.folder)

    def plan(tree: Tree, store: Store) -> Plan:
        if read_history(keep).standing != event:
            raise WrongChange("the change is no longer applied")
        return make_plan(entries, target, tree, store, forbids, told={})

    return _change(keep, target, plan, "revert", partial=False, dry_run=dry_run, wait=wait)


def discard(keep: Path) -> None:
    """Drop what is kept: the folder `keep` is gone then. No other folder is touched.

    Raises:
        WrongChange: an apply of it was cut off, and is not ended yet (`recover`).
        OSError: it could not be removed.
    """
    if transaction.read_journal(keep) is not None:
        raise WrongChange(f"an apply of the change in {keep} was cut off and is not ended yet")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(keep)


def recover(changes: Path) -> tuple[Recovered, ...]:
    """End what a crash cut off, in all changes kept there: an apply is undone unless it was finished.

    One that runs in another process is left alone, and not told. What cannot be ended is told, not raised.
    """
    found = []
    with contextlib.suppress(FileNotFoundError):
        for keep in sorted(changes.iterdir()):
            folder = ""
            try:
                journal = transaction.read_journal(keep)
                if journal is not None:
                    folder = journal.folder
                    with _held(changes, Path(folder), 0.0) as tree:
                        found += _end_interrupted(keep, tree)
            except locks.Busy:
                continue
            except (OSError, ChangeUnreadable) as error:
                found.append(Recovered(str(keep), folder, done=False, why=str(error)))
    return tuple(found)


@contextlib.contextmanager
def _held(changes: Path, folder: Path, wait: float) -> Iterator[Tree]:
    """The folder, open, and nobody else's."""
    with locks.hold(changes, folder, wait), Tree(folder) as tree:
        yield tree


def _end_interrupted(keep: Path, tree: Tree) -> list[Recovered]:
    journal = transaction.read_journal(keep)  # anew: it may have ended before we held the folder
    if journal is None:
        return []
    return [transaction.end_interrupted(keep, journal, tree, Store(keep / "content", UNBOUND))]


def _end_others(changes: Path, folder: Path, tree: Tree) -> None:
    """Applies of other changes to this folder that a crash cut off, and that could not be ended since."""
    for keep in changes.iterdir():
        if (keep / transaction.JOURNAL).exists():
            with contextlib.suppress(ChangeUnreadable):
                journal = transaction.read_journal(keep)
                if journal is not None and journal.folder == os.path.realpath(folder):
                    _end_interrupted(keep, tree)


def _change(
    keep: Path,
    folder: Path,
    plan: Callable[[Tree, Store], Plan],
    kind: Literal["apply", "revert"],
    *,
    partial: bool,
    dry_run: bool,
    wait: float,
) -> Outcome:
    """Plan and carry out, with the folder held."""
    journal = transaction.read_journal(keep)
    if journal is not None:  # of a crash: it is ended first, wherever it was
        try:
            with _held(keep.parent, Path(journal.folder), wait) as tree:
                _end_interrupted(keep, tree)
        except locks.Busy:
            return _refused("busy", f"it is being applied right now in {journal.folder}")
        except OSError as error:
            raise WrongChange(
                f"an apply of it to {journal.folder} was cut off and cannot be finished: {error.strerror}"
            ) from error
    try:
        with _held(keep.parent, folder, wait) as tree:
            _end_others(keep.parent, folder, tree)
            store = Store(keep / "content", UNBOUND)
            found = plan(tree, store)
            stop = any(not refusal.path for refusal in found.refused)
            if dry_run or stop or (found.refused and not partial):
                return _outcome(found, applied=False)
            return _carry_out(keep, Path(os.path.realpath(folder)), tree, store, found, kind)
    except locks.Busy:
        return _refused("busy", f"another apply is running in {folder}")
    except (FileNotFoundError, NotADirectoryError):
        if folder.is_dir():
            raise
        return _refused("folder", f"{folder} is gone")
    except OSError as error:
        if error.errno in NO_SPACE:
            return _refused("space", "no space left to back up what is in the folder")
        raise


def _carry_out(
    keep: Path, folder: Path, tree: Tree, store: Store, plan: Plan, kind: Literal["apply", "revert"]
) -> Outcome:
    try:
        transaction.carry_out(keep, folder, tree, store, plan.steps, kind)
    except Overtaken as overtaken:
        refusal = Refusal(overtaken.path, "changed", "it changed in the folder during the apply")
        return _outcome(plan, applied=False, more=(refusal,))
    except Failed as failed:
        return _outcome(plan, applied=False, more=(_why_failed(failed),))
    return _outcome(plan, applied=True)


def _why_failed(failed: Failed) -> Refusal:
    error = failed.error
    if error.errno in NO_SPACE:
        return Refusal(b"", "space", f"no space for {as_text(failed.path) or 'it'} on its file system")
    if error.errno in NO_ACCESS:
        return Refusal(failed.path, "permission", f"cannot be written: {error.strerror}")
    if error.errno == errno.EXDEV:
        return Refusal(failed.path, "mount", "lies on another file system than the folder")
    if error.errno == errno.ELOOP:
        return Refusal(failed.path, "link", "one of its parent folders is a link now")
    return Refusal(failed.path, "changed", f"cannot be written: {error.strerror or error}")


def _refused(why: Why, detail: str) -> Outcome:
    return Outcome(applied=False, refused=(Refusal(b"", why, detail),))


def _outcome(plan: Plan, *, applied: bool, more: Sequence[Refusal] = ()) -> Outcome:
    """What came of a plan, or would."""
    return Outcome(
        applied,
        written=tuple(step.path for step in plan.steps),
        merged=tuple(step.path for step in plan.steps if step.merged),
        marked=tuple(step.path for step in plan.steps if step.marked),
        same=plan.same,
        refused=(*plan.refused, *more),
    )


__all__ = ["apply", "discard", "find_applied", "recover", "revert"]
