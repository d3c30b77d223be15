"""Sessions in the store, with their interactions and receipts.

Several processes of cms may have the store open. A session that is in use belongs to the one that wrote it
last: its rows are signed (owners.py), and nobody else may change them while that one lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from cms.errors import NameTaken, WrongStatus
from cms.session.audit import AuditEntry
from cms.session.model import (
    ENDED,
    LIVE,
    REPAIR,
    STATUSES,
    Interaction,
    InteractionState,
    Order,
    Outcome,
    Receipt,
    SessionRecord,
)
from cms.store import audit, counters, money
from cms.store.database import Database
from cms.store.rows import INTERACTIONS, SESSIONS, TAGGED, Value, to_json

_LIVE: Final = ", ".join(f"'{status}'" for status in sorted(LIVE))
_OPEN: Final = ", ".join(f"'{state}'" for state in InteractionState if state not in ENDED)
#: Nothing more is spent on an interaction in these states.
_SPENT: Final = ENDED | {InteractionState.CHECKING}
#: Of a session: somebody is (or before a crash was) at work on it.
_IN_USE: Final = (
    f"(status IN ({_LIVE}) OR id IN"  # noqa: S608 - words of ours
    f" (SELECT session_id FROM interactions WHERE state IN ({_OPEN})))"
)

_TAGS: Final = "SELECT value FROM json_each(sessions.rest, '$.options.tags')"

# --- writing ----------------------------------------------------------------------------------------


def add(db: Database, record: SessionRecord, interaction: Interaction | None = None) -> None:
    """A session that is new, and its first message if it has one already.

    Raises:
        NameTaken: another one has its name.
    """
    _check_name(db, record)
    db.execute(SESSIONS.insert, SESSIONS.to_row(record))
    _sign(db, record.id)
    if interaction is not None:
        save_interaction(db, interaction)


def save(db: Database, record: SessionRecord, *interactions: Interaction) -> None:
    """A session as it is now, whether or not it was known, and interactions of it.

    One that is known keeps the name and the tags that it has here: only `rename` and `tag` give it others, so
    that nothing that was on its way meanwhile takes them back.

    Raises:
        NameTaken: it is new, and another one has its name.
        WrongStatus: it lives in another process.
    """
    known = _claim(db, record.id)
    if known is None:
        _check_name(db, record)
    else:
        record = _with(record, *known)
    db.execute(SESSIONS.upsert, SESSIONS.to_row(record))
    _sign(db, record.id)
    for interaction in interactions:
        save_interaction(db, interaction)


def save_change(db: Database, record: SessionRecord, entry: AuditEntry) -> None:
    """A session with what became of its change, and its audit log's line about that. Raises as `save`."""
    save(db, record)
    audit.add(db, (entry,))


def rename(db: Database, session_id: str, name: str, entry: AuditEntry) -> None:
    """Gives a session another name, by which alone it is found from now on; `entry` is kept for good.

    Raises:
        NameTaken: another one has it.
        WrongStatus: it lives in another process.
    """
    _claim(db, session_id)
    for record in _sessions(db, "id = ?", session_id):
        record = _with(record, name, record.options.tags)
        _check_name(db, record)
        db.execute(SESSIONS.upsert, SESSIONS.to_row(record))
        audit.add(db, (entry,))


def tag(db: Database, session_id: str, add: Sequence[str], remove: Sequence[str]) -> tuple[str, ...]:
    """Gives a session tags and takes others away; gives those that it has then.

    Raises:
        WrongStatus: it lives in another process.
    """
    known = _claim(db, session_id)
    tags = () if known is None else known[1]
    tags = tuple(dict.fromkeys(one for one in (*tags, *add) if one not in remove))
    for record in _sessions(db, "id = ?", session_id):
        db.execute(SESSIONS.upsert, SESSIONS.to_row(_with(record, record.name, tags)))
    return tags


def _with(record: SessionRecord, name: str, tags: tuple[str, ...]) -> SessionRecord:
    if (record.name, record.options.tags) == (name, tags):
        return record
    options = msgspec.structs.replace(record.options, name=name, tags=tags)
    return msgspec.structs.replace(record, name=name, options=options)


def save_interaction(db: Database, interaction: Interaction) -> None:
    """An interaction as it is now, whether or not it was known. Once its work has ended it holds no money.

    Raises:
        WrongStatus: its session lives in another process.
        StoreError: its session is not in the store.
    """
    _claim(db, interaction.session_id)
    counters.add_message(db, interaction)
    db.execute(INTERACTIONS.upsert, INTERACTIONS.to_row(interaction))
    _sign(db, interaction.session_id)
    if interaction.state in _SPENT:
        money.settle(
            db, interaction.id, interaction.ended or interaction.timestamp, exact=interaction.cost_exact
        )


