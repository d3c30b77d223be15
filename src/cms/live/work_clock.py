"""The clock that limits are measured with: it stands still while a session is frozen."""

from __future__ import annotations


class WorkClock:
    """Seconds like those of the clock on the wall, less the time that was spent frozen.

    So a session that rests for a night has used nothing of its `max_time`, is not silent, and owes no answer
    to the meter; what was due in a minute is due in a minute once it goes on.
    """

    def __init__(self) -> None:
        self._lost = 0.0
        self._since: float | None = None

    @property
    def halted(self) -> bool:
        """Whether it stands still."""
        return self._since is not None

    def read(self, now: float) -> float:
        """What it shows when the clock on the wall shows `now`."""
        return (now if self._since is None else self._since) - self._lost

    def halt(self, now: float) -> None:
        """Stand still from now on. May be said twice."""
        if self._since is None:
            self._since = now

    def go_on(self, now: float) -> None:
        """Run again, from where it stood."""
        if self._since is not None:
            self._lost += now - self._since
            self._since = None

    def wall(self, reading: float, now: float) -> float:
        """When (now, or later) it will have shown, or shows, that reading, if it is not halted again."""
        return now + reading - self.read(now)
