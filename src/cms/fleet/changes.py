"""What isolated sessions have changed: frozen, told, applied, exported, dropped, for one supervisor.

A session writes in a view of its own (`live.workspace`); what is different there becomes a change when its
work has ended (`cms.changes`), numbered like the view. Once it is applied or discarded the view is renewed.

The caller holds the session's lock (`Sessions.turn`) wherever something is changed, and the session has no
process then. All work on the disk is done in threads.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from cms import changes
from cms.batch.forecast import View
from cms.changes import Change, Forbids, Others, Outcome, Refusal, Told
from cms.config import Settings
from cms.containment import Layer, Mechanism
from cms.disk import ask_disk
from cms.errors import (
    ChangeNotFound,
    ChangeUnreadable,
    CmsError,
    DiskTimeout,
    MachineError,
    WrongChange,
    WrongStatus,
)
from cms.live.workspace import (
    LentView,
    Workspace,
    choose,
    find_workspace,
    layer_home,
    make_readable,
    measure_tree,
    open_workspace,
    remove_tree,
)
from cms.protection.links import locate
from cms.protection.rules import build_rules
from cms.session.model import ChangeSummary, SessionOptions, SessionRecord

T = TypeVar("T")
log = logging.getLogger(__name__)

#: Seconds for work on a change, which may be many gigabytes.
_PATIENCE: Final = 1800.0
#: Seconds in which a folder is measured.
_MEASURING: Final = 5.0
#: Threads for that.
_THREADS: Final = 4


async def end_cut_off(settings: Settings) -> None:
    """Undo the applies that a crash cut off. A folder that does not answer holds nobody up.

    What cannot be undone now is, before the next apply to the folder.
    """
    try:
        found = await ask_disk(lambda: changes.recover(settings.changes), "an apply that was cut off")
    except DiskTimeout as error:
        log.warning("%s", error)
        return
    for one in found:
        log.warning("an apply to %s was cut off: %s", one.folder, one)


class Preview(msgspec.Struct, frozen=True):
    """What an apply would do.

    Attributes:
        keep: where the change is kept.
        layers: by which a check sees the folder with it applied.
    """

    keep: Path
    change: Change
    outcome: Outcome
    layers: tuple[Layer, ...]


class Changes:
    """Those of one supervisor."""

    def __init__(self, settings: Settings, mechanism: Mechanism) -> None:
        self._settings = settings
        self._mechanism = mechanism
        self._threads = trio.CapacityLimiter(_THREADS)
        self._applied: dict[str, int] = {}  # by folder: how often
        self._checked_at: dict[str, int] = {}  # by session: how often by the time of its checks
        self._lent: dict[str, LentView] = {}  # by the name of the session that looks

    def __repr__(self) -> str:
        return f"<Changes {self._settings.changes}>"

    # --- the view ---------------------------------------------------------------------------------

    async def check(self, options: SessionOptions) -> None:
        """Whether a session with these options can be isolated as they ask.

        Raises:
            UsageError: it cannot.
            DiskTimeout: its folder does not answer.
        """
        if options.isolated:
            await choose(self._mechanism, self._settings, options)

    async def view(self, options: SessionOptions) -> View | None:
        """What a session with these options takes of the disk before it writes anything; None: no view.

        Raises:
            UsageError: it cannot be isolated as it asks.
            DiskTimeout: its folder does not answer.
        """
        if not options.isolated:
            return None
        kind, _ = await choose(self._mechanism, self._settings, options)

        def look() -> View:
            self._settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self._settings.home).free
            if kind == "overlay":
                return View(0, free)
            found, whole = measure_tree(Path(options.work_dir), time.monotonic() + _MEASURING)
            return View(found, free, whole=whole)

        return await ask_disk(look, f"the folder {options.work_dir}", seconds=2 * _MEASURING)

    @asynccontextmanager
    async def lent(self, record: SessionRecord, name: str) -> AsyncIterator[bool]:
        """For the length of the block a session of that name sees what this one has left in its view.

        False: it has no view, all is in the folder. What is written there is kept by nobody.

        Raises:
            DiskTimeout, ChangeUnreadable, OSError: it cannot be made.
        """
        async with self._left(record) as layers:
            if layers:
                self._lent[name] = LentView(layers)
            try:
                yield bool(layers)
            finally:
                self._lent.pop(name, None)

    async def open(self, record: SessionRecord, settings: Settings) -> Workspace | LentView | None:
        """The view that a session's process is to work in; None: it works in its folder.

        Raises:
            UsageError: it cannot be had here.
            CmsError: it cannot be looked at, or there is no room for it.
        """
        if (lent := self._lent.get(record.name)) is not None:
            return lent
        with _told(f"the view of {record.name}"):
            workspace = await open_workspace(self._mechanism, settings, record.options, record.id)
        if workspace is not None:
            await self._do(lambda: self._renew_if_done(record, workspace), f"the changes of {record.name}")
        return workspace

    async def find(self, record: SessionRecord) -> Workspace | None:
        """The view of a session, if it has one."""
        return await self._do(lambda: self._at(record), f"the changes of {record.name}")

    def keep(self, record: SessionRecord, number: int) -> Path:
        """Where a change of a session is kept."""
        return self._settings.changes / f"{record.id}.{number}"

    def _renew_if_done(self, record: SessionRecord, workspace: Workspace) -> None:
        """A crash came between an apply and what follows from it."""
        keep = self.keep(record, workspace.begun.number)
        if keep.exists() and changes.find_applied(keep) is not None:
            workspace.renew()

    @asynccontextmanager
    async def as_left(self, record: SessionRecord) -> AsyncIterator[tuple[Layer, ...]]:
        """Layers by which a check sees what a session has left, which it does not change; or none.

        Raises:
            DiskTimeout, ChangeUnreadable, OSError: they cannot be made.
        """
        async with self._left(record) as layers:
            if layers:
                self._checked_at[record.id] = self.applied_in(str(layers[0].folder))
            yield layers

    @asynccontextmanager
    async def _left(self, record: SessionRecord) -> AsyncIterator[tuple[Layer, ...]]:
        workspace = await self.find(record) if record.options.isolated else None
        if workspace is None:
            yield ()
            return
        what = f"what {record.name} has left"
        layers = await self._do(workspace.check_layers, what)
        try:
            yield layers
        finally:
            with trio.CancelScope(shield=True), suppress(MachineError):
                await self._do(workspace.forget_checks, what)

    # --- freezing -----------------------------------------------------------------------------------

    async def freeze(self, record: SessionRecord, *, live: bool = False) -> ChangeSummary | None:
        """What a session has changed, kept for good; what cannot be kept is told.

        Args:
            live: it may go on with it meanwhile.
        """
        if not record.options.isolated:
            return record.change
        try:
            keep, change, fresh = await self.look(record, live=live)
        except ChangeNotFound:
            return record.change
        except (CmsError, OSError) as error:
            note = f"what it changed could not be frozen: {error}"
            return ChangeSummary("kept", note=note, place=str(self.home(record)))
        return await self.summary(record, keep, change, fresh=fresh)

    async def summary(
        self, record: SessionRecord, keep: Path, change: Change, *, fresh: bool
    ) -> ChangeSummary:
        """A change in numbers. `fresh`: it has just been frozen, so what is noted with the session is old."""
        if not fresh and record.change is not None and record.change.state != "kept":
            return record.change
        found = summary_of(change, keep)
        if fresh:
            return found
        done = await self._do(lambda: changes.find_applied(keep), "a change")
        if done is not None:
            return msgspec.structs.replace(found, state="applied")
        return found if record.change is None else record.change

    async def look(self, record: SessionRecord, *, live: bool = False) -> tuple[Path, Change, bool]:
        """What a session has changed, frozen anew if it has worked since: where it is kept, and whether anew.

        Args:
            live: it may go on with it meanwhile.

        Raises:
            ChangeNotFound: there is nothing.
            CmsError, OSError: it cannot be read or kept.
        """

        def work() -> tuple[Path, Change, bool]:
            workspace = self._at(record)
            if workspace is None:
                raise ChangeNotFound(
                    f"{record.name} has no change of its own",
                    hint="it was not isolated (--isolate), so what it wrote is in its folder",
                )
            begun = workspace.begun
            keep = self.keep(record, begun.number)
            if begun.used and not live:
                self._renew_if_done(record, workspace)
                begun = workspace.begun
            if begun.used:
                try:
                    change = self._freeze(workspace, keep, live=live)
                except (PermissionError, ChangeUnreadable):
                    if live or not make_readable(workspace.place):
                        raise
                    change = self._freeze(workspace, keep, live=False)
                if not live:
                    workspace.note_frozen()
                return keep, change, True
            # It has not worked since the last one was applied or discarded.
            for number in (begun.number, begun.number - 1):
                keep = self.keep(record, number)
                if keep.exists():
                    return keep, changes.load(keep), False
            raise ChangeNotFound(
                f"{record.name} has changed nothing since its last change was applied or discarded"
            )

        return await self._do(work, f"the changes of {record.name}")

    # --- what is done with one ------------------------------------------------------------------------

    async def apply(
        self, record: SessionRecord, environ: Mapping[str, str], *, conflict_markers: bool = False
    ) -> Outcome:
        """Bring it into its folder: all of it, or nothing. The view is renewed with that.

        Raises:
            ChangeNotFound: there is none.
            WrongChange: it is applied already, or there is nothing to apply.
            CmsError, OSError: it cannot be read.
        """
        keep, change, _ = await self.look(record)

        def work() -> Outcome:
            if all(entry.ignored for entry in change.entries):
                also = "but in what git ignores" if change.entries else ""
                if change.commits is not None:
                    hint = f"make a branch of its commits: cms apply {record.name} --branch NAME"
                    raise WrongChange(f"{record.name} changed no file, but made commits", hint=hint)
                raise WrongChange(f"{record.name} has changed nothing {also}".rstrip())
            outcome = changes.apply(
                keep, forbids=_forbids(record, change, environ), conflict_markers=conflict_markers
            )
            if outcome.applied and (workspace := self._at(record)) is not None:
                workspace.renew()
            return outcome

        outcome = await self._do(work, f"the folder of {record.name}")
        if outcome.applied:
            self._applied[change.folder] = self.applied_in(change.folder) + 1
        return outcome

    # --- applied by itself --------------------------------------------------------------------------

    def applied_in(self, folder: str) -> int:
        """How many changes we have applied in a folder."""
        return self._applied.get(folder, 0)

    def checked_at(self, record: SessionRecord) -> int:
        """How many there were when the checks of a session last began; -1: they were not ours."""
        return self._checked_at.get(record.id, -1)

    async def folder(self, record: SessionRecord) -> str:
        """The real folder of a session's view.

        Raises:
            ChangeNotFound: it has none.
            CmsError: it cannot be told.
        """
        workspace = await self.find(record)
        if workspace is None:
            raise ChangeNotFound(f"{record.name} has no change of its own")
        return workspace.begun.folder

    async def is_due(self, record: SessionRecord) -> bool:
        """Whether there is something to apply, which was not applied yet. Raises as `look`."""
        keep, change, _ = await self.look(record)
        done = await self._do(lambda: changes.find_applied(keep), "a change")
        return done is None and any(not entry.ignored for entry in change.entries)

    @asynccontextmanager
    async def previewed(
        self, record: SessionRecord, environ: Mapping[str, str], *, live: bool
    ) -> AsyncIterator[Preview]:
        """What an apply would do now.

        Args:
            live: the session may go on with it meanwhile.

        Raises:
            CmsError, OSError: it cannot be made.
        """
        keep, change, _ = await self.look(record, live=live)
        workspace = await self.find(record)
        if workspace is None:
            raise ChangeNotFound(f"{record.name} has no change of its own")

        def work() -> Preview:
            into, layers = workspace.preview_layers()
            outcome = changes.preview(
                keep,
                workspace.folder,
                into,
                forbids=_forbids(record, change, environ),
                layer=workspace.begun.kind == "overlay",
            )
            return Preview(keep, change, outcome, layers)

        what = f"the folder of {record.name}"
        try:
            yield await self._do(work, what)
        finally:
            with trio.CancelScope(shield=True), suppress(MachineError):
                await self._do(workspace.forget_checks, what)

    async def find_others(self, seen: Preview, refused: Sequence[Refusal]) -> dict[bytes, Others]:
        """What others have made of the texts at which it is refused. Raises as `changes.find_others`."""
        folder = seen.change.folder
        return await self._do(
            lambda: changes.find_others(seen.keep, Path(folder), refused), f"the folder {folder}"
        )

    async def note_told(self, keep: Path, told: Sequence[Told]) -> None:
        """Note what the session that made a change was told of others' changes.

        Raises:
            DiskTimeout, OSError: it is not noted.
        """
        await self._do(lambda: changes.note_told(keep, told), "a change")

    async def bring_branch(self, record: SessionRecord, branch: str, *, message: str) -> str:
        """Bring it as a branch, and give the commit that this stands at. Raises as `changes.bring_branch`."""
        keep, _, _ = await self.look(record)
        return await self._do(
            lambda: changes.bring_branch(keep, branch, message=message), f"the folder of {record.name}"
        )

    async def discard(self, record: SessionRecord) -> None:
        """Drop one that was not applied.

        Raises:
            ChangeNotFound: there is none.
            WrongChange: it is in the folder already.
            CmsError, OSError: it cannot be dropped.
        """
        keep, _, _ = await self.look(record)

        def work() -> None:
            if changes.find_applied(keep) is not None:
                raise WrongChange(f"the change of {record.name} is already applied to the folder")
            if (workspace := self._at(record)) is not None:
                workspace.renew()
            changes.discard(keep)

        await self._do(work, f"the changes of {record.name}")

    async def export(self, record: SessionRecord, target: Path) -> tuple[int, bool]:
        """Write it to a new file, as a patch, or (a name without `.patch` or `.diff`) to a new folder.

        Returns:
            How many files it has, and whether nothing of it is missing there.

        Raises:
            ChangeNotFound: there is none.
            WrongChange: there is something at the target already.
            CmsError, OSError: it cannot be written.
        """
        keep, change, _ = await self.look(record)
        return await self._do(lambda: export(keep, change, target), str(target))

    async def write_patch(self, record: SessionRecord, keep: Path) -> Path:
        """The change as a patch in a file of ours, for whoever is to read it."""
        path = self.home(record) / "patch"

        def work() -> Path:
            with path.open("wb") as file:
                file.writelines(changes.patch(keep))
            return path

        return await self._do(work, f"the changes of {record.name}")

    # --- the end ------------------------------------------------------------------------------------

    async def check_droppable(self, record: SessionRecord) -> None:
        """Whether a session can be deleted without losing what it changed.

        Raises:
            WrongStatus: it cannot.
        """
        if lost := await self.lost_with(record):
            raise self.not_droppable(record, lost)

    def not_droppable(self, record: SessionRecord, lost: str) -> WrongStatus:
        """That it cannot be deleted, and where that is which would be lost with it."""
        hint = (
            f"cms diff {record.name}, then cms apply, export or discard; --force drops it. It lies in "
            f"{self.home(record)}"
        )
        return WrongStatus(record.name, str(record.status), f"be deleted: {lost}", hint=hint)

    async def lost_with(self, record: SessionRecord) -> str:
        """What would be lost with a session, in words; "" if nothing would."""
        if not record.options.isolated or not self.home(record).exists():
            return ""
        try:
            keep, change, fresh = await self.look(record)
            done = (await self.summary(record, keep, change, fresh=fresh)).state != "kept"
            lost = "" if change.empty or done else "its change is not applied or exported"
        except ChangeNotFound:
            lost = ""
        except (CmsError, OSError) as error:
            lost = f"what it changed cannot be read: {error}"
        workspace = await self.find(record)
        if not lost and workspace is not None and await self._do(workspace.wrote_beside, "its commits"):
            lost = "it has commits that exist nowhere else"
        return lost

    async def remove(self, record: SessionRecord) -> None:
        """Remove all that a session has changed, for it is deleted.

        Raises:
            DiskTimeout, OSError: some of it is still there.
        """

        def work() -> None:
            for keep in self._settings.changes.glob(f"{record.id}.*"):
                changes.discard(keep)
            remove_tree(self.home(record))

        await self._do(work, f"the changes of {record.name}")

    def home(self, record: SessionRecord) -> Path:
        """The folder of ours with all that a session has written."""
        return layer_home(self._settings, record.id)

    def _freeze(self, workspace: Workspace, keep: Path, *, live: bool) -> Change:
        begun = workspace.begun
        return changes.freeze(workspace.read(), keep, begun.start, folder=workspace.folder, live=live)

    def _at(self, record: SessionRecord) -> Workspace | None:
        return find_workspace(self.home(record))

    async def excerpt(self, record: SessionRecord, most: int) -> str:
        """The beginning of what a session that is at work has changed, at most so many bytes.

        Raises:
            ChangeNotFound, CmsError, OSError: it cannot be read.
        """
        keep, _, _ = await self.look(record, live=True)
        what = f"what {record.name} has left"
        return await self._do(lambda: changes.excerpt(keep, most_lines=most, most_bytes=most), what)

    async def _do(self, work: Callable[[], T], what: str) -> T:
        with _told(what):
            return await ask_disk(work, what, seconds=_PATIENCE, limiter=self._threads)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the system refuses (no room, no permission) as an error for whoever asked."""
    try:
        yield
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes | Path) else ""
        raise MachineError(f"{what}: {error.strerror or error}{where}") from error


