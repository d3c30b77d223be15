"""What is attached reaches the model: through the real claude, and again when the conversation goes on."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path

import pytest

from cms.config import find_claude, load_settings
from cms.store.attachments import keep
from cms.testing.api import serve_api
from cms.testing.script import prompt, say
from fleet.kit import make_settings, start, supervising

pytestmark = pytest.mark.real


def png() -> bytes:
    """A small picture that is one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((row * 4, 0, 128)) * 64 for row in range(64))
    head = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj"
    b" 3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj trailer<</Root 1 0 R>>\n%%EOF\n"
)


async def test_the_model_sees_what_is_attached(tmp_path: Path) -> None:
    image = png()
    async with serve_api() as api:
        settings = make_settings(tmp_path, claude=find_claude(load_settings()), environ=api.env(), grace=5.0)
        async with supervising(settings, within=90) as supervisor:
            await start(supervisor)
            files = [("a.png", image), ("b.pdf", PDF), ("c.txt", b"remember the milk")]
            attachments = tuple(keep(settings.attachments, data, name) for name, data in files)
            sent = await supervisor.submit(
                "one", prompt("Look.", say("Seen.")), type="send", attachments=attachments
            )
            assert (await supervisor.wait(sent)).text == "Seen."
            await supervisor.stop("one")
            sent = await supervisor.submit("one", prompt("Again.", say("Still seen.")), type="send")
            assert (await supervisor.wait(sent)).text == "Still seen."
        asked = [request for request in api.requests if not request.side]
    for request in (asked[0], asked[-1]):
        found = {kind: base64.b64decode(data) for kind, data in request.files}
        assert found == {"image/png": image, "application/pdf": PDF}
        assert any('<file name="c.txt">\nremember the milk' in text for text in request.texts)
