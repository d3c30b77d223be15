"""Connections to the daemon, for many threads: each request has one of its own while it waits."""

from __future__ import annotations

import threading

from cms.config import Settings
from cms.errors import DaemonUnavailable
from cms.rpc.client import Client, connect
from cms.rpc.verbs import P, R, Verb

#: Connections that are kept for the next request.
_KEPT = 4
#: Seconds in which a daemon that works answers whatever a page asks.
PATIENCE = 60.0


class Daemon:
    """The daemon of a home, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._idle: list[Client] = []

    def call(self, verb: Verb[P, R], params: P, *, patience: float = PATIENCE) -> R:
        """Ask once; where a connection was kept too long (the daemon left), what can be asked again is.

        `patience`: seconds until the daemon is given up.

        Raises:
            CmsError: as `Client.call`.
        """
        with self._lock:
            client = self._idle.pop() if self._idle else None
        if client is not None:
            try:
                return self._ask(client, verb, params, patience)
            except DaemonUnavailable:
                if not verb.idempotent:
                    raise
                self.close()
        return self._ask(connect(self.settings), verb, params, patience)

    def close(self) -> None:
        """Hang up whatever is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    def _ask(self, client: Client, verb: Verb[P, R], params: P, patience: float) -> R:
        try:
            return client.call(verb, params, patience=patience)
        finally:
            with self._lock:
                keep = not client.closed and len(self._idle) < _KEPT
                if keep:
                    self._idle.append(client)
            if not keep:
                client.close()
