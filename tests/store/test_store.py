"""The store: all or nothing, in order, cancelled cleanly, and telling after a crash what became of what."""

from __future__ import annotations

import datetime
import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cms.config import Settings
from cms.errors import HomeUnusable, NameTaken, StoreError, WrongStatus
from cms.session.audit import AuditEntry
from cms.session.model import Interaction, InteractionState, Outcome, SessionStatus, TokenUsage
from cms.store import audit, money, schema, sessions
from cms.store.database import Database
from cms.store.owners import Owner, living_pid
from cms.store.recovery import recover
from cms.store.store import Store, open_store
from store import making, reading


async def test_everything_is_there_after_reopening(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1), making.interaction(1))
        await store.add_entry(making.entry(1))
        done = making.replace(
            making.interaction(1), state=InteractionState.DONE, response="yes", cost=0.5, ended=2002.0
        )
        stopped = making.session(1, status=SessionStatus.STOPPED, cost=0.5)
        await store.write(
            making.commit,
            stopped,
            done,
            charges=[making.charge(0.2), making.charge(0.3)],
            ended=True,
        )
    async with open_store(settings) as store:
        assert await store.read(sessions.by_name, "name-1") == stopped
        assert await store.read(sessions.by_id, "session-1") == stopped
        assert await store.read(sessions.by_name, "name-2") is None
        assert await store.read(sessions.interactions, "session-1") == [done]
        assert await store.read(sessions.interaction, done.id) == done
        assert await store.read(sessions.interaction, "no") is None
        assert await store.read(reading.charges, "session-1") == [making.charge(0.2), making.charge(0.3)]
        assert await store.read(reading.receipts, "session-1") == [making.receipt()]
        assert await store.read(audit.entries, "session-1") == [making.entry(1)]
        assert (await store.read(money.total, "session-1")).usage == TokenUsage(20, 40, 60, 80, 0.5)


