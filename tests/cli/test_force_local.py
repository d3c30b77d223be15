"""`cms kill --force-local` with the daemon or its store stuck or full; and what plain `cms kill` says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import mounting
from cli.shell import Ran, Shell, shell
from cms.cli.app import main
from cms.testing.script import ScriptedReply, call, prompt, say

__all__ = ["shell"]

#: Two processes: claude's own shell, and one that has left its session.
WORK = (call("Bash", command="setsid sleep 601 > /dev/null 2>&1 & exec sleep 600"), say("done"))
Kill = Callable[..., Ran]


class Killed(msgspec.Struct):
    """Of a receipt's JSON."""

    empty: bool
    alive: list[str]


class Also(msgspec.Struct):
    name: str
    receipt: Killed
    check: bool


class Ended(msgspec.Struct):
    name: str
    receipt: Killed
    also: list[Also]


@pytest.fixture
def kill(shell: Shell, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Kill:
    """`cms kill`, here, and with little patience for the daemon."""
    for key, value in shell.env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("cms.rpc.client.HANDSHAKE_TIMEOUT", 0.5)
    monkeypatch.setattr("cms.cli.ends.KILL_PATIENCE", 0.5)

    def run(*words: str) -> Ran:
        capfdbinary.readouterr()
        code = main(("kill", *words))
        out, err = capfdbinary.readouterr()
        return Ran(code, out.decode(), err.decode())

    return run


def start(shell: Shell, name: str, *replies: ScriptedReply) -> None:
    shell.ok("spawn", name, prompt("go", *(replies or WORK)), "--preset", "full", "--detach")
    shell.wait_until(name, lambda found: "sleep 600" in str(found.get("activity")))
    until = time.monotonic() + 20
    while len(alive(shell)) < 2:  # (what it is about to do is told before it may)
        assert time.monotonic() < until
        time.sleep(0.02)


def alive(shell: Shell, what: str = "sleep") -> list[str]:
    return [each for each in shell.survivors() if what in each]


def end_locally(shell: Shell, kill: Kill, name: str) -> Ended:
    assert alive(shell), (name, shell.survivors())
    ran = kill(name, "--force-local", "--json")
    assert ran.code == 0, ran
    ended = msgspec.json.decode(ran.out, type=Ended)
    assert ended.receipt.empty
    assert any("sleep 600" in each for each in ended.receipt.alive)
    assert alive(shell) == []
    return ended


def test_a_daemon_that_stands_still_and_a_store_that_cannot_be_opened(shell: Shell, kill: Kill) -> None:
    start(shell, "alone")
    shell.ok("rename", "alone", "alone-now")
    pid = int((shell.home / "daemon.lock").read_text().split()[0])
    database, aside = shell.home / "cms.db", shell.root / "aside.db"
    os.kill(pid, signal.SIGSTOP)
    try:
        database.rename(aside)
        try:
            database.mkdir()
            told = kill("alone-now")
            assert told.code == 11
            assert "cms kill alone-now --force-local" in told.err
            end_locally(shell, kill, "alone-now")
            assert kill("nobody", "--force-local").code == 10
        finally:
            database.rmdir()
            aside.rename(database)
    finally:
        os.kill(pid, signal.SIGCONT)
    found = shell.wait_until("alone-now", lambda found: found["status"] in ("failed", "stopped", "killed"))
    assert found["pid"] is None
    until = time.monotonic() + 20
    while list((shell.home / "live").iterdir()):  # taken away once the end is told
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.fixture
def stuck(shell: Shell) -> Iterator[Path]:
    """The file that says what gets stuck in the daemon."""
    shell.cms("daemon", "stop")
    program = Path(__file__).with_name("faulty_daemon.py")
    daemon = subprocess.Popen(
        [sys.executable, str(program)], env=shell.env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    shell.wait_for(shell.home / "daemon.sock")
    file = shell.home / "stuck"
    yield file
    file.unlink(missing_ok=True)
    shell.cms("daemon", "stop")
    daemon.wait(timeout=20)


def test_a_daemon_of_which_a_part_is_stuck(shell: Shell, kill: Kill, stuck: Path) -> None:
    for what in ("writer", "loop", "kill"):
        start(shell, what)
        stuck.write_text(what)
        if what == "loop":
            shell.wait_for(shell.home / "hangs-loop")
        if what != "writer":  # (there it would be killed, and only the answer would not come)
            begun = time.monotonic()
            told = kill(what)
            assert time.monotonic() - begun < 5
            assert told.code == 11, told
            assert f"cms kill {what} --force-local" in told.err
        end_locally(shell, kill, what)
        told = kill(what)
        assert (told.code, "--force-local" in told.err) == (11, True), told
        stuck.unlink()
        shell.wait_until(what, lambda found: found["status"] in ("failed", "stopped", "killed"))


def test_a_check_and_what_the_session_started_end_with_it(shell: Shell, kill: Kill) -> None:
    (shell.work_dir / "below").write_text(prompt("go", *WORK))
    spawn = f'{sys.executable} -P -m cms spawn below "$(cat below)" --preset full --detach'
    beside = call("Bash", command=spawn)
    shell.ok("spawn", "above", prompt("go", beside, *WORK), "--preset", "full", "--allow-cms", "--detach")
    shell.wait_until("above", lambda found: "sleep 600" in str(found.get("activity")))
    shell.wait_until("below", lambda found: "sleep 600" in str(found.get("activity")))
    ended = end_locally(shell, kill, "above")
    assert [(one.name, one.receipt.empty) for one in ended.also] == [("below", True)]

    shell.ok("delegate", "checked", prompt("go", say("done")), "--verify", "sleep 602", "--detach")
    while not alive(shell, "sleep\\x00602"):
        time.sleep(0.02)
    ran = kill("checked", "--force-local")
    assert ran.code == 0, ran
    assert "checked (a check)" in ran.out
    assert alive(shell, "sleep\\x00602") == []


def test_a_full_disk(tmp_path: Path, kill: Kill, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    full = Shell(tmp_path / "full")
    with mounting.small_disk("8m") as disk:
        full.env["CMS_HOME"], full.home = str(disk / "cms"), disk / "cms"
        monkeypatch.setenv("CMS_HOME", full.env["CMS_HOME"])
        try:
            start(full, "one")
            start(full, "two")
            with (disk / "filler").open("wb", buffering=0) as filler:
                size = 65536
                while size:
                    try:
                        filler.write(b"x" * size)
                    except OSError:
                        size //= 2
            ran = kill("one", "--force-local")
            assert ran.code == 0, ran
            plain = kill("two")
            assert (alive(full), "Traceback" in plain.err) == ([], False), plain
        finally:
            (disk / "filler").unlink(missing_ok=True)
            full.cms("daemon", "stop")
            full.close()
