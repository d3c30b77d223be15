"""Every line becomes a value, whatever it holds; the recorded ones become the right value."""

from __future__ import annotations

import json
import re
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.errors import ProtocolError
from cms.protocol.messages import (
    Assistant,
    CanUseTool,
    Event,
    HookAnswer,
    HookCallback,
    Noise,
    Notice,
    PermissionDenied,
    PermitAnswer,
    PreToolUseOutput,
    RefuseAnswer,
    Result,
    SessionState,
    StreamEvent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    Unknown,
    UnknownControlRequest,
    User,
    blocks_of,
    decode,
    encode_answer,
    encode_message,
    encode_refusal,
)
from protocol import takes

#: What each recorded kind must become: (type, subtype) -> class.
KINDS = {
    ("assistant", ""): "Assistant",
    ("command_lifecycle", ""): "CommandLifecycle",
    ("control_request", "can_use_tool"): "CanUseTool",
    ("control_request", "hook_callback"): "HookCallback",
    ("control_response", ""): "ControlResponse",
    ("conversation_reset", ""): "ConversationReset",
    ("rate_limit_event", ""): "RateLimitEvent",
    ("result", "error_during_execution"): "Result",
    ("result", "error_max_budget_usd"): "Result",
    ("result", "error_max_turns"): "Result",
    ("result", "success"): "Result",
    ("stream_event", ""): "StreamEvent",
    ("system", "api_retry"): "ApiRetry",
    ("system", "background_tasks_changed"): "TasksChanged",
    ("system", "compact_boundary"): "Notice",
    ("system", "informational"): "Informational",
    ("system", "init"): "Init",
    ("system", "permission_denied"): "PermissionDenied",
    ("system", "session_state_changed"): "SessionState",
    ("system", "status"): "Notice",
    ("system", "task_notification"): "TaskNotification",
    ("system", "task_progress"): "Notice",
    ("system", "task_started"): "TaskStarted",
    ("system", "task_updated"): "TaskUpdated",
    ("system", "thinking_tokens"): "Notice",
    ("user", ""): "User",
}

#: Recorded lines that may come out as `Unknown` or `Noise`, and why. None so far.
ODD: dict[tuple[str, str], str] = {}


class Told(msgspec.Struct):
    """How a line names its kind, read in another way than `decode` does."""

    type: str
    subtype: str = ""
    request: dict[str, object] = {}

    @property
    def kind(self) -> tuple[str, str]:
        return self.type, self.subtype or str(self.request.get("subtype", ""))


def test_census_of_the_recordings() -> None:
    found: Counter[tuple[str, str]] = Counter()
    for scene, number, line in takes.all_lines():
        kind = msgspec.json.decode(line, type=Told).kind
        value = decode(line)
        assert kind in KINDS or kind in ODD, f"{scene}:{number + 1} is of a new kind {kind}"
        if kind not in ODD:
            assert type(value).__name__ == KINDS[kind], f"{scene}:{number + 1}"
        found[kind] += 1
    # Both ways: a kind that no scene shows any more is no longer proved.
    assert set(found) == set(KINDS) | set(ODD)


def test_fields_of_recorded_lines() -> None:
    (hook,) = [event for event in takes.events("hook_stopped") if isinstance(event, HookCallback)]
    assert hook.request.input.tool_name == "Bash"
    assert msgspec.json.decode(hook.request.input.tool_input) == {"command": "echo no"}
    assert hook.request.input.tool_use_id.startswith("toolu_")
    assert hook.request.input.agent_id is None

    inner = [event for event in takes.events("subagent") if isinstance(event, HookCallback)][-1]
    assert inner.request.input.agent_id

    asked = [event for event in takes.events("questions") if isinstance(event, CanUseTool)]
    assert [event.request.tool_name for event in asked] == ["AskUserQuestion", "Bash"]

    (failed,) = [event for event in takes.events("forbidden") if isinstance(event, Result)]
    assert (failed.subtype, failed.is_error, failed.api_error_status) == ("success", True, 403)

    (denied,) = [event for event in takes.events("refused") if isinstance(event, PermissionDenied)]
    assert denied.tool_name == "Bash"
    assert denied.tool_use_id


