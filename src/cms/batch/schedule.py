"""The scheduler: everything a batch must know to decide, how events change it, and what follows.

`fold(state, event) -> state`, `decide(state, now) -> actions`. Both are pure and total; the engine
(`fleet.batch_engine`) carries the actions out one after the other and reports each as an event. The state is
bounded by how many tasks run at once, never by how many there are: tasks live in the store, and come here a
page at a time.

Rules, in prose:

- A task is started when it is its turn (the order of the file), the throttle permits it, its limit fits under
  the batch's cap, and nobody wants the batch to rest. Who does not fit waits for reservations to come back;
  only when nothing is under way any more does a smaller one go first, and when none fits the batch stops.
- Before `Start` is carried out the task is `running` in the store, so that it is never started twice.
- Asked to stop (a person, a signal, the time cap, refused credentials), nothing more is started. A stop also
  ends what runs; refused credentials let it run into the same wall by itself.
- The end is when nothing runs and nothing waits, or nothing runs and the batch is to stop.
"""

from __future__ import annotations

import enum
from typing import Final, Literal

import msgspec

from cms.batch import allowance, throttle
from cms.batch.allowance import EPSILON, Allowance
from cms.batch.many import Many
from cms.batch.model import ERRORED, BatchOptions, BatchStatus, TaskStatus
from cms.batch.throttle import Throttle, Trouble
from cms.units import money

#: Why a batch ends before its work is done.
Why = Literal["", "cost", "tokens", "time", "errors", "asked", "auth", "trouble"]
#: Where what runs may run out: more of it would only be lost.
_RUN_OUT: Final = frozenset({"auth", "errors", "tokens"})


class Phase(enum.StrEnum):
    OPEN = "open"
    PAUSED = "paused"  # nothing is started; what runs runs on
    STOPPING = "stopping"  # nothing is started; what runs is being ended, or runs out
    ENDED = "ended"


class Candidate(msgspec.Struct, frozen=True):
    """A task whose turn it could be. `limit`: US dollars that it may still spend; None: without bound."""

    seq: int
    limit: float | None


class Bounds(msgspec.Struct, frozen=True):
    """What the whole batch may take, beside money and time on the wall. None: no bound.

    Attributes:
        errors: tasks that may end in error: their share of all below 1, their number from 1 on.
        tokens: looked at when a task ends.
        work: seconds in which something runs and nothing rests.
    """

    errors: float | None = None
    tokens: int | None = None
    work: float | None = None


def bounds_of(options: BatchOptions) -> Bounds:
    """What a batch's options say."""
    return Bounds(options.fail_on_error, options.max_tokens, options.max_work)


class State(msgspec.Struct, frozen=True):
    """How a batch stands.

    Attributes:
        deadline: of the whole batch; infinite without one.
        ready: candidates that were read from the store and not started yet, in the file's order.
        stale: the store may hold candidates that are not in `ready`.
        next_due: the earliest time at which one that waits for a time becomes a candidate.
        waiting: tasks that have neither started nor ended, those in `ready` and those with needs included.
        ending: what runs has been told to end.
        parked_told: the park that was told already (its `until`).
        total: tasks of the batch.
        errors: of those that `failed`, the ones that ended in error.
        work: seconds in which something ran and nothing rested, until `at`.
    """

    throttle: Throttle
    allowance: Allowance
    deadline: float = float("inf")
    phase: Phase = Phase.OPEN
    why: Why = ""
    reason: str = ""
    give_up: bool = False
    ready: tuple[Candidate, ...] = ()
    stale: bool = True
    next_due: float | None = None
    waiting: int = 0
    running: Many = Many()
    failed: int = 0  # ended, and not completed
    ending: bool = False
    parked_told: float = 0.0
    bounds: Bounds = Bounds()
    total: int = 0
    errors: int = 0
    tokens: int = 0
    work: float = 0.0
    at: float = 0.0


# --- events ---------------------------------------------------------------------------------------


class BatchEvent(msgspec.Struct, frozen=True):
    """Something that happened. `at`: seconds since the epoch."""

    at: float


class Woke(BatchEvent, frozen=True):
    """Time has passed, up to `wake_at`."""


class ClockMoved(BatchEvent, frozen=True):
    """The clock on the wall was set, or stood still while the machine slept: it is `by` seconds ahead of
    where it would be."""

    by: float


