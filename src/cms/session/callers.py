"""Who asks for something to be done, and how far what it starts may multiply.

Apart from `lineage`, which decides on it: every command loads these two with its settings, and must
not load the rest.
"""

from __future__ import annotations

from cms.session.model import Record


class Caller(Record, frozen=True):
    """Who asks for something to be done.

    Attributes:
        depth: that of the sessions it starts.
        session_id: the session that asks; "" for a person or an MCP client outside of cms.
        counted: `ChildLimits.max_children` holds. Not for a batch: it has a bound of its own.
    """

    depth: int = 0
    session_id: str = ""
    counted: bool = True


class ChildLimits(Record, frozen=True):
    """How far sessions may multiply."""

    max_depth: int = 2
    max_children: int = 8
