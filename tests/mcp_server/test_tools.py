"""Conformance of every tool: what a client is told is whole, valid, and what is really accepted."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from cms.batch.header import ALTERABLE_TASKS
from cms.cli.commands import COMMANDS
from cms.errors import UsageError
from cms.mcp.batch import RequeueArguments, task_share
from cms.mcp.call import DaemonCall
from cms.mcp.params import NewName
from cms.mcp.schema import schema_of
from cms.mcp.tool import Params, Tool
from cms.mcp.tools import TOOLS
from cms.options import Layer
from cms.rpc.verbs import all_verbs
from cms.session.model import Record
from cms.units import NAME_PATTERN, check_name
from mcp_server.kit import check_schema, problem

BY_NAME = {tool.name: tool for tool in TOOLS}
ALL = pytest.mark.parametrize("tool", TOOLS, ids=[tool.name for tool in TOOLS])


class NoLine(DaemonCall):
    """A daemon that must not be asked."""

    def __init__(self) -> None:
        pass


def properties(tool: Tool) -> dict[str, dict[str, object]]:
    return msgspec.convert(tool.input_schema["properties"], dict[str, dict[str, object]])


def described(schema: dict[str, object]) -> bool:
    return bool(schema.get("description"))


@ALL
def test_a_tool_says_everything_about_itself(tool: Tool) -> None:
    assert tool.title
    assert 40 < len(tool.description) < 700
    assert "  " not in tool.description
    for schema in (tool.input_schema, tool.output_schema):
        check_schema(schema)
        assert schema["type"] == "object"
        assert "$ref" not in msgspec.json.encode(schema).decode()
    assert tool.input_schema["additionalProperties"] is False
    for name, schema in properties(tool).items():
        assert described(schema), f"{tool.name}.{name} is not described"
    assert not (tool.read_only and (tool.destructive or tool.open_world))


@ALL
def test_what_a_model_may_give_is_bounded(tool: Tool) -> None:
    def look(schema: dict[str, object], where: str) -> None:
        for option in msgspec.convert(schema.get("anyOf", []), list[dict[str, object]]):
            look(option, where)
        match schema.get("type"):
            case "string":
                assert "enum" in schema or "maxLength" in schema, where
            case "array":
                assert "maxItems" in schema, where
                look(msgspec.convert(schema["items"], dict[str, object]), where)
            case "integer" | "number":
                assert "maximum" in schema, where

    for name, schema in properties(tool).items():
        look(schema, f"{tool.name}.{name}")


@ALL
def test_defaults_are_valid_and_what_is_required_is_nothing_else(tool: Tool) -> None:
    required = msgspec.convert(tool.input_schema.get("required", []), list[str])
    for name, schema in properties(tool).items():
        assert not (name in required and "default" in schema), name
        assert "anyOf" not in schema, "null goes without saying"
        if "default" in schema:
            assert not problem(schema, schema["default"]), name


@ALL
def test_an_unknown_argument_is_told_with_those_that_are_known(tool: Tool) -> None:
    good: dict[str, object] = {"name": "x", "newName": "y", "names": ["x"], **REQUIRED}
    with pytest.raises(UsageError) as caught:
        tool.run(NoLine(), {"nmae": "x", **{key: good[key] for key in good if key in properties(tool)}})
    assert caught.value.message == f"bad arguments for {tool.name}: Object contains unknown field `nmae`"
    for name in properties(tool):
        assert name in caught.value.hint


#: One good value for everything that any tool requires.
REQUIRED: dict[str, object] = {
    "task": "t",
    "message": "m",
    "prompt": "p",
    "id": "b",
    "tasks": [{"name": "a", "task": "t"}],
    "maxCost": 1,
}


def test_tasks_done_again_have_the_limits_that_are_given() -> None:
    given = msgspec.convert({"id": "b", "model": "opus", "maxCost": 3, "maxMinutes": 2}, RequeueArguments)
    assert given.layer == Layer(model="opus", max_cost=3.0, max_time=120.0)
    assert set(RequeueArguments.taken) <= set(ALTERABLE_TASKS)


@pytest.mark.parametrize(
    ("tasks", "cap", "each"),
    [(1, 1.0, 1.0), (3, 1.2, 0.4), (2, 10.0, 2.0), (200, 5.0, 0.5), (200, 50.0, 2.0)],
)
def test_a_batch_s_tasks_are_capped_so_that_more_than_one_fits(tasks: int, cap: float, each: float) -> None:
    """A task starts when its whole cap can be set aside: with all of the batch's for each, one would."""
    assert task_share(tasks, cap) == pytest.approx(each)


