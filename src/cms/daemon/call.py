"""Between a connection and the handlers: a request on its way, and a method behind its decoder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol

import msgspec
import trio

from cms.rpc.verbs import AnyVerb, P, R, Verb
from cms.session.model import Interaction, Record


class Call(Protocol):
    """One request on its way, as its method sees it."""

    @property
    def scope(self) -> trio.CancelScope:
        """Cancelled when the client cancels this request or goes away. Entered at most once."""

    @property
    def grace(self) -> float | None:
        """Seconds that its work may take to end once cancelled, before it is forced; None: the usual."""

    def accepted(self, name: str, interaction: Interaction) -> None:
        """Tell the client that the message is on disk, and from here on what the session does."""

    async def follow(self, name: str) -> None:
        """Tell the client what the session does, until its process has ended."""


class Host(Protocol):
    """The server around the handlers: what they need to know of it, and what outlives a request."""

    @property
    def stopping(self) -> bool: ...

    @property
    def clients(self) -> int: ...

    @property
    def began(self) -> float: ...

    async def stop(self, grace: float) -> None: ...

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None: ...


Begin = Callable[[Call, msgspec.Raw], Coroutine[object, object, Record]]


class Handler(msgspec.Struct, frozen=True):
    """A verb and what does it: `begin` decodes the params and gives the work, which ends in the result."""

    verb: AnyVerb
    begin: Begin


def bind(verb: Verb[P, R], method: Callable[[Call, P], Coroutine[object, object, R]]) -> Handler:
    """Have a method do a verb. Beginning raises one of `UNREADABLE` for bad params, before any work."""
    decoder = msgspec.json.Decoder(verb.params)

    def begin(call: Call, raw: msgspec.Raw) -> Coroutine[object, object, Record]:
        return method(call, decoder.decode(raw))

    return Handler(verb, begin)


def quick(
    method: Callable[[P], Coroutine[object, object, R]],
) -> Callable[[Call, P], Coroutine[object, object, R]]:
    """A method that has nothing to tell its client on the way, and is too short to be cancelled."""
    return lambda _call, params: method(params)
