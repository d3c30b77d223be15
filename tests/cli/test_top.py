"""top: frames of any size, and the screen with its keys on a real terminal."""

from __future__ import annotations

import codecs
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
from datetime import UTC
from fcntl import ioctl
from typing import Literal

import msgspec
import pytest

from cli import making
from cli.shell import Shell, own_shell, shell
from cms.cli.render import display_width
from cms.cli.terminal import Style
from cms.cli.top_frames import Page, View, frame, ordered, permission_lines, whole_table
from cms.rpc.overview import OverviewResult
from cms.session.model import Limits, LiveSession, SessionStatus
from cms.session.questions import AskedQuestion, Choice, OpenQuestion
from cms.session.transcript import Moment
from cms.testing.script import call, prompt, say

__all__ = ["own_shell", "shell"]

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LIMITED = Limits(max_cost=2.0, max_turns=50)
WIDE = "日本語 👍 e\u0301 👨\u200d👩\u200d👧"


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
    task: str = "make the login test pass",
) -> LiveSession:
    record = making.session(name, status=status, limits=limits, cost=cost)
    memory = 230 * 1024**2
    return LiveSession(
        record, activity, frozen, queued, questions, 12, memory, task=task, since=making.NOW - 125
    )


def overview(*sessions: LiveSession) -> OverviewResult:
    return ordered(OverviewResult(sessions, 3.5, making.NOW))


def asking(
    name: str, *, kind: Literal["question", "permission"] = "question", whole: str = ""
) -> OpenQuestion:
    choices = (Choice("SQLite", "small"), Choice("Postgres\x1b[2J", "big"))
    questions = (AskedQuestion("Which database?\x07", "DB", choices),) if kind == "question" else ()
    return OpenQuestion(name, "7", kind, "Bash", "rm x", questions, making.NOW, making.NOW + 600, whole)


def columns(line: str) -> int:
    """Those that a line takes, where the cursor is put to its column after what is not plain."""
    width = 0
    for part, column in re.findall(r"(.*?)(?:\x1b\[(\d+)G|$)", re.sub(r"\x1b\[[\d;]*m", "", line)):
        width += display_width(part)
        if column:
            assert width == int(column) - 1, line
    return width


MANY = overview(
    live(task=WIDE * 5, activity=WIDE * 9),
    live("n" * 64, activity="x" * 300, questions=3, queued=2),
    live("free", limits=Limits(), cost=1234.5, frozen=True, status=SessionStatus.PAUSED),
    *(live(f"s{number}", status=SessionStatus.READY, activity="") for number in range(200)),
)
SAID = (Moment(1.0, "prompt", "go " + WIDE * 20), Moment(2.0, "text", "a\x1b[2Jb " * 90), Moment(3.0, "done"))


@pytest.mark.parametrize("page", ["list", "details", "help", "answer"])
@pytest.mark.parametrize(
    ("width", "height"), [(20, 3), (40, 12), (63, 20), (80, 24), (100, 30), (140, 45), (200, 60)]
)
@pytest.mark.parametrize("icons", ["unicode", "ascii"])
def test_every_screen_has_its_size(
    page: Page, width: int, height: int, icons: Literal["unicode", "ascii"]
) -> None:
    for colour in (False, True):
        style = Style(icons=icons, width=width, tty=True, colour=colour, zone=UTC)
        for chosen in ("fix-auth", "n" * 64, "s99"):
            for question in (asking(chosen), asking(chosen, kind="permission", whole="rm -rf \x1b /\n" * 99)):
                view = View(
                    MANY, chosen, page, "/srv", "a message " * 30, question, typed=WIDE * 9, moments=SAID
                )
                lines = frame(view, height, style)
                assert len(lines) == height
                assert [line for line in lines if columns(line) > width] == []
                assert "\x1b[2J" not in "".join(lines)
                assert "\x07" not in "".join(lines)
                if icons == "ascii" and page == "help":
                    assert all(line.isascii() for line in lines)


def test_what_the_list_tells_at_80_and_at_140_columns() -> None:
    reply = overview(
        live("calm", status=SessionStatus.READY, activity="", limits=Limits()),
        live("build", queued=2),
        live("asker", questions=1),
    )
    view = View(reply, "build", home="/srv", message="well", moments=SAID[2:])
    lines = frame(view, 24, Style(width=80, tty=True, zone=UTC))
    assert lines[:5] == [
        "3 live sessions, 2 busy, 1 waiting for you, 690 MiB, $3.5000 today",
        "  STATE NAME     TIME TURNS         COST TASK",
        "  asks  asker    2m05  3/50 $1.0000/2.00 make the login test pass",
        "> busy  build    2m05  3/50 $1.0000/2.00 make the login test pass               ",
        "  ready calm     2m05     3      $1.0000 make the login test pass",
    ]
    assert lines[6].startswith("-- build ----")
    assert lines[7:12] == [
        "now    Bash pytest -q",
        "task   make the login test pass",
        "in     ~/app, sonnet, edit, 12 processes, 230 MiB, 2 messages waiting",
        "",
        "00:00:03 done",
    ]
    assert lines[-2:] == ["well", lines[-1]]
    assert lines[-1].endswith("x kill  ? help  q quit")
    wide = frame(view, 45, Style(icons="unicode", width=140, tty=True))
    assert wide[1].split() == ["STATE", "NAME", "TIME", "TURNS", "COST", "MODEL", "FOLDER", "MEM", "TASK"]
    assert re.sub(r"\x1b\[\d+G", "", wide[2]).split()[:10] == [
        *("?", "asks", "asker", "2m05", "3/50", "$1.0000/2.00", "sonnet", "~/app", "230", "MiB"),
    ]


