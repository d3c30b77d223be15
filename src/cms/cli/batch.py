"""`cms batch` and what belongs to it: run a file of tasks, and look after batches.

The work itself is the daemon's (or, with --foreground, a supervisor's in this command). While a batch runs,
this command waits on one connection and asks on another, so that Ctrl-C on the first is answered: what runs
is ended in a way that it can go on from, and `cms batch resume` goes on.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter

from cms.batch.forecast import Forecast
from cms.batch.model import (
    RESUMABLE,
    BatchOptions,
    BatchRecord,
    BatchStatus,
    TaskSpec,
    TaskView,
    exit_code,
)
from cms.batch.spec import Header
from cms.cli import agent as agents
from cms.cli import batch_render as render
from cms.cli import flags, io, terminal
from cms.cli.agent import AgentFlags
from cms.cli.batch_load import BadTasks, Port, load, merged
from cms.cli.flags import JsonFlag
from cms.errors import CmsError, ExitCode, UsageError
from cms.rpc.api import Nothing
from cms.rpc.api_batch import (
    BatchesReply,
    BatchPageParams,
    BatchParams,
    BatchReply,
    BatchReportParams,
    BatchReportReply,
    BatchRunParams,
    BatchTasksReply,
)
from cms.session.model import Limits

BATCH = Group("The batch", sort_key=1)
TASKS = Group("Defaults of tasks", sort_key=2)
NEWS = Group("News", sort_key=3)

_ERASE = "\r\x1b[2K"
_POLL = 0.4  # seconds between two looks at a batch that runs

OptionsOf = Callable[[Header, str], BatchOptions]
IdWord = Annotated[str | None, flags.word("The batch's id, or the beginning of it.")]


def _money(flag: str, text: str, group: Group) -> Parameter:
    return Parameter(name=flag, converter=flags.to_money, metavar="USD", group=group, help=text)


def _time(flag: str, text: str, group: Group) -> Parameter:
    return Parameter(name=flag, converter=flags.to_seconds, metavar="TIME", group=group, help=text)


def _number(flag: str, text: str, group: Group) -> Parameter:
    return Parameter(name=flag, converter=flags.to_count, metavar="N", group=group, help=text)


def run(
    *,
    file: Annotated[
        str | None,
        flags.text_flag("--file", "The tasks: JSON, JSON Lines or TOML; - is stdin.", "FILE", BATCH),
    ] = None,
    resume: Annotated[
        str | None, flags.text_flag("--resume", "Go on with a batch that was stopped.", "ID", BATCH)
    ] = None,
    plan: Annotated[
        bool, flags.switch("--plan", "Forecast cost, time and memory; start nothing.", BATCH)
    ] = False,
    max_parallel: Annotated[
        int | None,
        _number("--max-parallel", "Tasks at once. [default: what memory and cores allow]", BATCH),
    ] = None,
    max_cost: Annotated[
        float | None, _money("--max-cost", "What all tasks together may cost.", BATCH)
    ] = None,
    max_time: Annotated[
        float | None, _time("--max-time", "Stop the batch after: 90, 15m, 8h, 2d.", BATCH)
    ] = None,
    stagger: Annotated[
        float | None, _time("--stagger", "Time between two starts. [default: by cores]", BATCH)
    ] = None,
    keep_alive: Annotated[
        bool, flags.switch("--keep-alive", "Leave the sessions of completed tasks alive.", BATCH)
    ] = False,
    fresh: Annotated[
        bool,
        flags.switch("--fresh", "Older sessions with the tasks' names make room: they become NAME~1.", BATCH),
    ] = False,
    detach: Annotated[
        bool,
        flags.switch("--detach", "Do not wait: the daemon does it, and goes on after a restart.", BATCH),
    ] = False,
    foreground: Annotated[
        bool, flags.switch("--foreground", "Work inside this command, without the daemon.", BATCH)
    ] = False,
    out: Annotated[
        str, flags.text_flag("--out", "Write each result here as it comes, a line of JSON.", "FILE", NEWS)
    ] = "",
    report: Annotated[
        str, flags.text_flag("--report", "Write a report at the end: .md or .html.", "FILE", NEWS)
    ] = "",
    on_done: Annotated[
        str, flags.text_flag("--on-done", "Run this when the batch ends (JSON on stdin).", "CMD", NEWS)
    ] = "",
    on_fail: Annotated[
        str, flags.text_flag("--on-fail", "Run this when tasks did not complete.", "CMD", NEWS)
    ] = "",
    on_park: Annotated[
        str, flags.text_flag("--on-park", "Run this when a usage limit parks it.", "CMD", NEWS)
    ] = "",
    webhook: Annotated[str, flags.text_flag("--webhook", "POST the same JSON there.", "URL", NEWS)] = "",
    task_max_cost: Annotated[
        float | None, _money("--task-max-cost", "Of each task. [default: 2.00]", TASKS)
    ] = None,
    task_max_turns: Annotated[
        int | None, _number("--task-max-turns", "Of each task. [default: 50]", TASKS)
    ] = None,
    task_max_time: Annotated[float | None, _time("--task-max-time", "Of each task.", TASKS)] = None,
    task_max_silence: Annotated[
        float | None, _time("--task-max-silence", "Of each task. [default: 30m]", TASKS)
    ] = None,
    retries: Annotated[
        int | None,
        _number("--retries", "Further tries of a task that failed without having changed anything.", TASKS),
    ] = None,
    verify: Annotated[
        tuple[str, ...],
        flags.many("--verify", "A shell command that must pass in the work dir. Repeatable.", "CMD", TASKS),
    ] = (),
    agent: Annotated[AgentFlags, Parameter(name="*")] = agents.DEFAULT_AGENT,
    json: JsonFlag = False,
) -> int:
    """Run a file of tasks, each a delegation under limits, many at once.

    A task has the keys of `cms delegate` in camelCase, and `needs` (names of tasks that must complete first),
    `retries`, `retryOn`, `retryActed`. In a prompt {{needs.NAME.response}} is what another task answered.
    What a task leaves open is the flag's word, then that of the file's `defaults`.

    Every state is on disk: after Ctrl-C, a crash or a reboot `--resume ID` goes on, nothing is done twice.
    The exit code is that of the worst task (`cms help`).

    Examples::

        cms batch --file tasks.json --max-parallel 8 --max-cost 20
        cms batch --file night.jsonl --detach --out results.jsonl --report night.html
        cms batch --file tasks.toml --plan
        cms batch --resume tasks-3f9a1c
    """
    if (file is None) == (resume is None):
        raise UsageError(
            "batch needs --file or --resume, one of them",
            hint="usage: cms batch --file tasks.json (cms batch --help)",
        )
    if detach and foreground:
        raise UsageError("--detach hands the work to the daemon, --foreground keeps it here: give one")
    if keep_alive and foreground:
        raise UsageError(
            "--keep-alive needs the daemon: with --foreground every session ends with the command"
        )
    if plan and resume is not None:
        raise UsageError("--plan is for a file: what a batch has left, `cms batch show` tells")
    agent.warn()
    typed = Header(
        max_parallel=max_parallel,
        max_cost=max_cost,
        max_time=max_time,
        stagger=stagger,
        keep_alive=keep_alive or None,
        fresh=fresh or None,
        out=out or None,
        report=report or None,
        on_done=on_done or None,
        on_fail=on_fail or None,
        on_park=on_park or None,
        webhook=webhook or None,
    )
    limits = Limits(
        max_cost=task_max_cost,
        max_turns=task_max_turns,
        max_time=task_max_time,
        max_silence=task_max_silence,
    )
    tasks = spec_of(agent, limits, verify, retries)
    work_dir = agents.check_work_dir(agent.work_dir)

    def options_of(header: Header, source: str) -> BatchOptions:
        chosen = agents.choose(AgentFlags(profile=agent.profile), agents.NO_LIMITS, Limits())
        profile = spec_of(chosen.agent, chosen.limits, chosen.verify, None)
        defaults = merged(tasks, header.defaults, profile)
        options = BatchOptions(work_dir=work_dir, source=source, defaults=defaults, detached=detach)
        return _with_settings(_with_settings(options, header), typed)

    def work(port: Port) -> int:
        if resume is not None:
            return _resume(port, resume, typed, detach=detach, json=json)
        return _start(port, file or "", options_of, plan=plan, detach=detach, json=json)

    if foreground:
        from cms.cli.batch_here import with_supervisor

        return with_supervisor(work)
    from cms.cli.batch_ports import with_daemon

    return with_daemon(work)


# --- what was typed -------------------------------------------------------------------------------


def spec_of(agent: AgentFlags, limits: Limits, verify: tuple[str, ...], retries: int | None) -> TaskSpec:
    """The defaults of all tasks, from what was typed; None where nothing was.

    Raises:
        UsageError, WorkDirError: something typed cannot be meant.
    """
    rules = (*agent.allow, *agents.split_rules(agent.allowed_tools))
    return TaskSpec(
        retries=retries,
        model=None if agent.model is None else agents.check_model(agent.model),
        preset=agent.preset,
        safety=False if agent.safety_off else None,
        permission_mode=agents.check_permission_mode(agent.permission_mode) or None,
        allowed_tools=rules or None,
        disallowed_tools=agents.split_rules(agent.disallowed_tools) or None,
        system_prompt=agent.system_prompt or None,
        append_system_prompt=agent.append_system_prompt or None,
        agent=agent.agent or None,
        fallback_model=agents.check_model(agent.fallback_model) if agent.fallback_model else None,
        effort=agent.effort or None,
        add_dirs=tuple(agents.check_work_dir(folder, "--add-dir") for folder in agent.add_dir) or None,
        mcp_config=tuple(agents.check_file_or_json(one, "--mcp-config") for one in agent.mcp_config) or None,
        settings=agents.check_file_or_json(agent.settings, "--settings") if agent.settings else None,
        protect=agent.protect or None,
        protect_read=agent.protect_read or None,
        allow_write=agent.allow_write or None,
        env_deny=agent.env_deny or None,
        on_violation=agent.on_violation,
        verify=verify or None,
        ask_timeout=agent.ask_timeout or None,
        allow_cms=True if agent.allow_cms else None,
        require_containment=agent.require_containment,
        **msgspec.structs.asdict(limits),
    )


def _with_settings(options: BatchOptions, header: Header) -> BatchOptions:
    """The options with what a file's top, or the flags, say of the whole batch."""
    changes = {
        field: value
        for field, value in msgspec.structs.asdict(header).items()
        if field != "defaults" and value is not None
    }
    for field in ("out", "report"):
        if changes.get(field):
            changes[field] = _new_file(str(changes[field]), f"--{field}")
    return msgspec.structs.replace(options, **changes)


