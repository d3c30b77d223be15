"""Conversations that were begun outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cms.daemon.call import Handler, bind, quick
from cms.rpc.conversations import (
    CONVERSATIONS_LIST,
    SESSION_ADOPT,
    AdoptParams,
    ConversationsParams,
    ConversationsResult,
)
from cms.rpc.sessions import SessionResult

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor


class ConversationHandlers:
    """The verbs of conversations, bound to one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.all: tuple[Handler, ...] = (
            bind(CONVERSATIONS_LIST, quick(self.list_)),
            bind(SESSION_ADOPT, quick(self.adopt)),
        )

    async def list_(self, params: ConversationsParams) -> ConversationsResult:
        return ConversationsResult(tuple(await self._supervisor.conversations(params.start, params.limit)))

    async def adopt(self, params: AdoptParams) -> SessionResult:
        return SessionResult(await self._supervisor.adopt(params.options, params.conversation_id))
