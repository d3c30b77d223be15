"""What holds a session is what was asked for: levels, mechanisms and caps, through the real command line."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from cli.shell import Shell, shell
from cms.testing.script import call, prompt, say

__all__ = ["shell"]


def level(shell: Shell) -> str:
    found = shell.cms("doctor", "--json").json()["containment"]
    assert isinstance(found, dict)
    return str(found["level"])


def test_below_the_level_asked_for_nothing_is_started(shell: Shell) -> None:
    """This daemon is forced to the weakest mechanism that Linux has."""
    weak = {"CMS_CONTAINMENT": "guard", "CMS_HOME": str(shell.root / "weak")}
    try:
        for command in ("delegate", "spawn"):
            ran = shell.cms(command, "strict", "hello", "--require-containment", "B", env=weak)
            assert ran.code == 1
            assert ran.err.splitlines() == [
                "cms: 'strict' needs containment level B, but this machine has level D (guard)",
                "     `cms doctor` shows what is missing and how to get it",
            ]
            assert shell.cms("status", "strict", env=weak).code == 10
        assert shell.cms("spawn", "lax", "hello", "--require-containment", "D", env=weak).code == 0
        by_default = {**weak, "CMS_REQUIRE_CONTAINMENT": "c"}
        assert "needs containment level C" in shell.cms("spawn", "c", "hello", env=by_default).err
    finally:
        shell.cms("daemon", "stop", env=weak)


def test_the_level_holds_for_what_is_brought_back_too(shell: Shell) -> None:
    shell.ok("spawn", "moved", prompt("hello", say("x")), "--require-containment", level(shell), "--stop")
    shell.ok("daemon", "stop")
    weak = {"CMS_CONTAINMENT": "guard"}  # as on another machine that has the same home
    ran = shell.cms("send", "moved", "hello again", env=weak)
    assert "'moved' needs containment level " in ran.err
    assert ran.code == 1
    shell.ok("daemon", "stop")
    assert shell.cms("send", "moved", prompt("hello again", say("y"))).code == 0


def test_what_a_session_makes_is_as_open_as_what_its_user_makes(shell: Shell) -> None:
    """The daemon keeps what is its own to itself; that must not reach the project."""
    mask = os.umask(0o022)
    try:
        made = call("Bash", command="umask > mask"), call("Write", file_path="made", content="x")
        shell.ok(
            "delegate", "open", prompt("go", *made, say("done")), "--preset", "full",
            "--verify", "umask > verified",
        )  # fmt: skip
    finally:
        os.umask(mask)
    assert (shell.work_dir / "mask").read_text().strip() == "0022"
    assert (shell.work_dir / "verified").read_text().strip() == "0022"
    assert (shell.work_dir / "made").stat().st_mode & 0o777 == 0o644
    assert (shell.home / "cms.db").stat().st_mode & 0o777 == 0o600


def test_the_daemon_may_open_more_files_than_a_shell_s_programs(shell: Shell) -> None:
    """Each session takes some; what runs in it gets the limit that its user has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    shell.cms("daemon", "stop")
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        made = call("Bash", command="ulimit -S -n > files; ulimit -H -n >> files")
        shell.ok("delegate", "files", prompt("go", made, say("done")), "--preset", "full",
                 "--verify", "ulimit -n > verified")  # fmt: skip
        daemon = shell.ok("daemon", "status", "--json").json()["pid"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (shell.work_dir / "files").read_text().split() == ["512", str(hard)]
    assert (shell.work_dir / "verified").read_text().strip() == "512"
    limits = Path(f"/proc/{daemon}/limits").read_text()
    assert f"Max open files            {min(hard, 65_536)}" in limits


def test_the_file_can_ask_for_a_level(shell: Shell) -> None:
    home = {"CMS_HOME": str(shell.root / "filed"), "CMS_CONTAINMENT": "guard"}
    (shell.root / "filed").mkdir()
    (shell.root / "filed" / "config.toml").write_text(
        '[settings]\nrequire-containment = "C"\n[profiles.lax]\nrequire-containment = "D"\n'
    )
    try:
        ran = shell.cms("spawn", "filed", "hello", env=home)
        assert "needs containment level C" in ran.err
        assert shell.cms("spawn", "filed", "hello", "--profile", "lax", env=home).code == 0
    finally:
        shell.cms("daemon", "stop", env=home)


def test_what_is_no_level_and_what_is_no_mechanism(shell: Shell) -> None:
    ran = shell.cms("spawn", "x", "hello", "--require-containment", "Z")
    assert (ran.code, "one of A, B, C, D, E" in ran.err) == (2, True)
    ran = shell.cms("spawn", "x", "hello", env={"CMS_REQUIRE_CONTAINMENT": "high"})
    assert (ran.code, "CMS_REQUIRE_CONTAINMENT='high' is not a level" in ran.err) == (2, True)
    other = {"CMS_CONTAINMENT": "brwap", "CMS_HOME": str(shell.root / "bogus")}
    ran = shell.cms("list", env=other)
    assert ran.code != 0
    assert "there is no containment mechanism 'brwap'" in ran.err
    assert "did you mean 'bwrap'?" in ran.err


def test_a_tree_that_passes_its_cap_on_processes_is_ended_and_the_verdict_says_so(shell: Shell) -> None:
    many = call("Bash", command="for i in $(seq 30); do sleep 3 & done; wait")
    ran = shell.cms(
        *("delegate", "crowd", "--preset", "full", "--max-procs", "15", "--json"),
        prompt("go", many, say("went on")),
    )
    result = ran.json()
    reasons = result["reasons"]
    assert isinstance(reasons, list)
    assert reasons[-1].startswith("the cap of 15 processes was "), result
    # Where the kernel counts, it refuses the sixteenth and the work goes on.
    passed = reasons[-1].endswith("was exceeded: everything was killed")
    assert (ran.code, result["status"]) == ((1, "failed") if passed else (0, "completed"))
    assert "cap hit       the cap of 15 processes was " in shell.ok("status", "crowd").out
    assert shell.status("crowd")["capsHit"] == [reasons[-1]]


def test_a_tree_that_passes_its_cap_on_memory(shell: Shell) -> None:
    hungry = """exec python3 -c 'x = bytearray(400 << 20); import time; time.sleep(600)'"""
    ran = shell.cms(
        *("delegate", "fat", "--preset", "full", "--max-memory", "300M"),
        prompt("go", call("Bash", command=hungry), say("never")),
    )
    assert ran.code == 1
    assert "because: the memory cap of 300 MiB was " in ran.out
