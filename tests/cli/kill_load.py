"""Clients that keep a daemon busy while it is killed again and again."""

from __future__ import annotations

import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from cli.forge import Forge
from cms.config import Settings
from cms.errors import CmsError, DaemonUnavailable
from cms.rpc.client import Client, connect


class Load:
    """What the clients of a daemon and its killer have in common.

    Attributes:
        gate: open while there is a daemon to speak to.
        results: answers that clients were given.
    """

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.results = 0
        self._news = threading.Condition()

    def note_result(self) -> None:
        """A client was given one more."""
        with self._news:
            self.results += 1
            self._news.notify()

    def wait(self, more: int) -> None:
        """Until they were given so many more."""
        with self._news:
            wanted = self.results + more
            assert self._news.wait_for(lambda: self.results >= wanted, timeout=30), "no results"


class Worker(ABC):
    """One client that acts for as long as the gate is open."""

    def __init__(self, number: int, settings: Settings, load: Load, seed: int) -> None:
        self.over = False
        self._number = number
        self._settings = settings
        self._load = load
        self._dice = random.Random(seed * 1000 + number)  # noqa: S311 (repeatable, not secret)
        self._count = 0

    def run(self) -> None:
        while not self.over:
            if not self._load.gate.wait(0.1):
                continue
            try:
                with connect(self._settings, start=False) as client:
                    while self._load.gate.is_set() and not self.over:
                        self._count += 1
                        try:
                            self._act(client)
                        except DaemonUnavailable:
                            raise
                        except CmsError:
                            continue  # a name whose spawn was killed before it was stored, and the like
            except DaemonUnavailable:
                time.sleep(0.002)  # it has just been killed

    @abstractmethod
    def _act(self, client: Client) -> None:
        """Ask something of the daemon, and note what it answers."""


def kill_again_and_again(
    forge: Forge,
    workers: Sequence[Worker],
    load: Load,
    dice: random.Random,
    *,
    kills: int,
    most: int,
    longest: float,
    log: Path,
) -> float:
    """Start the daemon and kill it at any instant, so often; at the end it is started once more.

    Args:
        most: results between two kills, at most, and then some time.
        longest: that, in seconds.
        log: of the daemon, for the message where it does not start.

    Returns:
        After how many milliseconds all that it had started was gone, at most.
    """
    threads = [threading.Thread(target=worker.run) for worker in workers]
    slowest = 0.0
    try:
        for thread in threads:
            thread.start()
        for _ in range(kills):
            assert forge("start").startswith("started "), log.read_text()[-2000:]
            load.gate.set()
            load.wait(dice.randrange(most))
            time.sleep(dice.uniform(0.0, longest))  # any instant
            load.gate.clear()
            word, _, took = forge("kill").partition(" ")
            assert word == "gone", f"orphans: {took}"
            slowest = max(slowest, float(took))
    finally:
        for worker in workers:
            worker.over = True
        load.gate.set()
        for thread in threads:
            thread.join()
    assert forge("start").startswith("started ")
    return slowest
