"""The sessions of one store that have a process, or get one: brought up, paused, interrupted, ended.

What they are asked, and what becomes of their records, is `supervisor.Supervisor`, which has all of this.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from cms.config import Settings, find_claude
from cms.containment import Mechanism
from cms.errors import ClaudeUnfit, CmsError, ContainmentError, UsageError, WrongStatus
from cms.fleet.admission import check_containment
from cms.fleet.changes import Changes
from cms.fleet.sessions import Sessions, elsewhere
from cms.fleet.telemetry import Telemetry
from cms.fleet.unkilled import Unkilled
from cms.groups import at_own_door
from cms.live.attached import AttachedRunner
from cms.live.process import check_work_dir
from cms.live.runner import OpenChildSocket, Runner
from cms.protection.rules import load_rules
from cms.session.model import LIVE, Receipt, SessionRecord, SessionStatus
from cms.store import sessions
from cms.store.store import Store
from cms.units import money

log = logging.getLogger(__name__)

Made = TypeVar("Made", bound=Runner)


class Processes(Sessions):
    """Who brings up and ends the processes of sessions, each in the nursery that is given."""

    #: How a session can use cms itself; None: it cannot.
    _child_sockets: OpenChildSocket | None = None

    def __init__(
        self,
        settings: Settings,
        store: Store,
        mechanism: Mechanism,
        nursery: trio.Nursery,
        unkilled: Unkilled,
    ) -> None:
        super().__init__(settings, store)
        self.mechanism = mechanism
        self.changes = Changes(settings, mechanism)
        self._nursery = nursery
        self.telemetry = Telemetry()
        self._unkilled = unkilled
        self._unfit: dict[str, ClaudeUnfit] = {}
        self._closed = False

    def close(self) -> None:
        """Take nothing more on."""
        self._closed = True

    async def _ensure_runner(self, name: str) -> Runner:
        """The session's runner, brought up if there is none. The caller holds the session's lock.

        Raises:
            CmsError: it cannot be brought up.
        """
        runner = self._runners.get(name)
        if runner is not None and runner.ending:
            await runner.wait_gone()
            runner = None
        if runner is not None:
            runner.check_not_held("be sent to")
            return runner
        runner = await self._bring_up(name)
        if runner.record.interaction_count == 0 or runner.record.total_turns > 0:
            return runner
        # Cut off in its first turn: only claude knows whether it has a conversation by now, and it says so by
        # refusing to resume it, or to begin it. Asked with nothing at stake yet, that costs nobody a message.
        try:
            await runner.wait_ready()
        except CmsError:
            if not runner.misled:
                raise
            await runner.wait_gone()
            runner = await self._bring_up(name)
        return runner

    async def _bring_up(self, name: str) -> Runner:
        return self._begin(await self._prepare(name, Runner))

    def _begin(self, runner: Made) -> Made:
        name = runner.record.name
        self._runners[name] = runner
        self._nursery.start_soon(at_own_door, f"session {name}", partial(self._run, runner))
        return runner

    async def _prepare(self, name: str, kind: type[Made], terminal: Path | None = None) -> Made:
        await self._save_lost(name)
        record = await self.get(name)
        if record.status in LIVE:
            raise elsewhere(record, "start")
        if self._closed:
            raise WrongStatus(name, "stopping", "start", hint="cms is shutting down")
        await check_work_dir(record.options.work_dir)
        check_containment(self.mechanism, self.settings, record.options)
        await self._unkilled.check(record.options)
        settings = self.settings_of(record)
        find_claude(settings)
        await self.children.check_folders(record.options, settings.environ, child=bool(record.started_by))
        await self.children.check_unmoved(record)
        rules = await load_rules(record.options, settings.environ)
        workspace = await self.changes.open(record, settings)
        if workspace is not None:
            layered = (record.options.work_dir, str(workspace.folder))
            rules = msgspec.structs.replace(rules, layered=layered)
        self.children.check_room()
        return kind(
            record,
            rules=rules,
            settings=settings,
            store=self.store,
            mechanism=self.mechanism,
            workspace=workspace,
            resume=record.claude_session_id or record.options.fork_of,
            fork=bool(record.options.fork_of) and not record.claude_session_id,
            child_sockets=self._child_sockets if record.options.allow_cms else None,
            trace=self.telemetry.trace(record, settings.environ),
            terminal=terminal,
        )

    async def _save_lost(self, name: str) -> None:
        """Before anything new is written about a session: what the store missed. The caller has its lock."""
        if (lost := self._unsaved.get(name)) is not None:
            await lost.save()
            del self._unsaved[name]

    async def _run(self, runner: Runner) -> None:
        try:
            await runner.run()
        finally:
            name = runner.record.name
            if self._runners.get(name) is runner:
                del self._runners[name]
            if isinstance(runner.failure, ClaudeUnfit):
                self._unfit[name] = runner.failure
            else:
                self._unfit.pop(name, None)
            if runner.unsaved:
                self._unsaved[name] = runner
            if runner.record.status is SessionStatus.ERROR:
                log.error("session %s is UNKILLED: %s", name, runner.record.error)
                self._unkilled.keep(runner)
            self.children.end_with(runner.record)

    def unfit(self, name: str) -> ClaudeUnfit | None:
        """Why the claude of the session's last process was none to work with, if that is how it ended."""
        runner = self._runners.get(name)
        if runner is None:
            return self._unfit.get(name)
        return runner.failure if isinstance(runner.failure, ClaudeUnfit) else None

    # --- by hand ----------------------------------------------------------------------------------

    async def make_way(self, name: str, who: str) -> Receipt | None:
        """End what a session does, for a person who takes it over; gives how its process was ended.

        Raises:
            CmsError: they cannot have it, or its end cannot be proved.
        """
        record = await self.get(name)
        if (runner := self._runners.get(name)) is not None:
            runner.check_not_held("be taken over")
        if record.options.safety and not self.mechanism.guarantees.protected_paths.strong:
            raise ContainmentError(
                f"nothing would hold {name!r} to its protected paths: this machine has no walls for it, and "
                "claude's own interface has no gate",
                hint="`cms doctor` shows what is missing",
            )
        if record.claude_session_id and not await self.can_continue(record):
            raise WrongStatus(name, "without a conversation", "be taken over", hint="claude has removed it")
        _, receipt = await self.stop(name, reason=f"taken over by {who}")
        while await self.under_way.wait_over(name):
            pass
        return receipt

    async def attach(self, name: str, terminal: Path, who: str) -> AttachedRunner:
        """Let a person have a session in claude's own interface, after `make_way`.

        It is theirs once this returns, until they leave claude, or until it is ended as any session.

        Args:
            terminal: the device of a pseudo-terminal, which nobody else has for a controlling one.
            who: has it, for those who find it taken.

        Raises:
            CmsError: they do not have it.
        """
        async with self.turn(name):
            record = await self.get(name)
            if name in self._runners:
                raise WrongStatus(name, str(record.status), "be taken over", hint="try again")
            most = record.options.limits.max_cost
            if most is not None and record.total_cost_usd >= most:
                raise UsageError(
                    f"{name!r} has spent {money(record.total_cost_usd)} of {money(most)}",
                    hint=f"cms attach {name} --max-cost {2 * most:g}",
                )
            held = await self._prepare(name, AttachedRunner, terminal)
            held.hold(who, await self.children.scopes(record))
            self._begin(held)
            await held.wait_ready()
        return held

    # --- what they are told ------------------------------------------------------------------------

    async def resume(self, name: str) -> SessionRecord:
        """Bring a session's process up again, or open a paused one for messages.

        Raises:
            CmsError: it could not be started.
        """
        async with self.turn(name):
            runner = await self._ensure_runner(name)
            if runner.frozen:
                await runner.thaw()
            await runner.wait_ready()
            if not runner.paused:
                return runner.record
            runner.set_paused(False)
            record = runner.record
            await self.store.write(sessions.save, record)
            return record

    async def pause(self, name: str, *, freeze: bool = False) -> SessionRecord:
        """Let a live session take no more messages; with `freeze` stop its whole process tree, too.

        Without `freeze`, what it is doing goes on. `resume` undoes both, and so does the end of the process.

        Raises:
            WrongStatus: it has no process.
            ContainmentError: it could not be frozen; it is paused.
            StoreError: it is paused, and that is not on disk.
        """
        async with self.turn(name):
            record = await self.get(name)
            runner = self._runners.get(name)
            if runner is None or runner.ending:
                raise WrongStatus(name, str(record.status), "be paused", hint="it has no process")
            runner.check_not_held("be paused")
            await runner.wait_ready()
            runner.set_paused(True)
            if freeze:
                await runner.freeze()
            record = runner.record
            await self.store.write(sessions.save, record)
            return record

    async def interrupt(self, name: str) -> SessionRecord:
        """End what a session is doing; its process lives on.

        Raises:
            WrongStatus: it is doing nothing.
        """
        record = await self.get(name)
        runner = self._runners.get(name)
        if runner is None or not runner.interrupt():
            hint = f"it is frozen; cms resume {name}" if runner is not None and runner.frozen else ""
            raise WrongStatus(name, str(record.status), "be interrupted", hint=hint)
        return runner.record

    async def stop(
        self,
        name: str,
        *,
        reason: str = "stopped",
        grace: float | None = None,
        checks: bool = True,
    ) -> tuple[SessionRecord, Receipt | None]:
        """End a session's process gracefully; None instead of a receipt if it had none.

        Args:
            checks: end the commands that look at its work, too.
        """
        patience = math.inf if grace is None else grace
        why = "it was stopped" if checks else ""
        return await self._end(name, lambda runner: runner.stop(reason, grace=patience), why)

    async def kill(self, name: str, *, reason: str = "killed") -> tuple[SessionRecord, Receipt | None]:
        """End a session's process tree by force, and prove it; those of the sessions that it started, too.

        The commands that look at its work end with it.
        """
        return await self._end(name, lambda runner: runner.kill(reason), "it was killed")

    async def _end(
        self, name: str, end: Callable[[Runner], None], why: str
    ) -> tuple[SessionRecord, Receipt | None]:
        # No lock: an end must get past whatever else waits for this session.
        mine = self._runners.get(name)
        below = () if mine is None else self.children.below(mine.record.id)
        names = {name, *(runner.record.name for runner in below)}
        for one in names if why else ():
            self.under_way.end_checks(one, why)
        rounds = self.under_way.rounds(name)
        judges = [one for one in self._runners.values() if one.record.judges in rounds]
        for judge in judges:
            end(judge)  # nobody wants its word any more
        try:
            return await self._end_one(name, end)
        finally:
            for judge in judges:
                await judge.wait_gone()
            await self.under_way.wait_checked(names if why else ())

    async def _end_one(
        self, name: str, end: Callable[[Runner], None]
    ) -> tuple[SessionRecord, Receipt | None]:
        while (runner := self._runners.get(name)) is None:
            record = await self.get(name)
            if name in self._runners:
                continue  # it was just coming up
            if record.status in LIVE:
                raise elsewhere(record, "be ended")
            if record.status is SessionStatus.ERROR:
                async with self.turn(name):
                    return await self._unkilled.strike(record)
            return record, None
        for below in self.children.below(runner.record.id):
            end(below)  # at once: a parent that lingers must not go on through them
        end(runner)
        await runner.wait_gone()
        await self.children.wait_gone(runner.record.id)
        return runner.record, runner.receipt

    async def stop_all(self, *, grace: float) -> None:
        """Stop every session within `grace` seconds; what is not polite enough by then is killed."""
        self._closed = True
        for runner in list(self._runners.values()):
            runner.stop("cms is shutting down", grace=grace)
        for runner in list(self._runners.values()):
            await runner.wait_gone()