def save_end(
    db: Database,
    record: SessionRecord,
    interactions: Sequence[Interaction],
    receipt: Receipt | None,
    *,
    process: str,
    entries: Sequence[AuditEntry] = (),
) -> None:
    """A session whose process has ended: how, and the end of every message that is still owed one.

    Args:
        process: the id of the process that the receipt is about.
    """
    save(db, record, *interactions)
    if receipt is not None:
        counters.add_end(db, receipt)
        db.execute(
            "INSERT INTO receipts VALUES (?, ?, ?, ?, ?)",
            (record.id, process, receipt.at, receipt.reason, to_json(receipt)),
        )
    audit.add(db, entries)


def delete(db: Database, session_id: str, at: float, last: AuditEntry | None = None) -> bool:
    """Removes a session, its interactions and receipts; its money stays in the ledger.

    Its audit log ends with `last` and stays, or without that goes, too. False if there was no such session.
    The raw log is not the database's (rawlog.py).

    Raises:
        WrongStatus: it lives in another process.
    """
    _claim(db, session_id)
    money.forget_holds(db, session_id, at)
    if db.execute("DELETE FROM sessions WHERE id = ?", (session_id,)).rowcount != 1:
        return False
    if last is None:
        # Only now: the database guards the audit log of a session that is there.
        audit.delete(db, session_id)
    else:
        audit.add(db, (last,))
    return True


def _check_name(db: Database, record: SessionRecord) -> None:
    # Asked, not read from the constraint's message: that is SQLite's wording, not a promise.
    taken = db.execute(
        "SELECT 1 FROM sessions WHERE name = ? AND id <> ?", (record.name, record.id)
    ).fetchone()
    if taken is not None:
        raise NameTaken(record.name)


def _claim(db: Database, session_id: str) -> tuple[str, tuple[str, ...]] | None:
    """Fails if another living store is at work on the session. Within the transaction: one wins.

    Gives its name and its tags; None if it is not known.
    """
    row: tuple[str, str, str, bool, str | None] | None = db.execute(
        f"SELECT owner, name, status, {_IN_USE}, json_extract(rest, '$.options.tags')"  # noqa: S608
        " FROM sessions WHERE id = ?",
        (session_id,),
    ).fetchone()
    if row is None:
        return None
    owner, name, status, in_use, tags = row
    pid = db.living_pid(owner) if in_use else None
    if pid is not None:
        raise WrongStatus(
            name,
            status,
            "use it from here",
            hint=f"another cms has it (pid {pid}): go on there, or end that",
        )
    return name, msgspec.json.decode(tags or "[]", type=tuple[str, ...])


def _sign(db: Database, session_id: str) -> None:
    db.execute("UPDATE sessions SET owner = ?1 WHERE id = ?2 AND owner <> ?1", (db.owner_id, session_id))


# --- reading ----------------------------------------------------------------------------------------


def by_name(db: Database, name: str) -> SessionRecord | None:
    """The session of that name."""
    return next(iter(_sessions(db, "name = ?", name)), None)


def by_id(db: Database, session_id: str) -> SessionRecord | None:
    """The session of that id."""
    return next(iter(_sessions(db, "id = ?", session_id)), None)


def by_id_start(db: Database, starts: Iterable[str]) -> list[SessionRecord]:
    """The sessions whose ids begin with one of those."""
    found: list[SessionRecord] = []
    for start in starts:
        found += _sessions(db, "id >= ? AND id < ?", start, start + "\U0010ffff")
    return found


class Place(NamedTuple):
    """Where a session stands in an order: by a figure or its name, and among equals the newest first."""

    value: float | str
    created: float
    id: str


#: Each order: its column, and the same of a record.
_ORDERS: Final[dict[Order, tuple[str, Callable[[SessionRecord], float | str]]]] = {
    "age": ("created", lambda record: record.created),
    "active": ("last_saved", lambda record: record.last_saved),
    "name": ("name", lambda record: record.name),
    "cost": ("total_cost_usd", lambda record: record.total_cost_usd),
    "turns": ("json_extract(rest, '$.totalTurns')", lambda record: record.total_turns),
    "messages": ("json_extract(rest, '$.interactionCount')", lambda record: record.interaction_count),
}
_RISING: Final = frozenset({"name"})


