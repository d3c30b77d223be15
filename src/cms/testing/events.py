"""One scripted reply in the Messages API's own words: a whole message, or the events of a stream.

Shared by the scripted API, which sends them, and by the simulated agent, which shows them as
`stream_event` lines. Pure; a pause or a break in the stream is an item like any other, so that the one who
sends decides how to wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import msgspec
from msgspec import Struct

from .script import FOREVER, ScriptedReply, Usage, Where, pieces


class Event(Struct, frozen=True):
    """One event of a streamed answer, as the JSON object that goes into its `data`."""

    data: dict[str, object]


class Pause(Struct, frozen=True):
    """Nothing is sent for so many seconds."""

    seconds: float = FOREVER


class Here(Struct, frozen=True):
    """A place where a connection may be dropped."""

    where: Where


def content(reply: ScriptedReply, message_id: str) -> list[dict[str, object]]:
    """The content blocks. Ids of tool calls come from the message's, so that they are as unique."""
    blocks: list[dict[str, object]] = []
    if reply.thought:
        blocks.append({"type": "thinking", "thinking": reply.thought, "signature": "cmVoZWFyc2Fs"})
    if reply.text or not reply.calls:
        blocks.append({"type": "text", "text": reply.text})
    for number, tool in enumerate(reply.calls):
        tool_id = f"toolu_{message_id.removeprefix('msg_')}_{number}"
        blocks.append({"type": "tool_use", "id": tool_id, "name": tool.name, "input": tool.input})
    return blocks


def message(reply: ScriptedReply, message_id: str, model: str) -> dict[str, object]:
    """The answer to a request that does not stream."""
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content(reply, message_id),
        "stop_reason": reply.natural_stop_reason,
        "stop_sequence": None,
        "usage": figures(reply.usage),
    }


def figures(usage: Usage) -> dict[str, object]:
    """Usage with every key the API always sends."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": usage.output_tokens,
        "service_tier": "standard",
    }


def stream(reply: ScriptedReply, message_id: str, model: str) -> Iterator[Event | Pause | Here]:
    """The events of a streaming answer, with the pauses the reply asks for.

    "Half-way" is after the first piece of the first text or tool call: something was said, nothing finished.
    """
    yield from _at("start", reply)
    opening = message(reply, message_id, model)
    # The true output count comes at the end; what stands here is a placeholder, as in the real API.
    opening |= {"content": [], "stop_reason": None, "usage": figures(reply.usage) | {"output_tokens": 1}}
    yield Event({"type": "message_start", "message": opening})

    middle_passed = False
    for index, block in enumerate(content(reply, message_id)):
        yield Event({"type": "content_block_start", "index": index, "content_block": _empty(block)})
        for number, delta in zip(count(), _deltas(block, reply.chunk), strict=False):
            if number and reply.chunk_pause:
                yield Pause(reply.chunk_pause)
            yield Event({"type": "content_block_delta", "index": index, "delta": delta})
            if not middle_passed and block["type"] != "thinking":
                middle_passed = True
                yield from _at("middle", reply)
        yield Event({"type": "content_block_stop", "index": index})

    ending = {"stop_reason": reply.natural_stop_reason, "stop_sequence": None}
    yield Event({"type": "message_delta", "delta": ending, "usage": figures(reply.usage)})
    yield Event({"type": "message_stop"})


def _at(where: Where, reply: ScriptedReply) -> Iterator[Pause | Here]:
    yield Here(where)
    for stall in reply.stalls:
        if stall.where == where:
            yield Pause(stall.seconds)


def _empty(block: dict[str, object]) -> dict[str, object]:
    match block["type"]:
        case "text":
            return {"type": "text", "text": ""}
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case _:
            return block | {"input": {}}


def _deltas(block: dict[str, object], size: int) -> Iterator[dict[str, object]]:
    match block["type"]:
        case "text":
            for piece in pieces(str(block["text"]), size):
                yield {"type": "text_delta", "text": piece}
        case "thinking":
            for piece in pieces(str(block["thinking"]), size):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case _:
            whole = msgspec.json.encode(block["input"]).decode()
            # Two pieces at least, so that a drop half-way leaves a tool call unfinished.
            for piece in pieces(whole, size or max(1, len(whole) // 2)):
                yield {"type": "input_json_delta", "partial_json": piece}
