"""Hooks of messages: what is told of each end and question, to whom, and that it holds up no work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from cms.config import caller
from cms.errors import UsageError
from cms.fleet import session_hooks
from cms.fleet.supervisor import Supervisor
from cms.session.callers import Caller
from cms.session.hooks import Hooks, event_of
from cms.session.model import Interaction, Outcome
from cms.store import hooks as stored
from cms.store.database import Database
from cms.testing.script import call, prompt, say
from fleet.kit import make_options, make_settings, supervising
from receiver import SECRET, receiver

pytest.importorskip("apprise")

ASK = call("AskUserQuestion", questions=[{"question": "Which one?", "header": "H", "options": []}])
HANG = call("Bash", command="sleep 600")


async def send(supervisor: Supervisor, name: str, text: str, hooks: Hooks) -> Interaction:
    await supervisor.hooks.check(hooks)
    interaction = await supervisor.submit(name, text, type="send")
    supervisor.hooks.follow(interaction, hooks)
    return interaction


def lines_of(path: Path) -> list[dict[str, Any]]:
    """What a hook has appended to a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


async def first_line_of(path: Path) -> dict[str, Any]:
    """The same, of one line, once it is there."""
    with trio.fail_after(20):
        while not (await trio.Path(path).exists() and lines_of(path)):  # noqa: ASYNC110 - a hook writes it
            await trio.sleep(0.01)
    (line,) = lines_of(path)
    return line


def to_file(path: Path) -> str:
    return f"cat >> {path}; echo >> {path}"


async def test_each_end_is_told_once_to_whom_it_concerns(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    done, failed, asked = (tmp_path / name for name in ("done", "failed", "asked"))
    with receiver() as (url, got):
        hooks = Hooks(to_file(done), to_file(failed), to_file(asked), webhook=url)
        async with supervising(settings) as supervisor:
            await supervisor.create(make_options(settings, "a"))
            await send(supervisor, "a", prompt("go", say("fine")), hooks)
            await send(supervisor, "a", prompt("go", ASK), hooks)
            hanging = await send(supervisor, "a", prompt("go", HANG), hooks)
            told = [await trio.to_thread.run_sync(got.get) for _ in range(2)]
            supervisor_lists = msgspec.json.encode(await supervisor.get("a")).decode()
            assert hanging.id not in supervisor_lists
            await supervisor.stop("a")
            await supervisor.hooks.drained()
            assert await supervisor.store.read(_stored) == []
        told.append(got.get(timeout=10))
        assert got.empty()
    (one,), (two,), (three,) = (lines_of(path) for path in (done, asked, failed))
    assert [one, two, three] == [{k: v for k, v in post.items() if k != "path"} for post in told]
    assert (one["event"], one["outcome"], one["name"], one["message"]) == ("done", "completed", "a", 1)
    assert one["cost"] > 0
    assert (two["event"], two["outcome"], two["questions"]) == ("ask", "needs_input", ["Which one?"])
    assert (three["event"], three["outcome"]) == ("fail", "interrupted")
    assert SECRET not in json.dumps([one, two, three])


def _stored(db: Database) -> list[tuple[str, ...]]:
    return db.execute("SELECT * FROM hooks").fetchall()


async def test_a_call_that_waits_for_a_person_is_told_while_it_waits(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    asked = tmp_path / "asked"
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "a", ask_timeout=600.0))
        await send(supervisor, "a", prompt("go", ASK, say("thanks")), Hooks(on_ask=to_file(asked)))
        told = await first_line_of(asked)
        assert (told["event"], told["outcome"], told["questions"]) == ("ask", None, ["Which one?"])
        (waiting,) = supervisor.questions("a")
        supervisor.answer("a", waiting.id, ["this one"])
        await supervisor.hooks.drained()
        assert len(lines_of(asked)) == 1


