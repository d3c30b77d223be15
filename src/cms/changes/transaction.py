"""All of a plan, or nothing of it: whatever happens meanwhile, SIGKILL and a power cut included.

1. What is to come is made in a folder of ours within the target (the stage), on the same file system, and is
   on the disk. A file that is to be replaced has a second name there, so it stays what it was.
2. The journal, in the change's folder, says by inodes what will be done. It is on the disk before it begins.
3. What goes is moved into the stage, what comes is moved out of it. A reader sees the one file or the other.
4. The event in `history.json` is what makes it done. Then the stage and the journal go.

If anything goes wrong, or the process does, before the event is written: all of it is undone, backwards. By
the inodes it is told what was done and what was not, and what somebody else did in between is left alone.
To roll back rather than forward needs one way for a fault and for a crash, and nothing but what is on the
disk already.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec

from cms.changes.content import Store, sync_file_system
from cms.changes.history import Event, Item, add_event, read_history
from cms.changes.model import Node, Recovered
from cms.changes.planning import Step
from cms.changes.stage import (
    MANY,
    Deed,
    Failed,
    Journal,
    Overtaken,
    Stage,
    drop_stage,
    is_as_looked_at,
    prepare,
    put_where_nothing_is,
    set_mode,
)
from cms.changes.tree import ThroughLink, Tree, names_in
from cms.errors import ChangeUnreadable, MachineError
from cms.files import replace_file

JOURNAL: Final = "journal.json"


def carry_out(
    keep: Path,
    folder: Path,
    tree: Tree,
    store: Store,
    steps: tuple[Step, ...],
    kind: Literal["apply", "revert"],
) -> None:
    """Do all of it, durably. The folder must be held (`locks`), and no journal be left.

    Raises:
        Overtaken: somebody has changed one of the paths meanwhile; nothing was done.
        Failed: something does not go; nothing was done.
        MachineError: the same, but what was done cannot be undone yet: `end_interrupted` will try again.
    """
    journal = Journal(secrets.token_hex(8), kind, str(folder), time.time())
    _write_journal(keep, journal)
    try:
        store.sync()
        with _stage(tree, journal, many=len(steps) > MANY) as stage:
            deeds = tuple(prepare(stage, tree, store, number, step) for number, step in enumerate(steps))
            _sync_stage(stage)
            journal = msgspec.structs.replace(journal, deeds=(*_closed_folders(tree, steps), *deeds))
            _write_journal(keep, journal)
            _Doer(tree, stage, journal).do()
        add_event(keep, event_of(journal, kind))
    except BaseException:
        try:
            roll_back(keep, journal, tree, store)
        except OSError as error:
            raise MachineError(
                f"an apply to {folder} failed, and cannot be undone yet: {error.strerror or error}",
                hint="cms tries again before the next apply and when it starts",
            ) from error
        raise
    clean_up(keep, journal, tree)


def _stage(tree: Tree, journal: Journal, *, many: bool) -> Stage:
    try:
        return Stage(tree, journal.stage, many=many)
    except OSError as error:
        raise Failed(b"", error) from error


def _sync_stage(stage: Stage) -> None:
    try:
        stage.sync()
    except OSError as error:
        raise Failed(b"", error) from error


def _write_journal(keep: Path, journal: Journal) -> None:
    """While nothing has been done, all that could be lost is that there is a stage."""
    replace_file(keep / JOURNAL, msgspec.json.encode(journal), durable=bool(journal.deeds))


def read_journal(keep: Path) -> Journal | None:
    """What was begun and has not ended, if anything.

    Raises:
        ChangeUnreadable: it makes no sense.
    """
    try:
        return msgspec.json.decode((keep / JOURNAL).read_bytes(), type=Journal)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChangeUnreadable(f"{keep / JOURNAL} cannot be read: {error}") from None


def event_of(journal: Journal, kind: Literal["apply", "revert", "undone"]) -> Event:
    """What the history is told of a transaction."""
    items = tuple(
        Item(deed.step.path, deed.step.now, deed.step.then, deed.step.ctime)
        for deed in journal.deeds
        if not deed.opened
    )
    return Event(journal.token, kind, journal.folder, journal.at, time.time(), items)


def end_interrupted(keep: Path, journal: Journal, tree: Tree, store: Store) -> Recovered:
    """End what a crash cut off. The folder must be held.

    Raises:
        OSError: the folder does not let us; try again later.
    """
    events = read_history(keep).events
    if any(event.token == journal.token and event.kind != "undone" for event in events):
        clean_up(keep, journal, tree)
        return Recovered(str(keep), journal.folder, done=True, applied=journal.kind == "apply")
    left = roll_back(keep, journal, tree, store)
    return Recovered(str(keep), journal.folder, done=True, applied=journal.kind == "revert", left=left)


class _Doer:
    """Does what the journal says."""

    def __init__(self, tree: Tree, stage: Stage, journal: Journal) -> None:
        self.tree = tree
        self.stage = stage
        self.opened = [deed for deed in journal.deeds if deed.opened]
        self.deeds = [deed for deed in journal.deeds if not deed.opened]

    def do(self) -> None:
        """All of it, what goes before what comes, modes last: a folder may be closed by then."""
        for deed in self.opened:
            self._try(deed, self._set_mode)
        for deed in reversed(self.deeds):
            if deed.taken_first:
                self._try(deed, self._take)
        for deed in self.deeds:
            if deed.inode:
                self._try(deed, self._put)
        own = {deed.step.path for deed in self.deeds}
        for deed in reversed(self.deeds):
            then = deed.step.then
            if then is not None and (
                deed.step.mode_only or (then.type == "dir" and then.mode & 0o700 != 0o700)
            ):
                self._try(deed, self._set_mode)
        for deed in self.opened:
            if deed.step.path not in own:
                self._try(deed, self._close)
        self._sync()

    def _try(self, deed: Deed, act: Callable[[Deed], None]) -> None:
        try:
            act(deed)
        except OSError as error:
            raise Failed(deed.step.path, error) from error

    def _take(self, deed: Deed) -> None:
        self._check_unchanged(deed.step)
        above, name = self.tree.place(deed.step.path)
        self.tree.forget_below(deed.step.path)
        os.rename(name, deed.old, src_dir_fd=above, dst_dir_fd=self.stage.fd)
        # What was moved is out of reach: nobody changes it any more.
        found = os.stat(deed.old, dir_fd=self.stage.fd, follow_symlinks=False)
        if not is_as_looked_at(deed.step, found) or (
            stat.S_ISDIR(found.st_mode) and self._holds_any(deed.old)
        ):
            raise Overtaken(deed.step.path)

    def _put(self, deed: Deed) -> None:
        above, name = self.tree.place(deed.step.path)
        if deed.linked:
            self._check_unchanged(deed.step)
            os.rename(deed.new, name, src_dir_fd=self.stage.fd, dst_dir_fd=above)
            found = os.stat(deed.old, dir_fd=self.stage.fd, follow_symlinks=False)
            if not is_as_looked_at(deed.step, found):
                raise Overtaken(deed.step.path)
        else:
            put_where_nothing_is(self.stage, deed, above, name)

    def _set_mode(self, deed: Deed) -> None:
        step = deed.step
        if step.then is None:
            return
        if step.mode_only and not deed.opened:
            self._check_unchanged(step)
        set_mode(self.tree, step.path, step.then.mode, deed.inode or step.inode)

    def _close(self, deed: Deed) -> None:
        if deed.step.now is not None and self.tree.look(deed.step.path) is not None:
            set_mode(self.tree, deed.step.path, deed.step.now.mode, deed.step.inode)

    def _check_unchanged(self, step: Step) -> None:
        found = self.tree.look(step.path)
        if found is None or not is_as_looked_at(step, found):
            raise Overtaken(step.path)

    def _holds_any(self, name: str) -> bool:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self.stage.fd)
        try:
            return bool(names_in(fd))
        finally:
            os.close(fd)

    def _sync(self) -> None:
        folders = sorted({deed.step.path.rpartition(b"/")[0] for deed in self.deeds})
        if len(folders) > MANY and sync_file_system(self.tree.fd):
            return
        for folder in folders:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ThroughLink):
                os.fsync(self.tree.folder(folder))
        os.fsync(self.stage.fd)


def _closed_folders(tree: Tree, steps: tuple[Step, ...]) -> Iterator[Deed]:
    """Folders that are there, and that we own but may not write in."""
    if os.geteuid() == 0:
        return
    wanted = {step.path.rpartition(b"/")[0] for step in steps if not step.mode_only}
    wanted |= {step.path for step in steps if step.now is not None and step.now.type == "dir"}
    for path in sorted(wanted):
        found = tree.look(path)
        if found is None or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            continue
        mode = stat.S_IMODE(found.st_mode)
        if mode & 0o300 != 0o300:
            step = Step(path, Node("dir", mode), Node("dir", mode | 0o700), found.st_dev, found.st_ino)
            yield Deed(step, 0, opened=True)


# --- undoing -------------------------------------------------------------------------------------------


def roll_back(keep: Path, journal: Journal, tree: Tree, store: Store) -> tuple[bytes, ...]:
    """Undo what was done of a journal. Returns the paths that somebody has changed since: they are left.

    Raises:
        OSError: a path cannot be restored; the journal stays, and it can be tried again.
    """
    tree.forget()
    left: set[bytes] = set()
    if journal.deeds:
        with Stage(tree, journal.stage, many=False) as stage:
            undoer = _Undoer(tree, stage, store)
            for deed in journal.deeds:
                undoer.open(deed)
            deeds = [deed for deed in journal.deeds if not deed.opened]
            left |= {deed.step.path for deed in reversed(deeds) if not undoer.take_back(deed)}
            left |= {deed.step.path for deed in deeds if not undoer.give_back(deed)}
            for deed in reversed(journal.deeds):
                if deed.opened and deed.step.now is not None:
                    undoer.set_mode(deed, deed.step.now.mode)
            undoer.sync(journal)
        if all(event.token != journal.token for event in read_history(keep).events):
            with contextlib.suppress(OSError):  # no space: then a base is not known, and nothing is lost
                add_event(keep, event_of(journal, "undone"))
    clean_up(keep, journal, tree)
    return tuple(sorted(left))


class _Undoer:
    def __init__(self, tree: Tree, stage: Stage, store: Store) -> None:
        self.tree = tree
        self.stage = stage
        self.store = store
        self.device = os.fstat(tree.fd).st_dev
        self.moved: set[bytes] = set()

    def open(self, deed: Deed) -> None:
        """Folders may be closed by now in which something is to be undone."""
        for node in (deed.step.now, deed.step.then):
            if node is not None and node.type == "dir" and not deed.step.mode_only:
                self.set_mode(deed, node.mode | 0o700, only_if_closed=True)
        if deed.opened and deed.step.now is not None:
            self.set_mode(deed, deed.step.now.mode | 0o700, only_if_closed=True)

    def set_mode(self, deed: Deed, mode: int, *, only_if_closed: bool = False) -> None:
        """Of a folder that is still the one we know."""
        found = self.tree.look(deed.step.path)
        if found is None or found.st_ino not in (deed.inode, deed.step.inode):
            return
        if not only_if_closed or stat.S_IMODE(found.st_mode) & 0o300 != 0o300:
            set_mode(self.tree, deed.step.path, mode, found.st_ino)

    def take_back(self, deed: Deed) -> bool:
        """What came with one deed; what is in a folder before it. False: somebody has changed it since."""
        step = deed.step
        found = self.tree.look(step.path)
        if step.mode_only:
            return self._undo_mode(step, found)
        if found is None or not deed.inode or not self._is(found, deed.inode):
            return True
        return self._undo_put(deed, found)

    def give_back(self, deed: Deed) -> bool:
        """What went with one deed; a folder before what is in it. False: somebody else's is there now."""
        step = deed.step
        if step.mode_only or step.now is None:
            return True
        found = self.tree.look(step.path)
        if found is not None:
            return self._is(found, step.inode)
        if deed.linked and step.path not in self.moved:
            return False  # one file has replaced another: it was never away, unless somebody has removed it
        return self._restore(deed, step.now)

    def _is(self, found: os.stat_result, inode: int) -> bool:
        return found.st_ino == inode and found.st_dev == self.device

    def _undo_mode(self, step: Step, found: os.stat_result | None) -> bool:
        if found is None or not self._is(found, step.inode) or step.now is None or step.then is None:
            return False
        mode = stat.S_IMODE(found.st_mode)
        if mode not in (step.now.mode, step.then.mode):
            return False
        set_mode(self.tree, step.path, step.now.mode, step.inode)
        return True

    def _undo_put(self, deed: Deed, found: os.stat_result) -> bool:
        step = deed.step
        above, name = self.tree.place(step.path)
        if stat.S_ISDIR(found.st_mode):
            if self.tree.names(step.path):
                return False
        elif (found.st_size, found.st_mtime_ns) != (deed.size, deed.mtime):
            return False
        if deed.linked and self.stage.holds(deed.old, step.inode):
            os.rename(deed.old, name, src_dir_fd=self.stage.fd, dst_dir_fd=above)
            return True
        self.tree.forget_below(step.path)
        self.moved.add(step.path)
        if self.stage.holds(deed.new, deed.inode):
            os.unlink(name, dir_fd=above)  # two names of one file
        else:
            os.rename(name, deed.new, src_dir_fd=above, dst_dir_fd=self.stage.fd)
        return True

    def _restore(self, deed: Deed, node: Node) -> bool:
        """What was there, where nothing is now."""
        step = deed.step
        try:
            above, name = self.tree.place(step.path)
        except (FileNotFoundError, NotADirectoryError, ThroughLink):
            return False
        if not self.stage.holds(deed.old, step.inode):
            self.stage.drop(deed.old)
            self.stage.make(deed.old, node, self.store)
        os.rename(deed.old, name, src_dir_fd=self.stage.fd, dst_dir_fd=above)
        return True

    def sync(self, journal: Journal) -> None:
        """What was undone, onto the disk."""
        for folder in sorted({deed.step.path.rpartition(b"/")[0] for deed in journal.deeds}):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ThroughLink):
                os.fsync(self.tree.folder(folder))


def clean_up(keep: Path, journal: Journal, tree: Tree) -> None:
    """Drop the stage, then the journal."""
    drop_stage(tree, journal.stage)
    with contextlib.suppress(FileNotFoundError):
        (keep / JOURNAL).unlink()
