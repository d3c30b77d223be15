"""`cms logs`: a session as a person reads it, what was and (with -f) what comes.

Everything is read from the session's raw log, past and present alike. The daemon is asked for one thing: to
say when there is news (`session.watch`), and when the process has ended. So any number of watchers cost the
session nothing, and one that reads slowly (a pager, a stopped terminal) holds nobody up: it finds what it
missed in the file. Only one that falls hopelessly behind skips to the present, and is told so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from cyclopts import Parameter

from cms.cli import flags, io, render
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.cli.terminal import Style
from cms.config import load_settings
from cms.errors import CmsError, ExitCode, UsageError
from cms.json_output import encode, json_object
from cms.rpc.client import Client
from cms.rpc.sessions import SESSION_GET, SESSION_WATCH, NameParams, WatchParams
from cms.session.model import LIVE
from cms.session.transcript import Moment, Transcript
from cms.store.rawlog import Entry, raw_log_path, read_entries

#: Bytes of log that a follower may lag behind before it skips to the present.
MAX_LAG = 64 * 1024 * 1024
#: Seconds between two looks where the daemon tells nothing (a prompt that nobody answers yet).
_LOOK = 0.25
_LONGEST = 400  # characters of a line in a pipe, where no terminal says how long it may be


#: What `--json` tells of a moment. `cost`: of the message that is done.
_MOMENT = "-piece"


def logs(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    follow: Annotated[
        bool,
        Parameter(
            name=("--follow", "-f"),
            negative=(),
            show_default=False,
            help="Follow until the session's process ends, or Ctrl-C.",
        ),
    ] = False,
    last: Annotated[
        int | None,
        Parameter(
            name="--last", converter=flags.to_count, metavar="N", help="Start with the last N messages."
        ),
    ] = None,
    raw: Annotated[
        bool, flags.switch("--raw", "Print claude's stream-json lines exactly as they were.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Show what a session did: prompts, text, tool calls, costs.

    Works while the session runs and long after. With -f it follows, streaming text as it comes; any number of
    terminals may follow without slowing the session. With -f and --json it prints one JSON object per line.

    Examples::

        cms logs fix-auth --last 1
        cms logs fix-auth -f
        cms logs fix-auth --raw | jq .type
    """
    who = flags.pick_name("logs", name, name_flag)
    if raw and (json or last is not None):
        raise UsageError("--raw prints the lines as they are: give it without --json and --last")
    with io.daemon() as client:
        session = client.call(SESSION_GET, NameParams(name=who)).session
        path = raw_log_path(load_settings().raw, session.id)
        if raw:
            teller: Teller = RawTeller(sys.stdout.buffer)
        elif json and follow:
            teller = JsonTeller(sys.stdout.buffer)
        elif json:
            return _show_object(who, session.status, path, last)
        else:
            teller = LineTeller(io.out_style())
        log = Log(path)
        try:
            teller.tell(log.past(last))
            if follow and session.status in LIVE:
                _follow(client, who, log, teller)
        except KeyboardInterrupt:
            if not follow:
                raise
        teller.close()
    if follow and session.status not in LIVE:
        io.warn(f"cms: {who} is {session.status.value}: nothing more comes")
    return ExitCode.COMPLETED


def _show_object(name: str, status: str, path: Path, last: int | None) -> int:
    told = join_pieces(moment for _, found in Log(path).past(last) for moment in found)
    moments = [json_object(moment, _MOMENT) for moment in told]
    io.show_json(json_object(name=name, status=status, path=str(path), moments=moments))
    return ExitCode.COMPLETED


def _follow(client: Client, name: str, log: Log, teller: Teller) -> None:
    """Tell what comes until the daemon says that the process has ended."""
    news, over = threading.Event(), threading.Event()

    def watch() -> None:
        try:
            client.call(SESSION_WATCH, WatchParams(name=name), on_progress=lambda _: news.set())
        except (CmsError, OSError):
            pass  # it has ended just now, or the daemon has: what is in the log is all there is
        over.set()
        news.set()

    watcher = threading.Thread(target=watch, name="cms-watch", daemon=True)
    watcher.start()
    while not over.is_set():
        news.wait(_LOOK)
        news.clear()
        _pump(log, teller)
    _pump(log, teller)


