"""What is alive now, at a glance."""

from __future__ import annotations

from cms.rpc.verbs import Nothing, Verb
from cms.session.model import LiveSession, Record


class OverviewResult(Record, frozen=True):
    sessions: tuple[LiveSession, ...]
    spent_today: float
    at: float


SESSIONS_OVERVIEW = Verb("sessions.overview", Nothing, OverviewResult, idempotent=True)
