"""Shared budgets on disk: accounts that agree with the ledger, and reservations that no crash leaves open."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from pathlib import Path

import msgspec
import pytest
import trio

from cms.config import Settings
from cms.session.budget import ALL, DAY, SLICE, account_of
from cms.session.model import Interaction, InteractionState, SessionStatus
from cms.store import money, schema, sessions, turns
from cms.store.database import Database
from cms.store.owners import Owner
from cms.store.recovery import recover
from cms.store.store import open_store
from store import making

replace = msgspec.structs.replace
NOW = 3000.0


def sent(number: int = 1, *, of: int = 1, scopes: tuple[str, ...] = ()) -> Interaction:
    return replace(making.interaction(number, of=of, state=InteractionState.SENT), scopes=scopes)


async def test_an_interaction_reserves_spends_and_gives_back(settings: Settings) -> None:
    async with open_store(settings) as store:
        record = making.session()
        await store.write(sessions.add, record)
        await store.write(money.set_cap, "batch:1", 2.0)
        await store.write(money.set_cap, DAY, 100.0)
        granted = await store.write(turns.begin, record, sent(scopes=("batch:1",)), NOW)
        assert granted.amount == pytest.approx(2.0 / 32)
        (batch, day) = await store.read(money.standings, NOW)
        assert (batch.held, day.held) == (granted.amount, granted.amount)
        more = await store.write(turns.spend, record, [making.charge(0.5)], "interaction-1-1", NOW)
        assert more.amount is not None
        # It knows now what its calls cost, and holds as much again.
        assert more.amount == pytest.approx(0.5 + 0.5)
        (batch, day) = await store.read(money.standings, NOW)
        assert (batch.spent, day.spent) == (0.5, 0.5)
        assert batch.held == pytest.approx(0.5)
        await store.write(sessions.save_interaction, replace(sent(), state=InteractionState.DONE, ended=NOW))
        (batch, day) = await store.read(money.standings, NOW)
        assert (batch.held, batch.holders, batch.unknown, batch.spent) == (0.0, 0, 0.0, 0.5)
        # What comes late is still its scopes' money, and reserves nothing any more.
        await store.write(turns.spend, record, [making.charge(0.25)], "interaction-1-1", NOW)
        (batch, day) = await store.read(money.standings, NOW)
        assert (batch.spent, batch.held) == (0.75, 0.0)


async def test_what_is_left_for_a_turn_that_an_interaction_has_caused(settings: Settings) -> None:
    async with open_store(settings) as store:
        record = making.session()
        await store.write(sessions.add, record)
        await store.write(money.set_cap, "batch:1", 0.5)
        await store.write(turns.begin, record, sent(scopes=("batch:1",)), NOW)
        await store.write(sessions.save_interaction, replace(sent(), state=InteractionState.DONE, ended=NOW))
        left = await store.read(money.left_for, "interaction-1-1", NOW)
        assert left.amount == pytest.approx(0.5 / 32)
        assert left.short == ""
        await store.write(turns.spend, record, [making.charge(0.5)], "", NOW)
        left = await store.read(money.left_for, "interaction-1-1", NOW)
        assert (left.final, "the budget of batch 1 is used up" in left.short) == (True, True)
        assert (await store.read(money.left_for, "", NOW)).short == ""
        (batch,) = await store.read(money.standings, NOW)
        assert (batch.held, batch.holders) == (0.0, 0)


async def test_what_gets_nothing_is_not_written(settings: Settings) -> None:
    async with open_store(settings) as store:
        record = making.session()
        await store.write(sessions.add, record, making.interaction())
        await store.write(money.set_cap, ALL, 0.0)
        granted = await store.write(turns.begin, record, sent(), NOW)
        assert granted.final
        (stored,) = await store.read(sessions.interactions, record.id)
        assert stored.state is InteractionState.QUEUED
        assert (await store.read(money.standings, NOW))[0].holders == 0
        await store.write(money.set_cap, ALL, None)
        assert (await store.write(turns.begin, record, sent(), NOW)).amount is None
        assert await store.read(money.standings, NOW) == []


async def test_a_cap_that_comes_later_is_seen_at_the_next_charge(settings: Settings) -> None:
    async with open_store(settings) as store:
        record = making.session()
        await store.write(sessions.add, record)
        assert (await store.write(turns.begin, record, sent(), NOW)).amount is None
        await store.write(money.set_cap, ALL, 0.25)
        granted = await store.write(turns.spend, record, [making.charge(0.25)], "interaction-1-1", NOW)
        assert granted.final


async def test_a_day_ends_at_midnight(settings: Settings) -> None:
    tomorrow = NOW + 86_400
    async with open_store(settings) as store:
        record = making.session()
        await store.write(sessions.add, record)
        await store.write(money.set_cap, DAY, 1.0)
        await store.write(turns.begin, record, sent(), NOW)
        assert (await store.write(turns.spend, record, [making.charge(1.0)], "interaction-1-1", NOW)).final
        assert (await store.write(turns.renew, record.id, "interaction-1-1", tomorrow)).short == ""
        assert (await store.read(money.account, DAY, NOW)).spent == 1.0
        assert (await store.read(money.account, DAY, tomorrow)).spent == 0.0


async def test_deleting_a_session_counts_what_it_held(settings: Settings) -> None:
    async with open_store(settings) as store:
        record = making.session()
        await store.write(sessions.add, record)
        await store.write(money.set_cap, ALL, 100.0)
        await store.write(turns.begin, record, sent(), NOW)
        await store.write(sessions.delete, record.id, 9000.0)
        (standing,) = await store.read(money.standings, NOW)
        assert (standing.unknown, standing.held) == (SLICE, 0.0)


def test_a_store_from_before_budgets_gets_its_accounts(tmp_path: Path) -> None:
    path = tmp_path / "cms.db"
    db = schema.connect(path)
    schema.migrate(db, path, schema.MIGRATIONS[:1])
    row = (NOW, "s", "n", "i", "p", "m", 0.25, 1, 1, 1, 1, 0.25, 1)
    db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.close()
    owner = Owner(tmp_path / "owners")
    tx = Database.open(path, owner, tmp_path / "owners")
    assert money.account(tx, ALL, NOW).spent == money.account(tx, DAY, NOW).spent == 0.25
    assert money.account(tx, DAY, NOW + 86_400).spent == 0.0
    tx.close()
    owner.release()


#: Several sessions reserve, spend and end without pause; each prints what it truly spent before it books it.
SPENDER = """
from cms.session.budget import ALL

