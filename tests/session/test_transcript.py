"""The transcript: what a person reads of a session, from the recordings of the real binary."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.protocol.messages import (
    HookAnswer,
    Initialize,
    Interrupt,
    PermitAnswer,
    PreToolUseOutput,
    RefuseAnswer,
    encode_answer,
    encode_message,
    encode_request,
)
from cms.session.transcript import Moment, Transcript, arguments_of, first_line, plain_prompt
from protocol import takes


def read(*lines: bytes, direction: str = "out", into: Transcript | None = None) -> list[Moment]:
    transcript = into or Transcript()
    return [
        moment
        for line in lines
        for moment in transcript.read(1.0, "in" if direction == "in" else "out", line)
    ]


def text_of(moments: list[Moment]) -> str:
    return "".join(moment.text for moment in moments if moment.kind == "text" and not moment.subagent)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


@pytest.mark.parametrize("name", takes.NAMES)
def test_every_recording_can_be_read(name: str) -> None:
    moments = read(*takes.lines(name))
    done = [moment for moment in moments if moment.kind == "done"]
    results = sum(b'"type":"result"' in line for line in takes.lines(name))
    assert len(done) == results
    for moment in moments:
        assert "\n" not in moment.text or moment.kind in ("text", "done", "failed")


@pytest.mark.parametrize("name", takes.NAMES)
def test_text_is_told_once_streamed_or_not(name: str) -> None:
    """Without the stream the same words come, in whole blocks."""
    everything = takes.lines(name)
    whole = [line for line in everything if b'"type":"stream_event"' not in line]
    streamed, unstreamed = text_of(read(*everything)), text_of(read(*whole))
    # What was interrupted in the middle is only in the stream.
    assert unstreamed in streamed or not unstreamed or "interrupt" in name


@given(st.lists(st.tuples(st.sampled_from(["in", "out", "err", "note"]), st.binary(max_size=60)), max_size=8))
def test_nothing_makes_it_raise(lines: list[tuple[str, bytes]]) -> None:
    transcript = Transcript()
    for direction, line in lines:
        transcript.read(1.0, direction, line)  # type: ignore[arg-type] # a drawn string


_LINES = [line for _, _, line in takes.all_lines() if len(line) < 4000]


@given(st.sampled_from(_LINES), st.data())
def test_nor_do_damaged_lines(line: bytes, data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(line)))
    cut = line[:where] + data.draw(st.binary(max_size=4)) + line[where + data.draw(st.integers(0, 8)) :]
    for direction in ("in", "out", "err"):
        Transcript().read(1.0, direction, cut)


def hook(request_id: str, tool: str, given: object, use: str = "u1") -> bytes:
    request = {
        "subtype": "hook_callback",
        "callback_id": "pre",
        "input": {"tool_name": tool, "tool_input": given, "tool_use_id": use},
    }
    return msgspec.json.encode({"type": "control_request", "request_id": request_id, "request": request})


def test_a_message_from_prompt_to_cost() -> None:
    transcript = Transcript()
    usage = b'{"type":"control_response","response":{"subtype":"success","request_id":"c","response":%b}}'
    said = read(encode_request("c", Initialize({})), direction="in", into=transcript)
    assert [one.kind for one in said] == ["start"]
    read(usage % b'{"session":{"total_cost_usd":2.0}}', into=transcript)
    (prompt,) = read(encode_message("u", "do it\nnow"), direction="in", into=transcript)
    assert (prompt.kind, prompt.text) == ("prompt", "do it\nnow")
    read(usage % b'{"session":{"total_cost_usd":2.1}}', into=transcript)
    (done,) = read(
        b'{"type":"result","subtype":"success","total_cost_usd":2.25,"result":"x"}', into=transcript
    )
    assert done.cost == pytest.approx(0.25)
    (late,) = read(b'{"type":"result","subtype":"success","total_cost_usd":2.5}', into=transcript)
    assert late.cost == pytest.approx(0.25)  # a subagent's, after the end
    (cut,) = read(encode_request("d", Interrupt()), direction="in", into=transcript)
    assert (cut.kind, cut.text) == ("note", "interrupted")
    (bad,) = read(
        b'{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["no\\nroom"]}',
        into=transcript,
    )
    assert (bad.is_error, bad.cost, bad.text) == (True, None, "no\nroom")


def test_a_line_for_claudes_makers_is_told_to_nobody() -> None:
    raw = (
        b'{"type":"result","subtype":"error_during_execution","is_error":true,"terminal_reason":'
        b'"aborted_streaming","errors":["[ede_diagnostic] result_type=user stop_reason=null"]}'
    )
    (done,) = read(raw)
    assert (done.kind, done.text) == ("done", "aborted streaming")


def test_a_refusal_is_told_once_with_its_reason() -> None:
    transcript = Transcript()
    read(hook("h", "Write", {"file_path": "/etc/x", "content": "c"}), into=transcript)
    answer = HookAnswer(PreToolUseOutput("deny", "/etc/x is protected"))
    (refused,) = read(encode_answer("h", answer), direction="in", into=transcript)
    assert (refused.kind, refused.tool, refused.text) == (
        "refused",
        "Write",
        '/etc/x content="c": /etc/x is protected',
    )
    result = {"type": "tool_result", "tool_use_id": "u1", "is_error": True, "content": "denied"}
    line = msgspec.json.encode({"type": "user", "message": {"content": [result]}})
    assert read(line, into=transcript) == []
    allowed = HookAnswer(PreToolUseOutput("allow"))
    read(hook("i", "Read", {"file_path": "/x"}, "u2"), into=transcript)
    assert read(encode_answer("i", allowed), direction="in", into=transcript) == []
    assert read(encode_answer("never asked", answer), direction="in", into=transcript)[0].tool == ""


def test_a_question_and_what_was_said() -> None:
    transcript = Transcript()
    asked = {"questions": [{"question": "Which?", "options": [{"label": "A"}, {"label": "B"}]}]}
    request = {"subtype": "can_use_tool", "tool_name": "AskUserQuestion", "input": asked}
    line = msgspec.json.encode({"type": "control_request", "request_id": "q", "request": request})
    (asks,) = read(line, into=transcript)
    assert (asks.kind, asks.text) == ("asks", "Which? (A / B)")
    permit = PermitAnswer(raw({**asked, "answers": {"Which?": "A"}}))
    (answered,) = read(encode_answer("q", permit), direction="in", into=transcript)
    assert (answered.kind, answered.text) == ("answered", "Which? A")
    read(line.replace(b'"q"', b'"r"'), into=transcript)
    (refused,) = read(encode_answer("r", RefuseAnswer("nobody")), direction="in", into=transcript)
    assert (refused.kind, refused.text) == ("refused", "Which? (A / B): nobody")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"command": "ls\n-l", "timeout": 5}, "ls -l timeout=5"),
        ({"pattern": "x", "path": "/src"}, 'x path="/src"'),
        ({"old_string": "a b", "file_path": "/f"}, '/f old_string="a b"'),
        ({}, ""),
        ({"deep": {"a": [1, "\x1b"]}}, r'deep={"a":[1,"\u001b"]}'),
        ([1], "[1]"),
    ],
)
def test_arguments_in_a_line(given: object, line: str) -> None:
    assert arguments_of(raw(given)) == line


def test_a_huge_argument_is_cut() -> None:
    assert len(arguments_of(raw({"file_path": "/f", "content": "x" * 10**6}))) < 2100


def test_a_prompt_with_files_is_told_as_well() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    content = [image, {"type": "text", "text": "What is in shot.png?"}]
    line = msgspec.json.encode({"type": "user", "uuid": "u", "message": {"role": "user", "content": content}})
    (prompt,) = Transcript().read(1.0, "in", line)
    assert (prompt.kind, prompt.text) == ("prompt", "What is in shot.png?")


_SCRIPT = "<cms-script>{}</cms-script>"


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        (f"Look. {_SCRIPT} Then\n\n{_SCRIPT}{_SCRIPT}write.", "Look. Thenwrite."),
        ("Look. <cms-script>{}", "Look. <cms-script>{}"),
        (f"  {_SCRIPT}  </cms-script>", "  </cms-script>"),
        (_SCRIPT, ""),
    ],
)
def test_a_prompt_is_told_without_what_a_rehearsal_says(prompt: str, plain: str) -> None:
    assert plain_prompt(prompt) == plain


@pytest.mark.parametrize("filler", [" ", "<cms-script>"])
def test_a_huge_prompt_holds_nothing_up(filler: str) -> None:
    """Each session of a daemon waits while one prompt is looked at. What grows with its square never ends."""
    text = "x" + filler * 2_000_000
    assert first_line(text + "\ny") == text.rstrip()[:200]