def summary_of(change: Change, place: Path) -> ChangeSummary:
    """A change in numbers, as it is told with its session."""
    found = changes.stat(change)
    return ChangeSummary(
        "kept",
        files=found.files,
        added=found.added,
        removed=found.removed,
        commits=found.commits,
        place=str(place),
    )


def export(keep: Path, change: Change, target: Path) -> tuple[int, bool]:
    """Write a change to a place of the user's. Touches the disk; see `Changes.export`."""
    found = changes.stat(change)
    if target.suffix in (".patch", ".diff"):
        try:
            with target.open("xb") as file:
                file.writelines(changes.patch(keep))
        except FileExistsError:
            raise WrongChange(f"{target} already exists", hint="choose another name") from None
        return found.files, changes.fits_a_patch(change) and not found.commits
    try:
        target.mkdir(mode=0o755)
    except FileExistsError:
        raise WrongChange(f"{target} already exists", hint="choose another name") from None
    try:
        with (target / "change.patch").open("xb") as file:
            file.writelines(changes.patch(keep, ignored=True))
        (target / "change.json").write_bytes(msgspec.json.encode(changes.rows(change)))
        changes.write_files(keep, target / "files")
    except BaseException:
        remove_tree(target)
        raise
    return found.files, not found.commits


def _forbids(record: SessionRecord, change: Change, environ: Mapping[str, str]) -> Forbids:
    """What of its folder may not be written for a session: what is protected from it."""
    folder = Path(change.folder)
    rules = build_rules(record.options, environ)

    def forbids(path: bytes) -> str:
        place = folder / os.fsdecode(path)
        if any(place.is_relative_to(one) for one in rules.found.base):
            return "cms itself runs on it"
        pattern = rules.paths.match(locate(rules.paths, str(place))) if rules.safety else ""
        return f"{pattern} is protected" if pattern else ""

    return forbids
