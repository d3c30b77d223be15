"""The engine as nodes and bridges see it: connected, checked, and its errors as ours.

Only what is needed of Temporal's service: start an activity under an id, ask what became of it, cancel it; as
a node, poll a queue, tell that it lives, answer. A node polls the service itself instead of running
Temporal's worker: so it knows which heartbeat was heard, and when (a worker's are sent in the background),
and it polls only for what it has a slot for.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Final

import msgspec
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeTaskQueueRequest,
    PollActivityTaskQueueRequest,
    PollActivityTaskQueueResponse,
    RecordActivityTaskHeartbeatRequest,
    RespondActivityTaskCompletedRequest,
)
from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile
from temporalio.service import RPCError, RPCStatusCode

from cms.batch.address import Address
from cms.batch.remote import Card
from cms.errors import UNREADABLE, EngineUnavailable, UsageError
from cms.fleet.machine import steady

#: What a task is to the engine.
ACTIVITY: Final = "cms.task"
#: A question to one node, at its own queue: its state is the answer.
QUESTION: Final = "cms.node"
#: What nobody does, at a queue that nobody serves: when the engine took it in says what time it is there.
CLOCK: Final = "cms.clock"
#: The queue at which nodes show that they are there. Nothing is ever put into it.
REGISTRY: Final = "cms.nodes"
#: Seconds for which one poll waits for a task. A drain waits for the polls under way.
POLL: Final = 10.0
#: The engine refuses a poll that is shorter than two.
_SHORTEST: Final = 3.0
#: Seconds after which a node that has not polled is taken for gone.
_GONE: Final = 3 * POLL
_CONNECT: Final = 10.0

_PLAIN: Final = {"encoding": b"binary/plain"}
_card = msgspec.json.Decoder(Card)


class Engine:
    """One namespace of one Temporal server.

    Attributes:
        known_by: the namespace's own id: another one has other memories.
        retention: seconds for which it remembers what has ended.
    """

    def __init__(self, client: Client, address: Address, known_by: str, retention: float) -> None:
        self.client = client
        self.address = address
        self.known_by = known_by
        self.retention = retention
        self._attendance = Attendance()
        self._ahead: float | None = None  # its clock, of one of ours that nobody sets

    # --- as a node ------------------------------------------------------------------------------

    async def poll(self, queue: str, identity: str) -> PollActivityTaskQueueResponse | None:
        """Wait for a task of a queue, for `POLL` seconds at most.

        A task that is given to a poll whose caller is cut off by then is lost: so a poll is over before
        anybody calls that node's tasks lost, and gives them out anew.

        Raises:
            RPCError: the engine cannot be asked.
        """
        request = PollActivityTaskQueueRequest(
            namespace=self.address.namespace, task_queue=TaskQueue(name=queue), identity=identity
        )
        try:
            found = await self.client.workflow_service.poll_activity_task_queue(
                request, timeout=timedelta(seconds=max(_SHORTEST, min(POLL, self.address.heartbeat / 3)))
            )
        except RPCError as error:
            if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
                return None
            raise
        return found if found.task_token else None

    async def beat(self, token: bytes, details: bytes, identity: str, patience: float) -> bool:
        """Tell that a task lives; whether the head wants it to end.

        Raises:
            RPCError: not heard. NOT_FOUND: the engine has given the task up.
        """
        request = RecordActivityTaskHeartbeatRequest(
            namespace=self.address.namespace, task_token=token, identity=identity, details=payloads(details)
        )
        answer = await self.client.workflow_service.record_activity_task_heartbeat(
            request, timeout=timedelta(seconds=patience)
        )
        return bool(answer.cancel_requested)

    async def complete(self, token: bytes, result: bytes, identity: str) -> None:
        """Answer for a task.

        Raises:
            RPCError: not heard. NOT_FOUND: the engine has given the task up.
        """
        request = RespondActivityTaskCompletedRequest(
            namespace=self.address.namespace, task_token=token, identity=identity, result=payloads(result)
        )
        await self.client.workflow_service.respond_activity_task_completed(
            request, timeout=timedelta(seconds=10)
        )

    async def now(self) -> float:
        """The time by the engine's clock, seconds since the epoch; some minutes late at most.

        It is when the last poll came that `cards` has heard of, else when the engine took something in.

        Raises:
            RPCError: the engine cannot be asked.
        """
        if self._ahead is not None:
            return self._ahead + steady()
        handle = await self.client.start_activity(
            CLOCK,
            id=f"{CLOCK}/{secrets.token_hex(8)}",
            task_queue=CLOCK,
            schedule_to_close_timeout=timedelta(seconds=1),
            rpc_timeout=timedelta(seconds=10),
        )
        seen = await handle.describe(rpc_timeout=timedelta(seconds=10))
        return seen.schedule_time.timestamp()

    # --- who is there ---------------------------------------------------------------------------

    async def cards(self) -> tuple[Card, ...]:
        """The nodes that are there.

        Raises:
            RPCError: the engine cannot be asked.
        """
        request = DescribeTaskQueueRequest(
            namespace=self.address.namespace,
            task_queue=TaskQueue(name=REGISTRY),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        )
        answer = await self.client.workflow_service.describe_task_queue(
            request, timeout=timedelta(seconds=10)
        )
        polls = [
            (poller.identity, poller.last_access_time.seconds + poller.last_access_time.nanos / 1e9)
            for poller in answer.pollers
        ]
        if polls:
            self._ahead = max(polled for _, polled in polls) - steady()
        return self._attendance.take(polls, time.monotonic())


class Attendance:
    """Which nodes are there.

    The engine says by its own clock, which need not be ours, when each has polled last, and remembers for
    minutes who has gone: so a node is there while that goes on changing.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float]] = {}  # of each node: the engine's time, ours

    def take(self, polls: Iterable[tuple[str, float]], now: float) -> tuple[Card, ...]:
        """The nodes that are there, by their ids.

        Args:
            polls: identities, and when each has polled last by the engine's clock.
            now: seconds on a clock of ours that nobody sets.
        """
        found: dict[str, tuple[float, Card]] = {}
        for identity, polled in polls:
            try:
                card = _card.decode(identity)
            except UNREADABLE:
                continue
            if card.id not in found or polled > found[card.id][0]:
                found[card.id] = polled, card
        newest = max((polled for polled, _ in found.values()), default=0.0)
        heard = {}
        for node, (polled, _) in found.items():
            before = self._heard.get(node)
            if before is None:  # the one that has polled last of all has just done so, for all we know
                heard[node] = polled, now - (newest - polled)
            else:
                heard[node] = before if polled == before[0] else (polled, now)
        self._heard = heard
        return tuple(card for node, (_, card) in sorted(found.items()) if now - heard[node][1] < _GONE)


