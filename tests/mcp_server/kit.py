"""Clients of the MCP server, and a word on JSON Schema."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path

import msgspec
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp_types import CallToolResult, TextContent


def problem(schema: Mapping[str, object], value: object) -> str:
    """Why a value does not fit a schema; "" if it does. (jsonschema comes without types.)"""
    validator = import_module("jsonschema").Draft202012Validator(schema)
    found = next(validator.iter_errors(value), None)
    return "" if found is None else str(found.message)


def check_schema(schema: Mapping[str, object]) -> None:
    """Fails if it is no JSON Schema."""
    import_module("jsonschema").Draft202012Validator.check_schema(schema)


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def good(result: CallToolResult) -> dict[str, object]:
    """The structured result of a call that must have worked; its text says the same."""
    assert not result.is_error, text_of(result)
    found = msgspec.convert(result.structured_content, dict[str, object])
    assert msgspec.json.decode(text_of(result)) == found
    return found


def bad(result: CallToolResult) -> str:
    """The text of a call that must have failed."""
    assert result.is_error, result
    assert result.structured_content is None
    return text_of(result)


@asynccontextmanager
async def over_pipes(env: Mapping[str, str], folder: Path) -> AsyncIterator[Client]:
    """`cms mcp` as a process, with the SDK's own client."""
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "cms", "mcp"], env=dict(env), cwd=folder
    )
    with (folder / "mcp.stderr").open("w") as errors:
        async with Client(stdio_client(server, errlog=errors), mode="legacy") as client:
            yield client
