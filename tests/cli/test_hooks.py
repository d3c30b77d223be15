"""Hooks of a message by the command line: flags to the daemon, secrets nowhere."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

from cli.shell import Shell, shell
from cms.cli.hook_flags import addresses
from cms.testing.script import call, prompt, say

__all__ = ["shell"]

SECRET = "s3cr3t-token"


def test_a_detached_delegation_tells_its_end_and_no_secret_is_anywhere(shell: Shell) -> None:
    told = shell.work_dir / "told"
    webhook = f"http://127.0.0.1:1/{SECRET}"
    hang = prompt("go", call("Bash", command="sleep 600"))
    words = ("--preset", "full", "--on-fail", "cat > part; mv part told", "--webhook", webhook)
    shell.ok("delegate", "a", hang, "--detach", *words)
    with sqlite3.connect(shell.home / "cms.db") as db:  # so that it is not looked for before it is there
        while not db.execute("SELECT count(*) FROM hooks").fetchone()[0]:
            time.sleep(0.01)
    while len(shell.survivors()) < 2:  # the daemon, and what the session starts
        time.sleep(0.05)
    listings = (("status", "a", "--json"), ("list", "--json"), ("audit", "a", "--json"))
    seen = [shell.ok(*words).out for words in listings]
    alive = [line.split()[0] for line in shell.survivors()]
    seen += [Path(f"/proc/{pid}/cmdline").read_text() for pid in alive]
    shell.ok("kill", "a")
    shell.wait_for(told)
    assert json.loads(told.read_text())["outcome"] == "interrupted"
    shell.ok("send", "a", prompt("go", say("hi")), "--on-done", "cat > part; mv part sent")
    shell.wait_for(shell.work_dir / "sent")
    shell.ok("daemon", "stop")
    with sqlite3.connect(shell.home / "cms.db") as db:
        assert db.execute("SELECT * FROM hooks").fetchall() == []
    seen.append((shell.home / "daemon.log").read_text())
    assert "--webhook: " in seen[-1]
    assert SECRET not in "\n".join(seen)


def test_what_is_refused_is_refused_before_anything_begins(shell: Shell) -> None:
    ran = shell.cms("delegate", "refused", "go", "--webhook", f"ftp://{SECRET}")
    assert (ran.code, SECRET in ran.err) == (2, False), ran
    assert shell.cms("spawn", "refused", "go", "--notify", "@/nowhere/at/all").code == 2
    assert shell.cms("status", "refused").code == 10


def test_addresses_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "at").write_text("# mine\nntfy://a\n\n  dbus://  \n")
    assert addresses((f"@{tmp_path}/at", "json://h")) == ("ntfy://a", "dbus://", "json://h")


def test_in_the_foreground_the_command_waits_for_its_hook(shell: Shell) -> None:
    words = ("--foreground", "--on-done", "sleep 0.2; cat > here")
    shell.ok("delegate", "here", prompt("go", say("hi")), *words)
    assert json.loads((shell.work_dir / "here").read_text())["event"] == "done"
