"""A try of a task has ended: what is written down of it.

Whoever did it (`fleet.crew`) gives facts; here they become the task's new standing. Pure.
"""

from __future__ import annotations

import msgspec

from cms.batch import retry
from cms.batch.model import OVER, Task, TaskResult, TaskStatus, result_of
from cms.batch.retry import Fate, Remains
from cms.session.model import DelegateResult, Record


class Report(Record, frozen=True):
    """What a try came to.

    Attributes:
        acted: it may have changed something.
        checked: False: its work has ended, and its checks were cut off; this is what it came to without them.
    """

    result: DelegateResult
    acted: bool = True
    checked: bool = True


#: What became of a try that nobody saw end: its result, what it left, or None: it came to nothing.
Found = Report | Remains | None


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
    kept = result_of(result, duration=earlier + took, reasons=reasons)
    return End(fate, kept, result.cost, result.cost_exact, heard, result.resets_at)


def cut_off(task: Task, remains: Remains | None, spent: float, took: float) -> End:
    """A try that was cut off by us, or by a crash. `spent`: what its session has cost in all."""
    if remains is None:
        # As it was before it was begun.
        fate = Fate(TaskStatus.WAITING, go_on=task.go_on, reason="cut off before it had begun")
        return End(fate, task.result, undone=True)
    fate = retry.salvage(remains)
    error = fate.reason if fate.status in OVER else ""
    result = TaskResult(error=error, duration=took, can_continue=remains.can_continue)
    return End(fate, result, max(0.0, spent - task.paid), remains.exact or not remains.sent)
