"""The weather, under arbitrary storms: what must hold whatever the API does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cms.batch import throttle
from cms.batch.throttle import COOL, LONGEST, SPREAD, backoff, initial
from sampling import sized

JITTER = st.floats(0, 0.999)


class Sky(RuleBasedStateMachine):
    """Tasks start whenever they may, and end in every way."""

    @initialize(cap=st.integers(1, 8), gap=st.sampled_from([0.0, 0.5]))
    def begin(self, cap: int, gap: float) -> None:
        self.now = 1000.0
        self.current = initial(cap, gap)
        self.running: set[int] = set()
        self.next = 0
        self.parked_until = 0.0
        self.rest_until = 0.0

    def settle(self) -> None:
        self.current = throttle.tick(self.current, self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 20.0, 100.0, 2000.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.settle()

    @rule()
    def start(self) -> None:
        self.settle()
        if not throttle.may_start(self.current, len(self.running), self.now):
            return
        assert self.now >= self.parked_until, "nothing starts before a known reset"
        assert self.now >= self.rest_until, "nothing starts while the batch rests"
        assert self.now >= self.current.last_start + self.current.gap
        assert len(self.running) < self.current.cap
        assert self.current.canary is None, "a canary flies alone"
        probing = self.current.probing
        self.next += 1
        self.running.add(self.next)
        self.current = throttle.started(self.current, self.next, self.now)
        assert (self.current.canary == self.next) == probing

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
            self.current = throttle.retried(self.current, self.now)
            return
        if how == "answered":
            self.current = throttle.answered(self.current, task, self.now)
            return
        self.running.discard(task)
        if how == "good":
            self.current = throttle.succeeded(self.current, task, self.now)
        elif how == "left":
            self.current = throttle.left(
                self.current,
                task,
            )
        elif how == "overload":
            was = self.current.canary == task
            self.current = throttle.troubled(self.current, task, "overload", self.now, jitter, why="529")
            assert not was or self.current.closed_until > self.now, "after a canary's trouble comes a rest"
            if self.current.closed_until:
                self.rest_until = self.current.closed_until
                assert self.current.parked or self.rest_until <= self.now + LONGEST
        else:
            reset = self.now + data.draw(st.sampled_from([5.0, 300.0]))
            self.current = throttle.troubled(
                self.current, task, "limit", self.now, jitter, resets_at=reset, why="429"
            )
            assert self.current.parked
            assert self.current.closed_until >= reset - 1e-6 or self.current.closed_until + SPREAD >= reset
            self.parked_until = max(self.parked_until, min(reset, self.current.closed_until))

    @invariant()
    def window_is_within_bounds(self) -> None:
        if hasattr(self, "sky"):
            assert 1.0 <= self.current.window <= self.current.cap
            assert 1.0 <= self.current.target <= self.current.cap

    @invariant()
    def it_never_sleeps_for_ever(self) -> None:
        """With nothing running, either a task may start now or there is a time at which to look again."""
        if hasattr(self, "sky") and not self.running and self.current.canary is None:
            current = throttle.tick(self.current, self.now)
            if not throttle.may_start(current, 0, self.now):
                at = throttle.wake_at(current, self.now)
                assert at is not None
                assert at > self.now


TestSky = Sky.TestCase
TestSky.settings = settings(max_examples=sized(40), stateful_step_count=40, deadline=None)


def test_a_storm_halves_once_and_comes_back_by_small_steps() -> None:
    current = initial(16)
    for task in range(4):
        current = throttle.troubled(current, task, "overload", 100.0 + task, 0.5)
    assert current.window == 8, "those who started together fail together: one cut"
    for task in range(8):
        current = throttle.succeeded(current, task, 110.0)
    assert current.window == pytest.approx(9, abs=0.1)
    current = throttle.tick(throttle.tick(current, 100 + COOL), 100 + 2 * COOL)
    assert current.window == pytest.approx(11, abs=0.1)


def test_a_reset_a_canary_a_ramp() -> None:
    current = initial(8)
    current = throttle.troubled(current, 1, "limit", 0.0, 0.0, resets_at=3600.0, why="five_hour")
    assert not throttle.may_start(throttle.tick(current, 3599.0), 0, 3599.0)
    current = throttle.tick(current, 3600.0)
    assert throttle.may_start(current, 0, 3600.0)
    current = throttle.started(current, 2, 3600.0)
    assert not throttle.may_start(current, 0, 3700.0), "only the canary"
    current = throttle.answered(current, 2, 3700.0)
    assert not throttle.may_start(current, 1, 3700.0)
    started = []
    for task in range(3, 7):
        current = throttle.succeeded(current, task, 3701.0)
        started.append(int(current.window))
    assert started == [2, 3, 4, 4], "by one a success up to half of what it was, then slowly"


def test_later_words_on_the_same_limit_do_not_move_it_about() -> None:
    current = throttle.troubled(initial(4), 1, "limit", 0.0, 0.5, resets_at=100.0)
    again = throttle.troubled(current, 2, "limit", 1.0, 0.9, resets_at=100.0)
    assert again.closed_until == current.closed_until
    assert throttle.troubled(again, 3, "limit", 2.0, 0.0, resets_at=500.0).closed_until == 500.0


@given(st.integers(1, 100), JITTER)
def test_backoff_doubles_within_bounds(tries: int, jitter: float) -> None:
    wait = backoff(tries, jitter)
    assert 2.5 <= wait <= LONGEST
    assert backoff(tries + 1, jitter) >= wait
