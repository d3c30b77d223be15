"""A batch's money: may this task start under the cap?

Before a task starts, its own limit is reserved; when it has ended, the reservation gives way to what it cost.
A task starts only where spent + reserved + its limit stay within the cap. So the sum of all costs passes the
cap by at most what single tasks pass their own limits: one API call for each session that ran into its limit
(and one for each of its subagents). A cost that is not known to the cent counts as the whole reservation.
"""

from __future__ import annotations

from typing import Final

import msgspec

from cms.batch.many import Many

EPSILON: Final = 1e-9


class Allowance(msgspec.Struct, frozen=True):
    """What a batch may spend, has spent, and has promised.

    Attributes:
        cap: US dollars; None: no cap, then nothing needs to be reserved.
        spent: of tasks and tries that have ended, counted as the cap counts them.
        held: the reservations of what runs, by task.
    """

    cap: float | None = None
    spent: float = 0.0
    held: Many = Many()

    @property
    def reserved(self) -> float:
        return self.held.total

    @property
    def left(self) -> float:
        """What can still be reserved; infinite without a cap."""
        return float("inf") if self.cap is None else self.cap - self.spent - self.reserved


def fits(allowance: Allowance, limit: float | None) -> bool:
    """Whether a task of that limit may start now. One without a limit never does under a cap."""
    if allowance.cap is None:
        return True
    return limit is not None and limit <= allowance.left + EPSILON


def reserve(allowance: Allowance, task: int, limit: float | None) -> Allowance:
    """With the task's limit reserved. The caller has asked `fits`."""
    return msgspec.structs.replace(allowance, held=allowance.held.put(task, limit or 0.0))


def counted(cost: float, reserved: float, *, exact: bool) -> float:
    """What one try counts for: its cost, or where that is only a lower bound at least its reservation."""
    return cost if exact else max(cost, reserved)


def settle(allowance: Allowance, task: int, cost: float, *, exact: bool) -> Allowance:
    """The try has ended: its reservation is exchanged for its cost."""
    reserved = allowance.held.get(task)
    held = allowance.held.without(task)
    return msgspec.structs.replace(
        allowance, held=held, spent=allowance.spent + counted(cost, reserved, exact=exact)
    )
