"""`cms top`: every live session on one screen, renewed each second, with keys to act on one.

A frame is lines made from one answer of the daemon (`frame`, pure). The rest of the module is a terminal in
raw mode, and gives it back as it was however it ends. No curses: it would read the terminal's description
where the person asked for none, and the frame needs nothing but "home" and "clear to the end".
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import msgspec
from cyclopts import Parameter

from cms.cli import flags, io, render, terminal
from cms.cli.cost import bar
from cms.cli.flags import JsonFlag
from cms.cli.terminal import Style
from cms.errors import CmsError, ExitCode
from cms.json_output import json_object
from cms.rpc.client import Client
from cms.rpc.overview import SESSIONS_OVERVIEW, OverviewResult
from cms.rpc.sessions import (
    SESSION_INTERRUPT,
    SESSION_KILL,
    SESSION_PAUSE,
    SESSION_RESUME,
    SESSION_STOP,
    NameParams,
    PauseParams,
    SessionResult,
    StopParams,
    StopResult,
)
from cms.rpc.verbs import Nothing, P, Verb
from cms.session.model import LiveSession, SessionStatus

#: What `--json` tells of a live session. `memory` in bytes.
_LIVE = "*session activity frozen queued open_questions=questions processes memory"
_BAR = 6  # columns
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_ARROWS = {b"\x1b[A": "u", b"\x1b[B": "n", b"\x1bOA": "u", b"\x1bOB": "n"}
_KEYS = "q quit  l logs  p pause/resume  f freeze  i interrupt  s stop  k kill"
_KEYS_NARROW = "q quit l logs p pause f freeze i interrupt s stop k kill"


def top(
    *,
    interval: Annotated[
        float,
        Parameter(name="--interval", converter=flags.to_seconds, metavar="TIME", help="Refresh this often."),
    ] = 1.0,
    once: Annotated[bool, flags.switch("--once", "Print once and leave.")] = False,
    json: JsonFlag = False,
) -> int:
    """Watch all live sessions: what each does, its cost and limits.

    Also the memory and the number of processes of each. Where stdout is no terminal it is printed once, as
    plain text. Keys: arrows (or n, u) choose a session; l opens its logs (Ctrl-C comes back), p pauses or
    resumes, f freezes, i interrupts, s stops, k kills it (after a y); q leaves. Nothing is ended by leaving.

    Examples::

        cms top
        cms top --once --json
    """
    watching = not once and not json and sys.stdin.isatty() and sys.stdout.isatty()
    with io.daemon() as client:
        if not watching or os.environ.get("TERM", "") in ("", "dumb"):
            reply = client.call(SESSIONS_OVERVIEW, Nothing())
            if json:
                io.show_json(json_object(reply, sessions=[json_object(one, _LIVE) for one in reply.sessions]))
            else:
                io.show_lines(table(reply, io.out_style()))
            return ExitCode.COMPLETED
        Screen(client, interval).run()
    return ExitCode.COMPLETED


# --- lines ----------------------------------------------------------------------------------------


def table(reply: OverviewResult, style: Style, chosen: str = "") -> list[str]:
    """A head, a line for each session, what it does below it, and totals."""
    if not reply.sessions:
        return ["no live sessions; start one: cms spawn NAME PROMPT", "", _total(reply)]
    longest = max(len(one.session.name) for one in reply.sessions)
    gap = " " * (_BAR + 1) if _has_bars(style) else ""
    name_width = longest if style.width is None else min(longest, max(8, style.width - 52 - 2 * len(gap)))
    head = f"  {'NAME':<{name_width}}  {'STATUS':<10} {gap}{'COST':>13} {gap}{'TURNS':>7}"
    head += f" {'MEM':>9} {'PROCS':>5}"
    found = [render.paint(render.cut(head, style.width, style).rstrip(), "1", style)]
    for one in reply.sessions:
        found += _session_lines(one, name_width, style, chosen=one.session.name == chosen)
    return [*found, "", render.cut(_total(reply), style.width, style)]


def _session_lines(one: LiveSession, name_width: int, style: Style, *, chosen: bool) -> list[str]:
    session, limits = one.session, one.session.options.limits
    mark = "> " if chosen else "  "
    name = render.cut(session.name, name_width, style)
    word = "frozen" if one.frozen else session.status.value
    icon = render.STATUS_ICONS[session.status]
    status = word if style.icons == "none" else f"{icon[0] if style.icons == 'unicode' else icon[1]} {word}"
    spent = ("" if session.cost_exact else ">") + render.cost(session.total_cost_usd)
    if limits.max_cost is not None:
        spent += f"/{limits.max_cost:.2f}"
    turns = str(session.total_turns)
    if limits.max_turns is not None:
        turns += f"/{limits.max_turns}"
    cells = [
        mark + name + " " * (name_width - render.display_width(name)),
        " " + render.paint(f"{status:<10}", icon[2], style),
        _against(session.total_cost_usd, limits.max_cost, style) + f"{spent:>13}",
        _against(session.total_turns, limits.max_turns, style) + f"{turns:>7}",
        f"{render.size(one.memory):>9}",
        f"{one.processes:>5}",
    ]
    line = " ".join(cells)
    doing = [one.activity] if one.activity and not one.questions else []
    if one.questions:
        doing.append(f"asks {render.count(one.questions, 'question')}: cms ask {session.name}")
    if one.queued:
        doing.append(f"{render.count(one.queued, 'message')} waiting")
    if not doing:
        return [line]
    text = render.cut(
        "    " + render.one_line("; ".join(doing), style), None if style.width is None else style.width, style
    )
    return [line, render.paint(text, "2", style)]


def _against(value: float, most: float | None, style: Style) -> str:
    """A bar of what is used of a limit; nothing where no bar can be drawn."""
    if not _has_bars(style):
        return ""
    if not most:
        return " " * (_BAR + 1)
    drawn = bar(value, most, _BAR, style)
    colour = "31" if value >= 0.9 * most else "33" if value >= 0.7 * most else "32"
    return render.paint(drawn, colour, style) + " " * (_BAR + 1 - len(drawn))


def _has_bars(style: Style) -> bool:
    """On a terminal that is wide enough."""
    return style.width is not None and style.width >= 76


def _total(reply: OverviewResult) -> str:
    sums = (
        render.count(len(reply.sessions), "live session"),
        f"{sum(one.session.status is SessionStatus.BUSY for one in reply.sessions)} busy",
        render.size(sum(one.memory for one in reply.sessions)),
        f"{render.cost(reply.spent_today)} today",
    )
    return f"total: {', '.join(sums)}"


def frame(reply: OverviewResult, chosen: str, message: str, height: int, style: Style) -> list[str]:
    """A whole screen: as much of the table as fits around the chosen session, then the keys."""
    body = table(reply, style, chosen)
    room = max(3, height - 2)
    if len(body) > room:
        head, tail, rows = body[0], body[-1], body[1:-2]
        at = next((n for n, line in enumerate(rows) if line.startswith(f"> {chosen}")), 0)
        first = min(max(0, at - (room - 3) // 2), max(0, len(rows) - (room - 2)))
        body = [head, *rows[first : first + room - 2], tail]
    body += [""] * (room - len(body))
    keys = _KEYS if style.width is None or len(_KEYS) <= style.width else _KEYS_NARROW
    return [*body, render.cut(message, style.width, style), render.cut(keys, style.width, style)][:height]


# --- the screen -----------------------------------------------------------------------------------


class Screen:
    """The terminal while `cms top` has it."""

    def __init__(self, client: Client, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._fd = sys.stdin.fileno()
        self._chosen = ""
        self._message = ""
        self._confirm: Callable[[], None] | None = None
        self._reply = OverviewResult((), 0.0, 0.0)
        self._stop = False
        self._typed = b""  # and not acted on yet
        self._resized = -1  # readable when the window has changed
        self._cooked = termios.tcgetattr(self._fd)

    def run(self) -> None:
        """Until q, Ctrl-C or the daemon's end."""
        try:
            with self._taken():
                due = 0.0
                while not self._stop:
                    if time.monotonic() >= due:
                        self._look()
                        due = time.monotonic() + self._interval
                    self._paint()
                    key = self._key(max(0.0, due - time.monotonic()))
                    if key:
                        self._press(key)
                        due = 0.0
        except KeyboardInterrupt:
            pass  # another way to leave

    # --- frames ---

    def _look(self) -> None:
        self._reply = self._client.call(SESSIONS_OVERVIEW, Nothing())
        names = self._names()
        if self._chosen not in names:
            self._chosen = names[0] if names else ""

    def _names(self) -> list[str]:
        return [one.session.name for one in self._reply.sessions]

    def _paint(self) -> None:
        style = terminal.style_of(sys.stdout, os.environ)
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
            height, style = size.lines, msgspec.structs.replace(style, width=size.columns or style.width)
        except OSError:
            height = 24
        lines = frame(self._reply, self._chosen, self._message, height or 24, style)
        io.show(_HOME + f"{_REST_OF_LINE}\r\n".join(lines) + _REST_OF_LINE + _BELOW)

    # --- keys ---

    def _key(self, patience: float) -> str:
        """One key, or "" when none came in time or the window has changed."""
        if self._typed:
            return self._take_key()
        ready = select.select([self._fd, self._resized], [], [], patience)[0]
        if self._resized in ready:
            os.read(self._resized, 512)
        if self._fd not in ready:
            return ""
        self._typed = os.read(self._fd, 64)
        if not self._typed:
            self._stop = True  # the terminal is gone
        return self._take_key()

    def _take_key(self) -> str:
        """The first of what was typed; a sequence that is no arrow is one unknown key."""
        length = 3 if self._typed[:1] == b"\x1b" else 1
        key, self._typed = self._typed[:length], self._typed[length:]
        return _ARROWS.get(key, key[:1].decode("ascii", "replace"))

    def _press(self, key: str) -> None:
        self._message = ""
        confirm, self._confirm = self._confirm, None
        if key in ("q", "\x03", "\x04"):
            self._stop = True
        elif confirm is not None:
            if key in ("y", "Y"):
                self._do(confirm)
        elif key in ("n", "u"):
            self._move(1 if key == "n" else -1)
        elif self._chosen:
            self._act(key, self._chosen)

    def _move(self, by: int) -> None:
        names = self._names()
        if names:
            at = names.index(self._chosen) if self._chosen in names else 0
            self._chosen = names[max(0, min(len(names) - 1, at + by))]

    def _act(self, key: str, name: str) -> None:
        client = self._client
        live = next((one for one in self._reply.sessions if one.session.name == name), None)
        resting = live is not None and (live.frozen or live.session.status is SessionStatus.PAUSED)
        match key:
            case "l":
                self._logs(name)
            case "p" if resting:
                self._do(lambda: self._tell(client.call(SESSION_RESUME, NameParams(name))))
            case "p" | "f":
                params = PauseParams(name, freeze=key == "f")
                self._do(lambda: self._tell(client.call(SESSION_PAUSE, params)))
            case "i":
                self._do(lambda: self._tell(client.call(SESSION_INTERRUPT, NameParams(name))))
            case "s":
                self._ask(f"stop {name}", lambda: self._end(name, SESSION_STOP, StopParams(name)))
            case "k":
                self._ask(f"kill {name}", lambda: self._end(name, SESSION_KILL, NameParams(name)))

    def _ask(self, what: str, act: Callable[[], None]) -> None:
        self._message, self._confirm = f"{what}? y: yes, any other key: no", act

    def _do(self, act: Callable[[], None]) -> None:
        """Carry out; what cannot be done is told on the screen, unless the daemon itself is gone."""
        try:
            act()
        except CmsError as error:
            if error.exit_code is ExitCode.DAEMON_UNAVAILABLE:
                raise
            self._message = str(error)

    def _tell(self, reply: SessionResult) -> None:
        self._message = f"{reply.session.name}: {reply.session.status.value}"

    def _end(self, name: str, verb: Verb[P, StopResult], params: P) -> None:
        self._message = f"ending {name} ..."
        self._paint()
        reply = self._client.call(verb, params)
        how = render.end_words(reply.session, reply.receipt, io.out_style())
        self._message = f"{reply.session.name}: {how}"

    def _logs(self, name: str) -> None:
        """Hand the terminal over, and take it back."""
        with self._given_back():
            # Ctrl-C goes to everybody in the terminal, and is meant for the logs alone.
            # (A handler, unlike "ignore", is not inherited.)
            before = signal.signal(signal.SIGINT, _nothing)
            try:
                subprocess.run([sys.executable, "-m", "cms", "logs", name, "-f", "--last", "3"], check=False)
            finally:
                signal.signal(signal.SIGINT, before)

    # --- the terminal ---

    @contextmanager
    def _taken(self) -> Iterator[None]:
        """Keys one by one, unseen; another screen; a word when the window changes."""
        self._cooked = termios.tcgetattr(self._fd)
        self._resized, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wakeup = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        handlers = [(number, signal.signal(number, _nothing)) for number in (signal.SIGWINCH, signal.SIGTSTP)]
        try:
            tty.setcbreak(self._fd)
            io.show(_ENTER)
            yield
        finally:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._cooked)
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers:
                signal.signal(number, handler)
            os.close(tell)
            os.close(self._resized)
            io.show(_LEAVE)

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        io.show(_LEAVE)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._cooked)
        try:
            yield
        finally:
            tty.setcbreak(self._fd)
            io.show(_ENTER)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    pass
