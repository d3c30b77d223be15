"""`cms mcp` as a process, the SDK's client at one end, a daemon with simulated agents at the other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import msgspec
import trio

from cli.shell import Shell, shell
from cms.testing.script import call, prompt, say
from mcp_server.kit import bad, good, over_pipes, problem
from mcp_server.test_server import SCHEMAS

__all__ = ["shell"]

LONG = call("Bash", command="sleep 600")


def find(value: object, *path: str | int) -> object:
    for step in path:
        value = (
            msgspec.convert(value, list[object])[step]
            if isinstance(step, int)
            else msgspec.convert(value, dict[str, object])[step]
        )
    return value


def at_work(shell: Shell, name: str) -> bool:
    """Whether there is such a session by now, and a command of its runs."""
    return str(shell.cms("status", name, "--json").json().get("activity")).startswith("Bash")


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await trio.sleep(0.02)


async def test_the_list_of_things_that_a_parent_does(shell: Shell) -> None:
    """Each tool once, on live sessions; every answer fits its schema."""
    with trio.fail_after(60):
        async with over_pipes(shell.env, shell.work_dir) as client:

            async def do(name: str, /, **arguments: object) -> dict[str, object]:
                found = good(await client.call_tool(name, arguments))
                assert not problem(SCHEMAS[name], found), name
                return found

            assert {tool.name for tool in (await client.list_tools()).tools} == set(SCHEMAS)
            first = await do("spawn", name="chat", prompt=prompt("hello", say("I am here", cost_usd=0.01)))
            assert (first["text"], first["status"]) == ("I am here", "ready")
            assert (await do("send", name="chat", message=prompt("more", say("still here"))))[
                "text"
            ] == "still here"
            forked = await do("fork", name="chat", newName="branch", message=prompt("b", say("branched")))
            assert forked["text"] == "branched"
            assert (await do("pause", name="chat"))["status"] == "paused"
            assert "paused" in bad(await client.call_tool("send", {"name": "chat", "message": "x"}))
            assert (await do("resume", name="chat"))["status"] == "ready"
            assert find(await do("output", name="chat"), "last", "response") == "still here"
            assert len(msgspec.convert((await do("history", name="chat"))["messages"], list[object])) == 2
            status = await do("status", name="chat")
            assert (status["depth"], status["maxCost"], status["live"]) == (1, 2.0, True)

            costly = prompt("work", call("Bash", command="true").costing(0.06, "sonnet"), LONG)
            over = await do("delegate", name="over", task=costly, maxCost=0.05, preset="full")
            assert over["outcome"] == "cost_exceeded"
            no = shell.work_dir / "no"
            refused = await do("delegate", name="refused", preset="read-only", task=prompt(
                "write", call("Write", file_path=str(no), content="x"), say("I could not")
            ))  # fmt: skip
            assert not no.exists()
            assert refused["response"] == "I could not"
            assert (await do("continue", name="refused", message=prompt("then?", say("fine"))))[
                "outcome"
            ] == "completed"

            assert (await do("delegate", name="later", task=prompt("go", say("collected")), detach=True))[
                "acceptedOnly"
            ] is True
            waited = await do("wait", names=["later", "chat"])
            assert find(waited, "done", 0, "last", "response") == "collected"
            assert find(waited, "done", 0, "last", "outcome") == "completed"

            question = {"question": "Which?", "header": "h", "options": [
                {"label": "red", "description": ""}, {"label": "blue", "description": ""}
            ], "multiSelect": False}  # fmt: skip
            asks = prompt("ask", call("AskUserQuestion", questions=[question]), say("thanks"))
            await do("delegate", name="asker", task=asks, detach=True, askMinutes=1)
            with trio.fail_after(20):
                while not (asked := await do("questions", name="asker"))["open"]:  # noqa: ASYNC110 - likewise
                    await trio.sleep(0.02)
            assert find(asked, "open", 0, "questions", 0, "question") == "Which?"
            await do("answer", name="asker", answers=["blue"])
            assert find(await do("wait", names=["asker"]), "done", 0, "last", "outcome") == "completed"

            await do("spawn", name="busy", prompt=prompt("go", LONG, say("x")), preset="full", detach=True)
            await until(lambda: str(shell.status("busy")["activity"]).startswith("Bash"))
            await do("interrupt", name="busy")
            assert find(await do("wait", names=["busy"]), "done", 0, "last", "outcome") == "interrupted"
            ended = await do("kill", name="busy")
            assert (ended["wasAlive"], ended["provedEmpty"]) == (True, True)
            stopped = await do("stop", name="branch")
            assert find(stopped, "session", "status") == "stopped"

            listed = msgspec.convert((await do("list"))["sessions"], list[dict[str, object]])
            theirs = {"chat", "branch", "over", "refused", "later", "asker", "busy"}
            assert {one["name"] for one in listed} >= theirs
            killed = msgspec.convert((await do("list", status="killed"))["sessions"], list[dict[str, object]])
            assert {one["name"] for one in killed} & theirs == {"busy"}
            rows = msgspec.convert((await do("cost"))["rows"], list[dict[str, object]])
            assert "over" in {row["what"] for row in rows}
            assert float(str((await do("budget"))["spentToday"])) > 0.05

            tasks = [
                {"name": "a", "task": prompt("first", say("from a"))},
                {"name": "b", "task": prompt("then {{needs.a.response}}", say("from b")), "needs": ["a"]},
                *({"name": f"c{n}", "task": prompt("x", say("c"))} for n in range(10)),
            ]
            batch = await do("batch_start", tasks=tasks, maxCost=5, maxParallel=9)
            assert (batch["active"], batch["total"]) == (True, 12)
            over = await do("batch_show", id=batch["id"], wait=True, limit=2)
            assert (over["status"], over["counts"]) == ("completed", {"completed": 12})
            assert [find(over, "tasks", n, "response") for n in (0, 1)] == ["from a", "from b"]
            third = await do("batch_show", id=batch["id"], after=over["next"], limit=1)
            assert find(third, "tasks", 0, "name") == "c0"
            hang = await do(
                "batch_start", tasks=[{"name": "h", "task": prompt("x", LONG), "preset": "full"}], maxCost=1
            )
            for _ in range(2):  # idempotent, as it is annotated
                assert (await do("batch_cancel", id=hang["id"]))["status"] == "cancelled"
            chain = [
                {"name": "one", "task": prompt("x", say("1"))},
                {"name": "two", "task": "x", "needs": ["one"]},
            ]
            done = await do("batch_start", tasks=chain, maxCost=0.5, wait=True)
            assert (done["status"], done["counts"]) == ("completed", {"completed": 2})
            loop = [{"name": "x", "task": "t", "needs": ["y"]}, {"name": "y", "task": "t", "needs": ["x"]}]
            refused_batch = bad(await client.call_tool("batch_start", {"tasks": loop, "maxCost": 1}))
            assert "nothing was started" in refused_batch
            uri = f"cms://batch/{batch['id']}/report"
            assert uri in {str(one.uri) for one in (await client.list_resources()).resources}
            (report,) = (await client.read_resource(uri)).contents
            assert "completed" in report.model_dump_json()

            (content,) = (await client.read_resource("cms://session/chat/transcript")).contents
            assert "still here" in content.model_dump_json()
            await do("stop", name="chat")

            # Last: a delegation whose request is cancelled takes its agent with it.
            doomed = {"name": "cancelled", "task": prompt("go", LONG, say("x")), "preset": "full"}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call_tool, "delegate", doomed)
                await until(lambda: at_work(shell, "cancelled"))
                nursery.cancel_scope.cancel()
            await until(lambda: shell.status("cancelled")["pid"] is None)
            assert find(shell.status("cancelled"), "lastInteraction", "outcome") == "interrupted"


async def test_a_client_that_is_killed_takes_its_delegations_with_it(shell: Shell) -> None:
    """And so does one that closes its end: below."""
    server = start(shell)
    await delegate(shell, server, "killed")
    server.kill()
    await until(lambda: server.poll() is not None)
    await until(lambda: shell.status("killed")["pid"] is None)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    server.stdout.close()


async def delegate(shell: Shell, server: subprocess.Popen[bytes], name: str) -> None:
    """Have an agent at work that does not end."""
    task = {"name": name, "task": prompt("go", LONG, say("x")), "preset": "full"}
    tell(server, 9, "tools/call", {"name": "delegate", "arguments": task})
    await until(lambda: at_work(shell, name))


# --- stdout -----------------------------------------------------------------------------------------


def start(shell: Shell, *, env: dict[str, str] | None = None, code: str = "") -> subprocess.Popen[bytes]:
    """The server with hands shaken."""
    words = ["-c", code] if code else ["-m", "cms", "mcp"]
    server = subprocess.Popen(
        [sys.executable, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**shell.env, **(env or {})},
        cwd=shell.work_dir,
    )
    tell(server, 1, "initialize", {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}
    })  # fmt: skip
    assert read(server)["id"] == 1
    tell(server, None, "notifications/initialized", {})
    return server


def tell(server: subprocess.Popen[bytes], number: int | None, method: str, params: dict[str, object]) -> None:
    assert server.stdin is not None
    message: dict[str, object] = {"jsonrpc": "2.0", "method": method, "params": params}
    if number is not None:
        message["id"] = number
    server.stdin.write(msgspec.json.encode(message) + b"\n")
    server.stdin.flush()


def read(server: subprocess.Popen[bytes]) -> dict[str, object]:
    assert server.stdout is not None
    return msgspec.json.decode(server.stdout.readline(), type=dict[str, object])


async def test_stdout_carries_the_protocol_and_nothing_else(shell: Shell) -> None:
    """Whatever prints, in Python or below it, to whatever it is told."""
    noisy = (
        "import os, sys\n"
        "from cms.mcp import status\n"
        "from cms.cli import main\n"
        "old = status.session_of\n"
        "def session_of(*args):\n"
        "    print('noise')\n"
        "    os.write(1, b'more noise\\n')\n"
        "    os.system('echo noise of a child')\n"
        "    sys.stdout.flush()\n"
        "    return old(*args)\n"
        "status.session_of = session_of\n"
        "sys.argv = ['cms', 'mcp']\n"
        "sys.exit(main())\n"
    )
    shell.ok("spawn", "loud", prompt("hello", say("here")), "--stop")
    server = start(shell, code=noisy)
    assert server.stdin is not None
    tell(server, 2, "tools/call", {"name": "status", "arguments": {"name": "loud"}})
    assert read(server)["id"] == 2
    server.stdin.write(b"this is no JSON\n")
    tell(server, 3, "no/such/method", {})
    tell(server, 4, "tools/call", {"name": "list", "arguments": {}})
    ids = {read(server).get("id") for _ in range(2)}
    assert ids == {3, 4}
    await delegate(shell, server, "left-alone")
    rest, _ = server.communicate(timeout=30)
    assert rest == b""
    assert server.returncode == 0
    await until(lambda: shell.status("left-alone")["pid"] is None)


# --- inside a session -------------------------------------------------------------------------------


def test_inside_a_session_that_may_not_use_it_the_server_is_gone_at_once(shell: Shell) -> None:
    """It costs each session of a person who has registered it no more than a start of Python."""
    watch = (
        "import sys\n"
        "from cms.cli.app import main\n"
        "code = main(['mcp'])\n"
        "print(code, 'mcp_types' in sys.modules, 'trio' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**shell.env, "CMS_PARENT": "x"},
        timeout=30,
        check=False,
    )
    assert done.stdout == "2 False False\n"
    assert "this session may not use cms" in done.stderr
    ran = shell.cms("list", env={"CMS_PARENT": "x"})
    assert ran.code == 11
    assert "this session may not use cms" in ran.err


def test_a_person_who_types_it_is_told(shell: Shell) -> None:
    parent, child = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cms", "mcp"],
            stdin=child,
            capture_output=True,
            text=True,
            env=shell.env,
            timeout=30,
            check=False,
        )
    finally:
        os.close(parent)
        os.close(child)
    assert done.returncode == 2
    assert "cms setup" in done.stderr
