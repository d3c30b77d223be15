"""How much of a subscription's windows is used: values (`plan_events` reads what claude says). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from cms.session.model import Record

HeardBy = Literal["rate_limit_event", "get_usage"]

#: The plan's windows that are known, as people call them; others keep their names.
CALLED: Final = {
    "five_hour": "5 hours",
    "seven_day": "7 days",
    "seven_day_opus": "7 days, opus",
    "seven_day_sonnet": "7 days, sonnet",
}


class UsageWindow(Record, frozen=True):
    """One window of the plan.

    Attributes:
        name: claude's: `five_hour`, `seven_day` and others.
        used: the part that is used, 0 to 1; None: claude did not tell it.
        resets_at: seconds since the epoch.
        status: claude's word where it said one: `allowed`, `allowed_warning`, `rejected`.
        heard: when, in seconds since the epoch; 0 before that is known.
        heard_by: in which way.
        heard_from: the session whose claude told it.
    """

    name: str
    used: float | None
    resets_at: float | None
    status: str = ""
    heard: float = 0.0
    heard_by: HeardBy = "rate_limit_event"
    heard_from: str = ""

    @property
    def called(self) -> str:
        """Its name for people."""
        return CALLED.get(self.name, self.name.replace("_", " "))

    def over(self, now: float) -> bool:
        """Whether it has begun anew since it was told, so that nobody knows how much is used."""
        return self.resets_at is not None and self.resets_at <= now


def fullest(windows: Iterable[UsageWindow], now: float) -> UsageWindow | None:
    """The window of which the least is left, of those that still run."""
    running = [one for one in windows if one.used is not None and not one.over(now)]
    return max(running, key=lambda one: one.used or 0.0, default=None)