def page(
    db: Database,
    status: str = "",
    *,
    order: Order = "age",
    limit: int = -1,
    after: Place | None = None,
    saved_before: float | None = None,
    tags: Sequence[str] = (),
) -> list[SessionRecord]:
    """Sessions in an order.

    Args:
        status: only those that have it; or an outcome, with which their last message has ended.
        limit: at most so many; below 0: all.
        after: `place_of` a session: only those that come after it.
        saved_before: only those that nothing was saved of since that time.
        tags: only those that have all of them.
    """
    where, values = _in_status(status, tags)
    column, _ = _ORDERS[order]
    if after is not None and order == "age":  # what an index answers
        where += " AND (created, id) < (?, ?)"
        values += after[1:]
    elif after is not None:
        past = ">" if order in _RISING else "<"
        where += f" AND ({column} {past} ? OR ({column} = ? AND (created, id) < (?, ?)))"
        values += (after.value, *after)
    if saved_before is not None:
        where += " AND last_saved <= ?"
        values.append(saved_before)
    first = "" if order == "age" else f"{column} {'ASC' if order in _RISING else 'DESC'}, "
    return _sessions(db, f"{where} ORDER BY {first}created DESC, id DESC LIMIT ?", *values, limit)


def place_of(record: SessionRecord, order: Order = "age") -> Place:
    """Where a session stands."""
    return Place(_ORDERS[order][1](record), record.created, record.id)


def comes_after(place: Place, other: Place, order: Order) -> bool:
    """Whether a session with that place comes after the one with the other."""
    if place.value != other.value and order in _RISING:
        return str(place.value) > str(other.value)
    return place < other


def in_order(records: Iterable[SessionRecord], order: Order) -> list[SessionRecord]:
    """The same order, of records that are at hand."""
    found = sorted(records, key=lambda record: (record.created, record.id), reverse=True)
    return sorted(found, key=lambda record: place_of(record, order).value, reverse=order not in _RISING)


def _in_status(status: str, tags: Sequence[str]) -> tuple[str, list[Value]]:
    where, values = "TRUE", list[Value]()
    for one in tags:
        # By the text first, which is quick: most have none.
        where += f" AND {TAGGED} AND EXISTS ({_TAGS} WHERE value = ?)"
        values.append(one)
    if not status:
        return where, values
    if status in STATUSES:
        return f"{where} AND status = ?", [*values, status]
    last = (
        "id IN (SELECT session_id FROM interactions AS one WHERE instr(rest, ?) > 0 AND number ="
        " (SELECT max(number) FROM interactions AS all_ WHERE all_.session_id = one.session_id))"
    )
    return f"{where} AND {last}", [*values, f'"outcome":"{status}"']


def outcomes(db: Database, ids: Iterable[str]) -> dict[str, Outcome]:
    """How the last message of each of those sessions ended, by their ids; nothing of one that has not."""
    rows: list[tuple[str, str]] = db.execute(
        "SELECT session_id, json_extract(rest, '$.outcome') FROM json_each(?) AS asked JOIN interactions"
        " ON session_id = asked.value AND number ="
        " (SELECT max(number) FROM interactions AS all_ WHERE all_.session_id = asked.value)"
        " WHERE json_extract(rest, '$.outcome') IS NOT NULL",
        (to_json(list(ids)),),
    ).fetchall()
    return {session_id: Outcome(outcome) for session_id, outcome in rows}


def count(
    db: Database, status: str = "", *, but: Sequence[str] = (), tags: Sequence[str] = ()
) -> tuple[int, float]:
    """How many sessions `page` finds in all, without those with the ids `but`, and what they cost."""
    where, values = _in_status(status, tags)
    # (`where` is made of words of ours; what anybody has said is among the values.)
    figures = f"SELECT count(*), coalesce(sum(total_cost_usd), 0.0) FROM sessions WHERE {where}"  # noqa: S608
    number, usd = db.execute(figures, values).fetchone()
    if but:  # Taken off again: to ask of each of them all whether it is one takes three times as long.
        these = f"{figures} AND id IN (SELECT value FROM json_each(?))"  # noqa: S608
        few, less = db.execute(these, (*values, to_json(list(but)))).fetchone()
        return number - few, usd - less
    return number, usd


def started_by(db: Database, session_id: str) -> list[SessionRecord]:
    """The sessions that a session has started, and those that they have, and so on; newest first."""
    pairs: list[tuple[str, str]] = db.execute(
        "SELECT id, json_extract(rest, '$.startedBy') FROM sessions"
        """ WHERE instr(rest, '"startedBy":""') = 0 ORDER BY created"""
    ).fetchall()
    below = {session_id}
    for one, starter in pairs:  # oldest first: who starts one is older
        if starter in below:
            below.add(one)
    return _sessions(
        db,
        "id IN (SELECT value FROM json_each(?)) ORDER BY created DESC, id DESC",
        to_json(sorted(below - {session_id})),
    )


def unkilled(db: Database) -> list[SessionRecord]:
    """The sessions of which it was not proved that all their processes have ended."""
    return _sessions(
        db,
        "status = 'error' AND coalesce(json_extract(rest, '$.receipt.empty'), 0) = 0 ORDER BY created DESC",
    )


