"""What a command that waits shows on a terminal: the answer as it comes, and a line of status below it.

The text goes to stdout and stays. What is done in between (tool calls, refusals, notes) goes to stderr, a
line each, and stays as well. The status line, on stderr too, rewrites itself and leaves no trace; it stands
only where a line begins, never in the text.

The elapsed time must move when nothing else does, so a small thread paints once a second; it is the only
thread of the command, ends with it, and shares one lock with the notes. A timer signal was the other way:
it would interrupt whatever the main thread does, `flush` included.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import Literal, TextIO

from cms.cli.render import STATUS_ICONS, cut, display_width, one_line, paint, with_icon
from cms.cli.terminal import Style, can_rewrite, encodable, neutral, rewrite, style_of
from cms.protocol.tools import QUESTION_TOOL
from cms.rpc.wire import ProgressNote
from cms.session.model import Progress, SessionStatus
from cms.units import money

#: What gets a line of its own between two texts.
_DOING = ("tool", "denied", "note")


class AnswerText:
    """An answer as it comes, made fit for a terminal. Pure: notes in, text out.

    Attributes:
        at_start: the cursor stands where a line begins.
    """

    def __init__(self) -> None:
        self.at_start = True
        self._wanted: str | None = None  # the message whose answer this is; None: not accepted yet
        self._begun = False
        self._pieces: list[str] = []
        self._above: Literal["", "text", "line"] = ""  # what was written last
        self._parted = True  # the next text is another paragraph

    def expect(self, interaction_id: str) -> None:
        """The answer to this message is wanted, and those to what follows from it (rounds of repair)."""
        self._wanted = interaction_id

    def concerns(self, progress: Progress) -> bool:
        """Whether a note is about that answer. What comes first may be about messages in front of it."""
        self._begun = self._begun or (self._wanted is not None and progress.interaction == self._wanted)
        return self._begun

    def add(self, text: str) -> str:
        """A piece of the answer, as it may be written."""
        self._pieces.append(text)
        if self._parted and not (text := text.lstrip("\n")):
            return ""
        gap = "\n" if self._parted and self._above else ""
        self._above, self._parted, self.at_start = "text", False, text.endswith("\n")
        return gap + neutral(text)

    def part(self) -> str:
        """The text goes on in a paragraph of its own; until then the cursor is to stand at a line's start."""
        end = "" if self.at_start else "\n"
        self._parted = self.at_start = True
        self._pieces.append("\n")
        return end

    def add_line(self, line: str) -> str:
        """A line that is no part of the text. Call `part` before."""
        gap = "\n" if self._above == "text" else ""
        self._above = "line"
        return f"{gap}{line}\n"

    def close(self) -> str:
        """What stands between this and all that follows it."""
        return self.part() + ("\n" if self._above else "")

    def shows(self, answer: str) -> bool:
        """Whether the answer stands there, whole, as the last that was said."""
        words = answer.split()
        return bool(words) and "".join(self._pieces).split()[-len(words) :] == words


