"""Delegations: a message, its work, its checks, the end of the process, the verdict. The one judge of them.

The daemon, `--foreground`, a batch and the library all come here (`Supervisor.delegate`, `continue_`). The
rules of the verdict are `session.verdict.judge_delegation`; here is what they rest on, in this order:

1. the message is accepted, and its work ends. If that ended well it is stored as `checking`, without an
   outcome (`live.pending.ended`): after a crash nothing says that it is completed;
2. the checks run (`fleet.checks`), while the session still lives. What it did not pass is given back to it as
   its next message while repair rounds are left: that this round has failed and the next one begins is stored
   in one step (`session.rounds`), and it goes on at 1;
3. the process is ended, which shows what is left of it and what became of the protected paths;
4. the outcome is decided and stored, with the session's status in the same transaction (`_judge`).

Whatever cuts a delegation off before 3 (its caller's end, a bug), its session is ended and the verdict says
so; from 3 on it goes through to its verdict, which the stop ladder bounds. The verdict of a delegation is
that of its last round. What a crash cut off after 1 is judged again from 2 on by whoever wants it
(`judge_again`: a batch that goes on). No repair is begun then; its message is stored, for `go_on` to send.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec
import trio

from cms.errors import CmsError, Interrupted, MachineError, StoreError, WrongStatus
from cms.fleet.checks import Checked, run_checks
from cms.fleet.judge import judge_work
from cms.groups import is_cancellation
from cms.session.model import (
    DelegateResult,
    Interaction,
    InteractionState,
    Outcome,
    Receipt,
    SessionRecord,
    SessionStatus,
)
from cms.session.rounds import Failure, NextMessage, gone_on, next_round, no_room, to_repair
from cms.session.verdict import judge_delegation, status_of
from cms.store import sessions
from cms.store.store import Store

if TYPE_CHECKING:
    from cms.fleet.merge_queue import Turn
    from cms.fleet.supervisor import Supervisor

log = logging.getLogger(__name__)

#: A message whose work has ended well, and whose verdict its checks decide.
_ENDED_WELL = (InteractionState.CHECKING, InteractionState.UNCHECKED)

Accepted = Callable[[Interaction], None]


class Delegation:
    """One that is under way.

    Attributes:
        name: of its session.
        scopes: what its messages are charged to.
        grace: seconds that its end may take once it is cancelled, before it is forced; None: the usual.
        rounds: its messages that were accepted, by their ids: the first, and one for each repair.
        interaction: the newest of them.
        ending: its process is being ended: what comes now begins another one.
        over: its verdict is stored, or never will be.
    """

    def __init__(self, name: str, scopes: tuple[str, ...] = (), grace: float | None = None) -> None:
        self.name = name
        self.scopes = scopes
        self.grace = grace
        self.rounds: list[str] = []
        self.interaction: Interaction | None = None
        self.ending = False
        self.over = trio.Event()
        self._checking: trio.CancelScope | None = None
        self._checked = trio.Event()
        self._ended = ""

    def __repr__(self) -> str:
        return f"<Delegation {self.name!r} {'over' if self.over.is_set() else 'under way'}>"

    @contextmanager
    def checks(self) -> Iterator[trio.CancelScope]:
        """While commands look at its work: a block that `end_checks` ends."""
        with trio.CancelScope() as scope:
            self._checking, self._checked = scope, trio.Event()
            if self._ended:
                scope.cancel(reason=self._ended)
            try:
                yield scope
            finally:
                self._checking = None
                self._checked.set()

    def end_checks(self, why: str) -> None:
        """None of its checks goes on, nor begins."""
        self._ended = self._ended or why
        if self._checking is not None:
            self._checking.cancel(reason=why)

    async def wait_checked(self) -> None:
        """Until nothing of a check is left that was ended."""
        while self._checking is not None:
            await self._checked.wait()

    @property
    def not_checked(self) -> Checked:
        """What checks came to that were ended."""
        return Checked(not_run=self._ended)

    def begin(self, interaction: Interaction) -> None:
        """This message of it was accepted."""
        self.interaction = interaction
        self.rounds.append(interaction.id)


class UnderWay:
    """The delegations of one supervisor that have no verdict yet, for those who wait for it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._all: list[Delegation] = []

    @contextmanager
    def enter(self, name: str, scopes: tuple[str, ...], grace: float | None) -> Iterator[Delegation]:
        """One more, for the length of the block.

        Raises:
            WrongStatus: another one of that session is at work.
        """
        self.check_free(name)
        one = Delegation(name, scopes, grace)
        self._all.append(one)
        try:
            yield one
        finally:
            self._all.remove(one)
            one.over.set()

    def check_free(self, name: str, mine: Delegation | None = None) -> None:
        """Whether a message to that session would be served, and not end with the process of a delegation.

        Args:
            mine: the delegation whose message it is.

        Raises:
            WrongStatus: it would not: a delegation of that session is at work.
        """
        if any(one.name == name and one is not mine and not one.ending for one in self._all):
            hint = f"wait for it with `cms wait {name}`, or end it with `cms stop {name}`"
            raise WrongStatus(name, "at work on a delegation", "take another message", hint=hint)

    def rounds(self, name: str) -> frozenset[str]:
        """The messages of a delegation of that session that is not over yet, by their ids."""
        return frozenset(round_ for one in self._all if one.name == name for round_ in one.rounds)

    def end_checks(self, name: str, why: str) -> None:
        """The session is ended, and with it the commands that look at its work."""
        for one in self._all:
            if one.name == name:
                one.end_checks(why)

    async def wait_checked(self, names: Collection[str]) -> None:
        """Until nothing of such a command is left."""
        for one in list(self._all):
            if one.name in names:
                await one.wait_checked()

    def has(self, name: str) -> bool:
        """Whether a delegation of that session is not over yet."""
        return any(one.name == name for one in self._all)

    async def wait_over(self, name: str) -> bool:
        """Until a delegation of that session is over; False if there is none."""
        for one in self._all:
            if one.name == name:
                await one.over.wait()
                return True
        return False

    async def wait_verdict(self, work: Interaction) -> Interaction | None:
        """The last round with its verdict, which is stored; None if no delegation here judges the message.

        Raises:
            StoreError: the verdict could not be stored.
        """
        for one in self._all:
            if work.id in one.rounds:
                await one.over.wait()
                judged = await self._store.read(sessions.interaction, one.rounds[-1])
                if judged is not None and judged.state is InteractionState.CHECKING:
                    raise _unstored()
                return judged
        return None