async def test_a_delegation_is_told_with_its_verdict_and_not_before(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    failed = tmp_path / "failed"
    async with supervising(settings) as supervisor:
        hooks = Hooks(on_done="exit 1", on_fail=to_file(failed))
        options = make_options(settings, "a", verify=("false",))
        result = await supervisor.delegate(
            options, prompt("go", say("done")), accepted=lambda one: supervisor.hooks.follow(one, hooks)
        )
        await supervisor.hooks.drained()
    told = await first_line_of(failed)
    assert result.status == told["outcome"] == "verification_failed"


async def test_the_end_of_the_supervisor_is_news_and_waits_for_no_slow_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_hooks, "LAST", 0.3)
    settings = make_settings(tmp_path)
    failed = tmp_path / "failed"
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "a"))
        await send(supervisor, "a", prompt("go", HANG), Hooks(on_fail=to_file(failed) + "; sleep 600"))
    told = await first_line_of(failed)
    assert told["outcome"] == "interrupted"


async def test_what_a_crash_kept_from_being_told_is_told_by_the_next(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    done = tmp_path / "done"
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "a"))
        one = await supervisor.submit("a", prompt("go", say("fine")), type="send")
        await supervisor.finished(one)
        await supervisor.store.write(stored.add, one.id, Hooks(on_done=to_file(done)))
        await supervisor.store.write(stored.add, "gone", Hooks(on_done="false"))
    async with supervising(settings) as supervisor:
        told = await first_line_of(done)
        await supervisor.hooks.drained()
        assert await supervisor.store.read(_stored) == []
    assert (told["name"], told["outcome"]) == ("a", "completed")


async def test_what_goes_wrong_with_hooks_is_nobodys_problem(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        await supervisor.create(make_options(settings, "a"))
        hooks = Hooks(
            on_done="exit 3", webhook=f"http://127.0.0.1:1/{SECRET}", notify=(f"json://127.0.0.1:1/{SECRET}",)
        )
        one = await send(supervisor, "a", prompt("go", say("fine")), hooks)
        assert (await supervisor.finished(one)).outcome is Outcome.COMPLETED
        await supervisor.hooks.drained()
    said = [record.getMessage() for record in caplog.records]
    assert any("--on-done: exit status 3" in line for line in said)
    assert any("--webhook: " in line for line in said)
    assert any("--notify: 1 of 1 could not be sent" in line for line in said)
    assert SECRET not in "\n".join(said)


async def test_what_can_be_seen_to_be_wrong_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with supervising(settings) as supervisor:
        for hooks, said in (
            (Hooks(webhook=f"ftp://{SECRET}"), "not a web address"),
            (Hooks(notify=("json://127.0.0.1:1", f"no-such://{SECRET}")), "cannot send to that .* 2"),
        ):
            with pytest.raises(UsageError, match=said) as caught:
                await supervisor.hooks.check(hooks)
            assert SECRET not in f"{caught.value} {caught.value.hint}"
        caller.set(Caller(1, "some-session"))
        with pytest.raises(UsageError, match="a session may not"):
            await supervisor.hooks.check(Hooks(on_done="true"))
        await supervisor.hooks.check(Hooks())


async def test_a_notification(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    with receiver() as (url, got):
        async with supervising(settings) as supervisor:
            await supervisor.create(make_options(settings, "a"))
            await send(
                supervisor, "a", prompt("go", say("fine")), Hooks(notify=(url.replace("http", "json", 1),))
            )
            await supervisor.hooks.drained()
        told = got.get(timeout=10)
    assert told["title"] == "cms: a: completed"
    assert "turns" in told["message"]


def test_what_an_end_is() -> None:
    assert {outcome: event_of(outcome) for outcome in Outcome} == {
        **dict.fromkeys(Outcome, "fail"),
        Outcome.COMPLETED: "done",
        Outcome.NEEDS_INPUT: "ask",
    }


def test_hooks_do_not_show_what_is_in_them() -> None:
    hooks = Hooks(webhook=f"https://x/{SECRET}", notify=(SECRET,))
    assert SECRET not in f"{hooks!r} {hooks}"
    assert hooks
    assert not Hooks()
