"""The first requests to a new process: register the tool gate, learn what the conversation has cost so far.

Nothing is sent before both are answered: without the gate a tool would run unasked, without the baseline the
first message would be charged for all that went before it.
"""

from __future__ import annotations

import msgspec
import trio

from cms.errors import UNREADABLE, ControlTimeout, ProtocolError
from cms.live.process import AgentProcess
from cms.protocol.messages import GetUsage, HookMatcher, Initialize, UsageReply
from cms.session.fold import usage_of
from cms.session.state import Opened

#: Seconds for our own answer to a tool call; claude refuses the call afterwards. Long, because the answer may
#: wait for the end of a long reply, and being silent is safe.
_HOOK_TIMEOUT = 600.0


async def shake_hands(process: AgentProcess, *, timeout: float) -> Opened:
    """The baseline. Somebody must be reading the process's events meanwhile.

    Raises:
        ControlTimeout: one of the two was not answered within `timeout` seconds.
        ProtocolError: it was answered with an error, or with something else.
        AgentDied: it ended instead.
    """
    matcher = HookMatcher(("pre",), timeout=_HOOK_TIMEOUT)
    asked = "initialize"
    with trio.move_on_after(timeout):
        answer = await process.request(Initialize({"PreToolUse": (matcher,)}))
        if answer.error:
            raise ProtocolError(f"claude refused to register the tool gate: {answer.error}")
        asked = "get_usage"
        usage = await process.request(GetUsage())
        if usage.error:
            raise ProtocolError(f"claude does not tell its cost: {usage.error}")
        try:
            totals = msgspec.json.decode(usage.response, type=UsageReply).session
        except UNREADABLE as error:
            raise ProtocolError(f"claude's cost report cannot be read: {error}") from error
        return Opened(totals.total_cost_usd, usage_of(totals.model_usage))
    raise ControlTimeout(asked, timeout, process.last_words)
