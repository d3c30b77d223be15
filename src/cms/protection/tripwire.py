"""The last net: protected files as they were before a session, compared with what they are after it.

The gate sees what file tools name, the container holds what it can mount. What slipped past both (a file
that nobody could hold because it did not exist, a machine without namespaces, a mount that an editor's save
dropped) shows here. It names what changed, whoever changed it: a person at work in the same folder trips it
too.

A file counts as changed if its kind, its mode or its content did. Up to `HASHED` bytes the content itself is
compared; of a bigger one its size, its place on the disk and its times. Reads leave no trace.

Paths are text here, and what is equal in two snapshots is one object: each live session keeps hundreds of
both, and with objects of pathlib they were most of what it held.

Everything here touches the disk: call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal
from weakref import WeakValueDictionary

import msgspec

from cms import config_file
from cms.files import open_regular

#: Bytes up to which a file is compared by its content.
HASHED: Final = 1024 * 1024
#: Files that are looked at in all; a protected folder with more is seen in part.
MOST_FILES: Final = 5000

Kind = Literal["file", "folder", "link", "other", "missing"]


class Mark(msgspec.Struct, frozen=True, weakref=True):
    """What a path was at one moment."""

    kind: Kind
    mode: int = 0
    inode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    digest: str = ""  # of a small file's content, or a link's target
    names: int = 1  # hard links


class Change(msgspec.Struct, frozen=True):
    """A protected path that is not what it was."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


MISSING: Final = Mark("missing")
AnyPath = str | os.PathLike[str]
_marks: Final[WeakValueDictionary[Mark, Mark]] = WeakValueDictionary()


def snapshot(paths: Iterable[AnyPath], ours: AnyPath | None = None) -> dict[str, Mark]:
    """Each path as it is now, and of folders everything below.

    Args:
        ours: cms's own folder, of which only what a person writes is looked at. The rest changes all the
            time; and to close a file of the store that was opened here takes away the locks that hold it.
    """
    found: dict[str, Mark] = {}
    below = () if ours is None else (f"{ours}/", f"{os.path.realpath(ours)}/")
    for path in (os.fspath(one) for one in paths):
        kind = mark(path, content=False).kind  # most are not there, and then that was the one look at them
        for one in (path, *_inside(path, kind)):
            if below and one.startswith(below) and not one.endswith(f"/{config_file.NAME}"):
                continue
            if len(found) >= MOST_FILES:
                return found
            found[sys.intern(one)] = MISSING if kind == "missing" else mark(one)
    return found


def snapshot_again(
    before: Mapping[str, Mark], paths: Iterable[AnyPath], ours: AnyPath | None = None
) -> dict[str, Mark]:
    """What a snapshot is to be compared with: its paths as they are now, and what is new.

    Where there was too much for the first look, nothing is new: what is seen only now may have been left
    out then.
    """
    found = snapshot(paths, ours)
    if not is_whole(before):
        found = {path: one for path, one in found.items() if path in before}
    return found | {path: mark(path) for path in before if path not in found}


def is_whole(found: Mapping[str, Mark]) -> bool:
    """Whether a snapshot has everything that there was."""
    return len(found) < MOST_FILES


def compare(before: Mapping[str, Mark], after: Mapping[str, Mark]) -> tuple[Change, ...]:
    """What is different, by path. A path that only one of the two knows counts as missing in the other."""
    if before == after:
        return ()  # at nearly every end, of hundreds of paths
    changes = []
    for path in sorted({*before, *after}):
        was, now = before.get(path, MISSING), after.get(path, MISSING)
        if what := _difference(was, now):
            changes.append(Change(path, what))
    return tuple(changes)


def mark(path: AnyPath, *, content: bool = True) -> Mark:
    """What a path is now. What cannot be looked at is as good as missing.

    Args:
        content: look into the file, too.
    """
    try:
        here = os.lstat(path)
        kind, digest = _kind(here.st_mode), ""
        if kind == "link":
            digest = str(Path(path).readlink())
        elif kind == "file" and here.st_size <= HASHED and content:
            digest = _digest(path)
    except OSError:
        return MISSING
    found = Mark(
        kind,
        stat.S_IMODE(here.st_mode),
        here.st_ino,
        here.st_size,
        here.st_mtime_ns,
        here.st_ctime_ns,
        digest,
        here.st_nlink if kind == "file" else 1,
    )
    return _marks.setdefault(found, found)


def _difference(was: Mark, now: Mark) -> str:
    if was == now:
        return ""
    if was.kind != now.kind:
        if was.kind == "missing":
            return "was created"
        return "was removed" if now.kind == "missing" else f"was a {was.kind} and is a {now.kind}"
    if was.mode != now.mode:
        return f"had mode {was.mode:o} and has {now.mode:o}"
    if was.kind == "folder":
        return ""  # what is in it is compared by itself
    if was.digest and now.digest:
        return "was changed" if was.digest != now.digest else ""
    # The second time, of the last change to the file as such, is one that nobody can put back.
    same = (was.inode, was.size, was.mtime_ns, was.ctime_ns) == (
        now.inode,
        now.size,
        now.mtime_ns,
        now.ctime_ns,
    )
    return "" if same else "was changed"


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


def _digest(path: AnyPath) -> str:
    with os.fdopen(open_regular(path), "rb") as file:
        return hashlib.sha256(file.read(HASHED + 1)).hexdigest()


def _inside(path: str, kind: Kind) -> Iterator[str]:
    """What a link points at, and everything below a folder."""
    if kind == "link":
        yield os.path.realpath(path)
    elif kind == "folder":
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                yield f"{folder.rstrip('/')}/{name}"
