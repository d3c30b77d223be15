"""Searching what was said and done."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.rpc.verbs import Verb
from cms.session.model import Record
from cms.session.search import Found

HITS = 20  # of one answer


class SearchParams(Record, frozen=True):
    """All of the words of `text`; `"a phrase"` and `begin*` as well.

    Attributes:
        session: the name of the only one to look in; "" for all.
        since: only messages accepted since then.
        best: those that match best first, not the newest.
    """

    text: str
    session: str = ""
    since: float | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = HITS
    best: bool = False


SEARCH_FIND = Verb("search.find", SearchParams, Found, idempotent=True)
