"""Where the paths of tool calls lead, links followed: looked up off trio's thread, each once.

The folders are the agent's, and can be such that a look never returns (see `cms.disk`). A call whose paths
are not found within `PATIENCE` seconds is refused; the session goes on, and so do its limits and the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from cms.disk import ask_disk
from cms.errors import DiskTimeout
from cms.protection.links import locate
from cms.session.path_rules import NamedPath, PathRules
from cms.session.state import PathsFound, PendingCall

#: Seconds for the paths of one call, well below the time-out of the hook that waits for them.
PATIENCE: Final = 5.0
#: Looks at one time. Those that hang keep their place until the system lets them go.
_THREADS: Final = 4


class PathLookup:
    """Of one process; `run` is the task. Each `find` is followed by a `PathsFound`, whatever happens."""

    def __init__(self, rules: PathRules, found: Callable[[PathsFound], None]) -> None:
        self._rules = rules
        self._found = found
        self._limiter = trio.CapacityLimiter(_THREADS)
        # Unbounded: each call waits here once, and a call is kept in the state anyway.
        self._calls_in, self._calls = trio.open_memory_channel[PendingCall](float("inf"))

    def __repr__(self) -> str:
        return f"<PathLookup {self._limiter.borrowed_tokens} looking>"

    def find(self, call: PendingCall) -> None:
        """Have the paths of a call looked up."""
        self._calls_in.send_nowait(call)

    async def run(self) -> None:
        """Look up, for ever."""
        async with trio.open_nursery() as nursery:
            async for call in self._calls:
                nursery.start_soon(self._look, call)

    async def _look(self, call: PendingCall) -> None:
        names = call.names
        try:
            paths = await ask_disk(
                lambda: tuple(locate(self._rules, name) for name in names),
                "the paths of a tool call",
                seconds=PATIENCE,
                limiter=self._limiter,
            )
        except DiskTimeout:
            fault = f"the file system did not say within {PATIENCE:g} s where it leads"
            paths = tuple(NamedPath(name, fault=fault, unanswered=True) for name in names)
        self._found(PathsFound(call.request_id, paths))
