"""Sessions whose end could not be proved (status `error`): nobody is given their folders.

A process in uninterruptible sleep cannot be killed by anybody; when what it waits for is over it goes on
writing where it was, perhaps into the work of another session. So as long as one may be left, no session
starts in its work dir, above it or below it.

The runner of such a session is kept, for its container can be struck, and proved empty, again. After a
restart of ours only the names of what was left are known (`containment.identity`): those are struck and
looked for.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.containment import end_strays, still_alive
from cms.disk import ask_disk
from cms.errors import ContainmentError, DiskTimeout
from cms.groups import at_own_door
from cms.live.runner import Runner
from cms.live.stop_ladder import KILL_DEADLINE
from cms.protection.rules import real_folders
from cms.session.model import Receipt, SessionOptions, SessionRecord, SessionStatus
from cms.store import sessions
from cms.store.store import Store

#: Seconds to find out where the folders of one session lead.
_PATIENCE: Final = 2.0


class Unkilled:
    """The sessions of one supervisor, and of those before it, that may still have processes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runners: dict[str, Runner] = {}

    def __repr__(self) -> str:
        return f"<Unkilled {sorted(self._runners)}>"

    def keep(self, runner: Runner) -> None:
        """Its end is not proved."""
        self._runners[runner.record.id] = runner

    def forget(self, session_id: str) -> None:
        """The session is deleted: what is left of it is struck, but not entered in the store again."""
        if session_id in self._runners:
            self._runners[session_id].forget()

    async def strike_all(self) -> None:
        """The last chance, when the supervisor ends: also for those that were deleted since."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for runner in list(self._runners.values()):
                    strike = partial(self._strike_again, runner)
                    nursery.start_soon(at_own_door, f"the end of session {runner.record.name}", strike)

    async def check(self, options: SessionOptions) -> None:
        """Whether a session may start in its folders.

        Raises:
            ContainmentError: processes of another one, or of its own earlier life, may be at work there.
        """
        unkilled = await self._store.read(sessions.unkilled)
        ours = await _folders(options) if unkilled else []
        for record in unkilled:
            place = _overlap(await _folders(record.options), ours)
            if place is None:
                continue
            left = await self._left(record)
            if left:
                raise ContainmentError(
                    f"processes of session {record.name!r} could not be killed and may still write in "
                    f"{place}: {'; '.join(left)}",
                    hint=f"`cms kill {record.name}` tries again",
                )

    async def _left(self, record: SessionRecord) -> tuple[str, ...]:
        runner = self._runners.get(record.id)
        if runner is not None:
            receipt = await self._strike_again(runner)
            return () if receipt.empty else receipt.left or ("unknown",)
        receipt = record.receipt or Receipt("")
        if receipt.empty:
            return ()
        if not receipt.left_ids:
            return receipt.left or ("unknown",)
        there = {each.partition("@")[0] for each in still_alive(receipt.left_ids)}
        return tuple(one for one in receipt.left if one.partition(" ")[0] in there)

    async def strike(self, record: SessionRecord) -> tuple[SessionRecord, Receipt | None]:
        """Try once more to end what is left of a session; it is `killed` once nothing is."""
        runner = self._runners.get(record.id)
        if runner is not None:
            receipt = await self._strike_again(runner)
            return runner.record, receipt
        if record.receipt is None or not record.receipt.left_ids:
            return record, record.receipt
        begun = time.monotonic()
        there = await end_strays(record.receipt.left_ids, deadline=KILL_DEADLINE)
        pids = {each.partition("@")[0] for each in there}
        receipt = msgspec.structs.replace(
            record.receipt,
            reason="killed again",
            seconds=time.monotonic() - begun,
            empty=not there,
            left=tuple(one for one in record.receipt.left if one.partition(" ")[0] in pids),
            left_ids=there,
            how=(
                "SIGKILL to each process that was left",
                *(() if there else ("none of them is there any more",)),
            ),
            at=time.time(),
        )
        status, error = (SessionStatus.KILLED, "") if not there else (record.status, record.error)
        record = msgspec.structs.replace(record, status=status, error=error, receipt=receipt)
        await self._store.write(sessions.save, record)
        return record, receipt

    async def _strike_again(self, runner: Runner) -> Receipt:
        receipt = await runner.kill_again()
        if receipt.empty:
            self._runners.pop(runner.record.id, None)
        return receipt


async def _folders(options: SessionOptions) -> list[Path]:
    """Where they lead; as named where nobody can tell: what hangs may be why a process could not be ended."""
    try:
        found = await ask_disk(lambda: real_folders(options), "its folders", seconds=_PATIENCE)
    except DiskTimeout:
        found = (options.work_dir, *(posixpath.join(options.work_dir, folder) for folder in options.add_dirs))
    return [Path(posixpath.normpath(folder)) for folder in found]


def _overlap(some: Iterable[Path], others: Iterable[Path]) -> Path | None:
    """A folder that is, or is inside of, one of each."""
    others = list(others)
    for one in some:
        for other in others:
            if one.is_relative_to(other) or other.is_relative_to(one):
                return max(one, other, key=lambda path: len(path.parts))
    return None
