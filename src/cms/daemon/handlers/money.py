"""Shared budgets and what was spent, on top of a supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cms.daemon.call import Handler, bind, quick
from cms.rpc.money import (
    BUDGET_GET,
    BUDGET_SET,
    LEDGER_TOTALS,
    CostParams,
    CostResult,
    CostRow,
    SetBudgetParams,
)
from cms.rpc.verbs import Nothing
from cms.session.budget import Budget
from cms.session.model import IN_TIME

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor


class MoneyHandlers:
    """The verbs of money, bound to one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.all: tuple[Handler, ...] = (
            bind(BUDGET_GET, quick(self.get_budget)),
            bind(BUDGET_SET, quick(self.set_budget)),
            bind(LEDGER_TOTALS, quick(self.totals)),
        )

    async def get_budget(self, _params: Nothing) -> Budget:
        return await self._supervisor.budget()

    async def set_budget(self, params: SetBudgetParams) -> Budget:
        for scope, usd in params.caps.items():
            await self._supervisor.set_cap(scope, usd)
        return await self._supervisor.budget()

    async def totals(self, params: CostParams) -> CostResult:
        found = await self._supervisor.totals(params.by, since=params.since, limit=params.limit + 1)
        more = len(found) > params.limit
        if more:
            found.pop(0 if params.by in IN_TIME else -1)
        rows = tuple(CostRow(one.key, one.name, one.usage, one.exact) for one in found)
        total = await self._supervisor.total(params.since)
        return CostResult(rows, total.usage, total.exact, more)
