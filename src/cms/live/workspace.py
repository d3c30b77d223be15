"""Where an isolated session works: a view of its folder that takes what it writes, and leaves the folder be.

Best is an overlay: the folder as it is, below a layer of the session's own. Where the machine has none, the
session works in a copy, which stands in the folder's place.

All of it lies in our own folder, which no session sees: `layers/SESSION/`. There is `layer.json` (what kind,
when it was begun) and, by number, what was written since: a number is done with when its change was applied
or discarded, and the next process begins with the next. Nothing here is removed by a crash, a stop or an end:
only by `renew` and `remove`, and who calls those has looked at the change first (`fleet.changes`).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec
import trio

from cms import changes
from cms.changes import CopyStart, Reading, Start
from cms.config import Settings
from cms.containment import Layer, Mechanism
from cms.disk import ask_disk
from cms.errors import UNREADABLE, ChangeUnreadable, UsageError
from cms.files import open_regular, replace_file, share_blocks
from cms.protection.places import layered_folders
from cms.session.model import SessionOptions

T = TypeVar("T")
Kind = Literal["overlay", "worktree", "copy"]

#: For the environment of what works in a view: the folder is a file system of its own there, and git does not
#: look above one for its repository.
ENVIRON: Final = {"GIT_DISCOVERY_ACROSS_FILESYSTEM": "1"}

_NOTE: Final = "layer.json"
#: Beside a copy: what was in it (`CopyStart`).
_COPY: Final = "copy.json"
#: Beside a work tree: what was copied into it that is not committed.
_COPIED: Final = "copied.json"
#: Seconds for what is quick unless a disk hangs.
_PATIENCE: Final = 30.0


class Begun(msgspec.Struct, frozen=True):
    """What is noted of a session's view, before anything is written in it.

    Attributes:
        kind: how it is made.
        folder: the real one; `layers` are its, and those of folders in which git keeps what it writes.
        why: there is no overlay; "" with one.
        start: how the folder was.
        number: of the view, from 1.
        used: a process has had it since it was last frozen into a change.
    """

    kind: Kind
    folder: str
    folders: tuple[str, ...]
    why: str
    start: Start
    number: int = 1
    used: bool = False


class Workspace:
    """The view of one session.

    Attributes:
        home: the folder of ours that it lies in.
        begun: what is noted of it.
    """

    def __init__(self, home: Path, begun: Begun) -> None:
        self.home = home
        self.begun = begun

    def __repr__(self) -> str:
        return f"<Workspace {self.begun.kind} of {self.begun.folder}>"

    @property
    def folder(self) -> Path:
        return Path(self.begun.folder)

    @property
    def place(self) -> Path:
        """What was written: of an overlay the layer, else the whole copy."""
        return self.home / str(self.begun.number) / "0" / "upper"

    @property
    def layers(self) -> tuple[Layer, ...]:
        """For the container of the session."""
        return tuple(
            _layer(self.home / str(self.begun.number), number, Path(folder), self.begun.kind)
            for number, folder in enumerate(self.begun.folders)
        )

    @property
    def told(self) -> str:
        """How the folder is kept from being changed, in a few words."""
        if self.begun.kind == "overlay":
            return "overlay"
        return f"{self.begun.kind} ({self.begun.why})" if self.begun.why else self.begun.kind

    def read(self) -> Reading:
        """What is different by now. Touches the disk.

        Raises:
            ChangeTooBig, ChangeUnreadable: it cannot be read.
        """
        if self.begun.kind == "overlay":
            beside = [(layer.folder, layer.upper) for layer in self.layers[1:]]
            return changes.read_layer(self.folder, self.place, beside=beside)
        copy = self._noted(_COPY, CopyStart)
        if self.begun.kind == "copy":
            return changes.read_trees(self.folder, self.place, copy=copy)
        copied = self._noted(_COPIED, tuple[bytes, ...])
        commit = self.begun.start.commit
        return changes.read_trees(self.folder, self.place, copy=copy, commit=commit, copied=copied)

    def _noted(self, name: str, kind: type[T]) -> T:
        """What was noted of the copy as it was made."""
        try:
            data = (self.home / str(self.begun.number) / name).read_bytes()
            return msgspec.json.decode(data, type=kind)
        except (OSError, *UNREADABLE) as error:
            raise ChangeUnreadable(f"what was noted of the copy {self.place}: {error}") from error

    def check_layers(self) -> tuple[Layer, ...]:
        """For a container that looks at what the session has left: it changes nothing of that.

        What it writes goes to layers that `forget_checks` removes, or into one more copy. Touches the disk.
        """
        self.forget_checks()
        if self.begun.kind == "overlay":
            return self._on_top([own.upper for own in self.layers])
        return (self._copied(self.place),)

    def preview_layers(self) -> tuple[Path, tuple[Layer, ...]]:
        """The same for the folder as it is now, with what is written into the path that comes first.

        That is an empty layer, or a copy of the folder. Touches the disk.
        """
        self.forget_checks()
        into = self.home / "checks" / "preview"
        if self.begun.kind == "overlay":
            into.mkdir(mode=0o700, parents=True)
            into.chmod(stat.S_IMODE(self.folder.stat().st_mode))
            return into, self._on_top([into])
        return into, (self._copied(self.folder),)

    def _copied(self, source: Path) -> Layer:
        copy = self.home / "checks" / "preview"
        copy.parent.mkdir(mode=0o700)
        copy_tree(source, copy)
        return Layer(self.folder, copy, None)

    def _on_top(self, under: list[Path]) -> tuple[Layer, ...]:
        made = []
        for number, (folder, lower) in enumerate(zip(self.begun.folders, under, strict=False)):
            layer = _layer(self.home / "checks", number, Path(folder), "overlay")
            _make(layer)
            made.append(msgspec.structs.replace(layer, under=(lower,)))
        return tuple(made)

    def forget_checks(self) -> None:
        """Remove what checks have written."""
        remove_tree(self.home / "checks")

    def note_used(self) -> None:
        """A process is about to begin in it: what was frozen is not all any more. Returns when on disk."""
        if not self.begun.used:
            self._note(msgspec.structs.replace(self.begun, used=True))

    def note_frozen(self) -> None:
        """All that is in it is frozen, and no process has it."""
        if self.begun.used:
            self._note(msgspec.structs.replace(self.begun, used=False))

    def renew(self) -> None:
        """Begin anew with the folder as it is: what is in the view is in the folder by now, or unwanted.

        What git wrote beside the folder goes on: no change has that in it.
        """
        old = self.home / str(self.begun.number)
        fresh = Workspace(
            self.home, msgspec.structs.replace(self.begun, number=self.begun.number + 1, used=False)
        )
        fresh.make(beside=old)
        self.begun = fresh.begun
        remove_tree(old)

    def wrote_beside(self) -> bool:
        """Whether git has put commits into a repository that the folder lies in. Touches the disk."""
        return any(_has_files(layer.upper) for layer in self.layers[1:])

    def make(self, beside: Path | None = None) -> None:
        """Make the folders, note the start, then make it count. Touches the disk, of a copy all of it.

        Args:
            beside: an earlier view, of which all but the folder itself is taken over.

        Raises:
            OSError: there is no room for it.
        """
        place = self.home / str(self.begun.number)
        if place.exists():  # a crash has left it; what had been taken over goes on
            remove_tree(place / "0")
        start = changes.note_start(self.folder)
        for number, layer in enumerate(self.layers):
            if number and beside is not None and (beside / str(number)).exists():
                place.mkdir(mode=0o700, exist_ok=True)
                (beside / str(number)).rename(place / str(number))
            if self.begun.kind == "overlay":
                _make(layer)
            else:
                layer.upper.parent.mkdir(mode=0o700, parents=True)
                self._fill(layer, place, start)
                replace_file(place / _COPY, msgspec.json.encode(changes.note_copy(layer.upper)))
        self._note(msgspec.structs.replace(self.begun, start=start))

    def _fill(self, layer: Layer, place: Path, start: Start) -> None:
        if self.begun.kind == "copy":
            copy_tree(layer.folder, layer.upper)
            return
        copied = changes.check_out(layer.folder, layer.upper, start.commit, start.branch)
        replace_file(place / _COPIED, msgspec.json.encode(copied))

    def _note(self, begun: Begun) -> None:
        replace_file(self.home / _NOTE, msgspec.json.encode(begun))
        self.begun = begun


class LentView:
    """What another session has left in its view, for one that only looks at it.

    Attributes:
        layers: for its container (`Workspace.check_layers`).
    """

    told = "what another session has left"

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self.layers = layers

    def __repr__(self) -> str:
        return f"<LentView of {self.folder}>"

    @property
    def folder(self) -> Path:
        return self.layers[0].folder

    def note_used(self) -> None:
        """It changes nothing that is kept."""


def layer_home(settings: Settings, session_id: str) -> Path:
    """The folder of a session's view, whether it is there or not."""
    return settings.layers / session_id


