"""`batch --foreground`: a supervisor inside this command answers the `batch.` verbs; its end ends all.

The work is blocking code like that of any command, so it gets a thread, and trio the main thread, where the
signals come. As in `foreground`, the signal receiver stands outside of the supervisor: while that closes, a
second Ctrl-C must not tear it apart.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import msgspec
import trio

from cms.cli.batch_client import Port
from cms.config import load_settings_and_file
from cms.daemon.call import Handler
from cms.daemon.handlers.batches import BatchHandlers
from cms.errors import CmsError
from cms.fleet.batches import open_batches
from cms.fleet.supervisor import open_supervisor
from cms.rpc.batches import BatchResult
from cms.rpc.verbs import P, R, Verb
from cms.session.model import Interaction, Record

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def with_supervisor(work: Callable[[Port], int]) -> int:
    """Do it with a supervisor in this process.

    Raises:
        CmsError: as it was raised in `work`, or by the supervisor.
    """
    failures: list[CmsError] = []
    try:
        return trio.run(_here, work)
    except* CmsError as group:
        failures.extend(_leaves(group))
    raise failures[0]


def _leaves(group: BaseExceptionGroup[CmsError]) -> list[CmsError]:
    found: list[CmsError] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


async def _here(work: Callable[[Port], int]) -> int:
    stop = trio.Event()
    async with trio.open_nursery() as outer:
        await outer.start(_listen, stop)
        async with (
            open_supervisor(load_settings_and_file()) as supervisor,
            open_batches(supervisor) as batches,
        ):
            port = _LocalPort(BatchHandlers(batches).all, stop, trio.lowlevel.current_trio_token())
            code = await trio.to_thread.run_sync(work, port)
        outer.cancel_scope.cancel()
    return code


async def _listen(stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as incoming:
        task_status.started()
        async for _ in incoming:
            stop.set()


class _LocalPort:
    """The handlers themselves, called from the command's threads."""

    def __init__(self, handlers: Sequence[Handler], stop: trio.Event, token: trio.lowlevel.TrioToken) -> None:
        self._begin = {handler.verb.name: handler.begin for handler in handlers}
        self._stop = stop
        self._token = token

    def ask(self, verb: Verb[P, R], params: P) -> R:
        answer = trio.from_thread.run(self._call, verb.name, params, trio_token=self._token)
        if isinstance(answer, CmsError):
            raise answer
        return verb.checked(answer)

    def run(self, verb: Verb[P, BatchResult], params: P) -> BatchResult:
        return self.ask(verb, params)

    async def _call(self, verb: str, params: Record) -> Record | CmsError:
        """One request; an error of ours is returned, since the nursery would wrap what is raised."""
        here = _Here()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_stopped, here.scope)
            try:
                return await self._begin[verb](here, msgspec.Raw(msgspec.json.encode(params)))
            except CmsError as error:
                return error
            finally:
                nursery.cancel_scope.cancel()

    async def _cancel_when_stopped(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel(reason="a signal asked this command to end")


class _Here:
    """The `Call` of a request that this command makes to itself."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()

    def accepted(self, name: str, interaction: Interaction) -> None:
        """Nobody else listens."""

    async def follow(self, name: str) -> None:
        """Likewise."""
