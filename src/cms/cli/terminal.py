"""What a stream can show: icons, colour, width. Decided once per stream, from facts, and then a value.

Rules: colour only on a terminal; `NO_COLOR` (any value) and `TERM=dumb` take it away. Icons everywhere, as
the original has them; under the C locale, or where the stream's encoding cannot carry them, a terminal gets
ASCII ones and a pipe none. In a pipe nothing is cut to a width, because a program may be reading.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import tzinfo
from typing import Final, Literal, TextIO

import msgspec

#: Takes away the line that the cursor stands on.
ERASE = "\r\x1b[2K"

Icons = Literal["unicode", "ascii", "none"]

#: Every character outside of ASCII that this package writes by itself.
PROBE = "○◐●⟳⏸□⊘✗✓…█▏▎▍▌▋▊▉▁▂▃▄▅▆▇"


#: What moves the cursor, ends the line, or turns the direction of what follows: a terminal would show
#: something else than what is there.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def neutral(text: str) -> str:
    """An agent's text as it may reach a terminal: no control character but newline and tab."""
    return text if text.isprintable() else _UNSAFE.sub("?", text.replace("\r\n", "\n"))


def escape(text: str) -> str:
    """With each character that a terminal would not show as itself written as in a string of Python's.

    Nothing is hidden then, and nothing commands the terminal: for what a person is to say yes to.
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text
    )


def encodable(text: str, stream: TextIO, environ: Mapping[str, str] = os.environ) -> str:
    """The text with what this stream cannot show replaced."""
    encoding = stream.encoding or "utf-8"
    if c_locale(environ) and stream.isatty():
        encoding = "ascii"  # Python writes UTF-8 all the same (PEP 538), which that terminal cannot show
    return text.encode(encoding, "replace").decode(encoding)


class Style(msgspec.Struct, frozen=True):
    """How to render for one stream.

    Attributes:
        icons: which set, or none at all.
        colour: SGR colour sequences may be written.
        width: columns, or None for "do not cut" (a pipe).
        tty: a terminal reads this, so control characters in an agent's text must not reach it.
        zone: the time zone of printed times; None is local time.
    """

    icons: Icons = "none"
    colour: bool = False
    width: int | None = None
    tty: bool = False
    zone: tzinfo | None = None


def can_encode(encoding: str | None, text: str = PROBE) -> bool:
    """Whether a stream of that encoding can carry the text."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def c_locale(environ: Mapping[str, str]) -> bool:
    """Whether the person asked for the C locale.

    Not read from `locale`: Python coerces the C locale to UTF-8 (PEP 538, which sets LC_CTYPE in our own
    environment, and PEP 540), so the stream's encoding no longer tells what the terminal was said to be.
    """
    everything = environ.get("LC_ALL", "")
    if everything:
        return everything in ("C", "POSIX")
    ctype = environ.get("LC_CTYPE", "")
    if ctype in ("C", "POSIX"):
        return True
    coerced = ctype.upper().replace("-", "") in ("", "C.UTF8", "UTF8")
    return coerced and environ.get("LANG", "") in ("C", "POSIX")


def columns(stream: TextIO, environ: Mapping[str, str]) -> int:
    """The terminal's width: `COLUMNS`, else what the terminal says, else 80."""
    text = environ.get("COLUMNS", "")
    if text.isdigit() and int(text) > 0:
        return int(text)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def style_of(stream: TextIO, environ: Mapping[str, str]) -> Style:
    """How to render for this stream."""
    ascii_only = c_locale(environ) or not can_encode(stream.encoding)
    if not stream.isatty():
        return Style(icons="none" if ascii_only else "unicode")
    return Style(
        icons="ascii" if ascii_only else "unicode",
        colour="NO_COLOR" not in environ and environ.get("TERM", "") != "dumb",
        width=columns(stream, environ),
        tty=True,
    )


def paint(text: str, colour: str, style: Style) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m" if style.colour and colour else text


def can_rewrite(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a line on this stream can be erased and written again (for live progress)."""
    return stream.isatty() and environ.get("TERM", "") not in ("", "dumb")


def rewrite(stream: TextIO, line: str = "") -> None:
    """Put a status line in the place of the one that stands there; without one, only take that away."""
    try:
        stream.write(ERASE + encodable(line, stream))
        stream.flush()
    except OSError:
        pass  # the terminal went away; the work does not depend on it
