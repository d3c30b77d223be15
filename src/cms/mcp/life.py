"""Tools for a session that is at work or alive: interrupt, pause, stop, kill."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.mcp.call import DaemonCall
from cms.mcp.params import Name, NameArguments
from cms.mcp.results import Ended, Session, described, ended_of, session_of
from cms.mcp.tool import Params, tool
from cms.rpc.api import NameParams, SessionReply, StopParams, StopReply
from cms.rpc.api_care import PauseParams


def interrupt(call: DaemonCall, given: NameArguments) -> Session:
    reply = call.call("session.interrupt", NameParams(name=given.name), SessionReply)
    return session_of(reply.session, reply.activity)


class PauseArguments(Params, frozen=True, kw_only=True):
    name: Name
    freeze: Annotated[
        bool, described("Also stop its whole process tree this instant, in the middle of its work.")
    ] = False


def pause(call: DaemonCall, given: PauseArguments) -> Session:
    reply = call.call("session.pause", PauseParams(name=given.name, freeze=given.freeze), SessionReply)
    return session_of(reply.session, reply.activity)


class StopArguments(Params, frozen=True, kw_only=True):
    name: Name
    grace_seconds: Annotated[
        float, msgspec.Meta(description="How long it may take before force is used.", gt=0, le=300)
    ] = 10.0


def stop(call: DaemonCall, given: StopArguments) -> Ended:
    reply = call.call("session.stop", StopParams(name=given.name, grace=given.grace_seconds), StopReply)
    return ended_of(reply.session, reply.receipt)


def kill(call: DaemonCall, given: NameArguments) -> Ended:
    reply = call.call("session.kill", NameParams(name=given.name), StopReply)
    return ended_of(reply.session, reply.receipt)


TOOLS = (
    tool(
        "interrupt",
        "Interrupt a session",
        NameArguments,
        Session,
        interrupt,
        """End what a session is doing now and keep it alive, to send it something better. Free. An error if
        it is doing nothing.""",
        destructive=True,
    ),
    tool(
        "pause",
        "Pause a session",
        PauseArguments,
        Session,
        pause,
        """Let a session take no more messages; what it is doing goes on, unless you freeze it. `resume`
        opens it again. Free; its process stays. To be rid of it use `stop`.""",
        idempotent=True,
    ),
    tool(
        "stop",
        "Stop a session",
        StopArguments,
        Ended,
        stop,
        """End a session's process gracefully; the conversation is kept and `send` brings it back. Do it with
        each spawned session that you are done with: it frees about 200 MB. Free.""",
        destructive=True,
        idempotent=True,
    ),
    tool(
        "kill",
        "Kill a session",
        NameArguments,
        Ended,
        kill,
        """End a session and every process that it started by force, at once, and prove it. For one that does
        harm or does not react to `stop`; work in flight is lost. Free.""",
        destructive=True,
        idempotent=True,
    ),
)
