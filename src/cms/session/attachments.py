"""Files that go with a message: which kinds there are, and how claude is given them. Pure.

An image and a PDF go as blocks of their own, a text as text with its name. What something is its first bytes
say, never its name: the API refuses a message with an image that is none, and the conversation with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Literal

from cms.errors import UsageError
from cms.protocol.messages import Base64Source, DocumentPart, ImagePart, Part, TextPart
from cms.session.model import Attachment, Interaction
from cms.units import size

Kind = Literal["image", "pdf", "text"]

_MIB: Final = 1024 * 1024
#: Bytes of one file. An image and a request (32 MiB with all that is in it) are bounded by the API so.
MOST: Final[dict[Kind, int]] = {"image": 5 * _MIB, "pdf": 16 * _MIB, "text": _MIB}
#: Bytes of all files of one message, and how many.
MOST_IN_ALL: Final = 16 * _MIB
MOST_FILES: Final = 20
#: No file that is longer can be attached, whatever it is.
MOST_OF_ANY: Final = max(MOST.values())

_SIGNATURES: Final[tuple[tuple[re.Pattern[bytes], Kind, str], ...]] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image", "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image", "image/jpeg"),
    (re.compile(rb"GIF8[79]a"), "image", "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image", "image/webp"),
    (re.compile(rb"%PDF-"), "pdf", "application/pdf"),
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_ID: Final = re.compile(r"[0-9a-f]{32}\Z")


def describe(data: bytes, name: str, id_: str) -> Attachment:
    """A file that is to go with a message.

    Raises:
        UsageError: it is of no kind that claude is given, or too big.
    """
    kind, media_type = _kind_of(data, name)
    if len(data) > MOST[kind]:
        what = {"image": "an image", "pdf": "a PDF", "text": "a text"}[kind]
        hint = "name its path in the prompt: claude can read it piece by piece" if kind == "text" else ""
        raise UsageError(f"{name} has {size(len(data))}: {what} may have {size(MOST[kind])}", hint=hint)
    return Attachment(id_, name, kind, media_type, len(data), hashlib.sha256(data).hexdigest())


def _kind_of(data: bytes, name: str) -> tuple[Kind, str]:
    if not data:
        raise UsageError(f"{name} is empty")
    for signature, kind, media_type in _SIGNATURES:
        if signature.match(data):
            return kind, media_type
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if _CONTROL.search(text):
        raise UsageError(
            f"{name} cannot be attached: it is not an image (PNG, JPEG, GIF, WebP), a PDF or UTF-8 text"
        )
    return "text", "text/plain"


def check_all(attachments: Iterable[Attachment]) -> None:
    """All of one message.

    Raises:
        UsageError: they are too many, too big together, or what says so is no id of ours.
    """
    found = tuple(attachments)
    if len(found) > MOST_FILES:
        raise UsageError(f"{len(found)} files are attached: a message takes {MOST_FILES}")
    if (total := sum(one.size for one in found)) > MOST_IN_ALL:
        raise UsageError(f"the attached files have {size(total)}: a message takes {size(MOST_IN_ALL)}")
    for one in found:
        if not _ID.match(one.id):
            raise UsageError(f"{one.id[:40]!r} is not an attachment")


def told(attachment: Attachment) -> str:
    """One in a few words, for people."""
    kind = "PDF" if attachment.kind == "pdf" else attachment.kind
    return f"[{kind} {attachment.name}, {size(attachment.size)}]"


def with_names(interaction: Interaction) -> str:
    """A message for people: what goes with it, then what it says."""
    return "\n".join((*map(told, interaction.attachments), interaction.prompt))


def part_of(attachment: Attachment, data: bytes) -> Part:
    """How claude is given one."""
    if attachment.kind == "image":
        return ImagePart(Base64Source(attachment.media_type, data))
    if attachment.kind == "pdf":
        return DocumentPart(Base64Source(attachment.media_type, data), attachment.name)
    name = attachment.name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return TextPart(f'<file name="{name}">\n{data.decode(errors="replace")}\n</file>')
