from __future__ import annotations

import heapq

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cms.batch.forecast import (
    ENOUGH,
    SESSION_BYTES,
    Guess,
    Kind,
    Load,
    Sample,
    Terms,
    View,
    default_parallel,
    forecast,
    guess,
    time_left,
)
from cms.batch.graph import Graph

EDIT = Kind("opus", "edit", "/a")


def terms(**changes: float) -> Terms:
    base = {"parallel": 4, "asked_parallel": None, "max_cost": None, "max_time": None, "memory": 8 * 2**30}
    return Terms(**{**base, **changes})  # type: ignore[arg-type] # a test's shorthand


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=30), st.integers(1, 6), st.data())
def test_the_time_lies_between_the_bounds(times: list[float], parallel: int, data: st.DataObject) -> None:
    """Against a simulated run of any graph, by workers who never idle."""
    count = len(times)
    edges = data.draw(
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), unique=True, max_size=30)
    )
    edges = [(a, b) for a, b in edges if b < a]
    graph = Graph(count, edges)
    unmet = list(graph.unmet)
    ready = [task for task in range(count) if not unmet[task]]
    busy: list[tuple[float, int]] = []
    now = 0.0
    while ready or busy:
        while ready and len(busy) < parallel:
            task = ready.pop(0)
            heapq.heappush(busy, (now + times[task], task))
        now, ended = heapq.heappop(busy)
        for other in graph.dependants(ended):
            unmet[other] -= 1
            if not unmet[other]:
                ready.append(other)
    kinds = {Kind("m", str(task), ""): 1 for task in range(count)}
    guesses = {Kind("m", str(task), ""): Guess(0, 0, times[task], 9) for task in range(count)}
    told = forecast(Load(kinds, None, None, graph.longest(times)), guesses, terms(parallel=parallel))
    assert told.seconds <= now + 1e-6
    assert now <= told.seconds_high + 1e-6


def samples(
    count: int, model: str = "opus", preset: str = "edit", work_dir: str = "/a", cost: float = 0.5
) -> list[Sample]:
    return [Sample(model, preset, work_dir, cost, 60.0) for _ in range(count)]


def test_the_most_alike_history_counts() -> None:
    far, near = samples(9, model="haiku", cost=9.0), samples(ENOUGH, cost=0.25)
    assert guess(EDIT, [*far, *near]).cost == 0.25
    assert guess(EDIT, [*far, *samples(ENOUGH, work_dir="/b", cost=0.75)]).cost == 0.75
    assert guess(EDIT, [*far, *samples(ENOUGH, preset="full", cost=0.125)]).cost == 0.125
    assert guess(EDIT, far).cost == 9.0
    assert guess(EDIT, samples(ENOUGH - 1)).samples == 0


def test_what_cannot_fit_is_told() -> None:
    guesses = {EDIT: guess(EDIT, samples(5))}
    load = Load({EDIT: 10}, 20.0, 2.0)
    assert forecast(load, guesses, terms()).fits
    poor = forecast(load, guesses, terms(max_cost=1.0))
    assert "could never start" in poor.problems[0]
    assert "about $5.00" in poor.problems[1]
    slow = forecast(load, guesses, terms(max_time=60))
    assert "at least 150 s" in slow.problems[0]
    tight = forecast(load, guesses, terms(asked_parallel=4, memory=SESSION_BYTES))
    assert "300 MiB are free" in tight.problems[0]
    blind = forecast(load, {EDIT: guess(EDIT, [])}, terms(max_cost=50))
    assert blind.fits
    assert "no history for 10 of 10" in blind.notes[0]


def test_parallel_from_the_machine() -> None:
    assert default_parallel(8 * 2**30, 2) == 16
    assert default_parallel(2 * 2**30, 64) == 5
    assert default_parallel(0, 64) == 1


def test_time_left() -> None:
    assert time_left(0, 0.0, 5, [], 2) is None
    assert time_left(2, 20.0, 4, [], 2) == 20.0
    assert time_left(1, 10.0, 0, [9.5], 2) == 1.0


def test_the_copies_of_isolated_tasks_must_fit_on_the_disk() -> None:
    guesses = {EDIT: guess(EDIT, samples(5))}
    load = Load({EDIT: 10}, 20.0, 2.0)
    assert forecast(load, guesses, terms()).disk is None
    room = 10 * 2**30
    fits = forecast(replace(load, views=[(View(2**30, room), 8), (View(0, room), 2)]), guesses, terms())
    assert (fits.disk, fits.disk_available, fits.fits) == (8 * 2**30, room, True)
    full = forecast(replace(load, views=[(View(2**30, room, whole=False), 11)]), guesses, terms())
    assert "the copies of isolated tasks take about 11 GiB, and 10 GiB are free" in full.problems
    assert "too large to measure" in full.notes[0]


def test_what_nodes_do_takes_no_memory_here() -> None:
    load = Load({EDIT: 500}, None, None)
    here, there = (
        forecast(load, {EDIT: Guess(0, 0, 1, 9)}, terms(parallel=400, asked_parallel=400, afar=afar))
        for afar in (False, True)
    )
    assert here.memory > here.memory_available
    assert not here.fits
    assert there.memory == 0
    assert there.fits
