"""Which files can go with a message, told by their content, and how claude is given them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.errors import UsageError
from cms.protocol.messages import encode_message
from cms.session.attachments import MOST, MOST_FILES, check_all, describe, part_of, told, with_names
from cms.session.model import Attachment, Interaction

ID = "0" * 32
KINDS = {
    b"\x89PNG\r\n\x1a\n....": ("image", "image/png"),
    b"\xff\xd8\xff\xe0....": ("image", "image/jpeg"),
    b"GIF89a....": ("image", "image/gif"),
    b"RIFF\n\x00\x00\x00WEBPVP8 ": ("image", "image/webp"),
    b"%PDF-1.7\n": ("pdf", "application/pdf"),
    b"<svg xmlns='...'/>": ("text", "text/plain"),
    "für später\n\tund \x1b[1mbunt\r\n\f".encode(): ("text", "text/plain"),
}


@pytest.mark.parametrize(("data", "kind"), KINDS.items(), ids=[kind for _, kind in KINDS.values()])
def test_its_content_says_what_it_is_and_not_its_name(data: bytes, kind: tuple[str, str]) -> None:
    for name in ("a.png", "b.txt", "c"):
        found = describe(data, name, ID)
        assert (found.kind, found.media_type, found.size) == (*kind, len(data))


@pytest.mark.parametrize(
    "data", [b"", b"\x00\x01", b"\xff\xfeh\x00i\x00", b"RIFF\n\x00\x00\x00WAVE\xff", b"BM\xff"]
)
def test_what_claude_is_not_given_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="this"):
        describe(data, "this", ID)


def test_each_kind_has_its_bound() -> None:
    for start, (kind, _) in KINDS.items():
        most = MOST[kind]  # type: ignore[index] # a word of that type
        assert describe(start.ljust(most, b" "), "big", ID).size == most
        with pytest.raises(UsageError, match=r"may have \d+ MiB"):
            describe(start.ljust(most + 1, b" "), "big", ID)


def attachment(**changes: object) -> Attachment:
    return msgspec.structs.replace(describe(b"GIF89a", "a.gif", ID), **changes)


@pytest.mark.parametrize(
    "given",
    [
        [attachment()] * (MOST_FILES + 1),
        [attachment(size=10_000_000)] * 2,
        [attachment(id="../../etc/passwd")],
        [attachment(id=ID + "\n")],
    ],
)
def test_what_a_message_does_not_take(given: list[Attachment]) -> None:
    with pytest.raises(UsageError):
        check_all(given)


def test_how_claude_is_given_them() -> None:
    gif, pdf, text = b"GIF89a..", b"%PDF-..", b"a < b"
    found = [describe(gif, "a.gif", ID), describe(pdf, "b.pdf", ID), describe(text, 'c"<&.txt', ID)]
    parts = [part_of(one, data) for one, data in zip(found, (gif, pdf, text), strict=True)]
    line = msgspec.json.decode(encode_message("u", "Look.", parts))
    image = {"type": "base64", "media_type": "image/gif", "data": "R0lGODlhLi4="}
    document = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0uLg=="}
    assert line["message"]["content"] == [
        {"type": "image", "source": image},
        {"type": "document", "source": document, "title": "b.pdf"},
        {"type": "text", "text": '<file name="c&quot;&lt;&amp;.txt">\na < b\n</file>'},
        {"type": "text", "text": "Look."},
    ]


def test_what_people_are_shown() -> None:
    assert told(attachment(size=260)) == "[image a.gif, 260 B]"
    assert told(attachment(kind="pdf", name="b.pdf", size=3_000_000)) == "[PDF b.pdf, 2.9 MiB]"
    one = Interaction("i", "s", 1, "send", "Look.", 0.0, attachments=(attachment(size=2048),))
    assert with_names(one) == "[image a.gif, 2 KiB]\nLook."


@given(st.binary(max_size=200))
def test_nothing_is_too_odd(data: bytes) -> None:
    try:
        found = describe(data, "odd", ID)
    except UsageError:
        return
    encode_message("u", "Look.", [part_of(found, data)])
