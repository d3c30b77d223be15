"""The first requests to a new process: the tool gate, the cost so far, and whether its flags are in force.

Nothing is sent before all is answered: without the gate a tool would run unasked, without the baseline the
first message would be charged for all that went before it. A claude that does not say that it has taken the
gate is not worked with. How long is waited is for `session.startup` to say.

No start waits for `claude --version`: newer ones tell their version with the first answer, all of them as
their first turn begins, before a tool can run; and one that does not come up is asked afterwards.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import trio

from cms.errors import UNREADABLE, ClaudeUnfit, ProtocolError, UsageError
from cms.live.process import AgentProcess
from cms.protocol.connection import Answered
from cms.protocol.messages import (
    GetServers,
    GetSettings,
    GetUsage,
    HookMatcher,
    Initialize,
    InitializeReply,
    ServersReply,
    SettingsReply,
    UsageReply,
)
from cms.protocol.tools import WORKTREE_HOOK
from cms.protocol.versions import MINIMUM, standing
from cms.session.fold import usage_of
from cms.session.in_force import Expected, Found, check_in_force, is_pending
from cms.session.state import Opened

T = TypeVar("T", InitializeReply, ServersReply, SettingsReply)

#: Seconds for our own answer to a tool call; claude refuses the call afterwards. Long, because the answer may
#: wait for the end of a long reply, and being silent is safe.
_HOOK_TIMEOUT = 600.0
#: Seconds for a binary to say its version.
_VERSION_PATIENCE = 10.0
#: Seconds between two looks at an MCP server that still starts.
_LOOK_EVERY: Final = 0.1


class Greeting(msgspec.Struct, frozen=True):
    """What a process said first.

    Attributes:
        opened: the baseline.
        mistakes: of the user's own settings: what of them is not in force.
    """

    opened: Opened
    mistakes: tuple[str, ...] = ()


async def shake_hands(process: AgentProcess, expected: Expected) -> Greeting:
    """The baseline. Somebody must be reading the process's events meanwhile.

    Raises:
        ClaudeUnfit: it is too old, does not say that it has taken the tool gate, or reads what nobody trusts.
        ProtocolError: it answered with an error, or with something else.
        UsageError: what was asked for by flag is not in force.
        AgentDied: it ended instead.
    """
    matcher = HookMatcher(("pre",), timeout=_HOOK_TIMEOUT)
    answer = await process.request(Initialize({"PreToolUse": (matcher,), WORKTREE_HOOK: (matcher,)}))
    if answer.error:
        raise ProtocolError(f"claude refused to register the tool gate: {answer.error}")
    initialized = _read(answer, InitializeReply)
    version = initialized.claude_code_version
    if standing(version) == "too old":
        raise ClaudeUnfit(version, "it is too old", MINIMUM)
    if not initialized.hooks_applied:
        raise ClaudeUnfit(version, "it does not confirm the tool gate", MINIMUM)
    usage = await process.request(GetUsage())
    if usage.error:
        raise ProtocolError(f"claude does not tell its cost: {usage.error}")
    try:
        totals = msgspec.json.decode(usage.response, type=UsageReply).session
    except UNREADABLE as error:
        raise ProtocolError(f"claude's cost report cannot be read: {error}") from error
    found = await _look(process, expected, initialized)
    if found.breaches:
        raise ClaudeUnfit(version, "; ".join(found.breaches), MINIMUM)
    if found.faults:
        raise UsageError("; ".join(found.faults))
    return Greeting(Opened(totals.total_cost_usd, usage_of(totals.model_usage), version), found.mistakes)


async def _look(process: AgentProcess, expected: Expected, initialized: InitializeReply) -> Found:
    """What is in force. A claude that does not know one of the questions has nothing against it."""
    settings = _read(await process.request(GetSettings()), SettingsReply)
    servers = _read(await process.request(GetServers()), ServersReply).servers
    while is_pending(expected, servers):
        await trio.sleep(_LOOK_EVERY)
        servers = _read(await process.request(GetServers()), ServersReply).servers
    return check_in_force(expected, [agent.name for agent in initialized.agents], settings, servers)


def _read(answer: Answered, kind: type[T]) -> T:
    """An answer, or an empty one where there is none that we can read."""
    try:
        return msgspec.json.decode(answer.response, type=kind) if not answer.error else kind()
    except UNREADABLE:
        return kind()


async def check_version(claude: Sequence[str], env: Mapping[str, str]) -> None:
    """Ask `claude --version`.

    Raises:
        ClaudeUnfit: it is too old.
    """
    version = await ask_version(claude, env)
    if standing(version) == "too old":
        raise ClaudeUnfit(version, "it is too old", MINIMUM)


async def ask_version(claude: Sequence[str], env: Mapping[str, str]) -> str:
    """What `claude --version` says, "" if it does not."""
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
