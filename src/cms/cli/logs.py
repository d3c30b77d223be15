"""`cms logs`: a session as a person reads it, what was and (with -f) what comes.

Everything is read from the session's raw log, past and present alike. The daemon is asked for one thing: to
say when there is news (`session.watch`), and when the process has ended. So any number of watchers cost the
session nothing, and one that reads slowly (a pager, a stopped terminal) holds nobody up: it finds what it
missed in the file. Only one that falls hopelessly behind skips to the present, and is told so.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from cms.cli import flags, io
from cms.cli.flags import JsonFlag, NameFlag, NameWord
from cms.cli.keys import Keyboard, has_keyboard
from cms.cli.log_lines import (
    MOMENT,
    Joiner,
    JsonTeller,
    LineTeller,
    RawTeller,
    Teller,
    Told,
    join_pieces,
    verdict_lines,
)
from cms.config import load_settings
from cms.errors import CmsError, ExitCode, UsageError
from cms.json_output import json_object
from cms.rpc.client import Client
from cms.rpc.sessions import (
    SESSION_GET,
    SESSION_INTERACTIONS,
    SESSION_WATCH,
    InteractionsParams,
    NameParams,
    WatchParams,
)
from cms.session.model import LIVE, Interaction
from cms.session.transcript import Moment, Transcript
from cms.store.rawlog import Entry, raw_log_path, read_entries
from cms.units import size

#: Bytes of log that a follower may lag behind before it skips to the present.
MAX_LAG = 64 * 1024 * 1024
#: Seconds between two looks where the daemon tells nothing (a prompt that nobody answers yet).
_LOOK = 0.25
#: What `--json` tells of how the last message ended.
_VERDICT = "outcome error reasons cost cost_exact turns duration:ms ended"


def logs(
    name: NameWord = None,
    /,
    *,
    name_flag: NameFlag = None,
    follow: Annotated[bool, flags.follow("Follow until the session's process ends, or q.")] = False,
    last: Annotated[int | None, flags.count("--last", "Start with the last N messages.")] = None,
    since: Annotated[
        float | None, flags.since("Only what happened since then: 10m, 2h, today, or a date.")
    ] = None,
    grep: Annotated[
        str,
        flags.text_flag("--grep", "Only what matches this regular expression (Python's).", "PATTERN"),
    ] = "",
    raw: Annotated[
        bool, flags.switch("--raw", "Print claude's stream-json lines exactly as they were.")
    ] = False,
    json: JsonFlag = False,
) -> int:
    """Show what a session did: prompts, answers, tool calls, verdict.

    Works while the session runs and long after. With -f it follows, streaming text as it comes (with --grep,
    each answer once it is complete); any number of terminals may follow without slowing the session. With -f
    and --json it prints one JSON object per line.

    Examples::

        cms logs fix-auth --last 1
        cms logs fix-auth -f
        cms logs fix-auth --since 10m --grep 'pytest|refused'
        cms logs fix-auth --raw | jq .type
    """
    who = flags.pick_name("logs", name, name_flag)
    sieve = Sieve(since, _pattern(grep))
    if raw and (json or last is not None or not sieve.open):
        raise UsageError("--raw excludes --json, --last, --since and --grep")
    with io.daemon() as client:
        session = client.call(SESSION_GET, NameParams(name=who)).session
        log = Log(raw_log_path(load_settings().raw, session.id))
        if json and not follow:
            return _show_object(client, who, session.status, log, sieve, last)
        make = RawTeller if raw else JsonTeller
        teller = make(sys.stdout.buffer) if raw or json else LineTeller(io.out_style())
        following = follow and session.status in LIVE
        try:
            teller.tell(sieve.of(log.past(last)))
            left = following and not _follow(client, who, log, sieve, teller)
        except KeyboardInterrupt:
            if not follow:
                raise
            left = True
        teller.close()
        if isinstance(teller, LineTeller) and not left:
            _show_verdict(client, who, sieve)
    if follow and not following:
        io.warn(f"cms: {who} is {session.status.value}: nothing more comes")
    return ExitCode.COMPLETED


def _pattern(text: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except re.error as error:
        raise UsageError(f"--grep {text!r} is not a regular expression: {error}") from None


def _last_end(client: Client, name: str) -> tuple[Interaction | None, str | None]:
    """The last message, if it is over, and the command that goes on from there."""
    reply = client.call(SESSION_INTERACTIONS, InteractionsParams(name=name, last=1))
    return next((one for one in reply.interactions if one.outcome is not None), None), reply.next_step


def _show_verdict(client: Client, name: str, sieve: Sieve) -> None:
    try:
        end, step = _last_end(client, name)
    except CmsError:
        return  # the daemon left while it was followed, and with it who knows
    if end is not None and sieve.pattern is None and (end.ended or end.timestamp) >= (sieve.since or 0.0):
        io.show_lines(verdict_lines(end, step, io.out_style()))


def _show_object(client: Client, name: str, status: str, log: Log, sieve: Sieve, last: int | None) -> int:
    end, step = _last_end(client, name)
    told = join_pieces(moment for _, found in sieve.of(log.past(last)) for moment in found)
    io.show_json(
        json_object(
            name=name,
            status=status,
            path=str(log.path),
            moments=[json_object(moment, MOMENT) for moment in told],
            verdict=None if end is None else json_object(end, _VERDICT, next_step=step),
        )
    )
    return ExitCode.COMPLETED


def _follow(client: Client, name: str, log: Log, sieve: Sieve, teller: Teller) -> bool:
    """Tell what comes until the process has ended; False where the person has left before."""
    over = threading.Event()
    # The descriptors stay open: the thread may outlive this, as long as the command lives.
    wake, alarm = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def tell(_: object = None) -> None:
        with suppress(BlockingIOError):  # it is full of news already
            os.write(alarm, b".")

    def watch() -> None:
        try:
            client.call(SESSION_WATCH, WatchParams(name=name), on_progress=tell)
        except (CmsError, OSError):
            pass  # it has ended just now, or the daemon has: what is in the log is all there is
        over.set()
        tell()

    threading.Thread(target=watch, name="cms-watch", daemon=True).start()
    with _leave_by_key(wake) as wants_to_leave:
        while not over.is_set():
            if wants_to_leave():
                return False
            _pump(log, sieve, teller)
    _pump(log, sieve, teller)
    teller.tell(sieve.rest())
    return True


@contextmanager
def _leave_by_key(wake: int) -> Iterator[Callable[[], bool]]:
    """What waits for news, and says whether somebody pressed q; without a keyboard nobody does."""
    if not has_keyboard():

        def wait() -> bool:
            if select.select([wake], [], [], _LOOK)[0]:
                os.read(wake, 4096)
            return False

        yield wait
        return
    with Keyboard() as keys:
        yield lambda: keys.wait(_LOOK, wake) in ("q", "Q", "escape") or keys.gone


def _pump(log: Log, sieve: Sieve, teller: Teller) -> None:
    if (skipped := log.catch_up(MAX_LAG)) > 0:
        teller.note(f"{size(skipped)} of log left out: this watcher is slow (cms logs shows all)")
    teller.tell(sieve.of(log.news()))


# --- reading --------------------------------------------------------------------------------------


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

    def catch_up(self, most: int, leave: int = 0) -> int:
        """If more than `most` bytes are unread, skip all but the last `leave`; gives how many it skipped."""
        try:
            behind = self.path.stat().st_size - self.offset
        except OSError:
            return 0
        if behind <= most:
            return 0
        # The next whole record: the reader drops what it finds cut.
        self.offset += behind - leave
        return behind - leave


class Sieve:
    """Lets through what happened since a time and matches a pattern; a streamed text when it is whole."""

    def __init__(self, since: float | None = None, pattern: re.Pattern[str] | None = None) -> None:
        self.since = since
        self.pattern = pattern
        self._joiner = Joiner()

    @property
    def open(self) -> bool:
        """Whether everything comes through."""
        return self.since is None and self.pattern is None

    def of(self, told: Iterable[Told]) -> Iterator[Told]:
        for entry, moments in told:
            if self.since is not None and entry.at < self.since:
                continue
            if self.pattern is not None:
                moments = tuple(whole for one in moments for whole in self._joiner.take(one))
                moments = self._matching(moments)
            yield entry, moments

    def rest(self) -> Iterator[Told]:
        """Nothing more comes: what of a text has come by now."""
        yield Entry(0.0, "out", b"", 0), self._matching(self._joiner.close())

    def _matching(self, moments: Iterable[Moment]) -> tuple[Moment, ...]:
        pattern = self.pattern
        return tuple(one for one in moments if pattern is None or pattern.search(f"{one.tool} {one.text}"))
