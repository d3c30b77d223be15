"""Commands about a session's life besides work: pause, fork, delete, cleanup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter, Token

from cms.cli import flags, io, render
from cms.cli.flags import DetachFlag, JsonFlag, NameFlag, NameWord
from cms.cli.sessions import MessageFile, MessageFlag, send_and_show, show_session
from cms.errors import CmsError, ExitCode, UsageError
from cms.rpc.api import SessionReply
from cms.rpc.api_care import CleanupParams, CleanupReply, Deleted, DeleteParams, ForkParams, PauseParams

#: What a branch is told when nobody says more.
GO_ON = "Go on from here."

ForceFlag = Annotated[bool, flags.switch("--force", "Kill it first if it is alive.")]
PurgeFlag = Annotated[bool, flags.switch("--purge", "Remove the raw log and the audit log too.")]


def pause(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    freeze: Annotated[
        bool, flags.switch("--freeze", "Also stop every process of the session at once, where it stands.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Keep a session alive, but let it take no more messages. `cms resume` undoes it.

    Without --freeze it finishes what it does. A frozen session uses no processor; the clock of its limits
    (--max-time, --max-silence) stands still with it. It can be killed as it is, and is thawed to be stopped.
    An API call that was under way may have to be made again, and paid again. A pause ends with the process:
    what was stopped, or lost in a crash, is brought back by the next message.

    Examples::

        cms pause fix-auth
        cms pause fix-auth --freeze
    """
    who = flags.pick_name("pause", name, name_flag)
    with io.daemon() as client:
        reply = client.call("session.pause", PauseParams(name=who, freeze=freeze), SessionReply)
    return show_session(reply, json=json)


def fork(
    name: NameWord = None,
    new_name: Annotated[str | None, flags.word("The name of the new session.")] = None,
    message: Annotated[str | None, flags.word("What to go on with; - reads it from stdin.")] = None,
    /,
    *,
    name_flag: NameFlag = None,
    new_name_flag: Annotated[
        str | None, flags.text_flag("--new-name", "The new session's name, instead of NEW-NAME.", "NAME")
    ] = None,
    message_flag: MessageFlag = None,
    message_file: MessageFile = None,
    model: Annotated[
        str, flags.text_flag("--model", "Another model than the first session's.", "MODEL")
    ] = "",
    detach: DetachFlag = False,
    json: JsonFlag = False,
) -> int:
    """Branch a conversation into a new session, which goes on from there by itself.

    The first session is not stopped, nor does it notice. The new one has its preset, limits and folder; its
    cost, turns and messages count from zero. Without a message it is told to go on.

    Examples::

        cms fork fix-auth try-redis "do the same with Redis"
        cms fork fix-auth second-opinion --model opus --detach
    """
    words = [word for word in (name, new_name, message) if word is not None]
    who = name_flag if name_flag is not None else words.pop(0) if words else None
    new = new_name_flag if new_name_flag is not None else words.pop(0) if words else None
    text = words.pop(0) if words else None
    if words:
        raise UsageError(f"unexpected argument {flags.shorten(words[0])!r}: its flag was given")
    if not who or not new:
        missing = "the name of a session" if not who else "a name for the new session"
        raise UsageError(f"fork needs {missing}", hint=flags.usage_hint("fork", "NAME NEW-NAME [MESSAGE]"))
    said = flags.pick_text("fork", "message", word=text, flag=message_flag, file=message_file, required=False)
    if model:
        from cms.cli.agent import check_model

        check_model(model)
    params = ForkParams(
        name=who, new_name=flags.check_name(new), message=said or GO_ON, model=model, wait=not detach
    )
    return send_and_show(new, "session.fork", params, detach=detach, json=json)


def delete(
    *names: Annotated[str, flags.word("The sessions' names.")],
    name_flag: NameFlag = None,
    force: ForceFlag = False,
    purge: PurgeFlag = False,
    json: JsonFlag = False,
) -> int:
    """Remove sessions for good: their messages, answers and receipts.

    A live one is left alone without --force; the others go all the same, and the exit code tells.

    What was spent stays in the ledger (`cms cost`), and the audit log stays (`cms audit NAME`). The raw log
    is moved to the folder `trash` in CMS_HOME, which `cms cleanup` empties; --purge removes both at once.
    Claude's own record of the conversation is claude's and stays.

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
                gone.append(client.call("session.delete", DeleteParams(name, force, purge), Deleted))
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
        from cms.cli.views_care import DeletedListView, view_deleted

        io.show_json(DeletedListView(tuple(view_deleted(one) for one in gone)))
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
        Parameter(
            name="--days", converter=_to_days, metavar="N", help="How old is old: unchanged for N days."
        ),
    ] = 7,
    dry_run: Annotated[bool, flags.switch("--dry-run", "Change nothing; say what would be removed.")] = False,
    force: Annotated[bool, flags.switch("--force", "Live sessions too: they are killed first.")] = False,
    purge: PurgeFlag = False,
    json: JsonFlag = False,
) -> int:
    """Remove the sessions that have not changed for days, and name them.

    As `cms delete` for each. Live sessions are left alone and named, too. Raw logs that have been in the
    trash for as long are removed; with --purge so are the audit logs of sessions deleted as long ago.

    Examples::

        cms cleanup --dry-run
        cms cleanup --days 30
    """
    with io.daemon() as client:
        reply = client.call(
            "sessions.cleanup",
            CleanupParams(days=days, dry_run=dry_run, force=force, purge=purge),
            CleanupReply,
        )
    if json:
        from cms.cli.views_care import view_cleanup

        io.show_json(view_cleanup(reply, dry_run=dry_run))
    else:
        io.show_lines(cleanup_lines(reply, days, dry_run=dry_run))
    return ExitCode.COMPLETED


# --- lines ----------------------------------------------------------------------------------------


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


def cleanup_lines(reply: CleanupReply, days: float, *, dry_run: bool) -> list[str]:
    """Every session by name, and what became of it."""
    lines = []
    for gone in reply.deleted:
        if dry_run:
            log = f", raw log {render.size(gone.log_bytes)}" if gone.log_bytes else ""
            lines.append(f"{gone.session.name}: would be deleted{log}")
        else:
            lines += deleted_lines(gone)
    lines += [f"{one.name}: {one.status.value}, left alone (--force kills it)" for one in reply.live]
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