def _new_file(text: str, flag: str) -> str:
    """The absolute path of a file that is to be written; its folder must be there.

    Raises:
        UsageError: it cannot be written there.
    """
    path = Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - links are kept as typed
    if not path.parent.is_dir():
        raise UsageError(f"{flag}: there is no folder {path.parent}", hint=flags.nearest_path(path.parent))
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{flag}: {path} cannot be written")
    return str(path)


# --- running --------------------------------------------------------------------------------------


def _start(port: Port, file: str, options_of: OptionsOf, *, plan: bool, detach: bool, json: bool) -> int:
    try:
        batch, problems = load(port, file, options_of)
    except BadTasks as bad:
        _warn_all(bad.source, bad.problems)
        raise
    params = BatchParams(id=batch.id)
    if plan:
        forecast = port.ask("batch.plan", params, Forecast)
        port.ask("batch.discard", params, Nothing)
        told = [one for one in problems if one not in forecast.problems]
        if told:
            forecast = msgspec.structs.replace(forecast, fits=False, problems=(*told, *forecast.problems))
        if json:
            io.show_json(forecast)
        else:
            io.show_lines(render.plan_lines(forecast, io.out_style()))
        return ExitCode.COMPLETED if forecast.fits else ExitCode.USAGE
    if problems:
        port.ask("batch.discard", params, Nothing)
        _warn_all(batch.options.source, problems)
        raise BadTasks(batch.options.source, problems, len(problems))
    return _run(port, BatchRunParams(id=batch.id, wait=not detach), batch, detach=detach, json=json)