def left_open(db: Database) -> list[tuple[SessionRecord, list[Interaction]]]:
    """The sessions that a store which is dead was at work on, each with its interactions under way."""
    rows: list[tuple[str]] = db.execute(
        f"SELECT DISTINCT owner FROM sessions WHERE {_IN_USE}"  # noqa: S608 - words of ours
    ).fetchall()
    return [
        (record, _interactions(db, f"session_id = ? AND state IN ({_OPEN}) ORDER BY number", record.id))
        for (owner,) in rows
        if owner != db.owner_id and db.living_pid(owner) is None
        for record in _sessions(db, f"owner = ? AND {_IN_USE} ORDER BY rowid", owner)
    ]


def names(db: Database, start: str = "", limit: int = -1) -> list[str]:
    """The names that begin so (at most so many), sorted."""
    rows: list[tuple[str]] = db.execute(
        "SELECT name FROM sessions WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",
        (start, start + "\U0010ffff", limit),
    ).fetchall()
    return [name for (name,) in rows]


def of_conversations(db: Database, ids: Sequence[str]) -> dict[str, str]:
    """The names of the sessions whose conversations those are, or were, by the conversations' ids."""
    wanted = to_json(list(ids))
    rows: list[tuple[str, str, str]] = db.execute(
        "SELECT name, id, json_extract(rest, '$.claudeSessionId') AS now FROM sessions"
        " WHERE id IN (SELECT value FROM json_each(?)) OR now IN (SELECT value FROM json_each(?))",
        (wanted, wanted),
    ).fetchall()
    return {one: name for name, *theirs in rows for one in theirs}


def interaction(db: Database, interaction_id: str) -> Interaction | None:
    """The interaction of that id."""
    return next(iter(_interactions(db, "id = ?", interaction_id)), None)


def interactions(db: Database, session_id: str, last: int | None = None) -> list[Interaction]:
    """The (newest `last`) interactions of a session, oldest first."""
    count = -1 if last is None else max(0, last)
    found = _interactions(db, "session_id = ? ORDER BY number DESC LIMIT ?", session_id, count)
    return found[::-1]


def message(db: Database, session_id: str, number: int) -> Interaction | None:
    """The interaction of that number of a session."""
    return next(iter(_interactions(db, "session_id = ? AND number = ?", session_id, number)), None)


def rounds_before(db: Database, last: Interaction) -> list[Interaction]:
    """The rounds of a delegation before one of its messages, oldest first; none before its first."""
    found: list[Interaction] = []
    while last.type == REPAIR and (before := message(db, last.session_id, last.number - 1)) is not None:
        last = before
        found.insert(0, last)
    return found


def judges_of(db: Database, session_id: str) -> list[SessionRecord]:
    """The sessions that judge work of that one, oldest first."""
    ids: list[tuple[str]] = db.execute(
        "SELECT id FROM interactions WHERE session_id = ? ORDER BY number", (session_id,)
    ).fetchall()
    # One by one, in the words of the index `sessions_judges`: with a list of them SQLite would not search it.
    judges = """instr(rest, '"judges":"') > 0 AND instr(rest, '"judges":""') = 0
        AND substr(rest, instr(rest, '"judges":"') + 10, 36) = ? ORDER BY rowid"""
    return [judge for (message_id,) in ids for judge in _sessions(db, judges, message_id)]


def round_after(db: Database, one: Interaction) -> Interaction | None:
    """The round that repairs that one."""
    found = message(db, one.session_id, one.number + 1)
    return found if found is not None and found.type == REPAIR else None


def unanswered(
    db: Database, session_id: str = "", limit: int = -1
) -> list[tuple[SessionRecord, Interaction]]:
    """Of each session (or of one) the newest interaction, if a person was needed; newest first."""
    found = _interactions(
        db,
        """instr(rest, '"outcome":"needs_input"') > 0 AND ? IN ('', session_id) AND number ="""
        " (SELECT max(number) FROM interactions AS all_ WHERE all_.session_id = interactions.session_id)"
        " ORDER BY timestamp DESC LIMIT ?",
        session_id,
        limit,
    )
    return [(record, one) for one in found if (record := by_id(db, one.session_id)) is not None]


def _sessions(db: Database, where: str, *values: Value) -> list[SessionRecord]:
    rows: list[tuple[Value, ...]] = db.execute(f"{SESSIONS.select} WHERE {where}", values).fetchall()
    return [SESSIONS.to_record(row) for row in rows]


def _interactions(db: Database, where: str, *values: Value) -> list[Interaction]:
    rows: list[tuple[Value, ...]] = db.execute(f"{INTERACTIONS.select} WHERE {where}", values).fetchall()
    return [INTERACTIONS.to_record(row) for row in rows]
