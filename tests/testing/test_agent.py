"""The simulated agent: like the real one where it says so, and misbehaving exactly as told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from cms.testing.agent import options, permissions, write_launcher
from cms.testing.agent.session import Session
from cms.testing.agent.transcript import Transcript
from cms.testing.agent.wire import Wire
from cms.testing.script import Quirk, call, prompt, say
from testing.record import HERE, SCENES, Line, Take, allow_all, kind, of, recorded, verdict

AGENT = (sys.executable, "-m", "cms.testing.agent")
NOWHERE = "http://127.0.0.1:1"

# Scenes of the real one that the simulated one does not play: compaction, odd stop reasons, no credentials.
UNPLAYED = {"commands", "model_stops", "not_logged_in"}
# Where two things run side by side, or tools start while their reply is still being told: the same lines in
# another order.
IN_ANY_ORDER = {"tools", "subagent", "subagent_background", "two_messages"}
UNSIMULATED = {"thinking_tokens"}


def take(folder: Path, name: str = "take") -> Take:
    # What is interrupted between two tries must have the time to be, on a machine that others use, too.
    pause = "1000" if name == "unauthorized" else "10"
    return Take(name, AGENT, NOWHERE, folder, {"CMS_REHEARSAL_RETRY_MS": pause})


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene.__name__ not in UNPLAYED])
async def test_a_script_gives_the_lines_that_the_real_one_wrote(
    scene: Callable[[Take], Awaitable[None]], tmp_path: Path
) -> None:
    name = scene.__name__
    played = take(tmp_path, name)
    with trio.fail_after(30):
        await scene(played)
    real = [kind(line) for line in recorded(name) if line.get("subtype") not in UNSIMULATED]
    simulated = [kind(line) for line in played.written]
    if name == "interrupt_streaming":
        # The real one closes the stream that was broken off.
        broken = real.index("user text")
        del real[broken + 1 : broken + 4]
    if name == "subagent_background":
        # Whether the subagent's first call is in the first result's total is a race, in the real one too.
        for lines in (real, simulated):
            first = next(i for i, line in enumerate(lines) if line.startswith("result "))
            lines[first] = " ".join(lines[first].split()[:-2])
    if name in IN_ANY_ORDER:
        assert Counter(simulated) == Counter(real)
    else:
        assert simulated == real


def test_it_writes_no_key_that_the_real_one_does_not_know(tmp_path: Path) -> None:
    """A reader must not come to rely on something that only the simulated agent says."""
    known: dict[tuple[object, object], set[str]] = {}
    for path in HERE.glob("*.jsonl"):
        if not path.name.endswith(".stdin.jsonl"):
            for line in recorded(path.name.removesuffix(".jsonl")):
                known.setdefault((line["type"], line.get("subtype")), set()).update(line)

    async def play() -> list[Line]:
        written: list[Line] = []
        for scene in SCENES:
            if scene.__name__ in IN_ANY_ORDER | {
                "refused",
                "retries",
                "rate_limit",
                "max_turns",
                "forbidden",
            }:
                folder = tmp_path / scene.__name__
                folder.mkdir()
                played = take(folder, scene.__name__)
                with trio.fail_after(30):
                    await scene(played)
                written += played.written
        return written

    for line in trio.run(play):
        assert line.keys() <= known[line["type"], line.get("subtype")], line


# --- ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "status", "saved"), [("eof", 0, True), (signal.SIGTERM, 143, True), (signal.SIGKILL, -9, False)]
)
async def test_a_resumed_process_starts_from_the_total_that_was_saved(
    end: str | signal.Signals, status: int, saved: bool, tmp_path: Path
) -> None:
    played = take(tmp_path)
    async with played.running():
        await played.turn(prompt("Spend.", say("x", cost_usd=0.05)))
        if isinstance(end, signal.Signals):
            played.process.send_signal(end)
            assert await played.ended() == status
        else:
            assert await played.close() == status
    async with played.running(resume=True):
        await played.turn(prompt("Spend.", say("y", cost_usd=0.05)))
    total = played.written[-3]
    assert total["type"] == "result"
    assert total["total_cost_usd"] == pytest.approx(0.10 if saved else 0.05)


async def test_a_fork_goes_on_from_the_total_and_the_script_under_an_id_of_its_own(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running():
        await played.turn(prompt("Spend.", say("x", cost_usd=0.05)))
    async with played.running("--fork-session", resume=True):
        await played.turn(prompt("Spend.", say("y", cost_usd=0.05)))
    first, second = (line for line in played.written if line["type"] == "result")
    assert first["session_id"] != second["session_id"]
    assert second["total_cost_usd"] == pytest.approx(0.10)


async def test_an_unknown_conversation_and_one_in_use_are_refused(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running(resume=True):
        assert await played.ended() == 1
    assert played.written[-1]["subtype"] == "error_during_execution"
    async with played.running():
        await played.turn("Hello.")
    async with played.running():
        assert await played.ended() == 1


async def test_it_exits_with_1_after_an_error_and_at_once_on_nonsense(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running():
        await played.turn(prompt("Fail.", say("x").failing(403)))
        assert await played.close() == 1
    async with played.running(resume=True):
        assert played.process.stdin is not None
        await played.process.stdin.send_all(b"this is no JSON\n")
        assert await played.ended() == 1


async def test_eof_in_the_middle_of_a_turn_lets_it_finish(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running("--allowedTools=Bash"):
        await played.say(prompt("Work.", call("Bash", command="sleep 0.3; echo done"), say("Worked.")))
        await played.until("assistant")
        assert await played.close() == 0
    assert [line["result"] for line in played.written if line["type"] == "result"] == ["Worked."]


async def test_eof_with_a_question_unanswered_refuses_the_call(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running("--permission-mode=bypassPermissions"):
        await played.ask("initialize", hooks={"PreToolUse": [{"matcher": None, "hookCallbackIds": ["pre"]}]})
        await played.say(prompt("Touch.", call("Bash", command="touch touched"), say("Refused.")))
        await played.until("control_request")
        assert await played.close() == 0
    assert not await trio.Path(played.path("touched")).exists()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_what_becomes_of_a_tool_process(end: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM takes it along; after SIGKILL it lives on, in a session of its own (as measured)."""
    played = take(tmp_path)
    command = f"echo $$ > {played.path('new')}; mv {played.path('new')} {played.path('pid')}; exec sleep 60"
    async with played.running("--permission-mode=bypassPermissions"):
        await played.say(prompt("Work.", call("Bash", command=command), say("never")))
        pid = await _written_pid(trio.Path(played.path("pid")))
        tool = os.pidfd_open(pid)
        try:
            assert os.getsid(pid) == pid
            played.process.send_signal(end)
            if end is signal.SIGKILL:
                assert await played.process.wait() == -9
                signal.pidfd_send_signal(tool, signal.SIGKILL)  # it was alive: this raises otherwise
            else:
                assert await played.ended() == 143
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(tool)
        finally:
            os.close(tool)


