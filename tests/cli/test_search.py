"""What a search prints."""

from __future__ import annotations

from datetime import UTC

import msgspec

from cms.cli import render
from cms.cli.search import lines, marked
from cms.cli.terminal import Style
from cms.session.search import Found, Hit

PIPE = Style(zone=UTC)
TERMINAL = Style(icons="unicode", colour=False, width=80, tty=True, zone=UTC)
COLOUR = msgspec.structs.replace(TERMINAL, colour=True)


def test_a_hit_is_marked_and_nothing_of_an_agents_reaches_the_terminal() -> None:
    text = "said \x1b]0;evil\x07 one\n two  hit, and more"
    start = text.index("hit")
    hit = Hit("fix-auth", "id", 3, "answer", 1_760_000_000.0, text, ((start, start + 3),))
    assert marked(hit, PIPE) == ["said \x1b]0;evil\x07 one two [hit], and more"]
    assert marked(hit, COLOUR) == ["said ?]0;evil? one two \x1b[1;33mhit\x1b[0m, and more"]
    narrow = msgspec.structs.replace(TERMINAL, width=18)
    assert marked(hit, narrow) == ["said ?]0;evil?", "one two [hit],", "and more"]
    long = msgspec.structs.replace(hit, snippet="y" * 300, marks=((0, 300),))
    assert [render.display_width(line) for line in marked(long, narrow)] == [14]
    assert lines(Found((hit,), more=True, left=2, since=1_760_000_000.0), COLOUR)[0] == (
        "\x1b[1mfix-auth\x1b[0m #3 answer, 2025-10-09 08:53"
    )
    assert lines(Found((hit,), more=True, left=2, since=1_760_000_000.0), PIPE)[2:] == [
        "",
        "there is more: --limit N",
        "cms history fix-auth --full shows it whole",
        "The search index is still being made. It goes back to 2025-10-09 08:53; 2 messages to go.",
        "Search again in a moment.",
    ]
    assert lines(Found(()), PIPE) == ["nothing found"]
