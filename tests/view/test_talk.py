"""A conversation as it grows: told piece by piece, cut and bounded, nothing twice."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cms.store.rawlog import RawLog
from cms.view.talk import LONGEST, MOST, MOST_TEXT, Talk


def prompt(text: str) -> bytes:
    return msgspec.json.encode({"type": "user", "message": {"content": text}})


def piece(text: str, reply: str = "m") -> tuple[bytes, bytes]:
    begin = {"type": "message_start", "message": {"id": reply}}
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}
    return stream(begin), stream(delta)


def stream(event: object) -> bytes:
    return msgspec.json.encode(
        {"type": "stream_event", "event": event, "uuid": "u", "session_id": "s", "parent_tool_use_id": None}
    )


def texts(talk: Talk, first: int = 0) -> list[str]:
    return [str(one["text"]) for one in msgspec.convert(talk.told(first)["moments"], list[dict[str, object]])]


def test_what_is_new_is_told_from_where_it_grew(tmp_path: Path) -> None:
    talk = Talk(tmp_path / "log")
    assert talk.read() is None
    with RawLog(tmp_path / "log") as log:
        log.append("in", prompt("one"), 1.0)
        assert talk.read() == 0
        assert talk.read() is None
        begin, said = piece("Hel")
        log.extend("out", [begin, said], 2.0)
        assert talk.read() == 1
        log.append("out", piece("lo")[1], 3.0)
        assert talk.read() == 1
        assert texts(talk, 1) == ["Hello"]
        log.extend("out", piece("Again", "n"), 3.5)
        assert talk.read() == 2
        log.append("in", prompt("two"), 4.0)
        assert talk.read() == 3
    assert texts(talk) == ["one", "Hello", "Again", "two"]
    assert talk.told(2)["from"] == 2


def test_a_huge_line_is_cut_and_says_so(tmp_path: Path) -> None:
    talk = Talk(tmp_path / "log")
    with RawLog(tmp_path / "log") as log:
        log.append("in", prompt("x" * (LONGEST + 7)), 1.0)
        talk.read()
        (only,) = msgspec.convert(talk.told(0)["moments"], list[dict[str, object]])
        assert len(str(only["text"])) == LONGEST
        assert only["more"] == 7
        log.extend("out", piece("y" * LONGEST), 2.0)
        log.append("out", piece("z" * 5)[1], 3.0)
        talk.read()
    assert msgspec.convert(talk.told(1)["moments"], list[dict[str, object]])[0]["more"] == 5


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    talk = Talk(tmp_path / "log")
    with RawLog(tmp_path / "log") as log:
        log.extend("in", [prompt(str(number)) for number in range(3 * MOST)], 1.0)
        talk.read()
        kept = texts(talk)
        assert len(kept) <= MOST + MOST // 4
        assert kept[-1] == str(3 * MOST - 1)
        assert kept[0] == str(talk.dropped)
        log.extend("in", [prompt("x" * LONGEST) for _ in range(2 * MOST_TEXT // LONGEST)], 1.0)
        talk.read()
    assert sum(map(len, texts(talk))) <= MOST_TEXT


def test_a_log_that_is_no_log_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x00\xff\n1.0 out 3 {}}\n1.0 out x\n")
    talk = Talk(tmp_path / "log")
    assert talk.read() is None
    assert texts(talk) == []
