"""The database: its connection, its schema as small numbered migrations.

`PRAGMA user_version` is the number of migrations that have been applied. To change the schema append a
function to `MIGRATIONS`; never edit one that was released. A field of a record that no query needs lives in
the row's JSON (`rest`) and needs no migration as long as it has a default (rows.py).
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from cms.errors import StoreError
from cms.session import audit
from cms.store.errors import as_store_errors

Migration = Callable[[sqlite3.Connection], None]

#: Marks the file as ours ("cms1"), so that somebody else's database is never migrated by mistake.
APPLICATION_ID: Final = 0x636D7331

#: Seconds that a statement waits for another process (a second supervisor on the same CMS_HOME) to finish.
BUSY_TIMEOUT: Final = 10.0

#: What every connection is set to. FULL: in WAL mode NORMAL may lose the last commits when the power fails,
#: and a commit here is an acknowledgement. A checkpoint every 1,000 pages (the default) keeps the WAL
#: near 4 MB.
PRAGMAS: tuple[str, ...] = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA trusted_schema = OFF",
)


def _v1(db: sqlite3.Connection) -> None:
    """Sessions, interactions, the ledger, receipts, decisions."""
    # `owner` is the store that last wrote the session (owners.py): a crash is recovered only for the dead.
    db.execute(
        """CREATE TABLE sessions (
            id TEXT PRIMARY KEY NOT NULL,
            name TEXT NOT NULL UNIQUE,
            status TEXT NOT NULL,
            created REAL NOT NULL,
            last_saved REAL NOT NULL,
            total_cost_usd REAL NOT NULL,
            rest TEXT NOT NULL,
            owner TEXT NOT NULL DEFAULT ''
        )"""
    )
    db.execute("CREATE INDEX sessions_created ON sessions (created)")
    db.execute("CREATE INDEX sessions_status ON sessions (status, created)")
    db.execute(
        """CREATE TABLE interactions (
            id TEXT PRIMARY KEY NOT NULL,
            session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            type TEXT NOT NULL,
            state TEXT NOT NULL,
            timestamp REAL NOT NULL,
            ended REAL,
            cost REAL NOT NULL,
            prompt TEXT NOT NULL,
            response TEXT NOT NULL,
            rest TEXT NOT NULL,
            UNIQUE (session_id, number)
        )"""
    )
    # Partial: a store has many interactions and few that are open, and recovery asks for those alone.
    db.execute(
        "CREATE INDEX interactions_open ON interactions (session_id)"
        " WHERE state IN ('queued', 'sent', 'running')"
    )
    # No foreign key: what was spent stays on the store when its session is deleted.
    db.execute(
        """CREATE TABLE ledger (
            at REAL NOT NULL,
            session_id TEXT NOT NULL,
            session_name TEXT NOT NULL,
            interaction_id TEXT NOT NULL,
            process TEXT NOT NULL,
            model TEXT NOT NULL,
            cost_usd REAL NOT NULL CHECK (cost_usd >= 0),
            input_tokens INTEGER NOT NULL CHECK (input_tokens >= 0),
            output_tokens INTEGER NOT NULL CHECK (output_tokens >= 0),
            cache_read_input_tokens INTEGER NOT NULL CHECK (cache_read_input_tokens >= 0),
            cache_creation_input_tokens INTEGER NOT NULL CHECK (cache_creation_input_tokens >= 0),
            process_total REAL NOT NULL,
            exact INTEGER NOT NULL
        )"""
    )
    db.execute("CREATE INDEX ledger_at ON ledger (at)")
    db.execute("CREATE INDEX ledger_session ON ledger (session_id, interaction_id)")
    for what in ("UPDATE", "DELETE"):
        db.execute(
            f"CREATE TRIGGER ledger_no_{what.lower()} BEFORE {what} ON ledger"
            " BEGIN SELECT RAISE (ABORT, 'the ledger is append-only'); END"
        )
    db.execute(
        """CREATE TABLE receipts (
            session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
            process TEXT NOT NULL,
            at REAL NOT NULL,
            reason TEXT NOT NULL,
            receipt TEXT NOT NULL
        )"""
    )
    db.execute("CREATE INDEX receipts_session ON receipts (session_id)")
    # No foreign key: decisions travel in the transactions of others (store.py), which they must not break.
    db.execute(
        """CREATE TABLE decisions (
            session_id TEXT NOT NULL,
            interaction_id TEXT NOT NULL,
            at REAL NOT NULL,
            tool TEXT NOT NULL,
            detail TEXT NOT NULL,
            verdict TEXT NOT NULL,
            reason TEXT NOT NULL,
            cost REAL NOT NULL
        )"""
    )
    db.execute("CREATE INDEX decisions_session ON decisions (session_id)")


def _v2(db: sqlite3.Connection) -> None:
    """Shared budgets: caps, what was spent under each, and what turns under way have reserved."""
    db.execute("CREATE TABLE caps (scope TEXT PRIMARY KEY NOT NULL, usd REAL NOT NULL CHECK (usd >= 0))")
    # Running sums of the ledger, kept in the transaction of each charge: a message under a cap must not cost
    # a walk over everything that was ever spent.
    db.execute(
        """CREATE TABLE accounts (
            scope TEXT PRIMARY KEY NOT NULL,
            spent REAL NOT NULL DEFAULT 0,
            unknown REAL NOT NULL DEFAULT 0
        )"""
    )
    db.execute("INSERT INTO accounts (scope, spent) SELECT 'all', coalesce(sum(cost_usd), 0) FROM ledger")
    db.execute(
        "INSERT INTO accounts (scope, spent) SELECT 'day:' || date(at, 'unixepoch', 'localtime'),"
        " sum(cost_usd) FROM ledger GROUP BY 1"
    )
    # No foreign key: a reservation is settled and deleted with its session, not lost with it.
    db.execute(
        """CREATE TABLE reservations (
            interaction_id TEXT PRIMARY KEY NOT NULL,
            session_id TEXT NOT NULL,
            scopes TEXT NOT NULL,
            amount REAL NOT NULL,
            spent REAL NOT NULL DEFAULT 0,
            dearest REAL NOT NULL DEFAULT 0,
            closed REAL
        )"""
    )
    db.execute("CREATE INDEX reservations_open ON reservations (interaction_id) WHERE closed IS NULL")
    db.execute("CREATE INDEX reservations_session ON reservations (session_id)")


def _v3(db: sqlite3.Connection) -> None:
    """Batches: their tasks, who needs whom, and how many tasks are in which status."""
    db.execute(
        """CREATE TABLE batches (
            id TEXT PRIMARY KEY NOT NULL,
            created REAL NOT NULL,
            status TEXT NOT NULL,
            owner TEXT NOT NULL,
            spent REAL NOT NULL DEFAULT 0,
            counted REAL NOT NULL DEFAULT 0,
            exact INTEGER NOT NULL DEFAULT 1,
            worked REAL NOT NULL DEFAULT 0,
            rest TEXT NOT NULL
        )"""
    )
    # `cap`: US dollars that the task may still spend. `place`: 1 for the first that ended.
    db.execute(
        """CREATE TABLE batch_tasks (
            batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            name TEXT NOT NULL,
            line INTEGER NOT NULL,
            status TEXT NOT NULL,
            unmet INTEGER NOT NULL DEFAULT 0,
            due REAL NOT NULL DEFAULT 0,
            cap REAL,
            place INTEGER,
            spec TEXT NOT NULL,
            rest TEXT NOT NULL,
            result TEXT,
            PRIMARY KEY (batch_id, seq)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE UNIQUE INDEX batch_tasks_name ON batch_tasks (batch_id, name)")
    db.execute("CREATE INDEX batch_tasks_place ON batch_tasks (batch_id, place) WHERE place IS NOT NULL")
    # Partial: what is looked for again and again is a handful among a million.
    db.execute(
        "CREATE INDEX batch_tasks_free ON batch_tasks (batch_id, seq) WHERE status = 'waiting' AND unmet = 0"
    )
    db.execute(
        "CREATE INDEX batch_tasks_due ON batch_tasks (batch_id, due)"
        " WHERE status = 'waiting' AND unmet = 0 AND due > 0"
    )
    db.execute("CREATE INDEX batch_tasks_running ON batch_tasks (batch_id, seq) WHERE status = 'running'")
    # By name until the batch is whole: a task may need one that comes later in the file.
    db.execute(
        """CREATE TABLE batch_needs (
            batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
            seq INTEGER NOT NULL,
            need_name TEXT NOT NULL,
            need INTEGER,
            PRIMARY KEY (batch_id, seq, need_name)
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX batch_needs_need ON batch_needs (batch_id, need)")
    # Kept by triggers, so that no way to change a status forgets it: counting a million rows takes a second.
    db.execute(
        """CREATE TABLE batch_counts (
            batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
            status TEXT NOT NULL,
            tasks INTEGER NOT NULL,
            PRIMARY KEY (batch_id, status)
        ) WITHOUT ROWID"""
    )
    more = (
        "INSERT INTO batch_counts VALUES (new.batch_id, new.status, 1)"
        " ON CONFLICT (batch_id, status) DO UPDATE SET tasks = tasks + 1;"
    )
    less = "UPDATE batch_counts SET tasks = tasks - 1 WHERE batch_id = old.batch_id AND status = old.status;"
    db.execute(f"CREATE TRIGGER batch_tasks_insert AFTER INSERT ON batch_tasks BEGIN {more} END")
    db.execute(
        "CREATE TRIGGER batch_tasks_update AFTER UPDATE OF status ON batch_tasks"
        f" WHEN new.status <> old.status BEGIN {less} {more} END"
    )


def _v4(db: sqlite3.Connection) -> None:
    """The audit log: decisions of all kinds, numbered and sealed (audit.py), never changed."""
    db.execute("ALTER TABLE decisions RENAME TO old_decisions")
    db.execute("DROP INDEX decisions_session")
    # No foreign key: decisions travel in the transactions of others (store.py), which they must not break.
    db.execute(
        """CREATE TABLE decisions (
            session_id TEXT NOT NULL,
            number INTEGER NOT NULL,
            interaction_id TEXT NOT NULL,
            at REAL NOT NULL,
            tool TEXT NOT NULL,
            detail TEXT NOT NULL,
            verdict TEXT NOT NULL,
            reason TEXT NOT NULL,
            cost REAL NOT NULL,
            kind TEXT NOT NULL,
            seal TEXT NOT NULL,
            PRIMARY KEY (session_id, number)
        ) WITHOUT ROWID"""
    )
    # Apart from the rows, so that the loss of the newest ones is seen.
    db.execute(
        """CREATE TABLE audit_heads (
            session_id TEXT PRIMARY KEY NOT NULL,
            length INTEGER NOT NULL,
            seal TEXT NOT NULL
        ) WITHOUT ROWID"""
    )
    heads: dict[str, tuple[int, str]] = {}
    rows: list[tuple[str | int | float, ...]] = db.execute(
        "SELECT session_id, interaction_id, at, tool, detail, verdict, reason, cost, 'call'"
        " FROM old_decisions ORDER BY rowid"
    ).fetchall()
    for row in rows:
        session_id = str(row[0])
        length, before = heads.get(session_id, (0, audit.FIRST))
        sealed = audit.seal(before, length + 1, row)
        heads[session_id] = (length + 1, sealed)
        db.execute(
            "INSERT INTO decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (session_id, length + 1, *row[1:], sealed),
        )
    db.executemany("INSERT INTO audit_heads VALUES (?, ?, ?)", [(key, *head) for key, head in heads.items()])
    db.execute("DROP TABLE old_decisions")
    db.execute(
        "CREATE TRIGGER decisions_no_update BEFORE UPDATE ON decisions"
        " BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END"
    )
    # It goes with its session, and not before it.
    db.execute(
        "CREATE TRIGGER decisions_no_delete BEFORE DELETE ON decisions"
        " WHEN EXISTS (SELECT 1 FROM sessions WHERE id = old.session_id)"
        " BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END"
    )


def _v5(db: sqlite3.Connection) -> None:
    """Tasks with the options that they have in the end, not with what their file says of them."""
    batches: list[tuple[str, str]] = db.execute("SELECT id, rest FROM batches").fetchall()
    for batch_id, rest in batches:
        seq = -1
        while rows := db.execute(
            "SELECT seq, spec FROM batch_tasks WHERE batch_id = ? AND seq > ? ORDER BY seq LIMIT 1000",
            (batch_id, seq),
        ).fetchall():
            for seq, spec in rows:
                # What cannot be read stays as it is: it is told when somebody wants that task.
                with suppress(ValueError, KeyError, TypeError, AttributeError):
                    whole = json.dumps(_task_v5(json.loads(spec), json.loads(rest)["options"]))
                    db.execute(
                        "UPDATE batch_tasks SET spec = ? WHERE batch_id = ? AND seq = ?",
                        (whole, batch_id, seq),
                    )


_LIMITS_V5: Final = (
    *("maxCost", "maxTurns", "maxTime", "maxSilence", "maxToolCalls", "maxRepeats", "maxRetryTime"),
    *("maxMemory", "maxProcs"),
)
_SESSION_V5: Final = (
    *("model", "preset", "safety", "permissionMode", "allowedTools", "disallowedTools", "systemPrompt"),
    *(
        "appendSystemPrompt",
        "agent",
        "fallbackModel",
        "effort",
        "addDirs",
        "mcpConfig",
        "settings",
        "protect",
    ),
    *("protectRead", "allowWrite", "envDeny", "onViolation", "verify", "askTimeout", "allowCms"),
    "requireContainment",
)


def _task_v5(own: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = batch.get("defaults", {})
    said = {**defaults, **own}
    for key in ("disallowedTools", "protect", "protectRead", "envDeny"):
        if key in own and key in defaults:
            said[key] = list(dict.fromkeys([*defaults[key], *own[key]]))
    if "requireContainment" in said:
        said["requireContainment"] = min(
            one["requireContainment"] for one in (own, defaults) if "requireContainment" in one
        )
    limits = {"maxCost": 2.0, "maxTurns": 50, "maxSilence": 1800.0, "maxRepeats": 10, "maxRetryTime": 300.0}
    return {
        "session": {
            **{key: said[key] for key in _SESSION_V5 if key in said},
            "name": own["name"],
            "workDir": said.get("workDir", batch["workDir"]),
            "limits": limits | {key: said[key] for key in _LIMITS_V5 if key in said},
            "delegated": True,
        },
        "prompt": own["prompt"],
        "context": said.get("context", ""),
        "needs": own.get("needs", []),
        "retries": said.get("retries", 0),
        "retryOn": said.get("retryOn", ["failed", "stalled", "time_exceeded"]),
        "retryActed": said.get("retryActed", False),
    }


def _v6(db: sqlite3.Connection) -> None:
    """An interaction is open until its checks are through."""
    db.execute("DROP INDEX interactions_open")
    db.execute(
        "CREATE INDEX interactions_open ON interactions (session_id)"
        " WHERE state IN ('queued', 'sent', 'running', 'checking')"
    )


def _v7(db: sqlite3.Connection) -> None:
    """The audit log knows which call of claude's an entry is about."""
    db.execute("ALTER TABLE decisions ADD COLUMN tool_use_id TEXT NOT NULL DEFAULT ''")


def _v8(db: sqlite3.Connection) -> None:
    """A task of a batch knows what it is an attempt at (`base`, in `cell`), and whether it was chosen."""
    db.execute("ALTER TABLE batch_tasks ADD COLUMN base TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE batch_tasks ADD COLUMN cell TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE batch_tasks ADD COLUMN chosen INTEGER NOT NULL DEFAULT 0")


_FIGURES_V9: Final = (
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    *("cost_usd", "charges", "exact"),
)


def _v9(db: sqlite3.Connection) -> None:
    """What is asked often is found without a walk over all that ever was."""
    # The ledger summed up, kept by a trigger. A quarter of an hour lies within one day in every time zone.
    sums = ", ".join(f"{name} {'REAL' if name == 'cost_usd' else 'INTEGER'} NOT NULL" for name in _FIGURES_V9)
    db.execute(
        "CREATE TABLE session_costs (session_id TEXT PRIMARY KEY NOT NULL, session_name TEXT NOT NULL,"
        f" {sums}) WITHOUT ROWID"
    )
    db.execute(
        f"CREATE TABLE model_costs (quarter INTEGER NOT NULL, model TEXT NOT NULL, {sums},"
        " PRIMARY KEY (quarter, model)) WITHOUT ROWID"
    )
    of_all = (
        "sum(input_tokens), sum(output_tokens), sum(cache_read_input_tokens),"
        " sum(cache_creation_input_tokens), sum(cost_usd), count(*), min(exact)"
    )
    db.execute(
        f"INSERT INTO session_costs SELECT session_id, '', {of_all} FROM ledger GROUP BY session_id"  # noqa: S608
    )
    db.execute(
        "UPDATE session_costs SET session_name = (SELECT session_name FROM ledger"
        " WHERE ledger.session_id = session_costs.session_id ORDER BY ledger.rowid DESC LIMIT 1)"
    )
    db.execute(
        f"INSERT INTO model_costs SELECT CAST(at / 900 AS INTEGER), model, {of_all}"  # noqa: S608
        " FROM ledger GROUP BY 1, 2"
    )
    of_one = (
        "new.input_tokens, new.output_tokens, new.cache_read_input_tokens, new.cache_creation_input_tokens,"
        " new.cost_usd, 1, new.exact"
    )
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in _FIGURES_V9[:-1])
    added += ", exact = min(exact, excluded.exact)"
    db.execute(
        "CREATE TRIGGER ledger_sums AFTER INSERT ON ledger BEGIN"  # noqa: S608
        f" INSERT INTO session_costs VALUES (new.session_id, new.session_name, {of_one})"
        f" ON CONFLICT (session_id) DO UPDATE SET session_name = excluded.session_name, {added};"
        f" INSERT INTO model_costs VALUES (CAST(new.at / 900 AS INTEGER), new.model, {of_one})"
        f" ON CONFLICT (quarter, model) DO UPDATE SET {added}; END"
    )
    db.execute("CREATE INDEX sessions_figures ON sessions (status, total_cost_usd, id)")
    # Partial: few among many. By the text of the JSON, where a quote inside of a string is escaped: with an
    # untrusted schema no index may call `json_extract`.
    db.execute(
        'CREATE INDEX sessions_started ON sessions (created) WHERE instr(rest, \'"startedBy":""\') = 0'
    )
    db.execute(
        "CREATE INDEX interactions_needy ON interactions (timestamp)"
        ' WHERE instr(rest, \'"outcome":"needs_input"\') > 0'
    )
    db.execute("CREATE INDEX decisions_deleted ON decisions (detail, at) WHERE kind = 'delete'")


def _v10(db: sqlite3.Connection) -> None:
    """Who judges a message is found without reading every session. By the text, as in `_v9`."""
    judges = 'substr(rest, instr(rest, \'"judges":"\') + 10, 36)'
    db.execute(
        f"CREATE INDEX sessions_judges ON sessions ({judges})"
        ' WHERE instr(rest, \'"judges":"\') > 0 AND instr(rest, \'"judges":""\') = 0'
    )


def _v11(db: sqlite3.Connection) -> None:
    """A batch's tokens, and the seconds of its work since a person last started it."""
    db.execute("ALTER TABLE batches ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE batches ADD COLUMN working REAL NOT NULL DEFAULT 0")


def _v12(db: sqlite3.Connection) -> None:
    """Results of tasks by what they rest on, and how many a batch has taken from others."""
    db.execute("ALTER TABLE batches ADD COLUMN reused INTEGER NOT NULL DEFAULT 0")
    db.execute(
        """CREATE TABLE batch_results (
            key TEXT PRIMARY KEY NOT NULL,
            batch_id TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
            seq INTEGER NOT NULL
        ) WITHOUT ROWID"""
    )
    db.execute("CREATE INDEX batch_results_batch ON batch_results (batch_id)")


def _v13(db: sqlite3.Connection) -> None:
    """What has happened so far, in numbers that only grow (`store.counters`)."""
    db.execute(
        "CREATE TABLE counters (name TEXT NOT NULL, label TEXT NOT NULL, value REAL NOT NULL,"
        " PRIMARY KEY (name, label)) WITHOUT ROWID"
    )


def _v14(db: sqlite3.Connection) -> None:
    """Hooks of messages (`store.hooks`), apart from what is listed: their addresses are secrets."""
    db.execute(
        "CREATE TABLE hooks (interaction_id TEXT PRIMARY KEY NOT NULL, owner TEXT NOT NULL,"
        " hooks TEXT NOT NULL) WITHOUT ROWID"
    )


def _v15(db: sqlite3.Connection) -> None:
    """What has tags is found among what has none. By the text, as in `_v9`."""
    db.execute(
        """CREATE INDEX sessions_tagged ON sessions (created, id) WHERE instr(rest, '"tags":[]') = 0"""
    )


def _v16(db: sqlite3.Connection) -> None:
    """What claude tells of the plan's windows (`store.plan_usage`)."""
    db.execute("CREATE TABLE plan_windows (name TEXT PRIMARY KEY NOT NULL, rest TEXT NOT NULL) WITHOUT ROWID")


MIGRATIONS: tuple[Migration, ...] = (
    *(_v1, _v2, _v3, _v4, _v5, _v6, _v7, _v8, _v9, _v10, _v11, _v12),
    *(_v13, _v14, _v15, _v16),
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the database at `path`, which is made (0600) if it is missing; not yet migrated.

    In autocommit mode (transactions are begun by name), and free to move between threads, of which one at a
    time may use it.

    Raises:
        StoreError: it cannot be opened, is no database, or stays locked.
    """
    with as_store_errors(path):
        # Before SQLite does it with the umask; its -wal and -shm files take the mode of this one. Only where
        # there is none: to close any descriptor of a database takes all the locks away that this process has
        # on it (POSIX), and with them the write-ahead log, at the hands of the next program that leaves.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
        db = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            _use_wal(db)
            for pragma in PRAGMAS:
                db.execute(pragma)
        except BaseException:
            db.close()
            raise
    return db


def _use_wal(db: sqlite3.Connection) -> None:
    # Two processes that meet a new database at once: SQLite fails the second at once instead of waiting,
    # since waiting with a shared lock in hand could deadlock. So we wait here, with nothing in hand.
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def version(db: sqlite3.Connection) -> int:
    """How many migrations the database has seen."""
    return _integer(db, "PRAGMA user_version")


def _integer(db: sqlite3.Connection, query: str) -> int:
    value: object = db.execute(query).fetchone()[0]
    return value if isinstance(value, int) else 0


def migrate(db: sqlite3.Connection, path: Path, migrations: Sequence[Migration] | None = None) -> int:
    """Brings the database to the newest version, a transaction a step; returns how many steps that took.

    A step that fails leaves the version before it. Several processes may do this at once.

    Raises:
        StoreError: the database was made by a newer cms or by another program, or a step failed.
    """
    steps = MIGRATIONS if migrations is None else migrations
    applied = 0
    with as_store_errors(path):
        while True:
            db.execute("BEGIN IMMEDIATE")  # before looking: another process may be migrating too
            try:
                at = version(db)
                _check_ours(db, path, at, len(steps))
                if at == len(steps):
                    db.execute("ROLLBACK")
                    return applied
                steps[at](db)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {at + 1}")
                db.execute("COMMIT")
                applied += 1
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise


def _check_ours(db: sqlite3.Connection, path: Path, at: int, known: int) -> None:
    blank = at == 0 and _integer(db, "SELECT count(*) FROM sqlite_master") == 0
    if not blank and _integer(db, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError(
            f"{path} belongs to another program", hint="move it away, or set CMS_HOME to another folder"
        )
    if at > known:
        raise StoreError(
            f"{path} was written by a newer cms (schema {at}, this one knows {known})",
            hint="upgrade this cms, or set CMS_HOME to another folder",
        )