def test_the_chosen_one_is_on_the_screen_however_many_there_are() -> None:
    for number in (0, 1, 50, 98, 199):
        lines = frame(View(MANY, f"s{number}"), 24, Style(width=80, tty=True))
        assert [line for line in lines if re.match(rf"> ready +s{number} ", line)]
        assert lines[1].startswith("  STATE")
        assert re.match(r"\d+-\d+ of 203 live sessions", lines[0])


def test_who_waits_for_a_person_comes_first_then_who_works() -> None:
    reply = overview(
        live("a", status=SessionStatus.READY), live("b", status=SessionStatus.STARTING), live("c"),
        live("d", questions=1), live("e", status=SessionStatus.PAUSED),
    )  # fmt: skip
    assert [one.session.name for one in reply.sessions] == ["d", "c", "b", "e", "a"]
    assert [one.session.name for one in overview(live("s10"), live("s9"), live("s")).sessions] == [
        "s",
        "s9",
        "s10",
    ]


def test_a_question_and_a_permission_are_shown_whole_or_not_at_all() -> None:
    style = Style(width=40, tty=True)
    view = View(overview(live(questions=1)), "fix-auth", "answer", open=asking("fix-auth"), typed="Post")
    lines = frame(view, 24, style)
    assert lines[0] == "fix-auth asks; it waits 10m more"
    assert lines[2:5] == ["  Which database??", "    1. SQLite - small", "    2. Postgres?[2J - big"]
    assert lines[7] == "> Post_"
    short, whole = permission_lines(asking("a", kind="permission", whole="rm \x1b[A -rf\n\nx"), 20, style)
    assert (short, whole) == (["  rm \\x1b[A -rf", "", "  x"], True)
    long, whole = permission_lines(asking("a", kind="permission", whole="y" * 400), 5, style)
    assert (len(long), whole) == (4, False)


def test_in_a_pipe_nothing_is_cut() -> None:
    lines = whole_table(overview(live("n" * 64, activity="y" * 300), live(task="z" * 200)), "/srv", Style())
    assert "n" * 64 in lines[3]
    assert lines[4] == "    " + "y" * 300
    assert lines[1].endswith("z" * 200)
    assert whole_table(overview(), "", Style())[0].startswith("no live sessions")
    asked = whole_table(overview(live(questions=1, queued=2)), "", Style())
    assert asked[2] == "    asks 1 question: cms ask fix-auth; 2 messages waiting"


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
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a letter may come in two reads

    def _read(self) -> None:
        self.raw += self._decoder.decode(os.read(self.master, 65536))

    def press(self, keys: str) -> None:
        self.raw = ""
        os.write(self.master, keys.encode())

    @property
    def plain(self) -> str:
        """What was written since the last key, in one line and with single spaces between columns."""
        return re.sub(r"(?<=\S) +(?=\S)", " ", ESCAPES.sub("", self.raw).replace("\r\n", ""))

    def wait_for(self, text: str) -> None:
        """Until a frame since the last key shows it."""
        end = time.monotonic() + 20
        while text not in ESCAPES.sub("", self.raw).replace("\r\n", "") and text not in self.plain:
            assert select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0], self.raw
            self._read()

    def leave(self) -> int:
        code = self.child.wait(20)
        while select.select([self.master], [], [], 0)[0]:
            self._read()
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


QUESTION = {
    "question": "Which database?",
    "header": "DB",
    "multiSelect": False,
    "options": [{"label": "SQLite", "description": "s"}, {"label": "Postgres", "description": "b"}],
}


