"""The verbs around a session's life, over a real socket, on a supervisor without processes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from cms.rpc.money import CostParams, CostResult
from cms.rpc.overview import OverviewResult
from cms.rpc.questions import AnswerParams, AnswerResult, QuestionsParams, QuestionsResult
from cms.rpc.sessions import (
    CleanupParams,
    CleanupResult,
    Deleted,
    DeleteParams,
    PauseParams,
    SessionResult,
    WaitParams,
    WaitResult,
)
from cms.rpc.verbs import Nothing
from cms.rpc.wire import Cancel
from cms.session.model import LiveSession, Record, SessionStatus, TokenUsage
from cms.session.questions import AskedQuestion, Choice, OpenQuestion, PersonAnswer
from cms.store.records import Total
from daemon.fake import options
from daemon.harness import Peer, open_house

R = TypeVar("R", bound=Record)


async def ask(peer: Peer, method: str, params: Record, kind: type[R]) -> R:
    line = await peer.ask(7, method, params)
    assert line.error is None, line.error
    return msgspec.json.decode(line.result, type=kind)


async def refused(peer: Peer, method: str, params: Record) -> str:
    line = await peer.ask(7, method, params)
    assert line.error is not None
    assert line.error.data is not None
    return line.error.data.code


def question(name: str, number: str) -> OpenQuestion:
    asked = AskedQuestion("Which?", "", (Choice("A"), Choice("B")))
    return OpenQuestion(name, number, "question", "AskUserQuestion", "", (asked,), 1.0, 601.0)


async def test_pausing_and_deleting(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await house.supervisor.create(options("one"))
        assert await refused(peer, "session.pause", PauseParams("one")) == "wrong_status"
        await house.supervisor.submit("one", "hang", type="send")
        paused = await ask(peer, "session.pause", PauseParams("one", freeze=True), SessionResult)
        assert paused.session.status is SessionStatus.PAUSED
        assert await refused(peer, "session.delete", DeleteParams("one")) == "wrong_status"
        gone = await ask(peer, "session.delete", DeleteParams("one", force=True), Deleted)
        assert (gone.session.name, gone.log, gone.log_bytes) == ("one", "/trash/one", 10)
        assert "one" not in house.supervisor.records


async def test_cleanup_deletes_what_is_old_and_lists_what_lives(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        for name in ("old", "new", "alive"):
            await house.supervisor.create(options(name))
        await house.supervisor.submit("alive", "hang", type="send")
        for name in ("old", "alive"):
            record = house.supervisor.records[name]
            house.supervisor.records[name] = msgspec.structs.replace(record, last_saved=0.0)
        dry = await ask(peer, "sessions.cleanup", CleanupParams(7, dry_run=True), CleanupResult)
        assert [one.session.name for one in dry.deleted] == ["old"]
        assert set(house.supervisor.records) == {"old", "new", "alive"}
        done = await ask(peer, "sessions.cleanup", CleanupParams(7), CleanupResult)
        assert [one.session.name for one in done.deleted] == ["old"]
        assert [one.name for one in done.live] == ["alive"]
        assert set(house.supervisor.records) == {"new", "alive"}
        forced = await ask(peer, "sessions.cleanup", CleanupParams(7, force=True, purge=True), CleanupResult)
        assert [(one.session.name, one.log) for one in forced.deleted] == [("alive", "")]


async def test_waiting_for_all_for_the_first_and_for_a_while(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        for name in ("a", "b", "c"):
            await house.supervisor.create(options(name))
        house.supervisor.quiet = {"a": trio.Event(), "b": trio.Event()}
        assert await refused(peer, "sessions.wait", WaitParams(("a", "nobody"))) == "not_found"
        first = await ask(peer, "sessions.wait", WaitParams(("a", "c"), first=True), WaitResult)
        assert ([one.session.name for one in first.done], first.waiting) == (["c"], ("a",))
        late = await ask(peer, "sessions.wait", WaitParams(("a", "c"), timeout=0.01), WaitResult)
        assert (late.timed_out, late.waiting) == (True, ("a",))
        await peer.send(1, "sessions.wait", WaitParams(("b", "a", "b")))
        house.supervisor.quiet["a"].set()
        house.supervisor.quiet["b"].set()
        both = msgspec.json.decode((await peer.answer(1)).result, type=WaitResult)
        assert ([one.session.name for one in both.done], both.timed_out) == (["b", "a"], False)


async def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        await house.supervisor.create(options("a"))
        house.supervisor.quiet = {"a": trio.Event()}
        await peer.send(1, "sessions.wait", WaitParams(("a",)))
        await peer.send(None, "cancel", Cancel(1))
        reply = msgspec.json.decode((await peer.answer(1)).result, type=WaitResult)
        assert (reply.done, reply.waiting, reply.timed_out) == ((), ("a",), False)


async def test_questions_and_a_persons_word(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        for name in ("a", "b"):
            await house.supervisor.create(options(name))
        house.supervisor.open_questions = [question("a", "1"), question("b", "2")]
        said = await house.supervisor.submit("b", "x", type="send")
        house.supervisor.needed = [(house.supervisor.records["b"], said)]
        everything = await ask(peer, "sessions.questions", QuestionsParams(), QuestionsResult)
        assert [one.name for one in everything.open] == ["a", "b"]
        only_a = await ask(peer, "sessions.questions", QuestionsParams("a"), QuestionsResult)
        assert ([one.id for one in only_a.open], only_a.unanswered) == (["1"], ())
        assert await refused(peer, "sessions.questions", QuestionsParams("nobody")) == "not_found"
        assert await refused(peer, "session.answer", AnswerParams("a", ("x", "y"))) == "usage"
        told = await ask(peer, "session.answer", AnswerParams("a", ("b",)), AnswerResult)
        assert (told.session.name, told.question.id, told.left) == ("a", "1", 0)
        assert house.supervisor.words == [PersonAnswer(True, {"Which?": "B"})]
        assert await refused(peer, "session.answer", AnswerParams("a", ("b",))) == "nothing_asked"


async def test_figures(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house, house.peer() as peer:
        record = await house.supervisor.create(options("a"))
        house.supervisor.alive = [LiveSession(record, "Bash ls", False, 1, 2, 3, 4)]
        shown = await ask(peer, "sessions.overview", Nothing(), OverviewResult)
        assert shown.sessions == tuple(house.supervisor.alive)
        house.supervisor.spent = [
            Total("1", TokenUsage(1, 2, 3, 4, 0.5), 2, True, "a"),
            Total("2", TokenUsage(1, 1, 1, 1, 0.25), 1, False, "b"),
        ]
        cost = await ask(peer, "ledger.totals", CostParams("model"), CostResult)
        assert [row.name for row in cost.rows] == ["a", "b"]
        assert cost.total == TokenUsage(2, 3, 4, 5, 0.75)
        assert not cost.exact
        line = await peer.ask(7, "ledger.totals", Nothing())
        assert line.error is None  # everything has a default
