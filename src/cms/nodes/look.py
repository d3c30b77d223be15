"""What a fleet does now (`cms fleet`): the engine knows its nodes, and each node says itself what it does."""

from __future__ import annotations

import asyncio
import secrets
from datetime import timedelta
from typing import Final

import msgspec
from temporalio.client import ActivityFailureError
from temporalio.common import RetryPolicy
from temporalio.service import RPCError

from cms.batch.address import Address
from cms.batch.remote import Card, own_queue
from cms.errors import UNREADABLE
from cms.nodes.engine import ACTIVITY, QUESTION, Engine, connect, unavailable
from cms.nodes.state import NodeState
from cms.session.model import Record

#: Nodes that are asked at once; seconds in which one has answered, or is shown without an answer.
_AT_ONCE: Final = 32
_PATIENCE: Final = 4.0

_state = msgspec.json.Decoder(NodeState)


class Overview(Record, frozen=True):
    """A fleet as it stands.

    Attributes:
        nodes: with what each says of itself; None: it does not answer.
        submitted: tasks that the engine knows and that have not ended; it may lag a little.
        page: the engine's own, of its tasks; "" if neither the address nor a node says where it is.
    """

    address: str
    nodes: tuple[tuple[Card, NodeState | None], ...]
    submitted: int = 0
    page: str = ""


def look(address: Address) -> Overview:
    """The nodes of an engine and what they do.

    Raises:
        CmsError: it cannot be asked.
    """
    return asyncio.run(_overview(address))


async def _overview(address: Address) -> Overview:
    engine = await connect(address)
    gate = asyncio.Semaphore(_AT_ONCE)
    try:
        cards = await engine.cards()
        states = await asyncio.gather(*[_ask(engine, card, gate) for card in cards])
        query = f"ActivityType = '{ACTIVITY}' AND ExecutionStatus = 'Running'"
        known = await engine.client.count_activities(query)
    except RPCError as error:
        raise unavailable(address, error) from None
    told = (state.page for state in states if state is not None and state.page)
    nodes = tuple(zip(cards, states, strict=True))
    return Overview(str(address), nodes, known.count, address.page or next(told, ""))


async def _ask(engine: Engine, card: Card, gate: asyncio.Semaphore) -> NodeState | None:
    async with gate:
        patience = timedelta(seconds=_PATIENCE)
        try:
            raw = await engine.client.execute_activity(
                QUESTION,
                id=f"{QUESTION}/{card.id}/{secrets.token_hex(8)}",
                task_queue=own_queue(card.id),
                result_type=bytes,
                schedule_to_close_timeout=patience,
                retry_policy=RetryPolicy(maximum_attempts=1),
                rpc_timeout=2 * patience,
            )
            return _state.decode(raw)
        except (ActivityFailureError, RPCError, *UNREADABLE):
            return None
