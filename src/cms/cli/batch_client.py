"""Who answers the `batch.` verbs: the daemon, or (`foreground`) this command itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cms.config import load_settings
from cms.rpc.batches import BatchResult
from cms.rpc.client import Client, connect
from cms.rpc.verbs import P, R, Verb


class Port(Protocol):
    """Whoever answers the `batch.` verbs: the daemon, or this command itself."""

    def ask(self, verb: Verb[P, R], params: P) -> R:
        """One short request."""

    def run(self, verb: Verb[P, BatchResult], params: P) -> BatchResult:
        """A request that waits for a batch. Ctrl-C ends the waiting, and is answered all the same."""


class DaemonPort:
    """Two connections to the daemon: one waits for the batch, the other asks about it meanwhile."""

    def __init__(self, client: Client, waiting: Client) -> None:
        self._client = client
        self._waiting = waiting

    def ask(self, verb: Verb[P, R], params: P) -> R:
        return self._client.call(verb, params)

    def run(self, verb: Verb[P, BatchResult], params: P) -> BatchResult:
        return self._waiting.call(verb, params)


def with_daemon(work: Callable[[Port], int]) -> int:
    """Do it with the daemon, which is started when there is none."""
    settings = load_settings()
    with connect(settings) as client, connect(settings) as waiting:
        return work(DaemonPort(client, waiting))
