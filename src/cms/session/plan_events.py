"""What claude says of the plan's windows. Nothing is asked of anybody for it.

It says it in two ways (the first measured on 2.1.331, the second read from its own schema of answers):

- `rate_limit_event`, when a reply of the API carries the plan's headers: the part used, epoch seconds;
- the answer to `get_usage`, the meter: per cent, ISO 8601; null with an API key.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.connection import Answered
from cms.protocol.messages import Event, GetUsage, RateLimitEvent
from cms.session.plan_usage import CALLED, UsageWindow

#: Windows of one event, and letters of their names: both come from outside.
_MOST: Final = 20
_LONGEST: Final = 60


class _Window(msgspec.Struct, frozen=True):
    utilization: float | None = None
    resetsAt: float | None = None  # noqa: N815 - claude's name
    status: str = ""


class _Limit(msgspec.Struct, frozen=True):
    utilization: float | None = None
    resets_at: str | None = None
    display_name: str = ""


class _Limits(msgspec.Struct, frozen=True):
    five_hour: _Limit | None = None
    seven_day: _Limit | None = None
    seven_day_opus: _Limit | None = None
    seven_day_sonnet: _Limit | None = None
    model_scoped: tuple[_Limit, ...] = ()


class _Usage(msgspec.Struct, frozen=True):
    rate_limits: _Limits | None = None


def told_by(event: Event) -> tuple[UsageWindow, ...]:
    """What an event says of the plan's windows; nothing where that makes no sense."""
    try:
        match event:
            case RateLimitEvent():
                return tuple(_of_event(event))
            case Answered(ask=GetUsage(), error="", response=response) if b'"rate_limits":{' in bytes(
                response
            ):
                return tuple(_of_answer(msgspec.json.decode(response, type=_Usage)))
            case _:
                return ()
    except UNREADABLE:
        return ()


def _of_event(event: RateLimitEvent) -> Iterator[UsageWindow]:
    info = event.rate_limit_info
    said = info.rateLimitType or ""
    windows = msgspec.json.decode(info.unifiedWindows or b"{}", type=dict[str, _Window])
    for name, one in list(windows.items())[:_MOST]:
        status = one.status or (info.status if name == said else "")
        yield UsageWindow(name[:_LONGEST], one.utilization, one.resetsAt, status)
    if said and said not in windows:
        yield UsageWindow(said[:_LONGEST], info.utilization, info.resetsAt, info.status)


def _of_answer(usage: _Usage) -> Iterator[UsageWindow]:
    limits = usage.rate_limits or _Limits()
    found = [(name, one) for name in CALLED if (one := getattr(limits, name)) is not None]
    found += [(one.display_name, one) for one in limits.model_scoped[:_MOST] if one.display_name]
    for name, one in found:
        used = None if one.utilization is None else one.utilization / 100
        yield UsageWindow(name[:_LONGEST], used, _seconds(one.resets_at), heard_by="get_usage")


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None
