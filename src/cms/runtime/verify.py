"""The checks that a delegation must pass before it counts as completed (`--verify COMMAND`).

The agent's word that it is done is a claim; a command that fails is a fact. Each check runs in a container
of its own in the session's work dir, through the shell, one after another, and all of them run even if one
fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from cms.config import Settings
from cms.errors import ContainmentError
from cms.runtime.containment import Container, Mechanism, Spec
from cms.session.model import SessionOptions

#: Seconds for one check where the session has no time limit of its own.
_TIMEOUT = 900.0
_TAIL = 2048

_Drain = Callable[[trio.abc.ReceiveStream, str], Awaitable[None]]


async def run_checks(mechanism: Mechanism, settings: Settings, options: SessionOptions) -> list[str]:
    """Run the session's checks; return a line for each one that failed."""
    failed = []
    for command in options.verify:
        trouble = await _check(mechanism, settings, options, command)
        if trouble:
            failed.append(f"check failed: {command}: {trouble}")
    return failed


async def _check(mechanism: Mechanism, settings: Settings, options: SessionOptions, command: str) -> str:
    spec = Spec(
        argv=("/bin/sh", "-c", command),
        env=dict(settings.environ),
        cwd=Path(options.work_dir),
        hidden=(settings.home,),
        label=f"{options.name}: verify",
    )
    try:
        container = await mechanism.start(spec)
    except (OSError, ContainmentError) as error:
        return f"could not be started ({error})"
    tails = {"out": b"", "err": b""}

    async def drain(stream: trio.abc.ReceiveStream, key: str) -> None:
        while data := await stream.receive_some(65536):
            tails[key] = (tails[key] + bytes(data))[-_TAIL:]

    timeout = options.limits.max_time or _TIMEOUT
    async with container:
        await container.stdin.aclose()
        with trio.move_on_after(timeout) as scope:
            status = await _finish(container, drain)
            if status == 0:
                return ""
            lines = (tails["err"] or tails["out"]).decode("utf-8", "replace").strip().splitlines()
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            return f"{how}: {lines[-1][:200]}" if lines else how
    return f"not done after {timeout:g} s" if scope.cancelled_caught else "not done"


async def _finish(container: Container, drain: _Drain) -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, container.stdout, "out")
        nursery.start_soon(drain, container.stderr, "err")
        status = await container.wait()
        # A daemon that the check left behind may hold the pipes open; it is ended with the container.
        nursery.cancel_scope.deadline = trio.current_time() + 1.0
    return status
