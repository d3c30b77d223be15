"""What is told of a conversation that claude keeps. Pure."""

from __future__ import annotations

from cms.session.model import Record


class Conversation(Record, frozen=True):
    """One.

    Attributes:
        folder: that it was begun in.
        at: when something was last said, or written down, in it.
        first: how its first message begins; "": that was not found.
        session: the name of the session whose it is, "" if it is none's.
    """

    id: str
    folder: str
    at: float
    first: str
    session: str = ""
