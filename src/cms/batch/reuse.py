"""When a task need not be done, because an earlier batch has paid for its result. Pure.

A result is looked up by a key: a hash over everything that it rests on. That is the prompt and the context
with all that was put in, every option but the name and the tags (its checks and limits are among them), which
attempt it is, and what is around it: claude's version, and the state of the folder.

Only a result that changed nothing is kept: a task that left its folder otherwise than it found it has done
more than answer, and whoever wants it again wants that again.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from cms.batch.ends import End
from cms.batch.model import Task, TaskOptions, TaskResult, TaskStatus
from cms.batch.retry import Fate

#: Ends that are kept.
KEPT: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.VERIFICATION_FAILED})


def key_of(options: TaskOptions, prompt: str, context: str, around: str) -> str:
    """The key of a task's result."""
    session = msgspec.structs.replace(options.session, name="", tags=())
    attempt = 1 if options.origin is None else options.origin.attempt
    rests_on: list[object] = [session, prompt, context, attempt, around]
    if options.attachments:
        rests_on.append([(one.name, one.sha256) for one in options.attachments])
    return hashlib.sha256(msgspec.json.encode(rests_on, order="sorted")).hexdigest()


def wanted(attempts: int) -> frozenset[TaskStatus]:
    """Which ends are reused.

    Of several attempts also those whose checks failed: they are verdicts, too, and to draw only the failures
    again would make pass@1 better than it is.
    """
    return KEPT if attempts > 1 else frozenset({TaskStatus.COMPLETED})


def reused(task: Task) -> End:
    """The end of a task that has the result of another."""
    result = task.result or TaskResult()
    # The session of that result has another name, or is gone; and it took no time.
    kept = msgspec.structs.replace(result, can_continue=False, duration=0.0, next_step=None)
    return End(Fate(task.status), kept, undone=True)
