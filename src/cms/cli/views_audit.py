"""What `cms audit --json` prints."""

from __future__ import annotations

from cms.cli.views import iso
from cms.session.audit import AuditLog, Broken
from cms.session.model import Record


class AuditRowView(Record, frozen=True):
    """One decision. `cost`: the session's dollars so far."""

    number: int
    at: str
    kind: str
    verdict: str
    tool: str
    detail: str
    reason: str
    cost: float
    interaction_id: str
    seal: str


class AuditView(Record, frozen=True):
    """The log, or with --verify only what became of the check (`rows` is then empty)."""

    name: str
    session_id: str
    ok: bool
    broken: Broken | None
    length: int
    head: str
    rows: tuple[AuditRowView, ...]


def view_audit(reply: AuditLog, *, rows: bool) -> AuditView:
    return AuditView(
        name=reply.name,
        session_id=reply.session_id,
        ok=reply.broken is None,
        broken=reply.broken,
        length=len(reply.rows),
        head=reply.rows[-1].seal if reply.rows else "",
        rows=tuple(
            AuditRowView(
                number=row.number,
                at=iso(row.decision.at),
                kind=row.decision.kind,
                verdict=row.decision.verdict,
                tool=row.decision.tool,
                detail=row.decision.detail,
                reason=row.decision.reason,
                cost=row.decision.cost,
                interaction_id=row.decision.interaction_id,
                seal=row.seal,
            )
            for row in (reply.rows if rows else ())
        ),
    )
