"""`cms node`: takes tasks from an engine and has this machine's daemon do them. Asyncio, in its own process.

- It polls only while it has a free slot: what is not taken is free for another node.
- Each assignment is claimed on disk before anything is begun (`state`), and is done in a thread (`work`).
- It tells the engine that the assignment lives, and hears so whether it is to be cancelled.
- The fence: what the engine has not acknowledged for half of the time-out is ended here, before anybody may
  call it lost. Where this process cannot do that (frozen, killed), the lease with the daemon does.
- SIGTERM drains: nothing more is taken, what runs runs on. A second one stops it, with its receipts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse
from temporalio.service import RPCError

from cms.batch.address import Address
from cms.batch.remote import (
    FENCE,
    PROTOCOL,
    Assignment,
    Card,
    Done,
    Trouble,
    own_queue,
    queues_of,
    unknown_to,
)
from cms.config import Settings
from cms.errors import UNREADABLE
from cms.fleet.machine import steady
from cms.nodes import artifacts
from cms.nodes.engine import QUESTION, REGISTRY, Engine, connect, identity_of, is_gone
from cms.nodes.state import Busy, NodeFolder, NodeState, Standing
from cms.nodes.work import Run
from cms.session.model import Outcome
from cms.units import plural

log = logging.getLogger(__name__)

#: Seconds between two looks at whether there is room again, and at what is to be told.
_LOOK: Final = 0.5
#: Seconds between two tries to reach an engine that is not there, at most.
_BACKOFF: Final = 5.0
#: Seconds for which a node that could not even begin a task takes no other: it would refuse a whole batch as
#: fast as it comes. Twice as long each time, up to the second of these.
_REST: Final = 5.0, 60.0
#: Such troubles that are the task's, and would be the same anywhere.
_NOT_OURS: Final = ("cancelled", "claimed", "version")
#: Those between the two of them: it has no such folder, or is below what the task requires. It can do others,
#: and is back soon.
_OF_BOTH: Final = ("containment", "work_dir")
#: Seconds that the sessions of a node that was told twice to end have to end in.
_STOP: Final = 30.0

_assignment = msgspec.json.Decoder(Assignment)

#: Whether this machine bears one more; else why not. Asked before each poll.
Room = Callable[[int], str]


class Held:
    """An assignment that was taken: its token, and when the engine last acknowledged that it lives."""

    def __init__(self, token: bytes, job: Assignment, taken: float) -> None:
        self.token = token
        self.job = job
        self.acked = taken
        self.heard = asyncio.Event()  # by the engine, once
        self.going = False  # it has its slot
        self.since = time.time()
        self.run: Run | None = None
        self.fenced = False
        self.why = ""

    @property
    def left(self) -> float:
        """Seconds for which it may live on what the engine last acknowledged."""
        return self.acked + FENCE * self.job.heartbeat - steady()

    def end(self, why: str) -> None:
        self.why = self.why or why
        if self.run is not None:
            self.run.cancel(why)

    def hand_to(self, run: Run) -> None:
        if self.why:
            run.cancel(self.why)
        self.run = run


class Node:
    """Args:
    card: what it says of itself.
    work: where repositories are checked out.
    room: whether this machine bears one more (`Room`).
    tell: a line for the person who started it.
    """

    def __init__(
        self,
        settings: Settings,
        address: Address,
        card: Card,
        folder: NodeFolder,
        *,
        work: Path,
        room: Room,
        tell: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._address = address
        self._card = card
        self._identity = identity_of(card)
        self._folder = folder
        self._work = work
        self._room = room
        self._tell = tell
        self._held: dict[str, Held] = {}
        self._threads = ThreadPoolExecutor(card.slots + 8, thread_name_prefix="assignment")
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._standing: Standing = "open"
        self._why = ""
        self._rest = 0.0
        self._rests_until, self._rests_for = 0.0, ""
        self._signals = 0
        self._reached = True
        self._started = time.time()
        self._done = 0
        earlier = folder.last()
        self._day, self._cost_today = ("", 0.0) if earlier is None else (earlier.day, earlier.cost_today)

    async def run(self) -> None:
        """Until it is drained.

        Raises:
            EngineUnavailable, UsageError: at the start.
        """
        engine = await connect(self._address)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        self._folder.forget_old(time.time())
        self._write()
        self._tell(
            f"cms node {self._card.id}: {self._card.slots} slots at {self._address}, "
            f"labels {', '.join(self._card.labels) or 'none'}"
        )
        queues = queues_of(self._card.labels)
        polls = [asyncio.create_task(self._poll(engine, queue)) for queue in queues]
        polls.append(asyncio.create_task(self._show(engine)))
        beside = [asyncio.create_task(self._look()), asyncio.create_task(self._listen(engine))]
        try:
            await asyncio.gather(*polls)  # they end by a drain
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in beside:
                task.cancel()
            self._write()
            self._threads.shutdown(wait=False)

    # --- taking -----------------------------------------------------------------------------------

    async def _poll(self, engine: Engine, queue: str) -> None:
        """Take what comes, one at a time, while there is room."""
        backoff = 0.1
        while self._standing != "draining" and self._standing != "stopping":
            if len(self._held) >= self._card.slots or not self._has_room():
                await self._wait(_LOOK)
                continue
            try:
                taken = steady()
                found = await engine.poll(queue, self._identity)
                backoff = 0.1
                self._note_reached("")
            except RPCError as error:
                self._note_reached(error.message)
                await self._wait(backoff)
                backoff = min(2 * backoff, _BACKOFF)
                continue
            if found is not None:
                self._take(engine, found, taken)

    async def _show(self, engine: Engine) -> None:
        """Be seen at the registry, also when there is no free slot."""
        while self._standing not in ("draining", "stopping"):
            try:
                await engine.poll(REGISTRY, self._identity)
            except RPCError:
                await self._wait(_BACKOFF)

    async def _listen(self, engine: Engine) -> None:
        """What only this node can do or say, also when there is no free slot, and while it drains."""
        while self._standing != "stopping":
            try:
                polled = steady()
                found = await engine.poll(own_queue(self._card.id), self._identity)
            except RPCError:
                await self._wait(_BACKOFF)
                continue
            if found is None:
                continue
            if found.activity_type.name != QUESTION:
                self._take(engine, found, polled)
                continue
            try:
                await engine.complete(found.task_token, msgspec.json.encode(self._state()), self._identity)
            except RPCError:
                pass  # whoever asked waits no longer

    def _has_room(self) -> bool:
        if self._standing == "cut_off":
            return True
        why = self._resting() or self._room(len(self._held))
        standing: Standing = "full" if why else "open"
        if self._standing in ("open", "full") and standing != self._standing:
            self._standing, self._why = standing, why
            self._write()
        return not why

    def _resting(self) -> str:
        """Why it takes nothing for a while: what it took last it could not begin."""
        return self._rests_for if steady() < self._rests_until else ""

    def _note_begun(self, done: Done) -> None:
        trouble = done.trouble
        if trouble is None or not done.refused:
            self._rest = 0.0
        elif trouble.code not in _NOT_OURS:
            longer = min(max(_REST[0], 2 * self._rest), _REST[1])
            self._rest = _REST[0] if trouble.code in _OF_BOTH else longer
            self._rests_until, self._rests_for = steady() + self._rest, trouble.message
            log.warning("%s; nothing is taken for %g s", trouble, self._rest)

    def _note_reached(self, trouble: str) -> None:
        if self._reached == (not trouble):
            return
        self._reached = not trouble
        if trouble:
            log.warning("cannot reach the engine: %s", trouble)
            self._tell(f"cms node: cannot reach the engine: {trouble.splitlines()[0][:120]}")
        else:
            self._tell("cms node: connected to the engine again")
        if self._standing in ("open", "full", "cut_off"):
            self._standing, self._why = ("cut_off", trouble) if trouble else ("open", "")
        self._write()

    def _take(self, engine: Engine, found: PollActivityTaskQueueResponse, polled: float) -> None:
        """An assignment has come. It is as old as the poll, at most: a process that was frozen reads late."""
        raw = found.input.payloads[0].data if found.input.payloads else b""
        try:
            job = _assignment.decode(raw)
        except UNREADABLE as error:
            log.error("an assignment that makes no sense was taken: %s", error)
            refusal = Done(
                self._card.id,
                self._card.host,
                trouble=Trouble(
                    "version",
                    f"node {self._card.id} (cms {self._card.version}) cannot read the task: {error}",
                ),
                refused=True,
            )
            self._spawn(self._answer(engine, found.task_token, refusal, ""))
            return
        held = Held(found.task_token, job, polled)
        if self._standing == "stopping":  # by a poll that was under way; perhaps what was just stopped
            held.end("the node was stopped")
        self._held[job.id] = held
        self._spawn(self._hold(engine, held))
        self._write()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- one assignment ---------------------------------------------------------------------------

    async def _hold(self, engine: Engine, held: Held) -> None:
        job = held.job
        beating = asyncio.create_task(self._beat(engine, held))
        try:
            done = await self._do(held)
            done = msgspec.structs.replace(done, fenced=held.fenced)
            self._note_begun(done)
            self._folder.finish(job.id, done, told=False)
            self._note_done(done)
            # It beats on until the engine has the answer, or it would be lost on its last step.
            packed = artifacts.packed_answer(done, job.artifacts)
            if await self._answer_with(engine, held.token, packed):
                self._folder.finish(job.id, done, told=True)
                if held.run is not None:
                    await asyncio.to_thread(held.run.told, done)
            else:
                log.warning("%s ended, and the engine did not want to know any more", job.id)
        except Exception:
            log.exception("%s: a bug in cms", job.id)
        finally:
            beating.cancel()
            self._held.pop(job.id, None)
            self._changed.set()
            self._write()

    async def _do(self, held: Held) -> Done:
        """Have it done, if it is ours to do."""
        job, card = held.job, self._card
        if job.protocol != PROTOCOL:
            return self._refusal(
                "version", f"the task is of cms {job.version}, node {card.id} of {card.version}"
            )
        if unknown := unknown_to(job.options, job.asked):
            names = ", ".join(unknown)[:200]
            return self._refusal(
                "version",
                f"the task is of cms {job.version}; {card.version} on node {card.id} has no {names}",
            )
        await held.heard.wait()  # who knows how long ago it was given to us
        while not held.why and self._is_full():  # each queue has a poll: some may bring one too many
            await self._wait(_LOOK)
        if held.why:
            return self._refusal("cancelled", held.why)
        held.going = True
        try:
            ours = await asyncio.to_thread(self._folder.claim, job.id)
        except OSError as error:
            return self._refusal("home_unusable", f"node {card.id} cannot write its claims: {error.strerror}")
        if not ours:
            earlier = self._folder.claimed(job.id)
            if earlier is not None and earlier.done is not None:
                return earlier.done
            return Done(
                card.id,
                card.host,
                trouble=Trouble("claimed", f"node {card.id} had already started it"),
                begun=True,
                exact=False,
                allowed=("?",),
            )
        run = Run(self._settings, card, job, self._work)
        run.extend(held.left)
        held.hand_to(run)
        return await asyncio.get_running_loop().run_in_executor(self._threads, run.do)

    def _is_full(self) -> bool:
        return sum(one.going for one in self._held.values()) >= self._card.slots

    def _refusal(self, code: str, text: str) -> Done:
        return Done(self._card.id, self._card.host, trouble=Trouble(code, text), refused=True)

    async def _beat(self, engine: Engine, held: Held) -> None:
        """Tell that it lives, until it is over; fence it when nobody hears."""
        job = held.job
        patience = max(0.5, job.heartbeat / 8)
        while True:
            sent = steady()
            pulse = held.run.pulse if held.run is not None else None
            details = b"" if pulse is None else msgspec.json.encode(pulse)
            try:
                if await engine.beat(held.token, details, self._identity, patience):
                    held.end("the head asked for it")
                held.acked = sent
                held.heard.set()
                self._note_reached("")
                if held.run is not None:
                    held.run.extend(held.left)
            except RPCError as error:
                if is_gone(error):
                    held.end("the engine has given it up")
                    held.heard.set()
                    return
                self._note_reached(error.message)
            if held.left <= 0 and held.run is not None and not held.fenced:
                held.fenced = True
                log.warning("%s is ended: the engine has not been heard for too long", job.id)
                held.end("cut off from the engine")
            await asyncio.sleep(max(0.05, min(job.pulse, job.heartbeat / 6) - (steady() - sent)))

    async def _answer(self, engine: Engine, token: bytes, done: Done, folder: str) -> None:
        await self._answer_with(engine, token, artifacts.packed_answer(done, folder))

    async def _answer_with(self, engine: Engine, token: bytes, packed: bytes) -> bool:
        """Give the engine the answer, however long that takes; False: it wants none any more."""
        backoff = 0.1
        while True:
            try:
                await engine.complete(token, packed, self._identity)
                return True
            except RPCError as error:
                if is_gone(error):
                    return False
                self._note_reached(error.message)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _BACKOFF)

    # --- itself -----------------------------------------------------------------------------------

    def _note_done(self, done: Done) -> None:
        self._turn_day()
        self._done += not done.refused
        self._cost_today += done.result.cost if done.result is not None else done.cost
        if done.result is not None and done.result.api_status in (401, 403):
            self._tell(
                f"cms node: this machine is not logged in: {done.result.error}; it takes no more tasks"
            )
            self._drain("claude is not logged in here")
        elif done.result is not None and done.result.status is not Outcome.COMPLETED:
            log.info("%s: %s", done.result.name, done.result.status.value)

    def _turn_day(self) -> None:
        """A new day begins at midnight here, as it does for `cms cost`."""
        today = time.strftime("%Y-%m-%d")
        if today != self._day:
            self._day, self._cost_today = today, 0.0

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals == 1:
            running = plural(len(self._held), "task")
            self._tell(f"cms node: draining; {running} still running (once more to stop them)")
            self._drain("asked to")
            return
        self._tell("cms node: stopping the running tasks")
        self._standing = "stopping"
        for held in self._held.values():
            held.end("the node was stopped")
        self._changed.set()
        self._write()
        if self._signals > 2:
            os._exit(1)  # the daemon sees us go, and ends what was ours
        asyncio.get_running_loop().call_later(_STOP, os._exit, 1)

    def _drain(self, why: str) -> None:
        if self._standing != "stopping":
            self._standing, self._why = "draining", why
        self._changed.set()
        self._write()

    async def _wait(self, seconds: float) -> None:
        """For so long, or until something has changed here."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(2 * _LOOK)
            self._write()

    def _write(self) -> None:
        self._folder.write(self._state())

    def _state(self) -> NodeState:
        self._turn_day()
        busy = tuple(
            Busy(
                one.job.id,
                one.job.session,
                one.since,
                one.run.pulse.cost if one.run is not None else 0.0,
                one.run.pulse.activity if one.run is not None else "waits",
            )
            for one in self._held.values()
        )
        return NodeState(
            self._card,
            str(self._address),
            os.getpid(),
            self._started,
            self._standing,
            self._why,
            busy,
            self._done,
            self._cost_today,
            self._day,
            self._address.page,
        )


def serve(node: Node) -> None:
    """Run it to its end.

    Raises:
        CmsError: it could not begin.
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(node.run())
