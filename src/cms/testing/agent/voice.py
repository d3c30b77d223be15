"""What the simulated agent writes: every kind of line, with those keys of the real one that are of use."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cms.testing.script import RateLimit

from . import tools
from .options import VERSION
from .transcript import Totals
from .wire import Line, Wire, new_uuid, timestamp


class Voice:
    """Writes lines for one session, from any thread.

    Attributes:
        session_id: goes into every line; `/clear` changes it.
    """

    def __init__(self, wire: Wire, session_id: str) -> None:
        self.session_id = session_id
        self._wire = wire
        self._tells_state = os.environ.get("CLAUDE_CODE_SDK_READS_SESSION_STATE") == "1"
        self._state = "idle"

    def line(self, kind: str, **fields: object) -> None:
        """A line of any type."""
        self._wire.write({"type": kind, **fields, "uuid": new_uuid(), "session_id": self.session_id})

    def system(self, subtype: str, **fields: object) -> None:
        self.line("system", subtype=subtype, **fields)

    def say(self, kind: str, parent: str | None, **fields: object) -> None:
        """A line of a conversation; `parent` is the tool call that a subagent works for."""
        self.line(kind, **fields, parent_tool_use_id=parent, timestamp=timestamp())

    def replay(self, text: str, uuid: str) -> None:
        """A user's message, given back; it keeps its own uuid."""
        message = {"role": "user", "content": text}
        fields = {"message": message, "session_id": self.session_id, "parent_tool_use_id": None}
        self._wire.write({"type": "user", **fields, "uuid": uuid, "isReplay": True})

    def lifecycle(self, uuid: str, state: str) -> None:
        """A delivery receipt; a message without a uuid gets none."""
        if uuid:
            self.line("command_lifecycle", command_uuid=uuid, state=state)

    def state(self, state: str) -> None:
        """The session's state, if it changed and anybody wants to know."""
        if state != self._state:
            self._state = state
            if self._tells_state:
                self.system("session_state_changed", state=state, sdk_host_only=True)

    def rate_limit(self, limit: RateLimit) -> None:
        resets = round(time.time() + limit.resets_in)
        info: Line = {
            "status": limit.status,
            "resetsAt": resets,
            "rateLimitType": limit.claim,
            "isUsingOverage": False,
            "unifiedWindows": {limit.claim: {"utilization": limit.utilization, "resetsAt": resets}},
        }
        if limit.status == "allowed_warning":
            info |= {"utilization": limit.utilization, "surpassedThreshold": 0.75}
        self.line("rate_limit_event", rate_limit_info=info)

    def init(self, uuid: str, model: str, mode: str, enabled: tuple[str, ...] | None) -> None:
        self.system(
            "init",
            cwd=str(Path.cwd()),
            tools=list(tools.NAMES if enabled is None else enabled),
            mcp_servers=[],
            model=model,
            permissionMode=mode,
            slash_commands=["clear"],
            apiKeySource="simulated",
            claude_code_version=f"{VERSION}-simulated",
            output_style="default",
            agents=["general-purpose"],
            skills=[],
            plugins=[],
            capabilities=[],
            user_message_uuids=[uuid] if uuid else [],
        )


def model_usage(totals: Totals) -> Line:
    """`modelUsage` of a result, and `model_usage` of the bill."""
    return {
        model: {
            "inputTokens": total.usage.input_tokens,
            "outputTokens": total.usage.output_tokens,
            "cacheReadInputTokens": total.usage.cache_read_input_tokens,
            "cacheCreationInputTokens": total.usage.cache_creation_input_tokens,
            "webSearchRequests": 0,
            "costUSD": total.cost_usd,
            "contextWindow": 1_000_000,
            "maxOutputTokens": 128_000,
            "canonicalModel": model,
        }
        for model, total in list(totals.models.items())
    }