def test_every_recorded_result_tells_its_cost_per_model_exactly() -> None:
    for name in takes.NAMES:
        for event in takes.events(name):
            if isinstance(event, Result):
                assert event.total_cost_usd is not None
                assert sum(m.cost_usd for m in event.modelUsage.values()) == pytest.approx(
                    event.total_cost_usd, abs=1e-12
                )


def test_blocks() -> None:
    kinds = Counter(
        type(block)
        for name in takes.NAMES
        for event in takes.events(name)
        if isinstance(event, Assistant | User)
        for block in event.blocks
    )
    assert {TextBlock, ToolUseBlock, ToolResultBlock} <= set(kinds)
    assert blocks_of(msgspec.Raw(b'"plain"')) == (TextBlock("plain"),)
    assert blocks_of(msgspec.Raw(b'[{"type":"image","source":{}},{"type":"text","text":"x"},7,null]')) == (
        TextBlock("x"),
    )
    for odd in (b"null", b"7", b"{}", b"[[]]", b""):
        assert blocks_of(msgspec.Raw(odd)) == ()


# --- whatever comes -------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_TYPES = [*sorted({kind for kind, _ in KINDS}), "", "new"]
_SUBTYPES = [*sorted({subtype for _, subtype in KINDS}), "new"]
#: Every field name that some line has, so that wrong types meet the fields that are read.
_FIELDS = sorted(
    {key for _, _, line in takes.all_lines() for key in msgspec.json.decode(line, type=dict[str, object])}
)


def check(line: bytes) -> Event:
    value = decode(line)
    assert isinstance(value, Event)
    if isinstance(value, Assistant | User):
        assert isinstance(value.blocks, tuple)
    return value


@given(st.binary(max_size=80))
def test_arbitrary_bytes_never_raise(line: bytes) -> None:
    check(line)


@given(st.sampled_from(_TYPES), st.sampled_from(_SUBTYPES), st.dictionaries(st.sampled_from(_FIELDS), _JSON))
def test_wrong_types_never_raise(kind: str, subtype: str, fields: dict[str, object]) -> None:
    value = check(msgspec.json.encode({**fields, "type": kind, "subtype": subtype}))
    assert not isinstance(value, Noise)


@given(st.data())
def test_a_recorded_line_with_one_field_replaced_never_raises(data: st.DataObject) -> None:
    _, _, line = data.draw(st.sampled_from(takes.all_lines()))
    fields = msgspec.json.decode(line, type=dict[str, object])
    place = fields
    # Sometimes one or two levels down, where the structs are.
    for _ in range(data.draw(st.integers(0, 2))):
        nested = [value for value in place.values() if isinstance(value, dict) and value]
        if not nested:
            break
        place = data.draw(st.sampled_from(nested))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(_JSON)
    check(msgspec.json.encode(fields))


