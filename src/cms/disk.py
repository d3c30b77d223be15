"""File system calls that an agent's folder can hold up: in a thread, and with a deadline.

A folder on a network that is gone, or a file system that an agent serves itself (FUSE), answers when it
likes, and a call that waits for it cannot be broken off. On trio's thread it would stop every session and the
clock of their limits with them. So whatever looks into such a folder goes through `ask_disk`.

The thread of a call that was given up stays until the system lets it go. Each session asks under a limiter of
its own, so those that hang take nothing from the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from cms.errors import DiskTimeout

T = TypeVar("T")

#: Seconds for a look at one folder.
PATIENCE: Final = 10.0


async def ask_disk(
    look: Callable[[], T],
    what: str,
    *,
    seconds: float = PATIENCE,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """What `look` gives. It is called in a thread, and must not mind that nobody waits for it any more.

    Args:
        what: is looked at, for the error.
        limiter: bounds the threads of whoever asks; by default there is one for this call alone.

    Raises:
        DiskTimeout: there was no answer within `seconds`.
    """
    limiter = limiter or trio.CapacityLimiter(1)
    with trio.move_on_after(seconds):
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
    raise DiskTimeout(what, seconds)
