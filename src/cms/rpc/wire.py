"""What both ends do below the words: cut bytes into bounded lines, and carry an exception across.

No I/O, and cheap to import: the fast commands load it.
"""

from __future__ import annotations

from cms.errors import CmsError, ExitCode
from cms.rpc.api import ErrorData


class OverlongLine(ValueError):
    """The peer wrote a line that passes the limit; what follows cannot be understood any more."""


class LineBuffer:
    """Bytes in, lines out. Bounded, and each byte is looked at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._searched = 0  # no line feed before this index

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> None:
        self._data += data

    def next_line(self) -> bytes | None:
        """The next whole line without its end, or None when more bytes are needed.

        Raises:
            OverlongLine: more than the limit without a line feed.
        """
        end = self._data.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._data)
        if max(end, self._searched) > self._limit:
            raise OverlongLine(f"a line of more than {self._limit} bytes")
        if end < 0:
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return line


# --- exceptions -----------------------------------------------------------------------------------


def error_data(error: CmsError) -> ErrorData:
    """An exception as it travels: its text, and those of its own attributes that JSON can carry."""
    return ErrorData(
        code=error.code,
        message=error.message,
        hint=error.hint,
        exit_code=int(error.exit_code),
        fields={
            key: value
            for key, value in vars(error).items()
            if key not in ("message", "hint") and (value is None or isinstance(value, str | int | float))
        },
    )


def error_from(data: ErrorData) -> CmsError:
    """The exception that `error_data` was made from: same class, text and attributes.

    A code that this version does not know (the daemon is a newer one) becomes a `CmsError` with that code
    and exit status, so that programs which look at either still see the truth.
    """
    known = _classes().get(data.code)
    kind = known if known is not None else _unknown_class(data.code, data.exit_code)
    # Not through the constructor: each class has its own, which makes the message that we have already.
    error = kind.__new__(kind)
    CmsError.__init__(error, data.message, hint=data.hint)
    for key, value in data.fields.items():
        setattr(error, key, value)
    return error


def _classes() -> dict[str, type[CmsError]]:
    """Every class of the tree by its code; of those that share one, the nearest to the root."""
    found: dict[str, type[CmsError]] = {}
    level: list[type[CmsError]] = [CmsError]
    while level:
        for kind in level:
            found.setdefault(kind.code, kind)
        level = [child for kind in level for child in kind.__subclasses__()]
    return found


def _unknown_class(code: str, exit_code: int) -> type[CmsError]:
    try:
        status = ExitCode(exit_code)
    except ValueError:
        status = ExitCode.FAILED
    # Not left among CmsError's subclasses: nothing but the instance refers to it.
    return type("UnknownError", (CmsError,), {"code": code, "exit_code": status})
