"""An agent that says what it is fed: its stdout is handed to whoever listens at `feeder.sock` in its folder.

It shakes hands and takes its message as claude does, and sleeps from then on. So a thousand of them cost
nothing but memory, and what is measured is cms. It runs alone, without site packages (`many.py` copies it).
"""

from __future__ import annotations

import _socket
import os

FEEDER = "feeder.sock"
_USAGE = b'{"session":{"total_cost_usd":0,"model_usage":{}}}'
_ANSWERS = {
    b"initialize": b'{"hooks_applied":true,"claude_code_version":"2.1.330-simulated"}',
    b"get_usage": _USAGE,
    b"mcp_status": b'{"mcpServers":[]}',
    b"interrupt": b"{}",
}
_BEGUN = (
    b'{"type":"system","subtype":"session_state_changed","state":"running"}\n'
    b'{"type":"command_lifecycle","command_uuid":"%b","state":"queued"}\n'
    b'{"type":"command_lifecycle","command_uuid":"%b","state":"started"}\n'
    b'{"type":"system","subtype":"init","cwd":"%b","tools":[],"model":"claude-opus-5-5",'
    b'"permissionMode":"default","claude_code_version":"2.1.330-simulated"}\n'
    b'{"type":"stream_event","event":{"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"claude-opus-5-5","content":[],"usage":{"input_tokens":0,"output_tokens":1}}},'
    b'"parent_tool_use_id":null}\n'
    b'{"type":"stream_event","event":{"type":"content_block_start","index":0,"content_block":'
    b'{"type":"text","text":""}},"parent_tool_use_id":null}\n'
)


def _value(line: bytes, key: bytes) -> bytes:
    return line.partition(b'"%b":"' % key)[2].partition(b'"')[0]


def _take(line: bytes) -> None:
    if line.startswith(b'{"type":"control_request"'):
        subtype = _value(line, b"subtype")
        answer = _ANSWERS.get(subtype)
        body = b'"success","response":%b' % answer if answer else b'"error","error":"unknown"'
        known = b'{"type":"control_response","response":{"request_id":"%b","subtype":%b}}\n'
        os.write(1, known % (_value(line, b"request_id"), body))
    elif line.startswith(b'{"type":"user"'):
        uuid = _value(line, b"uuid")
        os.write(1, _BEGUN % (uuid, uuid, os.getcwdb()))  # noqa: PTH109 - pathlib would be most of its memory
        feeder = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        feeder.connect(FEEDER)
        handed = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, (1).to_bytes(4, "little"))
        feeder.sendmsg([b"x"], [handed])
        feeder.close()


def main() -> None:
    """Until stdin ends."""
    held = b""
    while data := os.read(0, 65536):
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            _take(line)


if __name__ == "__main__":
    main()
