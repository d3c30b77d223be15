"""Between the server and what its methods do: a request on its way, and a method behind its decoder."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Protocol, TypeVar

import msgspec
import trio

from cms.session.model import Interaction, Record

P = TypeVar("P", bound=Record)


class Call(Protocol):
    """One request on its way, as its method sees it."""

    @property
    def scope(self) -> trio.CancelScope:
        """Cancelled when the client cancels this request or goes away. Entered at most once."""

    def accepted(self, name: str, interaction: Interaction) -> None:
        """Tell the client that the message is on disk, and from here on what the session does."""

    async def follow(self, name: str) -> None:
        """Tell the client what the session does, until its process has ended."""


class RequestCancelled(Exception):
    """The client cancelled before anything was accepted: there is no result to give."""


Begin = Callable[[Call, msgspec.Raw], Coroutine[object, object, Record]]


def bind(params: type[P], method: Callable[[Call, P], Coroutine[object, object, Record]]) -> Begin:
    """A method behind its decoder. Beginning raises one of `UNREADABLE` for bad params, before any work."""
    decoder = msgspec.json.Decoder(params)

    def begin(call: Call, raw: msgspec.Raw) -> Coroutine[object, object, Record]:
        return method(call, decoder.decode(raw))

    return begin


def quick(
    method: Callable[[P], Coroutine[object, object, Record]],
) -> Callable[[Call, P], Coroutine[object, object, Record]]:
    """A method that has nothing to tell its client on the way, and is too short to be cancelled."""
    return lambda _call, params: method(params)
