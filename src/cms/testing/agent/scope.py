"""What one interrupt ends: the waits, the questions and the processes of a turn, or of a background task."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from .wire import Line, Question, Wire


class Interrupted(Exception):
    """The scope was cancelled; what was under way is to be left as it is."""


class Scope:
    """Everything in it is left with `Interrupted` once `cancel` was called, from any thread."""

    def __init__(self) -> None:
        self._cancelled = threading.Event()
        self._questions: list[Question] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """End the waits and kill the processes, each with its group."""
        self._cancelled.set()
        for question in list(self._questions):
            question.settle(None)
        for process in list(self._processes):
            kill_group(process)

    def check(self) -> None:
        if self.cancelled:
            raise Interrupted

    def sleep(self, seconds: float) -> None:
        # A wait of more than some 300 years overflows; it is told from "for ever" by nobody.
        if self._cancelled.wait(min(seconds, 1e9)):
            raise Interrupted

    def ask(self, wire: Wire, request: Line, timeout: float | None = None) -> Line | None:
        """The host's answer to a question; None if it did not come in time, or cannot come any more."""
        self.check()
        question = wire.ask(request)
        self._questions.append(question)
        if self.cancelled:  # between the check and the list, where `cancel` does not see the question
            question.settle(None)
        try:
            in_time = question.wait(timeout)
        finally:
            self._questions.remove(question)
        self.check()
        if not in_time:
            wire.withdraw(question)
        return question.response

    def run(self, argv: Sequence[str], cwd: Path, timeout: float | None = None) -> tuple[int, bytes]:
        """Run a program in a session of its own, as the real one does; gives its status and all it wrote.

        Raises:
            Interrupted: the scope was cancelled while it ran.
            subprocess.TimeoutExpired: it took too long; it is dead.
        """
        process = start(argv, cwd)
        self._processes.append(process)
        if self.cancelled:
            kill_group(process)
        try:
            written, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            process.communicate()
            raise
        finally:
            self._processes.remove(process)
        self.check()
        return process.returncode, written


def start(argv: Sequence[str], cwd: Path) -> subprocess.Popen[bytes]:
    """A program as the leader of its own session, its stdout and stderr in one pipe."""
    return subprocess.Popen(
        argv,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
