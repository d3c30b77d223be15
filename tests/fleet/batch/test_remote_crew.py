"""The tasks of a batch at nodes, without any: what is said to the bridge, and what is made of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from cms.batch import retry
from cms.batch.ends import AtWork, Report
from cms.batch.model import (
    BatchOptions,
    BatchRecord,
    BatchStatus,
    Place,
    Task,
    TaskOptions,
    TaskResult,
    TaskStatus,
)
from cms.batch.remote import (
    PROTOCOL,
    CancelJob,
    Card,
    Command,
    Done,
    Ended,
    Pulse,
    Ready,
    Submit,
    Trouble,
)
from cms.batch.retry import Remains
from cms.errors import EngineUnavailable, UsageError
from cms.fleet import remote_crew
from cms.fleet.crew import Elsewhere, Job, Lost, NotDone
from cms.fleet.remote_crew import RemoteCrew
from cms.session.model import DelegateResult, Outcome, Safety, SessionOptions

CARD = Card("n-1", "host", 2, "0.1")
OTHER = msgspec.structs.replace(CARD, id="n-2")
FOREIGN = Card("n-3", "host", 2, "0.9", protocol=PROTOCOL + 1)
TASK = Task(0, "t", 1, TaskStatus.RUNNING, TaskOptions(SessionOptions("t", "/w"), "p"), tries=1)


def result(status: Outcome = Outcome.COMPLETED, **keys: Any) -> DelegateResult:
    made = DelegateResult(status, "t-1", "r", None, 0.5, 3, 1000, ("Bash",), True, Safety(), session_id="s")
    return msgspec.structs.replace(made, **keys)


def done(**keys: Any) -> Done:
    return msgspec.structs.replace(Done("n-1", "host"), **keys)


class Crew(RemoteCrew):
    """With a bridge that is made up.

    Attributes:
        said: to it.
    """

    def __init__(self, label: str = "", cards: tuple[Card, ...] = (CARD,)) -> None:
        options = BatchOptions("/w", on="temporal://h:1/ns", label=label)
        super().__init__(BatchRecord("b", 0.0, BatchStatus.RUNNING, options), Path("/none"), {})
        self.said: list[Command] = []
        self._take_cards(cards)

    async def _say(self, command: Command) -> None:
        self.said.append(command)
        await trio.lowlevel.checkpoint()

    async def outcome(self, ended: Ended, *before: Pulse, task: Task = TASK) -> Report:
        """What a try comes to that ends so."""
        found: list[Report | Exception] = []
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                try:
                    found.append(await self.do(Job(task, "p"), lambda _: None))
                except (Elsewhere, Lost, NotDone) as error:
                    found.append(error)

            nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            for pulse in before:
                self._ways[ended.id].pulse = pulse
            self._take(ended)
        (what,) = found
        if isinstance(what, Exception):
            raise what
        return what


@pytest.mark.parametrize(
    ("ended", "kind", "says"),
    [
        (done(trouble=Trouble("containment", "E is too weak"), refused=True), Elsewhere, "E is too weak"),
        (done(trouble=Trouble("version", "of another cms"), refused=True), Elsewhere, "of another cms"),
        (done(trouble=Trouble("home_unusable", "disk full"), refused=True), Elsewhere, "disk full"),
        (done(trouble=Trouble("claimed", "begun before"), begun=True, exact=False), Lost, "begun before"),
        (done(trouble=Trouble("store", "disk full"), begun=True, cost=0.2), Lost, "disk full"),
        (done(trouble=Trouble("artifact", "too large")), NotDone, "too large"),
        (Ended("b/t/1", "lost", reason="no heartbeat for 60 s", node="n-1"), Lost, "no heartbeat"),
        (Ended("b/t/1", "unbegun", reason="too large without --artifacts"), NotDone, "--artifacts"),
    ],
)
async def test_what_came_to_nothing(ended: Done | Ended, kind: type[Exception], says: str) -> None:
    """Only what was never begun may be begun elsewhere; all else is lost, at what it has cost by then."""
    crew = Crew()
    whole = ended if isinstance(ended, Ended) else Ended("b/t/1", "done", ended, node="n-1")
    with pytest.raises(kind, match=says) as caught:
        await crew.outcome(whole, Pulse("n-1", cost=0.3))
    error = caught.value
    if isinstance(error, Lost):
        assert error.cost == (0.3 if whole.done is None else whole.done.cost)
    if isinstance(error, NotDone):
        assert not error.begun
    assert [type(command) for command in crew.said] == [Submit]
    assert not crew._ways


async def test_what_is_too_long_to_hand_over_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_crew, "LONGEST", 10_000)
    record = BatchRecord("b", 0.0, BatchStatus.RUNNING, BatchOptions("/w", on="temporal://h:1/ns"))
    with pytest.raises(NotDone, match="bytes long; 10000 can"):
        await RemoteCrew(record, Path("/none"), {}).do(Job(TASK, "p" * 10_000), lambda _: None)


async def test_a_node_that_is_not_logged_in_has_another_do_it() -> None:
    refused = result(Outcome.FAILED, api_status=401, error="log in", turns=0)
    ended = Ended("b/t/1", "done", done(result=refused, begun=True), node="n-1")
    with pytest.raises(Elsewhere, match="not logged in"):
        await Crew(cards=(CARD, OTHER)).outcome(ended)
    for cards in ((CARD,), (CARD, FOREIGN)):  # nobody else could: the batch has to know
        assert (await Crew(cards=cards).outcome(ended)).result.api_status == 401


async def test_when_a_try_was_begun_is_told_by_the_engine_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """And by seconds that pass here, whatever our own clock says."""
    hours = [1000.0]
    monkeypatch.setattr(remote_crew, "steady", lambda: hours[0])
    crew = Crew()
    assert crew.now() is None, "nobody knows yet"
    crew._hear(Ready("ns", (CARD,), now=4e9))
    hours[0] += 3600
    assert crew.now() == 4e9 + 3600


async def test_what_goes_on_does_so_at_its_node() -> None:
    place = Place("n-2", "host", "t-77")
    task = msgspec.structs.replace(TASK, tries=2, go_on=True, result=TaskResult(place=place))
    crew = Crew(cards=(CARD, OTHER))
    lost = Ended("b/t/2", "unbegun", reason="no node took it")
    with pytest.raises(NotDone, match="node n-2"):
        await crew.outcome(lost, task=task)
    (submit,) = crew.said
    assert isinstance(submit, Submit)
    assert (submit.node, submit.job.session, submit.job.go_on) == ("n-2", "t-77", True)
    assert submit.job.prompt == retry.GO_ON
    assert submit.job.id == "b/t/2", "no id is used twice"


@pytest.mark.parametrize(
    ("ended", "found"),
    [
        (Ended("b/t/1", "unbegun", reason="not wanted"), Remains(sent=False, exact=True, cost=0.0)),
        (Ended("b/t/1", "done", done(refused=True)), Remains(sent=False, exact=True, cost=0.0)),
        (Ended("b/t/1", "unknown"), AtWork()),
        (
            Ended("b/t/1", "done", done(result=result(Outcome.INTERRUPTED), begun=True, allowed=("Bash",))),
            "remains",
        ),
        (Ended("b/t/1", "done", done(result=result(), begun=True)), "report"),
        (Ended("b/t/1", "lost", reason="no heartbeat"), "lost"),
    ],
)
async def test_cancelled_while_it_is_handed_over(ended: Ended, found: object) -> None:
    """Whatever its node had done by then is heard, and told once it is looked at."""
    crew, scope = Crew(), trio.CancelScope()

    async def work() -> None:
        with scope:
            await crew.do(Job(TASK, "p"), lambda _: None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(crew.said[-1], CancelJob)
        assert crew._ways, "it waits for what its node says"
        crew._take(ended)
    if found == "lost":
        with pytest.raises(Lost, match="no heartbeat"):
            await crew.look(TASK, check=False)
        return
    seen = await crew.look(TASK, check=False)
    if found == "remains":
        assert isinstance(seen, Remains)
        assert seen.place == Place("n-1", "host", crew._session_of(TASK))
        assert seen.cost == 0.5
    elif found == "report":
        assert isinstance(seen, Report)
        assert seen.result.status is Outcome.COMPLETED
    else:
        assert seen == found
    assert sum(isinstance(command, Submit) for command in crew.said) == 1


async def test_a_plan_goes_by_the_slots_of_those_that_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(_crew: RemoteCrew) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(RemoteCrew, "prepare", asked)
    assert await Crew(cards=(CARD, OTHER, FOREIGN)).slots() == 4


async def test_a_head_that_goes_lets_its_tries_be() -> None:
    crew = Crew()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crew.do, Job(TASK, "p"), lambda _: None)
        await trio.testing.wait_all_tasks_blocked()
        crew.let_go()
        nursery.cancel_scope.cancel()
    assert [type(command) for command in crew.said] == [Submit]
    assert await crew.look(TASK, check=False) == AtWork()


async def test_what_is_unknown_is_followed_under_its_id_and_not_begun_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crew = Crew()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crew.do, Job(TASK, "p"), lambda _: None)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            crew._take(Ended("b/t/1", "unknown"))
            await trio.sleep(60)
        crew._take(Ended("b/t/1", "done", done(result=result(), begun=True)))
    submits = [command for command in crew.said if isinstance(command, Submit)]
    assert [command.again for command in submits] == [False, True, True, True]
    assert {command.job.id for command in submits} == {"b/t/1"}


@pytest.mark.parametrize(
    ("label", "cards", "kind", "says"),
    [
        ("", (), EngineUnavailable, "no node takes tasks"),
        ("", (FOREIGN,), UsageError, "0.9"),
        ("gpu", (CARD,), UsageError, "the label 'gpu'"),
        ("gpu", (CARD, msgspec.structs.replace(FOREIGN, labels=("gpu",))), UsageError, "the label 'gpu'"),
    ],
)
async def test_nodes_that_can_do_none_of_it(
    label: str, cards: tuple[Card, ...], kind: type[Exception], says: str
) -> None:
    with pytest.raises(kind, match=says):
        Crew(label)._check_nodes(cards)


async def test_nodes_of_another_version_are_no_slots() -> None:
    crew = Crew(cards=(CARD, FOREIGN))
    crew._check_nodes((CARD, FOREIGN))
    assert crew.room() == 3
    crew._take_cards((FOREIGN,))
    assert crew.room() == 1
    crew._note("")
    assert "no node takes its tasks" in crew.word()
