"""Changes that are applied by themselves (`--apply on-pass`), one after the other in a folder.

A change that has passed its checks has passed them on the folder as it was then. Where another change has
been applied since, or the folder has moved on in the same files, the checks run once more on what the folder
would be with it, in a view that nobody keeps; only what passes there is applied. What does not, or conflicts,
stays as a change, and says why.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from cms.changes import Outcome, as_text
from cms.errors import ChangeNotFound, CmsError
from cms.fleet.applying import apply_at_rest
from cms.fleet.checks import run_checks
from cms.session.model import SessionRecord

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

#: How often a change is checked while others are applied by hand in between.
_TRIES: Final = 5
#: Refusals that are told one by one.
_TOLD: Final = 3


class MergeQueue:
    """That of one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._turns: dict[str, trio.Lock] = {}

    def __repr__(self) -> str:
        return f"<MergeQueue {sorted(self._turns)}>"

    async def land(self, name: str) -> tuple[str, ...]:
        """Apply the change of a session whose process has ended, when its turn has come.

        Cancelled before it is applied, it stays a change.

        Returns:
            Why it was not applied, a line each; () if it was, or if there is nothing to apply.
        """
        try:
            record = await self._supervisor.get(name)
            folder = await self._supervisor.changes.folder(record)
            async with self._turn(folder):
                return await self._land(record, folder)
        except ChangeNotFound:
            return ()
        except (CmsError, OSError) as error:
            return (f"not applied: {error}",)

    async def _land(self, record: SessionRecord, folder: str) -> tuple[str, ...]:
        changes, environ = self._supervisor.changes, self._supervisor.settings_of(record).environ
        if not await changes.is_due(record):
            return ()
        checked_at = changes.checked_at(record)
        for _ in range(_TRIES):
            applied = changes.applied_in(folder)
            async with changes.previewed(record, environ) as (outcome, layers):
                if outcome.refused:
                    return _why(outcome)
                if record.options.verify and (outcome.merged or applied != checked_at):
                    settings = self._supervisor.settings_of(record)
                    checked = await run_checks(self._supervisor.mechanism, settings, record.options, layers)
                    if checked.not_run:
                        return (f"not applied: {checked.not_run}",)
                    if checked.failed:
                        return tuple(f"not applied, on what is there now: {one}" for one in checked.failed)
            if changes.applied_in(folder) != applied:
                continue  # by hand, meanwhile
            with trio.CancelScope(shield=True):
                outcome = await apply_at_rest(self._supervisor, record.name)
            return () if outcome.applied else _why(outcome)
        return ("not applied: others are applied faster than it can be checked",)

    @asynccontextmanager
    async def _turn(self, folder: str) -> AsyncIterator[None]:
        """First come, first served; the lock is there for as long as somebody holds it or waits for it."""
        lock = self._turns.setdefault(folder, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked() and self._turns.get(folder) is lock:
                del self._turns[folder]


def _why(outcome: Outcome) -> tuple[str, ...]:
    """Why it was refused, the first few by name."""
    lines = [
        f"not applied: {as_text(one.path)}: {one.detail}" if one.path else f"not applied: {one.detail}"
        for one in outcome.refused[:_TOLD]
    ]
    if (more := len(outcome.refused) - _TOLD) > 0:
        lines.append(f"not applied: {more} more paths")
    return tuple(lines)
