"""What a session's life leaves in the store beside itself: lines of its audit log, rows of its ledger."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from cms.session import ledger
from cms.session.audit import AuditEntry, EntryKind
from cms.session.ledger import EPSILON
from cms.session.model import Receipt, TokenUsage, Walls
from cms.store.records import Charge


class MakeEntry(Protocol):
    """Makes an entry about now."""

    def __call__(self, kind: EntryKind, verdict: str, detail: str = "", reason: str = "") -> AuditEntry: ...


def first_line(prompt: str) -> str:
    """A prompt for a line of the audit log."""
    return (prompt.strip().splitlines() or [""])[0][:200]


def entries_of_walls(walls: Walls, entry: MakeEntry) -> Iterator[AuditEntry]:
    """What is to be told of the walls as a process comes up."""
    if not walls.safety:
        yield entry("safety", "off", "no protected paths, no gate", "asked for with --no-safety")
    for one in walls.unheld:
        yield entry("safety", "not held", one)
    for one in walls.left_out:
        yield entry("safety", "left out", one)


def entries_of_end(receipt: Receipt, entry: MakeEntry) -> Iterator[AuditEntry]:
    """How a process ended, and what the tripwire found."""
    if receipt.walls is not None:
        for one in receipt.walls.changed:
            yield entry("tripwire", "changed", one, "the session may have done it")
        for one in receipt.walls.outside:
            yield entry("tripwire", "changed", one, "from outside: the operating system held it")
    steps = " ".join(f"{step.name}{'' if step.worked else ' (in vain)'}" for step in receipt.steps)
    left = f", left: {', '.join(receipt.left)}" if receipt.left else ""
    detail = f"{steps}, {len(receipt.alive)} killed, {receipt.seconds:.3f} s{left}"
    yield entry("end", "proved" if receipt.empty else "unproved", detail, receipt.reason)


def rows_of_charges(
    charges: Iterable[ledger.Charge],
    *,
    session_id: str,
    process: str,
    model: str,
    at: float,
) -> list[Charge]:
    """The growth of a process's total as rows of the ledger, one for each model that grew.

    Args:
        model: the one in use, which gets what claude's figures per model do not explain.
    """
    return [
        Charge(
            session_id=session_id,
            interaction_id=charge.interaction_id,
            process=process,
            model=name,
            usage=usage,
            at=at,
            process_total=charge.total,
        )
        for charge in charges
        for name, usage in _by_model(charge, model)
    ]


def _by_model(charge: ledger.Charge, model: str) -> Iterator[tuple[str, TokenUsage]]:
    yield from charge.usage.items()
    rest = charge.usd - sum(usage.cost_usd for usage in charge.usage.values())
    if rest > EPSILON:
        yield model, TokenUsage(cost_usd=rest)
