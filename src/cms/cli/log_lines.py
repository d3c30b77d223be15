"""What `cms logs` writes: moments of a transcript for a person, for a program, or byte for byte.

For a person each moment is a clock, a word for what it is, and its text. That stands in a column of its own,
where a long line is wrapped between words. In a pipe nothing is wrapped or cut to a width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

import msgspec

from cms.cli import io, render
from cms.cli.terminal import Style
from cms.json_output import encode, json_object
from cms.session.model import ENDED, Interaction
from cms.session.transcript import Moment
from cms.store.rawlog import Entry
from cms.units import clock, in_seconds, money, plural

#: A record of the log, and what it means to a person.
Told = tuple[Entry, tuple[Moment, ...]]

#: What `--json` tells of a moment. `cost`: of the message that is done.
MOMENT: Final = "-piece -begins"
_LONGEST: Final = 400  # characters of a line in a pipe, where no terminal says how long it may be
_INDENT: Final = 18  # columns of a clock and a word
_TOKENS: Final = re.compile(r"\n|[ \t]+|[^ \t\n]+")
#: SGR colour of a moment's line, by its kind.
_COLOURS: Final = {"tool": "36", "failed": "33", "refused": "31", "asks": "33"}


def join_pieces(moments: Iterable[Moment]) -> Iterator[Moment]:
    """Streamed text as whole texts."""
    joiner = Joiner()
    for moment in moments:
        yield from joiner.take(moment)
    yield from joiner.close()


class Joiner:
    """Makes whole texts of pieces that come one by one."""

    def __init__(self) -> None:
        self._open: Moment | None = None

    def take(self, moment: Moment) -> tuple[Moment, ...]:
        """What is whole now that this has come."""
        if moment.piece and self._open is not None and not moment.begins:
            self._open = msgspec.structs.replace(self._open, text=self._open.text + moment.text)
            return ()
        whole = self.close()
        if moment.piece:
            self._open = moment
            return whole
        return (*whole, moment)

    def close(self) -> tuple[Moment, ...]:
        """What is left: nothing more comes."""
        whole = self.open
        self._open = None
        return whole

    @property
    def open(self) -> tuple[Moment, ...]:
        """What is not whole yet."""
        return () if self._open is None else (self._open,)


# --- telling --------------------------------------------------------------------------------------


class Teller:
    """Writes moments, each in its own way. What it writes is flushed before it returns."""

    def tell(self, told: Iterable[Told]) -> None:
        raise NotImplementedError

    def note(self, text: str) -> None:
        """A word of ours."""
        io.warn(f"cms: {text}")

    def close(self) -> None:
        """Nothing more comes."""


class RawTeller(Teller):
    """The lines of claude's stdout, byte for byte."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def tell(self, told: Iterable[Told]) -> None:
        for entry, _ in told:
            if entry.direction == "out":
                self._stream.write(entry.line + b"\n")
        self._stream.flush()


class JsonTeller(Teller):
    """One object a line; streamed text in pieces, as it came."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def tell(self, told: Iterable[Told]) -> None:
        for _, moments in told:
            for moment in moments:
                self._stream.write(encode(json_object(moment, MOMENT)))
        self._stream.flush()


class LineTeller(Teller):
    """For a person. Text is written as it comes, but for a word that is not over yet."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._text: Flow | None = None  # the answer that is being written

    def tell(self, told: Iterable[Told]) -> None:
        out: list[str] = []
        for _, moments in told:
            for moment in moments:
                out += self._write(moment)
            if len(out) > 1000:
                io.show("".join(out))
                out.clear()
        if out:
            io.show("".join(out))

    def note(self, text: str) -> None:
        self.close()
        io.show(f"-- {text}\n")

    def close(self) -> None:
        if (rest := self._end_text()) != "":
            io.show(rest)

    def _write(self, moment: Moment) -> list[str]:
        if moment.kind != "text":
            return [self._end_text(), *(line + "\n" for line in moment_lines(moment, self._style))]
        out = []
        if self._text is None or moment.begins or not moment.piece:
            out.append(self._end_text())
            head, self._text = open_text(moment, self._style)
            out.append(head)
        out.append(self._text.feed(render.safe(moment.text, self._style)))
        if not moment.piece:
            out.append(self._end_text())
        return out

    def _end_text(self) -> str:
        text, self._text = self._text, None
        return "" if text is None else text.close() + "\n"


