"""Searching what was said and done: the index (`store.search_index`), filled as far as somebody asks for it.

Who never searches has no index. The first search makes it; each one first brings it up to date, for a second
at most, and tells how much is missing; what is left is filled in behind it, step by step.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import msgspec
import trio

from cms.config import Settings
from cms.errors import CmsError
from cms.session.search import Found, to_match
from cms.store import search_index
from cms.store.search_index import Index, IndexDamaged
from cms.store.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds that a search brings the index up to date before it answers with what is there.
PATIENCE = 1.0
#: Seconds between two steps of the filling in the background: the machine has other things to do.
_REST = 0.02
_CHUNK = 1000  # sessions that are looked for at once


@asynccontextmanager
async def open_search(settings: Settings, store: Store) -> AsyncIterator[Search]:
    """The search of a store; the index is not opened before somebody asks, and closed at the end."""
    search = Search(settings, store)
    try:
        yield search
    finally:
        with trio.CancelScope(shield=True):
            await search.close()


class Search:
    """The search of one store, made by `open_search`."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._path = settings.home / "search.db"
        self._store = store
        self._index: Index | None = None
        self._turn = trio.Lock()  # of who reads from the store and puts it in
        self._limiter = trio.CapacityLimiter(1)
        self._filling = False

    async def find(
        self, text: str, *, session_id: str = "", since: float | None = None, best: bool = False, limit: int
    ) -> Found:
        """The newest (or best) texts with those words.

        Raises:
            UsageError: there is no word in it.
            MachineError: this Python's SQLite cannot do it.
            StoreError: the index cannot be read or written.
        """
        match = to_match(text)
        try:
            return await self._find(match, session_id, since, best=best, limit=limit)
        except IndexDamaged as error:
            log.warning("the search index is made anew: %s", error)
            await self._begin_anew()
            return await self._find(match, session_id, since, best=best, limit=limit)

    async def _find(
        self, match: str, session_id: str, since: float | None, *, best: bool, limit: int
    ) -> Found:
        index, left = await self._catch_up(PATIENCE)
        while True:
            hits = await self._in_thread(
                lambda: index.find(match, session_id=session_id, since=since, best=best, limit=limit + 1)
            )
            ids = {one.session_id for one in hits}
            names = await self._store.read(search_index.sessions_there, ids)
            if len(names) == len(ids):
                break
            for gone in ids - names.keys():  # deleted just now, or by another process
                await self._in_thread(partial(index.forget, gone))
        found = tuple(msgspec.structs.replace(one, session=names[one.session_id]) for one in hits)
        oldest = await self._in_thread(index.oldest) if left else None
        return Found(found[:limit], more=len(found) > limit, left=left, since=oldest)

    async def fill(self) -> None:
        """Bring it up to date, with rests, however long that takes. Once is enough: another call returns."""
        if self._filling:
            return
        self._filling = True
        try:
            left = 1
            while left:
                _, left = await self._catch_up(0.0)
                await trio.sleep(_REST)
        except CmsError as error:
            log.warning("the search index was not filled: %s", error)
        finally:
            self._filling = False

    async def forget(self, session_id: str) -> None:
        """A session is gone from the store: take it out of the index, if there is one.

        Raises nothing: what is left is never shown, and goes the next time that the index is opened.
        """
        try:
            if self._index is None and not await trio.to_thread.run_sync(self._path.exists):
                return
            async with self._turn:  # nobody has read it before, and puts it in now
                index = await self._opened()
                await self._in_thread(lambda: index.forget(session_id))
        except CmsError as error:
            log.warning("session %s is still in the search index: %s", session_id, error)

    async def close(self) -> None:
        """Close the index."""
        async with self._turn:
            if self._index is not None:
                await self._in_thread(self._index.close)
                self._index = None

    # --- filling --------------------------------------------------------------------------------------

    async def _catch_up(self, patience: float) -> tuple[Index, int]:
        """Steps until nothing is left or that many seconds are over; gives how many messages are, about."""
        until = trio.current_time() + patience
        async with self._turn:
            index = await self._opened()
            await self._check(index)
        while True:
            async with self._turn:
                left = await self._step(index)
            if not left or trio.current_time() >= until:
                return index, left

    async def _opened(self) -> Index:
        """In turn."""
        if self._index is None:
            newest = await self._store.read(search_index.newest_row)
            index = self._index = await self._in_thread(lambda: Index.open(self._path, newest))
            known = await self._in_thread(index.sessions)
            for start in range(0, len(known), _CHUNK):
                part = known[start : start + _CHUNK]
                there = await self._store.read(search_index.sessions_there, part)
                for gone in part:
                    if gone not in there:
                        await self._in_thread(partial(index.forget, gone))
        return self._index

    async def _check(self, index: Index) -> None:
        """What may have changed of what is in it: rows that are used again, messages that go on."""
        await self._in_thread(partial(index.drop_above, await self._right_up_to(index)))
        growing = await self._in_thread(index.open_rows)
        for start in range(0, len(growing), search_index.STEP):
            part = growing[start : start + search_index.STEP]
            found = await self._store.read(search_index.messages_in, part)
            await self._in_thread(partial(index.add, found))

    async def _right_up_to(self, index: Index) -> int:
        rows = await self._in_thread(index.newest)
        while rows:
            there = await self._store.read(search_index.ids_at, list(rows))
            for row, message in rows.items():
                if there.get(row) == message:
                    return row
            rows = await self._in_thread(partial(index.newest, min(rows)))
        return 0

    async def _step(self, index: Index) -> int:
        """A step of what is new, or else of what is old, in turn; gives about how many messages are left."""
        newest = await self._store.read(search_index.newest_row)
        low, high = await self._in_thread(index.bounds)
        if high < newest:
            found = await self._store.read(search_index.messages_after, high)
            await self._in_thread(lambda: index.add(found))
            high = found[-1].row if found else newest
        elif low > 1:
            found = await self._store.read(search_index.messages_before, low)
            low = found[-1].row if found else 1
            await self._in_thread(lambda: index.add(found, low=low))
        return max(0, newest - high) + low - 1

    async def _begin_anew(self) -> None:
        await self.close()
        await self._in_thread(lambda: Index.remove(self._path))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)
