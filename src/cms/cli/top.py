"""`cms top`: every live session on one screen, renewed each second, with keys to act on one.

What is shown is made in `top_frames`. Here is a terminal whose keys come one by one, and that is given back
as it was however this ends. No curses: it would read the terminal's description where the person asked for
none, and a frame needs nothing but "home" and "clear to the end".
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import msgspec

from cms.cli import end_lines, flags, io, terminal
from cms.cli.flags import JsonFlag
from cms.cli.keys import Keyboard, has_keyboard
from cms.cli.log_lines import Joiner
from cms.cli.logs import Log
from cms.cli.top_frames import Page, View, frame, ordered, permission_lines, whole_table
from cms.config import load_settings
from cms.errors import CmsError, ExitCode
from cms.json_output import json_object
from cms.rpc.client import Client
from cms.rpc.overview import SESSIONS_OVERVIEW, OverviewResult
from cms.rpc.questions import SESSION_ANSWER, SESSIONS_QUESTIONS, AnswerParams, QuestionsParams
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
from cms.session.model import SessionStatus
from cms.session.questions import OpenQuestion, choose
from cms.session.transcript import Moment
from cms.store.rawlog import raw_log_path
from cms.units import plural

#: What `--json` tells of a live session. `memory` in bytes.
_LIVE: Final = "*session activity frozen queued open_questions=questions processes memory task since"
#: Another screen without a cursor, where what is too long is cut and not wrapped; and back.
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR = "\x1b[H", "\x1b[2K"
_TAIL: Final = 256 * 1024  # bytes at a log's end that are read for its last lines
_MOMENTS: Final = 200  # of a log that are kept for that


def top(
    *,
    interval: Annotated[float, flags.seconds("--interval", "Refresh this often.")] = 1.0,
    once: Annotated[bool, flags.switch("--once", "Print once and leave.")] = False,
    json: JsonFlag = False,
) -> int:
    """Watch all live sessions: what each does, its cost and limits.

    Those that wait for you come first, then the busy ones. Keys: arrows or j/k select, Enter shows details, a
    answers a question, l follows the log, p pauses, f freezes, i interrupts, s stops, x kills (after a y), ?
    lists them all, q leaves. Leaving ends no session. Where stdout is no terminal it prints once.

    Examples::

        cms top
        cms top --once --json
    """
    watching = not once and not json and has_keyboard()
    with io.daemon() as client:
        if not watching or os.environ.get("TERM", "") in ("", "dumb"):
            reply = ordered(client.call(SESSIONS_OVERVIEW, Nothing()))
            if json:
                io.show_json(json_object(reply, sessions=[json_object(one, _LIVE) for one in reply.sessions]))
            else:
                io.show_lines(whole_table(reply, _home(), io.out_style()))
            return ExitCode.COMPLETED
        Screen(client, interval).run()
    return ExitCode.COMPLETED


def _home() -> str:
    try:
        return str(Path.home())
    except RuntimeError:
        return ""


class Screen:
    """The terminal while `cms top` has it."""

    def __init__(self, client: Client, interval: float) -> None:
        self._client = client
        self._interval = interval
        self._view = View(OverviewResult((), 0.0, 0.0), home=_home())
        self._answers: tuple[str, ...] = ()  # to the questions of the open call that came before
        self._confirm: Callable[[], None] | None = None
        self._tail: Tail | None = None
        self._stop = False
        self._resized = -1  # readable when the window has changed
        self._keyboard = Keyboard()

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
                    key = self._keyboard.wait(due - time.monotonic(), self._resized)
                    self._stop = self._keyboard.gone
                    if key:
                        self._press(key)
                        due = 0.0
        except KeyboardInterrupt:
            pass  # another way to leave

    def _change(self, **changes: object) -> None:
        self._view = msgspec.structs.replace(self._view, **changes)

    # --- frames ---

    def _look(self) -> None:
        """Ask the daemon how things are."""
        before = self._names()
        reply = ordered(self._client.call(SESSIONS_OVERVIEW, Nothing()))
        self._change(reply=reply)
        chosen, names = self._view.chosen, self._names()
        if chosen not in names:
            at = before.index(chosen) if chosen in before else 0
            self._change(chosen=names[min(at, len(names) - 1)] if names else "")
            if self._view.page != "help":
                self._change(page="list")
        self._look_closer()

    def _look_closer(self) -> None:
        """What the chosen one waits for, and the end of its log where that is shown."""
        one = self._view.session
        found: OpenQuestion | None = None
        shown = "" if self._view.open is None else self._view.open.id
        if one is not None and one.questions:
            asked = self._client.call(SESSIONS_QUESTIONS, QuestionsParams(one.session.name)).open
            found = next((each for each in asked if each.id == shown), asked[0] if asked else None)
        if self._view.page == "answer" and (found is None or found.id != shown):
            self._answers = ()
            self._change(page="list", typed="", asked=0, message="that question no longer waits")
        self._change(open=found)
        if one is not None and self._view.page in ("list", "details"):
            if self._tail is None or self._tail.session_id != one.session.id:
                self._tail = Tail(one.session.id)
            self._change(moments=self._tail.look())

    def _names(self) -> list[str]:
        return [one.session.name for one in self._view.reply.sessions]

    def _size(self) -> tuple[int, terminal.Style]:
        style = terminal.style_of(sys.stdout, os.environ)
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
        except OSError:
            return 24, style
        return size.lines or 24, msgspec.structs.replace(style, width=size.columns or style.width)

    def _paint(self) -> None:
        height, style = self._size()
        lines = frame(self._view, height, style)
        # Each line is cleared before it is written: where it fills the width, its end stands at the cursor.
        io.show(_HOME + "\r\n".join(_CLEAR + line for line in lines))

    # --- keys ---

    def _press(self, key: str) -> None:
        confirm, self._confirm = self._confirm, None
        page = self._view.page
        self._change(message="")
        if key == "interrupt":
            self._stop = True
        elif confirm is not None:
            if key in ("y", "Y"):
                self._do(confirm)
        elif page == "answer":
            self._press_answering(key)
        elif key == "q":
            self._stop = True
        elif key == "?" or page == "help":
            self._turn("list" if page == "help" else "help")
        elif key == "enter":
            self._turn("list" if page == "details" else "details")
        elif key == "escape":
            self._turn("list")
        elif not self._move(key) and self._view.chosen:
            self._act(key, self._view.chosen)

    def _turn(self, page: Page) -> None:
        if page != "details" or self._view.session is not None:
            self._change(page=page, typed="", asked=0)

    def _move(self, key: str) -> bool:
        """Choose another one, if that is what the key is for."""
        names, (height, _) = self._names(), self._size()
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "page up": 3 - height // 2,
            "page down": height // 2 - 3,
        }
        steps |= {"home": -len(names), "g": -len(names), "end": len(names), "G": len(names)}
        if key not in steps:
            return False
        if names:
            at = names.index(self._view.chosen) if self._view.chosen in names else 0
            self._change(chosen=names[max(0, min(len(names) - 1, at + steps[key]))], moments=())
        return True

    def _act(self, key: str, name: str) -> None:
        client, one = self._client, self._view.session
        frozen = one is not None and one.frozen
        resting = frozen or (one is not None and one.session.status is SessionStatus.PAUSED)
        match key:
            case "a":
                self._begin_answer()
            case "l":
                self._logs(name)
            case "p" | "f" if frozen or (key == "p" and resting):
                self._do(lambda: self._tell(client.call(SESSION_RESUME, NameParams(name))))
            case "p" | "f":
                params = PauseParams(name, freeze=key == "f")
                what = "frozen" if params.freeze else ""
                self._do(lambda: self._tell(client.call(SESSION_PAUSE, params), what))
            case "i":
                self._ask(
                    f"interrupt {name}",
                    lambda: self._tell(client.call(SESSION_INTERRUPT, NameParams(name)), "interrupted"),
                )
            case "s":
                self._ask(f"stop {name}", lambda: self._end(name, SESSION_STOP, StopParams(name)))
            case "x":
                self._ask(f"kill {name}", lambda: self._end(name, SESSION_KILL, NameParams(name)))
            case _:
                self._change(message="? lists the keys")

    def _ask(self, what: str, act: Callable[[], None]) -> None:
        self._confirm = act
        self._change(message=f"{what}? y: yes, any other key: no")

    def _do(self, act: Callable[[], None]) -> None:
        """Carry out; what cannot be done is told on the screen, unless the daemon itself is gone."""
        try:
            act()
        except CmsError as error:
            if error.exit_code is ExitCode.DAEMON_UNAVAILABLE:
                raise
            self._change(message=str(error))

    def _tell(self, reply: SessionResult, what: str = "") -> None:
        self._change(message=f"{reply.session.name}: {what or reply.session.status.value}")

    def _end(self, name: str, verb: Verb[P, StopResult], params: P) -> None:
        self._change(message=f"ending {name} ...")
        self._paint()
        reply = self._client.call(verb, params)
        # What was typed meanwhile was meant for what stood there before.
        self._keyboard.forget()
        how = end_lines.end_words(reply.session, reply.receipt, io.out_style())
        self._change(message=f"{reply.session.name}: {how}")

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
            self._look()
            if name not in self._names():
                io.show(f"-- {name} is no longer alive; Enter goes back to cms top ")
                sys.stdin.readline()

    # --- a person's answer ---

    def _begin_answer(self) -> None:
        self._look_closer()
        self._answers = ()
        if self._view.open is None:
            name = self._view.chosen
            ended = self._client.call(SESSIONS_QUESTIONS, QuestionsParams(name)).unanswered
            how = (
                "asked, but its message has ended; cms ask says how to continue" if ended else "asks nothing"
            )
            self._change(message=f"{name} {how}")
        else:
            self._change(page="answer", typed="", asked=0)

    def _press_answering(self, key: str) -> None:
        view, one = self._view, self._view.open
        if key == "escape" or one is None:
            self._turn("list")
        elif one.kind == "permission":
            if key in ("n", "N"):
                self._send_answer(one, ("deny",))
            elif key in ("y", "Y"):
                height, style = self._size()
                if permission_lines(one, height - 4, style)[1]:
                    self._send_answer(one, ("allow",))
                else:
                    self._change(message="make the window bigger to see what you would allow")
        elif key == "backspace":
            self._change(typed=view.typed[:-1])
        elif key == "clear":
            self._change(typed="")
        elif key == "enter" and view.typed.strip():
            self._answers += (view.typed.strip(),)
            self._change(typed="", asked=view.asked + 1)
            if len(self._answers) == len(one.questions):
                self._send_answer(one, self._answers)
        elif len(key) == 1:
            self._change(typed=view.typed + key)

    def _send_answer(self, one: OpenQuestion, texts: tuple[str, ...]) -> None:
        self._turn("list")

        def send() -> None:
            reply = self._client.call(SESSION_ANSWER, AnswerParams(one.name, texts, one.id))
            more = f"; {plural(reply.left, 'question')} left" if reply.left else ""
            said = [choose(asked, text) for asked, text in zip(one.questions, texts, strict=False)] or texts
            self._change(message=f"{one.name}: told {'; '.join(said)}{more}", open=None)

        self._do(send)

    # --- the terminal ---

    @contextmanager
    def _taken(self) -> Iterator[None]:
        """Keys one by one, unseen; another screen; a word when the window changes."""
        self._resized, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        wakeup = signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
        handlers = [(number, signal.signal(number, _nothing)) for number in (signal.SIGWINCH, signal.SIGTSTP)]
        try:
            with self._keyboard:
                io.show(_ENTER)
                yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers:
                signal.signal(number, handler)
            os.close(tell)
            os.close(self._resized)
            io.show(_LEAVE)

    @contextmanager
    def _given_back(self) -> Iterator[None]:
        io.show(_LEAVE)
        self._keyboard.give_back()
        try:
            yield
        finally:
            self._keyboard.take()
            io.show(_ENTER)


class Tail:
    """The newest moments of a session's log, read as it grows."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._log = Log(raw_log_path(load_settings().raw, session_id))
        self._log.catch_up(_TAIL, leave=_TAIL)
        self._joiner = Joiner()
        self._moments: deque[Moment] = deque(maxlen=_MOMENTS)

    def look(self) -> tuple[Moment, ...]:
        """With a text that is still being written."""
        self._log.catch_up(_TAIL * 16, leave=_TAIL)
        for _, moments in self._log.news():
            for moment in moments:
                self._moments += self._joiner.take(moment)
        return (*self._moments, *self._joiner.open)


def _nothing(_signum: int, _frame: FrameType | None) -> None:
    pass
