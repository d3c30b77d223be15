"""The tasks of one batch at the nodes of an engine (`cms batch --on`): what `cms.nodes` is to the daemon.

The engine's client is asyncio and lives in a process of its own, the bridge. It can be killed at any time:
what is on its way is submitted again, under the same ids, which are used once; so a try is followed, not
repeated. The same holds for this daemon: what a batch left running, whoever goes on with it follows.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms._version import __version__
from cms.batch import retry
from cms.batch.address import parse
from cms.batch.ends import AtWork, Found, Report, Used
from cms.batch.forecast import View
from cms.batch.model import BatchRecord, Place, Task
from cms.batch.remote import (
    AHEAD,
    LONGEST,
    Assignment,
    Beat,
    CancelJob,
    Card,
    Command,
    Done,
    Ended,
    Event,
    Fleet,
    Pulse,
    Ready,
    Repo,
    Submit,
    Trouble,
    Unable,
    Word,
    asked_of,
    branch_name,
    job_id,
    session_name,
)
from cms.batch.retry import Remains
from cms.errors import UNREADABLE, CmsError, EngineUnavailable, StoreError, UsageError
from cms.files import replace_file
from cms.fleet.batch_sessions import News
from cms.fleet.crew import Elsewhere, Job, Lost, NotDone
from cms.fleet.folder_state import Untold
from cms.fleet.machine import steady
from cms.protocol.framing import LineBuffer
from cms.session.model import Outcome, SessionOptions

log = logging.getLogger(__name__)

_BACKOFF: Final = 5.0
_READY: Final = 40.0  # seconds for an engine to answer, its client's own time-outs included
#: Heartbeats of the whole fleet in a second, about: what an engine bears beside the work.
_BEATS: Final = 500.0

_event = msgspec.json.Decoder(Event)


class _Way(msgspec.Struct):
    """A try on its way."""

    submit: Submit
    tell: Callable[[News], None]
    over: trio.Event
    ended: Ended | None = None
    pulse: Pulse | None = None
    cancelled: str = ""


class RemoteCrew:
    """The nodes of an engine, for one batch.

    Attributes:
        known_by: what the engine is known by, once it has answered.
    """

    goes_on = True

    def __init__(self, record: BatchRecord, home: Path, environ: Mapping[str, str] | None) -> None:
        self._patches = home / "patches" / record.id
        self._batch = record.id
        self._options = record.options
        #: Temporal's own settings are those of whoever wanted this batch, as far as that is known.
        self._environ = {
            **os.environ,
            **{key: value for key, value in (environ or {}).items() if key.startswith("TEMPORAL_")},
        }
        self._known_before = record.engine
        self.known_by = record.engine
        self._engine_ahead: float | None = None  # its clock, of one of ours that nobody sets
        self._heartbeat = parse(record.options.on).heartbeat
        self._ways: dict[str, _Way] = {}
        self._looked: dict[int, Ended] = {}
        self._cards: tuple[Card, ...] = ()
        self._trouble = "the engine has not answered yet"
        self._answered = trio.Event()
        self._changed: Callable[[], None] = lambda: None
        self._process: trio.Process | None = None
        self._saying = trio.Lock()
        self._let_go = False

    def __repr__(self) -> str:
        return f"<RemoteCrew {self._batch} on {self._options.on} {len(self._ways)} under way>"

    # --- its life ---------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """See that there is somebody who can do the tasks.

        Raises:
            EngineUnavailable: no engine answers, or no node is there.
            UsageError: it has no such namespace; no node has the label.
        """
        process = await self._spawn()
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
            with trio.move_on_after(_READY):
                async for event in _events(process.stdout):
                    if isinstance(event, Unable):
                        raise _error_of(event.trouble)
                    if isinstance(event, Ready):
                        self._check_nodes(event.cards)
                        self._cards = event.cards
                        return
            raise EngineUnavailable(f"no engine at {self._options.on}: no answer")
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()

    def _check_nodes(self, cards: tuple[Card, ...]) -> None:
        label = self._options.label
        if any(card.serves(label) for card in cards):
            return
        if not cards:
            raise EngineUnavailable(
                f"no node takes tasks at {self._options.on}",
                hint="start one on any machine: cms node --on the same address",
            )
        if not any(card.serves("") for card in cards):
            versions = ", ".join(sorted({card.version for card in cards}))
            raise UsageError(
                f"no node has a version that this one ({__version__}) can work with: {versions}",
                hint="`cms fleet` shows them; update the nodes or this machine",
            )
        known = sorted({label for card in cards for label in card.labels})
        raise UsageError(
            f"no node there has {'all of the labels' if ',' in label else 'the label'} {label!r}",
            hint=f"labels are: {', '.join(known) or 'none'}",
        )

    async def run(
        self, changed: Callable[[], None], /, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Work, until cancelled: a bridge that dies is started again, and told what is on its way."""
        self._changed = changed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_bridge)
            with trio.move_on_after(_READY):
                await self._answered.wait()
            task_status.started()

    async def _keep_bridge(self) -> None:
        while True:
            try:
                await self._with_bridge()
            except OSError as error:
                self._note(f"the bridge cannot be started: {error}")
            self._answered.set()
            await trio.sleep(_BACKOFF if self._trouble else 0.1)

    async def _with_bridge(self) -> None:
        process = await self._spawn()
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
            async for event in _events(process.stdout):
                if isinstance(event, Ready):
                    before = self._hear(event)
                    self._process = process
                    for way in list(self._ways.values()):
                        await self._say(msgspec.structs.replace(way.submit, again=True, engine=before))
                        if way.cancelled:
                            await self._say(CancelJob(way.submit.job.id, way.cancelled))
                    self._note("")
                    self._take_cards(event.cards)
                    self._answered.set()
                elif isinstance(event, Unable):
                    self._note(event.trouble.message)
                else:
                    self._take(event)
        finally:
            self._process = None
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()

    def _hear(self, ready: Ready) -> str:
        """Note which engine it is, and what time it is there; what it was known by before."""
        before, self.known_by = self.known_by, ready.engine
        self._engine_ahead = ready.now - steady()
        return before

    async def _spawn(self) -> trio.Process:
        return await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "cms.nodes.bridge", self._options.on],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            env=self._environ,
            cwd="/",
        )

    async def _say(self, command: Command) -> None:
        """To the bridge. Where it is dying, the next one is told all of it again."""
        line = msgspec.json.encode(command) + b"\n"
        if isinstance(command, Submit) and len(line) > LONGEST:  # no bridge would live through it
            why = f"the task is {len(line)} bytes long; {LONGEST} can be handed over"
            self._take(Ended(command.job.id, "unbegun", reason=why))
            return
        process = self._process
        if process is None or process.stdin is None:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.CancelScope(shield=True):
            async with self._saying:  # whole lines, one after the other
                await process.stdin.send_all(line)

    def _take(self, event: Event) -> None:
        match event:
            case Fleet(cards=cards):
                self._take_cards(cards)
            case Word(text=text):
                self._note(text)
            case Beat(id=job, pulse=pulse) if (way := self._ways.get(job)) is not None:
                before, way.pulse = way.pulse, pulse
                if pulse.retries > (before.retries if before is not None else 0):
                    way.tell("retry")
                elif pulse.answered and (before is None or not before.answered):
                    way.tell("answered")
            case Ended(id=job) if (way := self._ways.get(job)) is not None:
                way.ended = event
                way.over.set()

    def _take_cards(self, cards: tuple[Card, ...]) -> None:
        self._cards = cards
        self._changed()

    def _note(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                log.warning("batch %s: %s", self._batch, trouble)
            self._changed()

    # --- what the engine asks of a crew -----------------------------------------------------------

    def room(self) -> int | None:
        return max(1, ceil(AHEAD * self._slots()))

    def _slots(self) -> int:
        return sum(card.slots for card in self._cards if card.serves(self._options.label))

    def now(self) -> float | None:
        return None if self._engine_ahead is None else self._engine_ahead + steady()

    def word(self) -> str:
        if self._trouble:
            return self._trouble
        if not any(card.serves(self._options.label) for card in self._cards):
            return "no node takes its tasks; `cms fleet` shows the nodes"
        return ""

    def let_go(self) -> None:
        self._let_go = True

    async def do(self, job: Job, tell: Callable[[News], None]) -> Report:
        submit = self._submit(job)
        key = submit.job.id
        way = self._ways[key] = _Way(submit, tell, trio.Event())
        try:
            await self._say(submit)
            while True:
                await way.over.wait()
                if way.ended is None or way.ended.how != "unknown":
                    break
                way.over, way.ended = trio.Event(), None
                await trio.sleep(_BACKOFF)
                await self._say(msgspec.structs.replace(submit, again=True))
        except trio.Cancelled:
            if not self._let_go:
                with trio.CancelScope(shield=True):
                    self._looked[job.task.seq] = await self._cancelled(way)
            raise
        finally:
            del self._ways[key]
        assert way.ended is not None  # noqa: S101 - for the type checker: that is what was waited for
        report = await self._with_patch(
            job.task, self._report(job.task, way.ended, way.pulse), way.ended.done
        )
        if report.result.status is Outcome.INTERRUPTED:  # at its node: `look` tells what it left
            self._looked[job.task.seq] = way.ended
        return report

    async def _cancelled(self, way: _Way) -> Ended:
        """End a try that is on its way, and hear what came of it."""
        if way.ended is None:
            way.cancelled = "the batch asked for it"
            await self._say(CancelJob(way.submit.job.id, way.cancelled))
            with trio.move_on_after(_READY + self._heartbeat):
                await way.over.wait()
        return way.ended or Ended(way.submit.job.id, "unknown", reason="it is unknown what became of it")

    def _submit(self, job: Job) -> Submit:
        task = job.task
        key = job_id(self._batch, task.name, task.tries)
        place = _place_of(task)
        options = self._options
        text = task.options.repo or options.repo
        repo, session = Repo.parse(text) if text else None, self._session_of(task)
        pushes = options.push_branches and repo is not None and bool(repo.url)
        return Submit(
            Assignment(
                id=key,
                batch=self._batch,
                task=task.name,
                session=session,
                version=__version__,
                options=task.options.session,
                asked=asked_of(task.options.session),
                prompt=retry.GO_ON if place is not None else job.prompt,
                context="" if place is not None else job.context,
                go_on=place is not None,
                heartbeat=self._heartbeat,
                pulse=max(1.0, len(self._ways) / _BEATS),
                repo=repo,
                branch=branch_name(self._batch, session) if pushes else "",
                artifacts=options.artifacts,
            ),
            label=options.label,
            node="" if place is None else place.node,
            since=task.tried or 0.0,
            again=job.again,
            engine=self._known_before if job.again else "",  # what it was submitted to, if it was
        )

    def _report(self, task: Task, ended: Ended, pulse: Pulse | None) -> Report:
        """A try that ended by itself.

        Raises:
            NotDone, Elsewhere, Lost: there is no result.
        """
        done = ended.done
        if done is None:
            if ended.how == "unbegun":
                place = _place_of(task)
                where = "" if place is None else f"its conversation is on node {place.node}: "
                raise NotDone(CmsError(f"{where}{ended.reason}"), begun=False, cost=0.0)
            raise Lost(ended.reason, cost=pulse.cost if pulse else 0.0, place=Place(ended.node, "", ""))
        there = Place(done.node, done.host, self._session_of(task))
        if done.result is not None:
            if done.result.api_status in (401, 403) and not done.result.turns and self._has_others(done.node):
                raise Elsewhere(f"node {done.node} is not logged in: {done.result.error}")
            return Report(
                msgspec.structs.replace(done.result, name=task.name),
                acted=retry.may_have_acted(done.allowed),
                place=there,
            )
        trouble = done.trouble or Trouble("error", "it gave no reason")
        if done.refused:
            raise Elsewhere(f"node {done.node} did not take it: {trouble}")
        if done.begun:
            raise Lost(f"node {done.node}: {trouble}", cost=done.cost, place=there)
        error = CmsError(f"node {done.node}: {trouble.message}", hint=trouble.hint)
        raise NotDone(error, begun=False, cost=done.cost)

    async def _with_patch(self, task: Task, report: Report, done: Done | None) -> Report:
        """With what it changed, as a file here: on disk before the task is over in the store.

        Raises:
            StoreError: it cannot be written.
        """
        if done is None:
            return report
        report = msgspec.structs.replace(report, branch=done.branch)
        if not done.patch:
            return report
        path = self._patches / f"{task.name.replace('/', '_')}-{task.tries}.patch"
        try:
            await trio.to_thread.run_sync(_keep, path, done.patch)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
        return msgspec.structs.replace(report, patch=str(path))

    def _has_others(self, node: str) -> bool:
        """Whether there is another node, which may be logged in."""
        return any(card.serves(self._options.label) and card.id != node for card in self._cards)

    def _session_of(self, task: Task) -> str:
        place = _place_of(task)
        if place is not None:
            return place.session
        return session_name(task.name, job_id(self._batch, task.name, task.tries))

    async def look(self, task: Task, *, check: bool) -> Found:  # noqa: ARG002 - its node has checked
        """What came of a try that was cancelled. One that nobody of this process had on its way is ended
        first: it may still be at work."""
        ended = self._looked.pop(task.seq, None)
        if ended is None:
            if self._let_go:
                return AtWork()
            submit = self._submit(Job(task, again=True))
            way = self._ways[submit.job.id] = _Way(submit, lambda _: None, trio.Event())
            try:
                await self._say(submit)
                ended = await self._cancelled(way)
            finally:
                del self._ways[submit.job.id]
        return await self._found(task, ended)

    async def _found(self, task: Task, ended: Ended) -> Found:
        done = ended.done
        if ended.how == "unknown":
            return AtWork()
        if done is not None and done.result is not None:
            result = done.result
            if result.status is not Outcome.INTERRUPTED:
                return await self._with_patch(task, self._report(task, ended, None), done)
            return Remains(
                sent=True,
                turns=result.turns,
                allowed=done.allowed,
                # What the last call came to, only the raw log on its node could tell.
                at_work=done.allowed[-1:],
                exact=result.cost_exact,
                can_continue=result.can_continue,
                cost=result.cost,
                place=Place(done.node, done.host, self._session_of(task)),
            )
        if (done is not None and (done.refused or not done.begun)) or ended.how == "unbegun":
            # Its id is used, if nothing else: the next try has another.
            return Remains(sent=False, exact=True, cost=0.0)
        cost = done.cost if done is not None else 0.0
        why = ended.reason or str(done.trouble if done is not None else "")
        raise Lost(why, cost=cost, place=Place(ended.node, "", ""))

    async def around(self, task: Task) -> str:
        raise Untold(f"what the folder of {task.name} holds at a node is not looked at")

    async def slots(self) -> int | None:
        await self.prepare()
        return self._slots()

    async def view(self, _options: SessionOptions) -> View | None:
        return None

    async def used(self, task: Task) -> Used:
        return Used(task.cost)  # tokens are not told by nodes

    async def keep(self, task: Task) -> None:
        raise UsageError(f"{task.name}: a session at a node cannot be kept alive")


def _place_of(task: Task) -> Place | None:
    """Where the conversation is that it goes on in."""
    return task.result.place if task.go_on and task.result is not None else None


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(path, text.encode())


def _error_of(trouble: Trouble) -> CmsError:
    kind = UsageError if trouble.code == UsageError.code else EngineUnavailable
    return kind(trouble.message, hint=trouble.hint)


async def _events(stream: trio.abc.ReceiveStream) -> AsyncGenerator[Event, None]:
    """What a bridge says, until it ends."""
    buffer = LineBuffer()
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await stream.receive_some(1 << 16):
            for line in buffer.receive(bytes(data)):
                try:
                    yield _event.decode(line)
                except UNREADABLE as error:
                    log.error("what came from the bridge makes no sense: %s", error)
