"""top: frames of any size, and the screen with its keys on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl

import msgspec
import pytest

from cli import making
from cli.shell import Shell, shell
from cms.cli.render import display_width
from cms.cli.terminal import Style
from cms.cli.top import frame, table
from cms.rpc.overview import OverviewResult
from cms.session.model import Limits, LiveSession, SessionStatus
from cms.testing.script import call, prompt, say

__all__ = ["shell"]

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LIMITED = Limits(max_cost=2.0, max_turns=50)


def live(
    name: str = "fix-auth",
    *,
    status: SessionStatus = SessionStatus.BUSY,
    limits: Limits = LIMITED,
    cost: float = 1.0,
    activity: str = "Bash pytest -q",
    frozen: bool = False,
    questions: int = 0,
    queued: int = 0,
) -> LiveSession:
    record = making.session(name, status=status, limits=limits, cost=cost)
    return LiveSession(record, activity, frozen, queued, questions, 12, 230 * 1024**2)


def overview(*sessions: LiveSession) -> OverviewResult:
    return OverviewResult(sessions, 3.5, making.NOW)


@pytest.mark.parametrize("width", [40, 60, 75, 76, 80, 120, 200])
@pytest.mark.parametrize("icons", ["unicode", "ascii"])
def test_every_line_fits(width: int, icons: str) -> None:
    style = Style(icons="unicode" if icons == "unicode" else "ascii", width=width, tty=True)
    reply = overview(
        live(),
        live("n" * 64, activity="x" * 300, questions=3, queued=2),
        live("free", limits=Limits(), cost=1234.5, frozen=True, status=SessionStatus.PAUSED),
    )
    lines = frame(reply, "n" * 64, "a message " * 30, 24, style)
    assert len(lines) == 24
    if width >= 60:
        assert max(display_width(line) for line in lines) <= width
        assert lines[-1].endswith("k kill")
    if icons == "ascii":
        assert all(line.isascii() for line in lines)


def test_what_a_frame_tells() -> None:
    lines = table(overview(live(questions=1, queued=2), live("ice", frozen=True)), Style(width=80, tty=True))
    assert re.fullmatch(r"  fix-auth +busy +#{3} +\$1\.0000/2\.00 #* +3/50 230\.0 MiB    12", lines[1])
    assert lines[2] == "    asks 1 question: cms ask fix-auth; 2 messages waiting"
    assert "frozen" in lines[3]
    assert lines[-1] == "total: 2 live sessions, 2 busy, 460.0 MiB, $3.5000 today"
    assert table(overview(), Style())[0].startswith("no live sessions")


def test_in_a_pipe_nothing_is_cut_and_no_bar_is_drawn() -> None:
    lines = table(overview(live("n" * 64, activity="y" * 300)), Style())
    assert "n" * 64 in lines[1]
    assert "y" * 300 in lines[2]
    assert "#" not in "".join(lines)


def test_an_agent_cannot_paint_the_screen() -> None:
    lines = table(overview(live(activity="x\x1b[2J\x07y\nz")), Style(width=80, tty=True, colour=True))
    assert "\x1b[2J" not in "".join(lines)
    assert "\x07" not in "".join(lines)


def test_the_chosen_one_is_on_the_screen_however_many_there_are() -> None:
    reply = overview(*(live(f"s{number}") for number in range(100)))
    for number in (0, 1, 50, 98, 99):
        lines = frame(reply, f"s{number}", "", 12, Style(width=80, tty=True))
        assert len(lines) == 12
        assert [line for line in lines if line.startswith(f"> s{number} ")]
        assert lines[0].startswith("  NAME")
        assert any(line.startswith("total: 100 live sessions") for line in lines)


# --- the screen -----------------------------------------------------------------------------------


class Terminal:
    """`cms top` on a terminal of 80 by 24, with keys."""

    def __init__(self, shell: Shell, *words: str) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(slave)
        environ = {key: value for key, value in shell.env.items() if key != "COLUMNS"}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "cms", "top", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            cwd=shell.work_dir,
            start_new_session=True,
            preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        self.slave = slave
        self.raw = ""

    def press(self, keys: str) -> None:
        self.raw = ""
        os.write(self.master, keys.encode())

    def wait_for(self, text: str) -> None:
        """Until a frame since the last key shows it."""
        end = time.monotonic() + 20
        while text not in ESCAPES.sub("", self.raw):
            assert select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0], self.raw
            self.raw += os.read(self.master, 65536).decode()

    def leave(self) -> int:
        code = self.child.wait(20)
        while select.select([self.master], [], [], 0)[0]:
            self.raw += os.read(self.master, 65536).decode()
        return code


@contextmanager
def on_terminal(shell: Shell, *words: str) -> Iterator[Terminal]:
    terminal = Terminal(shell, *words)
    try:
        yield terminal
    finally:
        terminal.child.kill()
        terminal.child.wait()
        os.close(terminal.slave)
        os.close(terminal.master)


def test_keys_act_on_the_chosen_session(shell: Shell) -> None:
    toil = call("Bash", command="sleep 600")
    shell.ok("spawn", "first", prompt("hello", say("x")), "--max-cost", "2")
    shell.ok("spawn", "second", "--detach", "--preset", "full", prompt("go", toil))
    shell.wait_until("second", lambda found: str(found["activity"]).startswith("Bash"))
    with on_terminal(shell, "--interval", "0.2") as screen:
        screen.wait_for("total: 2 live sessions, 1 busy")
        assert "\x1b[?1049h" in screen.raw
        assert "> first" in ESCAPES.sub("", screen.raw)
        screen.press("\x1b[B")
        screen.wait_for("> second")
        screen.press("f")
        screen.wait_for("second: paused")
        assert shell.status("second")["status"] == "paused"
        screen.press("p")
        screen.wait_for("second: busy")
        screen.press("kx")
        screen.wait_for("q quit")
        screen.press("l")
        screen.wait_for("tool     Bash sleep 600")
        screen.press("\x03")
        screen.wait_for("> second")
        assert screen.child.poll() is None
        screen.press("k")
        screen.wait_for("kill second? y: yes")
        screen.press("y")
        screen.wait_for("second: killed: kill ended it in")
        assert shell.status("second")["status"] == "killed"
        screen.wait_for("total: 1 live session, 0 busy")
        screen.press("i")
        screen.wait_for("cannot be interrupted")
        screen.press("q")
        assert screen.leave() == 0
        assert screen.raw.endswith("\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(screen.slave) == screen.before


def test_leaving_by_ctrl_c_and_by_the_daemons_end(shell: Shell) -> None:
    with on_terminal(shell) as screen:
        screen.wait_for("total: ")
        screen.press("\x03")
        assert screen.leave() == 0
        assert termios.tcgetattr(screen.slave) == screen.before
    with on_terminal(shell, "--interval", "0.1s") as screen:
        screen.wait_for("total: ")
        shell.ok("daemon", "stop")
        assert screen.leave() == 11
        assert termios.tcgetattr(screen.slave) == screen.before


def test_plain_text_where_there_is_no_terminal(shell: Shell) -> None:
    shell.ok("spawn", "plain", prompt("hello", say("x")), "--max-turns", "5")
    out = shell.ok("top").out
    assert re.search(r"^  plain +ready +\$0\.0000     1/5 +\d+\.\d MiB +\d+$", out, re.MULTILINE)
    view = shell.ok("top", "--json").json()
    sessions = msgspec.convert(view["sessions"], list[dict[str, object]])
    (found,) = [one for one in sessions if one["name"] == "plain"]
    assert isinstance(found["processes"], int)
    assert found["processes"] >= 1
    assert isinstance(found["memory"], int)
    assert found["memory"] > 1024**2
    assert (found["frozen"], found["openQuestions"], found["queued"]) == (False, 0, 0)
    with on_terminal(shell, "--once") as screen:
        screen.wait_for("total: ")
        assert screen.leave() == 0
        assert "1049" not in screen.raw
