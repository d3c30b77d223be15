"""Who answers the `batch.` methods: the daemon, or (`batch_foreground`) this command itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from cms.config import load_settings
from cms.rpc.api_batch import BatchReply
from cms.rpc.client import Client, connect
from cms.session.model import Record

R = TypeVar("R", bound=Record)


class Port(Protocol):
    """Whoever answers the `batch.` methods: the daemon, or this command itself."""

    def ask(self, method: str, params: Record, want: type[R]) -> R:
        """One short request."""

    def run(self, method: str, params: Record) -> BatchReply:
        """A request that waits for a batch. Ctrl-C ends the waiting, and is answered all the same."""


class DaemonPort:
    """Two connections to the daemon: one waits for the batch, the other asks about it meanwhile."""

    def __init__(self, client: Client, waiting: Client) -> None:
        self._client = client
        self._waiting = waiting

    def ask(self, method: str, params: Record, want: type[R]) -> R:
        return self._client.call(method, params, want)

    def run(self, method: str, params: Record) -> BatchReply:
        return self._waiting.call(method, params, BatchReply)


def with_daemon(work: Callable[[Port], int]) -> int:
    """Do it with the daemon, which is started when there is none."""
    settings = load_settings()
    with connect(settings) as client, connect(settings) as waiting:
        return work(DaemonPort(client, waiting))
