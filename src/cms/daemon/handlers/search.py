"""The search, on top of a supervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cms.daemon.call import Handler, Host, bind, quick
from cms.rpc.search import SEARCH_FIND, SearchParams
from cms.session.search import Found

if TYPE_CHECKING:
    from cms.fleet.supervisor import Supervisor


class SearchHandlers:
    """The verb of searching, bound to one supervisor."""

    def __init__(self, supervisor: Supervisor, host: Host) -> None:
        self._supervisor = supervisor
        self._host = host
        self.all: tuple[Handler, ...] = (bind(SEARCH_FIND, quick(self.find)),)

    async def find(self, params: SearchParams) -> Found:
        session_id = (await self._supervisor.get(params.session)).id if params.session else ""
        found = await self._supervisor.search.find(
            params.text, session_id=session_id, since=params.since, best=params.best, limit=params.limit
        )
        if found.left:
            self._host.start_soon(self._supervisor.search.fill)
        return found
