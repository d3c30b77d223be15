"""Names of files as they are (bytes), as people read them, and as git writes them."""

from __future__ import annotations

import base64
from typing import Final

_ESCAPES: Final = {
    7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 34: '\\"', 92: "\\\\",
}  # fmt: skip


def as_text(path: bytes) -> str:
    r"""For people and for JSON: what is no UTF-8 is told as `\xff`. `as_base64` can be turned back."""
    return path.decode("utf-8", "backslashreplace")


def as_base64(path: bytes) -> str | None:
    """The name without loss, where `as_text` has lost something; else None."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return base64.b64encode(path).decode()
    return None


def quoted(path: bytes) -> bytes:
    """As git quotes a name (`core.quotePath`): in double quotes with octal escapes, where it must be."""
    if all(32 <= byte < 127 and byte not in (34, 92) for byte in path):
        return path
    text = "".join(_ESCAPES.get(b) or (chr(b) if 32 <= b < 127 else f"\\{b:03o}") for b in path)
    return f'"{text}"'.encode()
