"""A person's terminal and a pseudo-terminal, with all bytes carried between them.

The program at the other end never has the person's own terminal: it could put keystrokes into it that the
shell takes afterwards for the person's (TIOCSTI), and what it leaves behind could not be mended. Here it has
one that ends with this process, whose size follows the real one's, and whatever ends the program, the real
one is given back as it was.

Ctrl-C and all other keys are the program's. Ctrl-Z alone is ours: the program, which leads a session of its
own, could stop, but no shell would be told. So this process stops, with its job, and the program goes on.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final

from cms.cli.screen_modes import ScreenModes

_READ: Final = 65536
#: Bytes that the program may be behind with its input before no more is taken from the person.
_AHEAD: Final = 65536
#: Ctrl-Z, as a byte and as terminals with kitty's keyboard protocol write it.
_SUSPEND: Final = (b"\x1a", b"\x1b[122;5u", b"\x1b[122;5:1u")
_LEAVE: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Relay:
    """Between the terminal at those descriptors and a new pseudo-terminal. Use it with `with`.

    Args:
        leave: called when the person's terminal is gone, or a signal asks this process to end.
        there: descriptors of the person's terminal, to read and to write.

    Attributes:
        device: the path of the pseudo-terminal, for the program.
        left_by: the signal that asked for the end, or 0.
    """

    def __init__(self, leave: Callable[[], None], there: tuple[int, int] = (0, 1)) -> None:
        self._leave = leave
        self._in, self._out = there
        self._master, self._slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.device = os.ttyname(self._slave)
        self.left_by = 0
        self._modes = ScreenModes()
        self._usual = termios.tcgetattr(self._in)
        self._waiting = b""  # for the program
        self._gone = False
        self._raw = False
        self._wakeup, self._wake = os.pipe()
        for fd in (self._wakeup, self._wake):
            os.set_blocking(fd, False)

    def __enter__(self) -> Relay:
        self._take_size()
        return self

    def __exit__(self, *_: object) -> None:
        for fd in (self._master, self._slave, self._wakeup, self._wake):
            os.close(fd)

    def run(self, up: int, over: int) -> None:
        """Wait until `up` can be read, then carry bytes until `over` can be, and what is left by then.

        Only in the main thread: signals are heard meanwhile.
        """
        with self._signals():
            while True:
                ready = select.select([up, over, self._wakeup], [], [])[0]
                self._drain_wakeup()
                if over in ready:
                    return
                if up in ready:
                    break
            try:
                self._enter()
                while over not in self._step(over):
                    pass
                self._carry_out()
            finally:
                self._give_back()

    # --- carrying ---------------------------------------------------------------------------------

    def _step(self, over: int) -> list[int]:
        reading = [self._master, over, self._wakeup]
        if not self._gone and len(self._waiting) < _AHEAD:
            reading.append(self._in)
        ready, writable, _ = select.select(reading, [self._master] if self._waiting else [], [])
        if self._wakeup in ready:
            self._drain_wakeup()
        if self._master in ready:
            self._carry_out(_READ)
        if self._in in ready:
            self._take_in()
        if writable:
            with suppress(BlockingIOError):
                self._waiting = self._waiting[os.write(self._master, self._waiting) :]
        return ready

    def _take_in(self) -> None:
        try:
            data = os.read(self._in, _READ)
        except OSError:
            data = b""
        if data in _SUSPEND:
            self._suspend()
        elif data:
            self._waiting += data
        elif not self._gone:
            self._gone = True
            self._leave()

    def _carry_out(self, most: int = 1 << 24) -> None:
        """What the program has written by now, up to so much."""
        while most > 0:
            try:
                data = os.read(self._master, min(most, _READ))
            except OSError:  # nothing more for now, or nobody writes any more
                return
            most -= len(data)
            self._modes.feed(data)
            self._show(data)

    def _show(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            if not self._gone:
                self._gone = True
                self._leave()

    # --- the person's terminal --------------------------------------------------------------------

    def _enter(self) -> None:
        with suppress(termios.error):  # it is gone: the next read says so
            tty.setraw(self._in, termios.TCSADRAIN)
            self._raw = True
        self._take_size()

    def _give_back(self) -> None:
        if not self._raw:
            return
        self._raw = False
        left = self._modes.undo()
        # What left something behind did not say good-bye either: the cursor is anywhere.
        self._show(left + (b"\x1b[0m\x1b[9999;1H\r\n" if left else b"\x1b[0m\r"))
        with suppress(termios.error):
            termios.tcsetattr(self._in, termios.TCSADRAIN, self._usual)

    def _suspend(self) -> None:
        """Stop this job. The program goes on, until what it writes fills the pseudo-terminal."""
        self._give_back()
        before = {
            number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTSTP, signal.SIGCONT)
        }
        os.kill(0, signal.SIGTSTP)  # to the whole job (0: our process group), as the terminal would have
        for number, handler in before.items():
            signal.signal(number, handler)
        self._show(self._modes.redo())
        self._come_back()

    def _come_back(self) -> None:
        self._enter()
        self._take_size(changed=True)

    def _take_size(self, *, changed: bool = False) -> None:
        """Give the pseudo-terminal the size of the real one. `changed`: also where it has it already.

        Then the program draws everything anew.
        """
        with suppress(OSError, termios.error):
            lines, columns = termios.tcgetwinsize(self._in)
            if changed:
                termios.tcsetwinsize(self._slave, (lines, max(columns - 1, 1)))
            termios.tcsetwinsize(self._slave, (lines, columns))

    # --- signals ----------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        heard = (*_LEAVE, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
        before = {number: signal.signal(number, self._hear) for number in heard}
        waker = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(waker)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        """Only the wake-up counts: what a signal asks for is done where nothing is half done."""

    def _drain_wakeup(self) -> None:
        with suppress(BlockingIOError):
            for number in dict.fromkeys(os.read(self._wakeup, 4096)):
                self._obey(number)

    def _obey(self, number: int) -> None:
        if number in _LEAVE:
            self.left_by = number
            self._leave()
        elif number == signal.SIGWINCH:
            self._take_size()
        elif number == signal.SIGTSTP and self._raw:
            self._suspend()
        elif number == signal.SIGCONT and self._raw:
            self._come_back()  # stopped by a SIGSTOP, and the shell has set the terminal meanwhile
