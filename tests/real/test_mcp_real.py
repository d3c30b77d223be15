"""The whole loop: the real `claude` as client, set up by `cms setup`, and the real `claude` as its agents.

The parent's script calls the tools; the agents' scripts travel in the tools' arguments.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping

import msgspec
import pytest

from cms.config import Settings
from cms.setup.claude_cli import NAME
from cms.setup.install import SKILL, entry_for, guide_text
from cms.testing.script import ScriptedReply, call, prompt, say
from mcp_server.kit import problem
from mcp_server.test_server import SCHEMAS
from real.conftest import World

pytestmark = pytest.mark.real

MODEL = "sonnet"
LONG = call("Bash", command='python3 -c "import time; time.sleep(600)"')


#: What is there before setup, written as people write.
OTHERS = '{"mcpServers":\t{"one": {"command": "/bin/true", "args": ["\\u00e9"], "n": 1.0}}}\n'


class Block(msgspec.Struct):
    type: str
    content: str | list[dict[str, object]] = ""
    is_error: bool = False


class Message(msgspec.Struct):
    content: str | list[Block] = ""


class Server(msgspec.Struct):
    name: str
    status: str


class Line(msgspec.Struct):
    """As much of a line of the parent's as is looked at."""

    type: str
    subtype: str = ""
    message: Message = msgspec.field(default_factory=Message)
    mcp_servers: list[Server] = []
    tools: list[str] = []
    skills: list[str] = []
    result: str = ""


class Answer(msgspec.Struct):
    outcome: str
    response: str


class Through(msgspec.Struct):
    """As much of a session that `wait` collected as is looked at."""

    last: Answer


class Parent(msgspec.Struct):
    """What a parent's run came to: its first line, the results of its tool calls, its last words."""

    init: Line
    results: list[Block]
    said: str

    def good(self, number: int) -> dict[str, object]:
        block = self.results[number]
        assert not block.is_error, block.content
        return msgspec.json.decode(str(block.content), type=dict[str, object])

    def bad(self, number: int) -> str:
        block = self.results[number]
        assert block.is_error, block.content
        return str(block.content)


def tool(name: str, /, **arguments: object) -> ScriptedReply:
    return call(f"mcp__cms__{name}", **arguments)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll, because what is waited for happens in processes that are not ours."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)  # to ask is a command: it would keep from work what is waited for


def own_env(world: World) -> dict[str, str]:
    """For a `claude` of the test's own, which leaves things in its temporary folder that are not cms's."""
    return {**world.env, "CLAUDE_CODE_TMPDIR": str(world.root)}


