"""One tool call's line to the daemon.

A tool is a plain blocking function that runs in a worker thread and is given a `Line`: requests go out,
progress comes in, and `cancel`, from the event loop, ends what the request under way started. Each call has a
connection of its own, so that calls run side by side and a cancellation can mean no other one; the blocking
client is used because the commands' client is the one that is tested, and a thread that waits in `recv` costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, overload

from cms.config import Settings
from cms.errors import Interrupted
from cms.rpc.api import ProgressNote
from cms.rpc.client import Client, connect
from cms.session.model import Progress, Record

A = TypeVar("A", bound=Record)
B = TypeVar("B", bound=Record)
C = TypeVar("C", bound=Record)

#: What the daemon notes of sessions that are started through this server; see `rpc.api.Hello`.
CLIENT_DEPTH = 1


class DaemonCall:
    """Made for one tool call; used by its worker thread, but for `cancel`."""

    def __init__(self, settings: Settings, tell: Callable[[Progress], None]) -> None:
        self.settings = settings
        self._tell = tell
        self._client: Client | None = None
        self._cancelled = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Line {'cancelled' if self._cancelled else 'open'}>"

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    @overload
    def call(self, method: str, params: Record, result: type[A], /) -> A: ...

    @overload
    def call(self, method: str, params: Record, result: type[A], or_result: type[B], /) -> A | B: ...

    @overload
    def call(
        self, method: str, params: Record, result: type[A], or_result: type[B], or_else: type[C], /
    ) -> A | B | C: ...

    def call(self, method: str, params: Record, /, *results: type[Record]) -> Record:
        """One request, as `rpc.client.Client.call`.

        Raises:
            CmsError: the daemon's, or that it cannot be reached.
            Interrupted: `cancel` came before the request went out.
        """
        if self._client is None:
            self._client = connect(self.settings, depth=CLIENT_DEPTH)
        if self._cancelled:
            raise Interrupted("cancelled before it began")
        return self._send(self._client, method, params, results)

    def clean_up(self, method: str, params: Record, result: type[A]) -> A:
        """A request that goes out although the call was cancelled: it ends what the call had started."""
        with connect(self.settings, start=False, depth=CLIENT_DEPTH) as client:
            return client.call(method, params, result)

    def cancel(self) -> None:
        """End the request under way early, and let no other one begin. From any thread.

        To be repeated until the call is over: one that comes just before the request goes out is lost.
        """
        self._cancelled = True
        client = self._client
        if client is not None:
            client.cancel()

    @property
    def closed(self) -> bool:
        """The call is over: there is nothing to cancel any more."""
        return self._closed

    def close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.close()

    def _send(self, client: Client, method: str, params: Record, results: tuple[type[Record], ...]) -> Record:
        def heard(note: ProgressNote) -> None:
            self._tell(note.progress)

        first, *rest = results
        if not rest:
            return client.call(method, params, first, on_progress=heard)
        if len(rest) == 1:
            return client.call(method, params, first, rest[0], on_progress=heard)
        return client.call(method, params, first, rest[0], rest[1], on_progress=heard)
