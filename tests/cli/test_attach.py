"""A session taken over by hand, on a real terminal: held, ended from everywhere, counted, given back."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cli import by_hand
from cli.shell import Shell, open_shell
from cli.terminal import OnTerminal
from cms.testing.script import prompt, say

HELLO = prompt("hello", say("hello"))
#: What a reply by hand costs; that of the greeting is less than a thousandth.
DIME = pytest.approx(0.1, abs=0.001)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with open_shell(tmp_path_factory.mktemp("shell")) as here:
        here.env["CMS_CLAUDE"] = str(by_hand.write_launcher(here.root / "by-hand"))
        yield here


class Taken(OnTerminal):
    """`cms attach`, once claude's interface is up."""

    def __init__(
        self, shell: Shell, *words: str, program: tuple[str, ...] = (sys.executable, "-m", "cms")
    ) -> None:
        super().__init__("attach", *words, env=shell.env, cwd=shell.work_dir, program=program)
        self.before = termios.tcgetattr(self.master)
        self.wait_for(lambda raw: "READY xterm" in raw)

    def key(self, key: str, answer: str) -> None:
        seen = len(self.raw)
        self.type(key)
        self.wait_for(lambda raw: answer in raw[seen:])

    def finish(self) -> int:
        """The exit code, once the terminal is as it was."""
        self.wait_for(lambda raw: raw.rfind("\x1b[?1049l") > raw.rfind("\x1b[?1049h"))
        self.wait_for(lambda raw: raw.endswith("\n") and "by hand, " in raw)
        assert termios.tcgetattr(self.master) == self.before
        assert len(re.findall("\x1b\\[<1?u", self.raw)) == 1
        assert self.raw.rfind("\x1b[?25h") > self.raw.rfind("\x1b[?25l")
        return super().finish()


def last(shell: Shell, name: str) -> dict[str, object]:
    return shell.ok("history", name, "--json").list("interactions")[-1]


def test_there_and_back(shell: Shell) -> None:
    shell.ok("spawn", "taken", HELLO)
    pid = shell.status("taken")["pid"]
    taken = Taken(shell, "taken")
    status = shell.status("taken")
    assert status["status"] == "attached"
    assert status["pid"] not in (None, pid)
    for words in (
        ("send", "taken", "hi"),
        ("resume", "taken"),
        ("pause", "taken"),
        ("continue", "taken", "hi"),
        ("attach", "taken"),
    ):
        if words[0] == "attach":
            refused_there = OnTerminal(*words, env=shell.env, cwd=shell.work_dir)
            code, said = refused_there.finish(), refused_there.text
        else:
            refused = shell.cms(*words)
            code, said = refused.code, refused.err
        assert code == 2
        assert f"pid {taken.process.pid} on /dev/pts/" in said, said
    assert shell.cms("interrupt", "taken").code == 2
    taken.key("\x03", "heard b'\\x03'")
    taken.key("$", "replied")
    shell.wait_until("taken", lambda found: found["totalCostUsd"] == DIME)
    taken.type("q")
    assert taken.finish() == 0
    assert "taken: 1 turn by hand, $0.1000; $0.1000 in all" in taken.text
    assert "ended:" not in taken.text
    one = last(shell, "taken")
    assert (one["type"], one["response"], one["turns"]) == ("attach", "by hand", 1)
    assert one["cost"] == DIME
    assert one["costExact"]
    rows = shell.ok("cost", "--json").list("rows")
    row = next(row for row in rows if row["name"] == "taken")
    assert row["cost"] == DIME
    assert row["usage"]["outputTokens"] == 10_001  # type: ignore[index] # of a record
    assert shell.ok("send", "taken", prompt("again", say("back"))).out.endswith("back\n")
    shell.ok("stop", "taken")


def test_another_conversation_is_gone_on_with(shell: Shell) -> None:
    shell.ok("spawn", "cleared", HELLO, "--stop")
    before = shell.status("cleared")["claudeSessionId"]
    taken = Taken(shell, "cleared")
    taken.key("$", "replied")
    taken.key("c", "cleared")
    taken.key("$", "replied")
    taken.type("q")
    assert taken.finish() == 0
    status = shell.status("cleared")
    assert status["claudeSessionId"] != before
    assert status["totalCostUsd"] == pytest.approx(0.2, abs=0.001)
    assert last(shell, "cleared")["turns"] == 2


def test_its_terminal_is_given_back_whatever_ends_claude(shell: Shell) -> None:
    for name in ("killed", "dies"):
        shell.ok("spawn", name, HELLO)
        taken = Taken(shell, name)
        taken.key("$", "replied")
        if name == "killed":
            shell.ok("kill", name)
        else:
            taken.type("k")
        assert taken.finish() == (130 if name == "killed" else 1)
        one = last(shell, name)
        assert one["cost"] == DIME
        assert one["costExact"] is False, (name, one)
        assert shell.status(name)["status"] == ("killed" if name == "killed" else "stopped")
        assert "at least $0.1000" in taken.text
        assert ("ended: killed" if name == "killed" else "ended: claude ended with signal 9") in taken.text


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_the_end_of_the_command_ends_claude_politely(shell: Shell, how: signal.Signals) -> None:
    name = f"left-by-{how.name.lower()}"
    shell.ok("spawn", name, HELLO, "--stop")
    taken = Taken(shell, name)
    taken.key("$", "replied")
    taken.process.send_signal(how)
    if how is not signal.SIGKILL:
        assert taken.finish() == 0
        assert "ended: its terminal is gone" in taken.text
    found = shell.wait_until(name, lambda found: found["status"] == "stopped")
    assert found["totalCostUsd"] == DIME
    assert found["costExact"]
    assert shell.status(name)["receipt"]["empty"]  # type: ignore[index] # of a record
    if how is signal.SIGKILL:
        os.close(taken.master)
        taken.process.wait(30)


