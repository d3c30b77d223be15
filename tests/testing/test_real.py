"""The real binary against the scripted API: what scripts promise holds for the program they stand in for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cms.testing.api import ScriptedAPI, api_process, serve_api
from cms.testing.script import call, prompt, say, together
from testing import record
from testing.record import Take, allow_all, claude, kind, recorded

pytestmark = pytest.mark.real


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[tuple[Take, ScriptedAPI]]:
    with trio.fail_after(60):
        async with serve_api() as api:
            yield Take("real", [claude()], api.url, folder), api


def results(take: Take) -> list[object]:
    return [line["result"] for line in take.written if line["type"] == "result"]


async def test_a_text_turn_costs_what_the_script_says(tmp_path: Path) -> None:
    async with stage(tmp_path) as (take, api):
        async with take.running():
            await take.turn(prompt("Say hello.", say("Hello.", cost_usd=0.05)))
            await take.turn("Plain words.")
        assert results(take) == ["Hello.", "You said: Plain words."]
        first = next(line for line in take.written if line["type"] == "result")
        assert first["total_cost_usd"] == pytest.approx(0.05)
        assert [(request.step, request.scripted, request.prompt) for request in api.requests] == [
            (0, True, "Say hello."),
            (0, False, "Plain words."),
        ]
        assert {request.session_id for request in api.requests} == {take.session_id}


async def test_a_tool_turn_really_uses_the_tools(tmp_path: Path) -> None:
    async with stage(tmp_path) as (take, api):
        odd = 'x < y > z @here "quoted" \\ back\n'
        async with take.running("--permission-mode=dontAsk"):
            await take.gate(allow_all)
            await take.turn(
                prompt(
                    "Write it.",
                    call("Write", file_path=take.path("a.txt"), content=odd).saying("First this."),
                    together(call("Bash", command="cat a.txt > b.txt"), call("Bash", command="echo hi")),
                    say("Written."),
                )
            )
        assert await trio.Path(take.path("b.txt")).read_text() == odd
        assert [request.step for request in api.requests] == [0, 1, 2]


async def test_subagents_and_the_turns_they_start_find_their_own_scripts(tmp_path: Path) -> None:
    inner = prompt("Look.", call("Bash", command="echo inside"), say("Looked.", cost_usd=0.1))
    async with stage(tmp_path) as (take, _api):
        async with take.running("--permission-mode=dontAsk"):
            await take.gate(allow_all)
            script = (
                call("Agent", description="a", prompt=inner, run_in_background=False),
                call("Agent", description="b", prompt=inner, run_in_background=True),
                say("Both begun."),
                say("Both done."),
            )
            await take.turn(prompt("Delegate.", *script), results=2)
        assert results(take) == ["Both begun.", "Both done."]
        last = [line for line in take.written if line["type"] == "result"][-1]
        assert last["total_cost_usd"] == pytest.approx(0.2, abs=0.001)


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


async def test_compaction_is_a_side_call_and_what_comes_after_it_works(tmp_path: Path) -> None:
    async with stage(tmp_path) as (take, api):
        async with take.running():
            await take.turn(prompt("Say hello.", say("Hello.")))
            await take.turn("/compact")
            await take.turn(prompt("Again.", call("Read", file_path="a"), say("Hello again.")))
        assert results(take)[-1] == "Hello again."
        assert [request.side for request in api.requests] == [False, True, False, False]


async def test_faults_are_retried_until_the_reply_comes(tmp_path: Path) -> None:
    async with stage(tmp_path) as (take, api):
        async with take.running():
            await take.turn(prompt("Try.", say("At last.").failing(529).dropping("headers")))
        assert results(take) == ["At last."]
        assert [(request.attempt, request.status) for request in api.requests] == [(0, 529), (1, 0), (2, 200)]


async def test_an_api_in_a_process_of_its_own_will_do(tmp_path: Path) -> None:
    with api_process() as url, trio.fail_after(60):
        take = Take("real", [claude()], url, tmp_path)
        async with take.running():
            await take.turn(prompt("Say hello.", say("Hello.")))
        assert results(take) == ["Hello."]


STABLE: list[Callable[[Take], Awaitable[None]]] = [
    record.text,
    record.refused,
    record.hook_stopped,
    record.questions,
    record.forbidden,
    record.max_turns,
    record.max_budget,
    record.resumed,
]


@pytest.mark.parametrize("scene", STABLE)
async def test_the_recordings_are_still_what_it_does(
    scene: Callable[[Take], Awaitable[None]], tmp_path: Path
) -> None:
    """Fails when a new version of the binary behaves otherwise: record anew, and look at what changed."""
    with trio.fail_after(60):
        async with serve_api() as api:
            take = Take(scene.__name__, [claude()], api.url, tmp_path)
            await scene(take)
    assert [kind(line) for line in take.written] == [kind(line) for line in recorded(scene.__name__)]
