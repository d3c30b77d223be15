"""A file system that does not answer: the call is refused, and nobody else notices.

The links are followed by the real function, or by one that hangs as a network folder does whose server is
gone: its thread cannot be woken by anybody but the server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cms.config import Settings
from cms.errors import DiskTimeout
from cms.live import path_lookup
from cms.protection import links, path_guard, rules
from cms.session.model import Limits, Outcome
from cms.testing.script import call, prompt, say
from fleet.kit import ask, last, make_options, make_settings, proved, start, supervising, until


class Disk:
    """Counts who follows links, and never answers about what is called `hung` before `server_back`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hangs = 0
        self.server_back = threading.Event()
        self._real = links.follow_links

    def follow_links(self, path: str) -> str:
        self.asked.append(Path(path).name)
        if "hung" in path:
            self.hangs += 1
            self.server_back.wait()
        return self._real(path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    for module in (links, rules):
        monkeypatch.setattr(module, "follow_links", disk.follow_links)
    yield disk
    disk.server_back.set()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


def write(name: str) -> str:
    return prompt("Write", call("Write", file_path=name, content="x"), say("done"))


async def test_each_path_of_a_call_is_followed_once(settings: Settings, disk: Disk) -> None:
    async with supervising(settings) as supervisor:
        await start(supervisor)
        words = "many words, each an event. " * 50
        calls = [call("Write", file_path=name, content="x") for name in ("a.txt", "b.txt", "a.txt")]
        await ask(supervisor, "one", prompt("Write", *calls, say(words)))
        assert [name for name in disk.asked if name.endswith(".txt")] == ["a.txt", "b.txt", "a.txt"]


async def test_a_call_that_waits_for_a_person_asks_the_disk_no_more(settings: Settings, disk: Disk) -> None:
    async with supervising(settings) as supervisor:
        await start(supervisor, permission_mode="manual", ask_timeout=60.0)
        sent = await supervisor.submit("one", write("a.txt"), type="send")
        await until(lambda: bool(supervisor.questions()))
        (question,) = supervisor.questions()
        before = disk.asked.count("a.txt")
        for _ in range(20):
            supervisor.live()
            await supervisor.set_cap("day", 100.0)  # news for the session, which decides anew
        assert disk.asked.count("a.txt") == before == 2, "once at the hook, once as a permission question"
        supervisor.answer("one", question.id, ["allow"])
        assert (await supervisor.wait(sent)).outcome is Outcome.COMPLETED
        assert disk.asked.count("a.txt") == 3, "a person may have taken hours"


async def test_a_path_that_hangs_is_refused_and_the_session_goes_on(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_lookup, "PATIENCE", 0.2)
    async with supervising(settings) as supervisor:
        await start(supervisor)
        hung, good = (call("Write", file_path=name, content="x") for name in ("hung/a", "b"))
        reply = await ask(supervisor, "one", prompt("Write", hung, good, say("done")))
        assert (reply.outcome, reply.text) == (Outcome.COMPLETED, "done")
        (denial,) = (await last(supervisor)).denials
        assert (denial.detail, denial.violation) == ("hung/a", False)
        assert "does not answer" in denial.reason or "did not say" in denial.reason
        assert (settings.home.parent / "work/b").exists()
        assert not (settings.home.parent / "work/hung").exists()
        # All threads of the session hang by now: what it asks next is refused in time all the same.
        for _ in range(4):
            await ask(supervisor, "one", write("hung/b"))
        assert (await last(supervisor)).denials[0].detail == "hung/b"
        assert disk.hangs == 4


async def test_while_one_session_hangs_others_work_and_it_can_be_ended(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_lookup, "PATIENCE", 1e6)
    async with supervising(settings) as supervisor:
        for name in ("one", "two"):
            await start(supervisor, name)
        for end in (supervisor.kill, supervisor.stop):
            await supervisor.submit("one", write("hung/a"), type="send")
            before = disk.hangs
            await until(lambda before=before: disk.hangs > before)  # type: ignore[misc]  # mypy: lambda default
            assert (await ask(supervisor, "two", write("b"))).outcome is Outcome.COMPLETED
            proved(await end("one"))


async def test_the_clock_of_the_limits_goes_on_while_the_disk_does_not_answer(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_lookup, "PATIENCE", 1e6)
    async with supervising(settings) as supervisor:
        await start(supervisor, limits=Limits(max_time=0.5))
        await supervisor.resume("one")
        assert (await ask(supervisor, "one", write("hung/a"))).outcome is Outcome.TIME_EXCEEDED


async def test_a_work_dir_that_hangs_is_told_before_anything_is_started(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cms.disk.PATIENCE", 0.2)
    folder = settings.home.parent / "hung"
    folder.mkdir()
    async with supervising(settings) as supervisor:
        await start(supervisor, work_dir=str(folder))
        with pytest.raises(DiskTimeout, match="did not answer"):
            await supervisor.submit("one", "hello", type="send")
        assert supervisor.live_count() == 0


async def test_a_tripwire_that_hangs_is_no_success_and_holds_up_nobody(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether a protected file was changed: that is not `completed`."""
    back = threading.Event()

    def find_new(*_: object) -> tuple[Path, ...]:
        back.wait()
        return ()

    monkeypatch.setattr(path_guard, "find_new", find_new)
    monkeypatch.setattr(path_guard, "PATIENCE", 2.0)
    try:
        async with supervising(settings) as supervisor:
            result = await supervisor.delegate(make_options(settings), prompt("go", say("done")))
            assert result.status is Outcome.FAILED
            assert any("it is unknown whether" in reason for reason in result.reasons)
            assert "did not answer" in (await supervisor.get("one")).error
    finally:
        back.set()
