from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.batch import template
from cms.batch.graph import Graph
from cms.batch.model import Task, TaskOptions, TaskResult, TaskStatus, field_of
from cms.session.model import SessionOptions

COUNT = 12
EDGES = st.lists(st.tuples(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1)), unique=True, max_size=30)


def needs_of(edges: Iterable[tuple[int, int]], task: int) -> set[int]:
    return {need for other, need in edges if other == task}


@given(EDGES)
def test_either_an_order_or_a_ring(edges: list[tuple[int, int]]) -> None:
    graph = Graph(COUNT, edges)
    order, ring = list(graph.order()), graph.cycle()
    places = {task: place for place, task in enumerate(order)}
    for task in order:
        assert all(places[need] < places[task] for need in needs_of(edges, task))
    assert (len(order) == COUNT) == (not ring)
    for task, need in zip(ring, ring[1:] + ring[:1], strict=True):
        assert need in needs_of(edges, task), "each of a ring needs the next"
    assert len(set(ring)) == len(ring)


@given(
    EDGES.map(lambda edges: [(a, b) for a, b in edges if b < a]), st.lists(st.floats(0, 9), min_size=COUNT)
)
def test_the_longest_chain_is_the_longest(edges: list[tuple[int, int]], weights: list[float]) -> None:
    ends: list[float] = []
    for task in range(COUNT):
        ends.append(weights[task] + max((ends[need] for need in needs_of(edges, task)), default=0.0))
    assert abs(Graph(COUNT, edges).longest(weights) - max(ends)) < 1e-9


def test_a_long_chain_needs_no_stack() -> None:
    graph = Graph(100_000, ((task, task - 1) for task in range(1, 100_000)))
    assert len(graph.order()) == 100_000
    assert not graph.cycle()
    assert Graph(3, [(0, 1), (1, 2), (2, 0)]).cycle() in ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    assert Graph(1, [(0, 0)]).cycle() == (0,)
    assert not Graph(0, []).cycle()


def test_placeholders() -> None:
    text = "See {{needs.a.b.response}} and {{ needs.c.cost }} not {{x}} nor \\{{needs.d.response}}"
    assert template.wanted(text) == (template.Wanted("a.b", "response"), template.Wanted("c", "cost"))
    filled = template.fill(text, (), lambda place: f"<{place.name}/{place.field}>")
    assert filled == "See <a.b/response> and <c/cost> not {{x}} nor {{needs.d.response}}"


def test_what_is_put_in_is_not_looked_at_again() -> None:
    assert template.fill("{{needs.a.response}}", (), lambda _: "{{needs.b.response}}\\1\\{{needs.") == (
        "{{needs.b.response}}\\1\\{{needs."
    )


def test_a_long_answer_is_cut_and_that_is_told() -> None:
    filled = template.fill("{{needs.a.response}}", (), lambda _: "x" * (template.MOST + 5))
    assert filled == "x" * template.MOST + "\n[cut: 5 more characters]"


@given(st.text())
def test_text_without_placeholders_stays(text: str) -> None:
    if "needs" not in text:
        assert template.fill(text, (), lambda _: "!") == text
        assert template.wanted(text) == ()


def answered(output: str) -> Task:
    options = TaskOptions(SessionOptions("a", "/w"), "go")
    return Task(0, "a", 1, TaskStatus.COMPLETED, options, result=TaskResult(output=output))


def test_parts_of_an_output() -> None:
    text = "{{needs.a.output}} {{needs.a.output.b.0.c}} {{needs.a.b.output.x}} {{needs.a.b.response}}"
    assert template.wanted(text, ("a", "a.b")) == (
        template.Wanted("a", "output"),
        template.Wanted("a", "output", "b.0.c"),
        template.Wanted("a.b", "output", "x"),
        template.Wanted("a.b", "response"),
    )
    output = '{"b": [{"c": "a text"}], "n": 1.50, "big": 123456789012345678901234567890, "no": null}'
    task = answered(output)
    parts = {
        "": '{"b":[{"c":"a text"}],"n":1.5,"big":123456789012345678901234567890,"no":null}',
        "b": '[{"c":"a text"}]',
        "b.0": '{"c":"a text"}',
        "b.0.c": "a text",
        "n": "1.5",
        "big": "123456789012345678901234567890",
        "no": "null",
    }
    for path, meant in parts.items():
        assert field_of(task, template.Wanted("a", "output", path)) == meant


@pytest.mark.parametrize("path", ["x", "b.1", "b.c", "b.0.c.d", "n.0", ".", "b.-1", "b.0x", "no.a"])
def test_a_part_that_is_not_there(path: str) -> None:
    task = answered('{"b": [{"c": "a text"}], "n": 1, "no": null}')
    with pytest.raises(template.NoSuchPart):
        field_of(task, template.Wanted("a", "output", path))
    with pytest.raises(template.NoSuchPart, match="no output with a schema"):
        field_of(answered(""), template.Wanted("a", "output", path))
