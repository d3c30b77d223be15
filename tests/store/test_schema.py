"""Migrations: from blank, from each older version, halfway, from the future; the folder and its modes."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cms.errors import StoreError
from cms.home import prepare_home
from cms.store import schema


def shape(db: sqlite3.Connection) -> list[tuple[str, str]]:
    return db.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name").fetchall()


def add_one(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE one (a)")


def add_two(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE two (a)")


def fail_late(db: sqlite3.Connection) -> None:
    db.execute("CREATE TABLE half (a)")
    raise sqlite3.OperationalError("made up")


@pytest.mark.parametrize("start", range(len(schema.MIGRATIONS) + 1))
def test_every_older_version_becomes_the_newest(tmp_path: Path, start: int) -> None:
    blank = schema.connect(tmp_path / "blank.db")
    schema.migrate(blank, tmp_path / "blank.db")
    old = schema.connect(tmp_path / "old.db")
    assert schema.migrate(old, tmp_path / "old.db", schema.MIGRATIONS[:start]) == start
    assert schema.migrate(old, tmp_path / "old.db") == len(schema.MIGRATIONS) - start
    assert schema.version(old) == len(schema.MIGRATIONS)
    assert shape(old) == shape(blank)
    assert schema.migrate(old, tmp_path / "old.db") == 0
    blank.close()
    old.close()


def test_a_step_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    db = schema.connect(path)
    with pytest.raises(StoreError, match="made up"):
        schema.migrate(db, path, [add_one, fail_late, add_two])
    assert schema.version(db) == 1
    assert [name for name, _ in shape(db)] == ["one"]
    assert schema.migrate(db, path, [add_one, add_two]) == 1
    assert [name for name, _ in shape(db)] == ["one", "two"]
    db.close()


def test_a_newer_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    db = schema.connect(path)
    schema.migrate(db, path, [*schema.MIGRATIONS, add_one])
    before = shape(db)
    with pytest.raises(StoreError, match=r"newer cms.*upgrade"):
        schema.migrate(db, path)
    assert shape(db) == before
    assert not db.in_transaction
    db.close()


def test_another_programs_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as theirs:
        theirs.execute("CREATE TABLE theirs (a)")
    theirs.close()
    db = schema.connect(path)
    with pytest.raises(StoreError, match="belongs to another program"):
        schema.migrate(db, path)
    assert [name for name, _ in shape(db)] == ["theirs"]
    db.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database at all, but long enough to have a header" * 100)
    with pytest.raises(StoreError, match=r"x\.db is damaged or not a database"):
        schema.connect(path)


def test_connections_are_durable_and_checked(tmp_path: Path) -> None:
    db = schema.connect(tmp_path / "x.db")
    values = [
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
    ]
    assert values == ["wal", 2, 1]  # 2 is FULL
    db.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_user_may_read(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    mask = os.umask(0)
    try:
        prepare_home(home)
        db = schema.connect(home / "x.db")
        schema.migrate(db, home / "x.db")
    finally:
        os.umask(mask)
    assert mode(home) == 0o700
    assert {path.name: mode(path) for path in home.iterdir()} == {
        "x.db": 0o600,
        "x.db-wal": 0o600,
        "x.db-shm": 0o600,
    }
    db.close()


def test_a_file_that_was_too_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "x.db").touch(0o644)
    schema.connect(tmp_path / "x.db").close()
    assert mode(tmp_path / "x.db") == 0o600


OPEN_AT_ONCE = """
import sys
from pathlib import Path
from cms.store import schema
path = Path(sys.argv[1])
sys.stdin.read()
db = schema.connect(path)
schema.migrate(db, path)
db.close()
"""


def test_several_processes_may_meet_a_blank_database_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OPEN_AT_ONCE, str(tmp_path / "x.db")]
    children = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(6)]
    for child in children:
        assert child.stdin is not None
        child.stdin.close()
    assert [child.wait(timeout=60) for child in children] == [0] * 6
    db = schema.connect(tmp_path / "x.db")
    assert schema.migrate(db, tmp_path / "x.db") == 0
    db.close()
