"""What the API bears: how many tasks may run at once, when to rest, how to come back.

The rules, in prose:

- A window says how many may run. It begins at the cap. Trouble (429, 529, 5xx) halves it, at most once in
  `COOL` seconds, because the sessions that started together also fail together. Each success adds 1/window,
  each calm `COOL` adds one: additive increase, multiplicative decrease.
- One session's trouble is its own matter: it waits out its own back-off (`retry`). When troubles follow each
  other without a success between them (`STORM` of them, or as many as may run), nothing is started until a
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
STORM: Final = 5
BASE: Final = 5.0
LONGEST: Final = 900.0
#: Seconds after a limit's reset over which the canaries of many machines spread; less after a short wait.
SPREAD: Final = 20.0

#: `overload`: 429 without a known end, 529, 5xx. `limit`: a usage limit with a known end. `auth`: 401, 403.
Trouble = Literal["overload", "limit", "auth"]


class Weather(msgspec.Struct, frozen=True):
    """How it stands.

    Attributes:
        cap: never more than this at once.
        window: how many may run now, at least one.
        target: up to here the window grows by one a success; above it by 1/window.
        closed_until: nothing starts before; 0 if open.
        parked: it is closed for a limit with a known end, not for a storm.
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


def fair(cap: int, gap: float = 0.0) -> Weather:
    """As a batch begins."""
    return Weather(cap=cap, gap=gap, window=float(cap), target=float(cap))


def backoff(tries: int, jitter: float, *, base: float = BASE, longest: float = LONGEST) -> float:
    """Seconds to wait before try number `tries` (from 1 on): doubling, the upper half of it by chance."""
    whole = min(longest, base * 2.0 ** min(max(tries, 1) - 1, 60))
    return float(whole * (0.5 + 0.5 * jitter))


def tick(weather: Weather, now: float) -> Weather:
    """The passing of time: a rest that is over becomes a search, calm becomes room."""
    if weather.closed_until and now >= weather.closed_until:
        weather = _set(weather, closed_until=0.0, parked=False, probing=True, canary=None)
    if weather.closed_until or weather.probing or weather.canary is not None:
        return weather
    # The same sum as in `wake_at`: with a difference, rounding could make the two disagree for ever.
    if now >= max(weather.last_cut, weather.last_calm) + COOL and weather.window < weather.cap:
        grown = min(float(weather.cap), weather.window + 1)
        return _set(weather, window=grown, target=max(weather.target, grown), last_calm=now)
    return weather


def may_start(weather: Weather, running: int, now: float) -> bool:
    """Whether one more task may start now, with so many running. After `tick`."""
    if weather.closed_until or weather.canary is not None or now < weather.last_start + weather.gap:
        return False
    if weather.probing:
        # Those that outlived the storm are no obstacle: they do nothing new to the API.
        return running < weather.cap
    return running < int(weather.window)


def started(weather: Weather, task: int, now: float) -> Weather:
    """A task was started; while probing it is the canary."""
    weather = _set(weather, last_start=now)
    return _set(weather, probing=False, canary=task) if weather.probing else weather


def answered(weather: Weather, task: int, now: float) -> Weather:
    """The API has answered a task."""
    weather = _set(weather, troubles=0)
    if weather.canary == task:
        return _set(weather, canary=None, window=1.0, last_calm=now, why="")
    return weather


def succeeded(weather: Weather, task: int, now: float) -> Weather:
    """A task has ended without trouble of the API's."""
    weather = answered(weather, task, now)
    if weather.closed_until or weather.probing or weather.canary is not None:
        return weather
    step = 1.0 if weather.window < weather.target else 1.0 / weather.window
    return _set(weather, window=min(float(weather.cap), weather.window + step))


def left(weather: Weather, task: int) -> Weather:
    """A task has ended without a word from the API: if it was the canary, another one flies."""
    return _set(weather, canary=None, probing=True) if weather.canary == task else weather


def troubled(
    weather: Weather,
    task: int,
    trouble: Trouble,
    now: float,
    jitter: float,
    *,
    resets_at: float | None = None,
    why: str = "",
) -> Weather:
    """A task met trouble. (`auth` is not weather: the scheduler stops for it.)"""
    was_canary = weather.canary == task
    weather = _set(weather, troubles=weather.troubles + 1)
    if now >= weather.last_cut + COOL:
        half = max(1.0, weather.window / 2)
        weather = _set(weather, window=half, target=half, last_cut=now)
    if trouble == "limit" and resets_at is not None and resets_at > now:
        until = resets_at + min(SPREAD, 0.1 * (resets_at - now)) * jitter
        # Several sessions meet the same limit; the last word on its end counts, and never shortens a rest.
        if not weather.parked or until > weather.closed_until + SPREAD:
            weather = _set(weather, closed_until=max(until, weather.closed_until))
        return _set(weather, parked=True, why=why, probing=False, canary=None)
    storm = weather.troubles >= min(STORM, max(2, int(weather.window)))
    if weather.closed_until or not (was_canary or storm):
        return weather
    rest = backoff(max(weather.troubles - STORM + 2, 1), jitter)
    return _set(weather, closed_until=now + rest, why=why, probing=False, canary=None)


def squall(weather: Weather, now: float) -> Weather:
    """A session that runs on has met trouble, which its claude retries by itself: room for fewer."""
    if now < weather.last_cut + COOL:
        return weather
    half = max(1.0, weather.window / 2)
    return _set(weather, window=half, target=half, last_cut=now)


def wake_at(weather: Weather, now: float) -> float | None:
    """When `may_start` may say otherwise without anything happening, or None."""
    if weather.closed_until:
        return weather.closed_until
    times = []
    if now < weather.last_start + weather.gap:
        times.append(weather.last_start + weather.gap)
    if not weather.probing and weather.canary is None and weather.window < weather.cap:
        times.append(max(weather.last_cut, weather.last_calm, now - COOL) + COOL)
    return min(times, default=None)