class Paged(BatchEvent, frozen=True):
    """The store was asked for candidates: these are all that are due, unless `more`.

    Attributes:
        fitting: it was asked only for those whose limit is small enough (`Fetch.fitting`).
    """

    found: tuple[Candidate, ...]
    more: bool
    next_due: float | None
    fitting: bool = False


class Started(BatchEvent, frozen=True):
    """A task is `running` in the store, with its limit reserved."""

    seq: int
    limit: float | None


class Resized(BatchEvent, frozen=True):
    """There is room for so many at once now."""

    cap: int


class Answered(BatchEvent, frozen=True):
    """The API has answered a task that runs."""

    seq: int


class ApiRetried(BatchEvent, frozen=True):
    """A task's claude retries by itself."""

    seq: int


class Ended(BatchEvent, frozen=True):
    """A try has ended, and that is in the store.

    Attributes:
        status: what the task is now; `waiting` if it is tried again.
        cost, exact: of this try.
        released: tasks that have nothing to wait for any more because of it.
        skipped: tasks that will not be started because of it.
        heard: the API had answered it.
    """

    seq: int
    status: TaskStatus
    cost: float = 0.0
    exact: bool = True
    released: int = 0
    skipped: int = 0
    heard: bool = True
    trouble: Trouble | None = None
    resets_at: float | None = None
    why: str = ""
    jitter: float = 0.5
    tokens: int = 0


class Altered(BatchEvent, frozen=True):
    """A person has changed what holds for the batch, and perhaps the tasks that wait."""

    max_parallel: int
    max_cost: float | None
    deadline: float
    bounds: Bounds


class Requeued(BatchEvent, frozen=True):
    """Tasks that were over wait again: so many, of which so many had failed, and so many in error."""

    waiting: int
    failed: int
    errors: int


class Withdrawn(BatchEvent, frozen=True):
    """Tasks that waited are over, by the will of a person; `skipped`: others that needed them."""

    seqs: tuple[int, ...]
    skipped: int = 0


class Asked(BatchEvent, frozen=True):
    """Somebody wants it so. `give_up`: the batch is not to be resumed."""

    want: Literal["pause", "resume", "stop", "cancel"]
    reason: str = ""


class Broken(BatchEvent, frozen=True):
    """The store cannot be written any more: nothing can be started."""

    reason: str


class ParkTold(BatchEvent, frozen=True):
    until: float


class EndTold(BatchEvent, frozen=True):
    """Everything that ran was told to end."""


class Finished(BatchEvent, frozen=True):
    """The end is in the store."""


# --- fold -----------------------------------------------------------------------------------------

_set = msgspec.structs.replace


def _without(ready: tuple[Candidate, ...], seq: int) -> tuple[Candidate, ...]:
    if ready and ready[0].seq == seq:
        return ready[1:]  # nearly always: whose turn it is stands first
    return tuple(one for one in ready if one.seq != seq)


def _close(state: State, why: Why, reason: str) -> State:
    if state.phase is Phase.ENDED or (state.phase is Phase.STOPPING and not _runs_out(state, why)):
        return state
    return _set(state, phase=Phase.STOPPING, why=why, reason=reason)


def _runs_out(state: State, why: Why) -> bool:
    """Whether what runs was left to run out, and is now to end."""
    return state.why in _RUN_OUT and why not in _RUN_OUT and not state.ending


def _work(state: State, now: float) -> float:
    """Seconds of work by then."""
    rests = not state.running or state.throttle.closed_until or state.phase is Phase.PAUSED
    return state.work if rests else state.work + max(0.0, now - state.at)


def _out_of_time(state: State, now: float) -> State:
    if now >= state.deadline:
        return _close(state, "time", "the batch reached its time limit")
    most = state.bounds.work
    if most is not None and _work(state, now) >= most - EPSILON:
        return _close(state, "time", f"the batch has worked for {most:.0f} s (--max-work)")
    return state


def _altered(state: State, event: Altered) -> State:
    cap = event.max_parallel
    state = _set(
        state,
        throttle=throttle.resized(state.throttle, cap),
        allowance=_set(state.allowance, cap=event.max_cost),
        deadline=event.deadline,
        bounds=event.bounds,
        ready=(),
        stale=True,
    )
    return _beyond(state)


