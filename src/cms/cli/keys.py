"""Single keys from a terminal: unseen, one by one, and the terminal as it was afterwards."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import tty
from codecs import getincrementaldecoder
from types import FrameType, TracebackType
from typing import Final

#: What terminals send for the keys that are no letter, by the name that is used here.
_NAMED: Final = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
    "\x1b[H": "home",
    "\x1bOH": "home",
    "\x1b[1~": "home",
    "\x1b[F": "end",
    "\x1bOF": "end",
    "\x1b[4~": "end",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x15": "clear",
    "\x03": "interrupt",
    "\x04": "interrupt",
    "\x1b": "escape",
}
_SEQUENCE: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)", re.DOTALL)
_SPLIT: Final = 0.05  # seconds in which the rest of a sequence comes


def take_key(typed: str) -> tuple[str, str]:
    """The first key of what was typed, and the rest. A key is a letter or a name; "": nobody knows it."""
    found = _SEQUENCE.match(typed)
    if found is not None:
        return _NAMED.get(found[0], ""), typed[found.end() :]
    first, rest = typed[:1], typed[1:]
    return _NAMED.get(first, first if first.isprintable() else ""), rest


def has_keyboard() -> bool:
    """Whether somebody sits at stdin and sees stdout, and this command is the one that they type to."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return True  # it is not the terminal that controls us: nobody puts us into its background


class Keyboard:
    """A context manager that has the terminal on stdin until it ends. Ctrl-C stays a signal."""

    def __init__(self) -> None:
        self._fd = sys.stdin.fileno()
        self._typed = ""
        self._decoder = getincrementaldecoder("utf-8")("replace")  # a letter may come in two reads
        self._cooked = termios.tcgetattr(self._fd)
        self.gone = False  # nobody types any more

    def __enter__(self) -> Keyboard:
        self.take()
        # Whoever puts us into the background and back has had the terminal meanwhile.
        self._before = {
            signal.SIGCONT: signal.signal(signal.SIGCONT, self._on_continue),
            signal.SIGTERM: signal.signal(signal.SIGTERM, _end),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.give_back()

    def take(self) -> None:
        """Keys come one by one, and are not shown. What was typed before is not lost."""
        tty.setcbreak(self._fd, termios.TCSADRAIN)

    def give_back(self) -> None:
        """The terminal as it was."""
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._cooked)

    def forget(self) -> None:
        """What was typed by now."""
        self._typed = ""
        termios.tcflush(self._fd, termios.TCIFLUSH)

    def _on_continue(self, _signum: int, _frame: FrameType | None) -> None:
        if has_keyboard():  # else it would be stopped again
            self.take()

    def wait(self, patience: float, wake: int = -1) -> str:
        """The next key, or "" when none came in time, an unknown one came, or `wake` became readable.

        Args:
            patience: in seconds.
            wake: a descriptor, whose bytes are read away.
        """
        if not self._typed:
            others = [] if wake < 0 else [wake]
            ready = select.select([self._fd, *others], [], [], max(0.0, patience))[0]
            if wake in ready:
                os.read(wake, 4096)
            if self._fd not in ready:
                return ""
            self._typed = self._read()
            if self._typed == "\x1b" and select.select([self._fd], [], [], _SPLIT)[0]:
                self._typed += self._read()
        key, self._typed = take_key(self._typed)
        return key

    def _read(self) -> str:
        data = os.read(self._fd, 4096)
        self.gone = self.gone or not data
        return self._decoder.decode(data)


def _end(signum: int, _frame: FrameType | None) -> None:
    """Told to end: on the way out the terminal is given back."""
    sys.exit(128 + signum)
