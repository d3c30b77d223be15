"""A try of a task has ended: what is written down of it.

Whoever did it (`fleet.crew`) gives facts; here they become the task's new standing. Pure.
"""

from __future__ import annotations

import msgspec

from cms.batch import retry
from cms.batch.model import OVER, Place, Task, TaskResult, TaskStatus, result_of
from cms.batch.retry import Fate, Remains
from cms.batch.throttle import backoff
from cms.session.model import DelegateResult, Record


class Report(Record, frozen=True):
    """What a try came to.

    Attributes:
        acted: it may have changed something.
        checked: False: its work has ended, and its checks were cut off; this is what it came to without them.
        place: where it was done, if not here.
        patch: the file with what it changed there.
        branch: of its repository, with the same.
    """

    result: DelegateResult
    acted: bool = True
    checked: bool = True
    place: Place | None = None
    patch: str = ""
    branch: str = ""


class AtWork(Record, frozen=True):
    """A try that goes on, though nobody here looks on: whoever goes on with the batch follows it."""


class Used(Record, frozen=True):
    """What the session of a task's name has taken so far, US dollars and tokens."""

    cost: float = 0.0
    tokens: int = 0


#: What became of a try that nobody saw end: its result, what it left, or None: it came to nothing.
Found = Report | Remains | AtWork | None


class End(msgspec.Struct, frozen=True):
    """What is written down of a try.

    Attributes:
        cost, exact: of this try.
        heard: the API had answered it.
        resets_at: when the usage limit that ended it ends.
        undone: it never began, and counts for nothing.
    """

    fate: Fate
    result: TaskResult | None
    cost: float = 0.0
    exact: bool = True
    heard: bool = False
    resets_at: float | None = None
    undone: bool = False
    tokens: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the task is over with it."""
        return self.fate.status in OVER

    @property
    def worked(self) -> float:
        """Seconds of work, all tries."""
        return self.result.duration if self.result is not None else 0.0

    def applied(self, task: Task, now: float) -> Task:
        """The task as it stands then."""
        fate = self.fate
        return msgspec.structs.replace(
            task,
            status=fate.status,
            due=0.0 if self.is_last or not fate.due else now + fate.due,
            go_on=fate.go_on,
            tries=task.tries - self.undone,
            failures=task.failures + (fate.counts == "failure"),
            api_failures=task.api_failures + (fate.counts == "api_failure"),
            cost=task.cost + self.cost,
            tokens=task.tokens + self.tokens,
            exact=task.exact and self.exact,
            ended=now if self.is_last else None,
            result=self.result,
            reason=fate.reason,
        )


def reported(task: Task, report: Report, fate: Fate, took: float, *, heard: bool = False) -> End:
    """A try with a result. `took`: seconds."""
    result = report.result
    earlier = task.result.duration if task.result is not None else 0.0
    reasons = (fate.reason,) if fate.reason and fate.status in OVER else ()
    kept = result_of(
        result,
        duration=earlier + took,
        reasons=reasons,
        place=report.place,
        patch=report.patch,
        branch=report.branch,
    )
    return End(fate, kept, result.cost, result.cost_exact, heard, result.resets_at)


def cut_off(task: Task, remains: Remains | None, spent: float, took: float) -> End:
    """A try that was cut off by us, or by a crash. `spent`: what its session has cost in all."""
    if remains is None:
        # As it was before it was begun.
        fate = Fate(TaskStatus.WAITING, go_on=task.go_on, reason="interrupted before it started")
        return End(fate, task.result, undone=True)
    fate = retry.salvage(remains)
    error = fate.reason if fate.status in OVER else ""
    result = TaskResult(error=error, duration=took, can_continue=remains.can_continue, place=remains.place)
    cost = max(0.0, spent - task.paid) if remains.cost is None else remains.cost
    return End(fate, result, cost, remains.exact or not remains.sent)


#: A task whose node is lost is begun so often again, at most: it may be the task that kills nodes.
RERUNS = 2
#: A task that so many nodes did not take, one after the other, will hardly find one that does.
REFUSALS = 6


def lost(task: Task, why: str, cost: float, took: float, place: Place | None, *, rerun: bool) -> End:
    """Nobody knows what a try came to, or cost: it counts as all that it might have cost.

    Args:
        cost: the last that was heard.
        rerun: whoever started the batch wants it begun anew all the same.
    """
    fate = Fate(TaskStatus.LOST, reason=why)
    if rerun and task.failures < RERUNS:
        fate = Fate(TaskStatus.WAITING, counts="failure", reason=f"lost and started again: {why}")
    result = TaskResult(error=why, duration=took, reasons=(f"lost: {why}",), place=place)
    return End(fate, result, cost, exact=False)


def refused(task: Task, why: str, jitter: float) -> End:
    """The node that it came to does not take it. Nothing was begun; another one may be able to."""
    tries = task.api_failures + 1
    if tries >= REFUSALS:
        return End(Fate(TaskStatus.FAILED, reason=why), TaskResult(error=why))
    fate = Fate(
        TaskStatus.WAITING, due=backoff(tries, jitter), go_on=task.go_on, counts="api_failure", reason=why
    )
    return End(fate, task.result)


def withdrawn(task: Task, remains: Remains | None, spent: float, took: float, reason: str) -> End:
    """A try that was ended because somebody does not want the task any more."""
    fate = Fate(TaskStatus.CANCELLED, reason=reason)
    there = remains is not None and remains.can_continue
    result = TaskResult(error=reason, duration=took, can_continue=there)
    exact = remains is None or remains.exact or not remains.sent
    return End(fate, result, max(0.0, spent - task.paid), exact)
