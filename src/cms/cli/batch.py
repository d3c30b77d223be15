"""`cms batch` and what belongs to it: run a file of tasks, and look after batches.

The work itself is the daemon's (or, with --foreground, a supervisor's in this command). While a batch runs,
this command waits on one connection and asks on another, so that Ctrl-C on the first is answered: what runs
is ended in a way that it can go on from, and `cms batch resume` goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
from cyclopts import Group, Parameter

from cms.batch.model import (
    RESUMABLE,
    BatchOptions,
    BatchRecord,
)
from cms.batch.spec import Header
from cms.cli import agent as agents
from cms.cli import batch_render as render
from cms.cli import flags, io
from cms.cli.agent import AgentFlags
from cms.cli.batch_client import Port
from cms.cli.batch_load import BadTasks, load
from cms.cli.batches import batch_json, new_file, watch
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, UsageError
from cms.options import Layer, resolve
from cms.rpc.batches import (
    BATCH_DISCARD,
    BATCH_GET,
    BATCH_PLAN,
    BATCH_RUN,
    BatchParams,
    BatchRunParams,
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
        defaults = resolve(tasks, header.defaults, profile)
        options = BatchOptions(work_dir=work_dir, source=source, defaults=defaults, detached=detach)
        return _with_settings(_with_settings(options, header), typed)

    def work(port: Port) -> int:
        if resume is not None:
            return _resume(port, resume, typed, detach=detach, json=json)
        return _start(port, file or "", options_of, plan=plan, detach=detach, json=json)

    if foreground:
        from cms.cli.foreground import with_supervisor

        return with_supervisor(work)
    from cms.cli.batch_client import with_daemon

    return with_daemon(work)


# --- what was typed -------------------------------------------------------------------------------


def spec_of(agent: AgentFlags, limits: Limits, verify: tuple[str, ...], retries: int | None) -> Layer:
    """The defaults of all tasks, from what was typed; None where nothing was.

    Raises:
        UsageError, WorkDirError: something typed cannot be meant.
    """
    rules = (*agent.allow, *agents.split_rules(agent.allowed_tools))
    return Layer(
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
            changes[field] = new_file(str(changes[field]), f"--{field}")
    return msgspec.structs.replace(options, **changes)


# --- running --------------------------------------------------------------------------------------


def _start(port: Port, file: str, options_of: OptionsOf, *, plan: bool, detach: bool, json: bool) -> int:
    try:
        batch, problems = load(port, file, options_of)
    except BadTasks as bad:
        _warn_all(bad.source, bad.problems)
        raise
    params = BatchParams(id=batch.id)
    if plan:
        forecast = port.ask(BATCH_PLAN, params)
        port.ask(BATCH_DISCARD, params)
        told = [one for one in problems if one not in forecast.problems]
        if told:
            forecast = msgspec.structs.replace(forecast, fits=False, problems=(*told, *forecast.problems))
        if json:
            io.show_json(forecast)
        else:
            io.show_lines(render.plan_lines(forecast, io.out_style()))
        return ExitCode.COMPLETED if forecast.fits else ExitCode.USAGE
    if problems:
        port.ask(BATCH_DISCARD, params)
        _warn_all(batch.options.source, problems)
        raise BadTasks(batch.options.source, problems, len(problems))
    return _run(port, BatchRunParams(id=batch.id, wait=not detach), batch, detach=detach, json=json)


def _warn_all(source: str, problems: list[str]) -> None:
    """Several problems, a line each; a single one is told by the error itself."""
    for problem in problems if len(problems) > 1 else []:
        io.warn(f"{source}: {problem}")


def _resume(port: Port, word: str, typed: Header, *, detach: bool, json: bool) -> int:
    batch = port.ask(BATCH_GET, BatchParams(id=word)).batch
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
        batch = port.run(BATCH_RUN, params).batch
        if json:
            io.show_json({**batch_json(batch), "exitCode": None})
        else:
            io.show_lines(
                [
                    f"{batch.id}: {batch.total} tasks, the daemon works on them by itself",
                    f"look at it: cms batch show {batch.id}",
                ]
            )
        return ExitCode.COMPLETED
    return watch(port, BATCH_RUN, params, batch, json=json)
