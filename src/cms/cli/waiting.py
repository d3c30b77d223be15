"""`cms wait`: until sessions have nothing left to do, for scripts that started several."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag, NameFlag
from cms.cli.terminal import Style
from cms.errors import ExitCode, UsageError
from cms.rpc.api_care import Waited, WaitParams, WaitReply
from cms.session.model import Outcome, exit_code_of


def wait(
    *names: Annotated[str, flags.word("The sessions' names.")],
    name_flag: NameFlag = None,
    any_: Annotated[bool, flags.switch("--any", "Return when the first of them is through.")] = False,
    all_: Annotated[bool, flags.switch("--all", "Return when all are through (the default).")] = False,
    timeout: Annotated[
        float | None,
        Parameter(
            name="--timeout", converter=flags.to_seconds, metavar="TIME", help="Give up after: 90, 15m, 2h."
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Wait until sessions have nothing left to do: no message under way or waiting, each verdict given.

    Exits with the code of the first, in the order given, whose last message did not end well (`cms help`),
    with 0 when all did, and with 6 when the time is over. Ctrl-C stops the waiting, and nothing else.

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
        reply = client.call("sessions.wait", params, WaitReply)
    if json:
        from cms.cli.views_care import view_wait

        io.show_json(view_wait(reply))
    else:
        io.show_lines(lines(reply, io.out_style()))
    return exit_of(reply, first=any_)


def exit_of(reply: WaitReply, *, first: bool) -> ExitCode:
    """The exit status for what came of the waiting."""
    for one in reply.done:
        if one.last is not None and one.last.outcome not in (None, Outcome.COMPLETED):
            return exit_code_of(one.last.outcome)
    if reply.waiting and not (first and reply.done):
        return ExitCode.TIME_EXCEEDED if reply.timed_out else ExitCode.INTERRUPTED
    return ExitCode.COMPLETED


def lines(reply: WaitReply, style: Style) -> list[str]:
    """A line for each that is through, and one for those that are not."""
    found = [_line(one, style) for one in reply.done]
    if reply.waiting:
        found.append(f"still at work: {', '.join(reply.waiting)}")
    return found


def _line(one: Waited, style: Style) -> str:
    if one.last is None or one.last.outcome is None:
        return f"{one.session.name}  {render.paint_status(one.session.status, style)}"
    spent = render.cost(one.last.cost, exact=one.last.cost_exact)
    why = f": {render.one_line(one.last.error, style)}" if one.last.error else ""
    outcome = render.paint_outcome(one.last.outcome, style)
    return f"{one.session.name}  {outcome}  {spent}  {render.seconds(one.last.duration)}{why}"
