"""What a task changed, as values; and what came of applying it.

A path is bytes, relative to the folder, with `/` between its names: a name need not be UTF-8. Stored as JSON,
bytes are base64; `names.as_text` is for people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec

NodeType = Literal["file", "dir", "link"]
#: `mode`: nothing but the permissions. `type`: a file that is a link or a folder now, or such.
Kind = Literal["added", "modified", "deleted", "mode", "type"]
#: Where the state before the task comes from. `folder`: the folder itself, untouched since the start.
#: `apply`: an apply of ours that replaced it meanwhile had saved it. `commit`: the repository's commit at the
#: start, an ancestor at least. `unknown`: somebody has changed it since, and nobody kept what was there.
Base = Literal["folder", "apply", "commit", "unknown"]

#: Whether a path, relative to the folder, may not be written by an apply: "" if it may, else why not.
Forbids: TypeAlias = Callable[[bytes], str]


class Node(msgspec.Struct, frozen=True):
    """What a name stands for.

    Attributes:
        mode: permission bits (0o7777); of a link always 0o777.
        size: of a file, in bytes; of a link, the length of its target.
        content: SHA-256 (hex) of a file's bytes, or of a link's target; "" of a folder.
        target: of a link.
    """

    type: NodeType
    mode: int
    size: int = 0
    content: str = ""
    target: bytes = b""


class Entry(msgspec.Struct, frozen=True):
    """One path that the task changed.

    Attributes:
        before: what it was when the task began; None: nothing, or, with base `unknown`, not known.
        after: what the task left; None: nothing.
        binary: it is no text (a NUL byte, or too big to be looked through); then no lines are counted.
        added: lines.
        removed: lines.
        ignored: git ignores it: kept, but neither shown nor applied unless that is asked for.
    """

    path: bytes
    kind: Kind
    before: Node | None
    after: Node | None
    base: Base = "folder"
    binary: bool = False
    added: int = 0
    removed: int = 0
    ignored: bool = False


class LeftOut(msgspec.Struct, frozen=True):
    """Something in the layer that is not part of the change, and why: a socket, a device, a cache."""

    path: bytes
    why: str


class Commits(msgspec.Struct, frozen=True):
    """What the task committed in its own view of the repository.

    Attributes:
        head: the commit that its HEAD stood at in the end.
        branch: the branch that was checked out, or "" (a detached HEAD).
        count: commits that the folder's own repository did not have.
        subjects: of the newest of them, at most 20.
    """

    head: str
    branch: str = ""
    count: int = 0
    subjects: tuple[str, ...] = ()


class Start(msgspec.Struct, frozen=True):
    """The folder as it was when the task began: by this it is told later what is the base.

    Attributes:
        at: seconds since the epoch, before the task could see the folder.
        commit: of the repository's HEAD, or "".
        branch: that was checked out, or "".
    """

    at: float
    commit: str = ""
    branch: str = ""


class Bound(msgspec.Struct, frozen=True):
    """How much may be looked at: a task can leave more than a disk holds.

    Attributes:
        entries: paths of the layer.
        bytes: that are copied.
        until: `time.monotonic()` at which to give up.
    """

    entries: int = 500_000
    bytes: int = 64 << 30
    until: float = float("inf")


UNBOUND: Final = Bound()


class Change(msgspec.Struct, frozen=True):
    """What one task changed. Its contents are in the content store of its own folder.

    Attributes:
        folder: that it is a change of: where it is applied by default.
        start: when the task began.
        frozen: when this was made, seconds since the epoch.
        entries: sorted by path.
        commits: what the task committed, if it did.
        version: of this record.
    """

    folder: str
    start: Start
    frozen: float
    entries: tuple[Entry, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    commits: Commits | None = None
    version: int = 1

    @property
    def empty(self) -> bool:
        """Whether there is nothing to apply: what git ignores does not count."""
        return self.commits is None and all(entry.ignored for entry in self.entries)


class Diffstat(msgspec.Struct, frozen=True):
    """A change in numbers; what git ignores is not counted, but in `ignored`."""

    files: int = 0
    added: int = 0
    removed: int = 0
    ignored: int = 0
    left_out: int = 0
    unknown: int = 0
    commits: int = 0


class FileChange(msgspec.Struct, frozen=True, rename="camel"):
    """One path of a change, as `cms diff --json` tells it.

    Attributes:
        path: as people read it; `path_base64`: the name without loss, where it is no UTF-8.
        kind: added, modified, deleted, mode (nothing but the permissions), type (a file that is a link now).
        type: file, dir or link.
        base: where the state before is from: `folder`, `apply`, `commit`, or `unknown`.
        renamed_from: where the same content was deleted.
        ignored: git ignores it: neither shown nor applied.
    """

    path: str
    kind: str
    type: str
    added: int
    removed: int
    binary: bool
    base: str
    path_base64: str | None = None
    renamed_from: str | None = None
    old_mode: str | None = None
    mode: str | None = None
    size: int | None = None
    ignored: bool = False


#: Why a path, or with the path b"" the whole, is not applied.
Why = Literal[
    "busy",  # another apply has the folder and does not let go of it
    "case",  # two names that are one on this file system
    "changed",  # the folder has something else there by now, and the two cannot be merged
    "conflict",  # both changed the same lines
    "folder",  # the folder is gone, or is none
    "link",  # it would be reached through a link
    "mount",  # it lies on another file system than the folder
    "nested",  # it lies in another repository within the folder
    "outside",  # a new link that leads out of the folder
    "permission",  # the file system does not let us
    "protected",  # the caller's predicate forbids it
    "repository",  # the repository is in the middle of a merge, a rebase ...
    "space",  # no space for it
    "unknown",  # the base is not known, and the folder has something else there than the task left
]


class Refusal(msgspec.Struct, frozen=True):
    """One path that is not applied, and why. The path b"" stands for the whole change."""

    path: bytes
    why: Why
    detail: str


class Outcome(msgspec.Struct, frozen=True):
    """What came of an apply or a revert.

    Attributes:
        applied: all of it (or, if that was asked for, all that could be) is in the folder now, durably; if
            not, nothing was changed there.
        written: paths that were written, deleted or had their mode changed.
        merged: of these, those in which changes of others were kept (three-way).
        marked: of these, those with conflict markers in them.
        same: paths that were there already as the task left them.
        refused: what stands in the way; with `applied`, what was left aside.
    """

    applied: bool
    written: tuple[bytes, ...] = ()
    merged: tuple[bytes, ...] = ()
    marked: tuple[bytes, ...] = ()
    same: tuple[bytes, ...] = ()
    refused: tuple[Refusal, ...] = ()


class Applied(msgspec.Struct, frozen=True):
    """That a change is in a folder, for `revert` and for the bases of others.

    Attributes:
        folder: it was applied to.
        at: when, seconds since the epoch.
    """

    folder: str
    at: float


class Recovered(msgspec.Struct, frozen=True):
    """An apply that was cut off, and what was done about it.

    Attributes:
        change: its folder.
        folder: the target.
        done: it had been finished, or is undone now; False: it cannot be ended yet, for the reason `why`.
        applied: it had been finished.
        left: paths that somebody has changed since: left as they are. What was there before is in the
            change's content store.
    """

    change: str
    folder: str
    done: bool
    applied: bool = False
    left: tuple[bytes, ...] = ()
    why: str = ""
