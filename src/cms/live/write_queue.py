"""What must be on disk before it is done, in order: store first, then act.

A tool call is answered after its decision is stored, a waiter is told of an answer that is stored. Whoever
decides must not wait for the disk (the reader would stop reading), so it hands over a pair: what to store,
and what to do then. One task carries them out one after the other.

A failure to store is told to `fail` and to the pair's second half, which must not act as if all was well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio

from cms.errors import CmsError, InternalError, ProtocolError

#: Pairs that wait for the disk. More means that the agent asks faster than anything can be written.
BACKLOG = 4096

Store = Callable[[], Awaitable[object]]
Then = Callable[[CmsError | None], None]


class _Effect(msgspec.Struct):
    store: Store
    then: Then


class WriteQueue:
    """The queue and the task (`run`) of one session."""

    def __init__(self, fail: Callable[[CmsError], None]) -> None:
        self._fail = fail
        self._effects_in, self._effects = trio.open_memory_channel[_Effect](BACKLOG)
        self._done = trio.Event()

    def __repr__(self) -> str:
        return f"<WriteQueue {self._effects.statistics().current_buffer_used} waiting>"

    def after(self, store: Store, then: Then | None = None) -> None:
        """`store` when its turn comes, and `then` with None, or with the error that kept it from the disk.

        After `close`, and past the backlog, neither is called: what is owed to somebody must be on record
        elsewhere (the runner's pending messages).
        """
        try:
            self._effects_in.send_nowait(_Effect(store, then if then is not None else _nothing))
        except trio.WouldBlock:
            self._fail(ProtocolError("claude asks faster than the store can write"))
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    def close(self) -> None:
        """Take no more; what is in the queue is still carried out."""
        self._effects_in.close()

    async def wait_done(self) -> None:
        """Until all is carried out after `close`. No deadline: its end waits for the disk anyway."""
        await self._done.wait()

    async def run(self) -> None:
        """Carry out, until closed and empty."""
        try:
            async with self._effects:
                async for effect in self._effects:
                    await self._carry_out(effect)
        finally:
            self._done.set()

    async def _carry_out(self, effect: _Effect) -> None:
        failure: CmsError | None = None
        try:
            await effect.store()
        except CmsError as error:
            failure = error
        except Exception as error:  # a bug; the next effect must have its turn all the same
            failure = InternalError(f"while storing: {error!r}")
        if failure is not None:
            self._fail(failure)
        try:
            effect.then(failure)
        except CmsError as error:
            self._fail(error)
        except Exception as error:
            self._fail(InternalError(f"after storing: {error!r}"))


def _nothing(_error: CmsError | None) -> None:
    pass