def _unstored() -> StoreError:
    return StoreError("what became of this message could not be stored")


class Delegations:
    """Carries out and judges those of one supervisor."""

    def __init__(self, supervisor: Supervisor, nursery: trio.Nursery) -> None:
        self._supervisor = supervisor
        self._nursery = nursery

    async def start(self, work: Callable[[Accepted], Awaitable[DelegateResult]]) -> Interaction:
        """Have the supervisor do `work`, and wait until it is accepted; an error before is the caller's."""
        accepted: list[Interaction] = []
        failures: list[Exception] = []
        told = trio.Event()

        def accept(interaction: Interaction) -> None:
            accepted.append(interaction)
            told.set()

        async def carry() -> None:
            try:
                await work(accept)
            except Exception as error:
                failures.append(error)
                if accepted:
                    # Nobody waits here any more: what came of the message is in the store, this in the log.
                    log.error("a delegation in the background ended by an error", exc_info=error)
            finally:
                told.set()

        self._nursery.start_soon(carry)
        await told.wait()
        if accepted:
            return accepted[0]
        raise failures[0] if failures else WrongStatus("", "stopping", "take on work")

    async def carry_out(
        self,
        name: str,
        message: NextMessage,
        *,
        accepted: Accepted | None,
        scopes: tuple[str, ...],
        within: trio.CancelScope | None,
        grace: float | None = None,
    ) -> DelegateResult:
        """From the message to the verdict. See `Supervisor.delegate`.

        Raises:
            CmsError: nothing was accepted, or the verdict could not be stored.
        """
        with self._supervisor.under_way.enter(name, scopes, grace) as one:
            with within or trio.CancelScope(), self._supervisor.merge_queue.turn(name) as turn:
                return await self._carry_out(one, message, accepted, turn)
            # Cancelled by `within`, and judged as such by now.
            if one.interaction is None:
                raise Interrupted("cancelled before anything was accepted")
            return await self._result(name, one.interaction.id)

    async def go_on(
        self, name: str, prompt: str, *, accepted: Accepted | None, scopes: tuple[str, ...]
    ) -> DelegateResult:
        """Like `carry_out`, for work that was cut off: a repair that it owes comes first, none is paid twice.

        Args:
            prompt: what it is told where nothing else is owed.
        """
        newest = await self._supervisor.interactions(name, 1)
        message = gone_on(newest[0], prompt) if newest else NextMessage(prompt, "continue")
        return await self.carry_out(name, message, accepted=accepted, scopes=scopes, within=None)

    async def _carry_out(
        self, one: Delegation, message: NextMessage, accepted: Accepted | None, turn: Turn
    ) -> DelegateResult:
        supervisor, before = self._supervisor, self._supervisor.runner(one.name)
        try:
            work, checked = await self._work(one, message, accepted, turn)
            lands = bool((await supervisor.get(one.name)).options.apply)
        except BaseException as error:
            await self._cut_off(one, before is not None, error)
            raise
        # No await between this and the beginning of the end: a message is refused before it, served after it.
        # But while its change is applied nobody may go on with it.
        one.ending = not lands
        with trio.CancelScope(shield=True):
            record, receipt = await supervisor.stop(one.name, reason="the delegation is over", checks=False)
        # (Without a receipt of ours it had ended by itself.)
        receipt = receipt or record.receipt
        reason = "it was cancelled before its change was applied"
        try:
            with one.checks() as landing:
                checked = await self._land(record, work, receipt, checked, turn)
        except BaseException:
            await self._judge(one.name, work, receipt, checked, cut_off=reason)
            raise
        if landing.cancelled_caught:
            checked = msgspec.structs.replace(checked, not_run=reason)
        one.ending = True
        return await self._judge(one.name, work, receipt, checked, cut_off=checked.not_run)

    async def _land(
        self,
        record: SessionRecord,
        work: Interaction,
        receipt: Receipt | None,
        checked: Checked,
        turn: Turn,
    ) -> Checked:
        """Have the change of what would be completed applied, if that is wanted; what keeps it from that
        counts like a check that failed."""
        if not record.options.apply:
            return checked
        would_be = judge_delegation(
            work,
            receipt,
            on_violation=record.options.on_violation,
            misfit=checked.misfit,
            failed_checks=checked.failed,
            cut_off=checked.not_run,
        )
        if would_be.outcome is Outcome.COMPLETED:
            return checked.with_failures(*await turn.land())
        return checked

    async def _work(
        self, one: Delegation, message: NextMessage, accepted: Accepted | None, turn: Turn
    ) -> tuple[Interaction, Checked]:
        """Round after round, until it passes its checks or there is nothing to repair it with.

        Where its change is to be applied by itself, that it can be is one of the checks, as long as there is
        a round to repair it in: then the turn to apply it is held when this returns.
        """
        supervisor = self._supervisor
        begun = await self._submit(one, message)
        if accepted is not None:
            accepted(begun)
        while True:
            work = await supervisor.work_ended(begun)
            checked = await self._check(one.name, work, one)
            record = await supervisor.get(one.name)
            passed = work.state in _ENDED_WELL and not (checked.failures or checked.misfit or checked.not_run)
            if passed and record.options.apply and work.round < record.options.repair:
                with one.checks() as rehearsing:
                    checked = checked.with_failures(*await turn.rehearse())
                if rehearsing.cancelled_caught:
                    return work, one.not_checked
            following = next_round(work, checked.failures, record.options.repair)
            if following is None or checked.not_run or checked.final:
                return work, checked
            why = no_room(record, work)
            try:
                if not why:
                    begun = await self._submit(
                        one, following, after=to_repair(work, checked.failed, checked.judge)
                    )
                    await turn.note_told()
            except CmsError as error:
                why = str(error)
            if why:
                return work, checked.with_failures(Failure(f"not repaired: {why}"))

    async def _submit(
        self, one: Delegation, message: NextMessage, *, after: Interaction | None = None
    ) -> Interaction:
        """Have a message accepted. `after`: the round before, as it is to be stored with it."""
        interaction = await self._supervisor.submit(
            one.name,
            message.prompt,
            type=message.type,
            scopes=one.scopes,
            of=one,
            round=message.round,
            before=message.before,
            after=after,
            attachments=message.attachments,
        )
        one.begin(interaction)
        return interaction

    async def _check(self, name: str, work: Interaction, one: Delegation | None = None) -> Checked:
        if work.state not in _ENDED_WELL:
            return Checked()
        supervisor = self._supervisor
        record = await supervisor.get(name)
        try:
            misfit = await supervisor.answers.misfit(record.options.json_schema, work.output)
        except MachineError as error:
            return Checked(not_run=str(error))
        if misfit:
            return Checked(misfit=misfit)
        one = one or Delegation(name)  # (of one that is judged again nobody ends the checks)
        checked = one.not_checked
        try:
            with one.checks() as scope:
                async with supervisor.changes.as_left(record) as layers:
                    settings = supervisor.settings_of(record)
                    checked = await run_checks(supervisor.mechanism, settings, record.options, layers)
            if scope.cancelled_caught:
                return one.not_checked
        except (CmsError, OSError) as error:
            return Checked(not_run=f"what {name} has left could not be looked at: {error}")
        if not record.options.judge or checked.failures or checked.not_run:
            return checked
        return await judge_work(supervisor, record, work)

    async def _cut_off(self, one: Delegation, was_alive: bool, why: BaseException) -> None:
        """Cancelled, or never accepted: nothing of it may go on."""
        supervisor, runner = self._supervisor, self._supervisor.runner(one.name)
        one.ending = True
        # A session that was alive before, and took nothing of ours, is somebody else's.
        if runner is not None and (one.interaction is not None or not was_alive):
            reason = "the delegation was cancelled"
            with trio.CancelScope(shield=True):
                await supervisor.stop(one.name, reason=reason, grace=one.grace, checks=False)
        if one.interaction is None:
            return
        reason = "the delegation was cancelled" if is_cancellation(why) else str(why) or repr(why)
        try:
            with trio.CancelScope(shield=True):
                work = await supervisor.work_ended(one.interaction)
                record = await supervisor.get(one.name)
            await self._judge(one.name, work, record.receipt, cut_off=reason)
        except CmsError as error:
            # What cut it off is told. In the store it is open still, and judged by nobody.
            log.error("a delegation of %s was cut off, which could not be stored: %s", one.name, error)

    async def judge_again(self, session: SessionRecord, last: Interaction) -> DelegateResult:
        """The result of a delegation that nobody lived to hear, judged now if it never was.

        Args:
            last: its message, whose work has ended.
        """
        work = last
        if last.outcome is Outcome.COMPLETED and session.status is not SessionStatus.COMPLETED:
            # An older cms stored it so before its checks were through.
            work = msgspec.structs.replace(last, state=InteractionState.UNCHECKED)
        checked = await self._check(session.name, work)
        with self._supervisor.merge_queue.turn(session.name) as turn:
            checked = await self._land(session, work, session.receipt, checked, turn)
        owed = None if checked.final else next_round(work, checked.failures, session.options.repair)
        return await self._judge(
            session.name,
            work,
            session.receipt,
            checked,
            cut_off=checked.not_run,
            repair="" if owed is None else owed.prompt,
        )

    async def _judge(
        self,
        name: str,
        work: Interaction,
        receipt: Receipt | None,
        checked: Checked = Checked(),  # noqa: B008 - it is frozen
        *,
        cut_off: str = "",
        repair: str = "",
    ) -> DelegateResult:
        """Decide how a delegation ended, and store it, whoever is cancelled. Nobody else does.

        Args:
            repair: what it would be told if somebody went on with it.
        """
        supervisor = self._supervisor
        with trio.CancelScope(shield=True):
            async with supervisor.turn(name):
                record = await supervisor.get(name)
                alive = supervisor.runner(name) is not None
                change = await supervisor.changes.freeze(record, live=alive)
                note = next((line for line in checked.failed if line.startswith("not applied")), "")
                if change is not None and note:
                    change = msgspec.structs.replace(change, note=note)
                record = msgspec.structs.replace(record, change=change)
                judged = judge_delegation(
                    work,
                    receipt,
                    on_violation=record.options.on_violation,
                    misfit=checked.misfit,
                    failed_checks=checked.failed,
                    judge=checked.judge,
                    cut_off=cut_off,
                )
                if judged.outcome is Outcome.VERIFICATION_FAILED and repair:
                    judged = msgspec.structs.replace(judged, repair=repair)
                if supervisor.known(name) is None and record.status is SessionStatus.STOPPED:
                    outcome = judged.outcome or Outcome.INTERRUPTED
                    record = msgspec.structs.replace(record, status=status_of(outcome), error=judged.error)
                    await supervisor.store.write(sessions.save, record, judged)
                elif judged != work:
                    # Somebody has gone on with the session already, or it was killed, or is not proved dead.
                    await supervisor.store.write(sessions.save_interaction, judged)
        supervisor.telemetry.judged(judged)
        return await self._supervisor.whole(judged, record, receipt)

    async def _result(self, name: str, interaction_id: str) -> DelegateResult:
        """Of a delegation that was judged."""
        session = await self._supervisor.get(name)
        judged = await self._supervisor.store.read(sessions.interaction, interaction_id)
        if judged is None or judged.outcome is None:
            raise _unstored()
        return await self._supervisor.whole(judged, session, session.receipt)
