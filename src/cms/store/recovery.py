"""After a crash: what became of the sessions and messages that a dead process left open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from cms.session.model import LIVE, Interaction, InteractionState, Outcome, SessionRecord, SessionStatus
from cms.store import money, sessions
from cms.store.database import Database
from cms.store.records import Recovery

#: What a crash makes of an interaction in a state: the state that it gets, and the words for a person.
_CRASHED: Final[dict[InteractionState, tuple[InteractionState, str]]] = {
    InteractionState.QUEUED: (
        InteractionState.INTERRUPTED,
        "never sent: cms ended unexpectedly before claude was given this message; safe to send again",
    ),
    InteractionState.SENT: (
        InteractionState.DOUBTFUL,
        (
            "cms ended unexpectedly just as claude was given this message, which it may or may not have "
            "read: check what changed before you send it again"
        ),
    ),
    InteractionState.RUNNING: (
        InteractionState.INTERRUPTED,
        (
            "cms ended unexpectedly while claude was working on this message; what it did stays, "
            "and its conversation can be resumed"
        ),
    ),
    InteractionState.CHECKING: (
        InteractionState.UNCHECKED,
        (
            "cms ended unexpectedly after the work on this message, and its checks did not finish; "
            "what it did stays, and its conversation can be resumed"
        ),
    ),
}
#: Of these it is known what they cost.
_EXACT: Final = frozenset({InteractionState.QUEUED, InteractionState.CHECKING})


def recover(db: Database, now: float) -> Recovery:
    """Writes down what became of what a crash left open, and returns it as it now stands.

    Sessions with a live status become `stopped`, and so do those that were completed and were given one more
    message. One that was `queued` was certainly never sent and becomes `interrupted`, one that was `sent`
    becomes `doubtful`, one that was `running` `interrupted`; the costs of the last two are lower bounds from
    now on. One that was `checking` becomes `unchecked`.
    `error` tells a person what that means. What belongs to another process that lives is left alone, and so
    is what this store wrote.
    """
    records: list[SessionRecord] = []
    interactions: list[Interaction] = []
    for record, under_way in sessions.left_open(db):
        ended = [_crashed_interaction(db, interaction, now) for interaction in under_way]
        interactions += ended
        records.append(_crashed_session(db, record, ended, now))
        sessions.save(db, records[-1], *ended)
    db.sweep_owners()
    return Recovery(tuple(records), tuple(interactions))


def _crashed_interaction(db: Database, interaction: Interaction, now: float) -> Interaction:
    spent = money.total(db, interaction.session_id, interaction_id=interaction.id).usage.cost_usd
    return crashed(interaction, spent, now)


def crashed(interaction: Interaction, spent: float, now: float) -> Interaction:
    """What a crash makes of an interaction that was open.

    Args:
        spent: on it, by the ledger.
    """
    state, error = _CRASHED[interaction.state]
    return msgspec.structs.replace(
        interaction,
        state=state,
        error=error,
        is_error=True,
        outcome=Outcome.INTERRUPTED,
        ended=now if interaction.ended is None else interaction.ended,
        cost=max(interaction.cost, spent),
        cost_exact=interaction.cost_exact and interaction.state in _EXACT,
    )


def _crashed_session(
    db: Database, record: SessionRecord, ended: Sequence[Interaction], now: float
) -> SessionRecord:
    # A busy session without a message of ours: a background subagent, whose cost nobody was told. A
    # paused one may have been at work, too.
    paused = record.status is SessionStatus.PAUSED
    busy = paused or record.status is SessionStatus.BUSY
    if ended:
        error = f"message {ended[-1].number}: {ended[-1].error}"
    elif paused:
        error = (
            "cms ended unexpectedly while this session was paused; its conversation can be resumed, "
            "and it takes messages again"
        )
    elif busy:
        error = (
            "cms ended unexpectedly while claude was working; what it had done stands, "
            "and its conversation can be resumed"
        )
    else:
        error = "cms ended unexpectedly while this session had nothing to do; nothing was lost"
    # That the message before this one was judged done says nothing of this one.
    stale = bool(ended) and record.status is SessionStatus.COMPLETED
    return msgspec.structs.replace(
        record,
        status=SessionStatus.STOPPED if record.status in LIVE or stale else record.status,
        error=error,
        pid=None,
        last_saved=now,
        total_cost_usd=max(record.total_cost_usd, money.total(db, record.id).usage.cost_usd),
        cost_exact=record.cost_exact and not busy and all(one.cost_exact for one in ended),
    )
