"""Labels: a task goes to a node that has all that it needs, and is found in a queue that the node serves."""

from __future__ import annotations

from itertools import combinations

import pytest

from cms.batch.remote import MOST_LABELS, Card, check_labels, queue_of, queues_of
from cms.units import BadValue

ALL = ("a", "b-1", "c.d", "e", "f")


def subsets(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [some for count in range(len(words) + 1) for some in combinations(words, count)]


def test_a_node_serves_the_queues_of_what_it_can_do_and_no_others() -> None:
    for has in subsets(ALL):
        card = Card("n", "h", 1, "v", has)
        for needs in subsets(ALL):
            label = ",".join(check_labels(",".join(reversed(needs))))
            able = set(needs) <= set(has)
            assert card.serves(label) is able
            assert (queue_of(label) in queues_of(has)) is able


@pytest.mark.parametrize("text", ["a b", "a,b/c", "-a", "a\nb", ",".join("abcdef"), 7])
def test_what_is_no_label(text: object) -> None:
    assert MOST_LABELS == 5
    with pytest.raises(BadValue):
        check_labels(text)
