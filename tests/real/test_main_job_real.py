"""What the project is for, through the command line, on the real binary."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cms.session.model import Step
from cms.testing.script import call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real

MODEL = "sonnet"
#: A tool call that lasts until it is killed. (claude refuses a bare `sleep`.)
LONG = 'python3 -c "import time; time.sleep(600)"'


class Ladder(msgspec.Struct):
    """The part of a receipt that is looked at here."""

    steps: list[Step]


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Poll, because what is waited for happens in processes that are not ours."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def tool_is_running(world: World) -> bool:
    return any(
        "time.sleep(600)" in line and "-c" in line and "claude" not in line for line in world.survivors()
    )


def test_one_live_process_answers_every_shell_and_saves_the_restarts(world: World, claude: str) -> None:
    first = world.cms("spawn", "chat", prompt("hello", say("I am here")), "--json")
    assert first.code == 0, first.err
    assert first.json()["text"] == "I am here"
    pids = {world.cms("status", "chat", "--json").json()["pid"]}
    warm = []
    for number in range(3):
        began = time.monotonic()
        answer = world.cms("send", "chat", prompt(f"question {number}", say(f"answer {number}")), "--json")
        warm.append(time.monotonic() - began)
        assert answer.code == 0
        assert answer.json()["text"] == f"answer {number}"
    pids.add(world.cms("status", "chat", "--json").json()["pid"])
    assert len(pids) == 1
    session = world.cms("status", "chat", "--json").json()["claudeSessionId"]
    world.cms("stop", "chat")
    began = time.monotonic()
    cold = subprocess.run(
        [claude, "-p", "--resume", str(session), "--model", MODEL, prompt("again", say("cold"))],
        env={**world.env, "CLAUDE_CODE_TMPDIR": str(world.root)}, cwd=world.work_dir,
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert cold.stdout.strip() == "cold"
    assert min(warm) < time.monotonic() - began


def test_the_terminal_that_spawned_may_be_closed(world: World) -> None:
    """A session is the daemon's: SIGHUP to everything in the terminal does not reach it."""
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "cms", "spawn", "chat", prompt("hello", say("I am here"))]
    child = subprocess.Popen(
        words, stdin=follower, stdout=follower, stderr=follower, env=world.env, cwd=world.work_dir,
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while b"I am here" not in seen:
        seen += os.read(leader, 4096)
    pid = world.cms("status", "chat", "--json").json()["pid"]
    os.close(leader)
    child.wait(timeout=30)
    assert world.cms("status", "chat", "--json").json()["pid"] == pid
    assert world.cms("send", "chat", prompt("still?", say("still"))).out.strip().endswith("still")


def test_a_cost_limit_ends_a_runaway_within_one_call(world: World) -> None:
    reply = call("Read", file_path=str(world.work_dir / "a.txt")).costing(0.05, MODEL)
    (world.work_dir / "a.txt").write_text("text\n")
    ran = world.cms("delegate", "runaway", prompt("go", *[reply] * 20), "--max-cost", "0.10", "--json")
    assert ran.code == 4, ran.err
    result = ran.json()
    assert result["status"] == "cost_exceeded"
    assert isinstance(result["turns"], int)
    assert result["turns"] <= 3
    assert isinstance(result["cost"], float)
    assert result["cost"] <= 0.15 + 1e-9
    assert '"empty":true' in ran.out
    assert not world.survivors()


@pytest.mark.own_daemon
def test_the_daemons_sigkill_takes_everything_and_loses_nothing(world: World) -> None:
    assert (
        world.cms("spawn", "work", prompt("one", say("first answer", cost_usd=0.05, model=MODEL))).code == 0
    )
    session = world.start(
        "send", "work", prompt("two", call("Bash", command=LONG)), "--json",
    )  # fmt: skip
    # `edit` refuses that command; a session that may do everything runs it.
    session.communicate(timeout=60)
    assert world.cms("spawn", "free", prompt("one", say("yes")), "--preset", "full").code == 0
    waiting = world.start("send", "free", prompt("two", call("Bash", command=LONG)))
    wait_until(lambda: tool_is_running(world))
    claude_pid = world.cms("status", "free", "--json").json()["pid"]
    assert isinstance(claude_pid, int)
    daemon = world.daemon_pid()
    os.kill(daemon, signal.SIGKILL)
    _out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 11, err
    # Not by its environment alone: that is gone a little before the process is.
    wait_until(lambda: not world.survivors() and not is_alive(claude_pid))

    told = world.cms("status", "free")
    assert told.code == 0
    assert "interrupted" in told.out
    history = world.cms("history", "free", "--json").json()["interactions"]
    assert isinstance(history, list)
    assert [one["state"] for one in history] == ["done", "interrupted"]
    assert world.cms("output", "work", "--full").code == 0
    kept = world.cms("history", "work", "--json").json()["interactions"]
    assert isinstance(kept, list)
    assert kept[0]["response"] == "first answer"
    assert kept[0]["cost"] == pytest.approx(0.05)
    again = world.cms("send", "free", prompt("three", say("going on")), "--json")
    assert again.code == 0, again.err
    assert again.json()["text"] == "going on"


def test_ctrl_c_stops_the_delegation_that_the_command_waits_for(world: World) -> None:
    child = world.start(
        "delegate", "long", prompt("go", call("Bash", command=LONG)), "--preset", "full", "--json"
    )
    wait_until(lambda: tool_is_running(world))
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130, err
    assert '"status":"interrupted"' in out
    assert not tool_is_running(world)
    record = world.cms("status", "long", "--json").json()
    assert record["status"] == "stopped"
    ladder = msgspec.convert(record["receipt"], Ladder)
    assert (ladder.steps[0].name, ladder.steps[0].worked) == ("interrupt", True)
    assert world.cms("continue", "long", prompt("on", say("finished"))).code == 0


def test_a_detached_delegation_outlives_its_command(world: World) -> None:
    gate = world.work_dir / "go"
    command = f"python3 -c \"import os, time\nwhile not os.path.exists('{gate}'): time.sleep(0.02)\""
    script = prompt("go", call("Bash", command=command), say("done"))
    ran = world.cms("delegate", "later", script, "--preset", "full", "--detach", "--json")
    assert ran.code == 0, ran.err
    assert world.cms("status", "later", "--json").json()["status"] in ("busy", "starting", "ready")
    gate.touch()
    wait_until(lambda: world.cms("status", "later", "--json").json()["status"] == "completed")
    assert world.cms("output", "later", "--full").out.strip() == "done"


def test_each_way_to_fail_has_its_exit_code(world: World) -> None:
    """Limits aside: those that the drill tries on the real binary, too."""
    work = world.work_dir
    question = {
        "question": "Which database?", "header": "DB", "multiSelect": False,
        "options": [{"label": "SQLite", "description": "small"}, {"label": "Postgres", "description": "big"}],
    }  # fmt: skip
    hook = str(work / ".git" / "hooks" / "pre-commit")
    cases: list[tuple[str, int, str, tuple[str, ...]]] = [
        ("needs_input", 3, prompt("go", call("AskUserQuestion", questions=[question])), ()),
        ("protected_path", 7, prompt("go", call("Write", file_path=hook, content="x")), ()),
        ("verification_failed", 8, prompt("go", say("done")), ("--verify", "test -e made.txt")),
        ("failed", 1, prompt("go", say("x").failing(401, times=99)), ()),
    ]
    error = ""
    for status, code, script, flags in cases:
        began = time.monotonic()
        ran = world.cms("delegate", status.replace("_", "-"), script, *flags, "--json")
        assert (ran.json()["status"], ran.code) == (status, code), ran
        assert time.monotonic() - began < 20  # the ten retries of refused credentials would take minutes
        error = str(ran.json()["error"])
    assert "credentials" in error
    asked = world.cms("history", "needs-input", "--json").json()["interactions"]
    assert isinstance(asked, list)
    (asked_for,) = asked[0]["questions"]
    assert asked_for["question"] == "Which database?"
    assert asked_for["options"] == ["SQLite", "Postgres"]
    assert not Path(hook).exists()


def test_a_usage_limit_is_told_as_such(world: World) -> None:
    del world.env["ANTHROPIC_API_KEY"]
    world.env["CLAUDE_CODE_OAUTH_TOKEN"] = "test"
    script = prompt("go", say("x").failing(429, times=99).limited("rejected", utilization=1.0))
    ran = world.cms("delegate", "limited", script, "--json")
    assert (ran.json()["status"], ran.code) == ("rate_limited", 9), ran
    (window,) = msgspec.convert(world.cms("usage", "--json").json()["windows"], list[dict[str, object]])
    told = {key: window[key] for key in ("name", "used", "status", "heardFrom", "over")}
    assert told == {
        "name": "five_hour",
        "used": 1.0,
        "status": "rejected",
        "heardFrom": "limited",
        "over": False,
    }


def test_no_login_says_what_to_do(world: World) -> None:
    del world.env["ANTHROPIC_API_KEY"]
    ran = world.cms("delegate", "nobody", "hello", "--json")
    assert ran.code == 1
    assert "log in" in str(ran.json()["error"])


def test_the_demo_holds(world: World) -> None:
    ran = world.cms("demo", "--json")
    assert ran.code == 0, ran.err
    report = ran.json()
    assert report["ok"] is True
    assert report["agent"] == "claude"
    assert report["model"] == "scripted"


def test_the_demo_says_when_the_agent_is_simulated(world: World, tmp_path: Path) -> None:
    ran = world.cms("demo", env={"CMS_CLAUDE": str(tmp_path / "none")})
    assert ran.code == 0, ran.out
    assert "SIMULATED" in ran.out
