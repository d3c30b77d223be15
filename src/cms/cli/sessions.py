"""Commands that do something with a session that exists: send, resume, interrupt, stop, kill."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cms.cli import flags, io, render
from cms.cli.flags import DetachFlag, JsonFlag, NameFlag, NameWord, StopFlag
from cms.errors import ExitCode, UsageError
from cms.rpc.api import (
    AcceptedReply,
    NameParams,
    ResumeParams,
    SendParams,
    SessionReply,
    StopParams,
    StopReply,
)
from cms.session.model import Outcome, Record, Reply, SessionStatus, exit_code_of

MessageWord = Annotated[str | None, flags.word("The message; - reads it from stdin.")]
MessageFlag = Annotated[str | None, flags.text_flag("--message", "The message, instead of MESSAGE.")]
MessageFile = Annotated[
    str | None, flags.text_flag("--message-file", "Read the message from a file.", "FILE")
]


def send(
    name: NameWord = None,
    message: MessageWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    message_flag: MessageFlag = None,
    message_file: MessageFile = None,
    stop: StopFlag = False,
    detach: DetachFlag = False,
    json: JsonFlag = False,
) -> int:
    """Send a message to a session and print the answer.

    A session that is not alive is resumed first, by itself. `input` is the same command.

    Examples::

        cms send fix-auth "also add a test for it"
        git diff | cms send fix-auth -
        cms send fix-auth --message "--verbose was not what I meant"
    """
    who, word = flags.pick_name_and_word("send", name, message, name_flag, "message")
    text = flags.pick_text("send", "message", word=word, flag=message_flag, file=message_file)
    if stop and detach:
        raise UsageError("--stop needs the answer, and --detach does not wait for it: give one")
    params = SendParams(name=who, message=text or "", stop=stop, wait=not detach)
    return send_and_show(who, "session.send", params, detach=detach, json=json)


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
    """Bring a stopped or paused session back, days later too.

    With a message, also send it and print the answer.

    Example::

        cms resume fix-auth "where were we?"
    """
    who, word = flags.pick_name_and_word("resume", name, message, name_flag, "message")
    text = flags.pick_text(
        "resume", "message", word=word, flag=message_flag, file=message_file, required=False
    )
    params = ResumeParams(name=who, message=text, wait=not detach)
    if text is not None:
        return send_and_show(who, "session.resume", params, detach=detach, json=json)
    with io.daemon() as client:
        reply = client.call("session.resume", params, SessionReply)
    return show_session(reply, json=json)


def interrupt(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """End what a session is doing now; it stays alive and takes the next message.

    Example::

        cms interrupt fix-auth
    """
    who = flags.pick_name("interrupt", name, name_flag)
    with io.daemon() as client:
        reply = client.call("session.interrupt", NameParams(name=who), SessionReply)
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
            help="What the whole stop may take before force is used.",
        ),
    ] = 10.0,
    json: JsonFlag = False,
) -> int:
    """End a session gracefully; it can be resumed.

    What it is doing is interrupted first, so that the conversation stays whole. The answer says how it
    ended and whether that was proved.

    Example::

        cms stop fix-auth
    """
    who = flags.pick_name("stop", name, name_flag)
    with io.daemon() as client:
        reply = client.call("session.stop", StopParams(name=who, grace=grace), StopReply)
    return _show_stopped(reply, json=json)


def kill(name: NameWord = None, /, *, name_flag: NameFlag = None, json: JsonFlag = False) -> int:
    """End a session and everything that it started, by force.

    The answer is the receipt: what was alive, what was done, how long it took, what is left. Exits with 0
    only when it is proved that nothing is. Until then (status `error`) no other session is started in its
    folder; kill it again. What was killed can be resumed.

    Example::

        cms kill fix-auth
    """
    who = flags.pick_name("kill", name, name_flag)
    with io.daemon() as client:
        reply = client.call("session.kill", NameParams(name=who), StopReply)
    return _show_stopped(reply, json=json, by_force=True)


# --- shared ---------------------------------------------------------------------------------------


def reply_exit(reply: Reply) -> ExitCode:
    """The exit status for an answer: its outcome's; an error never reads as success."""
    if reply.outcome is Outcome.COMPLETED and reply.is_error:
        return ExitCode.FAILED
    return exit_code_of(reply.outcome)


def show_accepted(reply: AcceptedReply, *, detached: bool, json: bool) -> int:
    """A message that is on disk and not waited for: as asked (`--detach`), or because of Ctrl-C."""
    if not detached:
        io.warn(f"cms: no longer waiting; {reply.name} works on")
        io.warn(f"     `cms interrupt {reply.name}` stops it, `cms output {reply.name}` shows the answer")
    if json:
        from cms.cli.views import AcceptedView

        io.show_json(
            AcceptedView(name=reply.name, session_id=reply.session_id, interaction_id=reply.interaction_id)
        )
    elif detached:
        io.show_lines(render.accepted_lines(reply))
    return ExitCode.COMPLETED if detached else ExitCode.INTERRUPTED


def send_and_show(name: str, method: str, params: Record, *, detach: bool, json: bool) -> int:
    reply = io.work(method, params, Reply, name=name, quiet=json or detach)
    if isinstance(reply, AcceptedReply):
        return show_accepted(reply, detached=detach, json=json)
    if json:
        io.show_json(reply)
    else:
        io.show_lines(render.reply_lines(reply, io.out_style()))
    return reply_exit(reply)


def show_session(reply: SessionReply, *, json: bool) -> int:
    if json:
        from cms.cli.views import view_session

        io.show_json(view_session(reply.session))
    else:
        io.show_lines([render.session_line(reply.session, io.out_style())])
    return ExitCode.COMPLETED


def _show_stopped(reply: StopReply, *, json: bool, by_force: bool = False) -> int:
    if json:
        from cms.cli.views import view_stopped

        io.show_json(view_stopped(reply.session, reply.receipt))
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