def _warn_all(source: str, problems: list[str]) -> None:
    """Several problems, a line each; a single one is told by the error itself."""
    for problem in problems if len(problems) > 1 else []:
        io.warn(f"{source}: {problem}")


def _resume(port: Port, word: str, typed: Header, *, detach: bool, json: bool) -> int:
    batch = port.ask("batch.get", BatchParams(id=word), BatchReply).batch
    if batch.status not in RESUMABLE:
        raise UsageError(
            f"batch {batch.id!r} is {batch.status.value}: there is nothing to go on with",
            hint=f"see what became of it: cms batch show {batch.id}",
        )
    options = msgspec.structs.replace(_with_settings(batch.options, typed), detached=detach)
    params = BatchRunParams(id=batch.id, options=options, wait=not detach)
    return _run(port, params, batch, detach=detach, json=json)


def _run(port: Port, params: BatchRunParams, batch: BatchRecord, *, detach: bool, json: bool) -> int:
    if detach:
        batch = port.run("batch.run", params).batch
        if json:
            io.show_json(render.view_batch(batch, None))
        else:
            io.show_lines(
                [
                    f"{batch.id}: {batch.total} tasks, the daemon works on them by itself",
                    f"look at it: cms batch show {batch.id}",
                ]
            )
        return ExitCode.COMPLETED
    return _watch(port, "batch.run", params, batch, json=json)


