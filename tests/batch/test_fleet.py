"""The benchmark of a large fleet, small: all that the head decides, while nodes are killed and come back."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.fleet import CAP, Fleet, run

from cms.batch.model import TaskStatus


@pytest.mark.parametrize("nodes", [3, 40])
def test_a_fleet_whose_nodes_are_killed(nodes: int) -> None:
    """(That nothing is spent past what is promised, nor submitted past the window, it looks itself.)"""
    fleet = Fleet(nodes, 2, seed=1, mtbf=3600.0, overload=0.01)
    ended = run(1000, fleet, cap=1000 * CAP)
    assert fleet.killed
    assert ended[TaskStatus.LOST]
    assert ended.keys() <= {TaskStatus.COMPLETED, TaskStatus.COST_EXCEEDED, TaskStatus.LOST}
    assert ended.total() == 1000, "none is forgotten, and none is over twice"


def test_a_cap_that_is_met_ends_the_batch() -> None:
    ended = run(1000, Fleet(10, 2, seed=1, mtbf=36000.0, overload=0.0), cap=30.0)
    assert 0 < ended.total() < 1000
    assert Counter(ended)[TaskStatus.COMPLETED]
