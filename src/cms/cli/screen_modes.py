"""Which modes of a terminal a program has switched on by what it wrote, so that they can be taken back. Pure.

A program that is killed leaves a terminal as it was at that moment: another screen, no cursor, every movement
of the mouse reported. Nobody can ask a terminal for all that, but who carried the bytes has seen it.
"""

from __future__ import annotations

import re
from typing import Final

#: DEC private modes that a full-screen program switches, and how they are without one.
_USUAL: Final = {
    2026: False,  # synchronized output
    1: False,  # cursor keys
    1000: False,  # the mouse, in its several ways
    1002: False,
    1003: False,
    1005: False,
    1006: False,
    1015: False,
    1016: False,
    1004: False,  # focus reports
    2004: False,  # bracketed paste
    2031: False,  # reports of light and dark
    7: True,  # wrapping at the right edge
    47: False,  # another screen
    1047: False,
    1049: False,
    25: True,  # the cursor
}
_SEQUENCE: Final = re.compile(
    rb"\x1b\[\?(?P<modes>[0-9;]+)(?P<set>[hl])"
    rb"|\x1b\[>(?P<push>[0-9]*)u"
    rb"|\x1b\[<(?P<pop>[0-9]*)u"
    rb"|\x1b\[>4(?:;(?P<keys>[0-9]*))?m"
    rb"|\x1b(?P<pad>[=>])"
)
#: Bytes of a sequence that was cut that can matter.
_LONGEST: Final = 40


class ScreenModes:
    """Of one terminal: `feed` takes all that is written to it."""

    def __init__(self) -> None:
        self._modes = dict(_USUAL)
        self._keyboards: list[bytes] = []  # kitty's: what was pushed and not popped
        self._keys = b""  # xterm's modifyOtherKeys
        self._keypad = False
        self._rest = b""

    def __repr__(self) -> str:
        return f"<ScreenModes {self.undo()!r}>"

    def feed(self, data: bytes) -> None:
        """This was written."""
        data = self._rest + data
        at = 0
        for found in _SEQUENCE.finditer(data):
            at = found.end()
            if found["modes"] is not None:
                for mode in found["modes"].split(b";"):
                    if mode and int(mode) in self._modes:
                        self._modes[int(mode)] = found["set"] == b"h"
            elif found["push"] is not None:
                self._keyboards.append(found["push"])
            elif found["pop"] is not None:
                count = min(int(found["pop"] or 1), len(self._keyboards))
                del self._keyboards[len(self._keyboards) - count :]
            elif found["pad"] is not None:
                self._keypad = found["pad"] == b"="
            else:
                self._keys = found["keys"] or b""
        begun = data.rfind(b"\x1b", max(at, len(data) - _LONGEST))
        self._rest = b"" if begun < 0 else data[begun:]

    def undo(self) -> bytes:
        """What brings the terminal back to what is usual; nothing where it is."""
        parts = [b"\x1b[<%du" % len(self._keyboards)] if self._keyboards else []
        parts += [b"\x1b[>4m"] if self._keys else []
        parts += [b"\x1b>"] if self._keypad else []
        parts += [_switch(mode, usual) for mode, usual in _USUAL.items() if self._modes[mode] != usual]
        return b"".join(parts)

    def redo(self) -> bytes:
        """What brings it back to what the program wants, after `undo`."""
        parts = [_switch(mode, now) for mode, now in reversed(self._modes.items()) if now != _USUAL[mode]]
        parts += [b"\x1b="] if self._keypad else []
        parts += [b"\x1b[>4;%bm" % self._keys] if self._keys else []
        parts += [b"\x1b[>%bu" % flags for flags in self._keyboards]
        return b"".join(parts)


def _switch(mode: int, on: bool) -> bytes:
    return b"\x1b[?%d%b" % (mode, b"h" if on else b"l")
