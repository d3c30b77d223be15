"""`cms mcp`: serve the Model Context Protocol on stdin and stdout, for Claude Code and other clients."""

from __future__ import annotations

import gc
import importlib.util
import sys

from cms.cli.flags import JsonErrorFlag
from cms.config import load_settings
from cms.errors import ExitCode, MachineError, UsageError


def mcp(*, json: JsonErrorFlag = False) -> int:  # noqa: ARG001 - `cms.cli.app` looks at it
    """Serve MCP on stdin and stdout, for Claude Code and other clients.

    Not for typing: `cms setup` tells Claude Code to start it.

    Examples::

        claude mcp add cms -- cms mcp
        cms mcp < requests.jsonl
    """
    settings = load_settings()
    refuse_nested(settings.environ.get("CMS_PARENT", ""), settings.environ.get("CMS_CHILD_SOCKET", ""))
    check_sdk()
    if sys.stdin.isatty():
        raise UsageError("cms mcp is for MCP clients, not for a terminal", hint="`cms setup` registers it")
    # A client waits some seconds for its servers, and most of that goes into this import: a sixth less of it
    # without collections, which find nothing while modules load.
    gc.disable()
    from cms.mcp.server import main

    gc.freeze()
    gc.enable()
    main(settings)
    return ExitCode.COMPLETED


def check_sdk() -> None:
    """Look for the `mcp` SDK without importing it.

    Raises:
        MachineError: it is not there, or so old that its types are not yet a package of their own. Such a one
            comes with other packages, claude-agent-sdk among them, which are content with either.
    """
    what = "the MCP server needs the package mcp"
    install = "pip install 'claude-multi-session[mcp]'"
    if importlib.util.find_spec("mcp") is None:
        raise MachineError(what, hint=install)
    if importlib.util.find_spec("mcp_types") is None:
        raise MachineError(f"{what} in its second major version, and there is an older one", hint=install)


def refuse_nested(parent: str, child_socket: str) -> None:
    """Inside a session that may not start others, leave at once.

    Before anything slow is imported: every session of a person who has registered this server tries to start
    it, and most may not use it.

    Raises:
        UsageError: the session that started us was not given access to cms.
    """
    if parent and not child_socket:
        raise UsageError(
            "this session may not use cms", hint="a person can allow it with `--allow-cms` (spawn, delegate)"
        )
