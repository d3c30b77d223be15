"""What a turn stores in one step with its money: that it begins, and that it has spent."""

from __future__ import annotations

from collections.abc import Sequence

from cms.session.audit import AuditEntry
from cms.session.budget import Grant
from cms.session.model import Interaction, SessionRecord
from cms.store import audit, money, sessions
from cms.store.database import Database
from cms.store.records import Charge


def begin(
    db: Database,
    session: SessionRecord,
    interaction: Interaction,
    at: float,
    entries: Sequence[AuditEntry] = (),
) -> Grant:
    """A message that is about to be sent, with the money reserved for it.

    If its scopes have nothing left (`Grant.short`) nothing is written: it is not to be sent.
    """
    granted = money.reserve(db, interaction.id, session.id, interaction.scopes, at)
    if not granted.short:
        sessions.save(db, session, interaction)
        audit.add(db, entries)
    return granted


def spend(
    db: Database, session: SessionRecord, charges: Sequence[Charge], interaction_id: str, at: float
) -> Grant:
    """Charges, with more money reserved for the interaction that goes on.

    Args:
        interaction_id: "" if none is under way.
    """
    sessions.save(db, session)
    money.add_charges(db, charges)
    return renew(db, session.id, interaction_id, at) if interaction_id else Grant()


def renew(db: Database, session_id: str, interaction_id: str, at: float) -> Grant:
    """Asks again for money for an interaction that is under way."""
    return money.reserve(db, interaction_id, session_id, (), at)
