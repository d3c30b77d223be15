"""Every tool, in the order in which a client sees them. Names are those of the commands at the shell.

Descriptions are for the model that chooses: when to use it, what it costs, what to do with the answer. They
are paid for in every conversation that has this server, so each sentence must change what a model would do.

What a person may do at the shell and a model may not through this server: switch the safety net off, name
a permission mode, hand over settings or MCP servers, delete sessions, stop the daemon.
"""

from __future__ import annotations

from cms.mcp import batch, cost, questions, sessions, status
from cms.mcp.tool import Tool

TOOLS: tuple[Tool, ...] = (
    *sessions.TOOLS,
    *batch.TOOLS,
    *questions.TOOLS,
    *status.TOOLS,
    *cost.TOOLS,
)
