"""Conversations that were begun outside: listed, and made sessions."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.rpc.sessions import SessionResult
from cms.rpc.verbs import Verb
from cms.session.conversation import Conversation
from cms.session.model import Record, SessionOptions

LISTED = 20  # of one answer


class ConversationsParams(Record, frozen=True):
    """The latest; `start`: how their ids begin."""

    start: str = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = LISTED


class ConversationsResult(Record, frozen=True):
    conversations: tuple[Conversation, ...]


class AdoptParams(Record, frozen=True):
    """Make a conversation a session. Its work dir is the folder that the conversation was begun in."""

    options: SessionOptions
    conversation_id: str


CONVERSATIONS_LIST = Verb("conversations.list", ConversationsParams, ConversationsResult, idempotent=True)
SESSION_ADOPT = Verb("session.adopt", AdoptParams, SessionResult)
