"""Commands on sessions: send, resume, pause, fork, interrupt, stop, kill, wait, delete, cleanup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from cms.cli import flags, io, render
from cms.cli.declare import Parameter, Token
from cms.cli.flags import AttachFlag, DetachFlag, JsonFlag, NameFlag, NameWord, StopFlag
from cms.cli.hook_flags import Notify, OnAsk, OnDone, OnFail, Webhook, hooks
from cms.cli.terminal import Style
from cms.errors import CmsError, DaemonUnavailable, ExitCode, HomeUnusable, StoreError, UsageError
from cms.json_output import json_object
from cms.rpc.sessions import (
    SESSION_DELETE,
    SESSION_FORK,
    SESSION_INTERRUPT,
    SESSION_KILL,
    SESSION_PAUSE,
    SESSION_RENAME,
    SESSION_RESUME,
    SESSION_SEND,
    SESSION_STOP,
    SESSIONS_CLEANUP,
    SESSIONS_WAIT,
    AcceptedResult,
    CleanupParams,
    CleanupResult,
    Deleted,
    DeleteParams,
    ForkParams,
    NameParams,
    PauseParams,
    RenameParams,
    SendParams,
    SessionResult,
    StopParams,
    StopResult,
    Waited,
    WaitParams,
    WaitResult,
)
from cms.rpc.verbs import P, Verb
from cms.session.model import Outcome, Reply, SessionStatus, exit_code_of
from cms.units import check_model, check_name

#: Seconds after which a kill tells of the second way.
KILL_PATIENCE = 20.0

#: What a branch is told when nobody says more.
GO_ON = "Go on from here."

#: What `--json` tells of them (`cms.json_output`). `log` is null where there is none.
_DELETED = (
    "name=session.name id=session.id status=session.status total_cost_usd=session.total_cost_usd"
    " log log_bytes receipt audited"
)
_WAITED = "*session last_interaction=last next_step"

MessageWord = Annotated[str | None, flags.word("The message; - reads it from stdin.")]
MessageFlag = Annotated[
    str | None, flags.text_flag("--message", "The message, instead of MESSAGE.", rare=True)
]
MessageFile = Annotated[
    str | None, flags.text_flag("--message-file", "Read the message from this file.", "FILE")
]
ForceFlag = Annotated[bool, flags.switch("--force", "Kill it first if it is running.")]
PurgeFlag = Annotated[bool, flags.switch("--purge", "Also delete the raw log and the audit log.")]


def send(
    name: NameWord = None,
    message: MessageWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    message_flag: MessageFlag = None,
    message_file: MessageFile = None,
    attach: AttachFlag = (),
    stop: StopFlag = False,
    detach: DetachFlag = False,
    on_done: OnDone = "",
    on_fail: OnFail = "",
    on_ask: OnAsk = "",
    webhook: Webhook = "",
    notify: Notify = (),
    json: JsonFlag = False,
) -> int:
    """Send a message to a session and print the answer.

    A session that is not running is resumed first. `input` is the same command.

    Examples::

        cms send fix-auth "also add a test for it"
        git diff | cms send fix-auth -
        cms send fix-auth --message "--verbose was not what I meant"
    """
    who, word = flags.pick_name_and_word("send", name, message, name_flag, "message")
    text = flags.pick_text("send", "message", word=word, flag=message_flag, file=message_file)
    if stop and detach:
        raise UsageError("--stop needs the answer, and --detach does not wait for it: give one")
    params = SendParams(
        name=who,
        message=text or "",
        stop=stop,
        wait=not detach,
        hooks=hooks(on_done, on_fail, on_ask, webhook, notify),
        attachments=io.attached(attach),
    )
    return send_and_show(who, SESSION_SEND, params, detach=detach, json=json)


def resume(
    name: NameWord = None,
    message: MessageWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    message_flag: MessageFlag = None,
    message_file: MessageFile = None,
    detach: DetachFlag = False,
    json: JsonFlag = False,
) -> int:
    """Bring back a stopped or paused session, even days later.

    With a message, also send it and print the answer.

    Example::

        cms resume fix-auth "where were we?"
    """
    who, word = flags.pick_name_and_word("resume", name, message, name_flag, "message")
    text = flags.pick_text(
        "resume", "message", word=word, flag=message_flag, file=message_file, required=False
    )
    if text is not None:
        params = SendParams(name=who, message=text, resume=True, wait=not detach)
        return send_and_show(who, SESSION_SEND, params, detach=detach, json=json)
    with io.daemon() as client:
        reply = client.call(SESSION_RESUME, NameParams(name=who))
    return show_session(reply, json=json)


def pause(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    freeze: Annotated[
        bool, flags.switch("--freeze", "Stop every process of the session where it stands.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Let a session take no more messages until `cms resume`.

    Without --freeze it finishes what it is doing. A frozen session uses no processor, and its clocks (--max-
    time, --max-silence) stop. It can be killed as it is, and is thawed to be stopped. An API call under way
    may have to be made, and paid, again. A pause ends with the process: the next message brings back a
    session that was stopped or lost.

    Examples::

        cms pause fix-auth
        cms pause fix-auth --freeze
    """
    who = flags.pick_name("pause", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_PAUSE, PauseParams(name=who, freeze=freeze))
    return show_session(reply, json=json)


