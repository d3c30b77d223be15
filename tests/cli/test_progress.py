"""An answer as it comes: what is written of it, and whether it stands there whole."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.cli.progress import AnswerText, LiveAnswer
from cms.cli.terminal import Style
from cms.rpc.wire import ProgressNote
from cms.session.model import Progress

TEXT = st.text("ab\n\x1b ", max_size=6)


@given(st.lists(st.one_of(TEXT, st.just(None)), max_size=12))
def test_paragraphs_are_a_line_apart_however_the_text_comes(parts: list[str | None]) -> None:
    """A piece of text, or (None) a line that is none of it."""
    text, out = AnswerText(), ""
    for part in parts:
        if part is None:
            out += text.part() + text.add_line("> did")
        elif part:
            out += text.add(part)
        assert text.at_start == (not out or out.endswith("\n"))
    out += text.close()
    assert "\x1b" not in out
    assert out.split("> did")[0][:1] != "\n"
    said = " ".join(part for part in parts if part).replace("\x1b", "?").split()
    assert "".join(out.replace("> did\n", "").split()) == "".join(said)
    for above, line in pairwise(out.split("\n")):
        assert (above == "> did") <= (line in ("", "> did")), out


def test_only_what_stands_there_last_and_whole_counts_as_shown() -> None:
    text = AnswerText()
    for part in ("First.", "", "It is", " done.\n"):
        text.add(part) if part else text.part()
    assert text.shows("It is done.")
    assert text.shows("First.\n\nIt is done.")
    assert not text.shows("First.")
    assert not text.shows("It is all done.")
    assert not text.shows("")


class Gone(io.StringIO):
    """A terminal that went away."""

    def write(self, _text: str) -> int:
        raise OSError("gone")


@pytest.mark.parametrize(("out", "shown"), [(io.StringIO(), True), (Gone(), False), (None, False)])
def test_a_terminal_that_is_gone_or_none_shows_nothing_and_stops_nothing(
    out: io.StringIO | None, shown: bool
) -> None:
    with LiveAnswer("one", status=None, out=out, style=Style()) as live:
        live.expect("m")
        live.note(ProgressNote(1, Progress("one", "text", "before", interaction="other")))
        live.note(ProgressNote(1, Progress("one", "text", "Hello.", interaction="m")))
    assert live.shows("Hello.") is shown
    if shown and out is not None:
        assert out.getvalue() == "Hello.\n\n"