def find_workspace(home: Path) -> Workspace | None:
    """The view that lies there, if one was begun. Touches the disk.

    Raises:
        ChangeUnreadable: what is noted of it is no sense.
    """
    try:
        data = (home / _NOTE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ChangeUnreadable(f"{home / _NOTE}: {error.strerror}") from error
    try:
        return Workspace(home, msgspec.json.decode(data, type=Begun))
    except msgspec.DecodeError as error:
        raise ChangeUnreadable(f"{home / _NOTE} is not a note of cms: {error}") from error


async def open_workspace(
    mechanism: Mechanism, settings: Settings, options: SessionOptions, session_id: str
) -> Workspace | None:
    """The view of a session, made if it has none yet; None: it works in the folder itself.

    Raises:
        UsageError: it cannot be had here, or not as it was asked for.
        ChangeUnreadable, DiskTimeout: it cannot be looked at.
        OSError: there is no room for it.
    """
    if not options.isolated:
        return None
    home = layer_home(settings, session_id)
    found = await ask_disk(lambda: find_workspace(home), "what it has changed", seconds=_PATIENCE)
    if found is not None:
        return found
    kind, why = await choose(mechanism, settings, options)
    folders = await ask_disk(
        lambda: layered_folders(options.work_dir, settings.environ), f"the folder {options.work_dir}"
    )
    if kind != "overlay":
        folders = folders[:1]  # what is elsewhere of git is only read then
    begun = Begun(kind, str(folders[0]), tuple(map(str, folders)), why, Start(0.0))
    made = Workspace(home, msgspec.structs.replace(begun, used=True))  # by the process that is to come
    # No deadline for a copy, which takes as long as it takes; who ends the session ends the wait.
    await trio.to_thread.run_sync(made.make, abandon_on_cancel=False)
    return made


async def choose(mechanism: Mechanism, settings: Settings, options: SessionOptions) -> tuple[Kind, str]:
    """The way in which a folder can be isolated here, and why there is no better one.

    Raises:
        UsageError: there is none, or not the one that was asked for.
        DiskTimeout: the folder does not answer.
    """
    folder = Path(os.path.realpath(options.work_dir))  # noqa: ASYNC240 - asked for by `check_work_dir`
    if settings.home.resolve().is_relative_to(folder):
        raise UsageError(
            f"{folder} holds cms's own folder, {settings.home}, where isolated changes are kept, so it "
            "cannot be isolated",
            hint="choose another work dir, or set CMS_HOME to a folder outside it",
        )
    if not mechanism.guarantees.protected_paths.strong:
        raise UsageError(
            f"--isolate: this machine cannot give a session its own view of {folder}",
            hint="`cms doctor` shows what works here",
        )
    if options.isolate == "worktree":
        why = await ask_disk(lambda: changes.why_no_checkout(folder), f"the folder {folder}")
        if why:
            raise UsageError(f"--isolate=worktree: {why}", hint="--isolate=auto takes any folder")
        return "worktree", ""
    if options.isolate == "copy":
        return "copy", ""
    why = await why_no_overlay(mechanism, settings, folder)
    if not why:
        return "overlay", ""
    if options.isolate == "overlay":
        raise UsageError(f"--isolate=overlay: {why}", hint="--isolate=auto takes the best available")
    return "copy", why


async def why_no_overlay(mechanism: Mechanism, settings: Settings, folder: Path) -> str:
    """Why the folder cannot be below an overlay whose layer lies in our own folder; "": it can."""
    place = settings.layers
    try:
        await ask_disk(lambda: place.mkdir(mode=0o700, parents=True, exist_ok=True), "cms's own folder")
    except OSError as error:
        return f"{place}: {error.strerror}"
    return await mechanism.why_no_layer(folder, place)


# --- on the disk ----------------------------------------------------------------------------------


def _layer(place: Path, number: int, folder: Path, kind: Kind) -> Layer:
    own = place / str(number)
    return Layer(folder, own / "upper", own / "work" if kind == "overlay" else None)


def _make(layer: Layer) -> None:
    """The folders of a layer. The view has the mode of the upper one."""
    assert layer.work is not None  # noqa: S101 - for the type checker: of an overlay
    for folder in (layer.upper, layer.work):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(layer.folder.stat().st_mode)
    layer.upper.chmod(mode)


def _has_files(folder: Path) -> bool:
    return any(
        entry.is_file(follow_symlinks=False) or _has_files(Path(entry))
        for entry in os.scandir(folder)
        if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)
    )


