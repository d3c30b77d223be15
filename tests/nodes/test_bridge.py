"""The bridge at an engine that is made up: whatever fails between them, an id is begun once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from temporalio import exceptions
from temporalio.client import ActivityFailureError
from temporalio.exceptions import (
    ActivityAlreadyStartedError,
    CancelledError,
    TerminatedError,
    TimeoutType,
)
from temporalio.service import RPCError, RPCStatusCode

from cms.batch.remote import (
    MOST,
    Assignment,
    CancelJob,
    Card,
    Done,
    Ended,
    Event,
    Repo,
    Submit,
    own_queue,
    queue_of,
)
from cms.fleet.machine import steady
from cms.nodes import artifacts
from cms.nodes import bridge as bridge_module
from cms.nodes.bridge import Bridge
from cms.nodes.checkout import CheckoutError
from cms.nodes.engine import Engine, identity_of
from cms.session.model import DelegateResult, Outcome, Safety, SessionOptions

DAY = 86400.0
#: By the engine's clock, which nobody else's is like.
NOW = 4e9
CARD = Card("n-1", "host", 1, "0.1")
RESULT = DelegateResult(Outcome.COMPLETED, "t-1", "", None, 0.5, 3, 1000, (), True, Safety(), session_id="s")
DONE = Done("n-1", "host", refused=True)


def timed_out(kind: TimeoutType) -> exceptions.TimeoutError:
    return exceptions.TimeoutError("", type=kind, last_heartbeat_details=[])


def submit(prompt: str = "do it", **keys: Any) -> Submit:
    job = Assignment("b/t/1", "b", "t", "t-1", "0.1", SessionOptions("t", "/work"), prompt)
    return Submit(job, **keys)


class Activity:
    """What an engine knows of one id."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.asked_to_end = False
        self.over = asyncio.Event()
        self.end: bytes | BaseException = b""
        self.worker = ""  # the identity of who took it

    def ends(self, end: Done | BaseException) -> None:
        self.end = msgspec.json.encode(end) if isinstance(end, Done) else end
        self.over.set()


class FakeEngine:
    """Attributes:
    silent: how many of the next calls get no answer.
    swallowed: of these, those that are done all the same.
    """

    def __init__(self) -> None:
        self.known: dict[str, Activity] = {}
        self.known_by, self.retention = "ns", 30 * DAY
        self.silent = 0
        self.most = MOST
        self.swallowed = 0
        self.client = self

    async def cards(self) -> tuple[Card, ...]:
        return (CARD,)

    def _call(self) -> None:
        if self.silent:
            self.silent -= 1
            raise RPCError("no answer", RPCStatusCode.UNAVAILABLE, b"")

    async def start_activity(self, kind: str, packed: bytes, **keys: Any) -> None:
        if len(packed) > self.most:
            raise RPCError("input exceeds length limit", RPCStatusCode.INVALID_ARGUMENT, b"")
        name = keys["id"]
        if not self.swallowed:
            self._call()
        if name in self.known:
            raise ActivityAlreadyStartedError(name, kind)
        self.known[name] = Activity(keys["task_queue"])
        assert keys["retry_policy"].maximum_attempts == 1
        if self.swallowed:
            self.swallowed -= 1
            raise RPCError("the answer is lost", RPCStatusCode.UNAVAILABLE, b"")

    def get_activity_handle(self, name: str, **_: object) -> Handle:
        return Handle(self, name)


class Handle:
    def __init__(self, engine: FakeEngine, name: str) -> None:
        self._engine, self._id = engine, name

    def _activity(self) -> Activity:
        self._engine._call()
        if self._id not in self._engine.known:
            raise RPCError("unknown", RPCStatusCode.NOT_FOUND, b"")
        return self._engine.known[self._id]

    async def describe(self, **_: object) -> Any:
        return Seen(self._activity())

    async def result(self) -> bytes:
        activity = self._activity()
        await activity.over.wait()
        if isinstance(activity.end, BaseException):
            raise ActivityFailureError(cause=activity.end)
        return activity.end

    async def cancel(self, **_: object) -> None:
        activity = self._activity()
        activity.asked_to_end = True
        if not activity.worker:
            activity.ends(CancelledError())


class Seen:
    """What a description says."""

    status = "over"

    def __init__(self, activity: Activity) -> None:
        self.last_started_time = 1.0 if activity.worker else None
        self.last_worker_identity = activity.worker


