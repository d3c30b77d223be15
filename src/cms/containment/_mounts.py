"""Which paths the tree may write, may not write, and may not see: worked out here, carried out by a
mechanism.

A plan is a list of words and paths in the order in which they are mounted, parents first, so that what is
deeper wins:

    write   the path as it is, bound on itself
    read    the same, read-only
    pin     like write; it is there only so that the folder cannot be renamed or removed
    cover   copy-on-write: what is written goes to memory, and is gone with the container
    layer   copy-on-write, and what is written stays in a folder of its own; or a whole copy in its place
    empty   an empty read-only folder in its place
    null    /dev/null in its place: reads as empty, or not at all
    private an empty folder that the tree may write
    dev     a /dev with the harmless devices only
    proc    the namespace's own /proc

Why pins: a read-only bind on `.git/config` holds the file but not its name. `mv .git g; mkdir .git` puts
another one there. A mount point can neither be renamed nor removed, so each folder between the writable root
and a protected path is bound on itself. The price: rename and link between a pinned folder and its
surroundings give EXDEV (programs copy then). Below a cover there is none: what is renamed there is a copy.

Copy-on-write is overlayfs, which covers one file system; and in a user namespace the kernel refuses to cover
a folder with a mount below, for that would show what is under the mount. Such a folder is read-only, and each
folder in it is covered for itself (of /tmp there is an empty one instead). Sockets below a cover cannot be
connected to.

What a bind cannot do is said by `Plan.unenforced`, never passed over: a symbolic link has no mount point of
its own; a file that does not exist cannot be bound on without creating it.
"""

from __future__ import annotations

import itertools
import os
import secrets
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import msgspec

from cms.containment._model import Layer, LostMount, Spec
from cms.disk import ask_disk
from cms.errors import ContainmentError, DiskTimeout

Word = Literal["write", "read", "pin", "cover", "layer", "empty", "null", "private", "dev", "proc"]

PRIVATE = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 (they are made private, not used)
_MISSING = "does not exist, so nothing holds its place"
_RANK: dict[Word, int] = {"pin": 0, "cover": 1, "write": 2, "layer": 3, "read": 4, "null": 5, "empty": 5}
#: File systems that are known to do as the lower layer of an overlay.
_COVERED = frozenset({"bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"})


class NotMounted(ContainmentError):
    """The mounts of a container could not be made; nothing was begun in it."""


class Step(msgspec.Struct, frozen=True, weakref=True):
    """One mount; `layer` of the word of that name, `mode` of the folder that is covered."""

    word: Word
    path: Path
    layer: Layer | None = None
    mode: int = 0


_steps: WeakValueDictionary[Step, Step] = WeakValueDictionary()


def _shared(step: Step) -> Step:
    """The same step, as one object for all containers that live: most of the system's folders."""
    return _steps.setdefault(step, step)


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
    """The plan of a mechanism that has no mounts: all that was asked for is unenforced.

    Raises:
        ContainmentError: a folder was to be left as it is, and would be written.
    """
    if spec.layers:
        raise ContainmentError(f"{spec.layers[0].folder} would not be left as it is: {why}")
    asked = (*spec.protected, *spec.hidden)
    return Plan(sandbox=False, unenforced=tuple(LostMount(path, why) for path in asked))


async def make_plan(spec: Spec) -> Plan:
    """`plan` for trio: it looks into folders of the tree's.

    Raises:
        ContainmentError: as there.
        DiskTimeout: they do not answer.
    """
    return await ask_disk(lambda: plan(spec), f"the folders of {spec.label or spec.cwd}")


def plan(spec: Spec) -> Plan:
    """Work out the mounts. Creates the placeholders if the spec wants them.

    Raises:
        ContainmentError: a writable path or a layer does not exist, or a layer lies in what it covers.
    """
    planner = _Planner(spec)
    try:
        planner.open_places()
        planner.protect()
        planner.hide()
        planner.show_needed()
    except BaseException:
        remove_placeholders(planner.plan())
        raise
    return planner.plan()


