"""What watchers are told of events."""

from __future__ import annotations

import msgspec

from cms.live.watchers import Notes
from cms.protocol.messages import decode


def stream(event: object, *, parent: str | None = None) -> bytes:
    return msgspec.json.encode(
        {"type": "stream_event", "event": event, "uuid": "u", "session_id": "s", "parent_tool_use_id": parent}
    )


def reply(name: str, *texts: str) -> list[bytes]:
    deltas = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": one}} for one in texts]
    stop = [stream({"type": "content_block_stop"})] * 2  # of a tool call, too
    return [stream({"type": "message_start", "message": {"id": name}}), *map(stream, deltas), *stop]


RESULT = msgspec.json.encode({"type": "result", "subtype": "success", "is_error": False, "session_id": "s"})


def test_the_end_of_a_text_is_told() -> None:
    lines = [*reply("a", "He", "llo"), *reply("b"), *reply("c", "again"), RESULT, *reply("d", "new")]
    lines.append(stream({"type": "message_start", "message": {"id": "sub"}}, parent="tool"))
    notes = Notes()
    told = [note for line in lines if (note := notes.of(decode(line))) is not None]
    said = [("text", "He"), ("text", "llo"), ("status", ""), ("text", "again"), ("status", ""), ("turn", "")]
    assert told == [*said, ("text", "new"), ("status", "")]