def _beyond(state: State) -> State:
    """Closed where there are too many errors, or tokens, and something is still to be done."""
    if not state.waiting:
        return state
    most, tokens = state.bounds.errors, state.bounds.tokens
    if most is not None and state.errors > (most if most >= 1 else most * state.total):
        told = f"{state.errors} of {state.total} tasks ended in error (--fail-on-error {most:g})"
        return _close(state, "errors", told)
    if tokens is not None and state.tokens >= tokens:
        return _close(state, "tokens", f"{state.tokens} of {tokens} tokens are taken")
    return state


def fold(state: State, event: BatchEvent) -> State:
    """The state after an event."""
    if state.phase is Phase.ENDED:
        return state
    if isinstance(event, ClockMoved):
        moved = throttle.shifted(state.throttle, event.by)
        return _set(state, throttle=moved, deadline=state.deadline + event.by, at=state.at + event.by)
    state = _set(state, work=_work(state, event.at), at=max(state.at, event.at))
    current = throttle.tick(state.throttle, event.at)
    state = _out_of_time(_set(state, throttle=current), event.at)
    match event:
        case Paged(found=found, more=more, next_due=due):
            fresh = tuple(one for one in found if one.seq not in state.running)
            if event.fitting:
                if not fresh:
                    return _close(state, "cost", _short(state))
                more = True
            return _set(state, ready=fresh, stale=more, next_due=due)
        case Started(seq=seq, limit=limit):
            return _set(
                state,
                throttle=throttle.started(current, seq, event.at),
                allowance=allowance.reserve(state.allowance, seq, limit),
                ready=_without(state.ready, seq),
                waiting=state.waiting - 1,
                running=state.running.put(seq),
            )
        case Resized(cap=cap):
            return _set(state, throttle=throttle.resized(current, cap))
        case Altered():
            return _altered(state, event)
        case Requeued():
            return _set(
                state,
                waiting=state.waiting + event.waiting,
                failed=state.failed - event.failed,
                errors=state.errors - event.errors,
                stale=True,
            )
        case Withdrawn(seqs=seqs, skipped=skipped):
            return _set(
                state,
                ready=tuple(one for one in state.ready if one.seq not in seqs),
                waiting=state.waiting - len(seqs) - skipped,
                failed=state.failed + len(seqs) + skipped,
                stale=True,
            )
        case Answered(seq=seq):
            return _set(state, throttle=throttle.answered(current, seq, event.at))
        case ApiRetried():
            return _set(state, throttle=throttle.retried(current, event.at))
        case Ended():
            return _ended(state, event)
        case Asked(want="pause", reason=reason) if state.phase is Phase.OPEN:
            return _set(state, phase=Phase.PAUSED, reason=reason)
        case Asked(want="resume") if state.phase is Phase.PAUSED:
            return _set(state, phase=Phase.OPEN, reason="", stale=True)
        case Asked(want="stop", reason=reason):
            return _close(state, "asked", reason)
        case Asked(want="cancel", reason=reason):
            return _set(_close(state, "asked", reason), give_up=True, reason=reason)
        case Broken(reason=reason):
            return _close(state, "trouble", reason)
        case ParkTold(until=until):
            return _set(state, parked_told=until)
        case EndTold():
            return _set(state, ending=True)
        case Finished():
            return _set(state, phase=Phase.ENDED)
        case _:
            return state


def _ended(state: State, event: Ended) -> State:
    if event.seq not in state.running:
        return state
    again = event.status is TaskStatus.WAITING
    current = state.throttle
    if event.trouble in ("overload", "limit"):
        current = throttle.troubled(
            current,
            event.seq,
            event.trouble,
            event.at,
            event.jitter,
            resets_at=event.resets_at,
            why=event.why,
        )
    elif event.trouble is None and event.heard:
        current = throttle.succeeded(current, event.seq, event.at)
    else:
        current = throttle.left(current, event.seq)
    state = _set(
        state,
        throttle=current,
        allowance=allowance.settle(state.allowance, event.seq, event.cost, exact=event.exact),
        running=state.running.without(event.seq),
        waiting=state.waiting + again - event.skipped,
        failed=state.failed + (not again and event.status is not TaskStatus.COMPLETED) + event.skipped,
        stale=state.stale or again or event.released > 0,
        errors=state.errors + (event.status in ERRORED),
        tokens=state.tokens + event.tokens,
    )
    if event.trouble == "auth":
        return _close(state, "auth", event.why)
    return _beyond(state)


# --- decide ---------------------------------------------------------------------------------------


