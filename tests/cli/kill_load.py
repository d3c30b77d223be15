"""Clients that keep a daemon busy while it is killed again and again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from cli.forge import Forge
from cms.config import Settings
from cms.errors import CmsError, DaemonUnavailable
from cms.rpc.client import Client, connect


class Worker:
    """One client that acts for as long as the gate is open.

    Attributes:
        results: answers that it was given.
    """

    def __init__(self, number: int, settings: Settings, gate: threading.Event, seed: int) -> None:
        self.over = False
        self.results = 0
        self._number = number
        self._settings = settings
        self._gate = gate
        self._dice = random.Random(seed * 1000 + number)  # noqa: S311 (repeatable, not secret)
        self._count = 0

    def run(self) -> None:
        while not self.over:
            if not self._gate.wait(0.1):
                continue
            try:
                with connect(self._settings, start=False) as client:
                    while self._gate.is_set() and not self.over:
                        self._count += 1
                        try:
                            self._act(client)
                        except DaemonUnavailable:
                            raise
                        except CmsError:
                            continue
            except DaemonUnavailable:
                time.sleep(0.002)  # it has just been killed

    def _act(self, client: Client) -> None:
        raise NotImplementedError


def wait_results(workers: Sequence[Worker], more: int) -> None:
    """Until they were given so many more results."""
    wanted, end = sum(worker.results for worker in workers) + more, time.monotonic() + 30
    while sum(worker.results for worker in workers) < wanted:
        assert time.monotonic() < end, "no results"
        time.sleep(0.005)


def kill_again_and_again(
    forge: Forge,
    workers: Sequence[Worker],
    gate: threading.Event,
    dice: random.Random,
    *,
    kills: int,
    most: int,
    longest: float,
) -> None:
    """Start the daemon and kill it at any instant, so often; at the end it is started once more.

    Args:
        most: results between two kills, at most, and then some time.
        longest: that, in seconds.
    """
    threads = [threading.Thread(target=worker.run) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in range(kills):
            started = forge("start")
            assert started.startswith("started "), started
            gate.set()
            wait_results(workers, dice.randrange(most))
            time.sleep(dice.uniform(0.0, longest))
            gate.clear()
            assert forge("kill").startswith("gone ")
    finally:
        for worker in workers:
            worker.over = True
        gate.set()
        for thread in threads:
            thread.join()
    assert forge("start").startswith("started ")
