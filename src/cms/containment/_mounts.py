"""Which paths the tree may write, may not write, and may not see: worked out here, carried out by a
mechanism.

A plan is a list of words and paths in the order in which they are mounted, parents first, so that what is
deeper wins:

    write   the path as it is, bound on itself
    read    the same, read-only
    pin     like write; it is there only so that the folder cannot be renamed or removed
    empty   an empty read-only folder in its place
    null    /dev/null in its place: reads as empty, or not at all
    private an empty folder that the tree may write
    dev     a /dev with the harmless devices only
    proc    the namespace's own /proc

Why pins: a read-only bind on `.git/config` holds the file but not its name. `mv .git g; mkdir .git` puts
another one there. A mount point can neither be renamed nor removed, so each folder between the writable root
and a protected path is bound on itself. The price: rename and link between a pinned folder and its
surroundings give EXDEV (programs copy then).

What a bind cannot do is said by `Plan.unenforced`, never passed over: a symbolic link has no mount point of
its own; a file that does not exist cannot be bound on without creating it.
"""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from cms.containment._model import LostMount, Spec
from cms.errors import ContainmentError

Word = Literal["write", "read", "pin", "empty", "null", "private", "dev", "proc"]

PRIVATE = (Path("/tmp"), Path("/var/tmp"), Path("/run"))  # noqa: S108 (they are made private, not used)
_MISSING = "does not exist, so nothing holds its place"
_RANK: dict[Word, int] = {"pin": 0, "write": 1, "read": 2, "null": 3, "empty": 3}


class Step(msgspec.Struct, frozen=True):
    """One mount."""

    word: Word
    path: Path


class Placeholder(msgspec.Struct, frozen=True):
    """An empty file that we made so that there is something to bind on."""

    path: Path
    device: int
    inode: int


class Plan(msgspec.Struct, frozen=True):
    """The mounts of one container.

    Attributes:
        sandbox: the root is read-only.
        steps: in mounting order.
        absent: protected paths that do not exist and must not come to exist.
        unenforced: what no mount can hold, and why.
        placeholders: to be removed at the end.
        token: names this container to a process that looks for its members.
    """

    sandbox: bool
    steps: tuple[Step, ...] = ()
    absent: tuple[Path, ...] = ()
    unenforced: tuple[LostMount, ...] = ()
    placeholders: tuple[Placeholder, ...] = ()
    token: str = msgspec.field(default_factory=lambda: secrets.token_hex(8))


def without_mounts(spec: Spec, why: str) -> Plan:
    """The plan of a mechanism that has no mounts: all that was asked for is unenforced."""
    asked = (*spec.protected, *spec.hidden)
    return Plan(sandbox=False, unenforced=tuple(LostMount(path, why) for path in asked))


def plan(spec: Spec) -> Plan:
    """Work out the mounts. Creates the placeholders if the spec wants them.

    Raises:
        ContainmentError: a writable path does not exist.
    """
    draft = _Draft(spec)
    for path in spec.protected:
        draft.protect(path)
    for path in spec.hidden:
        draft.hide(path)
    draft.keep_needed()
    # No pins for these: a pin is the folder itself, with all that is beside what is to be seen.
    for path in spec.shown:
        if path.exists():
            draft.want(_real(path), "read")
    for path in spec.own:
        if path.exists():
            draft.want(_real(path), "write")
    return draft.finish()