def _watch(
    port: Port, method: str, params: BatchRunParams | BatchParams, batch: BatchRecord, *, json: bool
) -> int:
    with _Display(port, batch, quiet=json) as display:
        batch = port.run(method, params).batch
        display.finish()
    return _show_end(port, batch, json=json)


def _show_end(port: Port, batch: BatchRecord, *, json: bool) -> int:
    over = batch.status not in RESUMABLE or batch.status is BatchStatus.STOPPED
    code = exit_code(batch.status, batch.counts, batch.stopped_by) if over else ExitCode.COMPLETED
    if json:
        io.show_json(render.view_tasks(batch, code if over else None, _all_tasks(port, batch.id)))
    else:
        io.show_lines(["", *render.summary_lines(batch, time.time(), io.out_style())])
    return code


def _all_tasks(port: Port, batch_id: str) -> list[TaskView]:
    found: list[TaskView] = []
    after: int | None = -1
    while after is not None:
        page = port.ask("batch.tasks", BatchPageParams(id=batch_id, after=after), BatchTasksReply)
        found += page.tasks
        after = page.next
    return found


class _Display:
    """What a command shows while it waits: a line for each task that ends, and on a terminal a status line.

    A thread looks at the batch on the port's other connection; the command itself waits for its end.
    """

    def __init__(self, port: Port, batch: BatchRecord, *, quiet: bool) -> None:
        self._port = port
        self._batch = batch
        self._quiet = quiet
        self._live = not quiet and terminal.can_rewrite(sys.stderr, os.environ)
        self._style = terminal.style_of(sys.stderr, os.environ)
        self._shown = 0
        self._parked: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="cms-batch", daemon=True)

    def __enter__(self) -> _Display:
        # What had ended before is not news.
        self._shown = -1 if self._quiet else self._count_before()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._erase()

    def finish(self) -> None:
        """It has ended: tell what was not told yet."""
        self._over.set()
        self._thread.join()
        self._erase()
        if not self._quiet:
            self._tell_ended()

    def _count_before(self) -> int:
        if self._batch.status is BatchStatus.LOADING:
            return 0
        return render.over_count(self._batch)

    def _look(self) -> None:
        try:
            while not self._over.wait(_POLL):
                self._batch = self._port.ask("batch.get", BatchParams(id=self._batch.id), BatchReply).batch
                self._tell_park()
                if not self._quiet:
                    self._tell_ended()
                if self._live:
                    self._write(_ERASE + render.progress_line(self._batch, self._style))
        except (CmsError, OSError):
            pass  # whoever waits learns it, and says it better

    def _tell_park(self) -> None:
        batch = self._batch
        if batch.status is BatchStatus.PARKED and batch.until != self._parked and batch.until is not None:
            self._parked = batch.until
            self._erase()
            until = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(batch.until))
            io.warn(f"cms: {batch.id} is parked until {until}: {batch.reason}; nothing is started before")

    def _tell_ended(self) -> None:
        while True:
            page = self._port.ask(
                "batch.ended", BatchPageParams(id=self._batch.id, after=self._shown), BatchTasksReply
            )
            if not page.tasks:
                return
            self._erase()
            style = io.out_style()
            io.show_lines([render.task_line(task, style) for task in page.tasks])
            self._shown += len(page.tasks)

    def _erase(self) -> None:
        if self._live:
            self._write(_ERASE)

    def _write(self, text: str) -> None:
        encoding = sys.stderr.encoding or "ascii"
        try:
            sys.stderr.write(text.encode(encoding, "replace").decode(encoding))
            sys.stderr.flush()
        except OSError:
            pass  # the terminal went away; the work does not depend on it


# --- looking after batches ------------------------------------------------------------------------


