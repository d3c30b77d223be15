"""`delegate` and `batch` with `--foreground`: a supervisor inside this command, whose end ends it all.

The signal receiver stands outside of the supervisor: while that closes (and proves that nothing is left), a
second Ctrl-C must not tear it apart. What it does then is bounded by the stop ladder's deadlines.

A batch's command is blocking code like any other, so it gets a thread, and trio the main thread, where the
signals come.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from cms.cli import terminal
from cms.cli.batch_client import Port
from cms.cli.io import Shows, shows_nothing
from cms.cli.progress import LiveAnswer, live_answer
from cms.config import load_settings, load_settings_and_file
from cms.daemon.call import Handler
from cms.daemon.handlers.attachments import AttachmentHandlers
from cms.daemon.handlers.batches import BatchHandlers
from cms.fleet.batches import open_batches
from cms.fleet.supervisor import Supervisor, open_supervisor
from cms.groups import single_error
from cms.home import prepare_home
from cms.rpc.attachments import read_all
from cms.rpc.batches import BatchResult
from cms.rpc.sessions import DelegateParams
from cms.rpc.verbs import P, R, Verb
from cms.rpc.wire import ProgressNote
from cms.session.attachments import check_all
from cms.session.model import Attachment, DelegateResult, Interaction, Record
from cms.store.attachments import keep

T = TypeVar("T")
Tell = Callable[[ProgressNote], None]

#: What ends the work, cleanly: Ctrl-C, a polite kill, the terminal's end.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _run(work: Callable[[Supervisor, trio.Event], Awaitable[T]]) -> T:
    """Do it with a supervisor in this process; the event is set by a signal.

    Raises:
        CmsError: as it was raised in `work`, or by the supervisor.
    """
    with single_error():
        return trio.run(_with_supervisor, work)


async def _with_supervisor(work: Callable[[Supervisor, trio.Event], Awaitable[T]]) -> T:
    settings = load_settings_and_file()
    stop = trio.Event()
    async with trio.open_nursery() as outer:
        await outer.start(_listen, stop)
        async with open_supervisor(settings) as supervisor:
            result = await work(supervisor, stop)
        outer.cancel_scope.cancel()
    return result


async def _listen(stop: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*SIGNALS) as incoming:
        task_status.started()
        async for _ in incoming:
            stop.set()


@asynccontextmanager
async def _scope_until(stop: trio.Event) -> AsyncIterator[tuple[trio.CancelScope, trio.Nursery]]:
    """A scope for the work, cancelled by a signal; and a nursery for what ends with the block."""
    scope = trio.CancelScope()

    async def cancel() -> None:
        await stop.wait()
        scope.cancel(reason="a signal asked this command to end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel)
        yield scope, nursery
        nursery.cancel_scope.cancel()


# --- one delegation -------------------------------------------------------------------------------


def delegate(params: DelegateParams, *, quiet: bool) -> tuple[DelegateResult, Shows]:
    """Do the task here and return its result, `interrupted` when a signal ended it.

    Raises:
        CmsError: it could not begin; `Interrupted`: a signal came before anything had begun.
    """
    if quiet or not (sys.stdout.isatty() or terminal.can_rewrite(sys.stderr, os.environ)):
        return _delegate(params, None), shows_nothing
    with live_answer(params.options.name) as live:
        result = _delegate(params, live)
    return result, live.shows


def attached(paths: Sequence[str]) -> tuple[Attachment, ...]:
    """Files that are to go with its message, kept by this command.

    Raises:
        UsageError: one cannot be read or attached.
        HomeUnusable, StoreError: there is no place to keep it.
    """
    given = read_all(paths)
    settings = load_settings()
    if given:
        prepare_home(settings.home)
    kept = tuple(keep(settings.attachments, data, name) for name, data in given)
    check_all(kept)
    return kept


def _delegate(params: DelegateParams, live: LiveAnswer | None) -> DelegateResult:
    async def work(supervisor: Supervisor, stop: trio.Event) -> DelegateResult:
        await supervisor.hooks.check(params.hooks)
        async with _scope_until(stop) as (scope, nursery):

            def accepted(interaction: Interaction) -> None:
                supervisor.hooks.follow(interaction, params.hooks)
                if live is not None:
                    live.expect(interaction.id)
                    nursery.start_soon(_follow, supervisor, params.options.name, live.note)

            result = await supervisor.delegate(
                params.options,
                params.task,
                context=params.context,
                attachments=params.attachments,
                accepted=accepted,
                within=scope,
            )
        await supervisor.hooks.drained()
        return result

    return _run(work)


async def _follow(supervisor: Supervisor, name: str, tell: Tell) -> None:
    with supervisor.watch(name) as notes:
        async for progress in notes:
            tell(ProgressNote(request_id=0, progress=progress))


# --- a batch --------------------------------------------------------------------------------------


def with_supervisor(work: Callable[[Port], int]) -> int:
    """Do a batch's work with a supervisor in this process.

    Raises:
        CmsError: as it was raised in `work`, or by the supervisor.
    """

    async def in_thread(supervisor: Supervisor, stop: trio.Event) -> int:
        async with open_batches(supervisor) as batches:
            handlers = (*BatchHandlers(batches).all, *AttachmentHandlers(supervisor.settings).all)
            port = _LocalPort(handlers, stop, trio.lowlevel.current_trio_token())
            return await trio.to_thread.run_sync(work, port)

    return _run(in_thread)


class _LocalPort:
    """The handlers themselves, called from the command's threads."""

    def __init__(self, handlers: Sequence[Handler], stop: trio.Event, token: trio.lowlevel.TrioToken) -> None:
        self._begin = {handler.verb.name: handler.begin for handler in handlers}
        self._stop = stop
        self._token = token

    def ask(self, verb: Verb[P, R], params: P) -> R:
        return verb.checked(trio.from_thread.run(self._call, verb.name, params, trio_token=self._token))

    def run(self, verb: Verb[P, BatchResult], params: P) -> BatchResult:
        return self.ask(verb, params)

    async def _call(self, verb: str, params: Record) -> Record:
        with single_error():
            async with _scope_until(self._stop) as (scope, _):
                return await self._begin[verb](_Call(scope), msgspec.Raw(msgspec.json.encode(params)))


class _Call:
    """The `Call` of a request that this command makes to itself."""

    grace = None

    def __init__(self, scope: trio.CancelScope) -> None:
        self.scope = scope

    def accepted(self, name: str, interaction: Interaction) -> None:
        """Nobody else listens."""

    async def follow(self, name: str) -> None:
        """Likewise."""
