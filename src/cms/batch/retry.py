"""One try of a task has ended: is the task over, or tried again, when and how?

The rules, in prose:

- Trouble of the API's (429, 529, 5xx after claude's own retries, a usage limit) is nobody's fault and costs
  no retry. The task is tried again: in its own conversation if the model has answered there before (nothing
  is repeated, it goes on), else from the start. After `max_api_failures` of them it has failed. Usage limits
  with a known end are not counted: waiting for them always ends.
- Refused credentials (401, 403, not logged in) put the task back as it was; the batch stops.
- `retries` are for a task's own failures, those of `retryOn`. A task that may have changed something is not
  repeated silently: it counts as failed, says so, and can be continued by hand. `retryActed` permits it.
- A try whose checks failed when nobody was there to repair it (they were run after a crash) goes on with its
  repair; that costs no retry either.
- A try that was cut off by us (a crash, a stop, a shutdown) goes on in its own conversation where that is
  safe: where no tool that may change something was still at work. Where the model had not answered yet
  and nothing ran, it begins anew. Else it is reported as interrupted.

What may have acted: every tool that the gate let through and that is not known to only read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from cms.batch.model import Place, Task, TaskStatus
from cms.batch.throttle import Trouble, backoff
from cms.protocol.tools import AGENT_TOOLS, ANSWER_TOOL, OWN_TOOLS, READ_TOOLS
from cms.session.model import DelegateResult, Outcome

#: Tools whose call changes nothing outside of the conversation; what a subagent does it is asked for itself.
HARMLESS: Final = frozenset({*READ_TOOLS, *OWN_TOOLS, *AGENT_TOOLS, ANSWER_TOOL})

#: What a task is told that goes on in its own conversation.
GO_ON: Final = (
    "Your work was interrupted from outside. What you did before stands; your very last step may or may not "
    "have taken effect. Look at how things stand, then go on with the task; do not repeat what is done."
)


class Try(msgspec.Struct, frozen=True):
    """What is known of a try that has ended.

    Attributes:
        api_status: the HTTP status with which the API ended it, 401 also where nobody is logged in.
        resets_at: when the usage limit that ended it ends.
        repairable: it failed its checks, and its session can still be told.
        turns: model replies in the whole conversation.
        acted: it may have changed something.
    """

    outcome: Outcome
    turns: int = 0
    acted: bool = False
    api_status: int | None = None
    resets_at: float | None = None
    repairable: bool = False
    error: str = ""


class Terms(msgspec.Struct, frozen=True):
    """What was agreed for the task, and how often it was tried before the try that has just ended."""

    retries: int = 0
    retry_on: Sequence[Outcome] = ()
    retry_acted: bool = False
    max_api_failures: int = 12
    failures: int = 0
    api_failures: int = 0


def try_of(task: Task, result: DelegateResult, *, acted: bool) -> Try:
    """A task's try, by its result."""
    return Try(
        outcome=result.status,
        turns=result.turns + task.go_on,
        acted=acted,
        api_status=result.api_status,
        resets_at=result.resets_at,
        repairable=result.repairable,
        error=result.error or "",
    )


def terms_of(task: Task, max_api_failures: int) -> Terms:
    """A task's terms, in a batch that gives up after so many tries that the API ended."""
    return Terms(
        retries=task.options.retries,
        retry_on=task.options.retry_on,
        retry_acted=task.options.retry_acted,
        max_api_failures=max_api_failures,
        failures=task.failures,
        api_failures=task.api_failures,
    )


class Fate(msgspec.Struct, frozen=True):
    """What becomes of the task.

    Attributes:
        status: how it ended, or `waiting` for another try.
        due: seconds from now to the next try.
        go_on: the next try goes on in this one's conversation.
        counts: what this try adds to, if it is tried again.
        reason: for a person.
    """

    status: TaskStatus
    due: float = 0.0
    go_on: bool = False
    counts: Literal["", "failure", "api_failure"] = ""
    trouble: Trouble | None = None
    reason: str = ""


def may_have_acted(tools: Iterable[str]) -> bool:
    """Whether any of the tools may have changed something. `tools`: those that were let through."""
    return any(tool not in HARMLESS for tool in tools)


