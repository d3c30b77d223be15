"""The store's own values: what a charge, a total and a recovery are.

They are not in `session/model.py` because no session needs them to think: they are what is written down about
it. Units are the model's: US dollars, seconds since the epoch.
"""

from __future__ import annotations

from cms.session.model import Interaction, Record, SessionRecord, TokenUsage


class Charge(Record, frozen=True):
    """Money that one model took since the last charge of the same process: a row that is never changed.

    Attributes:
        process: the id of the run of `claude` that spent it (ours, one per start).
        usage: the tokens and, as `cost_usd`, the dollars of this charge alone. Never negative.
        process_total: what the process had reported in all when this was written, in dollars.
        exact: False if at least this much was spent (the process died before it said).
    """

    session_id: str
    interaction_id: str
    process: str
    model: str
    usage: TokenUsage
    at: float
    process_total: float = 0.0
    exact: bool = True


class Total(Record, frozen=True):
    """What a group of charges comes to.

    Attributes:
        key: the session id, the model, the tag, the day (`2026-11-22`, in local time), the ISO week
            (`2026-W47`); "" for everything, and for what has no tag.
        name: the session's name where charges are grouped by session, kept after the session is deleted.
    """

    key: str
    usage: TokenUsage
    charges: int
    exact: bool
    name: str = ""


class Recovery(Record, frozen=True):
    """What a crash had left open, as it stands in the store now: to be logged, and told to the user."""

    sessions: tuple[SessionRecord, ...] = ()
    interactions: tuple[Interaction, ...] = ()
