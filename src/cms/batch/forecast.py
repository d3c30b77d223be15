"""What a batch will cost, how long it will take, what memory it needs, whether that fits; and how long yet.

The forecast rests on the history of like tasks: of the same model, preset and work dir if there are enough of
them, else of the same model and preset, of the model, of any. Where there is no history the limits are all
that is known, and the forecast says so.

Time: with `p` at once no order of work is faster than total/p or than the longest chain, and none that
never idles is slower than their sum (Graham's bound). Both ends are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from cms.session.model import Record
from cms.session.plan_usage import UsageWindow
from cms.units import size

#: Samples of a kind that make a history.
ENOUGH: Final = 3

#: Bytes that a live `claude` takes, for the forecast and the default of `--max-parallel`. Measured: 200 MB
#: resting, 250 MB and more at work, and what its tools take comes on top.
SESSION_BYTES: Final = 300 * 1024 * 1024
#: Part of the memory that is left alone, and what at least.
SPARE: Final = 0.15
SPARE_BYTES: Final = 512 * 1024 * 1024
#: Sessions for each core: they mostly wait for the model, and work hard when they start.
PER_CORE: Final = 8


def default_parallel(available: int, cores: int) -> int:
    """How many sessions at once this machine bears, from its free memory (bytes) and its cores."""
    room = available - max(SPARE * available, SPARE_BYTES)
    return max(1, min(int(room // SESSION_BYTES), cores * PER_CORE))


class Sample(Record, frozen=True):
    """One delegation of the past, as far as a forecast cares."""

    model: str
    preset: str
    work_dir: str
    cost: float
    duration: float  # seconds


class Kind(Record, frozen=True):
    """What makes tasks alike."""

    model: str
    preset: str
    work_dir: str


class Guess(Record, frozen=True):
    """What one task of a kind will probably take. `samples`: how many it rests on, 0: on nothing."""

    cost: float
    cost_high: float  # nine of ten stayed below
    duration: float
    samples: int


def _quantile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(part * len(ordered)) - 1)]


def guess(kind: Kind, history: Sequence[Sample]) -> Guess:
    """From the most alike part of the history that is large enough."""
    for alike in (3, 2, 1, 0):  # of model, preset and work dir
        part = [one for one in history if _like(one, kind, alike)]
        if len(part) >= ENOUGH:
            costs, times = [one.cost for one in part], [one.duration for one in part]
            return Guess(
                math.fsum(costs) / len(part),
                _quantile(costs, 0.9),
                math.fsum(times) / len(part),
                len(part),
            )
    return Guess(0.0, 0.0, 0.0, 0)


def _like(sample: Sample, kind: Kind, parts: int) -> bool:
    ours = (kind.model, kind.preset, kind.work_dir)
    return (sample.model, sample.preset, sample.work_dir)[:parts] == ours[:parts]


class View(msgspec.Struct, frozen=True):
    """What an isolated task takes of the disk before it writes anything.

    Attributes:
        bytes: of its copy of the folder; 0 with an overlay.
        free: bytes where it lies.
        whole: the folder was measured to its end.
    """

    bytes: int
    free: int
    whole: bool = True


class Load(msgspec.Struct, frozen=True):
    """What is to be done: how many of each kind, the sum of their limits, and the longest chain in seconds.

    Attributes:
        views: of the isolated tasks, and how many tasks have such a one.
        limits: US dollars that all tasks together may spend; None if one has no limit.
        dearest: the largest limit of one task.
    """

    kinds: Mapping[Kind, int]
    limits: float | None
    dearest: float | None
    chain: float = 0.0
    views: Sequence[tuple[View, int]] = ()


class Terms(msgspec.Struct, frozen=True):
    """What it has to fit into.

    Attributes:
        memory: bytes available here now.
        afar: none of it is done here.
    """

    parallel: int
    asked_parallel: int | None
    max_cost: float | None
    max_time: float | None
    memory: int
    afar: bool = False


class Forecast(Record, frozen=True):
    """What `--plan` tells.

    Attributes:
        memory, memory_available: bytes of this machine, of all sessions that are at work at once; 0: all are
            on nodes.
        disk, disk_available: bytes that the copies of isolated tasks take before these write anything; None:
            no task is isolated.
        problems: why it cannot fit.
        notes: what else there is to know.
        table: what the tasks are multiplied by, in words; "": nothing.
        plan_usage: how much of the subscription's windows is used, as it was heard last.
    """

    tasks: int
    parallel: int
    cost: float
    cost_high: float
    cost_limit: float | None
    seconds: float
    seconds_high: float
    memory: int
    memory_available: int
    samples: int
    known: int  # tasks that a guess exists for
    fits: bool
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    disk: int | None = None
    disk_available: int | None = None
    plan_usage: tuple[UsageWindow, ...] = ()
    table: str = ""


def never_fits(dearest: float | None, max_cost: float | None) -> str:
    """Why a task could never start under the batch's cap; "" if each could."""
    if max_cost is None:
        return ""
    if dearest is None:
        return "a task without a limit (maxCost) cannot run under the batch's --max-cost"
    if dearest > max_cost:
        return (
            f"a task may cost ${dearest:.2f} (maxCost), more than the whole batch's ${max_cost:.2f}: "
            "it could never start"
        )
    return ""


