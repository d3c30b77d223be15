"""Make the recordings in `tests/recordings` anew, from the real binary against the scripted API.

    python tests/rehearsal/record.py [NAME ...]

Each scene below drives one process and gives two files: `NAME.jsonl`, what `claude` wrote, and
`NAME.stdin.jsonl`, what was written to it. Every line is kept, in order and with all of its keys; machine
paths, the port and the user's id are replaced, and what is very long is cut.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.testing.api import environment, serve_api
from cms.testing.script import Usage, call, prompt, say, together

HERE: Final = Path(__file__).parent.parent / "recordings"
NAMESPACE: Final = uuid.UUID("00000000-0000-4000-8000-00000000c0de")

Line = dict[str, object]


def claude() -> str:
    """The binary bundled in the `claude-agent-sdk` wheel."""
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        raise SystemExit("claude-agent-sdk is not installed")
    return str(Path(spec.origin).parent / "_bundled" / "claude")


class Take:
    """One process under recording: everything it wrote and everything it was told.

    The tests of the simulated agent use it too.

    Attributes:
        written: the lines that are JSON.
        noise: those that are not.
    """

    def __init__(
        self, name: str, command: Sequence[str], url: str, folder: Path, extra: dict[str, str] | None = None
    ) -> None:
        self.name = name
        self._extra = extra or {}
        self._command = command
        self._url = url
        self.home = folder / "home"
        self.project = folder / "project"
        self.home.mkdir(exist_ok=True)
        self.project.mkdir(exist_ok=True)
        self.written: list[Line] = []
        self.noise: list[bytes] = []
        self.told: list[Line] = []
        self._folder = folder
        self._process: trio.Process | None = None
        self._changed = trio.Event()
        self._ended = False
        self._ids = 0
        self.session_id = self._new_id()
        self.answers: dict[str, Callable[[Line], Line]] = {}

    def _new_id(self) -> str:
        self._ids += 1
        return str(uuid.uuid5(NAMESPACE, f"{self.name}/{self._ids}"))

    @asynccontextmanager
    async def running(
        self, *flags: str, oauth: bool = False, credentials: bool = True, resume: bool = False
    ) -> AsyncIterator[None]:
        """The process for the length of the block; its stdin is closed at the end, and its end awaited."""
        env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(self.home), "TMPDIR": str(self._folder)}
        env |= {"CLAUDE_CODE_SDK_READS_SESSION_STATE": "1", "CLAUDE_CODE_TMPDIR": str(self._folder)}
        env |= environment(self._url) | self._extra
        if credentials:
            env["CLAUDE_CODE_OAUTH_TOKEN" if oauth else "ANTHROPIC_API_KEY"] = "rehearsal"
        session = f"--resume={self.session_id}" if resume else f"--session-id={self.session_id}"
        argv = [*self._command, "-p", "--input-format", "stream-json", "--output-format", "stream-json"]
        self._ended = False
        async with trio.open_nursery() as nursery:
            self._process = await trio.lowlevel.open_process(
                [*argv, "--verbose", session, *flags],
                stdin=-1,
                stdout=-1,
                env=env,
                cwd=self.project,
            )
            nursery.start_soon(self._read)
            try:
                yield
                await self.close()
            finally:
                if self._process.returncode is None:
                    self._process.kill()
                    with trio.CancelScope(shield=True):
                        await self._process.wait()
                nursery.cancel_scope.cancel()

    @property
    def process(self) -> trio.Process:
        assert self._process is not None
        return self._process

    async def close(self) -> int:
        """Close its stdin, and wait for its end and for the last it wrote; gives its exit status."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end and for the last it wrote; gives its exit status."""
        with trio.fail_after(60):
            status = await self.process.wait()
            await self._until(lambda: self._ended)
        return status

    async def _read(self) -> None:
        assert self.process.stdout is not None
        held: list[bytes] = []
        async for data in self.process.stdout:
            *lines, rest = data.split(b"\n")
            for raw in lines:
                await self._receive(b"".join([*held, raw]))
                held.clear()
            held.append(bytes(rest))
            self._notify()
        self._ended = True
        self._notify()

    async def _receive(self, raw: bytes) -> None:
        try:
            line = msgspec.json.decode(raw, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self.noise.append(raw)
        else:
            self.written.append(line)
            await self._answer(line)

    async def _answer(self, line: Line) -> None:
        request = line.get("request")
        if line["type"] == "control_request" and isinstance(request, dict) and self.answers:
            answer = self.answers[str(request["subtype"])](request)
            done = {"subtype": "success", "request_id": line["request_id"], "response": answer}
            await self.tell({"type": "control_response", "response": done})

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()

    async def until(self, type_: str, subtype: str = "", count: int = 1) -> None:
        """Until so many lines of this kind were written, in all."""

        def holds() -> bool:
            kinds = [(line["type"], line.get("subtype")) for line in self.written]
            return sum(kind[0] == type_ and subtype in ("", kind[1]) for kind in kinds) >= count

        with trio.move_on_after(90):
            await self._until(lambda: holds() or self._ended)
        if not holds():
            raise SystemExit(f"{self.name}: no {type_}/{subtype} came; last: {self.written[-3:]}")

    async def until_idle(self) -> None:
        """Until the state last told is `idle`."""
        with trio.fail_after(90):
            await self._until(lambda: self._ended or self._states()[-1:] == ["idle"])
        if self._states()[-1:] != ["idle"]:
            raise SystemExit(f"{self.name}: it ended without being idle; last: {self.written[-3:]}")

    def _states(self) -> list[object]:
        return [line["state"] for line in self.written if line.get("subtype") == "session_state_changed"]

    async def tell(self, line: Line) -> None:
        assert self.process.stdin is not None
        self.told.append(line)
        await self.process.stdin.send_all(msgspec.json.encode(line) + b"\n")

    async def say(self, text: str) -> None:
        message = {"role": "user", "content": text}
        await self.tell({"type": "user", "uuid": self._new_id(), "message": message})

    async def ask(self, subtype: str, **arguments: object) -> Line:
        """A control request; gives the answer."""
        answered = sum(line["type"] == "control_response" for line in self.written)
        request = {"subtype": subtype, **arguments}
        await self.tell({"type": "control_request", "request_id": self._new_id(), "request": request})
        await self.until("control_response", count=answered + 1)
        response = [line["response"] for line in self.written if line["type"] == "control_response"][answered]
        assert isinstance(response, dict)
        return response

    async def gate(self, decide: Callable[[Line], Line]) -> None:
        """Register a PreToolUse hook, decided by this."""
        self.answers["hook_callback"] = decide
        await self.ask("initialize", hooks={"PreToolUse": [{"matcher": None, "hookCallbackIds": ["pre"]}]})

    async def turn(self, text: str, results: int = 1) -> None:
        """A message, the results it leads to, and the rest that follows."""
        so_far = sum(line["type"] == "result" for line in self.written)
        await self.say(text)
        await self.until("result", count=so_far + results)
        await self.until_idle()

    def path(self, name: str) -> str:
        return str(self.project / name)

    def save(self) -> None:
        HERE.mkdir(exist_ok=True)
        for suffix, lines in ("jsonl", self.written), ("stdin.jsonl", self.told):
            raw = b"".join(msgspec.json.encode(shorten(line)) + b"\n" for line in lines).decode()
            (HERE / f"{self.name}.{suffix}").write_text(self._scrub(raw))

    def _scrub(self, text: str) -> str:
        slug = re.sub(r"[^A-Za-z0-9]", "-", str(self.project))
        for found, instead in (
            (str(self.project), "/home/user/project"),
            (str(self.home), "/home/user"),
            (slug, "-home-user-project"),
            (str(self._folder), "/tmp"),
            (self._url.removeprefix("http://"), "127.0.0.1:8080"),
        ):
            text = text.replace(found, instead)
        return re.sub(r"/tmp/claude-\d+/", "/tmp/claude-1000/", text)


def shorten(value: object) -> object:
    """Long prose and long lists cut: what they are made of is kept, all that they say is not needed."""
    match value:
        case str() if len(value) > 400:
            return value[:200] + "..."
        case list() if len(value) > 12:
            return [shorten(item) for item in value[:6]]
        case list():
            return [shorten(item) for item in value]
        case dict():
            return {key: shorten(item) for key, item in value.items()}
        case _:
            return value


def verdict(decision: str, reason: str = "", **more: object) -> Line:
    """A PreToolUse hook's answer."""
    output = {
        "hookEventName": "PreToolUse",
        "permissionDecision": decision,
        "permissionDecisionReason": reason,
    }
    return {"hookSpecificOutput": output, **more}


def allow_all(_request: Line) -> Line:
    return verdict("allow", "granted")


# --- reading them -----------------------------------------------------------------------------


def recorded(name: str) -> list[Line]:
    raw = (HERE / f"{name}.jsonl").read_bytes()
    return [msgspec.json.decode(line, type=Line) for line in raw.splitlines()]


def of(line: Line, *path: str) -> object:
    """What is found there, or None."""
    found: object = line
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def kind(line: Line) -> str:
    """A line's type and whatever else makes a reader act differently on it."""
    details: list[object] = [line["type"], line.get("subtype"), line.get("state")]
    match line["type"]:
        case "stream_event":
            details.append(of(line, "event", "type"))
        case "user" | "assistant":
            content = of(line, "message", "content")
            details += [block["type"] for block in content] if isinstance(content, list) else ["text"]
            details.append("subagent" if line["parent_tool_use_id"] else None)
        case "control_request":
            details.append(of(line, "request", "subtype"))
        case "control_response":
            details.append(of(line, "response", "subtype"))
        case "rate_limit_event":
            details.append(of(line, "rate_limit_info", "status"))
        case "result":
            details += [line.get("terminal_reason"), line["is_error"], line["num_turns"]]
            cost, denials = line["total_cost_usd"], line["permission_denials"]
            assert isinstance(cost, int | float)
            assert isinstance(denials, list)
            details += [round(cost, 6), len(denials)]
    if line.get("subtype") == "api_retry":
        details += [line["error_status"], line["error"]]
    return " ".join(str(detail) for detail in details if detail is not None)


# --- the scenes -------------------------------------------------------------------------------


async def text(take: Take) -> None:
    async with take.running("--model=sonnet"):
        await take.turn(prompt("Say hello.", say("Hello.", cost_usd=0.05, model="sonnet")))
        await take.turn("And now without a script.")


async def text_partial(take: Take) -> None:
    async with take.running("--include-partial-messages"):
        reply = say("The answer is forty-two.", cost_usd=0.05).thinking("Let me think.").chunked(8)
        await take.turn(prompt("What is the answer?", reply))


async def tools(take: Take) -> None:
    async with take.running("--permission-mode=dontAsk"):
        await take.gate(allow_all)
        await take.turn(
            prompt(
                "Write a file and look at it.",
                call("Write", file_path=take.path("a.txt"), content="one\n").saying("First the file."),
                together(call("Read", file_path=take.path("a.txt")), call("Bash", command="cat a.txt")),
                call("Edit", file_path=take.path("a.txt"), old_string="one", new_string="two"),
                call("Bash", command="exit 3"),
                call("Bash", command="sleep 0.2; echo later", run_in_background=True),
                say("It is written.", cost_usd=0.05),
                say("The background command ended."),
            ),
            results=2,
        )


async def refused(take: Take) -> None:
    def decide(request: Line) -> Line:
        given = request["input"]
        assert isinstance(given, dict)
        return verdict("deny", "not here") if given["tool_name"] == "Write" else {}

    async with take.running("--permission-mode=dontAsk"):
        await take.gate(decide)
        await take.turn(
            prompt(
                "Try what is not granted.",
                call("Write", file_path=take.path("a.txt"), content="one\n"),
                call("Bash", command="touch b.txt"),
                call("NoSuchTool", anything=1),
                call("Bash", wrong="input"),
                say("Nothing was written."),
            )
        )


async def hook_stopped(take: Take) -> None:
    async with take.running("--permission-mode=dontAsk"):
        await take.gate(lambda _: verdict("deny", "limit", **{"continue": False, "stopReason": "limit"}))
        await take.turn(prompt("Go past a limit.", call("Bash", command="echo no"), say("never said")))
        await take.turn("Still there?")


async def questions(take: Take) -> None:
    def decide(request: Line) -> Line:
        if request["tool_name"] == "AskUserQuestion":
            given = request["input"]
            assert isinstance(given, dict)
            return {"behavior": "allow", "updatedInput": given | {"answers": {"Which colour?": "Blue"}}}
        return {"behavior": "deny", "message": "No.", "interrupt": False}

    options = [{"label": "Red", "description": "Warm"}, {"label": "Blue", "description": "Cold"}]
    question = {"question": "Which colour?", "header": "Colour", "options": options, "multiSelect": False}
    async with take.running("--permission-mode=manual", "--permission-prompt-tool", "stdio"):
        take.answers["can_use_tool"] = decide
        await take.gate(lambda _: {})
        await take.turn(
            prompt(
                "Ask me.",
                call("AskUserQuestion", questions=[question]),
                call("Bash", command="touch b.txt"),
                say("Blue it is."),
            )
        )


async def subagent(take: Take) -> None:
    inner = prompt("Look around.", call("Bash", command="echo inside"), say("Looked.", cost_usd=0.1))
    async with take.running("--permission-mode=dontAsk", "--include-partial-messages"):
        await take.gate(allow_all)
        await take.turn(
            prompt(
                "Delegate and wait.",
                call("Agent", description="look", prompt=inner, run_in_background=False),
                say("It looked.", cost_usd=0.05),
            )
        )


async def subagent_background(take: Take) -> None:
    inner = prompt("Look around.", call("Bash", command="sleep 0.5"), say("Looked.", cost_usd=0.1))
    async with take.running("--permission-mode=dontAsk"):
        await take.gate(allow_all)
        await take.turn(
            prompt(
                "Delegate and go on.",
                call("Agent", description="look", prompt=inner, run_in_background=True),
                say("It is looking."),
                say("It has looked."),
            ),
            results=2,
        )
        await take.until("system", "session_state_changed", count=2)


async def interrupt_streaming(take: Take) -> None:
    async with take.running("--include-partial-messages"):
        await take.say(prompt("Talk for ever.", say("Well then, let me begin.").chunked(4).stalling()))
        await take.until("stream_event", count=3)
        await take.ask("interrupt")
        await take.until_idle()
        await take.turn("Still there?")


async def interrupt_tool(take: Take) -> None:
    async with take.running("--permission-mode=dontAsk"):
        await take.gate(allow_all)
        await take.say(prompt("Sleep.", call("Bash", command="touch begun; sleep 60"), say("never said")))
        while not await trio.Path(take.path("begun")).exists():  # noqa: ASYNC110  no event tells of a file
            await trio.sleep(0.01)
        await take.ask("interrupt")
        await take.until("result")


async def folded_message(take: Take) -> None:
    """A message sent while a tool runs joins the running turn: two messages, one result."""
    async with take.running("--permission-mode=dontAsk"):
        await take.gate(allow_all)
        await take.say(prompt("Work.", call("Bash", command="sleep 1"), say("Done with both.")))
        await take.until("control_request")
        await take.say("One more thing.")
        await take.until("result")


async def two_messages(take: Take) -> None:
    async with take.running():
        await take.say(prompt("One.", say("First.").after(0.5)))
        await take.say(prompt("Two.", say("Second.")))
        await take.until("result", count=2)


async def api_error(take: Take) -> None:
    async with take.running():
        await take.turn(prompt("Fail.", say("x").failing(400, times=9, message="prompt is odd")))
        await take.turn("Still there?")


async def forbidden(take: Take) -> None:
    async with take.running():
        await take.turn(prompt("Fail.", say("x").failing(403)))


async def unauthorized(take: Take) -> None:
    """The first retries only: all ten would take minutes."""
    async with take.running():
        await take.say(prompt("Fail.", say("x").failing(401, times=99)))
        await take.until("system", "api_retry", count=2)
        await take.ask("interrupt")
        await take.until("result")


async def retries(take: Take) -> None:
    async with take.running():
        reply = (
            say("At last.", cost_usd=0.05).failing(529).failing(500).dropping().failing(429, retry_after=0)
        )
        await take.turn(prompt("Try again.", reply))


async def rate_limit(take: Take) -> None:
    async with take.running(oauth=True):
        await take.turn(prompt("One.", say("Fine.").limited(utilization=0.4)))
        await take.turn(prompt("Two.", say("Soon over.").limited("allowed_warning", utilization=0.92)))
        await take.turn(
            prompt("Three.", say("x").failing(429, times=99).limited("rejected", utilization=1.0))
        )


async def max_turns(take: Take) -> None:
    async with take.running("--permission-mode=dontAsk", "--max-turns", "2"):
        await take.gate(allow_all)
        calls = [call("Bash", command=f"echo {number}") for number in range(4)]
        await take.turn(prompt("Go round.", *calls, say("never said")))


async def max_budget(take: Take) -> None:
    async with take.running("--permission-mode=dontAsk", "--max-budget-usd", "0.08"):
        await take.gate(allow_all)
        calls = [call("Bash", command=f"echo {number}").costing(0.05) for number in range(4)]
        await take.turn(prompt("Spend.", *calls, say("never said")))


async def resumed(take: Take) -> None:
    async with take.running():
        await take.turn(prompt("Say hello.", say("Hello.", cost_usd=0.05)))
    async with take.running(resume=True):
        await take.turn(prompt("Say hello again.", say("Hello again.", cost_usd=0.05)))


async def control(take: Take) -> None:
    async with take.running():
        await take.ask("initialize", hooks={})
        await take.turn(prompt("Say hello.", say("Hello.", cost_usd=0.05)))
        await take.ask("get_usage", skip_behaviors=True)
        await take.ask("get_session_cost")
        await take.ask("get_context_usage")
        await take.ask("set_model", model="haiku")
        await take.ask("set_permission_mode", mode="dontAsk")
        await take.ask("mcp_status")
        await take.ask("no_such_request")
        await take.ask("stop_task", task_id="nothing")
        await take.turn(prompt("Say hello again.", say("Hello again.")))


async def commands(take: Take) -> None:
    async with take.running():
        await take.turn(prompt("Say hello.", say("Hello.", cost_usd=0.05)))
        await take.turn("/compact")
        await take.turn("/clear")
        await take.turn(prompt("Say hello again.", say("Hello again.", cost_usd=0.05)))


async def not_logged_in(take: Take) -> None:
    async with take.running(credentials=False):
        await take.turn("Hello?")


async def model_stops(take: Take) -> None:
    async with take.running():
        await take.turn(prompt("Too long.", say("cut off he").ending("max_tokens").using(Usage(0, 100))))
        await take.turn(prompt("Bad.", say("I cannot help with that.").ending("refusal")))


SCENES: Final[tuple[Callable[[Take], Awaitable[None]], ...]] = (
    text, text_partial, tools, refused, hook_stopped, questions, subagent, subagent_background,
    interrupt_streaming, interrupt_tool, folded_message, two_messages, api_error, forbidden, unauthorized,
    retries, rate_limit, max_turns, max_budget, resumed, control, commands, not_logged_in, model_stops,
)  # fmt: skip


async def main(names: list[str]) -> None:
    async with serve_api() as api:
        for scene in SCENES:
            name = scene.__name__
            if names and name not in names:
                continue
            with tempfile.TemporaryDirectory(prefix="cms-record-") as folder:
                take = Take(name, [claude()], api.url, Path(folder))
                await scene(take)
                take.save()
            print(name, len(take.written), "lines", flush=True)  # noqa: T201  a script for people


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