def payloads(data: bytes) -> Payloads:
    return Payloads(payloads=[Payload(metadata=_PLAIN, data=data)])


def is_gone(error: RPCError) -> bool:
    """Whether the engine does not know, or no longer wants to know, what it was asked about."""
    return error.status is RPCStatusCode.NOT_FOUND


def identity_of(card: Card) -> str:
    return msgspec.json.encode(card).decode()


async def connect(address: Address, environ: Mapping[str, str] | None = None) -> Engine:
    """The engine there, once it has answered.

    Args:
        environ: with Temporal's own settings; None: this process's.

    Raises:
        EngineUnavailable: nobody answers, or it is too old.
        UsageError: it has no such namespace, or the settings make no sense.
    """
    try:
        settings = ClientConfigProfile.load(
            override_env_vars=None if environ is None else dict(environ)
        ).to_client_connect_config()
    except Exception as error:  # whatever its reader of TOML raises
        raise UsageError(f"Temporal's settings cannot be read: {_line(error)}") from None
    try:
        settings["target_host"], settings["namespace"] = address.target, address.namespace
        async with asyncio.timeout(_CONNECT):
            client = await Client.connect(**settings, identity=f"cms@{os.uname().nodename}")
    except (RuntimeError, RPCError, TimeoutError, ValueError) as error:
        raise unavailable(address, error) from None
    try:
        async with asyncio.timeout(_CONNECT):
            known = await client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=address.namespace)
            )
    except (RPCError, TimeoutError) as error:
        if isinstance(error, RPCError) and is_gone(error):
            raise UsageError(
                f"the engine at {address.target} has no namespace {address.namespace!r}",
                hint=f"temporal operator namespace create --retention 90d {address.namespace}",
            ) from None
        raise unavailable(address, error) from None
    if not known.namespace_info.capabilities.standalone_activities:
        raise EngineUnavailable(
            f"the engine at {address} is too old: it has no standalone activities",
            hint="use version 1.31 or newer",
        )
    retention = known.config.workflow_execution_retention_ttl.seconds
    return Engine(client, address, known.namespace_info.id, float(retention))


def unavailable(address: Address, error: BaseException) -> EngineUnavailable:
    """Nobody answers there."""
    return EngineUnavailable(
        f"no engine at {address}: {_line(error)}", hint="to try it here: cms node --dev-server"
    )


def _line(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    # The client tells an error of its transport as a value of its own language; the innermost says it.
    if inner := re.findall(r'message: "([^"]+)"', str(error)):
        return str(inner[-1])
    text = str(error).splitlines()
    return text[0][:200] if text else type(error).__name__
