"""Make a change durable: its contents, and what was there before.

What was there before must be known, or three-way merging is guessing. The folder itself tells it, as long as
nobody has touched the file since the task began (ctime, which no program can set back). If an apply of ours
replaced it, that apply kept what was there. Else the commit at the start is taken: if the file was not clean
then, its content is an ancestor of what was there, and a merge with an ancestor takes no side's change away;
it only shows more as changed than the task did. Where nothing of that is, the base is `unknown`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from cms.changes import git, lines
from cms.changes.commits import keep_commits
from cms.changes.content import Store, digest_bytes, same_content
from cms.changes.history import Item, find_applied, find_preimages
from cms.changes.model import UNBOUND, Base, Bound, Change, Entry, Kind, LeftOut, Node, Start
from cms.changes.reading import Reading, Seen
from cms.changes.tree import Tree, node_type
from cms.errors import ChangeNotFound, ChangeUnreadable, MachineError, WrongChange
from cms.files import replace_file

NAME: Final = "change.json"


def note_start(folder: Path) -> Start:
    """To be called before the task can see the folder, and kept with the session. Starts no program."""
    repository = git.find_repository(Path(os.path.realpath(folder)))
    commit, head = git.read_head(repository) if repository else ("", "")
    return Start(time.time(), commit, head)


def freeze(
    reading: Reading,
    keep: Path,
    start: Start,
    *,
    folder: Path | None = None,
    dirty: Collection[bytes] = (),
    live: bool = False,
    bound: Bound = UNBOUND,
) -> Change:
    """Keep what was read, in a new folder. Done anew, it replaces what was kept, unless that is applied.

    Crash-safe: until it returns, `load(keep)` finds what was there before, or nothing.

    Args:
        keep: the change's own folder; its parent holds all changes of this user (see `cms.changes`).
        folder: that it is a change of; by default `reading.base`.
        dirty: paths that differed from the commit at the start, where that is known.
        live: the task may go on with it: what vanishes while it is read is passed over.

    Raises:
        ChangeTooBig: there is more than `bound` allows.
        ChangeUnreadable: what was read is no longer there.
        WrongChange: what is kept there has been applied.
        OSError: it cannot be kept (no space).
    """
    folder = Path(os.path.realpath(folder or reading.base))
    for place in (keep.parent, keep):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
    if find_applied(keep) is not None:
        raise WrongChange(f"the change kept in {keep} is applied: it is not replaced")
    store = Store(keep / "content", bound)
    with ExitStack() as stack:
        try:
            base = stack.enter_context(Tree(reading.base))
            after = stack.enter_context(Tree(reading.after))
        except OSError as error:
            raise ChangeUnreadable(f"{error.filename} cannot be read: {error.strerror}") from error
        bases = _Bases(reading, base, start, store, str(folder), dirty, stack)
        freezer = _Freezer(reading, base, after, bases, store, live=live)
        found = [entry for seen in reading.seen if (entry := freezer.entry(seen)) is not None]
    commits = keep_commits(reading, keep, start) if reading.git else None
    left_out = reading.left_out
    if reading.git and git.find_repository(folder) is None:
        left_out += (
            LeftOut(b".git", "a git repository that the task made: its files are kept, its history is not"),
        )
    change = Change(str(folder), start, time.time(), _mark_ignored(folder, found), left_out, commits)
    store.sync()
    replace_file(keep / NAME, msgspec.json.encode(change))
    _drop_unused(store, change)
    return change


def load(keep: Path) -> Change:
    """A change as it was frozen.

    Raises:
        ChangeNotFound: there is none.
        ChangeUnreadable: it makes no sense.
    """
    try:
        return msgspec.json.decode((keep / NAME).read_bytes(), type=Change)
    except (FileNotFoundError, NotADirectoryError):
        raise ChangeNotFound(f"no change is kept in {keep}") from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChangeUnreadable(f"the change kept in {keep} cannot be read: {error}") from None


def _mark_ignored(folder: Path, entries: list[Entry]) -> tuple[Entry, ...]:
    def asked(entry: Entry) -> bytes:
        node = entry.after or entry.before
        return entry.path + b"/" if node is not None and node.type == "dir" else entry.path

    ignored = git.find_ignored(folder, [asked(entry) for entry in entries])
    return tuple(
        msgspec.structs.replace(entry, ignored=True) if asked(entry) in ignored else entry
        for entry in entries
    )


def _drop_unused(store: Store, change: Change) -> None:
    """What an earlier freeze kept, or one that was cut off."""
    used = {
        node.content for entry in change.entries for node in (entry.before, entry.after) if node is not None
    }
    for place in store.folder.iterdir() if store.folder.is_dir() else ():
        if place.is_dir():
            for content in place.iterdir():
                if place.name + content.name not in used:
                    content.unlink()
        else:
            place.unlink()


class _Known(NamedTuple):
    """The state before: what was there, and how that is known."""

    node: Node | None
    base: Base


class _Bases:
    """Finds the state before the task."""

    def __init__(
        self,
        reading: Reading,
        tree: Tree,
        start: Start,
        store: Store,
        folder: str,
        dirty: Collection[bytes],
        stack: ExitStack,
    ) -> None:
        self.reading = reading
        self.tree = tree
        self.start = start
        self.store = store
        self.dirty = frozenset(dirty)
        self.stack = stack
        self.preimages: dict[bytes, tuple[Item, Path]] = find_preimages(
            store.folder.parents[1], folder, start.at
        )
        self._commit: tuple[git.ObjectStore, bytes, dict[bytes, tuple[int, str]]] | None = None

    def untouched(self, path: bytes) -> os.stat_result | None:
        """What is in the folder, if nobody has touched it since the start."""
        found = self.tree.look(path)
        if found is None or found.st_ctime > self.start.at or self._of_checkout(path):
            return None
        return found

    def find(self, path: bytes) -> _Known:
        """The state before, its content kept."""
        if self._of_checkout(path):
            return _Known(self._in_commit(path), "commit")
        found = self.tree.look(path)
        if found is not None and node_type(found) not in ("file", "dir", "link"):
            return _Known(None, "folder")
        if found is not None and found.st_ctime <= self.start.at:
            try:
                node = read_node(self.tree, path, found, self.store)
            except PermissionError:
                return _Known(None, "unknown")
            # Nobody may have touched the file while it was read, or before it was opened.
            again = self.tree.look(path)
            if again is not None and again.st_ctime <= self.start.at:
                return _Known(node, "folder")
        if path in self.preimages and self.preimages[path][0].ctime <= self.start.at:
            item, keep = self.preimages[path]
            if item.before is not None and item.before.type == "file":
                try:
                    self.store.add_from(Store(keep / "content", self.store.bound), item.before.content)
                except FileNotFoundError:
                    return _Known(None, "unknown")
            return _Known(item.before, "apply")
        if found is None and not self._folder_touched(path):
            return _Known(None, "folder")
        if found is not None and stat.S_ISDIR(found.st_mode):
            return _Known(read_node(self.tree, path, found, self.store), "folder")
        committed = self._in_commit(path) if path not in self.dirty else None
        if committed is not None:
            return _Known(committed, "commit")
        return _Known(None, "folder" if found is None else "unknown")

    def _folder_touched(self, path: bytes) -> bool:
        """Whether something may have been taken out of the folder that a path is in."""
        above = path.rpartition(b"/")[0]
        found = self.tree.look(above)
        return found is None or found.st_ctime > self.start.at

    def _of_checkout(self, path: bytes) -> bool:
        return bool(self.reading.commit) and path not in self.reading.copied

    def _in_commit(self, path: bytes) -> Node | None:
        """A file of the commit at the start, its content kept."""
        found = self._open_commit()
        if found is None:
            return None
        objects, prefix, files = found
        if prefix + path not in files:
            inside = prefix + path + b"/"
            if self.reading.commit and any(name.startswith(inside) for name in files):
                return Node("dir", 0o755)
            return None
        mode, blob = files[prefix + path]
        if stat.S_IFMT(mode) == 0o160000:
            return None
        data = objects.blob(blob)
        if stat.S_ISLNK(mode):
            return Node("link", 0o777, len(data), digest_bytes(data), data)
        return Node("file", mode & 0o777, len(data), self.store.add_bytes(data))

    def _open_commit(self) -> tuple[git.ObjectStore, bytes, dict[bytes, tuple[int, str]]] | None:
        commit = self.reading.commit or self.start.commit
        if self._commit is None and commit and git.find() is not None:
            folder = Path(os.path.realpath(self.reading.base))
            repository = git.find_repository(folder)
            if repository is None:
                return None
            objects = git.ObjectStore(
                [repository.common / "objects"], self.store.folder.parent, sha256=len(commit) == 64
            )
            self.stack.enter_context(objects)
            try:
                files = objects.files(commit)
            except MachineError:
                files = {}  # the commit is gone
            self._commit = objects, repository.prefix(folder), files
        return self._commit


class _Freezer:
    def __init__(
        self, reading: Reading, base: Tree, after: Tree, bases: _Bases, store: Store, *, live: bool
    ) -> None:
        self.reading = reading
        self.base = base
        self.after = after
        self.bases = bases
        self.store = store
        self.live = live

    def entry(self, seen: Seen) -> Entry | None:
        """What changed at one path, or None: nothing did."""
        try:
            if self._is_same(seen):
                return None
            before, base = self.bases.find(seen.path)
            after = self._after(seen)
            if base == "commit":
                before = _with_own_mode(before, after)
        except (FileNotFoundError, NotADirectoryError) as error:
            if self.live:
                return None
            raise ChangeUnreadable(f"{os.fsdecode(seen.path)!r} vanished while it was read") from error
        if before == after and base != "unknown":
            return None
        kind = _kind(before, after, base)
        binary, added, removed = self._count(before, after, base)
        return Entry(seen.path, kind, before, after, base, binary, added, removed)

    def _is_same(self, seen: Seen) -> bool:
        """A quick look: a file that was only opened to be written, a folder in which something changed."""
        was = self.bases.untouched(seen.path)
        now = self.after.look(seen.path) if seen.after else None
        if was is None or now is None or node_mode(was) != node_mode(now):
            return False
        if stat.S_ISDIR(now.st_mode):
            return True
        if not stat.S_ISREG(now.st_mode) or was.st_size != now.st_size or seen.origin is not None:
            return False
        one = self.base.open(seen.path)
        try:
            other = self.after.open(seen.path)
            try:
                same = same_content(one, other)
            finally:
                os.close(other)
            return same and os.fstat(one).st_ctime <= self.bases.start.at
        finally:
            os.close(one)

    def _after(self, seen: Seen) -> Node | None:
        if not seen.after:
            if seen.origin is None:
                return None
            found = self.base.look(seen.origin)
            return None if found is None else read_node(self.base, seen.origin, found, self.store)
        found = self.after.look(seen.path)
        if found is None:
            raise FileNotFoundError
        if seen.origin is None:
            return read_node(self.after, seen.path, found, self.store)
        below = self.base.look(seen.origin)
        if below is None:
            raise FileNotFoundError
        node = read_node(self.base, seen.origin, below, self.store)
        return msgspec.structs.replace(node, mode=node_mode(found) & 0o7777)

    def _count(self, before: Node | None, after: Node | None, base: Base) -> tuple[bool, int, int]:
        """Whether it is no text; lines added, lines removed."""
        if before is not None and after is not None and before.content == after.content:
            return False, 0, 0
        texts = []
        for node in (before, after):
            if node is None or node.type == "dir":
                texts.append(b"")
            elif node.type == "link":
                texts.append(node.target)
            elif node.size > lines.BIGGEST_TEXT:
                return True, 0, 0
            else:
                texts.append(self.store.read(node.content))
        if any(lines.is_binary(text) for text in texts):
            return True, 0, 0
        added, removed = (0, 0) if base == "unknown" else lines.count(*texts)
        return False, added, removed


def node_mode(found: os.stat_result) -> int:
    """Type and permissions. No set-user-id: a program that an agent left must not run as who applies it."""
    if stat.S_ISREG(found.st_mode):
        return found.st_mode & ~0o7000
    if stat.S_ISLNK(found.st_mode):
        return stat.S_IFLNK | 0o777
    return found.st_mode


def read_node(tree: Tree, path: bytes, found: os.stat_result, store: Store, *, known: bool = False) -> Node:
    """What is at a path, its content kept.

    Args:
        known: its content is likely to be kept already.

    Raises:
        OSError: it cannot be read.
    """
    mode = node_mode(found) & 0o7777
    if stat.S_ISDIR(found.st_mode):
        return Node("dir", mode)
    if stat.S_ISLNK(found.st_mode):
        target = tree.link_target(path)
        return Node("link", mode, len(target), digest_bytes(target), target)
    fd = tree.open(path)
    try:
        content, size = store.add(fd, known=known)
    finally:
        os.close(fd)
    return Node("file", mode, size, content)


def _with_own_mode(before: Node | None, after: Node | None) -> Node | None:
    """A commit knows of one permission only, whether a file may be executed: the others are the folder's."""
    if before is None or after is None or before.type != after.type:
        return before
    if before.type == "file" and bool(before.mode & 0o100) != bool(after.mode & 0o100):
        return before
    return msgspec.structs.replace(before, mode=after.mode)


def _kind(before: Node | None, after: Node | None, base: Base) -> Kind:
    if base == "unknown":
        return "modified" if after is not None else "deleted"
    if before is None:
        return "added"
    if after is None:
        return "deleted"
    if before.type != after.type:
        return "type"
    return "mode" if before.content == after.content else "modified"
