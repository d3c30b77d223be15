"""What the API bears: how many tasks may run at once, when to rest, how to come back.

The rules, in prose:

- A window says how many may run. It begins at the cap. Trouble (429, 529, 5xx) halves it, at most once in
  `COOL` seconds, because the sessions that started together also fail together. Each success adds 1/window,
  each calm `COOL` adds one: additive increase, multiplicative decrease.
- One session's trouble is its own matter: it waits out its own back-off (`retry`). When troubles follow each
  other without a success between them (`TROUBLES` of them, or as many as may run), nothing is started until a
  back-off of the whole batch is over: doubling from `BASE` to `LONGEST`, with jitter.
- A usage limit whose end is known parks the batch until then, plus a little jitter.
- After any such rest one canary is started, alone. Nothing else is until the API has answered it. Then the
  window is one, and grows by one for each success up to where it was halved to (slow start), then slowly.
- Two starts are `gap` seconds apart.

Pure. Chance comes in as `jitter`, a number from 0 up to 1 that the caller has drawn.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

COOL: Final = 30.0
#: Of the cap, what each calm `COOL` adds, if that is more than one: a fleet's window would take days.
GROWTH: Final = 1 / 64
TROUBLES: Final = 5
BASE: Final = 5.0
LONGEST: Final = 900.0
#: Seconds after a limit's reset over which the canaries of many machines spread; less after a short wait.
SPREAD: Final = 20.0

#: `overload`: 429 without a known end, 529, 5xx. `limit`: a usage limit with a known end. `auth`: 401, 403.
Trouble = Literal["overload", "limit", "auth"]


class Throttle(msgspec.Struct, frozen=True):
    """How it stands.

    Attributes:
        cap: never more than this at once.
        window: how many may run now, at least one.
        target: up to here the window grows by one a success; above it by 1/window.
        closed_until: nothing starts before; 0 if open.
        parked: it is closed for a limit with a known end, not for trouble.
        why: the trouble that closed it, for a person.
        probing: the next start is a canary's.
        canary: the task that flies ahead now.
        troubles: since the last success.
    """

    cap: int
    gap: float = 0.0
    window: float = 1.0
    target: float = 1.0
    closed_until: float = 0.0
    parked: bool = False
    why: str = ""
    probing: bool = False
    canary: int | None = None
    troubles: int = 0
    last_cut: float = float("-inf")
    last_calm: float = float("-inf")
    last_start: float = float("-inf")


_set = msgspec.structs.replace


def initial(cap: int, gap: float = 0.0) -> Throttle:
    """As a batch begins."""
    return Throttle(cap=cap, gap=gap, window=float(cap), target=float(cap))


def shifted(throttle: Throttle, by: float) -> Throttle:
    """As it is when the clock on the wall has jumped: its spans go on, the end of a usage limit stays."""
    rests = throttle.closed_until and not throttle.parked
    return _set(
        throttle,
        closed_until=throttle.closed_until + by if rests else throttle.closed_until,
        last_cut=throttle.last_cut + by,
        last_calm=throttle.last_calm + by,
        last_start=throttle.last_start + by,
    )


def resized(throttle: Throttle, cap: int) -> Throttle:
    """There is room for more, or fewer, than there was. What trouble has narrowed stays as narrow."""
    if throttle.window >= throttle.cap:
        return _set(throttle, cap=cap, window=float(cap), target=float(cap))
    return _set(
        throttle, cap=cap, window=min(throttle.window, float(cap)), target=min(throttle.target, float(cap))
    )


def backoff(tries: int, jitter: float, *, base: float = BASE, longest: float = LONGEST) -> float:
    """Seconds to wait before try number `tries` (from 1 on): doubling, the upper half of it by chance."""
    whole = min(longest, base * 2.0 ** min(max(tries, 1) - 1, 60))
    return float(whole * (0.5 + 0.5 * jitter))


def tick(throttle: Throttle, now: float) -> Throttle:
    """The passing of time: a rest that is over becomes a search, calm becomes room."""
    if throttle.closed_until and now >= throttle.closed_until:
        throttle = _set(throttle, closed_until=0.0, parked=False, probing=True, canary=None)
    if throttle.closed_until or throttle.probing or throttle.canary is not None:
        return throttle
    # The same sum as in `wake_at`: with a difference, rounding could make the two disagree for ever.
    if now >= max(throttle.last_cut, throttle.last_calm) + COOL and throttle.window < throttle.cap:
        grown = min(float(throttle.cap), throttle.window + max(1.0, throttle.cap * GROWTH))
        return _set(throttle, window=grown, target=max(throttle.target, grown), last_calm=now)
    return throttle


def may_start(throttle: Throttle, running: int, now: float) -> bool:
    """Whether one more task may start now, with so many running. After `tick`."""
    if throttle.closed_until or throttle.canary is not None or now < throttle.last_start + throttle.gap:
        return False
    if throttle.probing:
        # Those that outlived the trouble are no obstacle: they do nothing new to the API.
        return running < throttle.cap
    return running < int(throttle.window)


def started(throttle: Throttle, task: int, now: float) -> Throttle:
    """A task was started; while probing it is the canary."""
    throttle = _set(throttle, last_start=now)
    return _set(throttle, probing=False, canary=task) if throttle.probing else throttle


def answered(throttle: Throttle, task: int, now: float) -> Throttle:
    """The API has answered a task."""
    throttle = _set(throttle, troubles=0)
    if throttle.canary == task:
        return _set(throttle, canary=None, window=1.0, last_calm=now, why="")
    return throttle


def succeeded(throttle: Throttle, task: int, now: float) -> Throttle:
    """A task has ended without trouble of the API's."""
    throttle = answered(throttle, task, now)
    if throttle.closed_until or throttle.probing or throttle.canary is not None:
        return throttle
    step = 1.0 if throttle.window < throttle.target else 1.0 / throttle.window
    return _set(throttle, window=min(float(throttle.cap), throttle.window + step))


