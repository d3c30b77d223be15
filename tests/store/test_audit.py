"""The audit log: each way to tamper with it is found, at the row where it was done."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cms.config import Settings
from cms.session.audit import FIRST, Broken, seal, verify
from cms.store import audit, schema, sessions
from cms.store.database import Database
from cms.store.owners import Owner
from cms.store.store import open_store
from store import making

ROWS = 6
#: A copy of the last row at another place.
COPY = (
    "INSERT INTO decisions SELECT session_id, NUMBER, interaction_id, at, tool, detail, verdict, reason,"
    " cost, kind, seal, tool_use_id FROM decisions WHERE THIS AND number = 6"
)


async def fill(settings: Settings) -> str:
    """Two sessions with a log each; returns the head of the first."""
    async with open_store(settings) as store:
        for of in (1, 2):
            await store.write(sessions.add, making.session(of))
        for number in range(1, ROWS + 1):
            for of in (1, 2):
                await store.add_entry(making.entry(number, of=of))
        rows, broken = await store.read(audit.verified, "session-1")
        assert broken is None
        assert [row.number for row in rows] == list(range(1, ROWS + 1))
        assert [row.entry for row in rows] == [making.entry(n) for n in range(1, ROWS + 1)]
        return rows[-1].seal


async def look(settings: Settings, head: str = "") -> tuple[int, Broken | None]:
    async with open_store(settings) as store:
        rows, broken = await store.read(audit.verified, "session-1", head)
        assert (await store.read(audit.verified, "session-2"))[1] is None, (
            "the other session's log is untouched"
        )
        return len(rows), broken


def tamper(settings: Settings, *statements: str) -> None:
    """What somebody can do who has the database in hand: no trigger stops them. THIS: the first session."""
    db = sqlite3.connect(settings.database)
    for trigger in ("decisions_no_update", "decisions_no_delete"):
        db.execute(f"DROP TRIGGER {trigger}")
    for statement in statements:
        db.execute(statement.replace("THIS", "session_id = 'session-1'"))
    db.commit()
    db.close()


@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ("UPDATE decisions SET verdict = 'refused' WHERE THIS AND number = 3", 3),
        ("UPDATE decisions SET detail = 'file 9' WHERE THIS AND number = 1", 1),
        ("UPDATE decisions SET at = at + 0.000001 WHERE THIS AND number = 6", 6),
        ("UPDATE decisions SET cost = 0.01 WHERE THIS AND number = 4", 4),
        ("UPDATE decisions SET kind = 'limit' WHERE THIS AND number = 2", 2),
        ("UPDATE decisions SET seal = 'x' WHERE THIS AND number = 5", 5),
        ("DELETE FROM decisions WHERE THIS AND number = 4", 4),
        ("DELETE FROM decisions WHERE THIS AND number = 1", 1),
        ("DELETE FROM decisions WHERE THIS AND number = 6", 6),
        ("DELETE FROM decisions WHERE THIS", 1),
        ("UPDATE decisions SET number = 60 WHERE THIS AND number = 6", 6),
        (COPY.replace("NUMBER", "7"), 7),
        (COPY.replace("NUMBER", "0"), 1),
        ("DELETE FROM audit_heads WHERE THIS", 1),
    ],
)
async def test_the_first_row_that_was_tampered_with_is_named(
    settings: Settings, statement: str, number: int
) -> None:
    await fill(settings)
    assert await look(settings) == (ROWS, None)
    tamper(settings, statement)
    rows, broken = await look(settings)
    assert broken is not None
    assert broken.number == number
    assert rows == number - 1


async def test_a_log_that_was_sealed_anew_is_found_by_a_head_noted_earlier(settings: Settings) -> None:
    head = await fill(settings)
    row = list(audit.to_row(making.entry(2)))
    # All of it is forged, by somebody who knows how: a shorter log of one other row, and its head.
    forged = seal(FIRST, 1, row)
    tamper(
        settings,
        "DELETE FROM decisions WHERE THIS AND number <> 2",
        "UPDATE decisions SET number = 1, seal = 'FORGED' WHERE THIS".replace("FORGED", forged),
        "UPDATE audit_heads SET length = 1, seal = 'FORGED' WHERE THIS".replace("FORGED", forged),
    )
    assert await look(settings) == (1, None), "the chain alone cannot tell"
    rows, broken = await look(settings, head)
    assert broken is not None
    assert broken.number == 0
    assert rows == 1


async def test_a_head_noted_earlier_is_found_again_when_the_log_has_grown(settings: Settings) -> None:
    head = await fill(settings)
    async with open_store(settings) as store:
        await store.add_entry(making.entry(7))
        assert (await store.read(audit.verified, "session-1", head))[1] is None


def test_the_database_itself_refuses(tmp_path: Path) -> None:
    path, owners = tmp_path / "cms.db", tmp_path / "owners"
    owner = Owner(owners)
    tx = Database.open(path, owner, owners)
    with tx.transaction():
        sessions.add(tx, making.session())
        audit.add(tx, [making.entry()])
    db = sqlite3.connect(path)
    for statement in ("UPDATE decisions SET verdict = 'x'", "DELETE FROM decisions"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()
    tx.close()
    owner.release()


async def test_the_log_of_a_deleted_session_stays_and_says_so(settings: Settings) -> None:
    async with open_store(settings) as store:
        for number in (1, 2):
            await store.write(sessions.add, making.session(number))
            await store.add_entry(making.entry(of=number))
            last = making.entry(number, of=number)
            last = msgspec.structs.replace(last, kind="delete", verdict="deleted", detail="mine")
            assert await store.write(sessions.delete, f"session-{number}", 9000.0, last)
        assert await store.read(audit.find_deleted, "mine") == ("session-2", "mine")
        assert await store.read(audit.find_deleted, "session-1") == ("session-1", "mine")
        assert await store.read(audit.find_deleted, "another") is None
        rows, broken = await store.read(audit.verified, "session-1")
        assert broken is None
        assert rows[-1].entry.verdict == "deleted"
        before = rows[-1].entry.at + 0.5
        assert await store.write(audit.forget_deleted, before, dry_run=True) == 1
        assert await store.read(audit.find_deleted, "session-1") == ("session-1", "mine")
        assert await store.write(audit.forget_deleted, before, dry_run=False) == 1
        assert await store.read(audit.find_deleted, "session-1") is None
        assert await store.read(audit.find_deleted, "session-2") == ("session-2", "mine")


async def test_the_log_of_a_deleted_session_without_its_last_row_is_found_and_found_out(
    settings: Settings,
) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session())
        await store.add_entry(making.entry())
        last = msgspec.structs.replace(making.entry(2), kind="delete", detail="mine")
        await store.write(sessions.delete, "session-1", 9000.0, last)
    db = sqlite3.connect(settings.database)
    db.execute("DELETE FROM decisions WHERE number = 2")
    db.commit()
    db.close()
    async with open_store(settings) as store:
        assert await store.read(audit.find_deleted, "session-1") == ("session-1", "session-1")
        _, broken = await store.read(audit.verified, "session-1")
        assert broken == Broken(2, "the newest 1 rows are missing")


def test_decisions_from_before_the_chain_are_sealed(tmp_path: Path) -> None:
    path, owners = tmp_path / "cms.db", tmp_path / "owners"
    db = schema.connect(path)
    schema.migrate(db, path, schema.MIGRATIONS[:3])
    for number in range(3):
        values = ("s", "i", float(number), "Edit", f"file {number}", "allowed", "", 0.25)
        db.execute("INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
    db.close()
    owner = Owner(owners)
    tx = Database.open(path, owner, owners)
    assert audit.verified(tx, "s")[1] is None
    assert [row.entry.detail for row in audit.verified(tx, "s")[0]] == ["file 0", "file 1", "file 2"]
    with tx.transaction():
        audit.add(tx, [making.replace(making.entry(), session_id="s")])
    assert audit.verified(tx, "s")[1] is None
    tx.close()
    owner.release()


# --- the chain alone ------------------------------------------------------------------------------

rows_of_text = st.lists(st.tuples(st.text(max_size=5), st.floats(allow_nan=False)), max_size=6)
Rows = list[tuple[str, float]]


def chained(rows: Rows) -> list[tuple[int, tuple[str, float], str]]:
    found, before = [], FIRST
    for number, row in enumerate(rows, 1):
        before = seal(before, number, row)
        found.append((number, row, before))
    return found


def head_of(chain: list[tuple[int, tuple[str, float], str]]) -> str:
    return chain[-1][2] if chain else FIRST


@given(rows_of_text)
def test_what_was_written_is_right(rows: Rows) -> None:
    chain = chained(rows)
    assert verify(chain, len(chain), head_of(chain)) is None


@given(rows_of_text, rows_of_text, st.data())
def test_anything_else_is_wrong(rows: Rows, others: Rows, data: st.DataObject) -> None:
    chain = chained(rows)
    pieces: list[Callable[[], Rows]] = [
        lambda: rows[:-1],
        lambda: rows[1:],
        lambda: rows[::-1],
        lambda: [*rows, *others],
        lambda: [*others, *rows],
        lambda: others,
    ]
    forged = data.draw(st.sampled_from(pieces))()
    # The forger keeps the seals that there are, and makes none: the rows are what is different.
    seals = [sealed for _, _, sealed in chain]
    claimed = [
        (number, row, seals[number - 1] if number <= len(seals) else FIRST)
        for number, row in enumerate(forged, 1)
    ]
    same = [msgspec.json.encode(row) for row in forged] == [msgspec.json.encode(row) for row in rows]
    assert (verify(claimed, len(chain), head_of(chain)) is None) == same
