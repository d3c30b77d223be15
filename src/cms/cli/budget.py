"""`cms budget set|show|clear`: what all sessions together may spend, in a day and in all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter

from cms.cli import flags, io
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object
from cms.rpc.money import BUDGET_GET, BUDGET_SET, SetBudgetParams
from cms.rpc.verbs import Nothing
from cms.session.budget import ALL, DAY, Budget, name_of
from cms.units import money

#: What `--json` tells of a cap, in US dollars. `unknown`: counted for calls that never reported their price.
_SCOPE = "scope cap spent unknown reserved=held at_work=holders left=free"


def _amount(flag: str, help_text: str) -> Parameter:
    return Parameter(name=flag, converter=flags.to_money, metavar="USD", help=help_text)


def set_(
    *,
    daily: Annotated[float | None, _amount("--daily", "Cap for a day, midnight to midnight.")] = None,
    total: Annotated[
        float | None, _amount("--total", "Cap for all time, including what is already spent.")
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Cap what all sessions together may spend.

    Applies at once, also to sessions at work. Each session at work may pass a cap by at most one API call. A
    message that finds nothing left is not sent and ends with cost_exceeded (exit code 4).

    Example::

        cms budget set --daily 20
    """
    if daily is None and total is None:
        raise UsageError("budget set needs --daily, --total or both", hint="cms budget set --daily 20")
    caps = {scope: usd for scope, usd in ((DAY, daily), (ALL, total)) if usd is not None}
    return _change(caps, json=json)


def clear(
    *,
    daily: Annotated[bool, flags.switch("--daily", "Only the daily cap.")] = False,
    total: Annotated[bool, flags.switch("--total", "Only the total cap.")] = False,
    json: JsonFlag = False,
) -> int:
    """Remove the caps: the one you name, or both.

    Example::

        cms budget clear --daily
    """
    both = daily == total
    return _change({scope: None for scope, named in ((DAY, daily), (ALL, total)) if named or both}, json=json)


def show(*, json: JsonFlag = False) -> int:
    """Show what was spent and what is left under each cap.

    Example::

        cms budget show
    """
    with io.daemon() as client:
        reply = client.call(BUDGET_GET, Nothing())
    return _tell(reply, json=json)


def _change(caps: Mapping[str, float | None], *, json: bool) -> int:
    with io.daemon() as client:
        reply = client.call(BUDGET_SET, SetBudgetParams(dict(caps)))
    return _tell(reply, json=json)


def _tell(budget: Budget, *, json: bool) -> int:
    if json:
        scopes = [json_object(one, _SCOPE) for one in budget.scopes]
        io.show_json(json_object(budget, "spent_today=today.spent spent_ever=ever.spent", scopes=scopes))
    else:
        io.show_lines(lines(budget))
    return ExitCode.COMPLETED


def lines(budget: Budget) -> list[str]:
    """The budget for a person."""
    found = [
        f"spent today   {money(budget.today.spent)}",
        f"spent ever    {money(budget.ever.spent)}",
    ]
    if not budget.scopes:
        return [*found, "no cap is set; `cms budget set --daily 20` sets one"]
    for one in budget.scopes:
        parts = [f"{money(one.used)} of {money(one.cap)} used"]
        if one.unknown:
            parts.append(f"{money(one.unknown)} of it for calls that never reported their price")
        if one.holders:
            parts.append(f"{money(one.held)} reserved by {one.holders} at work")
        parts.append(f"{money(one.free)} left")
        found.append(f"{name_of(one.scope)}: {', '.join(parts)}")
    return found
