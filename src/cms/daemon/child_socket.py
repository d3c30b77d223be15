"""Child sockets: a session's own way to cms, and what it may ask for there.

A session that may use cms (`SessionOptions.allow_cms`) gets a socket of its own, open for as long as its
process lives. It lies in the daemon's folder, which is hidden from agents; of all that is in there, this
session's container sees the folder of that socket alone. Who speaks there is that session, whatever it says
of itself: what it starts is its child (`session.lineage`) and gets the environment that it was started with
itself, and it can name no session that is not below it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from cms.errors import UNREADABLE, SessionNotFound, UsageError
from cms.rpc.verbs import AnyVerb
from cms.session.callers import Caller
from cms.session.model import SessionRecord


class _Names(msgspec.Struct):
    """Whatever a request names, in each of the ways in which one can."""

    name: str = ""
    names: tuple[str, ...] = ()
    after: str = ""


class ChildSocket:
    """The checks at one session's socket.

    Attributes:
        caller: who comes through it.
        held: bytes of its requests that are in memory.
        environ: the session's own, for what it starts. What it says of it does not count: the walls of a
            child are put up where `HOME` and its like say.
    """

    def __init__(
        self,
        session: SessionRecord,
        environ: Mapping[str, str],
        find: Callable[[str], Awaitable[SessionRecord]],
        descends: Callable[[SessionRecord, str], Awaitable[bool]],
    ) -> None:
        self.caller = Caller(session.depth + 1, session.id)
        self.environ = environ
        self.held = 0
        self._find = find
        self._descends = descends

    def __repr__(self) -> str:
        return f"<ChildSocket of session {self.caller.session_id}>"

    async def check(self, verb: AnyVerb, params: msgspec.Raw) -> None:
        """Let a request pass, or not.

        Raises:
            UsageError: no session may ask for this.
            SessionNotFound: it names a session that is not below this one, or none at all: no difference is
                told, and no near name.
        """
        if not verb.inside:
            raise UsageError(f"a session may not call {verb.name}", hint="a person can, at the shell")
        try:
            named = msgspec.json.decode(params, type=_Names)
        except UNREADABLE as error:
            raise UsageError(f"bad params for {verb.name}: {error}") from None
        for name in filter(None, (*named.names, named.name, named.after)):
            try:
                session = await self._find(name)
            except SessionNotFound:
                raise SessionNotFound(name) from None
            if not await self._descends(session, self.caller.session_id):
                raise SessionNotFound(name)