class _Draft:
    """A plan in the making."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._wanted: dict[Path, Word] = {}
        self._unenforced: list[LostMount] = []
        self._absent: list[Path] = []
        self._placeholders: list[Placeholder] = []
        self._writable = [] if spec.sandbox else [Path("/")]
        for path in spec.writable if spec.sandbox else ():
            real = _real(path)
            if not real.exists():
                raise ContainmentError(f"{path} is to be writable but does not exist", hint="create it first")
            self._writable.append(real)
            self.want(real, "write")
        self._private = [
            place for place in PRIVATE if spec.sandbox and place.is_dir() and not place.is_symlink()
        ]

    def want(self, path: Path, word: Word) -> None:
        """A mount, unless there is one for that path that is at least as strict."""
        old = self._wanted.get(path)
        if path != Path("/") and (old is None or _RANK[word] > _RANK[old]):
            self._wanted[path] = word

    def protect(self, path: Path) -> None:
        """Read-only, and its name held by pins."""
        real = _real(path)
        if _normal(path) != real and _link_can_be_replaced(path, self._writable):
            why = "a symbolic link: its target is held, the link itself is not"
            self._unenforced.append(LostMount(path, why))
        if not real.exists():
            if not _under(real, self._writable):
                return
            made = _place(real) if self._spec.placeholders else None
            if made is None:
                self._absent.append(real)
                self._unenforced.append(LostMount(path, _MISSING))
                return
            self._placeholders.append(made)
        self.want(real, "read")
        for parent in real.parents:
            if _under(parent, self._writable) and parent not in self._writable:
                self.want(parent, "pin")

    def hide(self, path: Path) -> None:
        """Nothing of it is seen."""
        real = _real(path)
        if not real.exists():
            self._unenforced.append(LostMount(path, _MISSING))
        else:
            self.want(real, "empty" if real.is_dir() else "null")

    def keep_needed(self) -> None:
        """What the tree cannot do without may lie below a place that is hidden or made private."""
        spec = self._spec
        covered = [*self._private, *(path for path, word in self._wanted.items() if word == "empty")]
        program = _executable(spec)
        if program is not None and program.parent not in covered:
            program = program.parent  # with its libraries; but never all of /tmp
        for needed in (program, Path(sys.base_prefix), _resolver()):
            if needed is not None and needed.exists() and _under(_real(needed), covered):
                self.want(_real(needed), "read")
        cwd = _real(spec.cwd)
        if not cwd.is_dir() or cwd in covered or not _under(cwd, covered):
            return
        if not spec.sandbox or not _under(cwd, self._writable):
            self.want(cwd, "read" if spec.sandbox else "write")

    def finish(self) -> Plan:
        """All of it, in mounting order."""
        first = [Step("dev", Path("/dev"))] if self._spec.sandbox else []
        first.append(Step("proc", Path("/proc")))
        first += [Step("private", place) for place in self._private]
        deep = sorted(self._wanted.items(), key=lambda item: (len(item[0].parts), item[0]))
        return Plan(
            sandbox=self._spec.sandbox,
            steps=(*first, *(Step(word, path) for path, word in deep)),
            absent=tuple(self._absent),
            unenforced=tuple(self._unenforced),
            placeholders=tuple(self._placeholders),
        )


def verify(plan: Plan, pid: int) -> tuple[LostMount, ...]:
    """Compare the plan with the mounts that process really sees.

    A rename over a protected file from outside detaches the mount from everybody's tree: it is then simply no
    longer listed. The mount listed last for a place is the one that counts.
    """
    try:
        seen = mounts_of(pid)
    except OSError:
        return ()  # it has just ended; who asks finds out by `wait`
    lost: list[LostMount] = []
    for step in plan.steps:
        if step.word not in ("read", "pin", "empty", "null"):
            continue
        options = seen.get(step.path)
        if options is None:
            lost.append(LostMount(step.path, "the mount is gone: the path was replaced from outside"))
        elif step.word != "pin" and "ro" not in options:
            lost.append(LostMount(step.path, "the mount is not read-only"))
    lost += [LostMount(path, "was created since") for path in plan.absent if os.path.lexists(path)]
    return tuple(lost)


def mounts_of(pid: int) -> dict[Path, frozenset[str]]:
    """Each mount point that process sees, with its options.

    Raises:
        OSError: there is no such process.
    """
    found: dict[Path, frozenset[str]] = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        found[Path(_unescape(fields[4]))] = frozenset(fields[5].split(","))
    return found


def remove_placeholders(plan: Plan) -> None:
    """Remove what `plan` created, unless somebody has filled or replaced it since."""
    for made in plan.placeholders:
        try:
            here = made.path.lstat()
            if (here.st_dev, here.st_ino, here.st_size) == (made.device, made.inode, 0):
                made.path.unlink()
        except OSError:
            continue


def _place(path: Path) -> Placeholder | None:
    """None where the folder is missing, too, or not ours to write."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    except OSError:
        return None
    try:
        here = os.fstat(fd)
    finally:
        os.close(fd)
    return Placeholder(path, here.st_dev, here.st_ino)


def _under(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _normal(path: Path) -> Path:
    """Absolute and without `..`, links left alone."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps `..`)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _link_can_be_replaced(path: Path, writable: Iterable[Path]) -> bool:
    """True if one of the links on the way to `path` lies where the tree may write."""
    here = _normal(path)
    roots = list(writable)
    return any(
        stat.S_ISLNK(place.lstat().st_mode) and _under(_real(place.parent), roots)
        for place in (here, *here.parents)
        if os.path.lexists(place)
    )


def _executable(spec: Spec) -> Path | None:
    """The command's real file."""
    import shutil

    found = shutil.which(spec.argv[0], path=spec.env.get("PATH"))
    return _real(Path(found)) if found else None


def _resolver() -> Path | None:
    """/etc/resolv.conf often points into /run; without it the network is there but no name is found."""
    real = _real(Path("/etc/resolv.conf"))
    return real if real.is_file() else None


def _unescape(field: str) -> str:
    """mountinfo writes space, tab, newline and backslash as three octal digits."""
    if "\\" not in field:
        return field
    head, *tail = field.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in tail)