def test_the_end_of_the_daemon_leaves_nothing(shell: Shell) -> None:
    shell.ok("spawn", "orphan", HELLO, "--stop")
    taken = Taken(shell, "orphan")
    taken.key("$", "replied")
    shell.wait_until("orphan", lambda found: found["totalCostUsd"] == DIME)
    pid = str(shell.status("orphan")["pid"])
    os.kill(int((shell.home / "daemon.lock").read_text().split()[0]), signal.SIGKILL)
    taken.wait_for(lambda raw: "the daemon went away" in raw)
    assert termios.tcgetattr(taken.master) == taken.before
    assert OnTerminal.finish(taken) == 11
    end = time.monotonic() + 20
    while Path("/proc", pid).exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    found = shell.status("orphan")
    assert (found["status"], found["costExact"]) == ("stopped", False)
    assert found["totalCostUsd"] == DIME


def test_a_cost_limit_ends_it(shell: Shell) -> None:
    shell.ok("spawn", "limited", HELLO, "--max-budget", "0.15", "--stop")
    taken = Taken(shell, "limited")
    taken.key("$", "replied")
    taken.key("$", "replied")
    assert taken.finish() == 4
    assert "ended: $0.2000 spent of $0.1500" in taken.text
    assert last(shell, "limited")["outcome"] == "cost_exceeded"
    refused = OnTerminal("attach", "limited", env=shell.env, cwd=shell.work_dir)
    assert refused.finish() == 2
    assert "cms attach limited --max-cost" in refused.text
    more = Taken(shell, "limited", "--max-cost", "1")
    more.type("q")
    assert more.finish() == 0


def test_a_shared_budget_ends_it(shell: Shell) -> None:
    shell.ok("spawn", "poor", HELLO, "--stop")
    spent = msgspec.convert(shell.ok("budget", "show", "--json").json()["spentToday"], float)
    shell.ok("budget", "set", "--daily", f"{spent + 0.05:.4f}")
    try:
        taken = Taken(shell, "poor")
        taken.key("$", "replied")
        assert taken.finish() == 4
        assert "today's budget is used up" in taken.text
        refused = OnTerminal("attach", "poor", env=shell.env, cwd=shell.work_dir)
        assert refused.finish() == 2
        assert "today's budget is used up" in refused.text
        assert shell.status("poor")["interactionCount"] == 2
    finally:
        shell.ok("budget", "clear")


def test_an_isolated_session_stays_isolated(shell: Shell) -> None:
    shell.ok("spawn", "apart", HELLO, "--isolate", "--stop")
    taken = Taken(shell, "apart")
    taken.key("w", "written")
    taken.type("q")
    assert taken.finish() == 0
    assert not (shell.work_dir / "made").exists()
    assert "+by hand" in shell.ok("diff", "apart").out


def test_the_size_of_the_terminal_reaches_claude(shell: Shell) -> None:
    shell.ok("spawn", "sized", HELLO, "--stop")
    taken = Taken(shell, "sized")
    termios.tcsetwinsize(taken.master, (30, 111))
    taken.process.send_signal(signal.SIGWINCH)
    end = time.monotonic() + 20
    while "size 111" not in taken.raw:
        assert time.monotonic() < end
        taken.key("s", "size")
    taken.type("q")
    assert taken.finish() == 0


#: A shell with job control: starts a command, tells when it stops, and brings it back.
_JOBS = """
import os, signal, sys
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.setsid() if os.getsid(0) != os.getpid() else None
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "cms", *sys.argv[1:]])
while os.WIFSTOPPED(status := os.waitpid(pid, os.WUNTRACED)[1]):
    os.tcsetpgrp(0, os.getpid())
    print("STOPPED, echo", bool(termios.tcgetattr(0)[3] & termios.ECHO), flush=True)
    input()
    os.tcsetpgrp(0, pid)
    os.kill(-pid, signal.SIGCONT)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_suspended_and_brought_back(shell: Shell) -> None:
    """A shell gets its terminal back as it was, and claude gets its own again."""
    shell.ok("spawn", "resting", HELLO, "--stop")
    taken = Taken(shell, "resting", program=(sys.executable, "-c", _JOBS))
    seen = len(taken.raw)
    taken.key("\x1a", "STOPPED, echo True")
    assert "\x1b[?1049l" in taken.raw[seen:]
    assert shell.status("resting")["status"] == "attached"
    seen = len(taken.raw)
    taken.type("\n")
    taken.wait_for(lambda raw: by_hand.MODES[:8].decode() in raw[seen:])
    taken.key("x", "heard b'x'")
    taken.type("q")
    taken.wait_for(lambda raw: "by hand, " in raw)
    assert OnTerminal.finish(taken) == 0


def test_only_a_person_takes_over(shell: Shell) -> None:
    shell.ok("spawn", "mine", HELLO, "--stop")
    piped = shell.cms("attach", "mine")
    assert piped.code == 2
    assert "needs a terminal" in piped.err
    env = {**shell.env, "CMS_PARENT": "somebody", "CMS_DEPTH": "1"}
    inside = OnTerminal("attach", "mine", env=env, cwd=shell.work_dir)
    assert inside.finish() == 2
    assert "a session cannot take over another one" in inside.text
    assert shell.status("mine")["status"] == "stopped"