def test_names_are_those_of_the_commands_at_the_shell() -> None:
    shell = {name for names, *_ in COMMANDS for name in names}
    apart = {
        "questions",
        "budget",
        "batch_start",
        "batch_show",
        "batch_requeue",
        "batch_cancel",
    }  # `ask`, `budget show` ...
    assert set(BY_NAME) - apart <= shell
    assert len(BY_NAME) == len(TOOLS)


def test_every_tool_that_spends_says_so_and_every_other_one_that_it_is_free() -> None:
    for tool in TOOLS:
        words = tool.description.lower()
        assert ("free" in words) or ("cost" in words) or ("cheaper" in words), tool.name
        if tool.read_only:
            assert "free" in words, tool.name


@pytest.mark.parametrize("name", ["a", "fix-auth", ".x", "A_1.b-c", "x" * 64])
def test_names_that_both_the_shell_and_the_tools_take(name: str) -> None:
    assert check_name(name) == name
    assert msgspec.convert(name, NewName) == name


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 65, "ä", "a\n"])
def test_names_that_neither_takes(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, NewName)
    assert problem({"type": "string", "pattern": NAME_PATTERN}, name)


def test_inside_a_session_there_is_nothing_that_its_child_socket_refuses() -> None:
    assert {tool.name for tool in TOOLS if not tool.inside} == {
        "fork", "questions", "answer", "cost", "budget",
        "batch_start", "batch_show", "batch_requeue", "batch_cancel",
    }  # fmt: skip
    allowed = {verb.name for verb in all_verbs().values() if verb.inside}
    assert not {"session.fork", "session.answer", "sessions.questions", "budget.set", "daemon.stop"} & allowed
    assert not [method for method in allowed if method.startswith("batch.")]


# --- schema_of ------------------------------------------------------------------------------------


class Inner(Record, frozen=True):
    """For readers of the code."""

    value: int = 0


class Outer(Record, frozen=True):
    """For readers of the code, too."""

    first_one: Annotated[Inner | None, msgspec.Meta(description="this use of it")] = None
    many: tuple[Inner, ...] = ()
    description: Annotated[str, msgspec.Meta(description="a field of that name")] = ""
    needed: int = msgspec.field(default=1)


class Loop(Record, frozen=True):
    again: tuple[Loop, ...] = ()


def test_a_schema_in_one_piece() -> None:
    inner = {"type": "object", "properties": {"value": {"type": "integer", "default": 0}}}
    schema = schema_of(Outer)
    found = msgspec.convert(schema["properties"], dict[str, dict[str, object]])
    assert found["many"]["items"] == inner
    assert found["firstOne"]["anyOf"] == [inner | {"description": "this use of it"}, {"type": "null"}] or (
        found["firstOne"]["description"] == "this use of it"
    )
    assert found["description"]["description"] == "a field of that name"
    assert "readers" not in str(schema)


def test_a_schema_that_has_no_end_is_refused() -> None:
    with pytest.raises(ValueError, match="contains itself"):
        schema_of(Loop)


class Two(Params, frozen=True, kw_only=True):
    optional: str = ""
    needed: str


def test_what_must_be_given_comes_first() -> None:
    assert list(msgspec.convert(schema_of(Two)["properties"], dict[str, object])) == ["needed", "optional"]
