"""Everything that there is in numbers."""

from __future__ import annotations

from cms.rpc.verbs import Nothing, Verb
from cms.session.model import Record
from cms.telemetry.metrics import Family


class Metrics(Record, frozen=True):
    families: tuple[Family, ...]


DAEMON_METRICS = Verb("daemon.metrics", Nothing, Metrics, idempotent=True, while_stopping=True)
