"""Money: what a session has really spent, from totals that are not what they seem.

claude reports a running total, in each `result` and to `get_usage` in the middle of a turn. Rules:

- The total is cumulative. It is never added up, only its growth counts.
- A resumed or forked process starts from the total that its transcript saved, which after a SIGKILL is lower
  than the truth. So each process has a baseline, asked before its first message; growth counts from there,
  and a fork starts at zero in our ledger.
- Within a process the total only grows. A smaller one than was seen is an old answer that came late: it
  counts for nothing, and never takes back what was counted.
- `/clear` (`conversation_reset`) starts the total again at zero: the baseline becomes zero.
- A process that dies in the middle of an API call has spent an amount that nobody can tell any more. The
  ledger then says "at least", and are not exact.

The same holds per model for tokens. All values are frozen; each operation gives a new ledger.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cms.session.model import TokenUsage

#: Totals are sums of floats; growth below this is rounding, not spending (a thousandth of a token's price).
EPSILON = 1e-9


class Charge(msgspec.Struct, frozen=True):
    """Growth of one process's total, as it goes into the store.

    Attributes:
        usd: the growth in US dollars.
        total: the process's own total after it.
        usage: the growth per model.
        interaction_id: whose it is; "": nobody's that is known.
    """

    usd: float
    total: float
    usage: dict[str, TokenUsage] = {}
    interaction_id: str = ""

    def within_total(self) -> Charge:
        """With no more money per model than the total grew by: the rest was charged already."""
        rest, usage = self.usd, {}
        for model, more in self.usage.items():
            usage[model] = msgspec.structs.replace(more, cost_usd=min(more.cost_usd, rest))
            rest -= usage[model].cost_usd
        return msgspec.structs.replace(self, usage=usage)


class Ledger(msgspec.Struct, frozen=True):
    """A session's ledger.

    Attributes:
        spent: US dollars since the session began, over all its processes.
        exact: False when some process died without saying what its last call cost.
        seen: the highest total of the present process; None before its baseline is known.
        models: tokens and money per model since the session began.
        seen_models: the highest figures of the present process, per model.
    """

    spent: float = 0.0
    exact: bool = True
    seen: float | None = None
    models: dict[str, TokenUsage] = {}
    seen_models: dict[str, TokenUsage] = {}

    def open(self, total: float, models: Mapping[str, TokenUsage]) -> Ledger:
        """A process starts: what it says before its first message is its baseline, and nobody's spending."""
        return msgspec.structs.replace(self, seen=total, seen_models=dict(models))

    def close(self, *, exact: bool) -> Ledger:
        """The process has ended; `exact` False if it may have spent what it did not report."""
        return msgspec.structs.replace(self, seen=None, seen_models={}, exact=self.exact and exact)

    def reset(self) -> Ledger:
        """claude's own total starts again at zero (`/clear`)."""
        return msgspec.structs.replace(self, seen=0.0, seen_models={})

    def observe(self, total: float, models: Mapping[str, TokenUsage]) -> tuple[Ledger, Charge | None]:
        """Take a reported total; return the new ledger and the growth, None if there was none.

        Before the baseline is known a total is taken whole: rather too much than too little.
        """
        growth = total - (self.seen or 0.0)
        grown: dict[str, TokenUsage] = {}
        for model, now in models.items():
            more = _growth(now, self.seen_models.get(model, TokenUsage()))
            if more is not None:
                grown[model] = more
        if growth <= EPSILON and not grown:
            return (self if self.seen is not None else self.open(total, models)), None
        paid = max(growth, 0.0)
        ledger = msgspec.structs.replace(
            self,
            spent=self.spent + paid,
            seen=max(total, self.seen or 0.0),
            models=merged(self.models, grown),
            seen_models=merged(self.seen_models, grown),
        )
        return ledger, Charge(paid, total, grown)


def _growth(now: TokenUsage, before: TokenUsage) -> TokenUsage | None:
    more = TokenUsage(
        max(now.input_tokens - before.input_tokens, 0),
        max(now.output_tokens - before.output_tokens, 0),
        max(now.cache_read_input_tokens - before.cache_read_input_tokens, 0),
        max(now.cache_creation_input_tokens - before.cache_creation_input_tokens, 0),
        max(now.cost_usd - before.cost_usd, 0.0),
    )
    return None if more == TokenUsage() or (more.cost_usd <= EPSILON and _no_tokens(more)) else more


def _no_tokens(usage: TokenUsage) -> bool:
    return not (
        usage.input_tokens
        or usage.output_tokens
        or usage.cache_read_input_tokens
        or usage.cache_creation_input_tokens
    )


def merged(left: Mapping[str, TokenUsage], right: Mapping[str, TokenUsage]) -> dict[str, TokenUsage]:
    """The sums per model."""
    sums = dict(left)
    for model, usage in right.items():
        sums[model] = sums.get(model, TokenUsage()) + usage
    return sums
