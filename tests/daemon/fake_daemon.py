"""`python fake_daemon.py ...` is `python -m cms.daemon ...` on a fake supervisor.

Environment, to make it misbehave: FAKE_DIES (exits at once with these words), FAKE_REFUSES (raises StoreError
with them), FAKE_PROTOCOL (claims another protocol), FAKE_HOLDS (its sessions never stop), FAKE_LOOK (seconds
between two looks at its home).
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import trio

from cms.config import Settings
from cms.daemon import main, server
from cms.daemon.handlers import daemon
from cms.daemon.main import Fleet
from cms.errors import StoreError
from daemon.fake import FakeSupervisor, open_fake


@asynccontextmanager
async def opener(settings: Settings) -> AsyncIterator[Fleet]:
    if words := os.environ.get("FAKE_REFUSES"):
        raise StoreError(words)
    async with open_fake(settings) as found:
        supervisor = found.supervisor
        if os.environ.get("FAKE_HOLDS") and isinstance(supervisor, FakeSupervisor):
            supervisor.hold_stop_all = trio.Event()
        yield found


if __name__ == "__main__":
    if words := os.environ.get("FAKE_DIES"):
        sys.exit(words)
    if number := os.environ.get("FAKE_PROTOCOL"):
        for module in (daemon, server):
            vars(module)["PROTOCOL"] = int(number)
    if seconds := os.environ.get("FAKE_LOOK"):
        vars(main)["_LOOK"] = float(seconds)
    if "--detach" in sys.argv and os.fork():
        os._exit(0)  # as `python -m cms.daemon` does
    sys.exit(main.main(opener=opener))
