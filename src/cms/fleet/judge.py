"""Has a second session judge what a delegation has come to (`--judge`, `session.judge`).

The judge is an ordinary delegation: read-only, in the same folder (nothing of which is configuration for it),
with its own cap and model, charged to the same shared budgets. It is entered in the store with the message
that it judges before it starts, so after a crash an answer that was paid for is found, not asked for again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cms.errors import CmsError
from cms.fleet.checks import Checked, shown_change
from cms.layers import DELEGATION, limits_of
from cms.session.judge import MOST_CHANGE, judge_options, judge_prompt, read_verdict
from cms.session.model import (
    Interaction,
    InteractionState,
    Judgement,
    Outcome,
    SessionRecord,
)
from cms.session.rounds import Failure
from cms.store import sessions
from cms.units import money

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor

#: US dollars for which it is not worth while to ask one.
_LEAST: Final = 0.001


async def judge_work(supervisor: Supervisor, session: SessionRecord, work: Interaction) -> Checked:
    """Have the work on a message judged, or find what was said of it."""
    rounds = (*await supervisor.store.read(sessions.rounds_before, work), work)
    judges = await supervisor.judges(session)
    for one in judges:
        if one.judges == work.id and (said := await _said(supervisor, one)) is not None:
            return _passed(said)
    ids = {one.id for one in rounds}
    spent = sum(one.total_cost_usd for one in judges if one.judges in ids)
    left = session.options.judge_max_cost - spent
    if left < _LEAST:
        return _none(f"{money(spent)} of {money(session.options.judge_max_cost)} spent on judging", "", 0.0)
    name = await _free_name(supervisor, session.name)
    options = judge_options(session.options, name, max_cost=left, limits=limits_of(DELEGATION))
    first = await supervisor.store.read(sessions.message, session.id, 1)
    messages = rounds if first is None or first.id in ids else (first, *rounds)
    change = await _change(supervisor, session, since=messages[0].timestamp)
    asked = judge_prompt(session.options.judge, messages, change)
    try:
        async with supervisor.changes.lent(session, name):
            result = await supervisor.delegate(options, asked, scopes=work.scopes, judges=work.id)
    except (CmsError, OSError) as error:
        return Checked(not_run=f"the judge did not run: {error}")
    said = read_verdict(result.output, name, result.cost) if result.status is Outcome.COMPLETED else None
    if said is not None:
        return _passed(said)
    why = f"{result.status.value}: {result.error}" if result.error else result.status.value
    if result.status is Outcome.INTERRUPTED:
        return Checked(not_run=f"the judge was {why}")
    return _none(why, name, result.cost)


async def _change(supervisor: Supervisor, session: SessionRecord, *, since: float) -> str:
    """What is different in its folder, or in its own view of it, bounded; or why that cannot be shown."""
    if not session.options.isolated:
        settings = supervisor.settings_of(session)
        return await shown_change(supervisor.mechanism, settings, session.options, since=since)
    try:
        return await supervisor.changes.excerpt(session, MOST_CHANGE)
    except (CmsError, OSError) as error:
        return f"(it cannot be shown: {error})"


async def _said(supervisor: Supervisor, judge: SessionRecord) -> Judgement | None:
    """What a judge has said that nobody lived to hear."""
    last = next(iter(await supervisor.interactions(judge.name, 1)), None)
    if last is None or not last.output:
        return None
    if last.state is InteractionState.UNCHECKED:
        await supervisor.judge_again(judge.name)
    elif last.outcome is not Outcome.COMPLETED:
        return None
    return read_verdict(last.output, judge.name, judge.total_cost_usd)


async def _free_name(supervisor: Supervisor, name: str) -> str:
    # No name that a person can give holds a tilde.
    taken = frozenset(await supervisor.store.read(sessions.names, f"{name}~judge"))
    return next(free for n in range(1, len(taken) + 2) if (free := f"{name}~judge{n}") not in taken)


def _passed(said: Judgement) -> Checked:
    failures = () if said.verdict == "pass" else (Failure(f"the judge: {said.reason}"),)
    return Checked(failures, judge=said)


def _none(why: str, name: str, cost: float) -> Checked:
    """A judge that gives no verdict has not let the work pass; there is nothing to repair by that."""
    line = f"the judge gave no verdict: {why}"
    return Checked((Failure(line),), judge=Judgement("none", why, name, cost), final=True)
