"""A store's process is killed at any moment: what it acknowledged is there, and nothing is half there."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys

import pytest
import trio

from cms.config import Settings
from cms.session.model import InteractionState, SessionStatus
from cms.store import audit, money, sessions
from cms.store.rawlog import raw_log_path
from cms.store.recovery import recover
from cms.store.store import open_store
from store import making, reading
from store.reading import read_lines

#: Several tasks write at once; each prints the number of what it wrote only after the store said so.
WRITER = """
from cms.store.rawlog import RawLog, raw_log_path

async def write(store, of):
    session = making.session(of, status=SessionStatus.BUSY)
    await store.write(sessions.add, session)
    with RawLog(raw_log_path(settings.raw, session.id)) as log:
        for number in range(1, 100_000):
            queued = making.interaction(number, of=of)
            await store.write(sessions.save_interaction, queued)
            log.append("in", b"%d" % number, 1.0)
            await store.add_entry(making.entry(number, of=of))
            session = making.replace(session, total_turns=number)
            done = making.replace(queued, state=InteractionState.DONE)
            charge = making.charge(0.25, of=of, number=number)
            await store.write(making.commit, session, done, charges=[charge], ended=False)
            os.write(1, b"%d %d\\n" % (of, number))

async def main():
    async with open_store(settings) as store, trio.open_nursery() as nursery:
        for of in (1, 2, 3):
            nursery.start_soon(write, store, of)

trio.run(main)
"""


async def run_and_kill(settings: Settings, acknowledged: int) -> bytes:
    """Kills the writer, at whatever it is doing, once so many lines came; returns all that it printed."""
    argv = making.program(WRITER, settings)
    printed = b""
    with trio.fail_after(60):
        child = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            while printed.count(b"\n") < acknowledged:
                piece = await child.stdout.receive_some()
                assert piece, "the writer ended by itself"
                printed += piece
        finally:
            child.kill()
            with trio.CancelScope(shield=True):
                async for piece in child.stdout:
                    printed += piece
                await child.wait()
    assert child.returncode == -signal.SIGKILL
    return printed


@pytest.mark.parametrize("acknowledged", [1, 2, 7, 20, 41, 83])
async def test_what_was_acknowledged_is_there(settings: Settings, acknowledged: int) -> None:
    printed = await run_and_kill(settings, acknowledged)
    last = {1: 0, 2: 0, 3: 0}
    for line in printed.splitlines():
        of, number = map(int, line.split())
        last[of] = number

    async with open_store(settings) as store:
        recovery = await store.write(recover, 9000.0)
        assert {record.name for record in recovery.sessions} == set(await store.read(sessions.names))
        for of, number in last.items():
            record = await store.read(sessions.by_name, f"name-{of}")
            if record is None:
                assert number == 0
                continue
            interactions = await store.read(sessions.interactions, record.id)
            # All or nothing: session, interaction and charge of one commit agree with each other.
            done = [one for one in interactions if one.state is InteractionState.DONE]
            assert [one.number for one in done] == list(range(1, record.total_turns + 1))
            assert len(await store.read(reading.charges, record.id)) == len(done)
            assert (await store.read(money.total, record.id)).usage.cost_usd == 0.25 * len(done)
            # Nothing acknowledged is lost, and at most one more was under way.
            assert number <= len(done) <= number + 1
            left = interactions[len(done) :]
            assert len(left) <= 1
            for one in left:
                assert one.state is InteractionState.INTERRUPTED
                assert "safe to send again" in one.error
            decisions = await store.read(audit.entries, record.id)
            assert decisions == [making.entry(n, of=of) for n in range(1, len(decisions) + 1)]
            assert len(done) <= len(decisions) <= len(interactions)
            logged = list(read_lines(raw_log_path(settings.raw, record.id), "in"))
            assert logged == [b"%d" % n for n in range(1, len(logged) + 1)]
            assert len(decisions) <= len(logged) <= len(interactions)
            assert record.status is SessionStatus.STOPPED
    assert not list((settings.home / "owners").iterdir())
    db = sqlite3.connect(settings.database)
    assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()


#: Any program that knows SQLite: a person's `sqlite3`, a backup, a second cms.
VISITOR = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute("SELECT count(*) FROM sessions").fetchone()[0])
db.close()
"""


async def visit(settings: Settings) -> int:
    argv = [sys.executable, "-c", VISITOR, str(settings.database)]
    return int((await trio.run_process(argv, capture_stdout=True)).stdout)


async def test_a_visitor_that_leaves_takes_nothing_away(settings: Settings) -> None:
    """Who closes a database last clears up behind itself, and must see that it is not the last.

    It sees that by our locks. Those a process loses, all of them, when it closes any descriptor of the
    file: then the visitor would delete the write-ahead log that we go on writing to.
    """
    wal = settings.database.with_name(settings.database.name + "-wal")
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
        before = wal.stat().st_ino
        assert await visit(settings) == 1
        assert wal.stat().st_ino == before
        await store.write(sessions.add, making.session(2))
        assert await visit(settings) == 2
        async with open_store(settings) as second:
            await second.write(sessions.add, making.session(3))
        assert wal.stat().st_ino == before
        await store.write(sessions.add, making.session(4))
        assert await visit(settings) == 4
    assert await visit(settings) == 4
