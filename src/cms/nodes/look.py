"""What a fleet does now (`cms fleet`): its nodes by the engine's registry, tasks by their heartbeats."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from temporalio.client import ActivityExecution
from temporalio.service import RPCError

from cms.batch.address import Address
from cms.batch.remote import Card, Pulse
from cms.errors import UNREADABLE
from cms.nodes.engine import ACTIVITY, Engine, connect, unavailable
from cms.session.model import Record

#: Tasks whose heartbeat is read.
_MOST: Final = 2000
_AT_ONCE: Final = 16

_pulse = msgspec.json.Decoder(Pulse)
_card = msgspec.json.Decoder(Card)


class Doing(Record, frozen=True):
    """A task at a node. `since`: when that took it."""

    task: str
    node: str
    since: float
    cost: float = 0.0
    turns: int = 0
    activity: str = ""


class Overview(Record, frozen=True):
    """A fleet as it stands. `waiting`: submitted, and taken by nobody yet."""

    address: str
    nodes: tuple[Card, ...]
    tasks: tuple[Doing, ...]
    waiting: int = 0


def look(address: Address) -> Overview:
    """The nodes of an engine and what they do.

    Raises:
        CmsError: it cannot be asked.
    """
    return asyncio.run(_overview(address))


async def _overview(address: Address) -> Overview:
    engine = await connect(address)
    try:
        cards = await engine.cards()
        gate = asyncio.Semaphore(_AT_ONCE)
        found = await asyncio.gather(*[_doing(engine, one, gate) async for one in _running(engine)])
    except RPCError as error:
        raise unavailable(address, error) from None
    doing = [one for one in found if one is not None]
    return Overview(
        str(address), cards, tuple(one for one in doing if one.node), sum(1 for one in doing if not one.node)
    )


async def _running(engine: Engine) -> AsyncIterator[ActivityExecution]:
    number = 0
    query = f"ActivityType = '{ACTIVITY}' AND ExecutionStatus = 'Running'"
    async for one in engine.client.list_activities(query):
        yield one
        number += 1
        if number >= _MOST:
            return


async def _doing(engine: Engine, one: ActivityExecution, gate: asyncio.Semaphore) -> Doing | None:
    """What is done for a task; None: it has ended, the list lags."""
    async with gate:
        handle = engine.client.get_activity_handle(one.activity_id)
        try:
            seen = await handle.describe(include_heartbeat_details=True)
        except RPCError:
            return None
        if seen.close_time is not None:
            return None
        if seen.last_started_time is None:
            return Doing(one.activity_id, "", time.time())
        try:
            node = _card.decode(seen.last_worker_identity or "").id
        except UNREADABLE:
            node = seen.last_worker_identity or "?"
        doing = Doing(one.activity_id, node, seen.last_started_time.timestamp())
        if seen.has_heartbeat_details():
            details = await seen.heartbeat_details([bytes])
            try:
                pulse = _pulse.decode(details[0] if details else b"")
            except (*UNREADABLE, IndexError):
                return doing
            return msgspec.structs.replace(doing, cost=pulse.cost, turns=pulse.turns, activity=pulse.activity)
        return doing