class Site:
    """An engine, and bridges to it."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.told: list[Event] = []

    def bridge(self) -> Bridge:
        made = Bridge(cast("Engine", self.engine))
        made._engine_ahead = NOW - steady()
        return made

    async def ended(self, count: int = 1) -> list[Ended]:
        await until(lambda: len(self._ends()) >= count)
        return self._ends()

    def _ends(self) -> list[Ended]:
        return [event for event in self.told if isinstance(event, Ended)]

    async def known(self) -> Activity:
        await until(lambda: self.engine.known)
        return self.engine.known["b/t/1"]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site()
    monkeypatch.setattr(bridge_module, "tell", made.told.append)
    return made


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - of many kinds
            await asyncio.sleep(0.005)


def run(act: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await act()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(whole())


@pytest.mark.parametrize("swallowed", [0, 1])
def test_a_submission_without_an_answer_is_made_again_under_its_id(site: Site, swallowed: int) -> None:
    site.engine.silent, site.engine.swallowed = 2 * (not swallowed), swallowed

    async def act() -> None:
        site.bridge()._obey(submit())
        (await site.known()).ends(DONE)
        assert await site.ended() == [Ended("b/t/1", "done", DONE, node="n-1")]

    run(act)
    assert len(site.engine.known) == 1


@pytest.mark.parametrize("again", [False, True])
def test_two_heads_that_go_on_with_a_batch_follow_the_same_try(site: Site, *, again: bool) -> None:
    async def act() -> None:
        command = submit(again=again, since=NOW, engine="ns" if again else "")
        for _ in range(2):
            site.bridge()._obey(command)
        (await site.known()).ends(DONE)
        first, second = await site.ended(2)
        assert first == second
        assert first.how == "done"

    run(act)


@pytest.mark.parametrize(
    ("since", "engine"),
    [(0.0, "ns"), (NOW - 31 * DAY, "ns"), (NOW + DAY, "ns"), (time.time(), "ns"), (NOW - 60, "another")],
    ids=["ever", "too long ago", "its clock was set", "by another clock", "another engine"],
)
def test_what_an_engine_may_have_forgotten_is_not_submitted_again(
    site: Site, since: float, engine: str
) -> None:
    async def act() -> None:
        site.bridge()._obey(submit(again=True, since=since, engine=engine))
        (ended,) = await site.ended()
        assert ended.how == "lost"

    run(act)
    assert not site.engine.known


def test_cancelled_before_it_is_submitted(site: Site) -> None:
    async def act() -> None:
        one = site.bridge()
        one._obey(submit())
        one._obey(CancelJob("b/t/1", "not wanted"))
        assert await site.ended() == [Ended("b/t/1", "unbegun", reason="not wanted")]

    run(act)
    assert not site.engine.known


def test_cancelled_while_nobody_knows_whether_it_was_submitted(site: Site) -> None:
    """Then it is submitted to its end, and cancelled there: else it might be begun after all."""
    site.engine.swallowed = 1

    async def act() -> None:
        one = site.bridge()
        one._obey(submit())
        await site.known()
        one._obey(CancelJob("b/t/1", "not wanted"))
        assert await site.ended() == [Ended("b/t/1", "unbegun", reason="not wanted")]
        assert isinstance(site.engine.known["b/t/1"].end, CancelledError)

    run(act)


def test_cancelled_while_a_node_takes_it(site: Site) -> None:
    """Its node has the last word: it may have begun."""

    async def act() -> None:
        one = site.bridge()
        one._obey(submit())
        activity = await site.known()
        activity.worker = identity_of(CARD)
        one._obey(CancelJob("b/t/1", "not wanted"))
        await until(lambda: activity.asked_to_end)
        assert not site.told
        activity.ends(DONE)
        assert await site.ended() == [Ended("b/t/1", "done", DONE, node="n-1")]

    run(act)


@pytest.mark.parametrize(
    ("cause", "taken", "how", "says"),
    [
        (timed_out(TimeoutType.HEARTBEAT), True, "lost", "no heartbeat"),
        (TerminatedError(""), True, "lost", "terminated"),
        (CancelledError(), True, "lost", "has not reported"),
        (timed_out(TimeoutType.SCHEDULE_TO_START), False, "unbegun", "no node took it"),
        (CancelledError(), False, "unbegun", "before it started"),
    ],
)
def test_what_the_engine_ended_is_lost_unless_nobody_had_taken_it(
    site: Site, cause: BaseException, how: str, says: str, *, taken: bool
) -> None:
    async def act() -> None:
        site.bridge()._obey(submit())
        activity = await site.known()
        activity.worker = identity_of(CARD) if taken else ""
        site.engine.silent = 1  # and it is asked again over an outage
        activity.ends(cause)
        (ended,) = await site.ended()
        assert ended.how == how
        assert says in ended.reason
        assert ended.node == ("n-1" if taken else "")

    run(act)


def test_an_answer_that_makes_no_sense_is_lost(site: Site) -> None:
    async def act() -> None:
        site.bridge()._obey(submit())
        activity = await site.known()
        activity.end = b'{"of": "another version"}'
        activity.over.set()
        (ended,) = await site.ended()
        assert ended.how == "lost"

    run(act)


def test_an_answer_that_nobody_can_take_has_failed_at_its_cost(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told that, and where it is: a longer line would be the end of whoever reads it, each time."""
    monkeypatch.setattr(bridge_module, "LONGEST", 10_000)
    came = DelegateResult(
        Outcome.COMPLETED, "t-1", "", None, 0.5, 3, 1000, (), True, Safety(), session_id="s"
    )
    beside = {"patch": artifacts.store(str(tmp_path), b"x" * 10_000)}

    async def act() -> None:
        command = submit()
        job = msgspec.structs.replace(command.job, artifacts=str(tmp_path))
        site.bridge()._obey(msgspec.structs.replace(command, job=job))
        (await site.known()).ends(Done("n-1", "host", came, begun=True, cost=0.5, beside=beside))
        (ended,) = await site.ended()
        assert ended.done is not None
        assert ended.done.result is not None
        assert (ended.done.result.status, ended.done.result.cost) == (Outcome.FAILED, 0.5)
        assert beside["patch"] in (ended.done.result.error or "")

    run(act)