def start(
    world: World,
    claude: str,
    text: str,
    *words: str,
    stdin: int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    """A parent: Claude Code as it comes, with the configuration of its HOME."""
    stream = ("--output-format", "stream-json", "--verbose", "--allowedTools=mcp__cms")
    return subprocess.Popen(
        [claude, *stream, *words, *(("-p", text) if text else ())],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # The server takes a second to start, and here many programs start at once.
        env={**own_env(world), "CLAUDE_CODE_MCP_STARTUP_WAIT_MS": "30000", **(env or {})},
        cwd=world.work_dir,
    )


def parent(world: World, claude: str, text: str, *words: str, env: Mapping[str, str]) -> Parent:
    child = start(world, claude, text, *words, env=env)
    out, err = child.communicate(timeout=60)
    lines = [msgspec.json.decode(line, type=Line) for line in out.splitlines()]
    inits = [line for line in lines if (line.type, line.subtype) == ("system", "init")]
    assert inits, err
    results = [
        block
        for line in lines
        if line.type == "user" and isinstance(line.message.content, list)
        for block in line.message.content
        if block.type == "tool_result"
    ]
    return Parent(inits[0], results, lines[-1].result)


def register(world: World) -> None:
    """Leave the HOME as `cms setup --global --guide` does; how that does it is tried below."""
    entry = entry_for(Settings(home=world.cms_home, environ=world.env), "user")
    server = {"type": "stdio", **msgspec.to_builtins(entry)}
    (world.home / ".claude.json").write_bytes(msgspec.json.encode({"mcpServers": {NAME: server}}))
    skill = world.home / ".claude" / "skills" / SKILL
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text(guide_text())


def digests(world: World) -> dict[str, str]:
    """Every file and folder of the user and the project, by content; claude's logs and backups left out."""
    return {
        str(path): hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()
        for root in (world.home, world.work_dir)
        for path in sorted(root.rglob("*"))
        if "/.cache" not in str(path) and "/.claude/backups" not in str(path)
    }


def test_a_parent_delegates_under_limits_and_holds_a_conversation(world: World, claude: str) -> None:
    """In a project whose servers are approved. Afterwards setup is taken back, and each file is as it was."""
    (world.work_dir / ".mcp.json").write_text(OTHERS)  # and claude has never been started in this HOME
    before = digests(world)
    report = world.cms("setup", "--local", "--guide", "--json")
    assert (report.code, report.json()["health"]) == (0, "pending approval"), report
    assert '"\\u00e9"], "n": 1.0' in (world.work_dir / ".mcp.json").read_text()
    place = world.work_dir / "made.txt"
    refused = world.work_dir / ".git" / "config"
    work = prompt("work", call("Write", file_path=str(place), content="made"), say("made it"))
    costly = prompt("spend", *[call("Bash", command="true").costing(0.05, MODEL) for _ in range(9)])
    forbidden = prompt("reach", call("Write", file_path=str(refused), content="x"), say("did it"))
    run = parent(
        world,
        claude,
        prompt(
            "go",
            tool("delegate", name="maker", task=work, maxCost=0.5, detach=True),
            tool("delegate", name="spender", task=costly, maxCost=0.1, preset="full"),
            tool("delegate", name="reacher", task=forbidden),
            tool("delegate", name="maker", task="again"),
            tool("wait", names=["maker"], timeoutSeconds=30),
            tool("status", name="makr"),
            tool("list"),
            tool("spawn", name="chat", prompt=prompt("hello", say("I am here"))),
            tool("send", name="chat", message=prompt("more", say("still here"))),
            tool("stop", name="chat"),
            tool("send", name="chat", message=prompt("again", say("back again"))),
            tool("history", name="chat"),
            tool("kill", name="chat"),
            say("all done"),
        ),
        "--settings",
        '{"enableAllProjectMcpServers": true}',
        env={"CLAUDE_CONFIG_DIR": str(world.root / "config")},  # else it writes into what is compared
    )
    assert ("cms", "connected") in [(one.name, one.status) for one in run.init.mcp_servers]
    assert set(SCHEMAS) == {name.removeprefix("mcp__cms__") for name in run.init.tools if "mcp__cms" in name}
    assert SKILL in run.init.skills
    assert run.said == "all done"
    for number in range(3):
        assert not problem(SCHEMAS["delegate"], run.good(number))
    assert run.good(0)["acceptedOnly"] is True
    assert run.good(1)["outcome"] == "cost_exceeded"
    assert 0.1 <= float(str(run.good(1)["cost"])) <= 0.1501
    assert run.good(2)["outcome"] == "protected_path"
    assert not refused.exists()
    assert "already exists" in run.bad(3)
    (collected,) = msgspec.convert(run.good(4)["done"], list[Through])
    assert (collected.last.outcome, collected.last.response) == ("completed", "made it")
    assert place.read_text() == "made"
    assert "did you mean 'maker'?" in run.bad(5)
    assert run.good(6)["total"] == 3
    assert [run.good(number)["text"] for number in (7, 8)] == ["I am here", "still here"]
    assert run.good(10)["text"] == "back again"  # a conversation that was stopped goes on
    assert len(msgspec.convert(run.good(11)["messages"], list[object])) == 3
    assert (run.good(12)["wasAlive"], run.good(12)["provedEmpty"]) == (True, True)
    assert not [line for line in world.survivors() if "stream-json" in line]
    place.unlink()
    assert world.cms("setup", "--uninstall").code == 0
    assert digests(world) == before


def test_a_parent_that_gives_up_takes_its_delegation_with_it(world: World, claude: str) -> None:
    """Interrupted, Claude Code cancels the request and lives on; terminated, it takes the server with it."""
    register(world)
    child = start(world, claude, "", "--input-format", "stream-json", "-p", stdin=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None

    def tell(message: dict[str, object]) -> None:
        assert child.stdin is not None
        child.stdin.write(msgspec.json.encode(message).decode() + "\n")
        child.stdin.flush()

    def say_to(text: str) -> None:
        tell({"type": "user", "message": {"role": "user", "content": text}})

    def delegate(name: str) -> None:
        doomed = tool("delegate", name=name, task=prompt("work", LONG, say("x")), preset="full")
        say_to(prompt("go", doomed, say("x")))
        wait_until(lambda: str(world.cms("status", name, "--json").json().get("activity")).startswith("Bash"))

    def wait_given_up(name: str) -> None:
        wait_until(lambda: world.cms("output", name, "--json").json()["outcome"] == "interrupted")

    try:
        connected = False
        while not connected:  # a conversation does not wait for servers that are slow to start
            say_to("hello")
            for line in map(msgspec.json.Decoder(Line).decode, child.stdout):
                if line.subtype == "init":
                    connected = [server.status for server in line.mcp_servers] == ["connected"]
                    assert SKILL in line.skills
                elif line.type == "result":
                    break
        delegate("first")
        tell({"type": "control_request", "request_id": "1", "request": {"subtype": "interrupt"}})
        wait_given_up("first")
        assert child.poll() is None
        delegate("second")
        child.terminate()
        wait_given_up("second")
        child.wait(timeout=30)
    finally:
        child.communicate(timeout=30)
    wait_until(lambda: world.cms("status", "first", "--json").json()["pid"] is None)
    wait_until(lambda: world.cms("status", "second", "--json").json()["pid"] is None)
    wait_until(lambda: not [line for line in world.survivors() if "time.sleep(600)" in line])


def test_only_a_session_that_may_uses_cms_and_its_children_are_less_than_itself(
    world: World, claude: str
) -> None:
    """The others: no tool though it is registered for this user, no daemon to reach, no store to read."""
    register(world)
    look = (
        f"cms list; ls -A {world.cms_home}; "
        f"env -u CMS_PARENT CMS_HOME={world.cms_home} cms list; echo CMS_CHILD_SOCKET=$CMS_CHILD_SOCKET"
    )
    plain = world.cms(
        "spawn", "plain", "--preset", "full", "--json",
        prompt("try", tool("list"), call("Bash", command=look), say("no way")),
    )  # fmt: skip
    assert plain.json()["text"] == "no way", plain
    raw = raw_lines(world, "plain")
    assert "No such tool available: mcp__cms__list" in raw
    assert "this session may not use cms" in raw
    assert "cannot use" in raw
    assert "CMS_CHILD_SOCKET=\\n" in raw or 'CMS_CHILD_SOCKET="' in raw
    assert "cms.db" not in raw.partition("this session may not use cms")[2]

    child = prompt("work", say("child done", cost_usd=0.02, model=MODEL))
    spawned = world.cms(
        "spawn", "head", "--json", "--allow-cms", "--max-cost", "0.5",
        prompt(
            "go",
            tool("delegate", name="child", task=child, maxCost=100),
            tool("delegate", name="wide", task="x", preset="full"),
            tool("delegate", name="away", task="x", workDir="/usr"),
            tool("spawn", name="live", prompt="hello"),
            tool("list"),
            tool("kill", name="plain"),
            say("all done"),
        ),
    )  # fmt: skip
    assert spawned.json()["text"] == "all done", spawned
    status = world.cms("status", "child", "--json").json()
    assert (status["depth"], status["status"]) == (1, "completed")
    limits = msgspec.convert(status["limits"], dict[str, float | None])
    assert limits["maxCost"] is not None
    assert limits["maxCost"] <= 0.5
    raw = raw_lines(world, "head")
    assert "a session may not start one with preset full: this session has edit" in raw
    assert "a session may not start one with folder /usr" in raw
    assert "no session named 'plain'" in raw
    for name in ("wide", "away"):
        assert world.cms("status", name).code == 10
    assert world.cms("status", "live", "--json").json()["status"] == "ready"
    assert world.cms("kill", "head").code == 0
    assert world.cms("status", "live", "--json").json()["status"] == "killed"
    assert world.cms("status", "plain", "--json").json()["status"] == "ready"


def raw_lines(world: World, name: str) -> str:
    """What went between a session and cms, as it was written."""
    session = str(world.cms("status", name, "--json").json()["id"])
    return "".join(path.read_text() for path in (world.cms_home / "raw").glob(f"{session}*"))


# --- setup ------------------------------------------------------------------------------------------


def test_setup_then_uninstall_leaves_the_configuration_byte_for_byte(world: World) -> None:
    """For the user; for a project, and in a new HOME: above."""
    (world.home / ".claude").mkdir()
    (world.home / ".claude" / "settings.json").write_text('{"model":   "opus"}')
    (world.home / ".claude.json").write_text(OTHERS)
    before = digests(world)
    report = world.cms("setup", "--global", "--guide", "--json")
    assert (report.code, report.json()["health"]) == (0, "connected"), report
    assert world.cms("setup", "--global", "--guide", "--dry-run", "--json").json()["changed"] is False
    assert world.cms("setup", "--uninstall").code == 0
    assert digests(world) == before
