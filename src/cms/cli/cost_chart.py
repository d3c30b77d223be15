"""What was spent over time as columns, for a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Literal

from cms.cli.terminal import Style
from cms.units import money

_HEIGHT = 6  # lines
_WIDEST = 4  # columns of a bar and the gap behind it
_LEAST = 3  # bars that are worth a chart
_BLOCKS = " ▁▂▃▄▅▆▇█"


def with_gaps(keys: Sequence[str], by: Literal["day", "week"]) -> list[str]:
    """The days or ISO weeks from the first to the last of those, which are in order."""
    if not keys:
        return []
    first, last = (date.fromisoformat(f"{key}-1" if by == "week" else key) for key in (keys[0], keys[-1]))
    step = 7 if by == "week" else 1
    days = (first + timedelta(days=n) for n in range(0, (last - first).days + 1, step))
    return [f"{day:%G-W%V}" if by == "week" else day.isoformat() for day in days]


def columns(spent: Mapping[str, float], by: Literal["day", "week"], style: Style) -> list[str]:
    """A column for each day or week, those without spending too, as many of the newest as there is room for.

    Nothing in a pipe, where there is no room to know of, and where there are too few.

    Args:
        spent: US dollars by day or ISO week, in order.
    """
    shown = with_gaps(list(spent), by)
    most = max(spent.values(), default=0.0)
    top = money(most)
    room = (style.width or 0) - len(top) - 4
    if style.width is None or len(shown) < _LEAST or room < _LEAST or most <= 0:
        return []
    shown = shown[-room:]
    wide = max(1, min(_WIDEST, room // len(shown)))
    bar = max(1, wide - 1)
    lines = []
    for line in range(_HEIGHT - 1, -1, -1):
        cells = [_cell(spent.get(key, 0.0) / most, line, style) * bar for key in shown]
        label = top if line == _HEIGHT - 1 else money(0.0) if not line else ""
        lines.append(f"{label:>{len(top)}} | {(' ' * (wide - bar)).join(cells)}".rstrip())
    first, last = shown[0], shown[-1]
    gap = max(2, wide * len(shown) - len(first) - len(last))
    if len(first) + 2 + len(last) > room:
        return lines
    return [*lines, f"{'':>{len(top)}}   {first}{' ' * gap}{last}".rstrip()]


def _cell(part: float, line: int, style: Style) -> str:
    """One letter of a column that is `part` of the highest, on a line counted from the bottom."""
    eighths = max(1, round(part * _HEIGHT * 8)) if part > 0 else 0
    filled = min(8, max(0, eighths - line * 8))
    if style.icons == "unicode":
        return _BLOCKS[filled]
    return "#" if filled >= 4 or (filled and not line) else " "
