"""Commands on sessions: send, resume, fork, rename, wait. Those that end them are in `ends`."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.cli import flags, io, render
from cms.cli.flags import AttachFlag, DetachFlag, JsonFlag, NameFlag, NameWord, StopFlag
from cms.cli.hook_flags import Notify, OnAsk, OnDone, OnFail, Webhook, hooks
from cms.cli.terminal import Style
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object
from cms.rpc.sessions import (
    SESSION_FORK,
    SESSION_RENAME,
    SESSION_RESUME,
    SESSION_SEND,
    SESSIONS_WAIT,
    AcceptedResult,
    ForkParams,
    NameParams,
    RenameParams,
    SendParams,
    SessionResult,
    Waited,
    WaitParams,
    WaitResult,
)
from cms.rpc.verbs import P, Verb
from cms.session.model import Outcome, Reply, exit_code_of
from cms.units import check_model, check_name, in_seconds, money

#: What a branch is told when nobody says more.
GO_ON = "Go on from here."

_WAITED = "*session last_interaction=last next_step"

MessageWord = Annotated[str | None, flags.word("The message; - reads it from stdin.")]
MessageFlag = Annotated[
    str | None, flags.text_flag("--message", "The message, instead of MESSAGE.", rare=True)
]
MessageFile = Annotated[
    str | None, flags.text_flag("--message-file", "Read the message from this file.", "FILE")
]


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
        raise UsageError("--stop and --detach exclude each other")
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
    all_: Annotated[bool, flags.switch("--all", "All sessions that are paused.")] = False,
    detach: DetachFlag = False,
    json: JsonFlag = False,
) -> int:
    """Bring back a stopped or paused session, even days later.

    With a message, also send it and print the answer.

    Examples::

        cms resume fix-auth "where were we?"
        cms resume --all
    """
    if all_:
        from cms.cli.ends import resume_paused

        if any(given is not None for given in (name, message, name_flag, message_flag, message_file)):
            raise UsageError("--all excludes a name and a message")
        return resume_paused(json=json)
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


def wait(
    *names: Annotated[str, flags.word("The sessions' names.", "NAME")],
    name_flag: NameFlag = None,
    any_: Annotated[bool, flags.switch("--any", "Return when the first has finished.")] = False,
    all_: Annotated[bool, flags.switch("--all", "Return when all have finished (the default).")] = False,
    timeout: Annotated[
        float | None, flags.seconds("--timeout", "Give up after this long: 90s, 15m, 2h.")
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
    spent = money(one.last.cost, exact=one.last.cost_exact)
    why = f": {render.one_line(one.last.error, style)}" if one.last.error else ""
    outcome = render.paint_outcome(one.last.outcome, style)
    return f"{one.session.name}  {outcome}  {spent}  {in_seconds(one.last.duration)}{why}"
