"""Kill and freeze on the real binary: its shells, which it starts in sessions of their own, end with it.

Each tool call starts a program that writes the time for as long as it runs (`rehearsal.hostile`), so that
whoever survives is seen whatever it calls itself.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path

import pytest

from cms.testing import hostile
from cms.testing.script import ScriptedReply, call, prompt, say
from real.conftest import World

pytestmark = pytest.mark.real


def program(case: str, beat: Path) -> str:
    return shlex.join(hostile.command(case, beat))


def in_front(case: str, beat: Path) -> ScriptedReply:
    """A tool call that the turn waits for."""
    return call("Bash", command=f"{program(case, beat)}; until test -e never; do sleep 0.2; done")


def behind(case: str, beat: Path) -> ScriptedReply:
    """claude's own background shell."""
    return call("Bash", command=f"{program(case, beat)}; sleep 600", run_in_background=True)


def let_go(case: str, beat: Path) -> ScriptedReply:
    """A process that the shell has let go of."""
    ready = f"until test -s {beat}.said; do sleep 0.01; done"
    return call("Bash", command=f"setsid {program(case, beat)} > {beat}.said 2>&1 < /dev/null & {ready}")


def runs(beat: Path) -> bool:
    return beat.exists() and time.monotonic_ns() - hostile.last_beat(beat) < 200_000_000


def wait_until_they_run(beats: list[Path]) -> None:
    end = time.monotonic() + 20
    while not all(map(runs, beats)):
        assert time.monotonic() < end, [beat.name for beat in beats if not runs(beat)]
        time.sleep(0.01)


def assert_silent(beats: list[Path]) -> None:
    before = [hostile.last_beat(beat) for beat in beats]
    time.sleep(0.05)
    assert [hostile.last_beat(beat) for beat in beats] == before


def start_three(world: World, name: str) -> list[Path]:
    """A session in the middle of a turn, with a shell of every kind."""
    beats = [world.work_dir / f"{name}-{kind}" for kind in ("let-go", "behind", "in-front")]
    task = prompt("go", let_go("deaf", beats[0]), behind("setsid", beats[1]), in_front("still", beats[2]))
    assert world.cms("spawn", name, "--detach", "--preset", "full", task).code == 0
    wait_until_they_run(beats)
    return beats


def test_kill_ends_every_shell_of_claude(world: World) -> None:
    beats = start_three(world, "victim")
    ran = world.cms("kill", "victim", "--json")
    assert_silent(beats)
    assert ran.code == 0
    receipt = ran.json()["receipt"]
    assert isinstance(receipt, dict)
    assert (receipt["empty"], receipt["left"]) == (True, [])
    assert len(receipt["alive"]) >= 8  # claude, three shells, and what they started
    assert [step["name"] for step in receipt["steps"]] == ["kill"]
    assert receipt["steps"][0]["seconds"] < 1
    # It can be resumed.
    again = world.cms("send", "victim", prompt("still there?", say("yes")), "--json")
    assert again.json()["text"] == "yes", again.json()


def test_claude_killed_by_somebody_else_takes_its_shells_along(world: World) -> None:
    """Left to itself it does not: its shells live on, reparented (protocol.md)."""
    beats = start_three(world, "shot")
    pid = world.cms("status", "shot", "--json").json()["pid"]
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGKILL)
    assert world.cms("wait", "shot", "--timeout", "20s").code == 1
    end = time.monotonic() + 10
    while (status := world.cms("status", "shot", "--json").json())["status"] == "busy":
        assert time.monotonic() < end, status
    assert_silent(beats)
    assert status["status"] == "failed"
    assert "was killed by signal 9 in the middle of a turn" in str(status["error"])
    receipt = status["receipt"]
    assert isinstance(receipt, dict)
    assert receipt["empty"] is True


def test_a_frozen_session_stands_still_goes_on_and_can_be_killed(world: World) -> None:
    beats = start_three(world, "ice")
    assert world.cms("pause", "ice", "--freeze").code == 0
    assert_silent(beats)
    assert world.cms("resume", "ice").code == 0
    wait_until_they_run(beats)
    assert world.cms("pause", "ice", "--freeze").code == 0
    ran = world.cms("kill", "ice", "--json")
    assert ran.code == 0
    receipt = ran.json()["receipt"]
    assert isinstance(receipt, dict)
    assert receipt["empty"] is True
    assert_silent(beats)


def test_the_drill_certifies_with_the_real_binary(world: World) -> None:
    ran = world.cms("drill", "--quick", "--json", "--only=limits", timeout=120)
    report = ran.json()
    assert report["agent"] == "claude"
    assert isinstance(report["cases"], list)
    assert not [case for case in report["cases"] if case["verdict"] == "failed"]
    assert ran.code == 0


def test_the_doctor_knows_the_real_binary_and_its_login(world: World) -> None:
    checkup = world.cms("doctor", "--json").json()
    found = checkup["claude"]
    assert isinstance(found, dict)
    assert (found["login"], found["method"], found["simulated"], found["fit"]) == (
        "yes",
        "api_key",
        False,
        True,
    )
    assert found["version"][0].isdigit()
    assert not list((world.home / ".claude").rglob("*doctor*")), "nothing of its handshake is left"
    without = world.cms("doctor", env={"ANTHROPIC_API_KEY": ""})
    assert without.code == 1
    assert "claude: it is not logged in" in without.out
