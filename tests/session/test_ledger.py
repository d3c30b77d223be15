"""Money: whatever order totals come in, the store hold exactly what was spent, or say that they do not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cms.session.ledger import EPSILON, Charge, Ledger
from cms.session.model import TokenUsage
from sampling import sized

NOTHING: dict[str, TokenUsage] = {}


def used(cost: float, tokens: int = 0) -> TokenUsage:
    return TokenUsage(output_tokens=tokens, cost_usd=cost)


def observe(ledger: Ledger, *totals: float) -> Ledger:
    for total in totals:
        ledger, _ = ledger.observe(total, NOTHING)
    return ledger


# --- each rule once -------------------------------------------------------------------------------


def test_growth_counts_and_not_the_total() -> None:
    ledger, charge = Ledger().open(0.0, NOTHING).observe(0.05, {"m": used(0.05, 10)})
    assert charge == Charge(0.05, 0.05, {"m": used(0.05, 10)})
    ledger, charge = ledger.observe(0.08, {"m": used(0.08, 25)})
    assert charge is not None
    assert charge.usd == pytest.approx(0.03)
    assert charge.usage["m"].output_tokens == 15
    assert ledger.spent == pytest.approx(0.08)
    assert ledger.models["m"].output_tokens == 25


def test_the_same_total_again_is_no_charge() -> None:
    ledger, _ = Ledger().open(0.0, NOTHING).observe(0.05, {"m": used(0.05)})
    assert ledger.observe(0.05, {"m": used(0.05)}) == (ledger, None)


def test_a_smaller_total_is_an_old_one_and_takes_nothing_back() -> None:
    ledger = observe(Ledger().open(0.0, NOTHING), 0.3, 0.1)
    assert ledger.spent == pytest.approx(0.3)
    assert observe(ledger, 0.2).spent == pytest.approx(0.3)
    assert observe(ledger, 0.4).spent == pytest.approx(0.4)


def test_a_resumed_process_counts_from_its_baseline() -> None:
    first = observe(Ledger().open(0.0, NOTHING), 0.3).close(exact=True)
    assert observe(first.open(0.3, NOTHING), 0.5).spent == pytest.approx(0.5)


def test_after_a_kill_the_next_process_begins_lower_and_nothing_is_counted_twice_or_lost() -> None:
    first = observe(Ledger().open(0.0, NOTHING), 0.3).close(exact=False)
    second = observe(first.open(0.1, NOTHING), 0.15)
    assert second.spent == pytest.approx(0.35)
    assert not second.exact
    assert not second.close(exact=True).exact, "what was not told once is never told"


def test_a_fork_begins_at_zero_in_our_books() -> None:
    fork = Ledger().open(7.5, {"m": used(7.5, 100)})
    assert (fork.spent, fork.models) == (0.0, {})
    ledger, charge = fork.observe(7.6, {"m": used(7.6, 110)})
    assert charge is not None
    assert ledger.spent == pytest.approx(0.1)
    assert ledger.models["m"].output_tokens == 10


def test_clear_sets_claudes_meter_to_zero_and_not_our_books() -> None:
    ledger = observe(Ledger().open(0.0, NOTHING), 0.3).reset()
    assert observe(ledger, 0.0).spent == pytest.approx(0.3)
    assert observe(ledger, 0.0, 0.05).spent == pytest.approx(0.35)


def test_before_the_baseline_is_known_rather_too_much_than_too_little() -> None:
    assert observe(Ledger(spent=1.0), 0.2).spent == pytest.approx(1.2)
    assert observe(Ledger(spent=1.0), 0.0).seen == 0.0


def test_crumbs_add_up() -> None:
    """Growth too small to be booked is not forgotten."""
    crumb = EPSILON / 4
    ledger = Ledger().open(0.0, NOTHING)
    for number in range(1, 4001):
        ledger = observe(ledger, number * crumb)
    assert ledger.spent == pytest.approx(4000 * crumb, abs=EPSILON)


def test_tokens_without_money_are_booked_too() -> None:
    ledger, charge = Ledger().open(0.0, NOTHING).observe(0.0, {"free": used(0.0, 12)})
    assert charge == Charge(0.0, 0.0, {"free": used(0.0, 12)})
    assert ledger.models == {"free": used(0.0, 12)}
    assert ledger.spent == 0.0


def test_a_smaller_total_with_news_of_one_model_lowers_no_mark() -> None:
    ledger, _ = Ledger().open(0.0, NOTHING).observe(0.3, {"opus": used(0.3)})
    ledger, charge = ledger.observe(0.2, {"opus": used(0.1), "haiku": used(0.1, 5)})
    assert charge is not None
    assert charge.usd == 0.0
    assert observe(ledger, 0.3).spent == pytest.approx(0.3)


def test_a_ledger_is_a_value() -> None:
    before = Ledger().open(0.0, {"m": used(0.1)})
    before.observe(5.0, {"m": used(5.0)})
    before.reset()
    assert before == Ledger().open(0.0, {"m": used(0.1)})


# --- any order ------------------------------------------------------------------------------------

_CENTS = st.integers(0, 500)


@settings(max_examples=sized(40), stateful_step_count=30)
class Oracle(RuleBasedStateMachine):
    """A claude that spends cents, and keeps its own total as the real one does.

    What was reported at least once is what the store must hold; whole cents make the sums exact.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.alive = False
        self.total: dict[str, int] = {}  # claude's own, per model
        self.saved: dict[str, int] = {}  # what its transcript would start from
        self.old: list[dict[str, int]] = []  # totals of this process that were written earlier
        self.reported: dict[str, int] = {}  # this process, since its baseline
        self.before: dict[str, int] = {}  # over the processes before
        self.exact = True
        self.booked = 0.0

    @initialize()
    def first(self) -> None:
        self._open({})

    def _open(self, baseline: dict[str, int]) -> None:
        self.alive = True
        self.total = dict(baseline)
        self.reported = {}
        self.old = [dict(baseline)]
        self.base = dict(baseline)
        self.ledger = self.ledger.open(sum(baseline.values()) / 100, self._usage(baseline))

    def _usage(self, cents: dict[str, int]) -> dict[str, TokenUsage]:
        return {model: used(value / 100, value) for model, value in cents.items()}

    def _close(self, *, exact: bool) -> None:
        for model, value in self.reported.items():
            self.before[model] = self.before.get(model, 0) + value
        self.reported = {}
        self.alive = False
        self.exact = self.exact and exact
        self.ledger = self.ledger.close(exact=exact)

    def _observe(self, total: dict[str, int]) -> None:
        spent = self.ledger.spent
        self.ledger, charge = self.ledger.observe(sum(total.values()) / 100, self._usage(total))
        assert self.ledger.spent >= spent
        if charge is not None:
            assert charge.usd >= 0
            self.booked += charge.usd
            assert sum(usage.cost_usd for usage in charge.usage.values()) == pytest.approx(charge.usd)

    @precondition(lambda self: self.alive)
    @rule(model=st.sampled_from(["opus", "haiku"]), cents=_CENTS)
    def spend(self, model: str, cents: int) -> None:
        self.total[model] = self.total.get(model, 0) + cents
        self.old.append(dict(self.total))

    @precondition(lambda self: self.alive)
    @rule()
    def report(self) -> None:
        self._observe(self.total)
        self.reported = {m: v - self.base.get(m, 0) for m, v in self.total.items()}

    @precondition(lambda self: self.alive and self.reported)
    @rule(data=st.data())
    def report_late(self, data: st.DataObject) -> None:
        """A total that was written before the newest one comes after it."""
        known = [
            total
            for total in self.old
            if all(total.get(m, 0) - self.base.get(m, 0) <= v for m, v in self.reported.items())
            and set(total) <= set(self.reported)
        ]
        if known:
            self._observe(data.draw(st.sampled_from(known)))

    @precondition(lambda self: self.alive)
    @rule()
    def clear(self) -> None:
        self.report()
        for model, value in self.reported.items():
            self.before[model] = self.before.get(model, 0) + value
        self.total, self.base, self.reported, self.old = {}, {}, {}, [{}]
        self.ledger = self.ledger.reset()

    @precondition(lambda self: self.alive)
    @rule()
    def stop_and_resume(self) -> None:
        self.report()
        self._close(exact=True)
        self.saved = dict(self.total)
        self._open(self.saved)

    @precondition(lambda self: self.alive)
    @rule()
    def kill_and_resume(self) -> None:
        """Nothing is saved: the next process starts from what the last graceful end left."""
        self._close(exact=False)
        self._open(self.saved)

    @precondition(lambda self: self.alive)
    @rule(cents=_CENTS)
    def fork(self, cents: int) -> None:
        """The branch has books of its own, which begin empty whatever its meter says."""
        baseline = {**self.total, "parent": cents}
        branch = Ledger().open(sum(baseline.values()) / 100, self._usage(baseline))
        assert branch.spent == 0.0
        branch, _ = branch.observe(sum(baseline.values()) / 100 + 0.25, self._usage(baseline))
        assert branch.spent == pytest.approx(0.25)

    @invariant()
    def the_books_hold_what_was_reported(self) -> None:
        expected = dict(self.before)
        for model, value in self.reported.items():
            expected[model] = expected.get(model, 0) + value
        assert self.ledger.spent == pytest.approx(sum(expected.values()) / 100)
        assert self.booked == pytest.approx(self.ledger.spent)
        assert self.ledger.exact == self.exact
        for model, value in expected.items():
            if value:
                assert self.ledger.models[model].cost_usd == pytest.approx(value / 100)
                assert self.ledger.models[model].output_tokens == value


TestOracle = Oracle.TestCase


@given(st.lists(st.floats(-10, 1e6, allow_nan=False)))
def test_spent_never_falls_whatever_totals_come(totals: list[float]) -> None:
    ledger = Ledger().open(0.0, NOTHING)
    for total in totals:
        spent = ledger.spent
        ledger, charge = ledger.observe(total, NOTHING)
        assert ledger.spent >= spent
        assert ledger.spent == pytest.approx(spent + (charge.usd if charge is not None else 0.0))
    highest = max([0.0, *totals])
    assert ledger.spent == pytest.approx(highest, abs=EPSILON)
