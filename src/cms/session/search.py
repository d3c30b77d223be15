"""A search of sessions as values: what is asked for, and what is found. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal

from cms.errors import UsageError
from cms.session.model import Record

#: What of a message is searched.
TextKind = Literal["prompt", "answer", "call"]

#: Around a hit, in a text that has just been found. None has them of its own (`MARKS`).
OPEN, CLOSE = "\x02", "\x03"
MARKS: Final = str.maketrans({"\0": " ", OPEN: " ", CLOSE: " "})
MAX_WORDS: Final = 64  # of a question
_SNIPPET: Final = 320  # characters of one


class Hit(Record, frozen=True):
    """A text that was searched for.

    Attributes:
        session: its session's name.
        number: of the message in the session.
        at: when the message was accepted.
        snippet: what stands around the words, and `marks` where in it they are: from, to.
    """

    session: str
    session_id: str
    number: int
    kind: TextKind
    at: float
    snippet: str
    marks: tuple[tuple[int, int], ...]


class Found(Record, frozen=True):
    """The answer to a search, newest (or best) first.

    Attributes:
        more: there are hits beyond the limit.
        left: about how many messages are not in the index yet; 0: it is up to date.
        since: what is in it has come since then, where some is missing; None: nothing is in it.
    """

    hits: tuple[Hit, ...]
    more: bool = False
    left: int = 0
    since: float | None = None


# --- what is asked ---------------------------------------------------------------------------------


_TERM: Final = re.compile(r'"([^"]*)"?(\*?)|([^\s"]+)')


def to_match(text: str) -> str:
    """What a person asks for, as FTS5 has it: all of the words; `"a phrase"`; `begin*` for a word's start.

    Nothing else means anything: each word goes in quotes, so no text is an error of syntax.

    Raises:
        UsageError: there is no word in it, or far too many.
    """
    terms = []
    for phrase, more, word in _TERM.findall(text.translate(MARKS)):
        said, prefix = (phrase, bool(more)) if not word else (word.rstrip("*"), word.endswith("*"))
        if any(letter.isalnum() for letter in said):
            terms.append(f'"{said}"' + " *" * prefix)
    if not terms:
        raise UsageError("nothing to search for", hint='give a word, "a phrase" or the start of one: tok*')
    if len(terms) > MAX_WORDS:
        raise UsageError(f"{len(terms)} words to search for: at most {MAX_WORDS}")
    return " ".join(terms)


# --- what is shown ---------------------------------------------------------------------------------


def cut_marked(text: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A text with its hits marked, as it is without the marks, and where they were; not too long."""
    plain = ""
    marks: list[tuple[int, int]] = []
    for place, part in enumerate(re.split(f"[{OPEN}{CLOSE}]", text)):
        if place % 2:
            marks.append((len(plain), len(plain) + len(part)))
        plain += part
    if len(plain) <= _SNIPPET:
        return plain, tuple(marks)
    # A word can be as long as it likes.
    start = max(0, marks[0][0] - _SNIPPET // 4) if marks else 0
    kept = plain[start : start + _SNIPPET]
    within = ((first - start, min(last - start, len(kept))) for first, last in marks)
    return kept, tuple(pair for pair in within if pair[0] < pair[1])