def fork(
    name: NameWord = None,
    new_name: Annotated[str | None, flags.word("The name of the new session.")] = None,
    message: Annotated[str | None, flags.word("The first message; - reads it from stdin.")] = None,
    /,
    *,
    name_flag: NameFlag = None,
    new_name_flag: Annotated[
        str | None, flags.text_flag("--new-name", "The new name, instead of NEW-NAME.", "NAME", rare=True)
    ] = None,
    message_flag: MessageFlag = None,
    message_file: MessageFile = None,
    model: Annotated[
        str, flags.text_flag("--model", "Use another model than the first session.", "MODEL")
    ] = "",
    detach: DetachFlag = False,
    json: JsonFlag = False,
) -> int:
    """Branch a conversation into a new session.

    The first session is not touched. The new one has the same preset, limits and folder; its cost, turns and
    messages start at zero. Without a message it is told to go on.

    Examples::

        cms fork fix-auth try-redis "do the same with Redis"
        cms fork fix-auth second-opinion --model opus --detach
    """
    given = (name, new_name, message)
    who, new, text = _pick_two_names("fork", given, name_flag, new_name_flag, "NAME NEW-NAME [MESSAGE]")
    said = flags.pick_text("fork", "message", word=text, flag=message_flag, file=message_file, required=False)
    if model:
        check_model(model)
    params = ForkParams(name=who, new_name=new, message=said or GO_ON, model=model, wait=not detach)
    return send_and_show(new, SESSION_FORK, params, detach=detach, json=json)


def _pick_two_names(
    command: str, given: tuple[str | None, ...], name: str | None, new_name: str | None, usage: str
) -> tuple[str, str, str | None]:
    """A session, a name for one that is new, and the word behind them, which stand in that order unless a
    flag gave one."""
    words = [word for word in given if word is not None]
    who = name if name is not None else words.pop(0) if words else None
    new = new_name if new_name is not None else words.pop(0) if words else None
    behind = words.pop(0) if words else None
    if words:
        raise UsageError(f"unexpected argument {flags.shorten(words[0])!r}: its flag was given")
    if not who or not new:
        missing = "the name of a session" if not who else "a new name"
        raise UsageError(f"{command} needs {missing}", hint=flags.usage_hint(command, usage))
    return who, check_name(new), behind