async def _written_pid(path: trio.Path) -> int:
    with trio.fail_after(10):
        while not await path.exists():  # noqa: ASYNC110  no event tells of a file
            await trio.sleep(0.005)
    return int(await path.read_text())


# --- in the middle of a turn ------------------------------------------------------------------


async def test_the_bill_is_exact_in_the_middle_of_a_turn(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running():
        await played.say(prompt("Spend.", call("Read", file_path="x").costing(0.05), say("x").stalling()))
        await played.until("user")
        answer = await played.ask("get_usage", skip_behaviors=True)
        assert of(answer, "response", "session", "total_cost_usd") == pytest.approx(0.05)
        await played.ask("interrupt")
        await played.until("result")


def test_an_interrupt_is_honoured_before_the_worker_has_begun_the_message(tmp_path: Path) -> None:
    """The host has been told nothing of the message yet; the one behind it is played."""
    session_id = str(uuid.uuid4())
    read, write = os.pipe()
    with os.fdopen(read, "rb") as written:
        session = Session(options.parse([]), Wire(send_fd=write), Transcript(None), session_id)
        session.deliver(prompt("Go.", say("never told")), "first")
        session.deliver(prompt("Go on.", say("told")), "second")
        waiting = session.waiting()
        session.interrupt()
        session.close()
        session.run()
        os.close(write)
        lines = [msgspec.json.decode(line) for line in written]
    assert waiting == ["second"]
    results = [line for line in lines if line["type"] == "result"]
    assert [line["terminal_reason"] for line in results] == ["aborted_streaming", "completed"]
    assert b"never told" not in msgspec.json.encode([line for line in lines if line["type"] == "assistant"])
    assert results[1]["result"] == "told"


async def test_a_hook_that_does_not_answer_in_time_refuses(tmp_path: Path) -> None:
    played = take(tmp_path)
    matcher = {"matcher": None, "hookCallbackIds": ["pre"], "timeout": 0.1}
    async with played.running("--permission-mode=bypassPermissions"):
        await played.ask("initialize", hooks={"PreToolUse": [matcher]})
        await played.turn(prompt("Touch.", call("Bash", command="touch touched"), say("Refused.")))
    assert not await trio.Path(played.path("touched")).exists()
    assert sum(line["type"] == "control_cancel_request" for line in played.written) == 1


async def test_a_stopped_task_ends_with_its_process(tmp_path: Path) -> None:
    played = take(tmp_path)
    command = f"echo $$ > {played.path('new')}; mv {played.path('new')} {played.path('pid')}; exec sleep 60"
    async with played.running("--permission-mode=bypassPermissions"):
        script = (call("Bash", command=command, run_in_background=True), say("Begun."), say("Ended."))
        await played.say(prompt("Begin.", *script))
        pid = await _written_pid(trio.Path(played.path("pid")))
        tool = os.pidfd_open(pid)
        await played.until("result")
        (started,) = (line for line in played.written if line.get("subtype") == "task_started")
        await played.ask("stop_task", task_id=started["task_id"])
        await played.until("result", count=2)
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(tool)
        os.close(tool)
    assert [line["result"] for line in played.written if line["type"] == "result"] == ["Begun.", "Ended."]


async def test_only_the_tools_that_were_named_exist(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running("--permission-mode=bypassPermissions", "--tools", "Read,Bash"):
        await played.turn(prompt("Write.", call("Write", file_path="x", content="y"), say("No.")))
    assert not await trio.Path(played.path("x")).exists()
    (init,) = (line for line in played.written if line.get("subtype") == "init")
    assert init["tools"] == ["Read", "Bash"]


# --- misdeeds ---------------------------------------------------------------------------------


async def test_noise_between_the_lines_and_lines_of_any_size(tmp_path: Path) -> None:
    played = take(tmp_path)
    quirks = (
        Quirk("garbage"),
        Quirk("garbage", text="npm WARN deprecated\n"),
        Quirk("huge_line", size=3_000_000),
        Quirk("unknown"),
        Quirk("flood", size=1000),
    )
    async with played.running():
        await played.turn(prompt("Go.", say("Fine.").quirky(*quirks)))
    assert len(played.noise) == 2
    padding = next(line["padding"] for line in played.written if line.get("subtype") == "huge")
    assert padding == "x" * 3_000_000
    assert sum(line["type"] == "unheard_of" for line in played.written) == 1
    assert sum(line.get("subtype") == "flood" for line in played.written) == 1000


@pytest.mark.parametrize(
    ("when", "last"),
    [("init", "started"), ("reply", "init"), ("tools", "assistant"), ("result", "completed")],
)
@pytest.mark.parametrize("status", [0, 7, -signal.SIGKILL])
async def test_it_dies_at_the_stage_and_in_the_manner_it_was_told(
    when: str, last: str, status: int, tmp_path: Path
) -> None:
    played = take(tmp_path)
    quirk = msgspec.convert({"kind": "die", "when": when, "status": status}, Quirk)
    script = [call("Bash", command="true").quirky(quirk)]
    if when == "result":
        script = [say("Bye.").quirky(quirk)]
    async with played.running("--permission-mode=bypassPermissions"):
        await played.say(prompt("Die.", *script))
        assert await played.ended() == status
    assert last in kind(played.written[-1])


async def test_a_hanging_agent_is_silent_and_deaf_until_it_is_killed(tmp_path: Path) -> None:
    played = take(tmp_path)
    async with played.running():
        quirks = Quirk("ignore_sigterm"), Quirk("unknown"), Quirk("hang")
        await played.say(prompt("Hang.", say("never").quirky(*quirks)))
        await played.until("unheard_of")
        played.process.send_signal(signal.SIGTERM)
        assert played.process.stdin is not None
        await played.process.stdin.aclose()
        with trio.move_on_after(0.3):
            await played.process.wait()
        assert played.process.returncode is None
        played.process.kill()
        assert await played.ended() == -9
    assert played.written[-1]["type"] == "unheard_of"


# --- what it is made of -----------------------------------------------------------------------


def test_it_imports_nothing_slow() -> None:
    code = "import sys, cms.testing.agent.__main__; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(shown.stdout.split())
    assert not loaded & {
        "trio",
        "h11",
        "asyncio",
        "argparse",
        "logging",
        "socket",
        "ssl",
        "cyclopts",
        "sqlite3",
    }


def test_the_launcher_is_a_program_of_its_own(tmp_path: Path) -> None:
    launcher = write_launcher(tmp_path / "claude")
    shown = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True, cwd="/")
    assert shown.stdout == "2.1.330 (Claude Code, simulated by cms)\n"


def test_flags() -> None:
    flags = "-p --verbose --resume=a --fork-session --max-turns 3 --max-budget-usd=0.5 --unheard-of value"
    flags += " --another=x --model haiku --permission-mode manual --permission-prompt-tool stdio"
    parsed = options.parse([*flags.split(), "--allowedTools", "Bash(git add, git rm),Read", "--tools", ""])
    assert (parsed.resume, parsed.fork, parsed.max_turns, parsed.max_budget) == ("a", True, 3, 0.5)
    assert (parsed.model, parsed.mode, parsed.host_decides) == ("claude-haiku-5-5", "default", True)
    assert (parsed.allowed, parsed.tools) == (("Bash(git add, git rm)", "Read"), ())
    assert options.parse([]).tools is None


@pytest.mark.parametrize(
    ("answer", "bypass", "dont_ask"),
    [
        (verdict("deny", "no"), False, False),
        (verdict("allow"), True, True),
        ({}, True, False),
        ({"unheard": "of"}, True, False),
        ({"continue": False, "stopReason": "limit"}, True, False),
        (verdict("deny", "no", **{"continue": False}), False, False),
    ],
)
def test_what_a_hooks_answer_means_in_the_modes(answer: Line, bypass: bool, dont_ask: bool) -> None:
    """The table of measurements: what passes the hook open is the mode's to decide."""
    for mode, expected in ("bypassPermissions", bypass), ("dontAsk", dont_ask):
        given: Line = {"command": "touch x"}
        decided = permissions.from_hook({"subtype": "success", "response": answer}, "Bash")
        assert decided.stop == (answer.get("continue") is False)
        if decided.granted is None:
            decided = permissions.from_mode(
                "Bash", given, mode=mode, allowed=(), disallowed=(), cwd=Path("/nowhere")
            )
        assert decided.granted is expected


def test_an_error_from_the_hook_fails_open_and_silence_does_not() -> None:
    assert permissions.from_hook({"subtype": "error", "error": "x"}, "Bash").granted is None
    assert permissions.from_hook(None, "Bash").granted is False


def test_allow_all_is_what_the_scenes_think_it_is() -> None:
    assert permissions.from_hook({"subtype": "success", "response": allow_all({})}, "Bash").granted is True
