"""Records come back from the database as they went in, or do not go in."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given

from cms.errors import StoreError
from cms.session.model import Interaction, Limits, SessionRecord
from cms.store import schema
from cms.store.rows import INTERACTIONS, SESSIONS
from store import making


def fresh() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(db, Path("memory"))
    return db


@given(making.sessions)
def test_a_session_comes_back_as_it_was(record: SessionRecord) -> None:
    db = fresh()
    db.execute(SESSIONS.insert, SESSIONS.to_row(record))
    assert SESSIONS.to_record(db.execute(SESSIONS.select).fetchone()) == record
    db.close()


@given(making.interactions)
def test_an_interaction_comes_back_as_it_was(record: Interaction) -> None:
    db = fresh()
    db.execute(SESSIONS.insert, SESSIONS.to_row(making.session()))
    db.execute(INTERACTIONS.insert, INTERACTIONS.to_row(record))
    assert INTERACTIONS.to_record(db.execute(INTERACTIONS.select).fetchone()) == record
    db.close()


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
