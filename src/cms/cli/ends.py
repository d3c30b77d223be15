"""Commands that hold sessions up or end them: pause, interrupt, stop, kill, delete, cleanup.

Those that take several names ask for each by itself, `delete` aside eight at once: one that does not end
holds up no other. What goes wrong with one is told, and is no reason to leave the others out.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TypeVar

from cms.cli import end_lines, flags, io, render
from cms.cli.declare import Parameter, Token
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.cli.terminal import Style
from cms.errors import CmsError, DaemonUnavailable, ExitCode, HomeUnusable, StoreError, UsageError
from cms.json_output import json_object
from cms.rpc.sessions import (
    MAX_LISTED,
    SESSION_DELETE,
    SESSION_INTERRUPT,
    SESSION_KILL,
    SESSION_LIST,
    SESSION_PAUSE,
    SESSION_RESUME,
    SESSION_STOP,
    SESSIONS_CLEANUP,
    CleanupParams,
    CleanupResult,
    Deleted,
    DeleteParams,
    ListParams,
    NameParams,
    PauseParams,
    SessionResult,
    StopParams,
    StopResult,
)
from cms.session.model import LIVE, Receipt, SessionRecord, SessionStatus
from cms.units import plural, size

R = TypeVar("R")

#: Seconds after which a kill tells of the second way.
KILL_PATIENCE = 20.0
_AT_ONCE = 8

#: What `--json` tells of them (`cms.json_output`). `log` is null where there is none.
_DELETED = (
    "name=session.name id=session.id status=session.status total_cost_usd=session.total_cost_usd"
    " log log_bytes receipt audited"
)

NameWords = Annotated[str, flags.word("The sessions' names.", "NAME")]
ForceFlag = Annotated[bool, flags.switch("--force", "Kill it first if it is running.")]
PurgeFlag = Annotated[bool, flags.switch("--purge", "Also delete the raw log and the audit log.")]
AllLive = Annotated[bool, flags.switch("--all", "All sessions that are running.")]
YesFlag = Annotated[bool, flags.switch("--yes", "With --all, do not ask.")]
VerboseFlag = Annotated[bool, flags.switch("--verbose", "Also show how it ended, and the proof.")]


def pause(
    *names: NameWords,
    name_flag: NameFlag = None,
    all_: AllLive = False,
    freeze: Annotated[
        bool, flags.switch("--freeze", "Stop every process of the session where it stands.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Let sessions take no more messages until `cms resume`.

    Without --freeze it finishes what it is doing. A frozen session uses no processor, and its clocks (--max-
    time, --max-silence) stop. It can be killed as it is, and is thawed to be stopped. An API call under way
    may have to be made, and paid, again. A pause ends with the process: the next message brings back a
    session that was stopped or lost.

    Examples::

        cms pause fix-auth
        cms pause fix-auth docs --freeze
    """
    may_be = LIVE - {SessionStatus.PAUSED, SessionStatus.ATTACHED}
    chosen = _pick("pause", names, name_flag, all_, may_be)

    def ask(name: str) -> SessionResult:
        with io.daemon() as client:
            return client.call(SESSION_PAUSE, PauseParams(name=name, freeze=freeze))

    return for_each(chosen, ask, _show_session, _session_json, many=all_ or len(chosen) > 1, json=json)


def resume_paused(*, json: bool) -> int:
    """Let all that are paused go on."""

    def ask(name: str) -> SessionResult:
        with io.daemon() as client:
            return client.call(SESSION_RESUME, NameParams(name=name))

    chosen = all_in(frozenset({SessionStatus.PAUSED}))
    return for_each(chosen, ask, _show_session, _session_json, many=True, json=json)


def _show_session(reply: SessionResult) -> int:
    io.show_lines([render.session_line(reply.session, io.out_style())])
    return ExitCode.COMPLETED


def _session_json(reply: SessionResult) -> dict[str, object]:
    return json_object(reply.session)


