"""Money in the store: the ledger, the caps of scopes and their accounts, and what turns under way reserved.

The ledger is only ever added to. The accounts are its running sums by scope, kept in the transaction of each
charge. What is left under a cap, and who may hold how much of it, is decided by session/budget.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Final

import msgspec

from cms.errors import StoreError
from cms.session import budget
from cms.session.budget import Account, Cap, Grant, Hold, Standing, account_of, grant, scopes_of, stand
from cms.session.model import IN_TIME, Grouping, TokenUsage
from cms.store.database import Database
from cms.store.records import Charge, Total
from cms.store.rows import TAGGED, Value, to_json

#: A day is what the user's calendar says it is; the stored times stay UTC.
_DAY: Final = "date({at}, 'unixepoch', 'localtime')"
#: The Monday of an ISO week stands for it, until it is told.
_MONDAY: Final = "date({at}, 'unixepoch', 'localtime', 'weekday 0', '-6 days')"
_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_FIGURES: Final = (*_COUNTS, "cost_usd", "charges", "exact")
#: A row of the ledger in the shape of the running sums.
_AS_SUMS: Final = f"{', '.join(_COUNTS)}, cost_usd, 1 AS charges, exact"
_SUMS: Final = ", ".join(
    (
        *(f"coalesce(sum({name}), 0) AS {name}" for name in _COUNTS),
        "coalesce(sum(cost_usd), 0.0) AS cost_usd, coalesce(sum(charges), 0) AS charges",
        "coalesce(min(exact), 1) AS exact",
    )
)
_DEAREST: Final = "sum(cost_usd) DESC, 1"
#: What the rows are, and their order.
_KEYS: Final[dict[Grouping, tuple[str, str]]] = {
    "model": ("model", _DEAREST),
    "tag": ("coalesce(tag, '')", _DEAREST),
    "day": (_DAY.format(at="at"), "1 DESC"),
    "week": (_MONDAY.format(at="at"), "1 DESC"),
}
_QUARTER: Final = 900  # seconds; the running sums by model are kept for each

# --- the ledger -------------------------------------------------------------------------------------


def add_charges(db: Database, charges: Sequence[Charge]) -> None:
    """Charges into the ledger, and their sum (models of one reading belong together) onto the accounts.

    Raises:
        StoreError: a session is not in the store, or a charge takes money back.
    """
    sums: dict[tuple[str, float], float] = {}
    for charge in charges:
        _add_charge(db, charge)
        key = (charge.interaction_id, charge.at)
        sums[key] = sums.get(key, 0.0) + charge.usage.cost_usd
    for (interaction_id, at), usd in sums.items():
        _count_spending(db, interaction_id, usd, at)


def _add_charge(db: Database, charge: Charge) -> None:
    usage = charge.usage
    done = db.execute(
        "INSERT INTO ledger SELECT ?, id, name, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM sessions WHERE id = ?",
        (
            charge.at,
            charge.interaction_id,
            charge.process,
            charge.model,
            usage.cost_usd,
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens,
            charge.process_total,
            charge.exact,
            charge.session_id,
        ),
    )
    if done.rowcount != 1:
        raise StoreError(f"a charge for a session that is not in the store: {charge.session_id}")


def _count_spending(db: Database, interaction_id: str, usd: float, at: float) -> None:
    """Put a sum on the accounts of its scopes, and off its reservation."""
    hold = _hold(db, interaction_id)
    for scope in scopes_of(hold.scopes if hold is not None else ()):
        _book(db, account_of(scope, at), spent=usd)
    if hold is not None:
        db.execute(
            "UPDATE reservations SET spent = ?, dearest = ? WHERE interaction_id = ?",
            (hold.spent + usd, max(hold.dearest, usd), interaction_id),
        )


def total(
    db: Database,
    session_id: str | None = None,
    *,
    interaction_id: str | None = None,
    since: float | None = None,
) -> Total:
    """What was spent in all, in a session, in one interaction of it, since a time."""
    if session_id is None and interaction_id is None:
        source, values = _by_quarter(since)
    else:
        where = ["TRUE"]
        values = []
        for condition, value in (
            ("session_id = ?", session_id),
            ("interaction_id = ?", interaction_id),
            ("at >= ?", since),
        ):
            if value is not None:
                where.append(condition)
                values.append(value)
        source = f"(SELECT {_AS_SUMS} FROM ledger WHERE {' AND '.join(where)})"  # noqa: S608 - words of ours
    return _totals(db, f"SELECT '', '', {_SUMS} FROM {source}", values)[0]  # noqa: S608


def tokens(db: Database, session_name: str) -> int:
    """What the session of that name has taken so far: what was read anew, and what was written.

    Not what came out of the prompt's cache, which is nearly all that a long conversation reads.
    """
    row: tuple[int] | None = db.execute(
        "SELECT c.input_tokens + c.output_tokens + c.cache_creation_input_tokens FROM session_costs AS c"
        " JOIN sessions AS s ON s.id = c.session_id WHERE s.name = ?",
        (session_name,),
    ).fetchone()
    return 0 if row is None else row[0]


def totals(db: Database, by: Grouping, *, since: float | None = None, limit: int = -1) -> list[Total]:
    """What was spent, by session, model and tag dearest first, by day and week (local time) oldest first.

    What has several tags counts for each; what has none is under "".

    Args:
        limit: at most so many (of days and weeks the newest); below 0: all.
    """
    if by == "session":
        return _totals(db, *_by_session(since, limit))
    key, order = _KEYS[by]
    source, values = _by_tag(since) if by == "tag" else _by_quarter(since)
    query = f"SELECT {key}, '', {_SUMS} FROM {source} GROUP BY 1 ORDER BY {order} LIMIT ?"  # noqa: S608
    found = _totals(db, query, [*values, limit])
    if by == "week":
        found = [msgspec.structs.replace(one, key=_iso_week(one.key)) for one in found]
    return found[::-1] if by in IN_TIME else found


def _iso_week(monday: str) -> str:
    return f"{date.fromisoformat(monday):%G-W%V}"


def _by_tag(since: float | None) -> tuple[str, list[Value]]:
    source, values = _session_sums(since)
    tagged = (
        f"SELECT sessions.id, value AS tag FROM sessions, json_each(rest, '$.options.tags') WHERE {TAGGED}"  # noqa: S608
    )
    return f"{source} LEFT JOIN ({tagged}) AS tagged ON tagged.id = session_id", values


def _session_sums(since: float | None) -> tuple[str, list[Value]]:
    if since is None:
        return "session_costs", []
    rows = f"SELECT session_id, session_name, {_AS_SUMS} FROM ledger INDEXED BY ledger_at WHERE at >= ?"  # noqa: S608
    sums = f"SELECT session_id, max(session_name) AS session_name, {_SUMS}"
    return f"({sums} FROM ({rows}) GROUP BY session_id)", [since]


def _by_session(since: float | None, limit: int) -> tuple[str, list[Value]]:
    source, values = _session_sums(since)
    # As it is called now; what was deleted, as it was called last.
    query = (
        f"SELECT session_id, coalesce(name, session_name), {', '.join(_FIGURES)} FROM {source}"  # noqa: S608
        " LEFT JOIN sessions ON id = session_id ORDER BY cost_usd DESC, 1 LIMIT ?"
    )
    return query, [*values, limit]


def _by_quarter(since: float | None) -> tuple[str, list[Value]]:
    """All that was spent (since a time) by quarter of an hour and model: whole ones are summed up already."""
    sums = f"SELECT quarter * {_QUARTER} AS at, model, {', '.join(_FIGURES)} FROM model_costs"  # noqa: S608
    if since is None:
        return f"({sums})", []
    first = math.ceil(since / _QUARTER)
    part = f"SELECT at, model, {_AS_SUMS} FROM ledger WHERE at >= ? AND at < ?"  # noqa: S608
    return f"({sums} WHERE quarter >= ? UNION ALL {part})", [first, since, first * _QUARTER]


def _totals(db: Database, query: str, values: Sequence[Value]) -> list[Total]:
    rows: list[tuple[str, str, int, int, int, int, float, int, int]] = db.execute(query, values).fetchall()
    return [
        Total(key, TokenUsage(sent, got, read, made, cost), count, bool(exact), name)
        for key, name, sent, got, read, made, cost, count, exact in rows
    ]


# --- caps and accounts ------------------------------------------------------------------------------


def set_cap(db: Database, scope: str, usd: float | None) -> None:
    """Puts a cap on a scope, changes it, or (None) takes it off.

    A turn that is under way, here or in another process, sees it at its next charge.
    """
    if usd is None:
        db.execute("DELETE FROM caps WHERE scope = ?", (scope,))
    else:
        db.execute(
            "INSERT INTO caps VALUES (?, ?) ON CONFLICT (scope) DO UPDATE SET usd = excluded.usd",
            (scope, usd),
        )


def standings(db: Database, at: float) -> list[Standing]:
    """How each capped scope stands."""
    holds = _open_holds(db)
    return [stand(cap, account(db, cap.scope, at), holds) for cap in _caps(db)]


def account(db: Database, scope: str, at: float) -> Account:
    """What was spent in a scope, capped or not."""
    row: tuple[float, float] | None = db.execute(
        "SELECT spent, unknown FROM accounts WHERE scope = ?", (account_of(scope, at),)
    ).fetchone()
    return Account() if row is None else Account(*row)


def _caps(db: Database) -> list[Cap]:
    rows: list[tuple[str, float]] = db.execute("SELECT scope, usd FROM caps ORDER BY scope").fetchall()
    return [Cap(scope, usd) for scope, usd in rows]


def _book(db: Database, account: str, *, spent: float = 0.0, unknown: float = 0.0) -> None:
    db.execute(
        "INSERT INTO accounts (scope, spent, unknown) VALUES (?, ?, ?) ON CONFLICT (scope) DO UPDATE"
        " SET spent = spent + excluded.spent, unknown = unknown + excluded.unknown",
        (account, spent, unknown),
    )


# --- reservations -----------------------------------------------------------------------------------


def reserve(db: Database, interaction_id: str, session_id: str, scopes: Sequence[str], at: float) -> Grant:
    """Reserve money for an interaction that is about to be sent, or more of it for one that is under way.

    Nothing is written if a new one gets nothing.
    """
    own = _hold(db, interaction_id)
    hold = own if own is not None else Hold(interaction_id, tuple(scopes))
    wanted = scopes_of(hold.scopes)
    caps = [cap for cap in _caps(db) if cap.scope in wanted]
    others = [one for one in _open_holds(db) if one.interaction_id != interaction_id] if caps else []
    granted = grant(hold, [stand(cap, account(db, cap.scope, at), others) for cap in caps])
    amount = hold.amount if granted.amount is None else granted.amount
    if own is not None:
        # Closed, it holds nothing any more, and gets nothing: what it still costs is on the accounts.
        db.execute(
            "UPDATE reservations SET amount = ? WHERE interaction_id = ? AND closed IS NULL",
            (amount, interaction_id),
        )
    elif not granted.short:
        db.execute(
            "INSERT INTO reservations (interaction_id, session_id, scopes, amount) VALUES (?, ?, ?, ?)",
            (interaction_id, session_id, to_json(hold.scopes), amount),
        )
    return granted


def left_for(db: Database, interaction_id: str, at: float) -> Grant:
    """What the scopes of an interaction that is over have left for a turn that it has caused.

    Nothing is reserved, and nothing is held any more: what it held and did not spend came back.
    """
    over = _hold(db, interaction_id)
    wanted = scopes_of(over.scopes if over is not None else ())
    holds = _open_holds(db)
    return grant(
        Hold(interaction_id),
        [stand(cap, account(db, cap.scope, at), holds) for cap in _caps(db) if cap.scope in wanted],
    )


def settle(db: Database, interaction_id: str, at: float, *, exact: bool) -> None:
    """An interaction has ended: what it holds and did not spend comes back, if that is known."""
    for hold in _holds(db, "interaction_id = ? AND closed IS NULL", interaction_id):
        db.execute("UPDATE reservations SET closed = ? WHERE interaction_id = ?", (at, interaction_id))
        unknown = budget.settle(hold, exact=exact)
        if unknown:
            for scope in scopes_of(hold.scopes):
                _book(db, account_of(scope, at), unknown=unknown)


def forget_holds(db: Database, session_id: str, at: float) -> None:
    """A session is deleted: what it may have spent of its reservations stays on the accounts."""
    for hold in _open_holds(db, session_id):
        settle(db, hold.interaction_id, at, exact=False)
    db.execute("DELETE FROM reservations WHERE session_id = ?", (session_id,))


def _open_holds(db: Database, session_id: str = "") -> list[Hold]:
    """The reservations (of a session) that are open."""
    where, values = ("AND session_id = ?", (session_id,)) if session_id else ("", ())
    return _holds(db, f"closed IS NULL {where} ORDER BY interaction_id", *values)


def _hold(db: Database, interaction_id: str) -> Hold | None:
    return next(iter(_holds(db, "interaction_id = ?", interaction_id)), None)


def _holds(db: Database, where: str, *values: Value) -> list[Hold]:
    rows: list[tuple[str, str, float, float, float]] = db.execute(
        f"SELECT interaction_id, scopes, amount, spent, dearest FROM reservations WHERE {where}",  # noqa: S608
        values,
    ).fetchall()
    return [
        Hold(key, tuple(msgspec.json.decode(scopes, type=list[str])), amount, spent, dearest)
        for key, scopes, amount, spent, dearest in rows
    ]
