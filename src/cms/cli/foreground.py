"""`delegate --foreground`: the supervisor inside this command, whose end ends everything it started.

The delegation goes through `daemon.handlers`, the same code that the daemon runs behind its socket, with a
`Call` that reports to this terminal instead. So a cancelled delegation gives the same result in both.

The signal receiver stands outside of the supervisor: while that closes (and proves that nothing is left), a
second Ctrl-C must not tear it apart. What it does then is bounded by the stop ladder's deadlines.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator

import trio

from cms.cli import terminal
from cms.cli.progress import StatusLine
from cms.config import load_settings_and_file
from cms.daemon.call import RequestCancelled
from cms.daemon.handlers.sessions import SessionHandlers
from cms.errors import CmsError, InternalError
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.rpc.sessions import DelegateParams
from cms.rpc.wire import ProgressNote
from cms.session.model import DelegateResult, Interaction

#: What ends the delegation, cleanly: Ctrl-C, a polite kill, the terminal's end.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def delegate(params: DelegateParams, *, quiet: bool) -> DelegateResult:
    """Do the task here and return its result, `interrupted` when a signal ended it.

    Raises:
        CmsError: it could not begin.
        KeyboardInterrupt: a signal came before anything had begun.
    """
    if quiet or not terminal.can_rewrite(sys.stderr, os.environ):
        return _run(params, None)
    style = terminal.style_of(sys.stderr, os.environ)
    with StatusLine(sys.stderr, params.options.name, style) as line:
        return _run(params, line.note)


def _run(params: DelegateParams, tell: Callable[[ProgressNote], None] | None) -> DelegateResult:
    """`trio.run`, with what went wrong told from the nurseries that it came through."""
    failures: list[CmsError] = []
    try:
        return trio.run(_delegate, params, tell)
    except* CmsError as group:
        failures.extend(_leaves(group))
    except* _NeverBegan:
        pass
    if failures:
        raise failures[0]
    raise KeyboardInterrupt


def _leaves(group: BaseExceptionGroup[CmsError]) -> Iterator[CmsError]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class _NeverBegan(Exception):
    """A signal came before the task was accepted: there is no result."""


class _Here:
    """The `Call` and the `Host` of the one request that this command is."""

    stopping = False
    clients = 1

    def __init__(
        self, nursery: trio.Nursery, supervisor: Supervisor, tell: Callable[[ProgressNote], None] | None
    ) -> None:
        self.scope = trio.CancelScope()
        self._nursery = nursery
        self._supervisor = supervisor
        self._tell = tell

    def accepted(self, name: str, interaction: Interaction) -> None:  # noqa: ARG002 - the protocol's
        if self._tell is not None:
            self._nursery.start_soon(self.follow, name)

    async def follow(self, name: str) -> None:
        with self._supervisor.watch(name) as notes:
            async for progress in notes:
                if self._tell is not None:
                    self._tell(ProgressNote(request_id=0, progress=progress))

    async def stop(self, grace: float) -> None:  # noqa: ARG002 - the protocol's
        self.scope.cancel()

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(task)


async def _delegate(params: DelegateParams, tell: Callable[[ProgressNote], None] | None) -> DelegateResult:
    settings = load_settings_and_file()
    async with trio.open_nursery() as outer:
        stop = trio.Event()
        await outer.start(_listen, stop)
        async with open_supervisor(settings) as supervisor, trio.open_nursery() as nursery:
            here = _Here(nursery, supervisor, tell)
            nursery.start_soon(_cancel_when, stop, here.scope)
            handlers = SessionHandlers(supervisor, here, settings)
            try:
                result = await handlers.delegate(here, params)
            except RequestCancelled:
                raise _NeverBegan from None
            finally:
                nursery.cancel_scope.cancel()
        outer.cancel_scope.cancel()
    if not isinstance(result, DelegateResult):
        raise InternalError(f"a delegation gave {type(result).__name__}")
    return result


async def _listen(stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*SIGNALS) as incoming:
        task_status.started()
        async for _ in incoming:
            stop.set()


async def _cancel_when(stop: trio.Event, scope: trio.CancelScope) -> None:
    await stop.wait()
    scope.cancel(reason="a signal asked this command to end")