class Flow:
    """Text that comes in pieces, in a column of its own. Pure.

    The cursor stands in the column already. Lines are wrapped between words; without a width they are not.
    """

    def __init__(self, width: int | None, indent: str, used: int = 0) -> None:
        """
        Args:
            width: of the terminal.
            indent: what each line but the first begins with.
            used: columns that the first one has more before it.
        """
        self._indent = indent
        self._room = None if width is None else max(10, width - render.display_width(indent))
        self._used = used  # columns of the line, behind the indent
        self._gap = ""  # between the last word and what comes
        self._breaks = 0  # line ends that come before that
        self._word = ""  # may go on in the next piece

    def feed(self, text: str) -> str:
        """What can be written now."""
        out: list[str] = []
        for part in _TOKENS.findall(text):
            if part == "\n":
                out.append(self._end_word())
                self._breaks += 1
                self._gap, self._used = "", 0
            elif part[0] in " \t":
                out.append(self._end_word())
                self._gap += part.expandtabs(4)
            else:
                self._word += part
                if self._room is None:
                    out.append(self._end_word())
        return "".join(out)

    def close(self) -> str:
        """The rest."""
        return self._end_word()

    def _end_word(self) -> str:
        word, self._word = self._word, ""
        if not word:
            return ""
        out = self._new_lines()
        width = render.display_width(word)
        if self._room is not None and self._used and self._used + len(self._gap) + width > self._room:
            out += f"\n{self._indent}"
            self._used = 0
        elif self._room is None or self._used + len(self._gap) < self._room:
            out += self._gap
            self._used += len(self._gap)
        self._gap = ""
        while self._room is not None and self._used + width > self._room:
            head = fitting(word, self._room - self._used)
            out += f"{head}\n{self._indent}"
            word, self._used = word[len(head) :], 0
            width = render.display_width(word)
        self._used += width
        return out + word

    def _new_lines(self) -> str:
        if not self._breaks:
            return ""
        out, self._breaks = "\n" * self._breaks + self._indent, 0
        return out


def fitting(word: str, room: int) -> str:
    """As much of a word as fits; at least a letter."""
    used = 0
    for place, letter in enumerate(word):
        used += render.display_width(letter)
        if used > room:
            return word[: max(place, 1)]
    return word


# --- lines ----------------------------------------------------------------------------------------


def head_of(at: float, word: str, style: Style) -> str:
    """`11:30:00 answer   `, not painted."""
    return f"{clock(at, style.zone)[11:]} {word:<8} "


def open_text(moment: Moment, style: Style) -> tuple[str, Flow]:
    """What stands before an answer, and what makes its lines."""
    sub = "| " if moment.subagent else ""
    return render.paint(head_of(moment.at, "answer", style), "1", style) + sub, _flow(style, sub)


def _flow(style: Style, sub: str = "") -> Flow:
    """For a text behind a head: all lines but the first are indented."""
    indent = _INDENT if style.width is None or style.width >= 60 else 4
    return Flow(style.width, " " * indent + sub, _INDENT - indent)


def flowing(text: str, style: Style) -> list[str]:
    """A text in lines, for behind a head."""
    flow = _flow(style)
    return (flow.feed(render.safe(text, style)) + flow.close()).split("\n")


def moment_lines(moment: Moment, style: Style) -> list[str]:
    """A moment in lines: a prompt or an answer can take several."""
    if moment.kind == "text":
        head, flow = open_text(moment, style)
        return (head + flow.feed(render.safe(moment.text, style)) + flow.close()).split("\n")
    sub = "| " if moment.subagent else ""
    tool = f"{moment.tool} " if moment.tool else ""

    def line(word: str, text: str, colour: str) -> str:
        head = head_of(moment.at, word, style) + sub
        room = (_LONGEST if style.width is None else style.width) - render.display_width(head)
        whole = head + render.cut(render.one_line(text, style), room, style)
        return render.paint(whole.rstrip(), colour, style)

    match moment.kind:
        case "start":
            day = clock(moment.at, style.zone)[:10]
            return ["", line("start", f"claude, on {day}", "2")]
        case "prompt":
            first, *rest = flowing(moment.text, style)
            head = head_of(moment.at, "prompt", style)
            return ["", *(render.paint(one, "1", style) for one in (head + first, *rest))]
        case "tool" | "refused":
            return [line(moment.kind, tool + moment.text, _COLOURS[moment.kind])]
        case "done":
            cost = "" if moment.cost is None else money(moment.cost)
            word = "error" if moment.is_error else "done"
            text = "  ".join(part for part in (cost, moment.text) if part)
            return [line(word, text, "31" if moment.is_error else "32")]
        case _:
            return [line(moment.kind, moment.text, _COLOURS.get(moment.kind, "2"))]


def verdict_lines(last: Interaction | None, step: str | None, style: Style) -> list[str]:
    """How the last message ended, why, and the command that goes on; nothing while it is worked on."""
    if last is None or last.outcome is None or last.state not in ENDED:
        return []
    figures = (
        money(last.cost, exact=last.cost_exact),
        plural(last.turns, "turn"),
        in_seconds(last.duration),
    )
    word = render.outcome_word(last.outcome, style)
    colour = render.OUTCOME_ICONS[last.outcome][2]
    head = head_of(last.ended or last.timestamp, "verdict", style)
    lines = [render.paint(head, "1", style) + render.paint(word, colour, style) + f"  {'  '.join(figures)}"]
    for why in dict.fromkeys((last.error, *last.reasons)):
        if why:
            first, *more = flowing(why, style)
            lines += [" " * _INDENT + first, *more]
    lines += render.next_lines(step, style, indent=" " * _INDENT)
    return ["", *lines]