def forecast(load: Load, guesses: Mapping[Kind, Guess], terms: Terms) -> Forecast:
    """The whole batch, before anything is spent."""
    tasks = sum(load.kinds.values())
    known = sum(count for kind, count in load.kinds.items() if guesses[kind].samples)
    cost = math.fsum(guesses[kind].cost * count for kind, count in load.kinds.items())
    high = math.fsum(guesses[kind].cost_high * count for kind, count in load.kinds.items())
    work = math.fsum(guesses[kind].duration * count for kind, count in load.kinds.items())
    parallel = max(1, min(terms.parallel, tasks))
    seconds = max(work / parallel, load.chain)
    longest = work / parallel + load.chain * (1 - 1 / parallel)
    if not load.chain and known:
        longest += max(guesses[kind].duration for kind in load.kinds)
    memory = 0 if terms.afar else parallel * SESSION_BYTES
    problems: list[str] = []
    notes: list[str] = []
    if trouble := never_fits(load.dearest, terms.max_cost):
        problems.append(trouble)
    if terms.max_cost is not None:
        if cost > terms.max_cost:
            problems.append(
                f"about ${cost:.2f} are to be expected, more than the batch's ${terms.max_cost:.2f}"
            )
        elif high > terms.max_cost:
            notes.append(f"it may come to ${high:.2f}, more than the batch's ${terms.max_cost:.2f}")
    if terms.max_time is not None and seconds > terms.max_time:
        problems.append(
            f"at least {seconds:.0f} s are to be expected, more than the batch's {terms.max_time:.0f} s"
        )
    if terms.asked_parallel is not None and memory > terms.memory:
        problems.append(
            f"{parallel} sessions at once take about {size(memory)}, and {size(terms.memory)} are free"
        )
    disk = sum(view.bytes * count for view, count in load.views)
    free = min((view.free for view, _ in load.views), default=0)
    if disk > free:
        copies = f"the copies of isolated tasks take about {size(disk)}"
        problems.append(f"{copies}, and {size(free)} are free")
    if not all(view.whole for view, _ in load.views):
        notes.append("a work dir is too large to measure: its copies need more disk than shown")
    if known < tasks:
        notes.append(f"no history for {tasks - known} of {tasks} tasks; for those only their limits count")
    return Forecast(
        tasks=tasks,
        parallel=parallel,
        cost=cost,
        cost_high=max(high, cost),
        cost_limit=load.limits,
        seconds=seconds,
        seconds_high=max(longest, seconds),
        memory=memory,
        memory_available=terms.memory,
        samples=sum(guesses[kind].samples for kind in load.kinds),
        known=known,
        fits=not problems,
        problems=tuple(problems),
        notes=tuple(notes),
        disk=disk if load.views else None,
        disk_available=free if load.views else None,
    )


def time_left(
    ended: int, worked: float, waiting: int, running: Iterable[float], parallel: int
) -> float | None:
    """Seconds to the end, from what was seen so far; None before anything was seen.

    Args:
        worked: seconds that those that ended took, in all.
        running: for each that runs, for how long it has.
        parallel: how many may run now.
    """
    if not ended:
        return None
    each = worked / ended
    rests = [max(each - so_far, 0.1 * each) for so_far in running]
    slots = max(1, parallel)
    return max((math.fsum(rests) + waiting * each) / slots, max(rests, default=0.0))
