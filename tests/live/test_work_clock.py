"""The clock of the limits stands still while a session is frozen."""

from __future__ import annotations

from cms.live.work_clock import WorkClock


def test_a_clock_that_is_halted_loses_no_time() -> None:
    clock = WorkClock()
    assert clock.read(100.0) == 100.0
    clock.halt(110.0)
    clock.halt(120.0)
    assert (clock.halted, clock.read(1000.0)) == (True, 110.0)
    clock.go_on(1000.0)
    clock.go_on(2000.0)
    assert (clock.halted, clock.read(1005.0)) == (False, 115.0)
    # What it will show in 5 s of work is there in 5 s, what it showed 15 s of work ago was 15 s ago.
    assert clock.wall(120.0, 1005.0) == 1010.0
    assert clock.wall(100.0, 1005.0) == 990.0
