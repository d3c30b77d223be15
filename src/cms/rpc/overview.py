"""What is alive now, at a glance."""

from __future__ import annotations

from cms.rpc.verbs import Nothing, Verb
from cms.session.model import LiveSession, Record
from cms.session.plan_usage import UsageWindow


class OverviewResult(Record, frozen=True):
    sessions: tuple[LiveSession, ...]
    spent_today: float
    at: float
    plan: tuple[UsageWindow, ...] = ()


class UsageResult(Record, frozen=True):
    """The subscription's windows, as claude told them last; `at`: the time of the answer."""

    windows: tuple[UsageWindow, ...]
    at: float


SESSIONS_OVERVIEW = Verb("sessions.overview", Nothing, OverviewResult, idempotent=True)
USAGE_GET = Verb("usage.get", Nothing, UsageResult, idempotent=True)
