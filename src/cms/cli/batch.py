"""`cms batch` and what belongs to it: run a file of tasks, and look after batches.

The work itself is the daemon's (or, with --foreground, a supervisor's in this command). While a batch runs,
this command waits on one connection and asks on another, so that Ctrl-C on the first is answered: what runs
is ended in a way that it can go on from, and `cms batch resume` goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from cms.batch.header import HEADER, MAKES_TASKS, Header
from cms.batch.model import (
    RESUMABLE,
    BatchOptions,
    BatchRecord,
)
from cms.cli import batch_render as render
from cms.cli import flags, io
from cms.cli.batch_client import Port
from cms.cli.batch_load import BadTasks, load
from cms.cli.batches import batch_json, new_file, watch
from cms.cli.flags import JsonFlag
from cms.cli.hook_flags import addresses
from cms.cli.option_flags import BATCH, TaskFlags, takes, typed
from cms.errors import ExitCode, UsageError
from cms.folders import Folders, check_folder, key_of
from cms.layers import resolve
from cms.rpc.batches import (
    BATCH_DISCARD,
    BATCH_GET,
    BATCH_PLAN,
    BATCH_RUN,
    BatchParams,
    BatchRunParams,
)
from cms.units import check_prompt, plural

_HERE = Path()

OptionsOf = Callable[[Header, str], BatchOptions]


@takes("batch", HEADER)
class BatchFlags:
    """What `batch` takes of the batch."""

    @property
    def header(self) -> Header:
        return msgspec.structs.replace(Header(), **typed(self, HEADER))


def run(
    *,
    file: Annotated[
        str | None,
        flags.text_flag("--file", "Tasks to run: JSON, JSON Lines or TOML; - reads stdin.", "FILE", BATCH),
    ] = None,
    prompt: Annotated[
        str | None,
        flags.text_flag("--prompt", "One task instead of a file; with --data, one per row.", "TEXT", BATCH),
    ] = None,
    resume: Annotated[
        str | None,
        flags.text_flag("--resume", "Go on with a batch that was stopped or interrupted.", "ID", BATCH),
    ] = None,
    plan: Annotated[
        bool, flags.switch("--plan", "Show what it would cost and take; start nothing.", BATCH)
    ] = False,
    whole: Annotated[BatchFlags, Parameter(name="*")] = BatchFlags(),  # noqa: B008 - it is frozen
    detach: Annotated[
        bool,
        flags.switch("--detach", "Return at once; the daemon does the work."),
    ] = False,
    foreground: Annotated[
        bool, flags.switch("--foreground", "Do the work in this command, without the daemon.", rare=True)
    ] = False,
    said: Annotated[TaskFlags, Parameter(name="*")] = TaskFlags(),  # noqa: B008 - it is frozen
    json: JsonFlag = False,
) -> int:
    """Run many tasks from a file or a table, in parallel, under limits.

    A task takes the flags of `cms delegate` as camelCase keys, and also `needs` (tasks that must complete
    first), `retries`, `retryOn` and `retryActed`. {{needs.NAME.response}} in a prompt is the answer of that
    task. A flag applies to tasks that do not set the key themselves; after that come the file's `defaults`.

    With --data, each task runs once per row; {{row.FIELD}} in a prompt is a value of the row.

    Progress is on disk: after Ctrl-C, a crash or a reboot, `--resume ID` goes on and repeats nothing. The
    exit code is that of the worst task (see `cms --help-all`).

    Examples::

        cms batch --file tasks.json --max-parallel 8 --max-cost 20
        cms batch --data bugs.csv --prompt 'Fix {{row.title}}' --verify pytest
        cms batch --file night.jsonl --detach --out results.jsonl --report night.html
        cms batch --file tasks.toml --plan
        cms batch --resume tasks-3f9a1c
    """
    _check(file, prompt, resume, whole.header, plan=plan, detach=detach, foreground=foreground)
    if resume is not None and said != TaskFlags():
        raise UsageError(
            "--resume goes on with the tasks as they were; flags for tasks need --file",
            hint="limits of the whole batch can change: --max-cost, --max-time, --max-parallel ...",
        )
    said.warn()
    tasks = said.layer
    work_dir = tasks.work_dir or check_folder("", "--work-dir")

    def options_of(header: Header, source: str) -> BatchOptions:
        file = Folders(key_of, work_dir).settle(header.defaults)
        defaults = resolve(msgspec.structs.replace(tasks, work_dir=None), file, said.person)
        options = BatchOptions(
            work_dir=work_dir, source=source, defaults=defaults, detached=detach, cache=True
        )
        beside = Path(source).parent if source not in ("stdin", "--prompt") else Path()
        return _afar(_with_settings(_with_settings(options, header, beside), whole.header))

    def work(port: Port) -> int:
        if resume is not None:
            return _resume(port, resume, whole.header, detach=detach, json=json)
        return _start(port, file or "", options_of, prompt or "", plan=plan, detach=detach, json=json)

    if foreground:
        from cms.cli.foreground import with_supervisor

        return with_supervisor(work)
    from cms.cli.batch_client import with_daemon

    return with_daemon(work)


def _check(
    file: str | None,
    prompt: str | None,
    resume: str | None,
    header: Header,
    *,
    plan: bool,
    detach: bool,
    foreground: bool,
) -> None:
    """What was typed fits together.

    Raises:
        UsageError: it does not.
    """
    if sum(one is not None for one in (file, prompt, resume)) != 1:
        raise UsageError(
            "batch needs one of --file, --prompt and --resume",
            hint="usage: cms batch --file tasks.json (cms batch --help)",
        )
    if prompt is not None:
        check_prompt(prompt)
    if file == header.data == "-":
        raise UsageError("--file and --data cannot both be stdin")
    if detach and foreground:
        raise UsageError("--detach and --foreground exclude each other")
    if header.keep_alive and foreground:
        raise UsageError(
            "--keep-alive needs the daemon; with --foreground every session ends with the command"
        )
    if plan and resume is not None:
        raise UsageError("--plan needs --file; `cms batch show ID` shows what a batch has left")
    settled = (*MAKES_TASKS, "push_branches")  # for which each task's repository was looked at
    made = [HEADER[field].flags[0] for field in settled if getattr(header, field) is not None]
    if resume is not None and made:
        raise UsageError(f"--resume goes on with tasks as they were added: {made[0]} is for --file")


def _with_settings(options: BatchOptions, header: Header, beside: Path = _HERE) -> BatchOptions:
    """The options with what a file's top, or the flags, say of the whole batch.

    Args:
        beside: the folder that a table's name is relative to.
    """
    changes = {
        field: value
        for field, value in msgspec.structs.asdict(header).items()
        if field != "defaults" and value is not None
    }
    if changes.get("artifacts"):
        changes["artifacts"] = check_folder(str(changes["artifacts"]), "--artifacts")
    if header.patches:
        changes["patches"] = new_file(f"{header.patches.rstrip('/')}/x", "--patches").removesuffix("/x")
    if header.notify:
        changes["notify"] = addresses(header.notify)
    for field in ("out", "report"):
        if changes.get(field):
            changes[field] = new_file(str(changes[field]), f"--{field}")
    if header.data not in (None, "", "-"):
        changes["data"] = os.path.abspath(beside / Path(header.data).expanduser())  # noqa: PTH100 - links stay
    return msgspec.structs.replace(options, **changes)


def _afar(options: BatchOptions) -> BatchOptions:
    """What nodes elsewhere need is looked at before anything is handed over."""
    if options.on:
        from cms.batch.address import parse

        parse(options.on)
        if options.max_tokens is not None:
            raise UsageError("--max-tokens does not work with --on: nodes do not report tokens")
        options = msgspec.structs.replace(options, cache=False)  # their folders cannot be looked at
    elif options.label or options.artifacts or options.push_branches or options.rerun_lost:
        raise UsageError("--labels, --artifacts, --push-branches and --rerun-lost need --on URL")
    return options


# --- running --------------------------------------------------------------------------------------


def _start(
    port: Port, file: str, options_of: OptionsOf, prompt: str, *, plan: bool, detach: bool, json: bool
) -> int:
    try:
        batch, problems = load(port, file, options_of, prompt)
    except BadTasks as bad:
        _warn_all(bad.source, bad.problems)
        raise
    params = BatchParams(id=batch.id)
    if plan:
        try:
            forecast = port.ask(BATCH_PLAN, params)
        finally:
            port.ask(BATCH_DISCARD, params)
        told = [one for one in problems if one not in forecast.problems]
        if told:
            forecast = msgspec.structs.replace(forecast, fits=False, problems=(*told, *forecast.problems))
        if json:
            io.show_json(forecast)
        else:
            io.show_lines(render.plan_lines(forecast, time.time(), io.out_style()))
        return ExitCode.COMPLETED if forecast.fits else ExitCode.USAGE
    if problems:
        port.ask(BATCH_DISCARD, params)
        source = batch.options.data or batch.options.source
        _warn_all(source, problems)
        raise BadTasks(source, problems, len(problems))
    return _run(port, BatchRunParams(id=batch.id, wait=not detach), batch, detach=detach, json=json)


def _warn_all(source: str, problems: list[str]) -> None:
    """Several problems, a line each; a single one is told by the error itself."""
    for problem in problems if len(problems) > 1 else []:
        io.warn(f"{source}: {problem}")


def _resume(port: Port, word: str, typed: Header, *, detach: bool, json: bool) -> int:
    batch = port.ask(BATCH_GET, BatchParams(id=word)).batch
    if batch.status not in RESUMABLE:
        raise UsageError(
            f"batch {batch.id!r} is {batch.status.value}: nothing is left to do",
            hint=f"`cms batch show {batch.id}` shows what became of it",
        )
    options = _afar(msgspec.structs.replace(_with_settings(batch.options, typed), detached=detach))
    params = BatchRunParams(id=batch.id, options=options, wait=not detach)
    return _run(port, params, batch, detach=detach, json=json)


def _run(port: Port, params: BatchRunParams, batch: BatchRecord, *, detach: bool, json: bool) -> int:
    if detach:
        batch = port.run(BATCH_RUN, params).batch
        if json:
            io.show_json({**batch_json(batch), "exitCode": None})
        else:
            io.show_lines(
                [
                    f"{batch.id}: {plural(batch.total, 'task')}, running in the daemon",
                    f"follow it: cms batch show {batch.id}",
                ]
            )
        return ExitCode.COMPLETED
    return watch(port, BATCH_RUN, params, batch, json=json)
