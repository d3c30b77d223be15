"""Tasks that were tried several times, or in several cells: how many passed, how sure that is, which is best.

An attempt counts where it came to an end of its own: it passed if it `completed`, and did not if its checks
failed, it ran into a limit, or it gave up. What was cancelled, skipped, cut off or ended by the API says
nothing of the work and is left out.

pass@k is the chance that at least one of k attempts passes. Of a task with n attempts of which c passed it
is estimated without bias as 1 - C(n-c, k) / C(n, k) (Chen et al. 2021), and of a cell as the mean over its
tasks that have k attempts. The interval is Wilson's at 95 % for that mean, with the number of tasks as the
number of trials: attempts at one task are not independent. No mean of values between 0 and 1 varies more
than that of as many trials. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from cms.batch.model import OVER, BestOf, Task, TaskStatus
from cms.session.model import Record

#: Ends that say nothing of the work.
NOTHING_SAID: Final = frozenset(
    {
        TaskStatus.CANCELLED,
        TaskStatus.SKIPPED,
        TaskStatus.INTERRUPTED,
        TaskStatus.RATE_LIMITED,
        TaskStatus.LOST,
    }
)
#: Ends of attempts that count.
COUNTED: Final = OVER - NOTHING_SAID
#: The quantile of the normal distribution for 95 %.
_Z: Final = 1.959964


class Tally(msgspec.Struct, frozen=True):
    """So many tasks of a cell had `counted` attempts that count, of which `passed` passed.

    Attributes:
        attempts: of all of them together, also those that do not count.
        cost: of all of them, in US dollars.
    """

    cell: str
    counted: int
    passed: int
    tasks: int
    attempts: int = 0
    cost: float = 0.0


class Rate(Record, frozen=True):
    """pass@k. `low`, `high`: the interval of 95 %; `tasks`: those that it rests on."""

    k: int
    rate: float
    low: float
    high: float
    tasks: int


class CellScore(Record, frozen=True):
    """What came of one cell of the matrix (`cell` "": there is none)."""

    cell: str
    tasks: int
    attempts: int
    counted: int
    passed: int
    cost: float
    rates: tuple[Rate, ...] = ()


def pass_at(k: int, counted: int, passed: int) -> float:
    """The estimate for one task with at least k attempts."""
    if counted - passed < k:
        return 1.0
    return 1.0 - math.comb(counted - passed, k) / math.comb(counted, k)


def wilson(rate: float, trials: int) -> tuple[float, float]:
    """The interval of 95 % for a rate that was seen in so many trials."""
    if not trials:
        return 0.0, 1.0
    square = _Z * _Z / trials
    centre = (rate + square / 2) / (1 + square)
    half = _Z / (1 + square) * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def scores(tallies: Iterable[Tally], attempts: int) -> tuple[CellScore, ...]:
    """Each cell, in the order in which they come. `attempts`: of each task."""
    by_cell: dict[str, list[Tally]] = {}
    for tally in tallies:
        by_cell.setdefault(tally.cell, []).append(tally)
    return tuple(_score(cell, found, attempts) for cell, found in by_cell.items())


def _score(cell: str, tallies: Sequence[Tally], attempts: int) -> CellScore:
    ks = sorted({1, attempts})
    return CellScore(
        cell,
        tasks=sum(one.tasks for one in tallies),
        attempts=sum(one.attempts for one in tallies),
        counted=sum(one.counted * one.tasks for one in tallies),
        passed=sum(one.passed * one.tasks for one in tallies),
        cost=math.fsum(one.cost for one in tallies),
        rates=tuple(rate for k in ks if (rate := _rate(k, tallies)) is not None),
    )


def _rate(k: int, tallies: Sequence[Tally]) -> Rate | None:
    enough = [one for one in tallies if one.counted >= k]
    tasks = sum(one.tasks for one in enough)
    if not tasks:
        return None
    mean = math.fsum(one.tasks * pass_at(k, one.counted, one.passed) for one in enough) / tasks
    mean = min(1.0, max(0.0, mean))
    low, high = wilson(mean, tasks)
    return Rate(k, mean, low, high, tasks)


# --- which one ------------------------------------------------------------------------------------------


def pick(attempts: Sequence[Task], how: BestOf) -> Task | None:
    """The attempt that stands for its task; None: none completed.

    - `verify`, `judge`: of those that completed, which is after their checks and what their judge says, the
      cheapest; the first of equal ones.
    - `vote`: the first whose answer most of those that completed gave. Answers are equal when they are but
      for space between words and for case.
    """
    good = [one for one in attempts if one.status is TaskStatus.COMPLETED]
    if not good:
        return None
    if how != "vote":
        return min(good, key=lambda one: (one.cost, one.seq))
    votes = Counter(_answer(one) for one in good)
    most = max(votes.values())
    return next(one for one in good if votes[_answer(one)] == most)


def _answer(task: Task) -> str:
    return " ".join((task.result.response if task.result is not None else "").split()).casefold()
