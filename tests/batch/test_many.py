"""What is under way, against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cms.batch.many import Many


@given(st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.floats(0, 10))))
def test_it_is_a_dict_of_which_copies_are_cheap(steps: list[tuple[int, bool, float]]) -> None:
    plain: dict[int, float] = {}
    many = Many()
    for number, there, amount in steps:
        before, kept = many, dict(plain)
        if there:
            plain[number] = amount
            many = many.put(number, amount)
        else:
            plain.pop(number, None)
            many = many.without(number)
        assert sorted(before) == sorted(kept), "an earlier copy has changed"
        assert len(many) == len(plain)
        assert {one: many[one] for one in many} == plain
        assert abs(many.total - sum(plain.values())) < 1e-9
        assert bool(many) == bool(plain)
        assert number in many if there else number not in many
        assert many.get(number) == plain.get(number, 0.0)
    for number in list(plain):
        many = many.without(number)
    assert many.total == 0.0
