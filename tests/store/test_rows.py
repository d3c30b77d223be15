"""Records come back from the database as they went in, or do not go in."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given

from cms.errors import StoreError
from cms.session.model import Interaction, Limits, SessionRecord
from cms.store import schema
from cms.store.rows import INTERACTIONS, SESSIONS
from store import making


@pytest.fixture(scope="module")
def empty() -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(db, Path("memory"))
    yield db
    db.close()


@contextmanager
def taken_back(db: sqlite3.Connection) -> Iterator[None]:
    """What is written meanwhile is gone afterwards: a new database takes longer than the test."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


@given(record=making.sessions)
def test_a_session_comes_back_as_it_was(empty: sqlite3.Connection, record: SessionRecord) -> None:
    with taken_back(empty):
        empty.execute(SESSIONS.insert, SESSIONS.to_row(record))
        assert SESSIONS.to_record(empty.execute(SESSIONS.select).fetchone()) == record


@given(record=making.interactions)
def test_an_interaction_comes_back_as_it_was(empty: sqlite3.Connection, record: Interaction) -> None:
    with taken_back(empty):
        empty.execute(SESSIONS.insert, SESSIONS.to_row(making.session()))
        empty.execute(INTERACTIONS.insert, INTERACTIONS.to_row(record))
        assert INTERACTIONS.to_record(empty.execute(INTERACTIONS.select).fetchone()) == record


@pytest.mark.parametrize(
    "record",
    [
        making.replace(making.session(), created=float("nan")),
        making.replace(making.session(), total_cost_usd=float("inf")),
        making.replace(making.session(), name="not utf-8: \udcff"),
        making.replace(making.session(), error="not utf-8: \udcff"),
        # Would come back as "no limit".
        making.replace(
            making.session(),
            options=making.replace(making.session().options, limits=Limits(max_cost=float("inf"))),
        ),
    ],
)
def test_what_would_not_come_back_is_refused(record: SessionRecord) -> None:
    with pytest.raises(StoreError, match="record"):
        SESSIONS.to_row(record)


def test_a_row_from_before_a_field_existed_gets_its_default() -> None:
    *columns, rest = SESSIONS.to_row(making.session())
    assert isinstance(rest, str)
    assert '"unknownLines":0,' in rest
    old = (*columns, rest.replace('"unknownLines":0,', ""))
    assert SESSIONS.to_record(old) == making.session()


def test_a_row_that_makes_no_sense_is_a_store_error() -> None:
    *columns, _ = SESSIONS.to_row(making.session())
    for rest in ("{", "[]", "{}", None):
        with pytest.raises(StoreError, match="SessionRecord in the store cannot be read"):
            SESSIONS.to_record((*columns, rest))
