"""Steer a batch that is there already: `cms batch set|requeue|cancel`. Each is a line of `cms audit ID`."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from cyclopts import Parameter

from cms.batch.header import ALTERABLE, ALTERABLE_TASKS, HEADER, Header
from cms.batch.model import RESUMABLE
from cms.cli import batch_render as render
from cms.cli import flags, io
from cms.cli.batches import IdWord, ReasonFlag, batch_json, pick, show_one
from cms.cli.flags import JsonFlag
from cms.cli.option_flags import takes, typed
from cms.errors import ExitCode, UsageError
from cms.options import OPTIONS, Layer
from cms.rpc.batches import (
    BATCH_CANCEL,
    BATCH_REQUEUE,
    BATCH_SET,
    BATCH_WITHDRAW,
    BatchChanged,
    BatchParams,
    BatchRequeueParams,
    BatchSetParams,
    BatchWithdrawParams,
)
from cms.units import plural

TaskWords = Annotated[str, flags.word("The tasks' names.", "TASK")]

_OF_BATCH = {field: HEADER[field] for field in ALTERABLE}
_OF_TASKS = {field: OPTIONS[field] for field in ALTERABLE_TASKS}


@takes("batch", _OF_BATCH, defaults=False)
class _BatchFlags:
    """What can be changed of a batch."""


@takes("batch", _OF_TASKS, defaults=False)
class _TaskFlags:
    """What can be changed of its tasks."""


def set_(
    batch: IdWord = None,
    /,
    *,
    whole: Annotated[_BatchFlags, Parameter(name="*")] = _BatchFlags(),  # noqa: B008 - it is frozen
    tasks: Annotated[_TaskFlags, Parameter(name="*")] = _TaskFlags(),  # noqa: B008 - it is frozen
    reason: ReasonFlag = "",
    json: JsonFlag = False,
) -> int:
    """Change a batch's limits, and options of tasks not yet started.

    Running tasks keep what they started with. A limit already passed ends the batch at once.

    Examples::

        cms batch set tasks-3f9a1c --max-parallel 4 --max-cost 30
        cms batch set tasks-3f9a1c --model opus --reason 'haiku fails often'
    """
    word = pick("set", batch)
    of_tasks = msgspec.structs.replace(Layer(), **typed(tasks, _OF_TASKS))
    changes = msgspec.structs.replace(Header(defaults=of_tasks), **typed(whole, _OF_BATCH))
    with io.daemon() as client:
        changed = client.call(BATCH_SET, BatchSetParams(word, changes, reason))
    return _show(changed, "changed" if of_tasks != Layer() else "", json=json)


def requeue(
    batch: IdWord = None,
    /,
    *names: TaskWords,
    failed: Annotated[
        bool, flags.switch("--failed", "All that failed, also by their checks (the default).")
    ] = False,
    errored: Annotated[
        bool, flags.switch("--errored", "Only those that failed for another reason than their checks.")
    ] = False,
    tasks: Annotated[_TaskFlags, Parameter(name="*")] = _TaskFlags(),  # noqa: B008 - it is frozen
    reason: ReasonFlag = "",
    json: JsonFlag = False,
) -> int:
    """Run tasks of a batch again that did not complete.

    Tasks skipped because of them run too. A finished or stopped batch goes on in the daemon. Each task starts
    over in a new session, and its earlier cost still counts. Cancelled tasks run again only if you name them.
    One that ended at its limit would end there again: give it more (--task-max-cost).

    Examples::

        cms batch requeue tasks-3f9a1c --errored --task-max-cost 3
        cms batch requeue tasks-3f9a1c fix-auth docs --reason 'the mirror was down'
    """
    word = pick("requeue", batch)
    if bool(names) + failed + errored > 1:
        raise UsageError("task names, --failed and --errored exclude each other")
    options = msgspec.structs.replace(Layer(), **typed(tasks, _OF_TASKS))
    params = BatchRequeueParams(word, tuple(names), errored, reason, options)
    with io.daemon() as client:
        changed = client.call(BATCH_REQUEUE, params)
    return _show(changed, "queued again", json=json)


def cancel(
    batch: IdWord = None,
    /,
    *names: TaskWords,
    reason: ReasonFlag = "",
    json: JsonFlag = False,
) -> int:
    """Cancel a batch, or some of its tasks.

    Running tasks are ended; their sessions can still be continued. Tasks that need a cancelled one are
    skipped.

    Examples::

        cms batch cancel tasks-3f9a1c
        cms batch cancel tasks-3f9a1c fix-auth --reason 'somebody did it by hand'
    """
    word = pick("cancel", batch)
    with io.daemon() as client:
        if names:
            params = BatchWithdrawParams(word, tuple(names), reason)
            return show_one(client.call(BATCH_WITHDRAW, params).batch, json=json)
        return show_one(client.call(BATCH_CANCEL, BatchParams(word, reason)).batch, json=json)


def _show(changed: BatchChanged, what: str, *, json: bool) -> int:
    batch = changed.batch
    if json:
        io.show_json(batch_json(batch, changed=changed.tasks))
        return ExitCode.COMPLETED
    lines = render.summary_lines(batch, time.time(), io.out_style())
    if what:
        lines.append(f"{plural(changed.tasks, 'task')} {what}")
    if batch.status in RESUMABLE and batch.ended is None:
        lines.append(f"follow it: cms batch show {batch.id} --follow")
    io.show_lines(lines)
    return ExitCode.COMPLETED
