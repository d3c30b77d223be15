"""The verdict against its rules in random lives: any number of them with `python -m tests.verdict_oracle`."""

from __future__ import annotations

from sampling import sized
from verdict_oracle import expected, run


def test_random_lives_end_as_the_rules_say() -> None:
    outcomes = {expected(run(seed)) for seed in range(sized(800))}
    assert len(outcomes) >= 10, "they are not all alike"
