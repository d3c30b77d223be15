"""`cms kill` through the real command line: what it ends, what it proves, and what it does when it cannot."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.shell import Shell, shell
from cms.testing import hostile
from cms.testing.script import ScriptedReply, call, prompt, say

__all__ = ["shell"]


#: A tool call that leaves a process behind, in a session of its own.
SLEEPER = call("Bash", command="setsid sleep 600 > /dev/null 2>&1 &")


def runs(case: str, beat: Path) -> ScriptedReply:
    """A tool call that starts a hostile program and does not wait for it."""
    command = shlex.join(hostile.command(case, beat))
    return call(
        "Bash",
        command=f"({command} > {beat}.said 2>&1 &); until grep -q ^ready {beat}.said; do sleep 0.02; done",
    )


def wait_until_silent(*beats: Path) -> None:
    """Whatever still ran would write the time."""
    before = [hostile.last_beat(beat) for beat in beats]
    time.sleep(0.05)
    assert [hostile.last_beat(beat) for beat in beats] == before


def test_the_receipt_proves_that_nothing_is_left(shell: Shell) -> None:
    beats = {case: shell.work_dir / f"beat-{case}" for case in ("orphan", "deaf", "headless")}
    tools = [runs(case, beat) for case, beat in beats.items()]
    shell.ok("spawn", "escapers", "--preset", "full", prompt("go", *tools, say("started")))
    assert all(map(hostile.last_beat, beats.values()))
    ran = shell.cms("kill", "escapers", "--json")
    assert ran.code == 0
    ended = ran.json()
    receipt = ended["receipt"]
    assert isinstance(receipt, dict)
    assert ended["status"] == "killed"
    assert (receipt["empty"], receipt["left"]) == (True, [])
    assert receipt["seconds"] < 5
    assert receipt["how"]
    assert len(receipt["alive"]) >= 6
    wait_until_silent(*beats.values())


def test_the_receipt_for_a_person(shell: Shell) -> None:
    shell.ok("spawn", "readable", "--preset", "full", prompt("x", SLEEPER, say("y")))
    lines = shell.ok("kill", "readable", "--verbose").out.splitlines()
    assert lines[0] == "readable  ⊘ killed"
    assert lines[1].startswith("  was alive  2 process")
    assert lines[2].split()[0].isdigit()
    assert any(line.strip().endswith("sleep 600") for line in lines)
    assert any(line.startswith("  took       ") for line in lines)
    assert lines[-1].startswith("  left       nothing: the ")
    again = shell.ok("kill", "readable", "--verbose").out.splitlines()
    assert again[1].startswith("  nothing was alive: it had ended at ")
    assert len(again) == 2
    assert shell.ok("kill", "readable").out == "readable: was not running\n"


def test_a_kill_in_the_middle_of_a_flood(shell: Shell) -> None:
    """Its output is full, and nobody reads it any more."""
    beat = shell.work_dir / "beat-flood"
    shell.ok("spawn", "flood", "--preset", "full", "--detach", prompt("go", runs("flood", beat), say("x")))
    shell.wait_for(Path(f"{beat}.said"))
    assert shell.cms("kill", "flood").code == 0
    wait_until_silent(beat)


@pytest.fixture
def stubborn(shell: Shell) -> Iterator[Path]:
    """The file that keeps kills from working, in the home of a daemon of its own."""
    shell.cms("daemon", "stop")
    program = Path(__file__).with_name("stubborn_daemon.py")
    daemon = subprocess.Popen(
        [sys.executable, str(program)],
        env=shell.env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    file = shell.home / "stubborn"
    shell.wait_for(shell.home / "daemon.sock")
    yield file
    file.unlink(missing_ok=True)
    shell.cms("daemon", "stop")
    _, log = daemon.communicate(timeout=20)
    assert "session mule is UNKILLED: its end is not proved" in log


def test_what_cannot_be_killed_is_said_loudly_and_keeps_its_folder(shell: Shell, stubborn: Path) -> None:
    shell.ok("spawn", "mule", "--preset", "full", prompt("x", SLEEPER, say("y")))
    stubborn.touch()
    ran = shell.cms("kill", "mule")
    assert ran.code == 1
    assert ran.out.startswith("mule  ✗ error\n")
    assert "  STILL ALIVE  " in ran.out
    assert "cms: mule is NOT proved dead" in ran.err
    assert shell.status("mule")["status"] == "error"
    for words in (("spawn", "heir", "hello"), ("delegate", "heir", "hello"), ("send", "mule", "hello")):
        refused = shell.cms(*words)
        assert refused.code == 1
        assert "processes of session 'mule' could not be killed and may still write in " in refused.err
        assert "`cms kill mule` tries again" in refused.err
    shell.ok("spawn", "elsewhere", "hello", "--work-dir", str(shell.root / "home"))
    assert shell.cms("delete", "mule", "--force").code == 2
    assert shell.cms("kill", "mule", "--json").code == 1
    stubborn.unlink()
    ran = shell.cms("kill", "mule", "--json")
    assert (ran.code, ran.json()["status"]) == (0, "killed")
    shell.ok("spawn", "heir", "hello")


def daemon_pid(shell: Shell) -> int:
    pid = shell.ok("daemon", "status", "--json").json()["pid"]
    assert isinstance(pid, int)
    return pid


def wait_until_alone(shell: Shell) -> None:
    end = time.monotonic() + 10
    while left := shell.survivors():
        assert time.monotonic() < end, left
        time.sleep(0.01)


def test_a_daemon_that_is_killed_takes_everything_with_it(shell: Shell) -> None:
    """As when the kernel is out of memory and chooses it."""
    beats = {case: shell.work_dir / f"beat-down-{case}" for case in ("setsid", "stealth", "subreaper")}
    tools = [runs(case, beat) for case, beat in beats.items()]
    shell.ok("spawn", "down", "--preset", "full", prompt("go", *tools, say("x")))
    os.kill(daemon_pid(shell), signal.SIGKILL)
    wait_until_alone(shell)
    wait_until_silent(*beats.values())
    assert shell.status("down")["status"] == "stopped"


def test_the_kernel_takes_an_agent_before_it_takes_the_daemon(shell: Shell) -> None:
    pid = shell.ok("spawn", "victim", prompt("hello", say("x")), "--json").json()["pid"]

    def adjustment(pid: object) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert adjustment(pid) > adjustment(daemon_pid(shell))


def test_a_terminal_that_is_closed_and_a_logout(shell: Shell) -> None:
    """A daemon outlives the terminal (SIGHUP); a logout that kills processes is its end, and everybody's."""
    shell.ok("spawn", "tty", "--preset", "full", prompt("x", SLEEPER, say("y")))
    daemon = daemon_pid(shell)
    os.killpg(os.getpgid(daemon), signal.SIGHUP)
    assert shell.status("tty")["status"] == "ready"
    assert daemon_pid(shell) == daemon
    # logind sends SIGTERM to all that it knows of, here the daemon's process group, and then SIGKILL.
    group = os.getpgid(daemon)
    os.killpg(group, signal.SIGTERM)
    os.killpg(group, signal.SIGKILL)
    wait_until_alone(shell)


def test_a_foreground_delegation_ends_with_its_terminal(shell: Shell) -> None:
    beat = shell.work_dir / "beat-foreground"
    task = prompt("go", runs("setsid", beat), call("Bash", command="sleep 600"), say("never"))
    command = shell.start("delegate", "fore", "--foreground", "--preset", "full", task)
    shell.wait_for(Path(f"{beat}.said"))
    while hostile.last_beat(beat) == 0:
        time.sleep(0.01)
    command.send_signal(signal.SIGHUP)
    command.communicate(timeout=20)
    assert command.returncode == 130
    wait_until_silent(beat)