@given(st.data())
def test_a_recorded_line_cut_or_spoilt_anywhere_never_raises(data: st.DataObject) -> None:
    _, _, line = data.draw(st.sampled_from(takes.all_lines()))
    at = data.draw(st.integers(0, len(line)))
    check(line[:at])
    check(line[:at] + data.draw(st.binary(min_size=1, max_size=3)) + line[at + 1 :])


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"type":"result","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"type":"user","message":{"content":[{"type":"tool_result","content":'
        + b"[" * 3_000
        + b"]" * 3_000,
        b'{"type":"result","api_error_status":1e999}',
        b'{"type":"result","api_error_status":' + b"9" * 5_000 + b"}",
        b'{"type":"result","total_cost_usd":' + b"9" * 5_000 + b"}",
        b'{"type":"result","total_cost_usd":-1e308}',
        b'{"type":"rate_limit_event","rate_limit_info":{"resetsAt":1e400}}',
        b'{"type":"result","result":"\\ud83d"}',
        b'{"type":"\\ud83d"}',
        b'{"\\ud83d":1}',
        b'{"type":"user","message":{"content":"\xff\xfe"}}',
        b'{"type":null}',
        b'{"type":["result"]}',
        b'{"type":"system","subtype":7}',
        b"null",
        b"1e5",
        b'"text"',
        b"\xef\xbb\xbf{}",
        b'{"type":"result"}{"type":"result"}',
        b'{"type":"control_request"}',
        b'{"type":"control_request","request_id":7,"request":{}}',
        b'{"type":"control_request","request_id":"r","request":null}',
        b'{"type":"control_response","response":{"subtype":"success"}}',
    ],
    ids=lambda line: repr(line[:40]),
)
def test_hostile_lines_never_raise(line: bytes) -> None:
    check(line)


def test_no_json_object_is_noise_and_a_new_kind_is_unknown() -> None:
    assert check(b"Warning: something") == Noise(b"Warning: something")
    assert check(b"[1]") == Noise(b"[1]")
    line = b'{"subtype":"b","type":"a"}'
    assert check(line) == Unknown("a", "b", line)
    assert check(b'{"x":1}') == Unknown("", "", b'{"x":1}')
    assert isinstance(check(b'{"type":"assistant","message":7}'), Unknown)
    assert check(b'{"x":[{}],"subtype":"status","type":"system"}') == Notice("system", "status")


# --- damage that must not cost a line --------------------------------------------------------------


def result_of(line: bytes) -> Result:
    value = check(line)
    assert isinstance(value, Result)
    return value


def test_half_a_character_costs_itself_alone() -> None:
    """JavaScript cuts texts between the halves of a character; a turn's end must not be lost to that."""
    line = rb'{"type":"result","is_error":false,"result":"cut \ud83d","x":"\udc00","total_cost_usd":1}'
    assert result_of(line) == Result(result="cut �", total_cost_usd=1.0)
    whole = rb'{"type":"result","result":"\ud83d\ude00 \\ud83d \\\ud83d","is_error":false}'
    assert result_of(whole).result == "\U0001f600 \\ud83d \\�"
    call = (
        rb'{"type":"control_request","request_id":"r","request":{"subtype":"hook_callback","callback_id":"pre",'
        rb'"input":{"tool_name":"Write","tool_input":{"content":"\uD83D"},"tool_use_id":"t"}}}'
    )
    hook = check(call)
    assert isinstance(hook, HookCallback)
    assert msgspec.json.decode(hook.request.input.tool_input) == {"content": "�"}


@given(
    st.lists(st.sampled_from([r"\ud83d", r"\ude00", r"\uD83D\uDE00", r"\\", r"\"", r"é", "u", "d83d", "é"]))
)
def test_any_mix_of_escapes_is_read(parts: list[str]) -> None:
    text = "".join(parts)
    line = f'{{"type":"result","is_error":false,"result":"{text}"}}'.encode()
    # The standard library lets lone surrogates through; encoding then replaces exactly these.
    expected = re.sub("[\ud800-\udfff]", "\ufffd", json.loads(f'"{text}"'))
    assert result_of(line).result == expected


def test_bytes_that_are_no_utf8_cost_themselves_alone() -> None:
    assert result_of(b'{"type":"result","is_error":false,"result":"a\xffb"}').result == "a�b"


def test_bytes_that_are_no_utf8_cost_themselves_alone_wherever_they_stand() -> None:
    told = check(
        b'{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":"a\xffb"}]}}'
    )
    assert isinstance(told, User)
    (block,) = told.blocks
    assert isinstance(block, ToolResultBlock)
    assert blocks_of(block.content) == (TextBlock("a�b"),)
    hook = check(
        b'{"type":"control_request","request_id":"r","request":{"subtype":"hook_callback","callback_id":"pre",'
        b'"input":{"tool_name":"Write","tool_input":{"content":"a\xffb"}}}}'
    )
    assert isinstance(hook, HookCallback)
    assert msgspec.json.decode(hook.request.input.tool_input) == {"content": "a�b"}