async def test_a_commit_is_all_or_nothing(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
        with pytest.raises(StoreError, match="not in the store"):
            await store.write(
                making.commit,
                making.session(1, cost=9.0),
                making.interaction(1),
                charges=[making.charge(0.1), making.charge(0.1, of=7)],
                ended=True,
            )
        assert await store.read(sessions.by_name, "name-1") == making.session(1)
        assert await store.read(sessions.interactions, "session-1") == []
        assert await store.read(reading.charges, "session-1") == []
        assert await store.read(reading.receipts, "session-1") == []
        await store.write(
            money.add_charges, [making.charge(0.1)]
        )  # the failure before does not stand in the way


async def test_money_is_never_taken_back(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
        await store.write(money.add_charges, [making.charge(0.1)])
        with pytest.raises(StoreError):
            await store.write(money.add_charges, [making.charge(-0.1)])
    db = sqlite3.connect(settings.database)
    for statement in ("UPDATE ledger SET cost_usd = 0", "DELETE FROM ledger"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.close()


async def test_names_are_unique(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
        twin = making.replace(making.session(2), name="name-1")
        with pytest.raises(NameTaken):
            await store.write(sessions.add, twin)
        with pytest.raises(NameTaken):
            await store.write(sessions.save, twin)
        assert await store.read(sessions.page) == [making.session(1)]
        with pytest.raises(StoreError):  # the same session twice is no renewal
            await store.write(sessions.add, making.session(1))


async def test_sessions_are_listed_newest_first(settings: Settings) -> None:
    async with open_store(settings) as store:
        for number in (2, 1, 3):
            status = SessionStatus.READY if number == 1 else SessionStatus.STOPPED
            await store.write(sessions.add, making.session(number, status=status))
        assert [record.id for record in await store.read(sessions.page)] == [
            "session-3",
            "session-2",
            "session-1",
        ]
        assert [record.id for record in await store.read(sessions.page, "stopped")] == [
            "session-3",
            "session-2",
        ]
        assert await store.read(sessions.page, "killed") == []
        assert await store.read(sessions.names) == ["name-1", "name-2", "name-3"]


async def test_the_newest_interactions_oldest_first(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
        for number in (1, 2, 3):
            await store.write(sessions.save_interaction, making.interaction(number))
        assert [one.number for one in await store.read(sessions.interactions, "session-1")] == [1, 2, 3]
        assert [one.number for one in await store.read(sessions.interactions, "session-1", 2)] == [2, 3]
        assert await store.read(sessions.interactions, "session-1", 0) == []


async def test_an_interaction_needs_its_session(settings: Settings) -> None:
    async with open_store(settings) as store:
        with pytest.raises(StoreError):
            await store.write(sessions.save_interaction, making.interaction(1))


async def test_deleting_leaves_the_money(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1), making.interaction(1))
        await store.write(making.commit, making.session(1), charges=[making.charge(0.4)], ended=True)
        await store.add_entry(making.entry())
        assert await store.write(sessions.delete, "session-1", 9000.0)
        assert not await store.write(sessions.delete, "session-1", 9000.0)
        assert await store.read(sessions.page) == []
        assert await store.read(sessions.interactions, "session-1") == []
        assert await store.read(reading.receipts, "session-1") == []
        assert await store.read(audit.entries, "session-1") == []
        assert await store.read(audit.find_deleted, "session-1") is None
        [total] = await store.read(money.totals, "session")
        assert (total.key, total.name, total.usage.cost_usd) == ("session-1", "name-1", 0.4)
        await store.write(sessions.add, making.session(1))  # the name is free again


async def test_totals(settings: Settings) -> None:
    day = 24 * 3600.0
    async with open_store(settings) as store:
        for number in (1, 2):
            await store.write(sessions.add, making.session(number))
        await store.write(
            money.add_charges,
            [
                making.charge(0.25, of=1, model="haiku", at=day),
                making.charge(0.5, of=2, model="opus", at=3 * day),
                making.charge(0.5, of=2, model="haiku", at=3 * day, exact=False),
            ],
        )
        everything = await store.read(money.total)
        assert (everything.usage.cost_usd, everything.charges, everything.exact) == (1.25, 3, False)
        assert (await store.read(money.total, since=2 * day)).usage.cost_usd == 1.0
        assert (await store.read(money.total, "session-1", since=2 * day)).charges == 0
        by_session = await store.read(money.totals, "session")
        assert [(t.key, t.usage.cost_usd, t.exact) for t in by_session] == [
            ("session-2", 1.0, False),
            ("session-1", 0.25, True),
        ]
        by_model = await store.read(money.totals, "model", since=2 * day)
        assert [(t.key, t.usage.cost_usd) for t in by_model] == [("haiku", 0.5), ("opus", 0.5)]
        days = [datetime.date.fromtimestamp(n * day).isoformat() for n in (1, 3)]
        assert [(t.key, t.usage.cost_usd) for t in await store.read(money.totals, "day")] == [
            (days[0], 0.25),
            (days[1], 1.0),
        ]


async def test_nothing_spent_is_a_total_of_nothing(settings: Settings) -> None:
    async with open_store(settings) as store:
        total = await store.read(money.total)
        assert (total.usage, total.charges, total.exact) == (TokenUsage(), 0, True)
        assert await store.read(money.totals, "model") == []


# --- decisions ----------------------------------------------------------------------------------


async def test_decisions_keep_their_order_and_share_transactions(settings: Settings) -> None:
    async with open_store(settings) as store:
        for number in range(50):
            await store.add_entry(making.entry(number))
        assert await store.read(audit.entries, "session-1") == [making.entry(number) for number in range(50)]
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(store.add_entry, making.entry(number, of=2))
        assert sorted(await store.read(audit.entries, "session-2"), key=lambda one: one.at) == [
            making.entry(number, of=2) for number in range(50)
        ]


async def test_a_decision_whose_caller_was_cancelled_is_still_written(settings: Settings) -> None:
    async with open_store(settings) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.add_entry(making.entry(1))
        assert scope.cancelled_caught
        await store.write(sessions.add, making.session(1))
        assert await store.read(audit.entries, "session-1") == [making.entry(1)]
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.add_entry(making.entry(2))
    async with open_store(settings) as store:  # closing writes it
        assert await store.read(audit.entries, "session-1") == [making.entry(1), making.entry(2)]


async def test_a_decision_with_a_file_name_that_is_not_text(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.add_entry(making.replace(making.entry(), detail="rm \udcff"))
        assert [one.detail for one in await store.read(audit.entries, "session-1")] == ["rm \\udcff"]
        with pytest.raises(StoreError):
            await store.add_entry(making.replace(making.entry(), cost=float("inf")))
        await store.write(sessions.add, making.session(1))  # what was refused does not come along


# --- cancellation -------------------------------------------------------------------------------


async def test_a_cancelled_commit_wrote_all_or_nothing_and_says_which(settings: Settings) -> None:
    async with open_store(settings) as store:
        # Cancelled before its turn: nothing.
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.write(sessions.add, making.session(1))
        assert scope.cancelled_caught
        assert await store.read(sessions.names) == []
        # Cancelled while another program holds the database: it goes on, and returns.
        other = schema.connect(settings.database)
        other.execute("BEGIN IMMEDIATE")
        with trio.fail_after(5), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.write, sessions.add, making.session(2))
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                other.execute("ROLLBACK")
        other.close()
        assert await store.read(sessions.names) == ["name-2"]


# --- recovery -----------------------------------------------------------------------------------


def crash(store: Store) -> None:
    """Lets go of the lock as the kernel does when a process is killed."""
    store._owner.release()


async def test_what_was_completed_is_not_so_any_more_with_a_message_that_was_cut_off(
    settings: Settings,
) -> None:
    """Killed between the message that is on disk and the process for it."""
    async with open_store(settings) as store:
        done, queued = making.interaction(1, state=InteractionState.DONE), making.interaction(2)
        await store.write(sessions.add, making.session(1, status=SessionStatus.COMPLETED), done)
        await store.write(sessions.save_interaction, queued)
        crash(store)
    async with open_store(settings) as store:
        (record,) = (await store.write(recover, 9000.0)).sessions
        assert record.status is SessionStatus.STOPPED
        assert "never sent" in record.error


async def test_recovery_says_what_became_of_each(settings: Settings) -> None:
    states = [
        InteractionState.DONE,
        InteractionState.RUNNING,
        InteractionState.SENT,
        InteractionState.QUEUED,
    ]
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1, status=SessionStatus.BUSY))
        for number, state in enumerate(states, 1):
            await store.write(sessions.save_interaction, making.interaction(number, state=state))
        await store.write(money.add_charges, [making.charge(0.7, number=2)])
        await store.write(sessions.add, making.session(2, status=SessionStatus.READY, cost=0.3))
        await store.write(sessions.add, making.session(3, status=SessionStatus.STOPPED))
        await store.write(
            sessions.add, making.session(4, status=SessionStatus.CREATED), making.interaction(1, of=4)
        )
        await store.write(sessions.add, making.session(5, status=SessionStatus.BUSY))
        await store.write(sessions.add, making.session(6, status=SessionStatus.PAUSED))
        crash(store)
    async with open_store(settings) as store:
        recovery = await store.write(recover, 9000.0)
        done, running, sent, queued = await store.read(sessions.interactions, "session-1")
        assert done == making.interaction(1, state=InteractionState.DONE)
        assert (running.state, running.cost, running.cost_exact) == (InteractionState.INTERRUPTED, 0.7, False)
        assert "can be resumed" in running.error
        assert (sent.state, sent.cost_exact) == (InteractionState.DOUBTFUL, False)
        assert "may or may not" in sent.error
        assert (queued.state, queued.cost_exact) == (InteractionState.INTERRUPTED, True)
        assert "never sent" in queued.error
        assert "safe to send again" in queued.error
        for one in (running, sent, queued):
            assert (one.outcome, one.is_error, one.ended) == (Outcome.INTERRUPTED, True, 9000.0)
        [unsent] = await store.read(sessions.interactions, "session-4")
        assert recovery.interactions == (running, sent, queued, unsent)

        six, five, four, three, two, one_ = await store.read(sessions.page)
        assert recovery.sessions == (one_, two, four, five, six)
        assert (one_.status, one_.pid, one_.total_cost_usd, one_.cost_exact) == (
            SessionStatus.STOPPED,
            None,
            0.7,
            False,
        )
        assert "message 4: never sent" in one_.error
        assert (two.status, two.total_cost_usd, two.cost_exact) == (SessionStatus.STOPPED, 0.3, True)
        assert "nothing was lost" in two.error
        assert three == making.session(3, status=SessionStatus.STOPPED)
        assert (four.status, four.cost_exact) == (SessionStatus.CREATED, True)
        assert (five.status, five.cost_exact) == (SessionStatus.STOPPED, False)
        assert (six.status, six.cost_exact) == (SessionStatus.STOPPED, False)  # it may have been at work
        assert "was paused" in six.error

        again = await store.write(recover, 9001.0)
        assert again.sessions == ()
        assert again.interactions == ()


async def test_a_neighbour_that_lives_is_left_alone(settings: Settings) -> None:
    async with open_store(settings) as daemon, open_store(settings) as command:
        busy = making.session(1, status=SessionStatus.BUSY)
        await daemon.write(sessions.add, busy, making.interaction(1, state=InteractionState.RUNNING))
        await daemon.write(sessions.add, making.session(2, status=SessionStatus.STOPPED))
        recovery = await command.write(recover, 9000.0)
        assert recovery.sessions == ()
        assert len(list((settings.home / "owners").iterdir())) == 2
        assert await command.read(sessions.by_name, "name-1") == busy
        for attempt in (
            lambda: command.write(sessions.save, busy),
            lambda: command.write(sessions.save_interaction, making.interaction(2)),
            lambda: command.write(sessions.delete, "session-1", 9000.0),
        ):
            with pytest.raises(WrongStatus, match=r"another cms has it \(pid"):
                await attempt()
        # What is at rest is anybody's, and then the other's while that one is at work on it.
        await command.write(sessions.save, making.session(2, status=SessionStatus.STARTING))
        with pytest.raises(WrongStatus):
            await daemon.write(sessions.save_interaction, making.interaction(1, of=2))
        crash(command)
        # As a kill leaves it: a file without a lock.
        (settings.home / "owners" / "0123").touch()
        assert [one.id for one in (await daemon.write(recover, 9000.0)).sessions] == ["session-2"]
        await daemon.write(sessions.save_interaction, making.interaction(1, of=2))
        assert [path.name for path in (settings.home / "owners").iterdir()] == [daemon._owner.id]


def test_an_owner_is_alive_until_it_lets_go(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "owners")
    assert living_pid(tmp_path / "owners", owner.id) is not None
    assert living_pid(tmp_path / "owners", owner.id) is not None
    assert living_pid(tmp_path / "owners", "somebody") is None
    assert living_pid(tmp_path / "owners", "") is None
    owner.release()
    owner.release()
    assert living_pid(tmp_path / "owners", owner.id) is None
    assert list((tmp_path / "owners").iterdir()) == []


# --- when the machine fails ---------------------------------------------------------------------


async def test_a_full_store_loses_nothing_and_goes_on_later(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "PRAGMAS", (*schema.PRAGMAS, "PRAGMA max_page_count = 60"))
    async with open_store(settings) as store:
        await fill(store)
        await store.write(sessions.delete, "session-1", 9000.0)
        await store.write(sessions.add, making.session(2))
        await store.add_entry(making.entry(5, of=2))
    async with open_store(settings) as store:
        assert await store.read(sessions.page) == [making.session(2)]
        assert await store.read(audit.entries, "session-2") == [making.entry(5, of=2)]
    assert check(settings.database) == "ok"


async def test_a_full_disk_loses_nothing_and_the_journal_goes_on_later(small_disk: Path) -> None:
    settings = Settings(home=small_disk / "home")
    async with open_store(settings) as store:
        acknowledged = await fill(store)
        await trio.run_process(["mount", "-o", "remount,size=8m", str(small_disk)])
        await store.write(sessions.add, making.session(2))
        await store.add_entry(making.entry(5, of=2))
    async with open_store(settings) as store:
        assert await store.read(sessions.page) == [making.session(2), making.session(1)]
        assert await store.read(sessions.interactions, "session-1") == acknowledged
        assert await store.read(audit.entries, "session-2") == [making.entry(5, of=2)]
    assert check(settings.database) == "ok"


async def fill(store: Store) -> list[Interaction]:
    """Writes until nothing more fits, looks that all that was acknowledged is there, and returns it."""
    acknowledged: list[Interaction] = []
    decided: list[AuditEntry] = []

    async def add_interactions() -> None:
        for number in range(1, 1000):
            one = making.replace(making.interaction(number), prompt="x" * 5000)
            await store.write(sessions.save_interaction, one)
            acknowledged.append(one)

    async def add_entrys() -> None:
        for number in range(1000):
            one = making.replace(making.entry(number), detail="x" * 5000)
            await store.add_entry(one)
            decided.append(one)

    await store.write(sessions.add, making.session(1))
    with pytest.raises(StoreError, match=r"no space left.*free some disk space"):
        await add_interactions()
    assert len(acknowledged) > 3
    with pytest.raises(StoreError, match="no space left"):
        await add_entrys()
    assert await store.read(sessions.interactions, "session-1") == acknowledged
    assert await store.read(audit.entries, "session-1") == decided
    assert await store.read(sessions.by_name, "name-1") == making.session(1)
    return acknowledged


def check(path: Path) -> str:
    db = sqlite3.connect(path)
    try:
        return str(db.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        db.close()


async def test_a_write_that_fails_halfway(
    settings: Settings, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
        size = settings.database.with_name("cms.db-wal").stat().st_size
        with file_size_limit(size + 5000):
            with pytest.raises(StoreError):
                await store.write(
                    sessions.save_interaction, making.replace(making.interaction(1), prompt="x" * 50_000)
                )
            assert await store.read(sessions.interactions, "session-1") == []
        await store.write(sessions.save_interaction, making.interaction(1))
        assert await store.read(sessions.interactions, "session-1") == [making.interaction(1)]
    assert check(settings.database) == "ok"


async def test_another_program_that_holds_the_lock(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.05)
    async with open_store(settings) as store:
        other = schema.connect(settings.database)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked by another program"):
            await store.write(sessions.add, making.session(1))
        assert await store.read(sessions.names) == []  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        await store.write(sessions.add, making.session(1))


async def test_a_damaged_database(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.write(sessions.add, making.session(1))
    whole = settings.database.read_bytes()
    settings.database.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(StoreError, match="damaged"):
        async with open_store(settings) as store:
            await store.read(sessions.page)
    assert not list((settings.home / "owners").iterdir())


async def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(HomeUnusable):
        async with open_store(Settings(home=tmp_path / "home")):
            pass


async def test_a_closed_journal_says_so(settings: Settings) -> None:
    async with open_store(settings) as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        await store.read(sessions.names)
    with pytest.raises(StoreError, match="closed"):
        await store.write(sessions.add, making.session(1))
    assert "closed" in repr(store)
    assert [path.name for path in settings.home.iterdir() if path.is_file()] == ["cms.db"]


async def test_the_bodys_own_error_comes_out_bare(settings: Settings) -> None:
    with pytest.raises(KeyError):
        async with open_store(settings):
            raise KeyError("mine")


# --- reading ------------------------------------------------------------------------------------


async def test_a_read_sees_one_moment_whatever_is_written_meanwhile(settings: Settings) -> None:
    async with open_store(settings) as store:
        await store.add_entry(making.entry(1))

        def look(db: Database) -> tuple[list[AuditEntry], list[AuditEntry]]:
            before = audit.entries(db, "session-1")
            trio.from_thread.run(store.add_entry, making.entry(2))
            return before, audit.entries(db, "session-1")

        before, after = await store.read(look)
        assert before == after == [making.entry(1)]
        assert len(await store.read(audit.entries, "session-1")) == 2


async def test_a_long_read_holds_up_no_short_one_and_the_end_waits_for_both(settings: Settings) -> None:
    async with trio.open_nursery() as nursery:
        async with open_store(settings) as store:
            reads, go_on = trio.Event(), threading.Event()
            done: list[int] = []

            def look_long(db: Database) -> None:
                trio.from_thread.run_sync(reads.set)
                go_on.wait(10)
                done.append(len(sessions.names(db)))

            nursery.start_soon(store.read, look_long)
            await reads.wait()
            assert await store.read(sessions.names) == []
            assert not done
            nursery.start_soon(trio.to_thread.run_sync, go_on.set)
        assert done == [0]


async def test_a_read_cannot_write(settings: Settings) -> None:
    async with open_store(settings) as store:
        with pytest.raises(StoreError):
            await store.read(sessions.add, making.session(1))
        assert await store.read(sessions.names) == []


# --- shared transactions ------------------------------------------------------------------------


async def test_writes_that_come_together_share_a_transaction(settings: Settings) -> None:
    async with open_store(settings) as store:
        statements: list[str] = []
        store._writer._connection.set_trace_callback(statements.append)
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.write_shared, sessions.add, making.session(number))
        assert statements.count("COMMIT") <= 2  # at most the first alone, and then all others
        assert len(await store.read(sessions.names)) == 20


async def test_a_neighbour_that_is_refused_takes_nobody_along(settings: Settings) -> None:
    refused: list[int] = []

    async def add(number: int) -> None:
        charge = making.charge(-1.0 if number == 5 else 0.5, of=number)
        try:
            await store.write_shared(money.add_charges, [charge])
        except StoreError:
            refused.append(number)

    async with open_store(settings) as store:
        for number in range(10):
            await store.write(sessions.add, making.session(number))
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(add, number)
        assert refused == [5]
        assert (await store.read(money.total)).usage.cost_usd == 4.5


async def test_a_shared_write_is_not_cancelled_half_way(settings: Settings) -> None:
    async with open_store(settings) as store:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.write_shared(sessions.add, making.session(1))
        assert await store.read(sessions.names) == ["name-1"]
