"""What each tool tells, value by value, and the schema that it promises."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from cli import snapshot
from cli.scripted import serve
from cli.test_commands import always
from cli.test_json_values import ANSWERS, answer_to, pretty
from cms.config import Settings
from cms.mcp.call import DaemonCall
from cms.mcp.tools import TOOLS
from mcp_server.kit import problem

ARGUMENTS: dict[str, dict[str, object]] = {
    "delegate": {"name": "one", "task": "go"},
    "continue": {"name": "one", "message": "more"},
    "spawn": {"name": "one", "prompt": "hello"},
    "send": {"name": "one", "message": "hello"},
    "resume": {"name": "one"},
    "fork": {"name": "one", "newName": "two"},
    "batch_start": {"tasks": [{"name": "one", "task": "go"}], "maxCost": 1},
    "batch_show": {"id": "one"},
    "batch_requeue": {"id": "one"},
    "batch_cancel": {"id": "one"},
    "wait": {"names": ["one"]},
    "questions": {},
    "answer": {"name": "one", "answers": ["yes"]},
    "interrupt": {"name": "one"},
    "pause": {"name": "one"},
    "stop": {"name": "one"},
    "kill": {"name": "one"},
    "list": {},
    "status": {"name": "one"},
    "output": {"name": "one"},
    "history": {"name": "one"},
    "cost": {},
    "budget": {},
}


@pytest.mark.parametrize("full", [True, False], ids=["full", "empty"])
def test_the_values_that_each_tool_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path / "home")
    lines = []
    script = {method: always(answer_to(kind, full=full)) for method, kind in ANSWERS.items()}
    script["batch.cancel"] = script["batch.get"]
    with serve(settings.home, script):
        for tool in sorted(TOOLS, key=lambda tool: tool.name):
            call = DaemonCall(settings, lambda _: None)
            try:
                result = tool.run(call, ARGUMENTS[tool.name])
            finally:
                call.close()
            told = msgspec.json.decode(msgspec.json.encode(result))
            assert not problem(tool.output_schema, told), tool.name
            lines += [f"{tool.name}:", pretty(told), ""]
    snapshot.check(f"mcp_values_{'full' if full else 'empty'}.txt", "\n".join(lines))


def test_the_schema_of_what_each_tool_tells() -> None:
    schemas = {tool.name: tool.output_schema for tool in TOOLS}
    snapshot.check("mcp_output_schemas.txt", pretty(schemas) + "\n")