class LiveAnswer:
    """A context manager around a call: `expect` and `note` take what the daemon tells meanwhile.

    Without a terminal it shows nothing, and knows so (`shows`).
    """

    def __init__(
        self, name: str, *, status: TextIO | None, out: TextIO | None, style: Style, period: float = 1.0
    ) -> None:
        """
        Args:
            status: where the status line goes; None: nowhere.
            out: where the text goes, likewise.
            style: of the status line.
            period: seconds between two looks of the clock.
        """
        self._status = status
        self._out = out
        self._style = style
        self._period = period
        self._text = AnswerText()
        self._lost = out is None
        self._painted = False
        self._told = ""  # what the newest line between two texts is about
        self._last = Progress(name=name, kind="status", status=SessionStatus.STARTING)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._tick, name="cms-progress", daemon=True)

    def expect(self, interaction_id: str) -> None:
        self._text.expect(interaction_id)

    def note(self, note: ProgressNote) -> None:
        progress = note.progress
        with self._lock:
            self._last = _merge(self._last, progress)
            if self._out is not None and self._text.concerns(progress):
                self._tell(progress, self._out)
            self._paint()

    def shows(self, answer: str) -> bool:
        """Whether the answer stands on the terminal already, all of it."""
        return not self._lost and self._text.shows(answer)

    def __enter__(self) -> LiveAnswer:
        self._began = time.monotonic()
        with self._lock:
            self._paint()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        with self._lock:
            self._erase()
            self._write(self._text.close(), self._out)

    # --- with the lock held ---

    def _tell(self, progress: Progress, out: TextIO) -> None:
        if progress.kind == "text":
            self._write(self._text.add(progress.text), out)
            return
        self._write(self._text.part(), out)
        # What a limit says of a call, its refusal says again; and a question is no refusal.
        again = progress.kind == "denied" and (progress.text == self._told or progress.tool == QUESTION_TOOL)
        if progress.kind in _DOING and self._status is not None and not again:
            self._write(self._text.add_line(doing_line(progress, self._style)), self._status)
            self._told = progress.text

    def _write(self, text: str, stream: TextIO | None) -> None:
        if not text or stream is None:
            return
        self._erase()
        try:
            stream.write(encodable(text, stream))
            stream.flush()
        except OSError:
            self._lost = True  # the terminal went away; the work does not depend on it

    def _paint(self) -> None:
        if self._status is not None and self._text.at_start:
            elapsed = time.monotonic() - self._began
            rewrite(self._status, progress_line(self._last, elapsed, self._style))
            self._painted = True

    def _erase(self) -> None:
        """Take the status line away, if it is there: the cursor's line may be the text's."""
        if self._status is not None and self._painted:
            rewrite(self._status)
        self._painted = False

    # --- the thread ---

    def _tick(self) -> None:
        while not self._over.wait(self._period):
            with self._lock:
                self._paint()


def live_answer(name: str) -> LiveAnswer:
    """For this command's own streams, as far as they are terminals."""
    return LiveAnswer(
        name,
        status=sys.stderr if can_rewrite(sys.stderr, os.environ) else None,
        out=sys.stdout if sys.stdout.isatty() else None,
        style=style_of(sys.stderr, os.environ),
    )


def _merge(last: Progress, new: Progress) -> Progress:
    """The new note; where it does not know a limit or a figure that was known before, the old one stands."""
    return Progress(
        name=new.name or last.name,
        kind=new.kind,
        text=new.text,
        status=new.status,
        cost=max(new.cost, last.cost),
        max_cost=last.max_cost if new.max_cost is None else new.max_cost,
        turns=max(new.turns, last.turns),
        max_turns=last.max_turns if new.max_turns is None else new.max_turns,
        tool=new.tool,
        at=new.at,
    )


# --- lines ----------------------------------------------------------------------------------------


def doing_line(progress: Progress, style: Style) -> str:
    """What is done between two parts of an answer: `  Bash pytest -q`."""
    what = f"{progress.tool} {progress.text}"
    if progress.kind == "denied":
        what = f"refused: {progress.tool}: {progress.text.removeprefix('refused: ')}"
    text = cut("  " + one_line(what, style), style.width, style)
    return paint(text, "2" if progress.kind == "tool" else "33", style)


def progress_line(progress: Progress, elapsed: float, style: Style) -> str:
    """The status line of a command that waits: what is done now, turns, cost, elapsed."""
    what = one_line(progress.tool, style) or progress.kind
    if progress.kind == "text":
        what = "writing"
    elif progress.kind in ("status", "turn"):
        what = progress.status.value
    detail = one_line(progress.text, style) if progress.kind not in ("text", "status", "turn") else ""
    turns = (
        f"{progress.turns}/{progress.max_turns}" if progress.max_turns is not None else f"{progress.turns}"
    )
    spent = money(progress.cost)
    if progress.max_cost is not None:
        spent += f"/${progress.max_cost:.2f}"
    figures = f"{turns} {'turns' if turns != '1' else 'turn'}  {spent}  {elapsed:.0f}s"
    icon = with_icon(progress.name, STATUS_ICONS[progress.status], style)
    room = None if style.width is None else style.width - display_width(icon) - len(figures) - 5
    doing = cut(f"{what} {detail}".strip(), max(room, 0) if room is not None else None, style)
    return cut(
        f"{icon}  {doing}  {figures}" if doing else f"{icon}  {figures}", (style.width or 81) - 1, style
    )
