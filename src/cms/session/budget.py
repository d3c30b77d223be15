"""Shared money: how many sessions spend under one cap and together pass it by at most one API call each.

A scope is what a cap is put on: a day, a batch, everything (`ALL`, `DAY`, or any other word that whoever
starts the work makes up, like `batch:nightly`). A session's own limit is not a scope: it is nobody else's,
and `session.limits` holds it alone.

How the bound comes about
- Before a message is sent, an amount is reserved in every scope that has a cap and that the message belongs
  to. What the turn may spend is what it has reserved: it is the turn's hard limit at the gate.
- Each charge moves money from reserved to spent, and asks for more in the same step. So a turn that goes on
  is never short while its scopes have something left.
- An API call is begun only while the turn has spent less than it reserved. Of everything that all turns
  together spend, only the part of each one's newest call that passed its reservation was not reserved, and
  what is reserved never passes the cap. So the sum passes the cap by at most one call for each session.
- A turn that ended gives back what it did not spend. One whose end nobody saw (a crash, a kill in the middle
  of a call) gives nothing back: what is unknown counts as the whole reservation.

How much is reserved. Rejected: the whole of a session's own limit. Ten sessions that may spend $2 each would
use up a budget of $20 before the first cent is spent, and the eleventh be refused for nothing. Instead a turn
reserves little and often: about what its dearest call has cost, and a small part of what is left while that
is not known. Little enough that nobody is kept out by money that is never spent; and since a turn that knows
what its calls cost holds that much, the last of the money goes to one turn and not to all at once.

Who finds the rest of a scope reserved by others may wait for them (`Grant.final` False): what they do not
spend comes back. They never wait for each other: who waits has spent what it reserved, and holds nothing.

Pure: who keeps the figures (`store.money`, one transaction a step) gives them in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from cms.session.model import Record
from cms.units import money

#: Everything that is ever spent in this home.
ALL: Final = "all"
#: What is spent between one midnight (local time) and the next.
DAY: Final = "day"

#: US dollars that a turn reserves at most while it is not known what its calls cost.
SLICE: Final = 0.25
#: ... and then never more than this part of what is left, so that many can begin at once.
SHARES: Final = 32
#: US dollars that count as nothing: about the price of the smallest call.
LEAST: Final = 0.001


class Cap(Record, frozen=True):
    """How much may be spent in a scope, in US dollars."""

    scope: str
    usd: float


class Account(Record, frozen=True):
    """What was spent in a scope.

    Attributes:
        spent: from the ledger.
        unknown: counted for calls whose price nobody knows.
    """

    spent: float = 0.0
    unknown: float = 0.0

    @property
    def used(self) -> float:
        return self.spent + self.unknown


class Hold(Record, frozen=True):
    """The reservation of one interaction that is under way.

    Attributes:
        scopes: those that its starter named; `ALL` and `DAY` go without saying.
        amount: reserved since the interaction began, in all.
        spent: charged to it since it began.
        dearest: the greatest single charge of it.
    """

    interaction_id: str
    scopes: tuple[str, ...] = ()
    amount: float = 0.0
    spent: float = 0.0
    dearest: float = 0.0

    @property
    def rest(self) -> float:
        """Reserved and not spent yet."""
        return max(self.amount - self.spent, 0.0)


class Standing(Record, frozen=True):
    """How a capped scope stands, as one interaction (or, for `cms budget show`, nobody) sees it.

    Attributes:
        held: reserved and not yet spent by others that are under way, `holders` of them.
    """

    scope: str
    cap: float
    spent: float = 0.0
    unknown: float = 0.0
    held: float = 0.0
    holders: int = 0

    @property
    def used(self) -> float:
        return self.spent + self.unknown

    @property
    def left(self) -> float:
        """What can still be reserved; below zero where the cap was passed or lowered."""
        return self.cap - self.used - self.held

    @property
    def free(self) -> float:
        """The same for a person: nothing, where the cap was passed."""
        return max(self.left, 0.0)

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left even if all that is held comes back."""
        return self.cap - self.used < LEAST