def test_keys_act_on_the_chosen_session(own_shell: Shell) -> None:
    toil = call("Bash", command="sleep 600")
    own_shell.ok("spawn", "first", prompt("hello", say("x")), "--max-cost", "2")
    own_shell.ok("spawn", "second", "--detach", "--preset", "full", prompt("go", toil))
    own_shell.wait_until("second", lambda found: str(found["activity"]).startswith("Bash"))
    with on_terminal(own_shell, "--interval", "0.2") as screen:
        screen.wait_for("2 live sessions, 1 busy")
        assert "\x1b[?1049h" in screen.raw
        assert "> ⟳ busy second" in screen.plain  # the busy one comes first
        screen.press("j")
        screen.wait_for("> ● ready first")
        screen.press("\x1b[A")
        screen.wait_for("> ⟳ busy second")
        screen.press("?")
        screen.wait_for("kill it and all that it started, after a y")
        screen.press("?")
        screen.wait_for("2 live sessions")
        screen.press("\r")
        screen.wait_for("turns  1, no limit")
        screen.wait_for("tool     Bash sleep 600")
        screen.press("\r")
        screen.wait_for("> ⟳ busy second")
        screen.press("f")
        screen.wait_for("second: frozen")
        assert own_shell.status("second")["status"] == "paused"
        screen.press("f")
        screen.wait_for("second: busy")
        for key, asked in (("x", "kill second?"), ("s", "stop second?"), ("i", "interrupt second?")):
            screen.press(key)
            screen.wait_for(asked)
            screen.press("n")
            screen.wait_for("> ⟳ busy second")
        screen.press("l")
        screen.wait_for("tool     Bash sleep 600")
        screen.press("q")
        screen.wait_for("> ⟳ busy second")
        assert screen.child.poll() is None
        screen.press("x")
        screen.wait_for("kill second? y: yes")
        screen.press("y")
        screen.wait_for("second: killed: kill ended it in")
        assert own_shell.status("second")["status"] == "killed"
        screen.wait_for("1 live session, 0 busy")
        screen.press("iy")
        screen.wait_for("cannot be interrupted")
        screen.press("q")
        assert screen.leave() == 0
        assert screen.raw.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(screen.slave) == screen.before


def test_a_question_and_a_permission_are_answered_there(shell: Shell) -> None:
    ask, run = (
        call("AskUserQuestion", questions=[QUESTION]),
        call("Bash", command="curl http://127.0.0.1:1/\necho two"),
    )
    words = prompt("set up", ask, run, say("Done."))
    shell.ok("spawn", "asker", "--detach", "--ask-timeout", "10m", words)
    shell.wait_until("asker", lambda found: "waits for a person" in str(found["activity"]))
    with on_terminal(shell, "--interval", "0.2") as screen:
        screen.wait_for("(press a) Which database? (SQLite / Postgres)")
        screen.press("a")
        screen.wait_for("2. Postgres - b")
        screen.press("x")
        screen.wait_for("> x")
        screen.press("\x7f2\r")
        screen.wait_for("asker: told Postgres")
        screen.wait_for("to use Bash curl http")
        screen.press("a")
        screen.wait_for("  echo two")
        screen.press("\x1b")
        screen.wait_for("? asks asker")
        screen.press("a")
        screen.wait_for("y allow  n deny")
        screen.press("n")
        screen.wait_for("asker: told deny")
        screen.wait_for("● ready asker")
        screen.press("q")
        assert screen.leave() == 0
    said = shell.ok("logs", "asker").out
    assert "answered Which database? Postgres" in said
    assert "refused  Bash curl" in said


def test_leaving_by_ctrl_c_and_by_the_daemons_end(shell: Shell) -> None:
    with on_terminal(shell) as screen:
        screen.wait_for(" today")
        screen.press("\x03")
        assert screen.leave() == 0
        assert termios.tcgetattr(screen.slave) == screen.before
    with on_terminal(shell, "--interval", "0.1s") as screen:
        screen.wait_for(" today")
        shell.ok("daemon", "stop")
        assert screen.leave() == 11
        assert termios.tcgetattr(screen.slave) == screen.before


def test_who_is_told_to_end_gives_the_terminal_back(shell: Shell) -> None:
    with on_terminal(shell) as screen:
        screen.wait_for(" today")
        screen.child.terminate()
        assert screen.leave() == 143
        assert screen.raw.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(screen.slave) == screen.before


def test_plain_text_where_there_is_no_terminal(shell: Shell) -> None:
    shell.ok("spawn", "plain", prompt("hello", say("x")), "--max-turns", "5")
    out = shell.ok("top").out
    assert re.search(r"^  ● ready +plain +\d+s +1/5 +\$0\.0000 sonnet .* MiB +\d+ hello$", out, re.MULTILINE)
    view = shell.ok("top", "--json").json()
    sessions = msgspec.convert(view["sessions"], list[dict[str, object]])
    (found,) = [one for one in sessions if one["name"] == "plain"]
    assert isinstance(found["processes"], int)
    assert found["processes"] >= 1
    assert isinstance(found["memory"], int)
    assert found["memory"] > 1024**2
    assert (found["frozen"], found["openQuestions"], found["queued"]) == (False, 0, 0)
    with on_terminal(shell, "--once") as screen:
        screen.wait_for(" today")
        assert screen.leave() == 0
        assert "1049" not in screen.raw