def make_readable(folder: Path) -> bool:
    """Let us read what an agent has made unreadable even to its owner; gives whether there was such a thing.

    Its mode is not what it was then, but what it holds is not lost.
    """
    found, todo = False, [folder]
    while todo:
        here = todo.pop()
        for entry in os.scandir(here):
            mode = entry.stat(follow_symlinks=False).st_mode
            wanted = 0o700 if stat.S_ISDIR(mode) else 0o400
            if (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) and mode & wanted != wanted:
                Path(entry).chmod(stat.S_IMODE(mode) | wanted)
                found = True
            if stat.S_ISDIR(mode):
                todo.append(Path(entry))
    return found


def remove_tree(folder: Path) -> None:
    """Remove a folder of ours, whatever modes an agent or the kernel has given what is in it.

    Raises:
        OSError: some of it is still there.
    """
    if not os.path.lexists(folder):
        return
    todo = [folder]
    while todo:
        here = todo.pop()
        with suppress(OSError):
            here.chmod(0o700)
            todo += [Path(entry) for entry in os.scandir(here) if entry.is_dir(follow_symlinks=False)]
    try:
        shutil.rmtree(folder)
    except RecursionError:  # an agent can make folders deeper than that
        subprocess.run(["/bin/rm", "-rf", "--", str(folder)], check=True)


