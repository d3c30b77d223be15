"""What is to be written to one client: answers are kept, notes can be dropped."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

import msgspec
import trio

from cms.rpc.wire import ProgressNote, notification

MAX_NOTES = 64  # progress notes that wait for one client


class Outbox:
    """What is to be written to one client, in order. Notes can be dropped, everything else is kept.

    A full house drops the oldest note, because the newest says most; the next note of the same request
    carries the number of those lost. So for each request: notes given = notes taken + sum of `dropped`,
    unless the very last were still waiting.
    """

    def __init__(self, max_notes: int = MAX_NOTES) -> None:
        self._max_notes = max_notes
        self._items: OrderedDict[int, tuple[bytes, int | None] | ProgressNote] = OrderedDict()
        self._notes: deque[int] = deque()  # keys of the notes among the items, oldest first
        self._dropped: Counter[int] = Counter()
        self._next_key = 0
        self._closed = False
        self._change = trio.Event()

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"<Outbox {len(self._items)} waiting, {len(self._notes)} of them notes>"

    def put(self, line: bytes, *, ends: int | None = None) -> None:
        """Anything but a note. `ends`: the request whose last line this is."""
        if not self._closed:
            self._items[self._key()] = (line, ends)
            self._wake()

    def put_note(self, note: ProgressNote) -> None:
        if self._closed:
            return
        if len(self._notes) >= self._max_notes:
            lost = self._items.pop(self._notes.popleft())
            assert isinstance(lost, ProgressNote)  # noqa: S101 - what the keys in _notes mean
            self._dropped[lost.request_id] += 1
        key = self._key()
        self._items[key] = note
        self._notes.append(key)
        self._wake()

    def close(self) -> None:
        """Nothing more is to be put. What is there can still be taken."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """Nobody reads any more."""
        self._items.clear()
        self._notes.clear()
        self.close()

    async def take(self) -> bytes | None:
        """The next line, waiting for it; None when closed and empty."""
        while not self._items:
            if self._closed:
                return None
            await self._change.wait()
        _, item = self._items.popitem(last=False)
        self._wake()
        if isinstance(item, tuple):
            line, ends = item
            if ends is not None:
                self._dropped.pop(ends, None)
            return line
        self._notes.popleft()
        dropped = self._dropped.pop(item.request_id, 0)
        return notification("progress", msgspec.structs.replace(item, dropped=dropped))

    async def wait_shorter_than(self, length: int) -> None:
        while len(self._items) >= length and not self._closed:
            await self._change.wait()

    def _key(self) -> int:
        self._next_key += 1
        return self._next_key

    def _wake(self) -> None:
        changed, self._change = self._change, trio.Event()
        changed.set()
