"""A daemon whose containers cannot be ended while CMS_HOME/stubborn exists. A program, run by a test.

A process that no signal ends cannot be made on purpose, so the kill itself is told to fail.
"""

from __future__ import annotations

import sys

from cms.config import load_settings
from cms.containment import Container, Proof
from cms.daemon.main import main

kill = Container.kill


async def refuse(container: Container, *, deadline: float) -> Proof:
    if container.spec.label == "probe" or not (load_settings().home / "stubborn").exists():
        return await kill(container, deadline=deadline)
    left = await container.members()
    return Proof(
        container.mechanism, left, 3, deadline, empty=False, left=left, how=("SIGKILL to each member",)
    )


setattr(Container, "kill", refuse)  # noqa: B010 - an assignment would be refused by the type checker
sys.exit(main())