def trouble_of(tried: Try) -> Trouble | None:
    """The API's part in how a try ended."""
    status = tried.api_status
    if tried.outcome not in (Outcome.FAILED, Outcome.RATE_LIMITED, Outcome.STALLED):
        return None  # it came to its end, or to a limit of its own
    if status in (401, 403):
        return "auth"
    if tried.outcome is Outcome.RATE_LIMITED or status == 429:
        return "limit" if tried.resets_at is not None else "overload"
    return "overload" if status is not None and status >= 500 else None


def judge(tried: Try, terms: Terms, now: float, jitter: float) -> Fate:
    """What becomes of a task whose try has ended by itself."""
    trouble = trouble_of(tried)
    status = TaskStatus(tried.outcome.value)
    if trouble == "auth":
        return Fate(TaskStatus.WAITING, trouble=trouble, go_on=tried.turns > 0, reason=tried.error)
    if trouble == "limit" and tried.resets_at is not None and tried.resets_at > now:
        return Fate(
            TaskStatus.WAITING,
            due=tried.resets_at - now,
            go_on=tried.turns > 0,
            trouble="limit",
            reason="waits for the usage limit to reset",
        )
    if trouble is not None:
        api_failures = terms.api_failures + 1
        if api_failures >= terms.max_api_failures:
            reason = f"gave up after {api_failures} tries because of API errors"
            return Fate(status, trouble="overload", reason=reason)
        return Fate(
            TaskStatus.WAITING,
            due=backoff(api_failures, jitter),
            go_on=tried.turns > 0,
            counts="api_failure",
            trouble="overload",
            reason=f"the API had trouble ({tried.api_status or 429}), tried again",
        )
    if tried.repairable:
        return Fate(TaskStatus.WAITING, go_on=True, reason="its checks failed; it goes on to fix that")
    if status is TaskStatus.COMPLETED or tried.outcome not in terms.retry_on or not terms.retries:
        return Fate(status)
    if terms.failures >= terms.retries:
        return Fate(status, reason=f"gave up after {terms.failures + 1} tries")
    if tried.acted and not terms.retry_acted:
        return Fate(
            status,
            reason="not retried: it may have changed something (retryActed allows it)",
        )
    return Fate(
        TaskStatus.WAITING,
        due=backoff(terms.failures + 1, jitter),
        counts="failure",
        reason=f"try {terms.failures + 1} ended {status.value}",
    )


class Remains(msgspec.Struct, frozen=True):
    """What is known of a try whose end nobody saw.

    Attributes:
        sent: claude may have been given the prompt.
        turns: model replies that the store hold.
        allowed: the tools of the calls that were let through, a name for each (from the audit log, which is
            on disk before a tool runs).
        at_work: of those, the ones that claude has told no end of (from the raw log).
        exact: what it cost is known to the cent.
        can_continue: its conversation is there.
        cost: of this try; None: that is to be found out.
        place: where it was done, if not here.
    """

    sent: bool
    turns: int = 0
    allowed: Sequence[str] = ()
    at_work: Sequence[str] = ()
    exact: bool = False
    can_continue: bool = True
    cost: float | None = None
    place: Place | None = None


def salvage(remains: Remains) -> Fate:
    """What becomes of a task that was cut off in the middle of a try."""
    acted = may_have_acted(remains.allowed)
    if not remains.sent or (not acted and not remains.turns):
        return Fate(TaskStatus.WAITING, reason="interrupted before it did anything; started again")
    if may_have_acted(remains.at_work):
        return Fate(
            TaskStatus.INTERRUPTED,
            reason="interrupted while a tool that may change something was running; check what it did",
        )
    if not remains.turns:
        # Something acted, and no reply is on the store: they do not fit, so nothing is presumed.
        return Fate(TaskStatus.INTERRUPTED, reason="interrupted, and what it did is unknown")
    if not remains.can_continue:
        return Fate(TaskStatus.INTERRUPTED, reason="interrupted, and its conversation is gone")
    return Fate(TaskStatus.WAITING, go_on=True, reason="interrupted; it continues its conversation")
