"""One side of the conversation: the same events however the bytes come, each question with its answer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.errors import InternalError, LineTooLong, ProtocolError
from cms.protocol.connection import Answered, Closed, Connection, Tampered, Unanswered
from cms.protocol.messages import (
    Ask,
    CanUseTool,
    ControlCancelRequest,
    ControlResponse,
    Event,
    GetUsage,
    HookAnswer,
    HookCallback,
    HookMatcher,
    Initialize,
    Interrupt,
    Noise,
    RefuseAnswer,
    SessionState,
    Unknown,
    UnknownControlRequest,
    decode,
)
from protocol import takes


def drain(connection: Connection) -> list[Event]:
    found = []
    while (event := connection.next_event()) is not None:
        found.append(event)
    return found


def feed(connection: Connection, data: bytes, sizes: list[int], *, eager: bool = True) -> list[Event]:
    """The data in pieces of these sizes, again and again, then end of file."""
    found: list[Event] = []
    start, turn = 0, 0
    while start < len(data):
        size = sizes[turn % len(sizes)] if sizes else len(data)
        connection.receive_data(data[start : start + size])
        start, turn = start + size, turn + 1
        if eager:
            found += drain(connection)
    connection.receive_data(b"")
    return found + drain(connection)


def fingerprint(events: list[Event]) -> list[object]:
    """Events as comparable values (`Raw` compares by identity)."""
    return [(type(event), msgspec.json.encode(event)) for event in events]


def told(line: bytes) -> dict[str, object]:
    """What a line of ours says."""
    assert line.endswith(b"\n")
    return msgspec.json.decode(line, type=dict[str, object])


def answer_line(request_id: str, response: str = '"subtype":"success","response":{}') -> bytes:
    return f'{{"response":{{"request_id":"{request_id}",{response}}},"type":"control_response"}}\n'.encode()


def hook_line(request_id: str, subtype: str = "hook_callback") -> bytes:
    request = {
        "hook_callback": '"callback_id":"pre","input":{"tool_name":"Bash","tool_use_id":"t"}',
        "can_use_tool": '"tool_name":"Bash","input":{}',
    }.get(subtype, '"x":1')
    return (
        f'{{"type":"control_request","request_id":"{request_id}",'
        f'"request":{{"subtype":"{subtype}",{request}}}}}\n'.encode()
    )


# --- bytes to events ------------------------------------------------------------------------------


@given(
    st.sampled_from(takes.NAMES),
    st.lists(st.integers(1, 5000), min_size=1, max_size=5),
    st.booleans(),
)
def test_any_cutting_of_a_recorded_stream_gives_the_same_events(
    name: str, sizes: list[int], eager: bool
) -> None:
    whole = feed(Connection(), takes.stream(name), [])
    assert fingerprint(feed(Connection(), takes.stream(name), sizes, eager=eager)) == fingerprint(whole)
    assert len(whole) == len(takes.lines(name)) + 1
    assert whole[-1] == Closed()


@pytest.mark.parametrize("name", takes.NAMES)
def test_the_raw_lines_are_handed_out_whole_for_the_log(name: str) -> None:
    connection = Connection()
    data = takes.stream(name)
    raw = [line for at in range(0, len(data), 999) for line in connection.receive_data(data[at : at + 999])]
    assert raw == list(takes.lines(name))


_NOISE = st.binary(min_size=1, max_size=30).map(lambda raw: raw.replace(b"\n", b"~").replace(b"\r", b"~"))


@given(st.sampled_from(takes.NAMES), st.lists(st.tuples(st.integers(0, 60), _NOISE), max_size=5))
def test_garbage_between_lines_changes_nothing_but_the_count(
    name: str, garbage: list[tuple[int, bytes]]
) -> None:
    lines = list(takes.lines(name))
    inserted = 0
    for at, noise in garbage:
        if isinstance(decode(noise), Noise):
            lines.insert(min(at, len(lines)), noise)
            inserted += 1
    clean, spoilt = Connection(), Connection()
    expected = feed(clean, takes.stream(name), [])
    found = feed(spoilt, b"\n".join(lines) + b"\n", [700])
    assert fingerprint([event for event in found if not isinstance(event, Noise)]) == fingerprint(expected)
    assert spoilt.noise == inserted
    assert spoilt.unknown == clean.unknown


def test_a_torn_last_line_is_still_an_event() -> None:
    connection = Connection()
    (event, closed) = feed(connection, b'{"type":"system","subtype":"stat', [])
    assert isinstance(event, Noise)
    assert closed == Closed()
    assert connection.noise == 1


def test_a_line_beyond_the_limit_is_an_error() -> None:
    connection = Connection(max_line=64)
    connection.receive_data(b"x" * 64)
    with pytest.raises(LineTooLong):
        connection.receive_data(b"x")


def test_nothing_comes_after_closed() -> None:
    connection = Connection()
    assert connection.next_event() is None
    connection.receive_data(b"")
    assert connection.next_event() == Closed()
    connection.receive_data(b"")
    assert connection.next_event() is None


# --- our questions --------------------------------------------------------------------------------


def test_each_answer_comes_with_its_question_in_any_order() -> None:
    connection = Connection()
    asks: list[Ask] = [Interrupt(), GetUsage(), Initialize({"PreToolUse": (HookMatcher(("pre",)),)})]
    asked = {}
    for ask in asks:
        request_id, line = connection.ask(ask)
        assert told(line)["request_id"] == request_id
        asked[request_id] = ask
    assert len(asked) == 3
    for request_id in reversed(asked):
        connection.receive_data(answer_line(request_id))
    answers = [event for event in drain(connection) if isinstance(event, Answered)]
    assert [(answer.request_id, answer.ask) for answer in answers] == list(reversed(asked.items()))
    assert all(answer.error == "" for answer in answers)
    assert connection.unknown == 0


def test_the_questions_have_the_shapes_that_were_recorded() -> None:
    """Held against what the recorder wrote, and the real binary accepted."""
    recorded = {}
    for name in takes.NAMES:
        for line in takes.told(name):
            request = line.get("request")
            if isinstance(request, dict):
                recorded[request["subtype"]] = request
    ours: list[Ask] = [Interrupt(), GetUsage()]
    for ask in ours:
        request = told(Connection().ask(ask)[1])["request"]
        assert isinstance(request, dict)
        assert request == recorded[request["subtype"]]


def test_a_refused_question_tells_why() -> None:
    connection = Connection()
    request_id, _ = connection.ask(GetUsage())
    connection.receive_data(answer_line(request_id, '"subtype":"error","error":"no such request"'))
    (answer,) = drain(connection)
    assert isinstance(answer, Answered)
    assert answer.error == "no such request"
    other, _ = connection.ask(GetUsage())
    connection.receive_data(answer_line(other, '"subtype":"strange"'))
    (answer,) = drain(connection)
    assert isinstance(answer, Answered)
    assert answer.error


def test_an_answer_to_nothing_is_tampering_and_so_is_a_second_one() -> None:
    connection = Connection()
    request_id, _ = connection.ask(Interrupt())
    connection.receive_data(answer_line("never-asked") + answer_line(request_id) + answer_line(request_id))
    kinds = [type(event) for event in drain(connection)]
    assert kinds == [Tampered, Answered, Tampered]
    assert connection.unknown == 2


def test_nobody_can_guess_an_id() -> None:
    connections = [Connection(secret=secret) for secret in (b"one", b"two")]
    ids = {connection.ask(GetUsage())[0] for connection in connections for _ in range(100)}
    assert len(ids) == 200
    assert all(len(request_id) >= 32 for request_id in ids)


def test_a_late_answer_to_a_question_taken_back_is_unknown() -> None:
    connection = Connection()
    request_id, _ = connection.ask(GetUsage())
    connection.forget(request_id)
    connection.forget("never asked")
    connection.receive_data(answer_line(request_id))
    assert [type(event) for event in drain(connection)] == [Unknown]
    connection.receive_data(answer_line(request_id))
    assert [type(event) for event in drain(connection)] == [Tampered]
    connection.receive_data(answer_line("never asked"))
    assert [type(event) for event in drain(connection)] == [Tampered]
    connection.receive_data(b"")
    assert drain(connection) == [Closed()]


def test_end_of_file_tells_every_open_question_once() -> None:
    connection = Connection()
    first, _ = connection.ask(Interrupt())
    second, _ = connection.ask(GetUsage())
    connection.receive_data(answer_line(first))
    connection.receive_data(b"")
    events = drain(connection)
    assert [type(event) for event in events] == [Answered, Unanswered, Closed]
    assert isinstance(events[1], Unanswered)
    assert events[1].request_id == second
    assert drain(connection) == []


@pytest.mark.parametrize("ending", [b"\n", b""])
def test_an_answer_among_the_last_bytes_is_an_answer(ending: bytes) -> None:
    """Also when end of file was seen before the lines were looked at, and when its line has no end."""
    connection = Connection()
    request_id, _ = connection.ask(GetUsage())
    connection.receive_data(answer_line(request_id).rstrip(b"\n") + ending)
    connection.receive_data(b"")
    assert [type(event) for event in drain(connection)] == [Answered, Closed]


def test_recorded_answers_find_their_questions() -> None:
    """The ids of the recording are not ours, so they are put in place of ours, in order."""
    for name in takes.NAMES:
        connection = Connection()
        data = takes.stream(name)
        for event in takes.events(name):
            if isinstance(event, ControlResponse):
                request_id, _ = connection.ask(GetUsage())
                data = data.replace(event.response.request_id.encode(), request_id.encode())
        events = feed(connection, data, [4096])
        assert not [event for event in events if isinstance(event, Unanswered | Unknown)]


# --- claude's questions -----------------------------------------------------------------------------


def test_each_question_of_claudes_is_answered_at_most_once() -> None:
    connection = Connection()
    connection.receive_data(hook_line("h"))
    (event,) = drain(connection)
    assert isinstance(event, HookCallback)
    assert connection.owes("h")
    connection.answer("h", HookAnswer())
    assert not connection.owes("h")
    with pytest.raises(InternalError):
        connection.answer("h", HookAnswer())
    with pytest.raises(InternalError):
        connection.refuse("h", "no")
    with pytest.raises(InternalError):
        connection.answer("never asked", HookAnswer())


def test_what_is_not_read_yet_is_not_owed_yet() -> None:
    connection = Connection()
    connection.receive_data(hook_line("h"))
    assert not connection.owes("h")
    drain(connection)
    assert connection.owes("h")


def test_a_question_taken_back_is_owed_no_answer() -> None:
    connection = Connection()
    connection.receive_data(hook_line("h") + b'{"type":"control_cancel_request","request_id":"h"}\n')
    assert [type(event) for event in drain(connection)] == [HookCallback, ControlCancelRequest]
    assert not connection.owes("h")
    with pytest.raises(InternalError):
        connection.answer("h", HookAnswer())
    connection.receive_data(b'{"type":"control_cancel_request","request_id":"h"}\n')
    drain(connection)


def test_nothing_is_owed_after_the_end() -> None:
    connection = Connection()
    connection.receive_data(hook_line("h"))
    connection.receive_data(b"")
    assert [type(event) for event in drain(connection)] == [HookCallback, Closed]
    assert not connection.owes("h")


@pytest.mark.parametrize("subtype", ["hook_callback", "can_use_tool"])
def test_a_refused_tool_call_is_denied_and_never_answered_with_an_error(subtype: str) -> None:
    """An error answer lets the tool run under some permission modes."""
    connection = Connection()
    line = hook_line("h", subtype)
    unreadable = line.replace(b'"tool_name":"Bash"', b'"tool_name":{}')
    assert unreadable != line
    for raw, kinds in ((line, (HookCallback, CanUseTool)), (unreadable, (UnknownControlRequest,))):
        connection.receive_data(raw)
        (event,) = drain(connection)
        assert isinstance(event, kinds)
        reply = told(connection.refuse("h", "why"))["response"]
        assert isinstance(reply, dict)
        assert reply["subtype"] == "success"
        response = reply["response"]
        if subtype == "hook_callback":
            output = {
                "hookEventName": "PreToolUse",
                "permissionDecision": "deny",
                "permissionDecisionReason": "why",
            }
            assert response == {"hookSpecificOutput": output}
        else:
            assert response == {"behavior": "deny", "message": "why", "interrupt": False}


def test_an_unknown_request_is_answered_with_an_error() -> None:
    connection = Connection()
    connection.receive_data(hook_line("h", "new_thing"))
    assert drain(connection) == [UnknownControlRequest("h", "new_thing")]
    assert msgspec.json.decode(connection.refuse("h", "what?")) == {
        "type": "control_response",
        "response": {"subtype": "error", "request_id": "h", "error": "what?"},
    }


@given(st.lists(st.tuples(st.sampled_from("ascx"), st.sampled_from("123"))))
def test_what_is_owed_is_what_was_asked_and_not_answered_nor_taken_back(steps: list[tuple[str, str]]) -> None:
    connection = Connection()
    owed: set[str] = set()
    for step, key in steps:
        match step:
            case "s":
                connection.receive_data(hook_line(key))
                owed.add(key)
            case "c":
                connection.receive_data(
                    f'{{"type":"control_cancel_request","request_id":"{key}"}}\n'.encode()
                )
                owed.discard(key)
            case "a" if key in owed:
                connection.answer(key, RefuseAnswer("no"))
                owed.discard(key)
            case "a":
                with pytest.raises(InternalError):
                    connection.answer(key, RefuseAnswer("no"))
            case _:
                connection.receive_data(b"noise\n")
        drain(connection)
        assert {one for one in "123" if connection.owes(one)} == owed


def test_a_message_that_cannot_be_written_is_told() -> None:
    with pytest.raises(ProtocolError):
        Connection().send_message("u", "\udfff")


def test_repr_tells_what_is_open() -> None:
    connection = Connection()
    connection.ask(GetUsage())
    connection.receive_data(hook_line("h") + b"half")
    assert "asked=1" in repr(connection)
    assert "lines=1 pending=4" in repr(connection)


# --- what stands beside the protocol --------------------------------------------------------------

LINE = b'{"type":"system","subtype":"session_state_changed","state":"idle"}'


@pytest.mark.parametrize(
    ("before", "told"),
    [
        (b"\xef\xbb\xbf", ""),
        (b"\x1b]0;claude in ~/work\x07", ""),
        (b"\x1b]2;{title}\x1b\\\x1b[?25l\x1b[1;31m", ""),
        (b"\x1b]0;never ended", "0;never ended"),
        (b"Loading {profile: default} ... ", "Loading {profile: default} ..."),
        (b'[{"a": 1}, and now ', '[{"a": 1}, and now'),
        (b"half of a character: \\ud83d ", "half of a character: \\ufffd"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
@pytest.mark.parametrize("after", [b"", b"\x1b[0m", b" \r"])
def test_what_is_written_before_the_json_of_a_line_costs_no_line(
    before: bytes, told: str, after: bytes
) -> None:
    connection = Connection()
    connection.receive_data(before + LINE + after + b"\n" + LINE + b"\n")
    assert drain(connection) == [SessionState("idle"), SessionState("idle")]
    assert connection.noise_tail.strip() == told
    assert connection.noise == 0


def test_what_is_torn_is_not_taken_for_what_stands_in_it() -> None:
    connection = Connection()
    connection.receive_data(b'{"type":"user","x":' + LINE + b"\n")
    (event,) = drain(connection)
    assert isinstance(event, Noise)


def test_the_end_of_what_no_line_is_is_kept_and_no_more() -> None:
    connection = Connection()
    for number in range(1000):
        connection.receive_data(b"\x1b[1mline %d of a banner\x1b[0m\n" % number)
    connection.receive_data(b"Please run /login")
    connection.receive_data(b"")
    drain(connection)
    assert connection.noise == 1001
    assert connection.noise_tail.endswith("line 999 of a banner\nPlease run /login\n")
    assert len(connection.noise_tail) <= 8192


def test_what_is_no_json_costs_a_bounded_look() -> None:
    """Each place where JSON may begin is a look at the rest of the line: some are looked at, not all."""
    connection = Connection()
    connection.receive_data(b"x" + b"{" * 5_000_000 + b"\n")
    (event,) = drain(connection)
    assert isinstance(event, Noise)


@given(
    st.lists(
        st.binary(max_size=9)
        | st.sampled_from([b"\x1b", b"\x1b[", b"\x1b]0;", b"\x07", b"\xef\xbb\xbf", b'"'])
    ),
    st.sampled_from([line for name in takes.NAMES for line in takes.lines(name)[:20]]),
)
def test_no_noise_before_a_line_changes_it(pieces: list[bytes], line: bytes) -> None:
    noise = b"".join(pieces).replace(b"\n", b"").replace(b"{", b"")
    connection = Connection()
    connection.receive_data(noise + line + b"\n")
    assert fingerprint(drain(connection)) == fingerprint(drain_one(line))


def drain_one(line: bytes) -> list[Event]:
    connection = Connection()
    connection.receive_data(line + b"\n")
    return drain(connection)