def interrupt(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """Interrupt what a session is doing; it stays alive.

    Example::

        cms interrupt fix-auth
    """
    who = flags.pick_name("interrupt", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_INTERRUPT, NameParams(name=who))
    return show_session(reply, json=json)


def rename(
    name: NameWord = None,
    new_name: Annotated[str | None, flags.word("Its new name.")] = None,
    /,
    *,
    name_flag: NameFlag = None,
    new_name_flag: Annotated[
        str | None, flags.text_flag("--new-name", "The new name, instead of NEW-NAME.", "NAME", rare=True)
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Give a session another name.

    History, costs and logs stay with it. It keeps its name while a delegation is under way. Commands that
    wait for the old name no longer find it.

    Example::

        cms rename fix-auth fix-login
    """
    who, new, _ = _pick_two_names("rename", (name, new_name), name_flag, new_name_flag, "NAME NEW-NAME")
    with io.daemon() as client:
        reply = client.call(SESSION_RENAME, RenameParams(name=who, new_name=new))
    return show_session(reply, json=json)


def stop(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    grace: Annotated[
        float,
        Parameter(
            name="--grace",
            converter=flags.to_seconds,
            metavar="TIME",
            help="Give it this long to end before it is killed.",
        ),
    ] = 10.0,
    json: JsonFlag = False,
) -> int:
    """End a session; it can be resumed.

    What it is doing is interrupted first, so the conversation stays whole.

    Example::

        cms stop fix-auth
    """
    who = flags.pick_name("stop", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_STOP, StopParams(name=who, grace=grace))
    return _show_stopped(reply, json=json)


def kill(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    force_local: Annotated[
        bool,
        flags.switch("--force-local", "Kill without the daemon, for when it does not answer."),
    ] = False,
    json: JsonFlag = False,
) -> int:
    """End a session and everything it started, by force.

    Prints a receipt: what was alive, what was done, what is left. Exits with 0 only if it is proved that
    nothing is left. Until then the session's status is `error` and no other session starts in its folder;
    kill it again. A killed session can be resumed.

    Example::

        cms kill fix-auth
    """
    who = flags.pick_name("kill", name, name_flag)
    if force_local:
        from cms.cli.force_local import kill_locally

        return kill_locally(who, json=json)
    try:
        with io.daemon() as client:
            reply = client.call(SESSION_KILL, NameParams(name=who), patience=KILL_PATIENCE)
    except (DaemonUnavailable, StoreError, HomeUnusable) as error:
        error.hint = f"cms kill {who} --force-local ends it without the daemon"
        raise
    return _show_stopped(reply, json=json, by_force=True)


def delete(
    *names: Annotated[str, flags.word("The sessions' names.")],
    name_flag: NameFlag = None,
    force: ForceFlag = False,
    purge: PurgeFlag = False,
    json: JsonFlag = False,
) -> int:
    """Delete sessions with their messages, answers and receipts.

    Live sessions are skipped without --force; the others are deleted, and the exit code tells. Costs stay in
    the ledger (`cms cost`), and the audit log stays (`cms audit NAME`). The raw log moves to `trash` in
    CMS_HOME until `cms cleanup`; --purge deletes both at once. Claude's own record of the conversation stays.

    Examples::

        cms delete fix-auth
        cms delete old-1 old-2 --purge
    """
    chosen = tuple(dict.fromkeys((*names, *(() if name_flag is None else (name_flag,)))))
    if not chosen:
        raise UsageError("delete needs the name of a session", hint=flags.usage_hint("delete", "NAME..."))
    gone: list[Deleted] = []
    failures: list[CmsError] = []
    with io.daemon() as client:
        for name in chosen:
            try:
                gone.append(client.call(SESSION_DELETE, DeleteParams(name, force, purge)))
            except CmsError as error:
                failures.append(error)
                if error.exit_code is ExitCode.DAEMON_UNAVAILABLE:
                    break
            else:
                if not json:
                    io.show_lines(deleted_lines(gone[-1]))
    if failures:
        for one in gone if json else ():
            io.warn(f"cms: {one.session.name} is deleted")
        for failure in failures[1:]:
            io.warn(f"cms: {failure.message}")
        raise failures[0]
    if json:
        io.show_json(json_object(deleted=[_deleted(one) for one in gone]))
    return ExitCode.COMPLETED


def _to_days(_: object, tokens: Sequence[Token]) -> float:
    try:
        days = float(tokens[0].value)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise ValueError(f"{tokens[0].value!r} is not a number of days")
    return days


def cleanup(
    *,
    days: Annotated[
        float,
        Parameter(name="--days", converter=_to_days, metavar="N", help="Unchanged for at least N days."),
    ] = 7,
    dry_run: Annotated[bool, flags.switch("--dry-run", "Only show what would be deleted.")] = False,
    force: Annotated[bool, flags.switch("--force", "Also kill and delete live sessions.")] = False,
    purge: PurgeFlag = False,
    json: JsonFlag = False,
) -> int:
    """Delete sessions that have not changed for days.

    Works like `cms delete` on each. Live sessions are skipped and named. Raw logs as old are removed from the
    trash; with --purge, so are the audit logs of sessions deleted as long ago.

    Examples::

        cms cleanup --dry-run
        cms cleanup --days 30
    """
    with io.daemon() as client:
        reply = client.call(
            SESSIONS_CLEANUP,
            CleanupParams(days=days, dry_run=dry_run, force=force, purge=purge),
        )
    if json:
        deleted = [_deleted(one) for one in reply.deleted]
        live = [session.name for session in reply.live]
        io.show_json({"dryRun": dry_run, **json_object(reply, deleted=deleted, live=live)})
    else:
        io.show_lines(cleanup_lines(reply, days, dry_run=dry_run))
    return ExitCode.COMPLETED


def wait(
    *names: Annotated[str, flags.word("The sessions' names.")],
    name_flag: NameFlag = None,
    any_: Annotated[bool, flags.switch("--any", "Return when the first has finished.")] = False,
    all_: Annotated[bool, flags.switch("--all", "Return when all have finished (the default).")] = False,
    timeout: Annotated[
        float | None,
        Parameter(
            name="--timeout",
            converter=flags.to_seconds,
            metavar="TIME",
            help="Give up after this long: 90s, 15m, 2h.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Wait until sessions have finished all their messages.

    Exits with the code of the first session, in the order given, whose last message did not end well; with 0
    if all did; with 6 on timeout. Ctrl-C ends only the waiting.

    Examples::

        cms wait fix-auth docs
        cms wait --any fix-auth docs --timeout 15m
    """
    chosen = (*names, *(() if name_flag is None else (name_flag,)))
    if not chosen:
        raise UsageError("wait needs the name of a session", hint=flags.usage_hint("wait", "NAME..."))
    if any_ and all_:
        raise UsageError("--any and --all at once: give one")
    params = WaitParams(names=chosen, first=any_, timeout=timeout)
    with io.daemon() as client:
        reply = client.call(SESSIONS_WAIT, params)
    if json:
        io.show_json(json_object(reply, done=[json_object(one, _WAITED) for one in reply.done]))
    else:
        io.show_lines(wait_lines(reply, io.out_style()))
    return wait_exit(reply, first=any_)


# --- shared ---------------------------------------------------------------------------------------


def reply_exit(reply: Reply) -> ExitCode:
    """The exit status for an answer: its outcome's; an error never reads as success."""
    if reply.outcome is Outcome.COMPLETED and reply.is_error:
        return ExitCode.FAILED
    return exit_code_of(reply.outcome)


def show_accepted(reply: AcceptedResult, *, detached: bool, json: bool) -> int:
    """A message that is on disk and not waited for: as asked (`--detach`), or because of Ctrl-C."""
    if not detached:
        io.warn(f"cms: no longer waiting; {reply.name} works on")
        io.warn(f"     `cms interrupt {reply.name}` stops it, `cms output {reply.name}` shows the answer")
    if json:
        io.show_json(json_object(reply, accepted=True))
    elif detached:
        io.show_lines(render.accepted_lines(reply))
    return ExitCode.COMPLETED if detached else ExitCode.INTERRUPTED


def send_and_show(
    name: str, verb: Verb[P, Reply | AcceptedResult], params: P, *, detach: bool, json: bool
) -> int:
    reply, shows = io.work(verb, params, name=name, quiet=json or detach)
    if isinstance(reply, AcceptedResult):
        return show_accepted(reply, detached=detach, json=json)
    if json:
        io.show_json(reply)
    else:
        rest = msgspec.structs.replace(reply, text="") if shows(reply.text) else reply
        io.show_lines(render.reply_lines(rest, io.out_style()))
    return reply_exit(reply)


def show_session(reply: SessionResult, *, json: bool) -> int:
    if json:
        io.show_json(reply.session)
    else:
        io.show_lines([render.session_line(reply.session, io.out_style())])
    return ExitCode.COMPLETED


def _show_stopped(reply: StopResult, *, json: bool, by_force: bool = False) -> int:
    if json:
        io.show_json(json_object(reply.session, receipt=reply.receipt))
    else:
        lines = render.killed_lines if by_force else render.stopped_lines
        io.show_lines(lines(reply.session, reply.receipt, io.out_style()))
    proved = reply.receipt is None or reply.receipt.empty
    if proved and reply.session.status is not SessionStatus.ERROR:
        return ExitCode.COMPLETED
    name = reply.session.name
    io.warn(f"cms: {name} is NOT proved dead; no session is started in {reply.session.options.work_dir}")
    io.warn(f"     `cms kill {name}` tries again; `cms doctor` shows what a kill is worth here")
    return ExitCode.FAILED


def wait_exit(reply: WaitResult, *, first: bool) -> ExitCode:
    """The exit status for what came of the waiting."""
    for one in reply.done:
        if one.last is not None and one.last.outcome is not Outcome.COMPLETED:
            # Without an outcome: it is at work elsewhere, or what became of it could not be stored.
            return exit_code_of(one.last.outcome or Outcome.FAILED)
    if reply.waiting and not (first and reply.done):
        return ExitCode.TIME_EXCEEDED if reply.timed_out else ExitCode.INTERRUPTED
    return ExitCode.COMPLETED


# --- lines ----------------------------------------------------------------------------------------


def _deleted(gone: Deleted) -> dict[str, object]:
    return json_object(gone, _DELETED, log=gone.log or None)


def deleted_lines(gone: Deleted) -> list[str]:
    """What is gone, and where its raw log is."""
    lines = [f"{gone.session.name}: deleted"]
    if gone.receipt is not None:
        lines.append(f"  {render.receipt_line(gone.receipt)}")
    if gone.log:
        lines.append(f"  its raw log ({render.size(gone.log_bytes)}) is now {gone.log}")
    elif gone.log_bytes:
        lines.append(f"  its raw log ({render.size(gone.log_bytes)}) is removed")
    audit = f"stays: cms audit {gone.session.id}" if gone.audited else "is removed"
    lines.append(f"  its audit log {audit}")
    return lines


def cleanup_lines(reply: CleanupResult, days: float, *, dry_run: bool) -> list[str]:
    """Every session by name, and what became of it."""
    lines = []
    for gone in reply.deleted:
        if dry_run:
            log = f", raw log {render.size(gone.log_bytes)}" if gone.log_bytes else ""
            lines.append(f"{gone.session.name}: would be deleted{log}")
        else:
            lines += deleted_lines(gone)
    lines += [f"{one.name}: {one.status.value}, left alone (--force kills it)" for one in reply.live]
    lines += [f"{one.name}: left alone: {one.why}" for one in reply.kept]
    verb = "to delete" if dry_run else "deleted"
    lines.append(f"total: {render.count(len(reply.deleted), 'session')} {verb}, unchanged for {days:g} days")
    if reply.trash_files:
        verb = "would be removed" if dry_run else "removed"
        what = render.count(reply.trash_files, "old log")
        lines.append(f"trash: {what} ({render.size(reply.trash_bytes)}) {verb}")
    if reply.audit_logs:
        verb = "would be removed" if dry_run else "removed"
        lines.append(f"audit logs of sessions deleted before: {reply.audit_logs} {verb}")
    return lines


def wait_lines(reply: WaitResult, style: Style) -> list[str]:
    """A line for each that is through, and one for those that are not."""
    found = []
    for one in reply.done:
        found.append(_waited_line(one, style))
        if one.last is not None and one.last.outcome is not Outcome.COMPLETED:
            found += render.next_lines(one.next_step, style, indent="  ")
    if reply.waiting:
        found.append(f"still at work: {', '.join(reply.waiting)}")
    return found


def _waited_line(one: Waited, style: Style) -> str:
    if one.last is None or one.last.outcome is None:
        return f"{one.session.name}  {render.paint_status(one.session.status, style)}"
    spent = render.cost(one.last.cost, exact=one.last.cost_exact)
    why = f": {render.one_line(one.last.error, style)}" if one.last.error else ""
    outcome = render.paint_outcome(one.last.outcome, style)
    return f"{one.session.name}  {outcome}  {spent}  {render.seconds(one.last.duration)}{why}"
