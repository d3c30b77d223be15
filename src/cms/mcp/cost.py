"""Tools about money: what was spent, and what may be. Setting a budget is a person's business."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec

from cms.mcp.call import DaemonCall
from cms.mcp.results import Money, described
from cms.mcp.tool import Params, tool
from cms.rpc.money import BUDGET_GET, LEDGER_TOTALS, CostParams, Grouping
from cms.rpc.verbs import Nothing
from cms.session.model import Record


class Spent(Record, frozen=True):
    what: Annotated[str, described("A session's name, a model, or a day.")]
    cost: Money
    exact: Annotated[bool, described("False: at least this much; a process died before it told.")]
    input_tokens: int
    output_tokens: int


class Costs(Record, frozen=True):
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
    return Costs(
        rows=tuple(
            Spent(
                what=row.name or row.key,
                cost=round(row.usage.cost_usd, 6),
                exact=row.exact,
                input_tokens=row.usage.input_tokens,
                output_tokens=row.usage.output_tokens,
            )
            for row in reply.rows[: given.limit]
        ),
        shown=min(given.limit, len(reply.rows)),
        of=len(reply.rows),
        total=round(reply.total.cost_usd, 6),
        exact=reply.exact,
    )


class Capped(Record, frozen=True):
    scope: Annotated[str, described("day, all (ever), batch:..., or family:ID (a session and its children).")]
    cap: Money
    spent: Annotated[float, described("US dollars, with what is counted for calls of unknown price.")]
    reserved: Annotated[float, described("US dollars held for work under way.")]
    left: Annotated[float, described("US dollars that new work may still reserve.")]


class Budgets(Record, frozen=True):
    spent_today: Money
    spent_ever: Money
    caps: Annotated[tuple[Capped, ...], described("None: nothing but each session's own maxCost.")]


class BudgetArguments(Params, frozen=True, kw_only=True):
    """Nothing."""


def budget(call: DaemonCall, _given: BudgetArguments) -> Budgets:
    reply = call.call(BUDGET_GET, Nothing())
    return Budgets(
        spent_today=round(reply.today.spent + reply.today.unknown, 6),
        spent_ever=round(reply.ever.spent + reply.ever.unknown, 6),
        caps=tuple(
            Capped(
                scope=one.scope,
                cap=one.cap,
                spent=round(one.used, 6),
                reserved=round(one.held, 6),
                left=round(max(one.left, 0.0), 6),
            )
            for one in reply.scopes
        ),
    )


TOOLS = (
    tool(
        "cost",
        "See what was spent",
        CostArguments,
        Costs,
        cost,
        """What sessions have cost, from the ledger: by session, model or day. Free. Use it for the bill at
        the end of a piece of work.""",
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
