"""Changes that are applied by themselves (`--apply on-pass`), one after the other in a folder.

A change that has passed its checks has passed them on the folder as it was then. Where another change has
been applied since, or the folder has moved on in the same files, the checks run once more on what the folder
would be with it, in a view that nobody keeps; only what passes there is applied. What does not, or conflicts,
stays as a change, and says why; or, while rounds of repair are left, its session is told (`rehearse`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from cms.changes import Entry, Told
from cms.errors import ChangeNotFound, CmsError
from cms.fleet.applying import apply_at_rest, why_refused
from cms.fleet.changes import Preview
from cms.fleet.checks import run_checks
from cms.session.model import SessionRecord
from cms.session.rounds import MOST_EACH, Failure

Work: TypeAlias = Callable[[SessionRecord], Awaitable[tuple[Failure, ...]]]

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

#: How often a change is checked while others are applied by hand in between.
_TRIES: Final = 5
#: Refusals that are told one by one.
_TOLD: Final = 3
_BOTH: Final = (
    "Quoted is what others have changed in that file since you began, which you do not see in your copy of "
    "the folder. Write your file anew so that it does what both changes are for: where both changed the same "
    "lines, yours are taken."
)


class MergeQueue:
    """That of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._locks: dict[str, trio.Lock] = {}

    def __repr__(self) -> str:
        return f"<MergeQueue {sorted(self._locks)}>"

    def turn(self, name: str) -> Turn:
        """The turn of a session. It waits in no line yet."""
        return Turn(self._supervisor, self._locks, name)


class Turn:
    """The turn of one session in its folder: taken as soon as it is needed, until the block ends.

    While it is held, no other change is applied to the folder by itself.
    """

    def __init__(self, supervisor: Supervisor, locks: dict[str, trio.Lock], name: str) -> None:
        self._supervisor = supervisor
        self._locks = locks
        self._name = name
        self._folder = ""
        self._passed: tuple[tuple[Entry, ...], int] | None = None
        self._told: tuple[Path, list[Told]] | None = None

    def __repr__(self) -> str:
        return f"<Turn of {self._name}{f' in {self._folder}' if self._folder else ''}>"

    def __enter__(self) -> Turn:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    async def rehearse(self) -> tuple[Failure, ...]:
        """Why its change could not be applied now, while its process is there to do something about it.

        If there is nothing, the turn is held until it lands; else others go first. What cannot be found out
        is left to `land`.
        """
        self._told = None
        try:
            failures = await self._do(self._rehearse)
        except (CmsError, OSError):
            failures = ()
        if failures:
            self._give_back()
        return failures

    async def land(self) -> tuple[Failure, ...]:
        """Apply its change, its process having ended. Cancelled before it is applied, it stays a change.

        Returns:
            Why it was not applied; () if it was, or if there is nothing to apply.
        """
        try:
            return await self._do(self._land)
        except (CmsError, OSError) as error:
            return (Failure(f"not applied: {error}"),)

    async def note_told(self) -> None:
        """Its session was told what `rehearse` has found, others' changes too."""
        if self._told is not None:
            try:
                await self._supervisor.changes.note_told(*self._told)
            except (CmsError, OSError) as error:  # then what it decides about them is a conflict as before
                log.warning("what %s was told is not noted: %s", self._name, error)

    async def _do(self, work: Work) -> tuple[Failure, ...]:
        try:
            record = await self._supervisor.get(self._name)
            await self._take(await self._supervisor.changes.folder(record))
            return await work(record)
        except ChangeNotFound:
            return ()

    async def _rehearse(self, record: SessionRecord) -> tuple[Failure, ...]:
        failures, _ = await self._try(record, live=True)
        return failures

    async def _land(self, record: SessionRecord) -> tuple[Failure, ...]:
        changes = self._supervisor.changes
        if not await changes.is_due(record):
            return ()
        for _ in range(_TRIES):
            applied = changes.applied_in(self._folder)
            failures, not_run = await self._try(record, live=False)
            if failures or not_run:
                return failures or (Failure(f"not applied: {not_run}"),)
            if changes.applied_in(self._folder) != applied:
                continue  # by hand, meanwhile
            with trio.CancelScope(shield=True):
                outcome = await apply_at_rest(self._supervisor, record.name)
            return () if outcome.applied else tuple(map(Failure, why_refused(outcome, _TOLD)))
        return (Failure("not applied: other changes are applied faster than it can be checked"),)

    async def _try(self, record: SessionRecord, *, live: bool) -> tuple[tuple[Failure, ...], str]:
        """What stands in the way of applying it to the folder as it is now; why that is not known, or ""."""
        changes, settings = self._supervisor.changes, self._supervisor.settings_of(record)
        applied = changes.applied_in(self._folder)
        async with changes.previewed(record, settings.environ, live=live) as seen:
            if seen.outcome.refused:
                return await self._refused(seen), ""
            passed = (seen.change.entries, applied)
            moved = seen.outcome.merged or applied != changes.checked_at(record)
            if record.options.verify and moved and passed != self._passed:
                checked = await run_checks(self._supervisor.mechanism, settings, record.options, seen.layers)
                if checked.not_run:
                    return (), checked.not_run
                if checked.failures:
                    now = "not applied, on what is there now"
                    return tuple(Failure(f"{now}: {one.line}", one.output) for one in checked.failures), ""
        self._passed = passed
        return (), ""

    async def _refused(self, seen: Preview) -> tuple[Failure, ...]:
        refused = seen.outcome.refused
        others = await self._supervisor.changes.find_others(seen, refused[:_TOLD])
        # What is not shown whole cannot be decided about.
        shown = {path: each for path, each in others.items() if len(each.diff) <= MOST_EACH}
        self._told = seen.keep, [each.told for each in shown.values()]
        lines = why_refused(seen.outcome, _TOLD)
        diffs = (
            shown[one.path].diff.decode("utf-8", "replace") if one.path in shown else "" for one in refused
        )
        return tuple(
            Failure(line, diff, _BOTH if diff else "") for line, diff in zip(lines, diffs, strict=False)
        )

    async def _take(self, folder: str) -> None:
        """First come, first served; the lock is there for as long as somebody holds it or waits for it."""
        if self._folder == folder:
            return
        lock = self._locks.setdefault(folder, trio.Lock())
        try:
            await lock.acquire()
        except BaseException:
            self._forget(folder, lock)
            raise
        self._folder = folder

    def _give_back(self) -> None:
        if self._folder:
            lock = self._locks[self._folder]
            lock.release()
            self._forget(self._folder, lock)
            self._folder = ""

    def _forget(self, folder: str, lock: trio.Lock) -> None:
        idle = not lock.statistics().tasks_waiting and not lock.locked()
        if idle and self._locks.get(folder) is lock:
            del self._locks[folder]
