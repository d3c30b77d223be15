"""Look after batches: `cms batches`, `cms batch show|pause|resume|stop`. (`batch_steer` has the rest.)"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import msgspec

from cms.batch.model import RESUMABLE, BatchRecord, BatchStatus, TaskView, exit_code
from cms.cli import batch_render as render
from cms.cli import flags, io
from cms.cli.batch_client import DaemonPort, Port
from cms.cli.batch_progress import BatchProgress
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, UsageError
from cms.folders import nearest_path
from cms.json_output import json_object
from cms.rpc.batches import (
    BATCH_FOLLOW,
    BATCH_GET,
    BATCH_LIST,
    BATCH_PAUSE,
    BATCH_REPORT,
    BATCH_RUN,
    BATCH_SCORES,
    BATCH_STOP,
    BATCH_TASKS,
    BatchPageParams,
    BatchParams,
    BatchReportParams,
    BatchResult,
    BatchRunParams,
)
from cms.rpc.verbs import Nothing, P, Verb

#: What `--json` tells of a batch. `eta` in seconds.
_BATCH = (
    "id status total counts total_cost_usd=spent cost_exact=exact max_cost=options.max_cost reserved parallel"
    " tokens reused created started ended until eta reason stopped_by detached=options.detached"
    " source=options.source work_dir=options.work_dir warnings"
)

IdWord = Annotated[str | None, flags.word("The batch's id, or its first letters.", "ID")]
ReasonFlag = Annotated[str, flags.text_flag("--reason", "Note the reason in `cms audit ID`.", "TEXT")]


def batches(*, json: JsonFlag = False) -> int:
    """List batches, newest first.

    Examples::

        cms batches
        cms batches --json
    """
    with io.daemon() as client:
        reply = client.call(BATCH_LIST, Nothing())
    if json:
        io.show_json(json_object(batches=[batch_json(batch) for batch in reply.batches]))
    else:
        io.show_lines(render.batches_table(reply.batches, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def batch_json(batch: BatchRecord, **more: object) -> dict[str, object]:
    """A batch, flat. `exitCode`: what a command that waited for it exits with; null while it is not over."""
    return json_object(batch, _BATCH, exit_code=_code(batch), **more)


def _code(batch: BatchRecord) -> int | None:
    if batch.status in RESUMABLE and batch.status is not BatchStatus.STOPPED:
        return None
    return int(exit_code(batch.status, batch.counts, batch.stopped_by))


def show(
    batch: IdWord = None,
    /,
    *,
    failed: Annotated[bool, flags.switch("--failed", "Show only tasks that did not complete.")] = False,
    follow: Annotated[
        bool, flags.switch("--follow", "Wait until it ends, and show each task as it ends.")
    ] = False,
    report: Annotated[
        str, flags.text_flag("--report", "Write a report of it as it stands (.md or .html).", "FILE")
    ] = "",
    json: JsonFlag = False,
) -> int:
    """Show a batch and its tasks, and why one did not complete.

    Examples::

        cms batch show tasks-3f9a1c --failed
        cms batch show tasks --follow
        cms batch show tasks-3f9a1c --report night.html
    """
    word = pick("show", batch)
    with io.daemon() as client, io.daemon() as waiting:
        port = DaemonPort(client, waiting)
        record = port.ask(BATCH_GET, BatchParams(id=word)).batch
        if follow:
            return watch(port, BATCH_FOLLOW, BatchParams(id=record.id), record, json=json)
        if report:
            path = new_file(report, "--report")
            html = path.lower().endswith((".html", ".htm"))
            reply = port.ask(BATCH_REPORT, BatchReportParams(id=record.id, html=html))
            _write_report(path, reply.text, record.options.work_dir)
        tasks = all_tasks(port, record.id)
        scores = port.ask(BATCH_SCORES, BatchParams(id=record.id)).scores
    if failed:
        tasks = [task for task in tasks if task.status in render.NOT_COMPLETED]
    if json:
        io.show_json(batch_json(record, scores=scores, tasks=tasks))
        return ExitCode.COMPLETED
    style = io.out_style()
    lines = []
    for task in tasks:
        lines += [render.task_line(task, style), *render.left_lines(task, style)]
    summary = render.summary_lines(record, time.time(), style, scores)
    io.show_lines([*lines, *([""] if lines else []), *summary])
    if report:
        io.warn(f"cms: wrote the report to {report}")
    return ExitCode.COMPLETED


def _write_report(path: str, text: str, work_dir: str) -> None:
    from cms.batch.report import is_report
    from cms.disk import replace_own  # it loads trio

    try:
        replace_own(Path(path), text, Path(work_dir), is_report)
    except OSError as error:
        raise UsageError(f"--report: {path}: {error.strerror}", hint="choose another file") from None


def pause(batch: IdWord = None, /, *, reason: ReasonFlag = "", json: JsonFlag = False) -> int:
    """Start no more tasks of a batch; running ones finish.

    `cms batch resume` undoes it.

    Example::

        cms batch pause tasks-3f9a1c
    """
    return _ask(BATCH_PAUSE, pick("pause", batch), reason, json=json)


def stop(batch: IdWord = None, /, *, reason: ReasonFlag = "", json: JsonFlag = False) -> int:
    """Stop a batch so that it can go on later.

    Running tasks are ended in a way that they can go on from. `cms batch resume` goes on.

    Example::

        cms batch stop tasks-3f9a1c
    """
    return _ask(BATCH_STOP, pick("stop", batch), reason, json=json)


def resume(batch: IdWord = None, /, *, json: JsonFlag = False) -> int:
    """Go on with a paused or stopped batch, in the daemon.

    Does not wait. `cms batch --resume ID` does, and takes other limits.

    Example::

        cms batch resume tasks-3f9a1c
    """
    word = pick("resume", batch)
    with io.daemon() as client:
        record = client.call(BATCH_GET, BatchParams(id=word)).batch
        options = msgspec.structs.replace(record.options, detached=True)
        changes = options if record.status is BatchStatus.STOPPED else None
        params = BatchRunParams(id=record.id, options=changes, wait=False)
        record = client.call(BATCH_RUN, params).batch
    return show_one(record, json=json)


def _ask(verb: Verb[BatchParams, BatchResult], word: str, reason: str, *, json: bool) -> int:
    with io.daemon() as client:
        return show_one(client.call(verb, BatchParams(word, reason)).batch, json=json)


def show_one(batch: BatchRecord, *, json: bool) -> int:
    if json:
        io.show_json(batch_json(batch))
    else:
        io.show_lines(render.summary_lines(batch, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def pick(command: str, word: str | None) -> str:
    if not word:
        raise UsageError(
            f"batch {command} needs the id of a batch",
            hint="`cms batches` lists them; the first letters are enough",
        )
    return word


# --- shared with `batch` --------------------------------------------------------------------------


def watch(port: Port, verb: Verb[P, BatchResult], params: P, batch: BatchRecord, *, json: bool) -> int:
    with BatchProgress(port, batch, quiet=json) as display:
        batch = port.run(verb, params).batch
        display.finish()
    return show_end(port, batch, json=json)


def show_end(port: Port, batch: BatchRecord, *, json: bool) -> int:
    scores = port.ask(BATCH_SCORES, BatchParams(id=batch.id)).scores
    if json:
        io.show_json(batch_json(batch, scores=scores, tasks=all_tasks(port, batch.id)))
    else:
        io.show_lines(["", *render.summary_lines(batch, time.time(), io.out_style(), scores)])
    return _code(batch) or ExitCode.COMPLETED


def all_tasks(port: Port, batch_id: str) -> list[TaskView]:
    found: list[TaskView] = []
    after: int | None = -1
    while after is not None:
        page = port.ask(BATCH_TASKS, BatchPageParams(id=batch_id, after=after))
        found += page.tasks
        after = page.next
    return found


def new_file(text: str, flag: str) -> str:
    """The absolute path of a file that is to be written; its folder must be there.

    Raises:
        UsageError: it cannot be written there.
    """
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - links are kept as typed
    if not path.parent.is_dir():
        raise UsageError(f"{flag}: there is no folder {path.parent}", hint=nearest_path(path.parent))
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{flag}: {path} cannot be written")
    return str(path)
