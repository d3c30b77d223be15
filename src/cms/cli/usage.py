"""`cms usage`: how much of the subscription's windows is used, as claude told it last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from cms.cli import io, render
from cms.cli.flags import JsonFlag
from cms.cli.terminal import Style
from cms.errors import ExitCode
from cms.json_output import json_object
from cms.rpc.overview import USAGE_GET
from cms.rpc.verbs import Nothing
from cms.session.plan_usage import UsageWindow, fullest
from cms.units import ago, clock, short_span

_BAR: Final = 20
_HEADS: Final = ("WINDOW", "USED", "RESETS", "HEARD", "FROM", "BY", "")


def usage(*, json: JsonFlag = False) -> int:
    """Show how much of your plan's limits is used.

    Claude reports this to sessions that run on a subscription; an API key has no such limits. Nobody is asked
    for it: this is what was heard last, by which session, and when.

    Examples::

        cms usage
        cms usage --json
    """
    with io.daemon() as client:
        found = client.call(USAGE_GET, Nothing())
    if json:
        windows = [json_object(one, over=one.over(found.at)) for one in found.windows]
        io.show_json(json_object(windows=windows, at=found.at))
    else:
        io.show_lines(lines(found.windows, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def lines(windows: Sequence[UsageWindow], now: float, style: Style) -> list[str]:
    """The table."""
    if not windows:
        return ["no plan limits reported yet; claude reports them to sessions that run on a subscription"]
    return render.table([_HEADS, *(_row(one, now, style) for one in windows)], style)


def _row(one: UsageWindow, now: float, style: Style) -> tuple[str, ...]:
    return (
        render.one_line(one.called, style),
        _used(one, now),
        "" if one.resets_at is None else _when(one.resets_at, now, style),
        ago(one.heard, now),
        render.one_line(one.heard_from, style),
        one.heard_by,
        render.bar(0 if one.over(now) else one.used or 0, 1, _BAR, style),
    )


def _used(one: UsageWindow, now: float) -> str:
    if one.over(now):
        return "not known"  # it has begun anew since
    told = "not told" if one.used is None else f"{one.used:.0%}"
    return f"{told}, full" if one.status == "rejected" else told


def _when(at: float, now: float, style: Style) -> str:
    """`14:05`, or with its date if that is not today's; `in 42m05` behind it, while that is to come."""
    shown, today = clock(at, style.zone)[:-3], clock(now, style.zone)[:10]
    shown = shown.removeprefix(today).strip()
    if at <= now:
        return f"{shown} (was)"
    return f"{shown} (in {short_span(at - now)})"


def brief(windows: Sequence[UsageWindow], now: float, style: Style) -> str:
    """The fullest window that runs, beside other figures: `92% of 5 hours`; "" where none is known."""
    one = fullest(windows, now)
    return "" if one is None else f"{_used(one, now)} of {render.one_line(one.called, style)}"


def plan_line(windows: Sequence[UsageWindow], now: float, style: Style) -> str:
    """All windows that run, in a line: `5 hours 92% until 14:05 (in 42m05), 7 days 30% ...; heard 3m ago`.

    "" where nothing was heard, or all have begun anew since.
    """
    running = [one for one in windows if not one.over(now)]
    said = ", ".join(
        f"{render.one_line(one.called, style)} {_used(one, now)}"
        + ("" if one.resets_at is None else f" until {_when(one.resets_at, now, style)}")
        for one in running
    )
    return f"{said}; heard {ago(max(one.heard for one in running), now)}" if running else ""
