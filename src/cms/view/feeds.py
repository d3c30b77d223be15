"""What each page is told: first all of it, then what is new. The export writes down the first of it.

A feed asks the daemon when it is polled, in a thread; it holds what it told last, and tells nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from cms.batch.model import BatchRecord, TaskView
from cms.errors import CmsError
from cms.json_output import json_object
from cms.page import data
from cms.page.data import Event
from cms.rpc.batches import (
    BATCH_GET,
    BATCH_LIST,
    BATCH_SCORES,
    BATCH_TASKS,
    BatchPageParams,
    BatchParams,
)
from cms.rpc.changes import CHANGE_DIFF, DiffParams
from cms.rpc.overview import SESSIONS_OVERVIEW
from cms.rpc.questions import SESSIONS_QUESTIONS, QuestionsParams
from cms.rpc.sessions import (
    SESSION_INTERACTIONS,
    SESSION_LIST,
    InteractionsParams,
    ListParams,
    SessionsResult,
)
from cms.rpc.verbs import Nothing
from cms.session.model import LIVE, Interaction, LiveSession, SessionRecord
from cms.store.rawlog import raw_log_path
from cms.view.ask import Daemon
from cms.view.talk import Talk

#: Seconds between two looks.
EACH: Final = 1.0
#: Seconds between two looks at all sessions, where those with a process are the same.
_ALL_EACH: Final = 5.0
#: Bytes of a patch that a page shows.
_PATCH: Final = 2 * 1024 * 1024
#: A batch's tasks are read again after so many times what it took: 10,000 of them take a while.
_RESTS: Final = 4.0


class Feed(Protocol):
    """The events of one page. `poll` gives what is new; `each`: seconds until the next poll is due."""

    each: float

    def poll(self) -> Iterator[Event]: ...


class _Told:
    """Holds back what was told before."""

    def __init__(self) -> None:
        self._last: dict[str, bytes] = {}

    def news(self, name: str, value: Mapping[str, object]) -> Iterator[Event]:
        """The event, unless it is as it was, but for its time."""
        told = msgspec.json.encode({key: one for key, one in value.items() if key != "at"})
        if self._last.get(name) != told:
            self._last[name] = told
            yield name, value


class SessionsFeed:
    """All sessions: those with a process each second, the newest of the others now and then."""

    each = EACH

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._told = _Told()
        self._listed = SessionsResult((), 0.0, 0)
        self._due = 0.0
        self._before: frozenset[tuple[str, str]] = frozenset()

    def poll(self) -> Iterator[Event]:
        overview = self._daemon.call(SESSIONS_OVERVIEW, Nothing())
        live = {one.session.id: one for one in overview.sessions}
        states = frozenset((one.session.id, one.session.status.value) for one in overview.sessions)
        if states != self._before or time.monotonic() >= self._due:
            self._listed = self._daemon.call(SESSION_LIST, ListParams())
            self._before, self._due = states, time.monotonic() + _ALL_EACH
        listed = self._listed
        rest = [one for one in listed.sessions if one.id not in live]
        rows = [data.session_row(one.session, None, one) for one in overview.sessions]
        rows += [data.session_row(one, listed.outcomes.get(one.id)) for one in rest]
        yield from self._told.news(
            "sessions",
            json_object(
                at=overview.at,
                sessions=rows,
                total=listed.total,
                spent_today=overview.spent_today,
                plan=data.plan(overview.plan, overview.at),
            ),
        )


class SessionFeed:
    """One session: what it is, what it asks, its conversation, its cost, its change."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.each = EACH / 2
        self._daemon = daemon
        self._name = name
        self._told = _Told()
        self._talk: Talk | None = None
        self._changed: tuple[object, ...] = ()

    def poll(self) -> Iterator[Event]:
        found = self._daemon.call(SESSION_INTERACTIONS, InteractionsParams(self._name, last=1))
        record = found.session
        live = self._live(record)
        last = found.interactions[-1] if found.interactions else None
        asked = self._daemon.call(SESSIONS_QUESTIONS, QuestionsParams(record.name))
        ended = asked.unanswered[0].interaction if asked.unanswered else None
        yield from self._told.news(
            "session",
            json_object(
                at=time.time(),
                session=data.session_row(record, None if last is None else last.outcome, live),
                activity="" if live is None else live.activity,
                live=None if live is None else data.live_facts(live),
                next_step=found.next_step,
                last=None if last is None else data.interaction(last),
                questions=asked.open,
                unanswered=None if ended is None else json_object(ended, "questions denials"),
            ),
        )
        yield from self._said(record)
        yield from self._diff(record, last)
        self.each = EACH / 2 if record.status in LIVE else EACH

    def _live(self, record: SessionRecord) -> LiveSession | None:
        if record.status not in LIVE:
            return None
        overview = self._daemon.call(SESSIONS_OVERVIEW, Nothing())
        return next((one for one in overview.sessions if one.session.id == record.id), None)

    def _said(self, record: SessionRecord) -> Iterator[Event]:
        if self._talk is None:
            self._talk = Talk(raw_log_path(self._daemon.settings.raw, record.id))
        talk, dropped = self._talk, self._talk.dropped
        first = talk.read()
        if first is not None:
            # Where some were dropped, places have moved: all are told anew.
            yield "moments", talk.told(first if talk.dropped == dropped else 0)
        points = [*talk.points]
        if points and record.total_cost_usd > points[-1][1]:
            points.append((max(points[-1][0], record.last_saved), record.total_cost_usd))
        yield from self._told.news("cost", {"points": points})

    def _diff(self, record: SessionRecord, last: Interaction | None) -> Iterator[Event]:
        if not record.options.isolated:
            return
        # To look at what a session at work has changed is work: once for each state that it is in.
        state = (record.status, record.change, None if last is None else (last.id, last.state))
        if state == self._changed:
            return
        self._changed = state
        yield "diff", diff(self._daemon, record.name)


