"""A node between an engine and a run that are both made up: the faults that real ones seldom show.

The clock that the fence goes by is the test's, so an hour passes in no time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import pytest
from temporalio.api.common.v1 import ActivityType
from temporalio.api.workflowservice.v1 import PollActivityTaskQueueResponse
from temporalio.service import RPCError, RPCStatusCode

from cms.batch.address import Address
from cms.batch.remote import FENCE, PROTOCOL, Assignment, Card, Done, Pulse, Trouble, own_queue, queue_of
from cms.config import Settings
from cms.nodes import node as node_module
from cms.nodes.engine import ACTIVITY, payloads
from cms.nodes.node import Node
from cms.nodes.state import NodeFolder
from cms.session.model import DelegateResult, Outcome, Safety, SessionOptions

HEARTBEAT = 60.0
HOUR = 3600.0


def job(name: str = "t", **keys: object) -> Assignment:
    made = Assignment(f"b/{name}/1", "b", name, f"{name}-1", "0.1", SessionOptions(name, "/work"), "do it")
    return msgspec.structs.replace(made, heartbeat=HEARTBEAT, pulse=0.01, **keys)


def result(status: Outcome = Outcome.COMPLETED, **keys: object) -> DelegateResult:
    made = DelegateResult(status, "t-1", "", None, 0.5, 3, 1000, ("Bash",), True, Safety(), session_id="s")
    return msgspec.structs.replace(made, **keys)


class FakeEngine:
    """Gives out what is put into it, and takes answers, while it can be reached."""

    def __init__(self) -> None:
        self.reachable = True
        self.waiting: list[PollActivityTaskQueueResponse] = []
        self.own: list[PollActivityTaskQueueResponse] = []  # at the queue of this node alone
        self.gone: set[bytes] = set()
        self.cancelled: set[bytes] = set()
        self.beats = self.polls = 0
        self.answers: dict[bytes, Done] = {}

    def put(
        self, what: Assignment | bytes, token: bytes = b"1", queue: Literal["common", "own"] = "common"
    ) -> None:
        raw = what if isinstance(what, bytes) else msgspec.json.encode(what)
        (self.waiting if queue == "common" else self.own).append(
            PollActivityTaskQueueResponse(
                task_token=token, activity_type=ActivityType(name=ACTIVITY), input=payloads(raw)
            )
        )

    def _look_at(self, token: bytes = b"") -> None:
        if not self.reachable:
            raise RPCError("gone fishing", RPCStatusCode.UNAVAILABLE, b"")
        if token in self.gone:
            raise RPCError("no such activity", RPCStatusCode.NOT_FOUND, b"")

    async def poll(self, queue: str, _identity: str) -> PollActivityTaskQueueResponse | None:
        await asyncio.sleep(0.01)
        self.polls += 1
        self._look_at()
        waiting = {queue_of(""): self.waiting, own_queue("n-1"): self.own}.get(queue)
        return waiting.pop(0) if waiting else None

    async def beat(self, token: bytes, _details: bytes, _identity: str, _patience: float) -> bool:
        self.beats += 1
        self._look_at(token)
        return token in self.cancelled

    async def complete(self, token: bytes, packed: bytes, _identity: str) -> None:
        self._look_at(token)
        self.answers[token] = msgspec.json.decode(packed, type=Done)


class FakeRun:
    """What a node has its daemon do: nothing, until the test or the node ends it."""

    def __init__(self, _settings: Settings, card: Card, job: Assignment, _work: Path) -> None:
        self.job = job
        self.pulse = Pulse(card.id)
        self.done = Done(card.id, card.host, result(), begun=True)
        self.over = threading.Event()
        self.cancelled = ""
        self.begun = False
        self.lease = -1.0

    def cancel(self, why: str) -> None:
        self.cancelled = self.cancelled or why
        interrupted = result(Outcome.INTERRUPTED)
        self.done = msgspec.structs.replace(self.done, result=interrupted)
        self.over.set()

    def extend(self, seconds: float) -> None:
        self.lease = seconds

    def do(self) -> Done:
        self.begun = not self.cancelled
        assert self.over.wait(20)
        return self.done

    def told(self, done: Done) -> None:
        pass


class Site:
    """A node with one slot, its engine, its clock, and what it has been made to run."""

    running: asyncio.Task[None]

    def __init__(self, home: Path) -> None:
        self.engine = FakeEngine()
        self.folder = NodeFolder(home)
        self.folder.take()
        self.now = 1000.0
        self.runs: list[FakeRun] = []
        self.said: list[str] = []
        self.pressed = ""  # why the machine bears no more
        self._home = home
        self.node = self.made()

    def made(self) -> Node:
        """The node, started."""
        card = Card("n-1", "host", 1, "0.1")
        return Node(
            Settings(self._home),
            Address("h:1"),
            card,
            self.folder,
            work=self._home,
            room=lambda _: self.pressed,
            tell=self.said.append,
        )

    def live(self, act: Callable[[], Awaitable[None]]) -> None:
        """Have the node run, do this beside it, and drain it."""

        async def both() -> None:
            self.running = asyncio.create_task(self.node.run())
            try:
                await act()
            finally:
                self.engine.reachable = True
                self.node._drain("the test is over")
                for run in self.runs:
                    run.over.set()
                await asyncio.wait_for(self.running, 20)

        asyncio.run(both())

    async def working(self, number: int = 1) -> FakeRun:
        """Wait until so many have been begun in all; the newest."""
        await until(lambda: len(self.runs) >= number and self.runs[-1].begun)
        return self.runs[-1]

    async def beaten(self, times: int = 3) -> None:
        """Wait for some more heartbeats, heard or not."""
        before = self.engine.beats
        await until(lambda: self.engine.beats >= before + times)

    async def shown(self, times: int = 10) -> None:
        """Wait for some more polls of those that bring no work."""
        before = self.engine.polls
        await until(lambda: self.engine.polls >= before + times)

    @property
    def held(self) -> int:
        return len(self.node._state().busy)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of many kinds, in threads too
            await asyncio.sleep(0.005)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path)

    async def connect(_address: Address) -> FakeEngine:
        return made.engine

    def run(settings: Settings, card: Card, job: Assignment, work: Path) -> FakeRun:
        made.runs.append(FakeRun(settings, card, job, work))
        return made.runs[-1]

    monkeypatch.setattr(node_module, "connect", connect)
    monkeypatch.setattr(node_module, "Run", run)
    monkeypatch.setattr(node_module, "steady", lambda: made.now)
    yield made
    os.close(made.folder._lock)


def disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)


def test_what_the_engine_does_not_hear_of_is_ended_before_it_may_be_called_lost(site: Site) -> None:
    async def act() -> None:
        site.engine.put(job())
        run = await site.working()
        await site.beaten()
        site.engine.reachable = False
        site.now += FENCE * HEARTBEAT - 1
        await site.beaten()
        assert not run.cancelled, "the engine may come back"
        site.now += 2
        await until(lambda: run.cancelled)
        assert "cut off" in run.cancelled
        site.now += HOUR
        await site.beaten()
        assert site.held, "its answer is kept for the engine"
        site.engine.gone.add(b"1")
        site.engine.reachable = True
        await until(lambda: not site.held)
        site.engine.put(job("next"), b"2")
        (await site.working(2)).over.set()
        await until(lambda: b"2" in site.engine.answers)

    site.live(act)
    assert b"1" not in site.engine.answers
    claim = site.folder.claimed("b/t/1")
    assert claim is not None
    assert claim.done is not None
    assert claim.done.fenced
    assert not claim.told
    assert len(site.runs) == 2


def test_an_outage_shorter_than_the_fence_costs_nothing(site: Site) -> None:
    async def act() -> None:
        site.engine.put(job())
        run = await site.working()
        await site.beaten()
        for _ in range(5):  # longer than the time-out in all
            site.engine.reachable = False
            site.now += 0.9 * FENCE * HEARTBEAT
            await site.beaten()
            site.engine.reachable = True
            await site.beaten()
        assert not run.cancelled
        run.over.set()
        await until(lambda: site.engine.answers)

    site.live(act)
    assert site.engine.answers[b"1"].result == result()


def test_a_node_that_slept_ends_what_the_engine_has_given_up(site: Site) -> None:
    async def act() -> None:
        site.engine.put(job())
        run = await site.working()
        site.engine.gone.add(b"1")
        site.now += HOUR  # all at once, as for who was frozen
        await until(lambda: run.cancelled)

    site.live(act)
    assert not site.engine.answers


@pytest.mark.parametrize("jump", [HOUR, -HOUR, 300 * 24 * HOUR])
def test_the_wall_clock_may_say_what_it_likes(
    site: Site, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    real = time.time

    async def act() -> None:
        site.engine.put(job())
        run = await site.working()
        await site.beaten()
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        await site.beaten()
        assert run.lease == FENCE * HEARTBEAT
        assert not run.cancelled
        run.over.set()
        await until(lambda: site.engine.answers)
        site.engine.put(job(), b"again")
        await until(lambda: b"again" in site.engine.answers)

    site.live(act)
    assert len(site.runs) == 1


def test_a_full_disk_at_the_claim_begins_nothing_and_does_not_drain_the_batch(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        with monkeypatch.context() as patch:
            disk_is_full(patch)
            site.engine.put(job())
            await until(lambda: site.engine.answers)
            done = site.engine.answers[b"1"]
            assert done.refused
            assert done.trouble is not None
            assert done.trouble.code == "home_unusable"
            assert "No space" in done.trouble.message
        site.engine.put(job("other"), b"2")
        await site.shown()
        assert site.engine.waiting, "it took the next one just to refuse it"
        assert "No space" in site.node._state().why
        site.now += HOUR
        (await site.working()).over.set()
        await until(lambda: b"2" in site.engine.answers)
        site.engine.put(job(), b"3")  # the first one once more, from an engine that has forgotten
        await until(lambda: b"3" in site.engine.answers)

    site.live(act)
    assert [run.job.task for run in site.runs] == ["other"]


@pytest.mark.parametrize("signals", [1, 2])
def test_a_node_that_drains_goes_on_with_what_is_its_own_and_one_that_stops_hands_it_back(
    site: Site, signals: int
) -> None:
    async def act() -> None:
        site.engine.put(job())
        await site.working()
        for _ in range(signals):
            site.node._on_signal()
        site.engine.put(job("own", go_on=True), b"2", "own")
        if signals == 1:
            site.runs[0].over.set()
            (await site.working(2)).over.set()
        await until(lambda: b"2" in site.engine.answers)

    site.live(act)
    assert site.engine.answers[b"2"].refused == (signals == 2)
    assert len(site.runs) == 3 - signals


@pytest.mark.parametrize(("code", "rests"), [("containment", [5, 5, 5]), ("claude_not_found", [5, 10, 20])])
def test_what_a_node_is_not_fit_for_keeps_it_from_others_for_a_moment(
    site: Site, code: str, rests: list[int]
) -> None:
    """And is no task that it has done."""

    async def act() -> None:
        seen = []
        for number in range(3):
            token = bytes([number])
            site.engine.put(job(str(number)), token)
            run = await site.working(number + 1)
            run.done = Done("n-1", "host", trouble=Trouble(code, "not here"), refused=True)
            run.over.set()
            await until(lambda count=number + 1: len(site.engine.answers) == count)  # type: ignore[misc]
            seen.append(site.node._rests_until - site.now)
            site.now += HOUR
        assert seen == rests
        assert site.node._state().done == 0

    site.live(act)


def test_under_pressure_a_node_takes_nothing_and_says_why(site: Site) -> None:
    async def act() -> None:
        site.pressed = "memory is low"
        await until(lambda: site.node._state().standing == "full")
        site.engine.put(job())
        await site.shown()
        assert site.engine.waiting, "it is free for others"
        assert site.node._state().why == "memory is low"
        site.pressed = ""
        (await site.working()).over.set()
        await until(lambda: site.engine.answers)
        assert site.node._state().standing == "open"

    site.live(act)


def test_what_was_spent_today_outlives_the_node_and_ends_with_the_day(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        site.engine.put(job())
        (await site.working()).over.set()
        await until(lambda: site.engine.answers)
        assert site.node._state().cost_today == 0.5

    site.live(act)
    site.node = site.made()
    assert site.node._state().cost_today == 0.5
    assert site.node._state().done == 0
    monkeypatch.setattr(time, "strftime", lambda _form: "tomorrow")
    assert site.node._state().cost_today == 0.0


def test_a_full_disk_at_the_end_loses_no_answer_and_begins_nothing_twice(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        site.engine.put(job())
        run = await site.working()
        with monkeypatch.context() as patch:
            disk_is_full(patch)
            run.over.set()
            await until(lambda: site.engine.answers)
        assert site.engine.answers[b"1"].result == result()
        site.engine.put(job(), b"again")
        await until(lambda: b"again" in site.engine.answers)

    site.live(act)
    again = site.engine.answers[b"again"]
    assert again.trouble is not None
    assert again.trouble.code == "claimed"
    assert again.begun, "nobody may take it for something that was not begun"
    assert not again.exact
    assert len(site.runs) == 1


def test_cancelled_before_the_node_has_told_that_it_has_it(site: Site) -> None:
    async def act() -> None:
        site.engine.cancelled.add(b"1")
        site.engine.put(job())
        await until(lambda: site.engine.answers)
        site.engine.gone.add(b"2")
        site.engine.put(job("gone"), b"2")
        await until(lambda: not site.engine.waiting and not site.held)

    site.live(act)
    assert site.engine.answers[b"1"].refused
    assert site.engine.answers.keys() == {b"1"}
    assert not site.runs


def test_cancelled_between_its_claim_and_its_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    claiming, go_on = threading.Event(), threading.Event()
    real = site.folder.claim

    def slow(name: str) -> bool:
        claiming.set()
        assert go_on.wait(20)
        return real(name)

    async def act() -> None:
        monkeypatch.setattr(site.folder, "claim", slow)
        site.engine.put(job())
        await until(claiming.is_set)
        site.engine.cancelled.add(b"1")
        await site.beaten()
        go_on.set()
        await until(lambda: site.engine.answers)

    site.live(act)
    assert [run.begun for run in site.runs] == [False]


@pytest.mark.parametrize(
    "what",
    [
        job(protocol=PROTOCOL + 1),
        job(protocol=PROTOCOL - 1),
        job(asked=("workDir", "limits.maxFuel")),
        b"{}",
        b"",
        b"\xff",
        b'{"id": 1}',
    ],
)
def test_what_another_version_has_submitted_is_not_begun(site: Site, what: Assignment | bytes) -> None:
    async def act() -> None:
        site.engine.put(what)
        await until(lambda: site.engine.answers)
        site.engine.put(job("ours"), b"2")  # and it keeps nobody from the rest
        (await site.working()).over.set()
        await until(lambda: b"2" in site.engine.answers)

    site.live(act)
    done = site.engine.answers[b"1"]
    assert done.refused
    assert not done.begun
    assert done.trouble is not None
    assert done.trouble.code == "version"
    assert [run.job.task for run in site.runs] == ["ours"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_node_that_is_not_logged_in_takes_nothing_more(site: Site, status: int) -> None:
    async def act() -> None:
        site.engine.put(job())
        run = await site.working()
        refused = result(Outcome.FAILED, api_status=status, error="log in", turns=0)
        run.done = msgspec.structs.replace(run.done, result=refused)
        run.over.set()
        await until(lambda: site.engine.answers)
        site.engine.put(job("next"), b"2")
        await until(site.running.done)

    site.live(act)
    assert site.engine.waiting, "it is there for others"
    assert any("not logged in" in line for line in site.said)


def test_what_is_given_out_twice_is_done_once_and_answered_alike(site: Site) -> None:
    async def act() -> None:
        site.engine.put(job())
        (await site.working()).over.set()
        await until(lambda: site.engine.answers)
        site.engine.put(job(), b"2")
        await until(lambda: b"2" in site.engine.answers)

    site.live(act)
    assert site.engine.answers[b"1"] == site.engine.answers[b"2"]
    assert len(site.runs) == 1
