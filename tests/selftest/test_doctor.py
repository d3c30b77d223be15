"""`cms doctor` through the real command line: what is found, what is said of it, and the exit code."""

from __future__ import annotations

import shlex
from pathlib import Path

import msgspec
import pytest

from cli.shell import Ran, Shell, shell
from cms.cli.selftest import checkup_lines
from cms.protocol.versions import TESTED
from cms.selftest.doctor import Checkup
from cms.testing.agent import write_launcher
from fleet.kit import awkward

__all__ = ["shell"]


def read(ran: Ran) -> Checkup:
    return msgspec.json.decode(ran.out, type=Checkup)


def fake_claude(path: Path, *, version: str, login: str, rest: str = "") -> str:
    """One that says so of its version and its login, and is otherwise the simulated one, or `rest`."""
    rest = rest or f'exec {write_launcher(path.with_name("simulated"))} "$@"'
    path.write_text(f'#!/bin/sh\ncase "$1" in auth) {login};; --version) {version};; *) {rest};; esac\n')
    path.chmod(0o755)
    return str(path)


def test_what_is_found_is_told(shell: Shell) -> None:
    ran = shell.cms("doctor", "--json")
    checkup = read(ran)
    assert ran.code == (0 if checkup.ok else 1)
    assert checkup.ok == (checkup.containment.level <= "C"), checkup.problems
    assert checkup.claude is not None
    claude = checkup.claude
    assert (claude.version, claude.simulated, claude.standing) == ("2.1.330", True, "tested")
    assert checkup.home.usable
    assert checkup.containment.guarantees is not None
    assert checkup.containment.attempts[-1].ok
    assert checkup.python.startswith("3.")
    assert '"killAll":{"strength":"' in ran.out
    lines = shell.cms("doctor").out.splitlines()
    mechanism, level = checkup.containment.mechanism, checkup.containment.level
    assert lines[0] == f"containment  {mechanism}, level {level}"
    assert lines[1].startswith("  kill ends every descendant  ")
    assert "  claude: this is the simulated agent, which does no work" in lines


def test_the_daemon_is_looked_at_and_not_started(shell: Shell, tmp_path: Path) -> None:
    home = {"CMS_HOME": str(tmp_path / "other")}
    assert not read(shell.cms("doctor", "--json", env=home)).daemon.running
    shell.ok("list")  # starts one
    daemon = read(shell.cms("doctor", "--json")).daemon
    assert daemon.running
    assert daemon.pid == shell.ok("daemon", "status", "--json").json()["pid"]
    other = shell.cms("doctor", env={"CMS_CONTAINMENT": "guard"})
    assert "started from here it would use guard" in other.out


@pytest.mark.parametrize(
    ("version", "login", "said", "ok"),
    [
        (
            "echo '2.1.208 (Claude Code)'",
            """echo '{"loggedIn":true,"authMethod":"api_key"}'""",
            "2.1.208 (too old), logged in (api_key)",
            0,
        ),
        (
            "echo '2.99.0 (Claude Code)'",
            """echo '{"loggedIn":true,"authMethod":"api_key"}'""",
            "2.99.0 (newer than tested), works with cms, logged in (api_key)",
            1,
        ),
        (
            "echo 2.9",
            """echo '{"loggedIn":true,"authMethod":"api_key"}'""",
            "2.9, works with cms, logged in (api_key)",
            1,
        ),
        ("echo 2.9", """echo '{"loggedIn":false}'; exit 1""", "2.9, works with cms, NOT LOGGED IN", 0),
        ("echo 2.9", "echo unknown command >&2; exit 1", "2.9, works with cms, login unknown", 1),
        ("echo no such library >&2; exit 127", "exit 1", "DOES NOT RUN", 0),
    ],
)
def test_claude_and_its_login(
    shell: Shell, tmp_path: Path, version: str, login: str, said: str, ok: int
) -> None:
    env = {"CMS_CLAUDE": fake_claude(tmp_path / "claude", version=version, login=login)}
    ran = shell.cms("doctor", "--json", env=env)
    checkup = read(ran)
    assert ran.code == (0 if ok and checkup.containment.level <= "C" else 1)
    lines = checkup_lines(checkup)
    assert [line for line in lines if line.startswith(f"claude       {said}")]
    assert [problem.fatal for problem in checkup.problems if problem.what == "claude"] == [True] * (not ok)


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        ("takes_no_gate", "cannot be used: it does not confirm the tool gate"),
        ("dies_before_usage", "it does not start: claude "),
        ("dies_at_once", "no terminal, no home, no hope"),
    ],
)
def test_a_claude_of_a_good_version_that_lacks_what_safety_rests_on(
    shell: Shell, tmp_path: Path, stage: str, why: str
) -> None:
    rest = " ".join((*map(shlex.quote, awkward(stage)), '"$@"'))
    login = """echo '{"loggedIn":true,"authMethod":"api_key"}'"""
    good = fake_claude(tmp_path / "claude", version=f"echo {TESTED}", login=login, rest=rest)
    ran = shell.cms("doctor", env={"CMS_CLAUDE": good})
    assert ran.code == 1
    assert f"claude       {TESTED} (tested), logged in" in ran.out
    assert why in ran.out.partition("Not ready:")[2], ran.out


def test_no_claude_at_all(shell: Shell) -> None:
    ran = shell.cms("doctor", env={"CMS_CLAUDE": "/nowhere/claude"})
    assert ran.code == 1
    assert "CMS_CLAUDE names '/nowhere/claude'" in ran.out
    assert "claude       NOT FOUND" in ran.out


def test_a_home_that_cannot_be_used(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = shell.cms("doctor", env={"CMS_HOME": str(tmp_path / "file")})
    assert ran.code == 1
    assert "make it a folder that you can write, or set CMS_HOME to another" in ran.out


def test_a_mechanism_that_there_is_not(shell: Shell) -> None:
    ran = shell.cms("doctor", "--json", env={"CMS_CONTAINMENT": "brwap"})
    checkup = read(ran)
    assert (ran.code, checkup.containment.level) == (1, "none")
    assert checkup.problems[0].fatal
    assert "did you mean 'bwrap'" in checkup.problems[0].hint


def test_a_machine_on_which_a_kill_can_be_outrun(shell: Shell) -> None:
    """The fall-back without a cgroup is level D, wherever it is asked for."""
    ran = shell.cms("doctor", env={"CMS_CONTAINMENT": "guard"})
    assert ran.code == 1
    assert "containment  guard, level D" in ran.out
    assert "Not ready:\n  containment: level D: " in ran.out