def measure_tree(folder: Path, until: float) -> tuple[int, bool]:
    """Bytes on disk that a copy of a folder takes, and whether that is all of it.

    Args:
        until: `time.monotonic()` at which to give up.
    """
    total, todo = 0, [folder]
    while todo:
        try:
            for entry in os.scandir(todo.pop()):
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry))
                elif entry.is_file(follow_symlinks=False):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue  # it is told when it is to be copied
        if time.monotonic() > until:
            return total, False
    return total, True


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with modes, times and links; contents are shared where the file system can.

    Sockets, pipes and devices are left out: they are nothing to work on.

    Raises:
        OSError: it could not be read, or there is no room.
    """
    target.mkdir(mode=0o700)
    todo = [(source, target)]
    clone = True
    done = []
    while todo:
        here, there = todo.pop()
        done.append((here, there))
        for entry in os.scandir(here):
            mode = entry.stat(follow_symlinks=False).st_mode
            copy = there / entry.name
            if stat.S_ISDIR(mode):
                copy.mkdir(mode=0o700)
                todo.append((Path(entry), copy))
            elif stat.S_ISLNK(mode):
                copy.symlink_to(Path(entry).readlink())
            elif stat.S_ISREG(mode):
                clone = _copy_file(Path(entry), copy, clone=clone)
    for here, there in reversed(done):  # what may not be written can be filled before
        shutil.copystat(here, there)


def _copy_file(source: Path, target: Path, *, clone: bool) -> bool:
    """Returns whether to try sharing the content of the next one, too."""
    with os.fdopen(open_regular(source), "rb") as read, target.open("xb") as written:
        clone = clone and share_blocks(read.fileno(), written.fileno())
        if not clone:
            shutil.copyfileobj(read, written, 1024 * 1024)
    shutil.copystat(source, target, follow_symlinks=False)
    return clone
