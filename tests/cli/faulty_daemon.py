"""A daemon in which something gets stuck once CMS_HOME/stuck says what. A program, run by a test.

writer  the thread that writes the store
loop    trio's loop, by a bug in any task
kill    trio's loop, as soon as a kill is asked for: the daemon has said `hello`
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager

import trio

from cms.config import load_settings
from cms.daemon import main as daemon
from cms.daemon.handlers.sessions import SessionHandlers
from cms.rpc.sessions import NameParams, StopResult
from cms.store.database import Database

STUCK = load_settings().home / "stuck"
FOREVER = 30.0


def hang(what: str) -> None:
    """Until the file is gone, if it names this; says so in CMS_HOME/hangs-WHAT."""
    until = time.monotonic() + FOREVER
    while time.monotonic() < until and STUCK.exists() and STUCK.read_text() == what:
        STUCK.with_name(f"hangs-{what}").touch()
        time.sleep(0.02)


transaction, kill = Database.transaction, SessionHandlers.kill


def slow_transaction(database: Database) -> AbstractContextManager[None]:
    hang("writer")
    return transaction(database)


async def slow_kill(handlers: SessionHandlers, params: NameParams) -> StopResult:
    hang("kill")
    return await kill(handlers, params)


async def look_for_bugs() -> None:
    while True:
        await trio.sleep(0.02)
        hang("loop")


for owner, name, stand_in in (
    (Database, "transaction", slow_transaction),
    (SessionHandlers, "kill", slow_kill),
    (daemon, "_stay_small", look_for_bugs),
):
    setattr(owner, name, stand_in)
sys.exit(daemon.main())
