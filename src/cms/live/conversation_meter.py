"""What is spent in a conversation that a person has in claude's own interface, read from what claude writes.

There is no stream to read and no gate to ask at. What there is, and when it comes: `protocol.conversation`.
While claude runs, its status line has each total written into a file in the session's scratch folder; once it
has ended, its record of the conversation says all. Both lie where the session itself can write: these
figures are claude's as long as nothing in there forges them.

A conversation is left for another one by `/clear` and `/resume`; each counts from what it had cost before.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import msgspec
import trio

from cms.disk import ask_disk, read_part
from cms.protocol.conversation import CostState, StatusLine, Tally, read_status
from cms.session.fold import usage_of
from cms.session.model import TokenUsage
from cms.transcripts import find_transcript

T = TypeVar("T")

#: The file in the scratch folder.
FIGURES: Final = "attached.json"
_MOST_FIGURES: Final = 64 * 1024
#: Bytes at the end of a record in which its last total is looked for.
_TAIL: Final = 1024 * 1024
#: Bytes of a record that are read of one attachment, and at once.
_MOST: Final = 256 * 1024 * 1024
_PIECE: Final = 4 * 1024 * 1024


class Reading(msgspec.Struct, frozen=True):
    """What a conversation has cost since it began.

    Attributes:
        base, base_models: it had cost so much when it was taken up.
        models: per model; None where only the total is known.
        model: the one in use, "" if that is not known.
    """

    conversation_id: str
    base: float
    base_models: dict[str, TokenUsage]
    total: float
    models: dict[str, TokenUsage] | None = None
    model: str = ""


def status_command(figures: Path, then: str, name: str) -> str:
    """The shell command that is to be claude's status line: it keeps the figures, then shows something.

    Args:
        then: the person's own status line command, which is given the same; "": says who holds the session.
    """
    file = shlex.quote(str(figures))
    shown = then or f"cat >/dev/null; echo {shlex.quote(f'cms: {name}, taken over by hand')}"
    keep = f'given=$(cat); printf %s "$given" >{file}.$$ && mv -f {file}.$$ {file}'
    return f'{keep}; printf %s "$given" | {{ {shown}\n}}'


class ConversationMeter:
    """Of one attachment. All is read in threads, within bounds, and through nobody's links.

    Attributes:
        conversation_id: the one that the person is in.
        begun: claude has said that it is in a conversation.
        turns: replies of the API, in conversations that were left.
        answer: the last text of claude's in them.
        exact: claude has written down the last total of each.
    """

    def __init__(self, environ: Mapping[str, str], figures: Path, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        self.begun = False
        self.turns = 0
        self.answer = ""
        self.exact = True
        self._environ = environ
        self._figures = figures
        self._start = 0
        self._base = CostState()
        self._before: dict[str, int] = {}
        self._limiter = trio.CapacityLimiter(1)

    def __repr__(self) -> str:
        return f"<ConversationMeter {self.conversation_id} {self.turns} turns>"

    async def begin(self) -> None:
        """Note where the conversation stands, before claude starts.

        Raises:
            DiskTimeout: where it is kept does not answer.
        """
        wanted = self.conversation_id
        self._before = await self._ask(lambda: _lengths(wanted, self._environ))
        await self._take_up(wanted)

    async def look(self) -> list[Reading]:
        """What is known by now, in order.

        Raises:
            DiskTimeout: as above.
        """
        status = await self._ask(lambda: _read_status(self._figures))
        if status is None:
            return []
        self.begun, readings = True, list[Reading]()
        if status.session_id != self.conversation_id:
            readings = await self._leave()
            await self._take_up(status.session_id)
        total = status.cost.total_cost_usd
        return [*readings, self._reading(total, None, status.model.id)]

    async def finish(self) -> list[Reading]:
        """What it came to, once claude has ended.

        Raises:
            DiskTimeout: as above.
        """
        return [*await self.look(), *await self._leave()]

    async def _take_up(self, conversation_id: str) -> None:
        self.conversation_id = conversation_id
        # One that was not there, beside the first, was begun meanwhile. It may have cost something by now.
        before, environ = self._before, self._environ
        self._start, self._base = await self._ask(lambda: _standing(conversation_id, environ, before))

    async def _leave(self) -> list[Reading]:
        """Nothing more is said in the conversation: what its record tells of it."""
        wanted, start = self.conversation_id, self._start
        tally = await self._ask(lambda: _tally(wanted, self._environ, start))
        self.turns += tally.turns
        self.answer = tally.answer or self.answer
        self.exact = self.exact and tally.complete
        if tally.cost is None:
            return []
        return [self._reading(tally.cost.total_cost_usd, usage_of(tally.cost.model_usage))]

    def _reading(self, total: float, models: dict[str, TokenUsage] | None, model: str = "") -> Reading:
        base = self._base
        return Reading(
            self.conversation_id, base.total_cost_usd, usage_of(base.model_usage), total, models, model
        )

    async def _ask(self, look: Callable[[], T]) -> T:
        return await ask_disk(look, "claude's record of the conversation", limiter=self._limiter)


def _read_status(path: Path) -> StatusLine | None:
    try:
        return read_status(read_part(path, 0, _MOST_FIGURES))
    except OSError:
        return None


def _lengths(conversation_id: str, environ: Mapping[str, str]) -> dict[str, int]:
    """How long the records are that lie beside that one, by their paths."""
    path = find_transcript(conversation_id, environ)
    if path is None:
        return {}
    try:
        beside = [entry for entry in os.scandir(path.parent) if entry.name.endswith(".jsonl")]
        return {entry.path: entry.stat(follow_symlinks=False).st_size for entry in beside}
    except OSError:
        return {}


def _standing(
    conversation_id: str, environ: Mapping[str, str], before: Mapping[str, int]
) -> tuple[int, CostState]:
    """How long a record was at first, and the last total in it."""
    path = find_transcript(conversation_id, environ)
    if path is None:
        return 0, CostState()
    size = before.get(str(path), 0)
    try:
        if before and not any(Path(one).parent == path.parent for one in before):
            size = path.lstat().st_size  # of another folder: as it is now
        end = Tally()
        end.feed(read_part(path, max(size - _TAIL, 0), min(size, _TAIL)).splitlines())
    except OSError:
        return 0, CostState()
    return size, end.cost or CostState()


def _tally(conversation_id: str, environ: Mapping[str, str], start: int) -> Tally:
    """What was said in it from there on."""
    tally = Tally()
    path = find_transcript(conversation_id, environ)
    if path is not None:
        try:
            tally.feed(_lines(path, start))
        except OSError:
            tally.complete = False
    return tally


def _lines(path: Path, start: int) -> Iterator[bytes]:
    rest, at = b"", start
    while at < start + _MOST and (piece := read_part(path, at, _PIECE)):
        at += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest
