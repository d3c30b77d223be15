"""The audit log of a session."""

from __future__ import annotations

from cms.rpc.verbs import Verb
from cms.session.audit import AuditLog
from cms.session.model import Record


class AuditParams(Record, frozen=True):
    """Ask for a session's audit log, checked.

    Attributes:
        name: of a session, or of one that was deleted; its id does, too.
        head: a seal noted earlier, which the log must still contain; "" for none.
    """

    name: str
    head: str = ""


SESSION_AUDIT = Verb("session.audit", AuditParams, AuditLog, idempotent=True)
