"""pass@k and its interval against what they mean, and the choice among attempts."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.batch.model import Task, TaskOptions, TaskResult, TaskStatus
from cms.batch.scores import COUNTED, NOTHING_SAID, Tally, pass_at, pick, scores, wilson
from cms.session.model import SessionOptions


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_all_choices_of_k_that_hold_a_pass(
    counted: int, data: st.DataObject
) -> None:
    passed = data.draw(st.integers(0, counted))
    k = data.draw(st.integers(1, counted))
    ends = [True] * passed + [False] * (counted - passed)
    choices = list(itertools.combinations(ends, k))
    assert pass_at(k, counted, passed) == pytest.approx(sum(map(any, choices)) / len(choices))


@given(st.floats(0, 1), st.integers(0, 5000))
def test_the_interval_holds_the_rate_and_shrinks(rate: float, trials: int) -> None:
    low, high = wilson(rate, trials)
    assert 0 <= low <= rate <= high <= 1
    fewer = wilson(rate, trials // 4)
    assert high - low <= fewer[1] - fewer[0] + 1e-12


def test_wilson_as_in_the_books() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson(0.0, 10)
    assert (low, high) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    for truth in (0.05, 0.3, 0.5, 0.9):
        covered = 0.0
        for seen in range(201):
            low, high = wilson(seen / 200, 200)
            chance = math.comb(200, seen) * truth**seen * (1 - truth) ** (200 - seen)
            covered += chance * (low <= truth <= high)
        assert covered > 0.93


def test_a_cell_is_scored_over_its_tasks() -> None:
    tallies = [
        Tally("a", 2, 2, 10, 20, 1.0),
        Tally("a", 2, 1, 10, 20, 1.0),
        Tally("a", 2, 0, 20, 40, 2.0),
        Tally("a", 1, 1, 5, 10, 0.5),  # the other attempt says nothing of the work
        Tally("a", 0, 0, 3, 6, 0.0),
        Tally("b", 0, 0, 4, 8, 0.0),
    ]
    first, second = scores(tallies, 2)
    assert (first.tasks, first.attempts, first.counted, first.passed, first.cost) == (48, 96, 85, 35, 4.5)
    one, two = first.rates
    assert (one.k, one.tasks, two.k, two.tasks) == (1, 45, 2, 40)
    assert one.rate == pytest.approx((10 + 5 + 5) / 45)
    assert two.rate == pytest.approx(20 / 40)
    assert (second.tasks, second.rates) == (4, ())


def test_every_end_counts_or_says_nothing() -> None:
    assert {*COUNTED, *NOTHING_SAID, TaskStatus.WAITING, TaskStatus.RUNNING} == set(TaskStatus)


def attempt(seq: int, answer: str, cost: float, status: TaskStatus = TaskStatus.COMPLETED) -> Task:
    options = TaskOptions(SessionOptions(f"a.{seq}", "/w"), "p")
    return Task(seq, f"a.{seq}", 1, status, options, cost=cost, result=TaskResult(response=answer))


def test_which_attempt_is_chosen() -> None:
    failed = TaskStatus.VERIFICATION_FAILED
    several = [
        attempt(0, "9", 0.1, failed),
        attempt(1, "7", 0.4),
        attempt(2, "Forty  two", 0.5),
        attempt(3, "forty\ntwo ", 0.2),
        attempt(4, "9", 0.3, failed),
    ]
    by_check, by_vote = pick(several, "verify"), pick(several, "vote")
    assert by_check is several[3], "the cheapest that passed"
    assert by_vote is several[2], "the first of the most, and what failed has no vote"
    assert pick(several[:1], "verify") is pick([], "vote") is None
