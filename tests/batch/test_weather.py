"""The weather, under arbitrary storms: what must hold whatever the API does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cms.batch import weather
from cms.batch.weather import COOL, LONGEST, SPREAD, backoff, fair

JITTER = st.floats(0, 0.999)


class Sky(RuleBasedStateMachine):
    """Tasks start whenever they may, and end in every way."""

    @initialize(cap=st.integers(1, 8), gap=st.sampled_from([0.0, 0.5]))
    def begin(self, cap: int, gap: float) -> None:
        self.now = 1000.0
        self.sky = fair(cap, gap)
        self.running: set[int] = set()
        self.next = 0
        self.parked_until = 0.0
        self.rest_until = 0.0

    def settle(self) -> None:
        self.sky = weather.tick(self.sky, self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0, 100.0, 2000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    @rule()
    def start(self) -> None:
        self.settle()
        if not weather.may_start(self.sky, len(self.running), self.now):
            return
        assert self.now >= self.parked_until, "nothing starts before a known reset"
        assert self.now >= self.rest_until, "nothing starts while the batch rests"
        assert self.now >= self.sky.last_start + self.sky.gap
        assert len(self.running) < self.sky.cap
        assert self.sky.canary is None, "a canary flies alone"
        probing = self.sky.probing
        self.next += 1
        self.running.add(self.next)
        self.sky = weather.started(self.sky, self.next, self.now)
        assert (self.sky.canary == self.next) == probing

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(),
        how=st.sampled_from(["good", "overload", "limit", "left", "squall", "answered"]),
        jitter=JITTER,
    )
    def end(self, data: st.DataObject, how: str, jitter: float) -> None:
        task = data.draw(st.sampled_from(sorted(self.running)))
        self.settle()
        if how == "squall":
            self.sky = weather.squall(self.sky, self.now)
            return
        if how == "answered":
            self.sky = weather.answered(self.sky, task, self.now)
            return
        self.running.discard(task)
        if how == "good":
            self.sky = weather.succeeded(self.sky, task, self.now)
        elif how == "left":
            self.sky = weather.left(
                self.sky,
                task,
            )
        elif how == "overload":
            was = self.sky.canary == task
            self.sky = weather.troubled(self.sky, task, "overload", self.now, jitter, why="529")
            assert not was or self.sky.closed_until > self.now, "after a canary's trouble comes a rest"
            if self.sky.closed_until:
                self.rest_until = self.sky.closed_until
                assert self.sky.parked or self.rest_until <= self.now + LONGEST
        else:
            reset = self.now + data.draw(st.sampled_from([5.0, 300.0]))
            self.sky = weather.troubled(self.sky, task, "limit", self.now, jitter, resets_at=reset, why="429")
            assert self.sky.parked
            assert self.sky.closed_until >= reset - 1e-6 or self.sky.closed_until + SPREAD >= reset
            self.parked_until = max(self.parked_until, min(reset, self.sky.closed_until))

    @invariant()
    def window_is_within_bounds(self) -> None:
        if hasattr(self, "sky"):
            assert 1.0 <= self.sky.window <= self.sky.cap
            assert 1.0 <= self.sky.target <= self.sky.cap

    @invariant()
    def it_never_sleeps_for_ever(self) -> None:
        """With nothing running, either a task may start now or there is a time at which to look again."""
        if hasattr(self, "sky") and not self.running and self.sky.canary is None:
            sky = weather.tick(self.sky, self.now)
            if not weather.may_start(sky, 0, self.now):
                at = weather.wake_at(sky, self.now)
                assert at is not None
                assert at > self.now


TestSky = Sky.TestCase
TestSky.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_storm_halves_once_and_comes_back_by_small_steps() -> None:
    sky = fair(16)
    for task in range(4):
        sky = weather.troubled(sky, task, "overload", 100.0 + task, 0.5)
    assert sky.window == 8, "those who started together fail together: one cut"
    for task in range(8):
        sky = weather.succeeded(sky, task, 110.0)
    assert sky.window == pytest.approx(9, abs=0.1)
    sky = weather.tick(weather.tick(sky, 100 + COOL), 100 + 2 * COOL)
    assert sky.window == pytest.approx(11, abs=0.1)


def test_a_reset_a_canary_a_ramp() -> None:
    sky = fair(8)
    sky = weather.troubled(sky, 1, "limit", 0.0, 0.0, resets_at=3600.0, why="five_hour")
    assert not weather.may_start(weather.tick(sky, 3599.0), 0, 3599.0)
    sky = weather.tick(sky, 3600.0)
    assert weather.may_start(sky, 0, 3600.0)
    sky = weather.started(sky, 2, 3600.0)
    assert not weather.may_start(sky, 0, 3700.0), "only the canary"
    sky = weather.answered(sky, 2, 3700.0)
    assert not weather.may_start(sky, 1, 3700.0)
    started = []
    for task in range(3, 7):
        sky = weather.succeeded(sky, task, 3701.0)
        started.append(int(sky.window))
    assert started == [2, 3, 4, 4], "by one a success up to half of what it was, then slowly"


def test_later_words_on_the_same_limit_do_not_move_it_about() -> None:
    sky = weather.troubled(fair(4), 1, "limit", 0.0, 0.5, resets_at=100.0)
    again = weather.troubled(sky, 2, "limit", 1.0, 0.9, resets_at=100.0)
    assert again.closed_until == sky.closed_until
    assert weather.troubled(again, 3, "limit", 2.0, 0.0, resets_at=500.0).closed_until == 500.0


@given(st.integers(1, 100), JITTER)
def test_backoff_doubles_within_bounds(tries: int, jitter: float) -> None:
    wait = backoff(tries, jitter)
    assert 2.5 <= wait <= LONGEST
    assert backoff(tries + 1, jitter) >= wait