def _pump(log: Log, teller: Teller) -> None:
    if (skipped := log.catch_up(MAX_LAG)) > 0:
        teller.note(f"{render.size(skipped)} of log left out: this watcher is slow (cms logs shows all)")
    teller.tell(log.news())


# --- reading --------------------------------------------------------------------------------------

#: A record of the log, and what it means to a person.
Told = tuple[Entry, tuple[Moment, ...]]


class Log:
    """A raw log and how far it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self._transcript = Transcript()

    def news(self) -> Iterator[Told]:
        """What came since the last call."""
        for entry in read_entries(self.path, self.offset):
            self.offset = entry.end
            yield entry, self._transcript.read(entry.at, entry.direction, entry.line)

    def past(self, last: int | None) -> Iterable[Told]:
        """All that is there, or what begins with the last so many prompts."""
        if last is None:
            return self.news()
        found: list[Told] = []
        prompts: list[int] = []
        for told in self.news():
            if any(moment.kind == "prompt" for moment in told[1]):
                prompts.append(len(found))
            if told[1]:
                found.append(told)
        return found[prompts[-last] :] if len(prompts) >= last else found

    def catch_up(self, most: int) -> int:
        """Skip to the present if more than `most` bytes are unread; gives how many were skipped."""
        try:
            behind = self.path.stat().st_size - self.offset
        except OSError:
            return 0
        if behind <= most:
            return 0
        # The next whole record: the reader drops what it finds cut.
        self.offset += behind
        return behind


def join_pieces(moments: Iterable[Moment]) -> Iterator[Moment]:
    """Streamed text as whole texts."""
    open_text: Moment | None = None
    for moment in moments:
        if moment.piece and open_text is not None:
            open_text = msgspec.structs.replace(open_text, text=open_text.text + moment.text)
            continue
        if open_text is not None:
            yield open_text
            open_text = None
        if moment.piece:
            open_text = moment
        else:
            yield moment
    if open_text is not None:
        yield open_text


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
                self._stream.write(encode(json_object(moment, _MOMENT)))
        self._stream.flush()


class LineTeller(Teller):
    """For a person: a time and a word before everything but the model's text, which stands as it is."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._in_text = False

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
        if self._in_text:
            io.show("\n")
            self._in_text = False

    def _write(self, moment: Moment) -> list[str]:
        style = self._style
        if moment.kind == "text":
            text = render.safe(moment.text, style)
            if moment.subagent:
                text = "".join(f"  | {line}\n" for line in text.split("\n"))
            before = "\n" if self._in_text and not moment.piece else ""
            self._in_text = not text.endswith("\n") if text else self._in_text
            if not moment.piece and self._in_text:
                text, self._in_text = text + "\n", False
            return [before, text]
        lines = moment_lines(moment, style)
        before = "\n" if self._in_text else ""
        self._in_text = False
        return [before, *(line + "\n" for line in lines)]


def moment_lines(moment: Moment, style: Style) -> list[str]:
    """A moment that is no text, in lines: only a prompt takes more than one."""
    clock = render.clock(moment.at, style)[11:]
    sub = "| " if moment.subagent else ""
    tool = f"{moment.tool} " if moment.tool else ""

    def line(word: str, text: str, colour: str) -> str:
        head = f"{clock} {word:<8} {sub}"
        room = (_LONGEST if style.width is None else style.width) - render.display_width(head)
        return render.paint(head + render.cut(render.one_line(text, style), room, style), colour, style)

    match moment.kind:
        case "start":
            day = render.clock(moment.at, style)[:10]
            return ["", line("start", f"claude, on {day}", "2")]
        case "prompt":
            first, *rest = render.safe(moment.text, style).split("\n")
            return ["", line("prompt", first, "1"), *(f"         {more}".rstrip() for more in rest)]
        case "tool":
            return [line("tool", tool + moment.text, "36")]
        case "failed":
            return [line("failed", moment.text, "33")]
        case "refused":
            return [line("refused", tool + moment.text, "31")]
        case "asks" | "answered" | "retry" | "note" | "stderr":
            return [line(moment.kind, moment.text, "33" if moment.kind == "asks" else "2")]
        case "done":
            cost = "" if moment.cost is None else render.cost(moment.cost)
            word = "error" if moment.is_error else "done"
            text = "  ".join(part for part in (cost, moment.text) if part)
            return [line(word, text, "31" if moment.is_error else "32")]
        case "text":
            return render.safe(moment.text, style).split("\n")
