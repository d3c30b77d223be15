"""Lines cut anyhow come out whole, and every exception crosses as itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms import errors
from cms.errors import AgentDied, CmsError, ExitCode, SessionNotFound, WrongStatus
from cms.rpc.wire import ErrorData, LineBuffer, OverlongLine, error_data, error_from

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CmsError)]


def over_the_wire(error: CmsError) -> CmsError:
    return error_from(msgspec.json.decode(msgspec.json.encode(error_data(error)), type=ErrorData))


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b)), st.lists(st.integers(1, 30)))
def test_any_chunking_gives_the_same_lines(lines: list[bytes], cuts: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    buffer = LineBuffer(20)
    found = []
    for cut in [*cuts, len(data) + 1]:
        chunk, data = data[:cut], data[cut:]
        buffer.feed(chunk)
        while (line := buffer.next_line()) is not None:
            found.append(line)
    assert found == lines
    assert len(buffer) == 0


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"ok\n" + b"x" * 11])
def test_a_line_over_the_limit_is_refused(data: bytes) -> None:
    buffer = LineBuffer(10)
    buffer.feed(data)
    if data.startswith(b"ok"):
        assert buffer.next_line() == b"ok"
    with pytest.raises(OverlongLine):
        buffer.next_line()


def test_a_line_of_just_the_limit_is_taken() -> None:
    buffer = LineBuffer(10)
    buffer.feed(b"x" * 10)
    assert buffer.next_line() is None
    buffer.feed(b"\n")
    assert buffer.next_line() == b"x" * 10


@pytest.mark.parametrize("kind", TREE)
def test_every_class_of_the_tree_crosses_as_itself(kind: type[CmsError]) -> None:
    needed = [
        parameter
        for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]
        if parameter.default is parameter.empty
    ]
    values = {"limit": 7, "seconds": 1.5, "returncode": -9}
    make: Callable[..., CmsError] = kind
    error = make(**{parameter.name: values.get(parameter.name, "word") for parameter in needed})
    back = over_the_wire(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert back.exit_code is error.exit_code


def test_fields_cross() -> None:
    assert vars(over_the_wire(SessionNotFound("a", "b")))["nearest"] == "b"
    assert vars(over_the_wire(AgentDied("at work", None, "oops")))["returncode"] is None
    assert str(over_the_wire(WrongStatus("a", "busy", "be sent to", hint="wait"))).endswith("(wait)")


def test_a_code_of_a_later_version_keeps_its_meaning() -> None:
    error = error_from(ErrorData("from_the_future", "no", "hint", exit_code=9))
    assert (error.code, error.exit_code, str(error)) == (
        "from_the_future",
        ExitCode.RATE_LIMITED,
        "no (hint)",
    )
    assert error_from(ErrorData("x", "no", exit_code=77)).exit_code is ExitCode.FAILED