async def work(store, of):
    session = making.session(of, status=SessionStatus.BUSY)
    await store.write(sessions.add, session)
    for number in range(1, 100_000):
        one = making.interaction(number, of=of, state=InteractionState.SENT)
        granted = await store.write(turns.begin, session, one, 3000.0)
        if granted.short:
            if granted.final:
                return
            await trio.sleep(0.01)
            continue
        for _ in range(3):
            os.write(1, b"0.01\\n")
            charge = making.charge(0.01, of=of, number=number)
            if (await store.write(turns.spend, session, [charge], one.id, 3000.0)).short:
                break
        done = making.replace(one, state=InteractionState.DONE, ended=3000.0)
        await store.write(sessions.save_interaction, done)

async def main():
    async with open_store(settings) as store, trio.open_nursery() as nursery:
        await store.write(money.set_cap, ALL, float(sys.argv[3]))
        for of in map(int, sys.argv[4:]):
            nursery.start_soon(work, store, of)

trio.run(main)
"""


def spender(settings: Settings, cap: float, *sessions: int) -> list[str]:
    return making.program(SPENDER, settings, str(cap), *map(str, sessions))


def truth_of(printed: bytes) -> float:
    return 0.01 * printed.count(b"\n")


async def test_two_processes_hold_one_cap(settings: Settings) -> None:
    async with open_store(settings):
        pass  # so that both find the store made
    outputs: list[bytes] = []

    async def run(*sessions: int) -> None:
        done = await trio.run_process(spender(settings, 1.0, *sessions), capture_stdout=True)
        outputs.append(done.stdout)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 1, 2, 3)
            nursery.start_soon(run, 4, 5, 6)
    truth = truth_of(b"".join(outputs))
    assert 1.0 - 0.01 <= truth <= 1.0 + 6 * 0.01 + 1e-6
    async with open_store(settings) as store:
        (standing,) = await store.read(money.standings, 4000.0)
        assert standing.spent == pytest.approx(truth)
        assert standing.holders == 0


@pytest.mark.parametrize(("calls", "cap"), [(1, 50.0), (4, 50.0), (17, 50.0), (60, 0.5), (61, 0.61)])
async def test_a_crash_at_any_instant_leaves_the_money_right(
    settings: Settings, calls: int, cap: float
) -> None:
    argv = spender(settings, cap, 1, 2, 3)
    printed = b""
    with trio.fail_after(60):
        child = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE)
        assert child.stdout is not None
        try:
            wanted = min(calls, int(cap / 0.01))
            while printed.count(b"\n") < wanted:
                piece = await child.stdout.receive_some()
                if not piece:
                    break  # all of it is spent
                printed += piece
        finally:
            child.kill()
            with trio.CancelScope(shield=True):
                async for piece in child.stdout:
                    printed += piece
                await child.wait()
    assert child.returncode == -signal.SIGKILL or truth_of(printed) >= cap - 0.01
    truth = truth_of(printed)
    assert truth <= cap + 3 * 0.01 + 1e-6

    async with open_store(settings) as store:
        await store.write(recover, 4000.0)
        (standing,) = await store.read(money.standings, 4000.0)
        ledger = (await store.read(money.total)).usage.cost_usd
        # What the ledger does not hold is at most the call in flight of each; its reservation is counted.
        assert standing.spent == pytest.approx(ledger)
        assert truth - 3 * 0.01 - 1e-6 <= ledger <= truth + 1e-6
        assert (standing.held, standing.holders) == (0.0, 0)
        if truth > ledger + 1e-6:
            assert standing.unknown > 0
        for number in (1, 2, 3):
            record = await store.read(sessions.by_name, f"name-{number}")
            assert record is None or record.status is SessionStatus.STOPPED
    db = sqlite3.connect(settings.database)
    days = db.execute("SELECT sum(spent) FROM accounts WHERE scope LIKE 'day:%'").fetchone()[0]
    assert (days or 0.0) == pytest.approx(ledger)
    assert account_of(DAY, 3000.0).startswith("day:")
    db.close()