def left(throttle: Throttle, task: int) -> Throttle:
    """A task has ended without a word from the API: if it was the canary, another one flies."""
    return _set(throttle, canary=None, probing=True) if throttle.canary == task else throttle


def troubled(
    throttle: Throttle,
    task: int,
    trouble: Trouble,
    now: float,
    jitter: float,
    *,
    resets_at: float | None = None,
    why: str = "",
) -> Throttle:
    """A task met trouble. (`auth` is no matter of the throttle: the scheduler stops for it.)"""
    was_canary = throttle.canary == task
    throttle = _set(throttle, troubles=throttle.troubles + 1)
    if now >= throttle.last_cut + COOL:
        half = max(1.0, throttle.window / 2)
        throttle = _set(throttle, window=half, target=half, last_cut=now)
    if trouble == "limit" and resets_at is not None and resets_at > now:
        until = resets_at + min(SPREAD, 0.1 * (resets_at - now)) * jitter
        # Several sessions meet the same limit; the last word on its end counts, and never shortens a rest.
        if not throttle.parked or until > throttle.closed_until + SPREAD:
            throttle = _set(throttle, closed_until=max(until, throttle.closed_until))
        return _set(throttle, parked=True, why=why, probing=False, canary=None)
    lasting = throttle.troubles >= min(TROUBLES, max(2, int(throttle.window)))
    if throttle.closed_until or not (was_canary or lasting):
        return throttle
    rest = backoff(max(throttle.troubles - TROUBLES + 2, 1), jitter)
    return _set(throttle, closed_until=now + rest, why=why, probing=False, canary=None)


def retried(throttle: Throttle, now: float) -> Throttle:
    """A session that runs on has met trouble, which its claude retries by itself: room for fewer."""
    if now < throttle.last_cut + COOL:
        return throttle
    half = max(1.0, throttle.window / 2)
    return _set(throttle, window=half, target=half, last_cut=now)


def wake_at(throttle: Throttle, now: float) -> float | None:
    """When `may_start` may say otherwise without anything happening, or None."""
    if throttle.closed_until:
        return throttle.closed_until
    times = []
    if now < throttle.last_start + throttle.gap:
        times.append(throttle.last_start + throttle.gap)
    if not throttle.probing and throttle.canary is None and throttle.window < throttle.cap:
        times.append(max(throttle.last_cut, throttle.last_calm, now - COOL) + COOL)
    return min(times, default=None)
