"""Shared budgets: whatever the order of what sessions do, a cap is passed by at most one call each."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cms.session.budget import (
    ALL,
    DAY,
    LEAST,
    Account,
    Cap,
    Grant,
    Hold,
    account_of,
    describe,
    grant,
    scopes_of,
    settle,
    stand,
)
from cms.session.ledger import EPSILON
from sampling import sized

replace = msgspec.structs.replace


class Bank:
    """What the store does with the module under test: the smallest thing that keeps the figures."""

    def __init__(self, caps: list[Cap]) -> None:
        self.caps = caps
        self.accounts: dict[str, Account] = {}
        self.holds: dict[str, Hold] = {}

    def reserve(self, name: str, scopes: tuple[str, ...] = ()) -> Grant:
        own = self.holds.get(name, Hold(name, scopes))
        others = [hold for key, hold in self.holds.items() if key != name]
        caps = [cap for cap in self.caps if cap.scope in scopes_of(own.scopes)]
        granted = grant(own, [stand(cap, self._account(cap.scope), others) for cap in caps])
        self.holds[name] = replace(own, amount=granted.amount or 0.0)
        return granted

    def charge(self, name: str, usd: float) -> None:
        hold = self.holds[name]
        self.holds[name] = replace(hold, spent=hold.spent + usd, dearest=max(hold.dearest, usd))
        for scope in scopes_of(hold.scopes):
            account = self._account(scope)
            self.accounts[scope] = replace(account, spent=account.spent + usd)

    def end(self, name: str, *, exact: bool) -> None:
        hold = self.holds.pop(name)
        for scope in scopes_of(hold.scopes):
            account = self._account(scope)
            self.accounts[scope] = replace(account, unknown=account.unknown + settle(hold, exact=exact))

    def _account(self, scope: str) -> Account:
        return self.accounts.get(scope, Account())


calls = st.floats(min_value=0.0, max_value=2.0)
#: One thing that one session does: pay for its call, begin one, end its turn, or die in the middle of it.
steps = st.tuples(st.integers(0, 4), st.sampled_from(["go", "go", "go", "pay", "end", "die"]), calls)


@settings(max_examples=sized(150))
@given(cap=st.floats(min_value=0.0, max_value=10.0), script=st.lists(steps, max_size=120))
def test_whatever_the_order_the_cap_is_passed_by_one_call_each(
    cap: float, script: list[tuple[int, str, float]]
) -> None:
    bank = Bank([Cap(ALL, cap)])
    truth = 0.0
    calling: dict[int, float] = {}  # session -> price of the call that it is in
    allowed: dict[int, Grant] = {}  # session -> what its turn was last granted
    excess: dict[int, float] = {}  # session -> its dearest call: what it may have passed the cap by
    lost = 0.0
    for who, what, price in script:
        name = str(who)
        if who in calling:
            if what == "die":
                # It spent the money and told nobody; what it held is counted in its place.
                paid = calling.pop(who)
                lost += max(paid - bank.holds[name].rest, 0.0)
                truth += paid
                bank.end(name, exact=False)
                del allowed[who]
            elif what != "end":
                paid = calling.pop(who)
                truth += paid
                excess[who] = max(excess.get(who, 0.0), paid)
                bank.charge(name, paid)
                allowed[who] = bank.reserve(name)
            continue
        if who not in allowed:
            granted = bank.reserve(name)
            if granted.short:
                bank.end(name, exact=True)
                continue
            allowed[who] = granted
        if what == "end":
            bank.end(name, exact=True)
            del allowed[who]
            continue
        amount = allowed[who].amount
        assert amount is not None
        if bank.holds[name].spent >= amount - EPSILON:
            allowed[who] = bank.reserve(name)
        else:
            calling[who] = price
    assert truth <= cap + sum(excess.values()) + sum(calling.values()) + lost + 1e-6
    # And the store agree with the truth, but for what the dead did not tell.
    assert bank.accounts.get(ALL, Account()).spent <= truth + 1e-6


@given(cap=st.floats(min_value=0.0, max_value=10.0), prices=st.lists(calls, max_size=40))
def test_alone_a_session_may_spend_all_there_is(cap: float, prices: list[float]) -> None:
    bank = Bank([Cap(DAY, cap)])
    granted, spent = bank.reserve("a"), 0.0
    for price in prices:
        if granted.short:
            break
        assert granted.amount is not None
        assert granted.amount > spent
        spent += price
        bank.charge("a", price)
        granted = bank.reserve("a")
    # It is only told to stop when there is nothing left, and it is told so for good.
    assert granted.short == "" or (granted.final and spent > cap - 2 * LEAST)


def test_many_may_begin_at_once_under_a_small_cap() -> None:
    bank = Bank([Cap("batch:night", 20.0)])
    begun = [bank.reserve(str(n), ("batch:night",)) for n in range(200)]
    assert not any(one.short for one in begun)
    assert sum(hold.rest for hold in bank.holds.values()) < 20.0


def test_the_last_of_the_money_goes_to_one() -> None:
    bank = Bank([Cap(ALL, 0.42)])
    for name in "ab":
        bank.reserve(name)
        bank.charge(name, 0.2)  # both know now what a call costs
    first, second = bank.reserve("a"), bank.reserve("b")
    assert first.amount == pytest.approx(0.22)
    assert second.short
    assert not second.final, "what the other holds may come back"
    bank.end("a", exact=True)
    assert bank.reserve("b").amount == pytest.approx(0.22)


def test_what_nobody_knows_counts_as_the_whole_reservation() -> None:
    bank = Bank([Cap(ALL, 1.0)])
    amount = bank.reserve("a").amount
    assert amount is not None
    bank.end("a", exact=False)
    assert bank.accounts[ALL] == Account(spent=0.0, unknown=amount)


def test_a_turn_of_yesterday_holds_money_of_today() -> None:
    hold = Hold("a", amount=1.0, spent=0.25)
    standing = stand(Cap(DAY, 5.0), Account(), [hold])
    assert (standing.held, standing.holders) == (0.75, 1)


def test_a_cap_that_was_lowered_takes_nothing_back() -> None:
    own = Hold("a", amount=2.0, spent=1.5)
    assert grant(own, [stand(Cap(ALL, 0.5), Account(spent=1.5), [])]) == Grant(2.0)


def test_without_a_cap_nothing_is_limited() -> None:
    assert grant(Hold("a"), []) == Grant(None)


def test_the_tightest_scope_decides_and_is_named() -> None:
    batch = stand(Cap("batch:7", 0.5), Account(spent=0.499999, unknown=0.1), [])
    day = stand(Cap(DAY, 20.0), Account(spent=3.0), [])
    granted = grant(Hold("a"), [day, batch])
    assert granted.final
    assert granted.short == (
        "the budget of batch 7 is used up: $0.5000 of $0.5000 spent, "
        "$0.1000 counted for calls that never reported their price, $0.0000 left; raise it to continue"
    )
    assert "cms budget set --daily" in describe(day)


def test_each_day_has_an_account_of_its_own() -> None:
    noon = 1_800_000_000.0
    assert account_of(DAY, noon) != account_of(DAY, noon + 86_400)
    assert account_of(ALL, noon) == account_of(ALL, noon + 86_400) == ALL
    assert math.isfinite(stand(Cap(ALL, 1.0), Account(), []).left)
