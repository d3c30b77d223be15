"""The first requests to a new process: register the tool gate, learn what the conversation has cost so far.

Nothing is sent before both are answered: without the gate a tool would run unasked, without the baseline the
first message would be charged for all that went before it. A claude that does not say that it has taken the
gate is not worked with. How long is waited is for `session.startup` to say.

No start waits for `claude --version`: newer ones tell their version with the first answer, all of them as
their first turn begins, before a tool can run; and one that does not come up is asked afterwards.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

import msgspec
import trio

from cms.errors import UNREADABLE, ClaudeUnfit, ProtocolError
from cms.live.process import AgentProcess
from cms.protocol.messages import GetUsage, HookMatcher, Initialize, InitializeReply, UsageReply
from cms.protocol.versions import MINIMUM, standing
from cms.session.fold import usage_of
from cms.session.state import Opened

#: Seconds for our own answer to a tool call; claude refuses the call afterwards. Long, because the answer may
#: wait for the end of a long reply, and being silent is safe.
_HOOK_TIMEOUT = 600.0
#: Seconds for a binary to say its version.
_VERSION_PATIENCE = 10.0


async def shake_hands(process: AgentProcess) -> Opened:
    """The baseline. Somebody must be reading the process's events meanwhile.

    Raises:
        ClaudeUnfit: it is too old, or does not say that it has taken the tool gate.
        ProtocolError: it answered with an error, or with something else.
        AgentDied: it ended instead.
    """
    matcher = HookMatcher(("pre",), timeout=_HOOK_TIMEOUT)
    answer = await process.request(Initialize({"PreToolUse": (matcher,)}))
    if answer.error:
        raise ProtocolError(f"claude refused to register the tool gate: {answer.error}")
    try:
        initialized = msgspec.json.decode(answer.response, type=InitializeReply)
    except UNREADABLE:
        initialized = InitializeReply()
    version = initialized.claude_code_version
    if standing(version) == "too old":
        raise ClaudeUnfit(version, "it is too old", MINIMUM)
    if not initialized.hooks_applied:
        raise ClaudeUnfit(version, "it does not say that it has taken the tool gate", MINIMUM)
    usage = await process.request(GetUsage())
    if usage.error:
        raise ProtocolError(f"claude does not tell its cost: {usage.error}")
    try:
        totals = msgspec.json.decode(usage.response, type=UsageReply).session
    except UNREADABLE as error:
        raise ProtocolError(f"claude's cost report cannot be read: {error}") from error
    return Opened(totals.total_cost_usd, usage_of(totals.model_usage), version)


async def check_version(claude: Sequence[str], env: Mapping[str, str]) -> None:
    """Ask `claude --version`.

    Raises:
        ClaudeUnfit: it is too old.
    """
    version = await _ask_version(claude, env)
    if standing(version) == "too old":
        raise ClaudeUnfit(version, "it is too old", MINIMUM)


async def _ask_version(claude: Sequence[str], env: Mapping[str, str]) -> str:
    with trio.move_on_after(_VERSION_PATIENCE):
        try:
            done = await trio.run_process(
                [*claude, "--version"],
                env=dict(env),
                capture_stdout=True,
                capture_stderr=True,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except OSError:
            return ""
        return (done.stdout.decode("utf-8", "replace").split() or [""])[0]
    return ""