def interrupt(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """Stop what a session is doing now. It stays alive for the next message.

    Example::

        cms interrupt fix-auth
    """
    who = flags.pick_name("interrupt", name, name_flag)
    with io.daemon() as client:
        reply = client.call(SESSION_INTERRUPT, NameParams(name=who))
    if json:
        io.show_json(reply.session)
    else:
        io.show_lines([f"{reply.session.name}: interrupted"])
    return ExitCode.COMPLETED


def stop(
    *names: NameWords,
    name_flag: NameFlag = None,
    all_: AllLive = False,
    grace: Annotated[float, flags.seconds("--grace", "Give it this long to end before it is killed.")] = 10.0,
    verbose: VerboseFlag = False,
    json: JsonFlag = False,
) -> int:
    """End sessions; they can be resumed.

    What a session is doing is interrupted first, so the conversation stays whole.

    Examples::

        cms stop fix-auth
        cms stop --all
    """
    chosen = _pick("stop", names, name_flag, all_, LIVE)

    def ask(name: str) -> StopResult:
        with io.daemon() as client:
            return client.call(SESSION_STOP, StopParams(name=name, grace=grace))

    def show(reply: StopResult) -> int:
        return _show_end(reply, end_lines.stopped_lines, verbose=verbose)

    code = for_each(chosen, ask, show, _end_json, many=all_ or len(chosen) > 1, json=json)
    return _after_all(code) if all_ else code


def kill(
    *names: NameWords,
    name_flag: NameFlag = None,
    all_: AllLive = False,
    yes: YesFlag = False,
    force_local: Annotated[
        bool,
        flags.switch("--force-local", "Kill without the daemon, for when it does not answer."),
    ] = False,
    verbose: VerboseFlag = False,
    json: JsonFlag = False,
) -> int:
    """End sessions and everything they started, by force.

    Exits with 0 only if it is proved that nothing is left; --verbose and --json tell what was alive, what was
    done, and what the proof is. Until then the session's status is `error` and no other session starts in its
    folder; kill it again. A killed session can be resumed.

    Examples::

        cms kill fix-auth
        cms kill --all
    """
    if force_local:
        from cms.cli.force_local import kill_locally

        chosen = named("kill", names, name_flag, all_=all_)
        if all_ and not agreed("kill", "Kill every session that runs here?", yes=yes, json=json):
            return ExitCode.FAILED
        return kill_locally(chosen, verbose=verbose, json=json)
    with _or_without_daemon(" ".join(names) or name_flag or "--all"):
        chosen = _pick("kill", names, name_flag, all_, LIVE | {SessionStatus.ERROR})
    if all_ and chosen:
        question = f"Kill {plural(len(chosen), 'session')} and all that {_they(chosen)} started?"
        if not agreed("kill", question, yes=yes, json=json):
            return ExitCode.FAILED

    def ask(name: str) -> StopResult:
        with _or_without_daemon(name), io.daemon() as client:
            return client.call(SESSION_KILL, NameParams(name=name), patience=KILL_PATIENCE)

    def show(reply: StopResult) -> int:
        return _show_end(reply, end_lines.killed_lines, verbose=verbose)

    code = for_each(chosen, ask, show, _end_json, many=all_ or len(chosen) > 1, json=json)
    return _after_all(code) if all_ else code


@contextmanager
def _or_without_daemon(whom: str) -> Iterator[None]:
    """What goes wrong with the daemon or its store names the way without them."""
    try:
        yield
    except (DaemonUnavailable, StoreError, HomeUnusable) as error:
        error.hint = f"cms kill {whom} --force-local ends it without the daemon"
        raise


def _they(chosen: Sequence[str]) -> str:
    return "it" if len(chosen) == 1 else "they"


def _show_end(
    reply: StopResult,
    details: Callable[[SessionRecord, Receipt | None, Style], list[str]],
    *,
    verbose: bool,
) -> int:
    style = io.out_style()
    if verbose or not _is_proved(reply):
        io.show_lines(details(reply.session, reply.receipt, style))
    else:
        io.show_lines([end_lines.end_line(reply.session, reply.receipt)])
    return _warn_unproved(reply)


def _is_proved(reply: StopResult) -> bool:
    """Whether nothing is left, of this end or of one before."""
    proved = reply.receipt is None or reply.receipt.empty
    return proved and reply.session.status is not SessionStatus.ERROR


def _warn_unproved(reply: StopResult) -> int:
    """The exit status of an end; what is not proved is told in any case."""
    if _is_proved(reply):
        return ExitCode.COMPLETED
    name = reply.session.name
    io.warn(f"cms: {name} is NOT proved dead; no session is started in {reply.session.options.work_dir}")
    io.warn(f"     `cms kill {name}` tries again; `cms doctor` shows what a kill is worth here")
    return ExitCode.FAILED


def _end_json(reply: StopResult) -> dict[str, object]:
    return json_object(reply.session, receipt=reply.receipt)


def _after_all(code: int) -> int:
    """Tell of the batches that run on: they start sessions."""
    from cms.batch.model import BatchStatus
    from cms.rpc.batches import BATCH_LIST
    from cms.rpc.verbs import Nothing

    with io.daemon() as client:
        batches = client.call(BATCH_LIST, Nothing()).batches
    for batch in batches:
        if batch.status is BatchStatus.RUNNING:
            io.warn(f"cms: batch {batch.id} runs on and starts sessions; `cms batch stop {batch.id}` ends it")
    return code


def delete(
    *names: NameWords,
    name_flag: NameFlag = None,
    all_: Annotated[bool, flags.switch("--all", "All sessions; with --force, live ones too.")] = False,
    yes: YesFlag = False,
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
    statuses = frozenset(SessionStatus) if force else frozenset(SessionStatus) - LIVE
    chosen = _pick("delete", names, name_flag, all_, statuses)
    if all_ and chosen:
        question = f"Delete {plural(len(chosen), 'session')} for good?"
        if not agreed("delete", question, yes=yes, json=json):
            return ExitCode.FAILED

    def ask(name: str) -> Deleted:
        with io.daemon() as client:
            return client.call(SESSION_DELETE, DeleteParams(name, force, purge))

    def show(gone: Deleted) -> int:
        io.show_lines([deleted_line(gone)])
        return ExitCode.COMPLETED

    return for_each(chosen, ask, show, _deleted, many=True, json=json, key="deleted", at_once=1)


def _deleted(gone: Deleted) -> dict[str, object]:
    return json_object(gone, _DELETED, log=gone.log or None)


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
        kept = [json_object(one, "name why") for one in reply.kept]
        io.show_json({"dryRun": dry_run, **json_object(reply, deleted=deleted, live=live, kept=kept)})
    else:
        io.show_lines(cleanup_lines(reply, days, dry_run=dry_run))
    return ExitCode.COMPLETED


# --- several ----------------------------------------------------------------------------------------


def _pick(
    command: str, names: Sequence[str], flag: str | None, all_: bool, statuses: frozenset[SessionStatus]
) -> tuple[str, ...]:
    """The sessions that are meant, each once; with --all, those in one of the statuses.

    Raises:
        UsageError: none is named, or some are, beside --all.
    """
    return named(command, names, flag, all_=all_) or all_in(statuses)


def named(command: str, names: Sequence[str], flag: str | None, *, all_: bool) -> tuple[str, ...]:
    """The names that were given, each once; none with --all. Raises as `_pick`."""
    chosen = tuple(dict.fromkeys((*names, *(() if flag is None else (flag,)))))
    if all_ and chosen:
        raise UsageError("names and --all exclude each other")
    if not all_ and not chosen:
        hint = flags.usage_hint(command, "NAME... | --all")
        raise UsageError(f"{command} needs the name of a session", hint=hint)
    return chosen


def all_in(statuses: frozenset[SessionStatus]) -> tuple[str, ...]:
    """The names of all sessions in one of these statuses, newest first."""
    found: dict[str, None] = {}
    with io.daemon() as client:
        for status in sorted(statuses):
            after = ""
            while True:
                page = client.call(SESSION_LIST, ListParams(status=status, limit=MAX_LISTED, after=after))
                found.update(dict.fromkeys(one.name for one in page.sessions))
                if not page.more or not page.sessions:
                    break
                after = page.sessions[-1].name
    return tuple(found)


def for_each(
    names: Sequence[str],
    ask: Callable[[str], R],
    show: Callable[[R], int],
    to_json: Callable[[R], dict[str, object]],
    *,
    many: bool,
    json: bool,
    key: str = "sessions",
    at_once: int = _AT_ONCE,
) -> int:
    """Ask for each session, and tell what came of it in the order given.

    Args:
        show: tells of one in lines, and gives its exit status.
        many: with `--json`, a list under `key` and what went wrong under `failed`, whatever their number.

    Returns:
        The exit status of the first that is not 0.

    Raises:
        CmsError: what went wrong with the only one.
    """
    codes: list[int] = []
    done: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    for name, reply in _ask_all(names, ask, at_once):
        if isinstance(reply, CmsError):
            if len(names) == 1:
                raise reply
            failed.append({"name": name, "error": io.error_json(reply)})
            io.show_error(reply)
            codes.append(reply.exit_code)
        elif json:
            done.append(to_json(reply))
            codes.append(_warn_unproved(reply) if isinstance(reply, StopResult) else ExitCode.COMPLETED)
        else:
            codes.append(show(reply))
    if json and many:
        io.show_json({key: done, "failed": failed})
    elif json:
        io.show_json(done[0])
    elif not names:
        io.show_lines(["nothing to do"])
    return next((code for code in codes if code), ExitCode.COMPLETED)


def _ask_all(
    names: Sequence[str], ask: Callable[[str], R], at_once: int
) -> Iterator[tuple[str, R | CmsError]]:
    if min(at_once, len(names)) < 2:
        for name in names:
            answer = _ask_one(name, ask)
            yield name, answer
            if isinstance(answer, CmsError) and answer.exit_code is ExitCode.DAEMON_UNAVAILABLE:
                return
        return
    todo, answered = iter(names), threading.Condition()
    answers: dict[str, R | CmsError] = {}

    def work() -> None:
        while True:
            with answered:
                name = next(todo, None)
            if name is None:
                return
            answer = _ask_one(name, ask)
            with answered:
                answers[name] = answer
                answered.notify_all()

    for _ in range(min(at_once, len(names))):
        threading.Thread(target=work, daemon=True).start()
    for name in names:
        with answered:
            answered.wait_for(lambda: name in answers)  # noqa: B023 - waited for at once
        yield name, answers[name]


def _ask_one(name: str, ask: Callable[[str], R]) -> R | CmsError:
    try:
        return ask(name)
    except CmsError as error:
        return error


def agreed(command: str, question: str, *, yes: bool, json: bool) -> bool:
    """Whether a person agrees to what cannot be undone.

    Raises:
        UsageError: nobody is there to ask.
    """
    if yes:
        return True
    if json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{command} --all asks first, but cannot ask here", hint=f"cms {command} --all --yes"
        )
    if io.asks(question):
        return True
    io.warn("cms: nothing done")
    return False


# --- lines ------------------------------------------------------------------------------------------


def deleted_line(gone: Deleted) -> str:
    """What is gone, and what became of its logs."""
    taken = f" ({size(gone.log_bytes)})" if gone.log_bytes else ""
    if not gone.audited:
        return f"{gone.session.name}: deleted with its logs{taken}"
    raw = f"its raw log{taken} is in the trash, " if gone.log else ""
    return f"{gone.session.name}: deleted; {raw}its audit log stays"


def cleanup_lines(reply: CleanupResult, days: float, *, dry_run: bool) -> list[str]:
    """A line for each session, and the totals."""
    lines = []
    for gone in reply.deleted:
        log = f", raw log {size(gone.log_bytes)}" if gone.log_bytes else ""
        lines.append(f"{gone.session.name}: {'would be deleted' if dry_run else 'deleted'}{log}")
    lines += [f"{one.name}: {one.status.value}, left alone (--force kills it)" for one in reply.live]
    lines += [f"{one.name}: left alone, {one.lost} (cms diff {one.name})" for one in reply.kept]
    verb = "to delete" if dry_run else "deleted"
    lines.append(f"total: {plural(len(reply.deleted), 'session')} {verb}, unchanged for {days:g} days")
    if reply.trash_files:
        verb = "would be removed" if dry_run else "removed"
        what = plural(reply.trash_files, "old log")
        lines.append(f"trash: {what} ({size(reply.trash_bytes)}) {verb}")
    if reply.audit_logs:
        verb = "would be removed" if dry_run else "removed"
        lines.append(f"audit logs of sessions deleted before: {reply.audit_logs} {verb}")
    return lines
