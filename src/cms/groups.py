"""Groups of exceptions: which error of several is told, and what becomes of the others.

Inside cms a group stays a group (`except*`). `single_error` stands where one error is wanted: around the
nursery of a function that promises its caller a `CmsError`, and where a command ends.

Told is, in this order: what is no `Exception` (Ctrl-C), a bug, an error of ours; of several of a kind the
first. The others are logged and noted on it, so that none is lost. A cancellation is told only if there is
nothing else: its group goes on as it is, for it belongs to some scope above.

`at_own_door` stands around a task whose end must be nobody else's.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from cms.errors import CmsError

log = logging.getLogger(__name__)


@contextmanager
def single_error() -> Iterator[None]:
    """Of a group that comes out of the block, raise the one error that is told."""
    try:
        yield
    except BaseExceptionGroup as group:
        told, *others = leaves(group)
        if isinstance(told, trio.Cancelled):
            raise
        for other in others:
            if not isinstance(other, trio.Cancelled):
                expected = isinstance(other, CmsError)
                log.error("beside another error: %s", other, exc_info=None if expected else other)
                told.add_note(f"beside it: {type(other).__name__}: {other}")
        # It is told as it was raised: without the group, which it is no consequence of.
        context, cause = told.__context__, told.__cause__
        try:
            raise told from cause
        finally:
            told.__context__ = context


async def at_own_door(what: str, task: Callable[[], Awaitable[object]]) -> None:
    """Run one task of many in a nursery: what goes wrong in it is logged, and ends no other.

    Cancellations, and what else is no `Exception`, go on.
    """
    try:
        await task()
    except CmsError as error:
        log.warning("%s ended: %s", what, error)
    except Exception:
        log.exception("%s ended because of a bug in cms", what)
    except BaseExceptionGroup as group:
        bugs, rest = group.split(Exception)
        if bugs is not None:
            log.error("%s ended because of a bug in cms", what, exc_info=bugs)
        if rest is not None:
            raise rest from None


def is_cancellation(error: BaseException) -> bool:
    """Whether it is a cancellation, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return isinstance(leaves(error)[0], trio.Cancelled)
    return isinstance(error, trio.Cancelled)


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a group and of the groups in it, the one that is told first."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return sorted(found, key=_rank)


def _rank(error: BaseException) -> int:
    if isinstance(error, trio.Cancelled):
        return 3
    if not isinstance(error, Exception):
        return 0
    return 2 if isinstance(error, CmsError) else 1
