"""The server with the SDK's own client, on a daemon that answers from a script: in this process."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent, TextResourceContents
from msgspec.structs import replace

from cli.making import interaction, reply, result, session
from cli.scripted import serve
from cms.config import Settings
from cms.errors import (
    CmsError,
    NameTaken,
    NothingAsked,
    SessionNotFound,
    StoreError,
    UsageError,
    WorkDirError,
    WrongStatus,
)
from cms.mcp import call as call_module
from cms.mcp import server, status
from cms.mcp.call import DaemonCall
from cms.mcp.prompts import PROMPTS
from cms.mcp.server import HINTS, INSTRUCTIONS, build, progress_text
from cms.mcp.tools import TOOLS
from cms.rpc.batches import BatchesResult
from cms.rpc.sessions import (
    SESSION_DELEGATE,
    AcceptedResult,
    DelegateParams,
    InteractionsResult,
    NameParams,
    SessionResult,
    SessionsResult,
    SpawnParams,
    StopParams,
    StopResult,
)
from cms.session.model import (
    DelegateResult,
    Denial,
    Outcome,
    Progress,
    Question,
    Record,
    Safety,
    SessionOptions,
    SessionStatus,
)
from mcp_server.kit import bad, good, problem

if TYPE_CHECKING:
    from _typeshed import TraceFunction

ACCEPTED = AcceptedResult("fix-auth", "s", "i")
SCHEMAS = {tool.name: tool.output_schema for tool in TOOLS}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    return Settings(home=tmp_path / "home")


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[Client]:
    with trio.fail_after(30):
        async with Client(build(settings), raise_exceptions=True) as client:
            yield client


async def test_a_delegation_goes_out_as_it_was_asked_for_and_its_verdict_comes_back(
    settings: Settings, tmp_path: Path
) -> None:
    verdict = replace(
        result(outcome=Outcome.NEEDS_INPUT),
        questions=(Question("Which?", options=("a", "b")),),
        safety=Safety(denials=(Denial("Write", "/etc/x", "protected", violation=True),)),
    )
    with serve(settings.home, {"session.delegate": lambda _: verdict}) as daemon:
        async with client_of(settings) as client:
            arguments = {
                "name": "fix-auth",
                "task": "Fix it",
                "context": "It broke yesterday",
                "preset": "review",
                "model": "opus",
                "maxCost": 0.5,
                "maxMinutes": 2,
                "allow": ["Bash(pytest *)"],
                "verify": ["pytest -q"],
                "systemPrompt": "Be brief.",
                "allowCms": True,
                "askMinutes": 1,
            }
            found = good(await client.call_tool("delegate", arguments))
    (params,) = daemon.of(DelegateParams)
    assert isinstance(params, DelegateParams)
    options = params.options
    assert (params.task, params.context, params.detach) == ("Fix it", "It broke yesterday", False)
    assert (options.name, options.model, options.preset) == ("fix-auth", "opus", "review")
    assert (options.limits.max_cost, options.limits.max_turns, options.limits.max_time) == (0.5, 50, 120)
    assert (options.allowed_tools, options.verify) == (("Bash(pytest *)",), ("pytest -q",))
    assert (options.append_system_prompt, options.system_prompt) == ("Be brief.", "")
    assert (options.allow_cms, options.ask_timeout, options.safety) == (True, 60, True)
    assert options.work_dir == str(tmp_path)
    assert found["outcome"] == "needs_input"
    assert found["questions"] == [{"question": "Which?", "options": ["a", "b"]}]
    assert found["refused"] == [
        {"tool": "Write", "detail": "/etc/x", "reason": "protected", "protectedPath": True, "allow": []}
    ]
    assert not problem(SCHEMAS["delegate"], found)


async def test_limits_hold_unless_others_are_given(settings: Settings) -> None:
    script = {"session.delegate": lambda _: result(), "session.spawn": lambda _: reply()}
    with serve(settings.home, script) as daemon:
        async with client_of(settings) as client:
            good(await client.call_tool("delegate", {"name": "a", "task": "t"}))
            good(await client.call_tool("spawn", {"name": "b", "prompt": "p"}))
    for params in daemon.received:
        assert isinstance(params, DelegateParams | SpawnParams)
        assert (params.options.limits.max_cost, params.options.limits.max_turns) == (2.0, 50)
        assert not params.options.allow_cms


async def test_answers_of_every_kind_fit_their_schemas(settings: Settings) -> None:
    stored = InteractionsResult(session(), (interaction(response="x" * 700),))
    script = {
        "session.spawn": lambda _: reply(),
        "session.send": lambda _: ACCEPTED,
        "session.resume": lambda _: SessionResult(session(), ""),
        "session.continue": lambda _: ACCEPTED,
        "session.interrupt": lambda _: SessionResult(session(status=SessionStatus.BUSY), "Bash pytest"),
        "session.stop": lambda _: StopResult(session(), None),
        "session.kill": lambda _: StopResult(session(), session().receipt),
        "session.get": lambda _: SessionResult(session(), "Bash pytest"),
        "session.list": lambda _: SessionsResult((session(), session("b")), 0.5, 2),
        "session.interactions": lambda _: stored,
    }
    named: dict[str, object] = {"name": "fix-auth"}
    calls: dict[str, dict[str, object]] = {
        "spawn": {**named, "prompt": "p"},
        "send": {**named, "message": "m", "detach": True},
        "resume": named,
        "continue": {**named, "message": "m", "maxCost": 3, "detach": True},
        "interrupt": named,
        "stop": named,
        "kill": named,
        "status": named,
        "list": {"limit": 1},
        "output": {**named, "maxChars": 100, "offset": 50},
        "history": named,
    }
    with serve(settings.home, script):
        async with client_of(settings) as client:
            found = {name: good(await client.call_tool(name, arguments)) for name, arguments in calls.items()}
    for name, value in found.items():
        assert not problem(SCHEMAS[name], value), name
    assert found["list"] | {"sessions": 0} == {"sessions": 0, "shown": 1, "total": 2, "totalCost": 0.5}
    assert found["output"]["responseCut"] is True
    assert (found["output"]["totalChars"], found["output"]["offset"]) == (700, 50)
    assert found["continue"]["acceptedOnly"] is True
    assert found["stop"]["wasAlive"] is False


async def test_what_the_person_s_file_says_holds_for_what_a_model_starts(settings: Settings) -> None:
    """Its limits and its protection too; what the model gives counts more, and no list loses anything."""
    settings.home.mkdir()
    (settings.home / "config.toml").write_text(
        '[defaults]\nmodel = "haiku"\nmax-cost = 0.3\nprotect = ["deploy/**"]\nenv-deny = ["SECRET_*"]\n'
        '[profiles.night]\npreset = "review"\nmax-turns = 7\nallow = ["Bash(make *)"]\n'
    )
    script = {"session.delegate": lambda _: result(), "session.spawn": lambda _: reply()}
    with serve(settings.home, script) as daemon:
        async with client_of(settings) as client:
            good(await client.call_tool("delegate", {"name": "a", "task": "t"}))
            night = {"name": "b", "prompt": "p", "profile": "night", "model": "opus", "allow": ["Bash(ls *)"]}
            good(await client.call_tool("spawn", night))
            assert "'nigt'" in bad(
                await client.call_tool("delegate", {"name": "c", "task": "t", "profile": "nigt"})
            )
    first, second = daemon.received
    assert isinstance(first, DelegateParams)
    assert isinstance(second, SpawnParams)
    for options in (first.options, second.options):
        assert (options.protect, options.env_deny) == (("deploy/**",), ("SECRET_*",))
        assert options.limits.max_cost == 0.3
    assert (first.options.model, first.options.preset, first.options.limits.max_turns) == (
        "haiku",
        "edit",
        50,
    )
    assert (second.options.model, second.options.preset, second.options.limits.max_turns) == (
        "opus",
        "review",
        7,
    )
    assert second.options.allowed_tools == ("Bash(ls *)", "Bash(make *)")


# --- errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told", "hint"),
    [
        (NameTaken("fix-auth"), "a session named 'fix-auth' already exists", HINTS["name_taken"]),
        (SessionNotFound("fix-aut", "fix-auth"), "no session named 'fix-aut'", "did you mean 'fix-auth'?"),
        (SessionNotFound("fix-aut"), "no session named 'fix-aut'", "`list` shows"),
        (WorkDirError("work dir /x does not exist"), "work dir /x does not exist", "give a workDir"),
        (StoreError("disk full"), "disk full", "ask the person"),
        (UsageError("what", hint="do this"), "what", "do this"),
        (WrongStatus("a", "paused", "take x", hint="cms resume a"), "is paused", "What to do: `resume` a."),
        (WrongStatus("a", "starting", "be interrupted"), "is starting", "`status` shows"),
        (
            UsageError("w", hint="cms answer a allow, or cms answer a deny"),
            "w",
            "`answer` a allow, or `answer` a",
        ),
        (UsageError("odd", hint="`cms kill a` tries again"), "odd", "`kill` a tries again"),
        (
            UsageError("two", hint="one for each; cms ask a shows them"),
            "two",
            "one for each; `questions` a shows",
        ),
        (NothingAsked("a"), "is not waiting for an answer", "`questions` shows"),
        (CmsError("odd"), "odd.", ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, CmsError) else "",
)
async def test_what_goes_wrong_is_a_tool_error_that_says_what_to_do(
    settings: Settings, error: CmsError, told: str, hint: str
) -> None:
    with serve(settings.home, {"session.get": lambda _: error}):
        async with client_of(settings) as client:
            text = bad(await client.call_tool("status", {"name": "fix-aut"}))
    assert told in text
    assert hint in text
    assert "cms " not in text or "ask the person" in text


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("delegate", {"name": "a"}, "missing required field `task`"),
        ("delegate", {"name": "a", "task": "t", "maxCost": -1}, "Expected `float` > 0.0 - at `$.maxCost`"),
        ("delegate", {"name": "a", "task": "t", "preset": "god"}, "Invalid enum value 'god'"),
        ("delegate", {"name": "a", "task": "t", "preset": "god"}, "preset: What it may do"),
        ("delegate", {"name": "../a", "task": "t"}, "matching regex"),
        ("delegate", {"name": "a", "task": "t", "safety": False}, "unknown field `safety`"),
        ("list", {"limit": 0}, ">= 1"),
        ("no-such-tool", {}, "there is no tool 'no-such-tool'"),
    ],
)
async def test_bad_arguments_are_told_and_nothing_is_asked_of_the_daemon(
    settings: Settings, name: str, arguments: dict[str, object], told: str
) -> None:
    with serve(settings.home, {}) as daemon:
        async with client_of(settings) as client:
            text = bad(await client.call_tool(name, arguments))
    assert told in text
    assert "What to do:" in text
    assert not daemon.received


async def test_a_bug_of_ours_is_a_tool_error_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def boom(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(status, "session_of", boom)
    with serve(settings.home, {"session.get": lambda _: SessionResult(session())}):
        async with client_of(settings) as client:
            text = bad(await client.call_tool("status", {"name": "a"}))
    assert "ZeroDivisionError: oh" in text
    assert "a fault of cms" in text
    assert "a bug in cms" in caplog.text


# --- long work --------------------------------------------------------------------------------------


async def test_progress_is_told_while_it_works(settings: Settings) -> None:
    notes = tuple(
        Progress(
            "fix-auth", "tool", text=f"step {n}", tool="Bash", turns=n, max_turns=50, cost=n / 10, max_cost=2
        )
        for n in range(1, 4)
    )
    told: list[tuple[float, str | None]] = []
    newest = trio.Event()

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        assert total is None
        told.append((progress, message))
        if message and "step 3" in message:
            newest.set()

    with serve(settings.home, {"session.delegate": lambda _: None}, cancelled=result(), progress=notes):
        async with client_of(settings) as client, trio.open_nursery() as nursery:

            async def work() -> None:
                await client.call_tool("delegate", {"name": "a", "task": "t"}, progress_callback=heard)

            nursery.start_soon(work)
            await newest.wait()  # the last of the three always comes, whatever was left out before it
            nursery.cancel_scope.cancel()
    assert told[-1][1] == "fix-auth: Bash step 3 (3/50 turns, $0.3000/$2.00)"
    assert [number for number, _ in told] == sorted({number for number, _ in told})


async def test_a_call_that_has_nothing_to_tell_says_so_now_and_then(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_HEARTBEAT", 0.01)
    told: list[str] = []
    enough = trio.Event()

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        told.append(message or "")
        if len(told) == 2:
            enough.set()

    with serve(settings.home, {"session.delegate": lambda _: None}, cancelled=result()):
        async with client_of(settings) as client, trio.open_nursery() as nursery:

            async def work() -> None:
                await client.call_tool("delegate", {"name": "a", "task": "t"}, progress_callback=heard)

            nursery.start_soon(work)
            await enough.wait()
            nursery.cancel_scope.cancel()
    assert all(message.startswith("at work") for message in told)


def test_progress_of_a_session_without_limits() -> None:
    note = Progress("a", "status", cost=0.25, turns=2)
    assert progress_text(note) == "a: busy (2 turns, $0.2500)"


@pytest.mark.parametrize(
    ("name", "arguments", "method", "then"),
    [
        ("delegate", {"task": "t"}, "session.delegate", ()),
        ("continue", {"message": "m"}, "session.continue", ()),
        ("spawn", {"prompt": "p"}, "session.spawn", (StopParams("fix-auth"),)),
        ("send", {"message": "m"}, "session.send", (NameParams("fix-auth"),)),
        ("resume", {"message": "m"}, "session.send", (NameParams("fix-auth"),)),
    ],
)
async def test_cancelling_a_call_stops_what_it_started(
    settings: Settings, name: str, arguments: dict[str, object], method: str, then: tuple[object, ...]
) -> None:
    script = {
        method: lambda _: None,
        "session.stop": lambda _: StopResult(session(), None),
        "session.interrupt": lambda _: SessionResult(session()),
    }
    cancelled = result(outcome=Outcome.INTERRUPTED) if not then else ACCEPTED
    with serve(settings.home, script, cancelled=cancelled) as daemon:
        async with client_of(settings) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.call_tool, name, {"name": "fix-auth", **arguments})
            await trio.to_thread.run_sync(daemon.waiting.wait, 20)
            nursery.cancel_scope.cancel()
            # The server goes on until the daemon has answered: what it does then is done when it is left.
    assert tuple(daemon.received[1:]) == then


def _cancelled_at(settings: Settings, number: int) -> tuple[str, int]:
    """A delegation without an end, cancelled before the line `number` of `cms.mcp.call`, or else when the
    daemon has it; what came of it, and the lines until then."""
    call = DaemonCall(settings, lambda _: None)
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        nonlocal lines
        if frame.f_globals.get("__name__") != call_module.__name__ or frame.f_code.co_name == "cancel":
            return None
        if event == "line":
            if lines == number:
                call.cancel()
            lines += 1
        return trace

    def hold(_: Record) -> None:
        if lines <= number:
            call.cancel()

    params = DelegateParams(SessionOptions(name="d", work_dir="/"), "t")
    with serve(settings.home, {"session.delegate": hold}, cancelled=result(outcome=Outcome.INTERRUPTED)):
        sys.settrace(trace)
        try:
            given = call.call(SESSION_DELEGATE, params)
        except CmsError as error:
            return error.code, lines
        finally:
            sys.settrace(None)
            call.close()
    assert isinstance(given, DelegateResult)
    return given.status.value, lines


def test_a_cancel_is_told_once_and_never_lost(settings: Settings) -> None:
    number, lines, outcomes = 0, 1, set()
    while number < lines:
        outcome, lines = _cancelled_at(settings, number)
        outcomes.add(outcome)
        number += 1
    assert number >= 4, "there are as many lines"
    assert outcomes == {"interrupted"}


async def test_calls_run_side_by_side(settings: Settings) -> None:
    """The second answers while the first waits: else this never ends."""
    held = threading.Event()

    def wait(_: object) -> SessionResult:
        assert held.wait(20)
        return SessionResult(session())

    script = {"session.get": wait, "session.list": lambda _: SessionsResult((), 0.0, 0)}
    with serve(settings.home, script):
        async with client_of(settings) as client, trio.open_nursery() as nursery:

            async def look() -> None:
                good(await client.call_tool("status", {"name": "a"}))

            nursery.start_soon(look)
            good(await client.call_tool("list", {}))
            held.set()


# --- resources and prompts ----------------------------------------------------------------------------


async def test_a_transcript_is_a_resource(settings: Settings) -> None:
    stored = replace(
        interaction(prompt="Fix it\nplease", response="Fixed."),
        denials=(Denial("Bash", "rm -rf /", "nobody is there"),),
        questions=(Question("Which?", options=("a", "b")),),
    )
    script = {
        "session.list": lambda _: SessionsResult((session(), session("b")), 0.5, 2),
        "batch.list": lambda _: BatchesResult(()),
        "session.interactions": lambda _: InteractionsResult(session(), (stored,)),
    }
    with serve(settings.home, script):
        async with client_of(settings) as client:
            listed = (await client.list_resources()).resources
            template, _ = (await client.list_resource_templates()).resource_templates
            (content,) = (await client.read_resource(str(listed[0].uri))).contents
    assert [str(one.uri) for one in listed] == [
        "cms://session/fix-auth/transcript",
        "cms://session/b/transcript",
    ]
    assert template.uri_template == "cms://session/{name}/transcript"
    assert isinstance(content, TextResourceContents)
    assert content.mime_type == "text/markdown"
    assert "> Fix it\n> please" in content.text
    assert "\nFixed.\n" in content.text
    assert "refused: Bash rm -rf /: nobody is there" in content.text
    assert "asked: Which? (a / b)" in content.text


@pytest.mark.parametrize(
    "uri", ["cms://session/a%2Fb/transcript", "cms://session//transcript", "cms://x", "file:///etc/passwd"]
)
async def test_no_other_address_is_read(settings: Settings, uri: str) -> None:
    with serve(settings.home, {}) as daemon:
        async with client_of(settings) as client:
            with pytest.raises(MCPError, match="no resource"):
                await client.read_resource(uri)
    assert not daemon.received


async def test_a_review_is_given_what_it_cannot_get_by_itself(settings: Settings) -> None:
    """The preset that the prompt names has no shell: no git command, only files to read."""
    async with client_of(settings) as client:
        (message,) = (await client.get_prompt("second-opinion", {"change": "HEAD~1"})).messages
    assert isinstance(message.content, TextContent)
    assert "which git" not in message.content.text
    assert "cannot run git" in " ".join(message.content.text.split())


async def test_prompts_are_filled_in_or_refused(settings: Settings) -> None:
    async with client_of(settings) as client:
        prompts = (await client.list_prompts()).prompts
        assert {prompt.name for prompt in prompts} == {
            "split-and-delegate",
            "second-opinion",
            "how-to-delegate",
        }
        for prompt in prompts:
            assert prompt.description
            arguments = {one.name: f"<{one.name}>" for one in prompt.arguments or ()}
            (message,) = (await client.get_prompt(prompt.name, arguments)).messages
            assert isinstance(message.content, TextContent)
            assert all(f"<{name}>" in message.content.text for name in arguments)
        for name, arguments in (("split-and-delegate", {}), ("second-opinion", {"chnage": "x"}), ("x", {})):
            with pytest.raises(MCPError):
                await client.get_prompt(name, arguments)


async def test_the_guide_speaks_of_tools_and_presets_that_there_are(settings: Settings) -> None:
    async with client_of(settings) as client:
        (message,) = (await client.get_prompt("how-to-delegate")).messages
        tools = {tool.name for tool in (await client.list_tools()).tools}
    assert isinstance(message.content, TextContent)
    text = message.content.text
    for name in ("delegate", "continue", "wait", "output", "status", "list"):
        assert f"`{name}`" in text
        assert name in tools
    for preset in ("read-only", "review", "plan", "edit", "full"):
        assert f"`{preset}`" in text
    assert len(text) < 6000


def test_whoever_wants_agents_side_by_side_is_told_to_detach_them() -> None:
    """Claude Code makes calls that are not read-only one after the other, also those of one message."""
    by_name = {tool.name: tool for tool in TOOLS}
    assert not by_name["delegate"].read_only
    for text in (INSTRUCTIONS, by_name["delegate"].description, *(prompt.text for prompt in PROMPTS)):
        for sentence in text.replace("\n", " ").split(". "):
            assert "side by side" not in sentence or "detach" in sentence


def test_what_a_tool_says_is_short() -> None:
    """All of it is in the context of whoever has this server, all the time."""
    told = sum(len(tool.description) + len(msgspec.json.encode(tool.input_schema)) for tool in TOOLS)
    assert told < 27_000