class _Planner:
    """One plan in the making: each path has one word, the strongest that was wanted for it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.wanted: dict[Path, Word] = {}
        self.layers: dict[Path, Layer] = {}
        self.writable = [] if spec.sandbox else [Path("/")]
        self.private: list[Path] = []
        self.unenforced: list[LostMount] = []
        self.absent: list[Path] = []
        self.placeholders: list[Placeholder] = []

    def want(self, path: Path, word: Word) -> None:
        if path == Path("/"):
            return
        old = self.wanted.get(path)
        if old is None or _RANK[word] > _RANK[old]:
            self.wanted[path] = word

    def open_places(self) -> None:
        """What may be written, for real or as a copy."""
        spec = self.spec
        for path in spec.writable:
            real = _real(path)
            if not real.exists():
                raise ContainmentError(f"{path} is to be writable but does not exist", hint="create it first")
            self.writable.append(real)
            self.want(real, "write")
        for layer in spec.layers:
            self._lay(layer)
        if not spec.sandbox:
            return
        mounts = mounts_of(os.getpid()) if spec.covered else {}
        for real in sorted(map(_real, spec.covered), key=_depth):
            if real.is_dir() and real != Path("/") and not self._is_covered(real):
                self._cover(real, mounts)
        for path in spec.readable:
            real = _real(path)
            if real.is_dir() and real not in PRIVATE and real not in self.wanted:
                self.want(real, "read")
        self.private = [
            place
            for place in PRIVATE
            if place.is_dir() and not place.is_symlink() and place not in self.wanted
        ]

    def _is_covered(self, folder: Path) -> bool:
        """Whether a cover above does. To write below it the kernel copies the folders between, and it copies
        none of an owner that the tree does not know: /tmp/user, of root's, above /tmp/user/1000."""
        if self._nearest(folder) != "cover":
            return False
        between = itertools.takewhile(lambda parent: parent not in self.wanted, folder.parents)
        return all(parent.stat().st_uid == os.geteuid() for parent in between)

    def _cover(self, folder: Path, mounts: Mapping[str, Mount]) -> None:
        """Cover it whole, or, where something is mounted below, each folder in it that has nothing below."""
        if folder in self.wanted:
            return  # a work dir
        if below(folder, mounts) is None:
            self.want(folder, "cover")
            self._pin_parents(folder)
        elif folder not in PRIVATE:
            self.want(folder, "read")
            for child in sorted(folder.iterdir()):
                kind = mounts[str(child)].kind if str(child) in mounts else ""
                if not child.is_symlink() and child.is_dir() and (not kind or kind in _COVERED):
                    self._cover(child, mounts)

    def _lay(self, layer: Layer) -> None:
        real, upper = _real(layer.folder), _real(layer.upper)
        work = None if layer.work is None else _real(layer.work)
        under = tuple(map(_real, layer.under))
        for each in (real, upper, *(() if work is None else (work,)), *under):
            if not each.is_dir():
                raise ContainmentError(f"{each} is to be a layer of {layer.folder} but is not a folder")
            if each != real and (_under(each, (real,)) or _under(real, (each,))):
                raise ContainmentError(f"the layer {each} and what it covers, {real}, lie in one another")
        self.layers[real] = Layer(real, upper, work, under)
        self.writable.append(real)
        self.want(real, "layer")

    def protect(self) -> None:
        """What may be read only."""
        for path in self.spec.protected:
            real = _real(path)
            if _normal(path) != real and _link_can_be_replaced(path, self.is_writable):
                self.unenforced.append(
                    LostMount(path, "a symbolic link: its target is held, the link itself is not")
                )
            if not real.exists():
                if not self.is_writable(real) or _under(real, self.layers):
                    continue
                made = _place(real) if self.spec.placeholders else None
                if made is None:
                    self.absent.append(real)
                    self.unenforced.append(LostMount(path, _MISSING))
                    continue
                self.placeholders.append(made)
            if any(_under(parent, self.layers) for parent in real.parents):
                continue  # bound here, it would hide the copy; and the real one nobody can change
            self.want(real, "read")
            self._pin_parents(real)

    def _pin_parents(self, path: Path) -> None:
        for parent in path.parents:
            if self.is_writable(parent) and parent not in self.writable:
                self.want(parent, "pin")

    def _nearest(self, path: Path) -> Word | None:
        """What is wanted for the folder nearest above."""
        above = [parent for parent in path.parents if parent in self.wanted]
        return self.wanted[above[0]] if above else None

    def is_writable(self, path: Path) -> bool:
        """Whether what the tree writes there is really written: no cover is nearer than a writable root."""
        roots = [root for root in self.writable if path.is_relative_to(root)]
        covers = [root for root, word in self.wanted.items() if word == "cover" and path.is_relative_to(root)]
        return bool(roots) and max(map(_depth, roots)) >= max(map(_depth, covers), default=0)

    def hide(self) -> None:
        """What may not even be read."""
        for path in self.spec.hidden:
            real = _real(path)
            if not real.exists():
                self.unenforced.append(LostMount(path, _MISSING))
            else:
                self.want(real, "empty" if real.is_dir() else "null")

    def show_needed(self) -> None:
        """What the tree cannot do without may lie below a place that is hidden or made private."""
        spec = self.spec
        program = _executable(spec)
        if program is not None and not self._is_concealed(program.parent, itself=True):
            program = program.parent  # with its libraries; but never all of /tmp
        for needed in (program, Path(sys.base_prefix), _resolver()):
            if needed is not None and needed.exists() and self._is_concealed(_real(needed)):
                self.want(_real(needed), "read")
        cwd = _real(spec.cwd)
        if cwd.is_dir() and self._is_concealed(cwd) and not self._is_concealed(cwd, itself=True):
            self.want(cwd, "read" if spec.sandbox else "write")
        # No pins for these: a pin is the folder itself, with all that is beside what is to be seen.
        for path in spec.shown:
            if path.exists():
                self.want(_real(path), "read")
        for path in spec.own:
            if path.exists():
                self.want(_real(path), "write")

    def _is_concealed(self, path: Path, *, itself: bool = False) -> bool:
        """Whether it lies in a place that shows as empty, or (`itself`) is one."""
        if itself:
            return path in self.private or self.wanted.get(path) == "empty"
        return next(
            (
                above in self.private or self.wanted[above] == "empty"
                for above in (path, *path.parents)
                if above in self.private or above in self.wanted
            ),
            False,
        )

    def _step(self, word: Word, path: Path) -> Step:
        mode = 0
        if word == "cover":
            with suppress(OSError):  # it has just gone: the mount says so
                mode = stat.S_IMODE(path.stat().st_mode)
        return _shared(Step(word, path, self.layers.get(path), mode))

    def plan(self) -> Plan:
        """What was wanted, in mounting order."""
        first = [Step("dev", Path("/dev"))] if self.spec.sandbox else []
        first.append(Step("proc", Path("/proc")))
        first += [Step("private", place) for place in self.private]
        deep = sorted(self.wanted.items(), key=lambda item: (_depth(item[0]), item[0]))
        return Plan(
            sandbox=self.spec.sandbox,
            steps=(*map(_shared, first), *(self._step(word, path) for path, word in deep)),
            absent=tuple(self.absent),
            unenforced=tuple(self.unenforced),
            placeholders=tuple(self.placeholders),
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
        if step.word not in ("read", "pin", "cover", "layer", "empty", "null"):
            continue
        mount = seen.get(str(step.path))
        if mount is None:
            lost.append(LostMount(step.path, "the mount is gone: the path was replaced from outside"))
        elif step.word == "cover" or (step.layer is not None and step.layer.work is not None):
            if mount.kind != "overlay":
                lost.append(LostMount(step.path, "the mount is not copy-on-write"))
        elif step.word not in ("pin", "layer") and "ro" not in mount.options:
            lost.append(LostMount(step.path, "the mount is not read-only"))
    return tuple(lost)


async def find_created(plan: Plan) -> tuple[LostMount, ...]:
    """What had to stay missing and is there now; where nobody can tell, the first that it could be."""
    if not plan.absent:
        return ()
    try:
        made = await ask_disk(
            lambda: [path for path in plan.absent if os.path.lexists(path)], "missing paths"
        )
    except DiskTimeout as error:
        return (LostMount(plan.absent[0], str(error)),)
    return tuple(LostMount(path, "was created since") for path in made)


def bytes_in_copies(plan: Plan, pid: int, *, in_one: bool) -> int:
    """What the tree has written to memory instead of to the disk: copies, and files in its private places.

    No process has these pages, so the sum of the processes does not show them.

    Args:
        pid: of a process that sees the mounts.
        in_one: all copies lie in one file system (bwrap's are made so), and each place shows the whole of it.
    """
    copies, private = [0], [0]
    for step in plan.steps:
        if step.word not in ("cover", "private", "dev"):
            continue
        place = step.path / "shm" if step.word == "dev" else step.path
        try:
            seen = os.statvfs(f"/proc/{pid}/root{place}")
        except OSError:
            continue  # it has just ended
        used = (seen.f_blocks - seen.f_bfree) * seen.f_frsize
        (copies if step.word == "cover" else private).append(used)
    return (max if in_one else sum)(copies) + sum(private)


class Mount(msgspec.Struct, frozen=True):
    """What is mounted at a place: the kind of file system, and the mount's own options."""

    kind: str
    options: frozenset[str]


def mounts_of(pid: int) -> Mapping[str, Mount]:
    """Each mount point that process sees, and what is mounted there last.

    By text: there are a hundred of them, a `Path` of each would take most of the time.

    Raises:
        OSError: there is no such process.
    """
    found: dict[str, Mount] = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        kind = fields[fields.index("-", 6) + 1]
        found[_unescape(fields[4])] = Mount(kind, frozenset(fields[5].split(",")))
    return found


def below(folder: Path, mounts: Iterable[str]) -> str | None:
    """A mount point below a folder, or None."""
    start = str(folder).rstrip("/") + "/"
    return next((point for point in mounts if point.startswith(start) and point != start), None)


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
    """None where the folder is missing, too, or not writable for us."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    except OSError:
        return None
    try:
        here = os.fstat(fd)
    finally:
        os.close(fd)
    return Placeholder(path, here.st_dev, here.st_ino)


def _depth(path: Path) -> int:
    return len(path.parts)


def _under(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _normal(path: Path) -> Path:
    """Absolute and without `..`, links left alone."""
    return Path(os.path.abspath(path))  # noqa: PTH100 (Path.absolute keeps `..`)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _link_can_be_replaced(path: Path, is_writable: Callable[[Path], bool]) -> bool:
    """True if one of the links on the way to `path` lies where the tree may write."""
    here = _normal(path)
    return any(
        stat.S_ISLNK(place.lstat().st_mode) and is_writable(_real(place.parent))
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
