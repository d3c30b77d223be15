"""Tools about money: what was spent, and what may be. Setting a budget is a person's business."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec

from cms.mcp.call import DaemonCall
from cms.mcp.results import Money, Result, described
from cms.mcp.tool import Params, tool
from cms.rpc.money import BUDGET_GET, LEDGER_TOTALS, CostParams
from cms.rpc.verbs import Nothing
from cms.session.model import Grouping


class Spent(Result, frozen=True):
    SHOWS = "cost=usage.cost_usd input_tokens=usage.input_tokens output_tokens=usage.output_tokens"

    what: Annotated[str, described("A session's name, a model, a tag, a day or a week.")]
    cost: Money
    exact: Annotated[bool, described("False: at least this much; a process died before it told.")]
    input_tokens: int
    output_tokens: int


class Costs(Result, frozen=True):
    SHOWS = "total=total.cost_usd"

    rows: tuple[Spent, ...]
    shown: int
    of: Annotated[int, described("Rows there are.")]
    total: Money
    exact: bool


class CostArguments(Params, frozen=True, kw_only=True):
    by: Annotated[Grouping, described("What to sum up by.")] = "session"
    hours: (
        Annotated[
            float,
            msgspec.Meta(
                description="Only what was spent in the last so many hours; by default all.", gt=0, le=87_600
            ),
        ]
        | None
    ) = None
    limit: Annotated[int, msgspec.Meta(description="At most so many rows.", ge=1, le=500)] = 50


def cost(call: DaemonCall, given: CostArguments) -> Costs:
    since = None if given.hours is None else time.time() - given.hours * 3600
    reply = call.call(LEDGER_TOTALS, CostParams(by=given.by, since=since))
    rows = tuple(Spent.from_record(row, what=row.name or row.key) for row in reply.rows[: given.limit])
    return Costs.from_record(reply, rows=rows, shown=len(rows), of=len(reply.rows))


class Capped(Result, frozen=True):
    SHOWS = "spent=used reserved=held left=free"

    scope: Annotated[str, described("day, all (ever), batch:..., or family:ID (a session and its children).")]
    cap: Money
    spent: Annotated[float, described("US dollars, with what is counted for calls of unknown price.")]
    reserved: Annotated[float, described("US dollars held for work under way.")]
    left: Annotated[float, described("US dollars that new work may still reserve.")]


class Budgets(Result, frozen=True):
    SHOWS = "spent_today=today.used spent_ever=ever.used caps=scopes"

    spent_today: Money
    spent_ever: Money
    caps: Annotated[tuple[Capped, ...], described("None: nothing but each session's own maxCost.")]


class BudgetArguments(Params, frozen=True, kw_only=True):
    """Nothing."""


def budget(call: DaemonCall, _given: BudgetArguments) -> Budgets:
    return Budgets.from_record(call.call(BUDGET_GET, Nothing()))


TOOLS = (
    tool(
        "cost",
        "See what was spent",
        CostArguments,
        Costs,
        cost,
        """What was spent, by session, model, tag, day or week. Free. For the bill after the work.""",
        read_only=True,
        inside=False,
    ),
    tool(
        "budget",
        "See what may be spent",
        BudgetArguments,
        Budgets,
        budget,
        """What was spent today and ever, and the caps that a person has put on it. Free. Look here before
        delegating much: work that finds nothing left is stopped.""",
        read_only=True,
        inside=False,
    ),
)