class Action(msgspec.Struct, frozen=True):
    """Something for the engine to do."""


class Fetch(Action, frozen=True):
    """Read at most `most` candidates from the store; answered by `Paged`.

    Attributes:
        fitting: only those that may spend no more than this; None: all.
    """

    most: int
    fitting: float | None = None


class Start(Action, frozen=True):
    """Mark the task as running, then run it; answered by `Started`."""

    seq: int
    limit: float | None


class TellPark(Action, frozen=True):
    """A person wants to know; answered by `ParkTold`."""

    until: float
    why: str


class EndAll(Action, frozen=True):
    """Tell everything that runs to end; answered by `EndTold`."""

    reason: str


class Finish(Action, frozen=True):
    """Nothing more will happen; answered by `Finished`."""

    status: BatchStatus
    why: Why = ""
    reason: str = ""


#: Candidates are read for this many times what may run at once, at least so many and at most so many.
_PAGES: Final = 2
_LEAST: Final = 32
_MOST: Final = 1024


def decide(state: State, now: float) -> tuple[Action, ...]:
    """What to do now. Without events, only at `wake_at` will it say something else."""
    if state.phase is Phase.ENDED:
        return ()
    state = _out_of_time(_beyond(state), now)
    if state.phase is Phase.STOPPING:
        return _wind_up(state)
    state = _set(state, throttle=throttle.tick(state.throttle, now))
    current = state.throttle
    if current.parked and current.closed_until != state.parked_told:
        return (TellPark(current.closed_until, current.why),)
    if state.phase is Phase.PAUSED:
        return ()
    starts: list[Action] = []
    while throttle.may_start(state.throttle, len(state.running), now):
        chosen = _choose(state)
        if chosen is None:
            break
        starts.append(Start(chosen.seq, chosen.limit))
        state = fold(state, Started(now, chosen.seq, chosen.limit))
    if starts:
        return tuple(starts)
    due = state.next_due is not None and now >= state.next_due
    if not state.ready and (state.stale or due):
        # Also while nothing may start: whether anything waits at all decides on the end.
        return (Fetch(min(max(_PAGES * state.throttle.cap, _LEAST), _MOST)),)
    if state.running:
        return ()
    if state.ready and not any(allowance.fits(state.allowance, one.limit) for one in state.ready):
        return (Fetch(_LEAST, fitting=state.allowance.left),)
    if not state.ready and state.next_due is None:
        failed = state.failed > 0 or state.waiting > 0
        return (Finish(BatchStatus.FAILED if failed else BatchStatus.COMPLETED),)
    return ()


def _choose(state: State) -> Candidate | None:
    """Whose turn it is: the first; where nothing runs that could give money back, the first that fits."""
    for one in state.ready:
        if allowance.fits(state.allowance, one.limit):
            return one
        if state.running:
            return None
    return None


def _short(state: State) -> str:
    allowance = state.allowance
    least = min((one.limit for one in state.ready if one.limit is not None), default=None)
    wants = f"the next task may cost ${least:.2f}" if least is not None else "what is left has no limit"
    return f"{money(allowance.spent)} of {money(allowance.cap or 0)} are spent, and {wants}"


def _wind_up(state: State) -> tuple[Action, ...]:
    if state.running:
        if state.ending or state.why in _RUN_OUT:
            return ()
        return (EndAll(state.reason),)
    if state.give_up:
        return (Finish(BatchStatus.CANCELLED, state.why, state.reason),)
    return (Finish(BatchStatus.STOPPED, state.why, state.reason),)


def wake_at(state: State, now: float) -> float | None:
    """When `decide` must be called again though nothing happened, or None."""
    if state.phase is Phase.ENDED:
        return None
    if state.phase is Phase.STOPPING and state.running and (state.ending or state.why not in _RUN_OUT):
        return None
    times = [] if state.deadline == float("inf") else [state.deadline]
    if state.bounds.work is not None and _work(state, now + 1.0) > state.work:
        times.append(state.at + state.bounds.work - state.work)
    if state.phase is Phase.OPEN:
        state = _set(state, throttle=throttle.tick(state.throttle, now))
        if state.next_due is not None and not state.ready:
            times.append(state.next_due)
        if state.ready or state.throttle.closed_until:
            at = throttle.wake_at(state.throttle, now)
            if at is not None:
                times.append(at)
    return min(times, default=None)
