"""What a page is told: all of it first, then what is new and nothing else. The daemon is a script."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cli import making
from cli.scripted import Answer, serve
from cms.batch.model import BatchOptions, BatchRecord, BatchStatus, TaskStatus
from cms.config import load_settings
from cms.errors import SessionNotFound
from cms.page.data import Event
from cms.rpc.batches import BatchResult, BatchScoresResult, BatchTasksResult
from cms.rpc.overview import OverviewResult
from cms.rpc.questions import QuestionsResult
from cms.rpc.sessions import InteractionsResult, SessionsResult
from cms.session.model import LiveSession, Outcome, Record, SessionStatus
from cms.view import feeds
from cms.view.ask import Daemon
from cms.view.feeds import BatchFeed, Feed, SessionFeed, SessionsFeed
from page.test_document import task

#: What no page may be told.
SECRETS = {
    "settings": '{"apiKeyHelper": "SECRET"}',
    "system_prompt": "SECRET",
    "append_system_prompt": "SECRET",
    "mcp_config": ("SECRET",),
    "judge": "SECRET",
}


class World:
    """What the daemon says, by verb."""

    def __init__(self) -> None:
        record = making.session("one", status=SessionStatus.STOPPED, pid=None)
        options = msgspec.structs.replace(record.options, **SECRETS)
        self.record = msgspec.structs.replace(record, options=options, begun_in={"TOKEN": "SECRET"})
        self.live: tuple[LiveSession, ...] = ()
        self.batch = BatchRecord(
            "b", 1.0, BatchStatus.RUNNING, BatchOptions("/x"), 2, {TaskStatus.RUNNING: 2}, started=1.0
        )
        self.tasks = [task("t-0", TaskStatus.RUNNING), task("t-1", TaskStatus.RUNNING)]
        self.asked: list[str] = []

    def answer(self, verb: str) -> Answer:
        self.asked.append(verb)
        answers: dict[str, Answer] = {
            "sessions.overview": OverviewResult(self.live, 3.5, making.NOW),
            "session.list": SessionsResult((self.record,), 1.0, 7, outcomes={self.record.id: Outcome.FAILED}),
            "session.interactions": InteractionsResult(self.record, (making.interaction(),)),
            "sessions.questions": QuestionsResult((), ()),
            "batch.get": BatchResult(self.batch),
            "batch.scores": BatchScoresResult((), {"opus": 1.0}),
            "batch.tasks": BatchTasksResult(tuple(self.tasks)),
        }
        return answers[verb]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def daemon(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("CMS_HOME", str(tmp_path / "home"))
    names = (
        "sessions.overview", "session.list", "session.interactions", "sessions.questions", "batch.get",
        "batch.scores", "batch.tasks",
    )  # fmt: skip

    def said(verb: str) -> object:
        return lambda _: world.answer(verb)

    script = {verb: said(verb) for verb in names}
    with serve(tmp_path / "home", script):  # type: ignore[arg-type]
        here = Daemon(load_settings())
        yield here
        here.close()


def told(feed: Feed) -> dict[str, dict[str, object]]:
    found: list[Event] = list(feed.poll())
    assert b"SECRET" not in msgspec.json.encode(found)
    return {name: msgspec.json.decode(msgspec.json.encode(value)) for name, value in found}


def test_all_sessions_then_what_is_new(world: World, daemon: Daemon) -> None:
    feed = SessionsFeed(daemon)
    (row,) = msgspec.convert(told(feed)["sessions"]["sessions"], list[dict[str, object]])
    assert (row["name"], row["state"], row["openQuestions"]) == ("one", "failed", 0)
    assert told(feed) == {}
    assert world.asked.count("session.list") == 1, "not each second"
    record = msgspec.structs.replace(world.record, status=SessionStatus.BUSY)
    world.live = (LiveSession(record, "Bash x", False, 0, 1, 3, 1024),)
    (row,) = msgspec.convert(told(feed)["sessions"]["sessions"], list[dict[str, object]])
    assert (row["state"], row["activity"], row["openQuestions"]) == ("busy", "Bash x", 1)
    world.live = (LiveSession(record, "Read y", False, 0, 0, 3, 9),)
    assert told(feed)["sessions"]["total"] == 7
    assert world.asked.count("session.list") == 2, "when one began or ended, and now and then"


def test_a_session(world: World, daemon: Daemon) -> None:
    feed = SessionFeed(daemon, "one")
    first = told(feed)
    assert sorted(first) == ["cost", "session"]
    assert "sessions.overview" not in world.asked, "it has no process"
    assert told(feed) == {}
    world.record = msgspec.structs.replace(world.record, total_turns=9)
    assert msgspec.convert(told(feed)["session"]["session"], dict[str, object])["totalTurns"] == 9


def test_of_a_batch_only_the_tasks_that_are_new(
    world: World, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeds, "_RESTS", 0.0)
    feed = BatchFeed(daemon, "b")
    assert [one["name"] for one in tasks_of(told(feed))] == ["t-0", "t-1"]
    assert told(feed) == {}
    world.tasks[1] = task("t-1", TaskStatus.COMPLETED)
    world.batch = msgspec.structs.replace(
        world.batch, counts={TaskStatus.RUNNING: 1, TaskStatus.COMPLETED: 1}, spent=0.1
    )
    news = told(feed)
    assert news["tasks"]["from"] == 1
    assert [(one["name"], one["place"], one["status"]) for one in tasks_of(news)] == [("t-1", 1, "completed")]


def tasks_of(events: dict[str, dict[str, object]]) -> list[dict[str, object]]:
    return msgspec.convert(events["tasks"]["tasks"], list[dict[str, object]])


def test_a_kept_connection_that_was_lost_is_made_anew(daemon: Daemon) -> None:
    assert "sessions" in told(SessionsFeed(daemon))
    for client in daemon._idle:
        client._socket.shutdown(socket.SHUT_RDWR)
    assert "sessions" in told(SessionsFeed(daemon))


def test_what_the_daemon_refuses_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMS_HOME", str(tmp_path / "home"))

    def gone(_: Record) -> Answer:
        return SessionNotFound("one")

    with serve(tmp_path / "home", {"session.interactions": gone}):
        daemon = Daemon(load_settings())
        with pytest.raises(SessionNotFound):
            list(SessionFeed(daemon, "one").poll())
        daemon.close()