@pytest.mark.parametrize("there", [True, False])
def test_what_a_branch_has_is_fetched(site: Site, monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    """Where it cannot be, the task has completed all the same: the branch is there."""

    def read(url: str, branch: str, commit: str) -> str:
        if not there:
            raise CheckoutError("no network")
        return f"{url} {branch} {commit}"

    monkeypatch.setattr(bridge_module, "read_branch", read)
    command = submit()
    command = msgspec.structs.replace(
        command, job=msgspec.structs.replace(command.job, repo=Repo("file:///x"))
    )
    told = msgspec.structs.replace(DONE, result=RESULT, branch="cms/b/t", commit="c", fetch=True)

    async def act() -> None:
        site.bridge()._obey(command)
        (await site.known()).ends(told)
        (ended,) = await site.ended()
        done = ended.done
        assert done is not None
        assert done.result is not None
        assert done.result.status is Outcome.COMPLETED
        assert done.patch == ("file:///x cms/b/t c" if there else "")
        assert done.branch == "cms/b/t"
        assert bool(done.result.reasons) is not there

    run(act)


def test_what_the_engine_never_takes_is_not_begun(site: Site) -> None:
    """One that is set up to take less than others: to ask it again would be for ever."""
    site.engine.most = 100

    async def act() -> None:
        site.bridge()._obey(submit("x" * 1000))
        (ended,) = await site.ended()
        assert ended.how == "unbegun"
        assert "input exceeds" in ended.reason

    run(act)
    assert not site.engine.known


def test_what_is_too_large_is_not_submitted(site: Site) -> None:
    async def act() -> None:
        site.bridge()._obey(submit("x" * (MOST + 1)))
        (ended,) = await site.ended()
        assert ended.how == "unbegun"
        assert "--artifacts" in ended.reason

    run(act)
    assert not site.engine.known


@pytest.mark.parametrize(
    ("keys", "queue"), [({"node": "n-1"}, own_queue("n-1")), ({"label": "gpu"}, queue_of("gpu"))]
)
def test_what_goes_on_goes_to_its_own_node(site: Site, keys: dict[str, str], queue: str) -> None:
    async def act() -> None:
        site.bridge()._obey(submit(**keys))
        assert (await site.known()).queue == queue

    run(act)