def test_whole_lines_are_read_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is slow (a second look, mending) is for what is damaged or new, not for what claude writes."""
    slow: list[bytes] = []
    monkeypatch.setattr("cms.protocol.messages._decode_damaged", slow.append)
    for _, _, line in takes.all_lines():
        decode(line)
    assert slow == []


def test_a_result_with_a_field_of_a_new_shape_still_ends_its_turn() -> None:
    line = b'{"type":"result","is_error":false,"result":"ok","api_error_status":"none","total_cost_usd":2}'
    assert result_of(line) == Result(is_error=False, result="ok", total_cost_usd=2.0)


def test_whether_a_strange_result_went_well_is_not_assumed() -> None:
    assert result_of(b'{"type":"result","is_error":"no","result":"ok","subtype":"success"}').is_error
    assert result_of(b'{"type":"result","errors":7}').is_error


def test_a_tool_call_that_cannot_be_read_still_waits_for_its_answer() -> None:
    line = b'{"type":"control_request","request_id":"r","request":{"subtype":"hook_callback","input":7}}'
    assert check(line) == UnknownControlRequest("r", "hook_callback")


# --- what we write --------------------------------------------------------------------------------


def test_answers_have_the_shapes_that_were_measured() -> None:
    deny = HookAnswer(PreToolUseOutput("deny", "no"), False, "limit")
    for answer, shape in (
        (
            deny,
            {
                "hookSpecificOutput": {
                    "hookEventName": "PreToolUse",
                    "permissionDecision": "deny",
                    "permissionDecisionReason": "no",
                },
                "continue": False,
                "stopReason": "limit",
            },
        ),
        (HookAnswer(), {}),
        (PermitAnswer(msgspec.Raw(b'{"a":1}')), {"behavior": "allow", "updatedInput": {"a": 1}}),
        (RefuseAnswer("no"), {"behavior": "deny", "message": "no", "interrupt": False}),
    ):
        line = encode_answer("r", answer)
        assert line.endswith(b"\n")
        assert msgspec.json.decode(line) == {
            "type": "control_response",
            "response": {"subtype": "success", "request_id": "r", "response": shape},
        }
    assert msgspec.json.decode(encode_refusal("r", "what?")) == {
        "type": "control_response",
        "response": {"subtype": "error", "request_id": "r", "error": "what?"},
    }


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_message_is_one_line_and_comes_out_as_it_went_in(text: str) -> None:
    line = encode_message("u", text)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert msgspec.json.decode(line) == {
        "type": "user",
        "uuid": "u",
        "message": {"role": "user", "content": text},
    }


def test_a_message_with_half_a_character_is_refused() -> None:
    with pytest.raises(ProtocolError, match="surrogate"):
        encode_message("u", "\ud83d")


def test_state_words_of_the_recordings() -> None:
    words = {e.state for name in takes.NAMES for e in takes.events(name) if isinstance(e, SessionState)}
    assert words == {"running", "idle", "requires_action"}


def test_stream_events_carry_the_reply_and_its_end() -> None:
    events = [e.event for e in takes.events("text_partial") if isinstance(e, StreamEvent)]
    assert events[0].type == "message_start"
    assert events[0].message is not None
    assert events[0].message.id.startswith("msg_")
    assert "".join(e.delta.text for e in events if e.delta is not None) == "The answer is forty-two."
    (end,) = [e for e in events if e.type == "message_delta"]
    assert end.delta is not None
    assert end.usage is not None
    assert (end.delta.stop_reason, end.usage.output_tokens) == ("end_turn", 2500)
