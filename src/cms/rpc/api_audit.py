"""The words about the audit log; apart, because only one command needs them."""

from __future__ import annotations

from cms.session.audit import AuditRow, Broken
from cms.session.model import Record


class AuditParams(Record, frozen=True):
    """Ask for a session's audit log, checked.

    Attributes:
        head: a seal noted earlier, which the log must still contain; "" for none.
    """

    name: str
    head: str = ""


class AuditReply(Record, frozen=True):
    """The log, oldest first; where a row is broken, those before it."""

    name: str
    session_id: str
    rows: tuple[AuditRow, ...]
    broken: Broken | None


METHODS: dict[str, tuple[type[Record], tuple[type[Record], ...]]] = {
    "session.audit": (AuditParams, (AuditReply,)),
}
