"""`cms attach`: a session in claude's own interface, in this terminal."""

from __future__ import annotations

import os
import threading
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.declare import Parameter
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.cli.relay import Relay
from cms.cli.terminal import Style
from cms.config import load_settings
from cms.errors import CmsError, Interrupted, UsageError
from cms.json_output import json_object
from cms.rpc.client import Client
from cms.rpc.sessions import SESSION_ATTACH, AttachParams, AttachResult
from cms.session.model import Outcome, exit_code_of
from cms.units import money, plural

#: As `live.attached.LEFT`: the person left claude, which they know.
_LEFT = "claude was left"
#: What `--json` tells.
_ATTACHED = "*session interaction receipt stopped"


def attach(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    max_cost: Annotated[
        float | None,
        Parameter(
            name="--max-cost",
            help="Raise the session's cost limit to this first.",
            metavar="USD",
            converter=flags.to_money,
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Take a session over by hand, in interactive claude.

    The session's process is stopped first. claude runs in the session's container, with its protected paths,
    its permission rules and its copy of the folder. Nobody else can send to the session until you leave
    claude (/exit, or Ctrl-C twice); then its cost and turns are counted, and `cms send` goes on with it.
    Ctrl-Z suspends this command, and `fg` brings it back.

    Examples::

        cms attach fix-auth
        cms attach fix-auth --max-cost 5
    """
    who = flags.pick_name("attach", name, name_flag)
    if load_settings().inside:
        raise UsageError("a session cannot take over another one")
    if not (os.isatty(0) and os.isatty(1)):
        raise UsageError("attach needs a terminal", hint=f"without one, use `cms send {who} MESSAGE`")
    with io.daemon() as client:
        result = _hold(client, who, max_cost)
    if json:
        io.show_json(json_object(result, _ATTACHED))
    else:
        io.show_lines(_told(result, io.out_style()))
    return exit_code_of(result.interaction.outcome or Outcome.FAILED)


def _hold(client: Client, name: str, max_cost: float | None) -> AttachResult:
    """Have it until it is left. The call waits in a thread of its own, and this one carries the bytes."""
    outcome: list[AttachResult | BaseException] = []
    up, is_up = os.pipe()
    over, is_over = os.pipe()
    with Relay(client.cancel) as relay:
        params = AttachParams(name, relay.device, f"pid {os.getpid()} on {os.ttyname(0)}", max_cost)

        def ask() -> None:
            try:
                outcome.append(client.call(SESSION_ATTACH, params, on_accepted=lambda _: _tell(is_up)))
            except BaseException as error:
                outcome.append(error)
            finally:
                _tell(is_over)

        asking = threading.Thread(target=ask, name="attach")
        asking.start()
        try:
            relay.run(up, over)
        finally:
            if asking.is_alive():
                client.cancel()
            asking.join()
            for fd in (up, is_up, over, is_over):
                os.close(fd)
    found = outcome[0]
    if isinstance(found, AttachResult):
        return found
    if relay.left_by and isinstance(found, CmsError):
        raise Interrupted from found
    raise found


def _tell(fd: int) -> None:
    os.write(fd, b".")


def _told(result: AttachResult, style: Style) -> list[str]:
    one, session, receipt = result.interaction, result.session, result.receipt
    spent = money(one.cost) if one.cost_exact else f"at least {money(one.cost)}"
    turns = plural(one.turns, "turn")
    lines = [f"{session.name}: {turns} by hand, {spent}; {money(session.total_cost_usd)} in all"]
    why = one.error or ("" if receipt is None or receipt.reason == _LEFT else receipt.reason)
    if why:
        lines.append(f"  ended: {render.one_line(why, style)}")
    if not one.cost_exact:
        lines.append("  claude ended before it reported what its last call cost")
    if receipt is not None and receipt.walls is not None:
        lines += [f"  protected, and changed: {render.one_line(one, style)}" for one in receipt.walls.changed]
    if receipt is None or not receipt.empty:
        left = ", ".join(receipt.left) if receipt is not None else ""
        lines.append(f"  its end is not proved, processes may be left: {left or 'unknown'}")
    if one.outcome is Outcome.COST_EXCEEDED and session.options.limits.max_cost is not None:
        more = 2 * session.options.limits.max_cost
        lines.append(f"  continue: cms attach {session.name} --max-cost {more:g}")
    else:
        lines.append(f"  next: cms send {session.name} MESSAGE, or cms attach {session.name}")
    return lines
