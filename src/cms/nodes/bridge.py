"""The bridge from a batch to its engine: `python -m cms.nodes.bridge ADDRESS`, a child of the daemon.

It reads commands (`batch.remote.Submit`, `CancelJob`) from its stdin and writes events to its stdout, a line
of JSON each. It keeps nothing: what was submitted, the batch's own store knows, and what became of it, the
engine. So it can be killed at any time; when its stdin ends it leaves, and what is at work goes on.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import timedelta
from typing import BinaryIO, Final

import msgspec
from temporalio import exceptions
from temporalio.client import (
    ActivityExecutionDescription,
    ActivityExecutionStatus,
    ActivityFailureError,
    ActivityHandle,
)
from temporalio.common import ActivityIDReusePolicy, RetryPolicy
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    CancelledError,
    TerminatedError,
    TimeoutType,
)
from temporalio.service import RPCError, RPCStatusCode

from cms.batch.address import parse
from cms.batch.remote import (
    LONGEST,
    Beat,
    Card,
    Command,
    Done,
    Ended,
    Event,
    Fleet,
    Pulse,
    Ready,
    Submit,
    Trouble,
    Unable,
    Word,
    own_queue,
    queue_of,
)
from cms.errors import UNREADABLE, CmsError, ExitCode
from cms.fleet.machine import steady
from cms.nodes import artifacts
from cms.nodes.checkout import CheckoutError, read_branch
from cms.nodes.engine import ACTIVITY, Engine, connect, is_gone
from cms.rpc.wire import LineBuffer

#: Longer than anything that a node's own limits let live.
_LONGEST: Final = timedelta(days=30)
#: A node that began something must take its continuation within so many heartbeats.
_TAKEN: Final = 3.0
_BACKOFF: Final = 5.0
#: Heartbeats that are read in a second: the engine has other things to do.
_READS: Final = 20.0
_LOOK: Final = 5.0
#: Seconds after which a cancel that nobody hears is given up: whoever goes on with the batch asks again.
_CANCEL: Final = 30.0
#: Of the engine's memory, what is not relied upon.
_MARGIN: Final = 3600.0
#: Bytes of an event around its answer.
_AROUND: Final = 4096

_events: BinaryIO = sys.stdout.buffer

_command = msgspec.json.Decoder(Command)
_done = msgspec.json.Decoder(Done)
_pulse = msgspec.json.Decoder(Pulse)


class Bridge:
    """One batch's view of its engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: dict[str, _Submitted] = {}
        self._cards: tuple[Card, ...] | None = None
        self._engine_ahead = 0.0  # its clock, of one of ours that nobody sets
        self._word = ""

    async def run(self, lines: asyncio.StreamReader) -> None:
        """Until nobody says anything more."""
        self._cards = await self._engine.cards()
        now = await self._engine.now()
        self._engine_ahead = now - steady()
        tell(Ready(self._engine.known_by, self._cards, now))
        watching = [asyncio.create_task(self._watch_nodes()), asyncio.create_task(self._watch_pulses())]
        buffer = LineBuffer(LONGEST)
        while data := await lines.read(1 << 16):
            buffer.feed(data)
            while (line := buffer.next_line()) is not None:
                self._obey(_command.decode(line))
        for task in watching:
            task.cancel()

    def _obey(self, command: Command) -> None:
        if isinstance(command, Submit):
            submitted = _Submitted(command)
            self._jobs[command.job.id] = submitted
            submitted.task = asyncio.create_task(self._see_through(submitted))
        elif (known := self._jobs.get(command.id)) is not None and not known.cancelled.is_set():
            known.reason = command.reason
            known.cancelled.set()
            known.cancelling = asyncio.create_task(self._cancel(known))

    def _note(self, trouble: str) -> None:
        text = f"cannot reach the engine: {trouble.splitlines()[0][:150]}" if trouble else ""
        if bool(text) != bool(self._word):
            self._word = text
            tell(Word(text))

    # --- one job ----------------------------------------------------------------------------------

    async def _see_through(self, one: _Submitted) -> None:
        """From its submission to its end."""
        try:
            ended = await self._submit(one) or await self._follow(one)
        except CmsError as error:
            ended = Ended(one.id, "unbegun", reason=str(error))
        except Exception as error:
            ended = Ended(one.id, "unknown", reason=f"internal error: {type(error).__name__}: {error}")
        if self._jobs.pop(one.id, None) is not None:
            tell(ended)
        if one.cancelling is not None:
            one.cancelling.cancel()

    async def _submit(self, one: _Submitted) -> Ended | None:
        """Have it at the engine, under its id; or why it is not there.

        An answer that is lost tells nothing: it is submitted again under the same id, which is used once.
        """
        command, job = one.command, one.command.job
        packed = artifacts.packed(job)
        backoff = 0.1
        if command.again and await self._is_known(one):
            one.there.set()
            return None
        if command.again:
            age = self._engine_ahead + steady() - command.since
            young = 0 <= age + _MARGIN < self._engine.retention
            if not young or command.engine not in ("", self._engine.known_by):
                return Ended(one.id, "lost", reason="the engine does not know whether it was started")
        heartbeat = timedelta(seconds=job.heartbeat)
        while True:
            if one.cancelled.is_set() and not one.tried:
                return Ended(one.id, "unbegun", reason=one.reason)
            one.tried = True
            try:
                await self._engine.client.start_activity(
                    ACTIVITY,
                    packed,
                    id=one.id,
                    task_queue=own_queue(command.node) if command.node else queue_of(command.label),
                    start_to_close_timeout=_LONGEST,
                    schedule_to_start_timeout=_TAKEN * heartbeat if command.node else None,
                    heartbeat_timeout=heartbeat,
                    retry_policy=RetryPolicy(maximum_attempts=1),
                    id_reuse_policy=ActivityIDReusePolicy.REJECT_DUPLICATE,
                    rpc_timeout=timedelta(seconds=10),
                )
                break
            except ActivityAlreadyStartedError:
                break  # by us, and the answer was lost; by us before a crash; by another head of this batch
            except RPCError as error:
                if error.status is RPCStatusCode.INVALID_ARGUMENT:  # and never will: it takes less at once
                    return Ended(one.id, "unbegun", reason=f"the engine does not take it: {error.message}")
                self._note(error.message)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _BACKOFF)
        self._note("")
        one.there.set()
        return None

    async def _is_known(self, one: _Submitted) -> bool:
        backoff = 0.1
        while True:
            try:
                await self._handle(one).describe(rpc_timeout=timedelta(seconds=10))
                return True
            except RPCError as error:
                if is_gone(error):
                    return False
                self._note(error.message)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF)

    def _handle(self, one: _Submitted) -> ActivityHandle[bytes]:
        return self._engine.client.get_activity_handle(one.id, result_type=bytes)

    async def _follow(self, one: _Submitted) -> Ended:
        """Wait for its end, over whatever outage."""
        backoff = 0.1
        while True:
            try:
                return await self._answered(one, await self._handle(one).result())
            except ActivityFailureError as failure:
                return await self._failed(one, failure.cause)
            except RPCError as error:
                if is_gone(error):
                    return Ended(one.id, "lost", reason="the engine has forgotten it", node=one.node)
                self._note(error.message)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF)

    async def _answered(self, one: _Submitted, raw: bytes) -> Ended:
        self._note("")
        try:
            done, shared = _done.decode(raw), one.command.job.artifacts
            done = await asyncio.to_thread(artifacts.unpacked_answer, done, shared, LONGEST - _AROUND)
            if done.fetch:
                done = await self._with_branch(one, done)
        except (*UNREADABLE, TypeError) as error:
            return Ended(one.id, "lost", reason=f"its answer cannot be read: {error}", node=one.node)
        except artifacts.ArtifactError as error:
            done = artifacts.without_texts(_done.decode(raw), str(error))
        return Ended(one.id, "done", done, node=done.node)

    async def _with_branch(self, one: _Submitted, done: Done) -> Done:
        """With what it changed, from its branch. Where that cannot be had it is told: the branch is there."""
        repo = one.command.job.repo
        try:
            if repo is None:
                raise CheckoutError("nobody knows its repository")
            patch = await asyncio.to_thread(read_branch, repo.url, done.branch, done.commit)
            room = LONGEST - _AROUND - len(msgspec.json.encode(done))
            if (size := len(msgspec.json.encode(patch))) > room:
                raise CheckoutError(f"the patch is {size} bytes long; {room} can be taken")
        except CheckoutError as error:
            why = f"what it changed is in branch {done.branch}, without a patch here: {error}"
            result = done.result
            if result is not None:
                result = msgspec.structs.replace(result, reasons=(*result.reasons, why))
            return msgspec.structs.replace(done, fetch=False, result=result)
        return msgspec.structs.replace(done, fetch=False, patch=patch)

    async def _failed(self, one: _Submitted, cause: BaseException | None) -> Ended:
        """The engine ended it: was anything of it begun?"""
        backoff = 0.1
        while True:
            try:
                seen = await self._handle(one).describe(rpc_timeout=timedelta(seconds=10))
            except RPCError as error:
                if is_gone(error):
                    return Ended(one.id, "lost", reason="the engine has forgotten it", node=one.node)
                self._note(error.message)
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, _BACKOFF)
            else:
                return self._unanswered(one, cause, seen)

    def _unanswered(
        self, one: _Submitted, cause: BaseException | None, seen: ActivityExecutionDescription
    ) -> Ended:
        if seen.last_started_time is None:
            why = (
                "no node took it"
                if isinstance(cause, exceptions.TimeoutError)
                else "cancelled before it started"
            )
            return Ended(one.id, "unbegun", reason=one.reason or why)
        node = _node_of(seen.last_worker_identity) or one.node
        if isinstance(cause, exceptions.TimeoutError) and cause.type is TimeoutType.HEARTBEAT:
            why = f"no heartbeat for {one.command.job.heartbeat:g} s"
        elif isinstance(cause, TerminatedError):
            why = "it was terminated at the engine"
        elif isinstance(cause, CancelledError):
            why = "it was cancelled, and its node has not reported what became of it"
        else:
            why = f"the engine ended it: {cause or seen.status}"
        return Ended(one.id, "lost", reason=why, node=node)

    async def _cancel(self, one: _Submitted) -> None:
        """Have the engine cancel it. Its node hears that with its next heartbeat, and answers."""
        give_up = time.monotonic() + _CANCEL
        backoff = 0.1
        while time.monotonic() < give_up:
            if one.there.is_set():
                try:
                    await self._handle(one).cancel(reason=one.reason, rpc_timeout=timedelta(seconds=5))
                    return
                except RPCError as error:
                    if is_gone(error):
                        return
                    self._note(error.message)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, 1.0)
        if self._jobs.pop(one.id, None) is not None and one.task is not None:
            one.task.cancel()
            tell(Ended(one.id, "unknown", reason="cannot reach the engine to cancel it"))

    # --- looking on -------------------------------------------------------------------------------

    async def _watch_nodes(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            try:
                cards = await self._engine.cards()
            except RPCError as error:
                self._note(error.message)
                continue
            self._note("")
            if cards != self._cards:
                self._cards = cards
                tell(Fleet(cards))

    async def _watch_pulses(self) -> None:
        """Read the heartbeats in turn, so many a second whatever their number."""
        while True:
            for one in list(self._jobs.values()):
                await asyncio.sleep(1 / _READS)
                if not one.there.is_set() or one.id not in self._jobs:
                    continue
                try:
                    seen = await self._handle(one).describe(
                        include_heartbeat_details=True, rpc_timeout=timedelta(seconds=5)
                    )
                    if seen.status is not ActivityExecutionStatus.RUNNING or not seen.has_heartbeat_details():
                        continue
                    details = await seen.heartbeat_details([bytes])
                    pulse = _pulse.decode(details[0]) if details and details[0] else None
                except (RPCError, *UNREADABLE):
                    continue
                if pulse is not None and pulse != one.pulse:
                    one.pulse, one.node = pulse, pulse.node
                    tell(Beat(one.id, pulse))
            await asyncio.sleep(0.5)


class _Submitted:
    """A job on its way."""

    def __init__(self, command: Submit) -> None:
        self.command = command
        self.id = command.job.id
        self.task: asyncio.Task[None] | None = None
        self.cancelling: asyncio.Task[None] | None = None
        self.tried = False
        self.there = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.reason = ""
        self.pulse: Pulse | None = None
        self.node = command.node


def _node_of(identity: str | None) -> str:
    try:
        return msgspec.json.decode(identity or "", type=Card).id
    except UNREADABLE:
        return ""


def tell(event: Event) -> None:
    """Say it to the daemon; where that has gone, so do we."""
    line = msgspec.json.encode(event) + b"\n"
    try:
        _events.write(line)
        _events.flush()
    except (BrokenPipeError, ValueError):
        os._exit(0)


def keep_stdout() -> None:
    """Only events go to stdout: the engine's client has a log of its own, which goes where errors go."""
    global _events
    _events = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)


async def _main(text: str) -> int:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    try:
        engine = await connect(parse(text))
        await Bridge(engine).run(lines)
    except CmsError as error:
        tell(Unable(Trouble(error.code, error.message, error.hint)))
        return int(error.exit_code)
    except RPCError as error:
        tell(Unable(Trouble("engine_unavailable", f"the engine does not answer: {error.message}")))
        return ExitCode.DAEMON_UNAVAILABLE
    return 0


if __name__ == "__main__":
    keep_stdout()
    code = asyncio.run(_main(sys.argv[1]))
    os._exit(code)  # nothing of ours is to be finished, and the engine's client may wait long