def batches(*, json: JsonFlag = False) -> int:
    """List all batches, newest first.

    Examples::

        cms batches
        cms batches --json
    """
    with io.daemon() as client:
        reply = client.call("batch.list", Nothing(), BatchesReply)
    if json:
        views = tuple(render.view_batch(batch, _code(batch)) for batch in reply.batches)
        io.show_json(render.BatchesView(views))
    else:
        io.show_lines(render.batches_table(reply.batches, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def _code(batch: BatchRecord) -> int | None:
    if batch.status in RESUMABLE and batch.status is not BatchStatus.STOPPED:
        return None
    return int(exit_code(batch.status, batch.counts, batch.stopped_by))


def show(
    batch: IdWord = None,
    /,
    *,
    failed: Annotated[bool, flags.switch("--failed", "Only tasks that did not complete.")] = False,
    follow: Annotated[
        bool, flags.switch("--follow", "Stay until it ends, and show each task that does.")
    ] = False,
    report: Annotated[
        str, flags.text_flag("--report", "Write a report of it as it stands: .md or .html.", "FILE")
    ] = "",
    json: JsonFlag = False,
) -> int:
    """Show a batch and its tasks: status, cost, time, and why one did not complete.

    Examples::

        cms batch show tasks-3f9a1c --failed
        cms batch show tasks --follow
        cms batch show tasks-3f9a1c --report night.html
    """
    from cms.cli.batch_ports import DaemonPort

    word = _pick("show", batch)
    with io.daemon() as client, io.daemon() as waiting:
        port = DaemonPort(client, waiting)
        record = port.ask("batch.get", BatchParams(id=word), BatchReply).batch
        if follow:
            return _watch(port, "batch.follow", BatchParams(id=record.id), record, json=json)
        if report:
            path = _new_file(report, "--report")
            html = path.lower().endswith((".html", ".htm"))
            reply = port.ask("batch.report", BatchReportParams(id=record.id, html=html), BatchReportReply)
            Path(path).write_text(reply.text, encoding="utf-8")
        tasks = _all_tasks(port, record.id)
    if failed:
        tasks = [task for task in tasks if task.status in render.NOT_COMPLETED]
    if json:
        io.show_json(render.view_tasks(record, _code(record), tasks))
        return ExitCode.COMPLETED
    style = io.out_style()
    lines = [render.task_line(task, style) for task in tasks]
    io.show_lines([*lines, *([""] if lines else []), *render.summary_lines(record, time.time(), style)])
    if report:
        io.warn(f"cms: the report is in {report}")
    return ExitCode.COMPLETED


def pause(batch: IdWord = None, /, *, json: JsonFlag = False) -> int:
    """Start no more tasks of a batch; what runs runs on. `cms batch resume` undoes it.

    Example::

        cms batch pause tasks-3f9a1c
    """
    return _ask("batch.pause", _pick("pause", batch), json=json)


def stop(batch: IdWord = None, /, *, json: JsonFlag = False) -> int:
    """Bring a batch to rest: what runs is ended so that it can go on. `cms batch resume` goes on.

    Example::

        cms batch stop tasks-3f9a1c
    """
    return _ask("batch.stop", _pick("stop", batch), json=json)


def cancel(batch: IdWord = None, /, *, json: JsonFlag = False) -> int:
    """Give a batch up: what runs is ended, what waits is cancelled. Its sessions can still be continued.

    Example::

        cms batch cancel tasks-3f9a1c
    """
    return _ask("batch.cancel", _pick("cancel", batch), json=json)


def resume(batch: IdWord = None, /, *, json: JsonFlag = False) -> int:
    """Go on with a batch that was paused or stopped; the daemon does it, this command does not wait.

    `cms batch --resume ID` waits for it, and takes other limits.

    Example::

        cms batch resume tasks-3f9a1c
    """
    word = _pick("resume", batch)
    with io.daemon() as client:
        record = client.call("batch.get", BatchParams(id=word), BatchReply).batch
        options = msgspec.structs.replace(record.options, detached=True)
        changes = options if record.status is BatchStatus.STOPPED else None
        params = BatchRunParams(id=record.id, options=changes, wait=False)
        record = client.call("batch.run", params, BatchReply).batch
    return _show_one(record, json=json)


def _ask(method: str, word: str, *, json: bool) -> int:
    with io.daemon() as client:
        return _show_one(client.call(method, BatchParams(id=word), BatchReply).batch, json=json)


def _show_one(batch: BatchRecord, *, json: bool) -> int:
    if json:
        io.show_json(render.view_batch(batch, _code(batch)))
    else:
        io.show_lines(render.summary_lines(batch, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def _pick(command: str, word: str | None) -> str:
    if not word:
        raise UsageError(
            f"batch {command} needs the id of a batch", hint="`cms batches` shows them; the beginning will do"
        )
    return word
