"""What was spent, and what may be."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.rpc.verbs import Nothing, Verb
from cms.session.budget import Budget
from cms.session.model import Grouping, Record, TokenUsage


class SetBudgetParams(Record, frozen=True):
    """Caps in US dollars, by scope (`session.budget`); null takes one off, what is not named stays."""

    caps: dict[str, Annotated[float, msgspec.Meta(ge=0)] | None]


BUDGET_GET = Verb("budget.get", Nothing, Budget, idempotent=True)
BUDGET_SET = Verb("budget.set", SetBudgetParams, Budget, idempotent=True)


ROWS = 500  # of one answer


class CostParams(Record, frozen=True):
    by: Grouping = "session"
    since: float | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = ROWS


class CostRow(Record, frozen=True):
    """`key` is a session's id, a model, a tag ("": none), a day or an ISO week; `name` the session's name."""

    key: str
    name: str
    usage: TokenUsage
    exact: bool


class CostResult(Record, frozen=True):
    """`total` is of all that was spent, shown or not; `more`: there are rows beyond the limit."""

    rows: tuple[CostRow, ...]
    total: TokenUsage
    exact: bool
    more: bool = False


LEDGER_TOTALS = Verb("ledger.totals", CostParams, CostResult, idempotent=True)