def diff(daemon: Daemon, name: str) -> dict[str, object]:
    """What a session has changed, with its patch; or why that cannot be told."""
    try:
        found = daemon.call(CHANGE_DIFF, DiffParams(name, patch=True))
        patch = b""
        if found.patch:
            with Path(found.patch).open("rb") as file:
                patch = file.read(_PATCH + 1)
    except CmsError as error:
        return {"error": error.message}
    except OSError as error:
        return {"error": f"the patch cannot be read: {error.strerror}"}
    return json_object(
        found,
        "folder change left_out commits live",
        patch=patch[:_PATCH].decode("utf-8", "replace"),
        cut=len(patch) > _PATCH,
    )


class BatchesFeed:
    """All batches."""

    each = 2 * EACH

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._told = _Told()

    def poll(self) -> Iterator[Event]:
        found = self._daemon.call(BATCH_LIST, Nothing()).batches
        yield from self._told.news(
            "batches", json_object(at=time.time(), batches=[data.batch(one) for one in found])
        )


class BatchFeed:
    """One batch: itself each second, its tasks where their numbers have changed, only those that have."""

    each = EACH

    def __init__(self, daemon: Daemon, word: str) -> None:
        self._daemon = daemon
        self._word = word
        self._told = _Told()
        self._tasks: dict[int, TaskView] = {}
        self._numbers: tuple[object, ...] | None = None
        self._due = 0.0

    def poll(self) -> Iterator[Event]:
        record = self._daemon.call(BATCH_GET, BatchParams(self._word)).batch
        scored = self._daemon.call(BATCH_SCORES, BatchParams(record.id))
        yield from self._told.news(
            *data.batch_event(record, scored.scores, scored.cost_by_model, time.time())
        )
        numbers = (record.counts, record.spent, record.status)
        if numbers == self._numbers or time.monotonic() < self._due:
            return
        began = time.monotonic()
        news = self._news(record)
        if news or self._numbers is None:
            yield data.tasks_event(news, first=self._numbers is None)
        self._numbers = numbers
        self._due = began + _RESTS * (time.monotonic() - began)

    def _news(self, record: BatchRecord) -> list[tuple[int, TaskView]]:
        news, place = [], 0
        after: int | None = -1
        while after is not None:
            found = self._daemon.call(BATCH_TASKS, BatchPageParams(record.id, after))
            for view in found.tasks:
                # What a page shows of it: the whole answer of ten thousand would be kept for nothing.
                short = msgspec.structs.replace(view, response=view.response[:1000], output="")
                if self._tasks.get(place) != short:
                    self._tasks[place] = short
                    news.append((place, short))
                place += 1
            after = found.next
        return news
