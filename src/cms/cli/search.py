"""`cms search`: what was asked, answered and called, by its words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag
from cms.cli.terminal import Style
from cms.errors import ExitCode, UsageError
from cms.json_output import json_object
from cms.rpc.search import HITS, SEARCH_FIND, SearchParams
from cms.session.search import Found, Hit
from cms.units import clock, plural

_INDENT = 4  # columns before a snippet
_HIT = "session session_id message=number kind at snippet marks"


def search(
    *words: Annotated[str, flags.word("The words; quote a phrase: '\"no such file\"'.", "WORD")],
    session: Annotated[str, flags.text_flag("--session", "Search only this session.", "NAME")] = "",
    since: Annotated[
        float | None, flags.since("Search only messages since then: today, 24h, 7d or a date.")
    ] = None,
    limit: Annotated[int, flags.count("--limit", "Show at most N hits.")] = HITS,
    best: Annotated[bool, flags.switch("--best", "Show the best matches first, not the newest.")] = False,
    json: JsonFlag = False,
) -> int:
    """Find prompts, answers and tool calls by their words.

    A text must have all of the words, in any order; case and accents do not matter. "a phrase" in quotes
    finds the words side by side, conn* any word that begins so. The first search makes an index, which takes
    a moment where there are many sessions; what is not in it yet is said.

    Examples::

        cms search expired token
        cms search '"connection refused"' --since 7d
        cms search 'migrat*' --session fix-auth --json
    """
    text = " ".join(words)
    if not text.strip():
        raise UsageError("search needs a word", hint=flags.usage_hint("search", "WORD..."))
    with io.daemon() as client:
        found = client.call(SEARCH_FIND, SearchParams(text, session, since, limit, best))
    if json:
        hits = [json_object(hit, _HIT) for hit in found.hits]
        io.show_json(json_object(text=text, hits=hits, more=found.more, left=found.left, since=found.since))
    else:
        io.show_lines(lines(found, io.out_style()))
    return ExitCode.COMPLETED


def lines(found: Found, style: Style) -> list[str]:
    """Two lines for each hit: where it is, and what stands around it."""
    shown: list[str] = []
    for hit in found.hits:
        where = f"#{hit.number} {hit.kind}, {clock(hit.at, style.zone)[:16]}"
        shown += [f"{render.paint(hit.session, '1', style)} {where}"]
        shown += [" " * _INDENT + line for line in marked(hit, style)]
        shown.append("")
    if not found.hits:
        shown += ["nothing found", ""]
    if found.more:
        shown.append("there is more: --limit N")
    if found.hits:
        shown.append(f"cms history {found.hits[0].session} --full shows it whole")
    if found.left:
        since = f" It goes back to {clock(found.since, style.zone)[:16]};" if found.since else ""
        shown += [
            f"The search index is still being made.{since} {plural(found.left, 'message')} to go.",
            "Search again in a moment.",
        ]
    return shown if shown[-1] else shown[:-1]


def marked(hit: Hit, style: Style) -> list[str]:
    """The snippet, its hits in colour, or in brackets where there is none; one line where nothing is cut."""
    room = math.inf if style.width is None else max(10, style.width - _INDENT)
    lines, width = [""], 0
    for word, columns in _words(hit, style, room):
        if width and width + 1 + columns > room:
            lines.append("")
            width = 0
        lines[-1] += f" {word}" if width else word
        width += columns + bool(width)
    return lines


def _words(hit: Hit, style: Style, room: float) -> Iterator[tuple[str, int]]:
    """The words of a snippet as they are shown, each with the columns that it takes."""
    bounds = (0, *(place for mark in hit.marks for place in mark), len(hit.snippet))
    shown, width = "", 0
    for number, (start, end) in enumerate(pairwise(bounds)):
        for place, part in enumerate(re.split(r"\s+", hit.snippet[start:end])):
            if place and width:
                yield shown, width
            if place:
                shown, width = "", 0
            word = render.safe(part, style)
            if number % 2 and word and not style.colour:
                word = f"[{word}]"
            word = render.cut(word, None if room == math.inf else int(room) - width, style)
            width += render.display_width(word)
            shown += render.paint(word, "1;33" if number % 2 and word else "", style)
    if width:
        yield shown, width
