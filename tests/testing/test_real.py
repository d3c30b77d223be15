"""The real binary against the scripted API: what scripts promise holds for the program they stand in for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec import convert

from cms.testing.api import Request, ScriptedAPI, api_process, serve_api
from cms.testing.script import call, prompt, say, together
from testing import record
from testing.record import Line, Take, allow_all, claude, kind, recorded

pytestmark = pytest.mark.real


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[Take, ScriptedAPI]]:
    with trio.fail_after(60):
        async with serve_api() as api:
            yield Take("real", [claude()], api.url, folder), api


def results(take: Take) -> list[object]:
    return [line["result"] for line in take.written if line["type"] == "result"]


def totals(take: Take) -> list[float]:
    """What it had cost by the end of each turn."""
    return [convert(line["total_cost_usd"], float) for line in take.written if line["type"] == "result"]


async def test_a_conversation_by_scripts(tmp_path: Path) -> None:
    """One process: text, tools, subagents, faults, and compaction in the middle of it."""
    async with stage(tmp_path) as (take, api):
        asked = 0

        async def turn(text: str, results: int = 1) -> list[Request]:
            """The requests that it led to."""
            nonlocal asked
            before = asked
            await take.turn(text, results=results)
            asked = len(api.requests)
            return list(api.requests)[before:]

        async with take.running("--permission-mode=dontAsk"):
            await take.gate(allow_all)
            # Text costs what the script says; without one the prompt is said again.
            (first,) = await turn(prompt("Say hello.", say("Hello.", cost_usd=0.05)))
            assert (first.step, first.scripted, first.prompt) == (0, True, "Say hello.")
            (second,) = await turn("Plain words.")
            assert (second.step, second.scripted, second.prompt) == (0, False, "Plain words.")
            assert results(take) == ["Hello.", "You said: Plain words."]
            assert totals(take)[0] == pytest.approx(0.05)
            # The tools are really used.
            odd = 'x < y > z @here "quoted" \\ back\n'
            requests = await turn(
                prompt(
                    "Write it.",
                    call("Write", file_path=take.path("a.txt"), content=odd).saying("First this."),
                    together(call("Bash", command="cat a.txt > b.txt"), call("Bash", command="echo hi")),
                    say("Written."),
                )
            )
            assert await trio.Path(take.path("b.txt")).read_text() == odd
            assert [request.step for request in requests] == [0, 1, 2]
            # Subagents, and the turns that they start, find their own scripts.
            inner = prompt("Look.", call("Bash", command="echo inside"), say("Looked.", cost_usd=0.1))
            script = (
                call("Agent", description="a", prompt=inner, run_in_background=False),
                call("Agent", description="b", prompt=inner, run_in_background=True),
                say("Both begun."),
                say("Both done."),
            )
            spent = totals(take)[-1]
            await turn(prompt("Delegate.", *script), results=2)
            assert results(take)[-2:] == ["Both begun.", "Both done."]
            assert totals(take)[-1] - spent == pytest.approx(0.2, abs=0.001)
            # Faults are retried until the reply comes.
            requests = await turn(prompt("Try.", say("At last.").failing(529).dropping("headers")))
            assert results(take)[-1] == "At last."
            tries = [(request.attempt, request.status) for request in requests]
            assert tries == [(0, 529), (1, 0), (2, 200)]
            # Compaction is a side call, and what comes after it works.
            assert [request.side for request in await turn("/compact")] == [True]
            requests = await turn(prompt("Again.", call("Read", file_path="a"), say("Hello again.")))
            assert results(take)[-1] == "Hello again."
            assert [request.side for request in requests] == [False, False]
        assert {request.session_id for request in api.requests} == {take.session_id}


async def _until_written(take: Take, text: str) -> None:
    """Until the transcript on disk has it; no event tells of that."""
    while True:
        for path in await trio.Path(take.home).glob(".claude/projects/*/*.jsonl"):
            if text in await path.read_text():
                return
        await trio.sleep(0.01)


async def test_a_script_survives_resume_and_fork(tmp_path: Path) -> None:
    """A process that dies in the middle of a script leaves a conversation in which the next prompt rules."""
    async with stage(tmp_path) as (take, api):
        async with take.running():
            await take.say(prompt("Stall.", call("Read", file_path="a"), say("never").stalling("headers")))
            await api.wait_requests(2)
            # It writes its transcript a little later, and cannot resume what a SIGKILL kept it from writing.
            await _until_written(take, "tool_result")
            take.process.kill()
            assert await take.ended() == -9
        for flags in (), ("--fork-session",):
            async with take.running(*flags, resume=True):
                await take.turn(prompt("Next.", call("Read", file_path="b"), say("Gone on.")))
        assert results(take) == ["Gone on.", "Gone on."]
        assert [request.step for request in api.requests][2:] == [0, 1, 0, 1]


async def test_an_api_in_a_process_of_its_own_will_do(tmp_path: Path) -> None:
    with api_process() as url, trio.fail_after(60):
        take = Take("text", [claude()], url, tmp_path)
        await record.text(take)
    assert kinds(take.written) == kinds(recorded("text"))


STABLE: list[Callable[[Take], Awaitable[None]]] = [
    record.refused,
    record.hook_stopped,
    record.questions,
    record.forbidden,
    record.max_turns,
    record.max_budget,
    record.resumed,
]


def kinds(lines: list[Line]) -> list[str]:
    return [kind(line) for line in lines]


@pytest.mark.parametrize("scene", STABLE)
async def test_the_recordings_are_still_what_it_does(
    scene: Callable[[Take], Awaitable[None]], tmp_path: Path
) -> None:
    """Fails when a new version of the binary behaves otherwise: record anew, and look at what changed."""
    with trio.fail_after(60):
        async with serve_api() as api:
            take = Take(scene.__name__, [claude()], api.url, tmp_path)
            await scene(take)
    assert kinds(take.written) == kinds(recorded(scene.__name__))
