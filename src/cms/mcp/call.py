"""One tool call's line to the daemon.

A tool is a plain blocking function that runs in a worker thread and is given a `DaemonCall`: requests go out,
progress comes in, and `cancel`, from the event loop, ends what the request under way started. Each call has a
connection of its own, so that calls run side by side and a cancellation can mean no other one; the blocking
client is used because the commands' client is the one that is tested, and a thread that waits in `recv` costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from cms.config import Settings
from cms.rpc.client import Client, connect
from cms.rpc.verbs import P, R, Verb
from cms.rpc.wire import ProgressNote
from cms.session.model import Progress

#: What the daemon notes of sessions that are started through this server; see `rpc.daemon.Hello`.
CLIENT_DEPTH = 1


class DaemonCall:
    """Made for one tool call; used by its worker thread, but for `cancel`."""

    def __init__(self, settings: Settings, tell: Callable[[Progress], None]) -> None:
        self.settings = settings
        self._tell = tell
        self._client: Client | None = None
        self._cancelled = False

    def __repr__(self) -> str:
        return f"<DaemonCall {'cancelled' if self._cancelled else 'open'}>"

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def call(self, verb: Verb[P, R], params: P) -> R:
        """One request, as `rpc.client.Client.call`.

        Raises:
            CmsError: the daemon's, or that it cannot be reached.
            Interrupted: `cancel` came before the request went out.
        """
        if self._client is None:
            self._client = connect(self.settings, depth=CLIENT_DEPTH)
            if self._cancelled:  # before there was a client to be told
                self._client.cancel()
        return self._client.call(verb, params, on_progress=self._heard)

    def clean_up(self, verb: Verb[P, R], params: P) -> R:
        """A request that goes out although the call was cancelled: it ends what the call had started."""
        with connect(self.settings, start=False, depth=CLIENT_DEPTH) as client:
            return client.call(verb, params)

    def cancel(self) -> None:
        """End the request under way early, and let no other one begin. From any thread, at any time, once."""
        self._cancelled = True
        client = self._client
        if client is not None:
            client.cancel()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _heard(self, note: ProgressNote) -> None:
        self._tell(note.progress)
