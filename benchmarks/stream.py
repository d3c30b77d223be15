"""A long session as `claude` would write it: the same bytes for the same seed, on every machine.

The mix is a working day's: text streamed in small pieces, thinking, tool calls at the gate, results from one
line to hundreds of kilobytes, a subagent now and then, `init` lines with long lists. Field order and the
fields that nobody reads are as in the recordings, since skipping them is most of the work.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

SESSION = "00000000-0000-4000-8000-000000000001"
MODEL = "claude-opus-5-5"
_WORDS = (
    "the",
    "a",
    "gate",
    "call",
    "reply",
    "naïve",
    "漢字",
    "🙂",
    "fold",
    "state",
    "limit",
    "cost",
    "path",
)
_TOOLS = ("Read", "Grep", "Edit", "Write", "Bash", "Glob", "TodoWrite")

Event = dict[str, object]


class _Session:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._count = 0
        self._cost = 0.0

    def _id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count:012d}"

    def _text(self, words: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=words))

    def _line(self, kind: str, **fields: object) -> Event:
        return {"type": kind, **fields, "uuid": self._id("uuid"), "session_id": SESSION}

    def _event(self, kind: str, **fields: object) -> Event:
        return {
            "type": "stream_event",
            "event": {"type": kind, **fields},
            "session_id": SESSION,
            "parent_tool_use_id": None,
            "uuid": self._id("uuid"),
        }

    def _block(self, block: Event, message: str) -> Event:
        usage = {
            "input_tokens": 3,
            "cache_creation_input_tokens": 0,
            "output_tokens": 1,
            "service_tier": "standard",
        }
        body: Event = {
            "id": message,
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [block],
        }
        body |= {"stop_reason": None, "stop_sequence": None, "usage": usage, "context_management": None}
        return self._line("assistant", message=body, parent_tool_use_id=None)

    def _streamed(self, message: str, index: int, block: Event, text: str) -> Iterator[Event]:
        start = {"type": block["type"]}
        yield self._event("content_block_start", index=index, content_block=start)
        kind = {"text": "text_delta", "thinking": "thinking_delta"}.get(
            str(block["type"]), "input_json_delta"
        )
        field = {"text_delta": "text", "thinking_delta": "thinking"}.get(kind, "partial_json")
        for at in range(0, len(text), 24):
            piece = text[at : at + 24]
            yield self._event("content_block_delta", index=index, delta={"type": kind, field: piece})
        yield self._block(block, message)

    def _result_of(self, tool_use_id: str) -> Event:
        size = self._random.choices((200, 4_000, 60_000, 400_000), weights=(60, 30, 9, 1))[0]
        text = (self._text(200) * (size // 400 + 1))[:size]
        block = {"tool_use_id": tool_use_id, "type": "tool_result", "content": text, "is_error": False}
        more = {"tool_use_result": {"stdout": text, "stderr": "", "interrupted": False}}
        return self._line(
            "user", message={"role": "user", "content": [block]}, parent_tool_use_id=None, **more
        )

    def _reply(self, last: bool) -> Iterator[Event]:
        message = self._id("msg")
        self._cost += 0.01
        head = {"id": message, "type": "message", "role": "assistant", "model": MODEL, "content": []}
        yield self._event("message_start", message={**head, "usage": {"input_tokens": 3, "output_tokens": 1}})
        thought, said = self._text(40), self._text(60)
        yield from self._streamed(
            message, 0, {"type": "thinking", "thinking": thought, "signature": "c2lnbmVk"}, thought
        )
        yield self._event("content_block_stop", index=0)
        yield from self._streamed(message, 1, {"type": "text", "text": said}, said)
        yield self._event("content_block_stop", index=1)
        uses = []
        for index in range(0 if last else self._random.randint(1, 2)):
            tool, use = self._random.choice(_TOOLS), self._id("toolu")
            given = {
                "file_path": f"/home/u/project/{index}.py",
                "command": self._text(8),
                "content": self._text(80),
            }
            call: Event = {"type": "tool_use", "id": use, "name": tool, "input": given}
            yield from self._streamed(message, index + 2, call, json.dumps(given))
            request: Event = {"session_id": SESSION, "cwd": "/home/u/project", "permission_mode": "default"}
            request |= {
                "hook_event_name": "PreToolUse",
                "tool_name": tool,
                "tool_input": given,
                "tool_use_id": use,
            }
            asked = {"subtype": "hook_callback", "callback_id": "pre", "input": request, "tool_use_id": use}
            yield {"type": "control_request", "request_id": self._id("req"), "request": asked}
            yield self._event("content_block_stop", index=index + 2)
            uses.append(use)
        stop = "end_turn" if last else "tool_use"
        yield self._event("message_delta", delta={"stop_reason": stop}, usage={"output_tokens": 900})
        yield self._event("message_stop")
        for use in uses:
            yield self._result_of(use)

    def turn(self, replies: int) -> Iterator[Event]:
        uuid = f"message-{self._id('m')}"
        yield self._line("system", subtype="session_state_changed", state="running")
        for state in ("queued", "started"):
            yield self._line("command_lifecycle", command_uuid=uuid, state=state)
        names = [f"Tool{number}" for number in range(40)]
        lists: Event = {"tools": names, "slash_commands": names, "skills": names, "agents": names}
        init = {"model": MODEL, "permissionMode": "default", "claude_code_version": "2.1.330", **lists}
        yield self._line("system", subtype="init", cwd="/home/u/project", apiKeySource="user", **init)
        for number in range(replies):
            yield from self._reply(last=number == replies - 1)
        usage = {MODEL: {"inputTokens": 9, "outputTokens": self._count, "costUSD": self._cost}}
        end: Event = {
            "duration_ms": 1,
            "duration_api_ms": 1,
            "num_turns": replies,
            "stop_reason": "end_turn",
            "is_error": False,
        }
        end |= {"total_cost_usd": self._cost, "modelUsage": usage, "permission_denials": []}
        end |= {"subtype": "success", "terminal_reason": "completed", "result": self._text(60)}
        yield {**end, **self._line("result")}
        yield self._line("command_lifecycle", command_uuid=uuid, state="completed")
        yield self._line("system", subtype="session_state_changed", state="idle")


def lines(turns: int, *, replies: int = 12, seed: int = 1) -> list[bytes]:
    """The lines of a session with so many turns (messages), each of so many replies."""
    session = _Session(seed)
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return [encode(line).encode() for _ in range(turns) for line in session.turn(replies)]
