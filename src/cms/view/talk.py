"""A session's conversation as it grows: read from its raw log, bounded."""

from __future__ import annotations

from pathlib import Path

import msgspec

from cms.json_output import json_object
from cms.session.transcript import Moment, Transcript
from cms.store.rawlog import read_entries

#: Moments that are kept, the newest, and their characters; characters of one of them.
MOST = 2000
MOST_TEXT = 4_000_000
LONGEST = 20_000
#: Points of the cost over time.
_POINTS = 400


class Talk:
    """What was said so far.

    Attributes:
        points: (when, US dollars so far), of claude's own readings.
    """

    def __init__(self, path: Path) -> None:
        self.points: list[tuple[float, float]] = []
        self._path = path
        self._offset = 0
        self._transcript = Transcript()
        self._moments: list[Moment] = []
        self._cut: list[int] = []  # of each, the characters that were left out
        self._first = 0  # how many were dropped before the first that is kept
        self._size = 0  # characters
        self._open = False  # the last one is a text that still streams

    def read(self) -> int | None:
        """Read on. Gives the first moment (of all, from 0) that is new or has grown; None: none is.

        Raises:
            StoreError: the log cannot be read.
        """
        first_new: int | None = None
        for entry in read_entries(self._path, self._offset):
            self._offset = entry.end
            for moment in self._transcript.read(entry.at, entry.direction, entry.line):
                place = self._add(moment)
                first_new = place if first_new is None else min(first_new, place)
            spent = self._transcript.spent
            if not self.points or spent != self.points[-1][1]:
                self._point(entry.at, spent)
        return first_new

    def told(self, first: int) -> dict[str, object]:
        """The moments from `first` on, as JSON. `dropped`: those before all that are kept."""
        begin = max(0, first - self._first)
        moments = [
            json_object(moment, "-piece -begins", **({"more": cut} if cut else {}))
            for moment, cut in zip(self._moments[begin:], self._cut[begin:], strict=True)
        ]
        return {"from": begin, "dropped": self._first, "moments": moments}

    @property
    def dropped(self) -> int:
        return self._first

    def _add(self, moment: Moment) -> int:
        streams = moment.kind == "text" and moment.piece
        before = 0
        if streams and self._open and not moment.begins:
            before = len(self._moments[-1].text)
            last = self._moments[-1]
            room = LONGEST - len(last.text)
            self._moments[-1] = msgspec.structs.replace(last, text=last.text + moment.text[:room])
            self._cut[-1] += max(0, len(moment.text) - room)
        else:
            text = moment.text[:LONGEST]
            self._moments.append(msgspec.structs.replace(moment, text=text))
            self._cut.append(len(moment.text) - len(text))
            self._open = streams
        self._size += len(self._moments[-1].text) - before
        if len(self._moments) > MOST + MOST // 4 or self._size > MOST_TEXT:
            self._drop()
        return self._first + len(self._moments) - 1

    def _drop(self) -> None:
        """Forget the oldest, a quarter at once: not one with each that comes."""
        gone = len(self._moments) // 4
        self._size -= sum(len(moment.text) for moment in self._moments[:gone])
        del self._moments[:gone], self._cut[:gone]
        self._first += gone

    def _point(self, at: float, spent: float) -> None:
        self.points.append((at, spent))
        if len(self.points) > _POINTS:
            self.points = [*self.points[:-1:2], self.points[-1]]