class Grant(Record, frozen=True):
    """What an interaction may spend.

    Attributes:
        amount: US dollars since it began, in all; None: none of its scopes has a cap.
        short: why it is not more, in words for a person; "" if enough was left.
        final: asking again is of no use, for nothing is held that could come back.
    """

    amount: float | None = None
    short: str = ""
    final: bool = False


class Budget(Record, frozen=True):
    """What `cms budget show` tells: what was spent today and ever, and the scopes that have caps."""

    today: Account
    ever: Account
    scopes: tuple[Standing, ...] = ()


def scopes_of(named: Iterable[str]) -> tuple[str, ...]:
    """All scopes of an interaction, from those that its starter named."""
    return tuple(dict.fromkeys((*named, DAY, ALL)))


def account_of(scope: str, at: float) -> str:
    """The account in which a scope's money is counted at a time: each day has its own."""
    return f"{DAY}:{datetime.fromtimestamp(at).date()}" if scope == DAY else scope


def stand(cap: Cap, account: Account, holds: Iterable[Hold]) -> Standing:
    """How a scope stands, given all holds but one's own.

    A day counts whatever is held, also by turns that began yesterday: they would spend it today.
    """
    rests = [hold.rest for hold in holds if cap.scope in scopes_of(hold.scopes) and hold.rest > 0]
    return Standing(cap.scope, cap.usd, account.spent, account.unknown, sum(rests), len(rests))


def grant(own: Hold, standings: Sequence[Standing]) -> Grant:
    """What an interaction may spend from now on, in all.

    Never less than it was granted before: it may already be relying on that.

    Args:
        own: what it has reserved and spent so far; all zero for one that is about to begin.
        standings: its scopes that have caps, without its own hold.
    """
    if not standings:
        return Grant()
    tightest = min(standings, key=lambda standing: standing.left)
    left = tightest.left
    if left < LEAST and own.rest < LEAST:
        # Nothing to give, and nothing in hand. (Money in hand is used up before anybody is told to stop.)
        final = any(standing.exhausted for standing in standings)
        return Grant(own.amount, describe(tightest), final)
    share = min(max(left, 0.0), max(own.dearest, min(SLICE, left / SHARES)))
    return Grant(max(own.amount, own.spent + share))


def settle(hold: Hold, *, exact: bool) -> float:
    """What is to be counted as unknown when an interaction has ended: nothing, or all that it still held."""
    return 0.0 if exact else hold.rest


_NAMES: Final = {
    ALL: ("the total budget", "raise it with `cms budget set --total USD`"),
    DAY: ("today's budget", "raise it with `cms budget set --daily USD`, or continue tomorrow"),
}


def name_of(scope: str) -> str:
    """A scope in words."""
    if scope in _NAMES:
        return _NAMES[scope][0]
    kind, _, which = scope.partition(":")
    return f"the budget of {kind} {which}" if which else f"the budget {scope!r}"


def describe(standing: Standing) -> str:
    """Why there is no more, and what to do, in a line."""
    what, advice = name_of(standing.scope), _NAMES.get(standing.scope, ("", "raise it to continue"))[1]
    parts = [f"{money(standing.spent)} of {money(standing.cap)} spent"]
    if standing.unknown:
        parts.append(f"{money(standing.unknown)} counted for calls that never reported their price")
    if standing.holders:
        parts.append(f"{money(standing.held)} reserved by {standing.holders} at work")
    left = max(standing.cap - standing.used, 0.0)
    state = "used up" if standing.exhausted else "all reserved"
    return f"{what} is {state}: {', '.join(parts)}, {money(left)} left; {advice}"


def raising(reason: str) -> str:
    """The command that gives room again where `describe` said this; "" where it did not."""
    for scope, flag in ((DAY, "--daily"), (ALL, "--total")):
        if reason.startswith(name_of(scope)):
            return f"cms budget set {flag} USD"
    return "cms budget show" if reason.startswith("the budget ") else ""
