"""A session that a person has taken over: claude's own interface, on a terminal of theirs, under its walls.

The terminal is a pseudo-terminal whose other end the person's command holds; it carries all bytes between
that and the real one (`cli.attach`). Here is what any session has: a container, its walls and its end with
the proof. A terminal that goes away hangs claude up, and whoever asked for this is told by its connection.

What is not here is the gate: claude asks the person, and nobody else. So of the limits those hold that need
no gate: the caps on memory and processes, by the container; the cost limit and the shared budgets, by what
claude writes down after each reply (`conversation_meter`), and claude is ended when they are passed. Turns
are counted afterwards, and bound only what comes after; tool calls, time and silence are the person's.

All of it is one interaction, of the type "attach", from taking over to leaving.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final

import msgspec
import trio

from cms.errors import CmsError, UsageError
from cms.live.conversation_meter import FIGURES, ConversationMeter, Reading
from cms.live.log_rows import rows_of_charges
from cms.live.pending import ended
from cms.live.process import AgentProcess
from cms.live.reader import Reader
from cms.live.runner import Runner
from cms.live.stop_ladder import Ladder
from cms.session.budget import Grant
from cms.session.in_force import Expected
from cms.session.ledger import EPSILON, merged
from cms.session.limits import BUDGET_PATIENCE
from cms.session.model import Interaction, InteractionState, Outcome, SessionStatus, TokenUsage
from cms.store import sessions, turns
from cms.store.rawlog import RawLog
from cms.units import money

#: Seconds between two looks at what was spent.
LOOK_EVERY: Final = 0.5
#: The reason of an end that is the person's own.
LEFT: Final = "claude was left"
#: What stands for the messages, which are in claude's own record.
PROMPT: Final = "(by hand, in claude's own interface)"


class AttachedRunner(Runner):
    """Like any other, but for what comes between the start of its process and the end.

    `hold` comes before `run`.

    Attributes:
        interaction: what stands for all that is said meanwhile, as it is at first.
    """

    interaction: Interaction
    _meter: ConversationMeter
    _short_since: float | None = None
    _spent_before = 0.0
    _counted = ""  # the conversation that the ledger is open for
    _usage: dict[str, TokenUsage]
    _counting: trio.Lock

    def hold(self, who: str, scopes: tuple[str, ...]) -> None:
        """That one has it, at the cost of those shared budgets."""
        record = self.record
        self.held_by = who
        self._usage = {}
        self._counting = trio.Lock()
        self.interaction = Interaction(
            id=str(uuid.uuid4()),
            session_id=record.id,
            number=record.interaction_count + 1,
            type="attach",
            prompt=PROMPT,
            timestamp=self._context.now(),
            state=InteractionState.RUNNING,
            scopes=scopes,
        )

    @property
    def activity(self) -> str:
        return f"taken over by {self.held_by}"

    async def _start_and_serve(
        self, raw: RawLog, child_socket: Path | None, scratch: Path, folder: Path
    ) -> None:
        environ = self._settings.environ
        self._meter = ConversationMeter(environ, scratch / FIGURES, self.record.conversation)
        await self._meter.begin()
        await self._begin()
        await super()._start_and_serve(raw, child_socket, scratch, folder)

    async def _begin(self) -> None:
        """Store that a person has it: after a crash it is known that something may have been done."""
        self._context.update(interaction_count=self.interaction.number)
        self._spent_before = self._context.state.ledger.spent
        entry = msgspec.structs.replace(
            self._context.entry("message", "attached", self.held_by), interaction_id=self.interaction.id
        )
        granted = await self._store.write(
            turns.begin, self.record, self.interaction, self._context.now(), (entry,)
        )
        if granted.short:
            self._context.update(interaction_count=self.interaction.number - 1)
            raise UsageError(f"nothing may be spent: {granted.short}")
        self._pending.add(self.interaction)

    async def _serve(self, process: AgentProcess, expected: Expected) -> None:
        del expected  # there is no protocol in which to ask
        self._ladder = ladder = Ladder(process, grace=self._settings.grace)
        self._end.use(ladder)
        caps = Reader(process, self._context, self._end, self._driver, grace=self._settings.grace)
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for task in (
                self._writes.run,
                lambda: self._path_guard.watch(self._wall_lost),
                caps.watch_caps,
                *(() if self._launcher.login is None else (self._launcher.login.keep,)),
                lambda: self._attend(process),
                self._watch_cost,
            ):
                nursery.start_soon(self._end.guard, task)
            await self._end.wait()
            reason = self._end.reason
            self._final.note_receipt(
                await ladder.descend(
                    reason, interrupt=None, eof=False, total=self._end.grace, at=self._context.now()
                )
            )
            await self._settle(trio.current_time() - started)
            self._writes.close()
            await self._writes.wait_done()
            nursery.cancel_scope.cancel()

    async def _attend(self, process: AgentProcess) -> None:
        """There it is; and when the person leaves, that is the end."""
        conversation = self.record.conversation
        self._context.update(status=SessionStatus.ATTACHED, pid=process.pid, claude_session_id=conversation)
        await self._store.write(sessions.save, self.record)
        self._opened = True
        self._ready.set()
        status = await process.container.wait()
        if status:
            how = f"exit status {status}" if status > 0 else f"signal {-status}"
            self._end.begin(f"claude ended with {how}", SessionStatus.STOPPED, outcome=Outcome.FAILED)
        self._end.begin(LEFT, SessionStatus.STOPPED)

    def _end_without_wall(self) -> None:
        if self._lost_wall and self.record.options.on_violation != "deny":
            self._end.begin(self._lost_wall, SessionStatus.STOPPED, outcome=Outcome.PROTECTED_PATH)

    # --- money ------------------------------------------------------------------------------------

    async def _watch_cost(self) -> None:
        while True:
            await trio.sleep(LOOK_EVERY)
            async with self._counting:
                for reading in await self._meter.look():
                    await self._count(reading)

    async def _count(self, reading: Reading) -> None:
        """Charge what it has cost since the last reading; end it where it may cost no more."""
        context = self._context
        ledger = context.state.ledger
        if reading.conversation_id != self._counted:
            self._counted = reading.conversation_id
            ledger = ledger.open(reading.base, reading.base_models)
            context.state = msgspec.structs.replace(
                context.state, ledger=ledger, conversation_id=reading.conversation_id
            )
        models = reading.models
        if models is None:
            # A total alone: all of its growth is the present model's, until claude says it better.
            so_far = ledger.seen_models.get(reading.model, TokenUsage())
            growth = max(reading.total - (ledger.seen or 0.0), 0.0)
            models = {reading.model: so_far + TokenUsage(cost_usd=growth)} if growth > EPSILON else {}
        ledger, charge = ledger.observe(reading.total, models)
        context.state = msgspec.structs.replace(context.state, ledger=ledger)
        if charge is None:
            return
        charge = msgspec.structs.replace(charge.within_total(), interaction_id=self.interaction.id)
        self._usage = merged(self._usage, charge.usage)
        self._driver.note_usage()
        rows = rows_of_charges(
            (charge,),
            session_id=self.record.id,
            process=self._process_id,
            model=reading.model or self.record.options.model,
            at=context.now(),
        )
        granted = await self._store.write(turns.spend, self.record, rows, self.interaction.id, context.now())
        self._end_beyond(granted)
        self._watchers.notify(context.progress("turn"))

    def _end_beyond(self, granted: Grant) -> None:
        """The end, where a limit on money is passed."""
        spent, most = self._context.state.ledger.spent, self.record.options.limits.max_cost
        why = ""
        if most is not None and spent >= most - EPSILON:
            why = f"{money(spent)} spent of {money(most)}"
        elif not granted.short:
            self._short_since = None
        elif granted.final:
            why = granted.short
        elif self._short_since is None:
            self._short_since = trio.current_time()
        elif trio.current_time() >= self._short_since + BUDGET_PATIENCE:
            why = granted.short
        if why and not self._end.has_begun():
            self._driver.log(self._context.entry("limit", Outcome.COST_EXCEEDED, reason=why))
            self._end.begin(why, SessionStatus.STOPPED, outcome=Outcome.COST_EXCEEDED)

    # --- afterwards -------------------------------------------------------------------------------

    async def _settle(self, seconds: float) -> None:
        """What it came to, by claude's own record."""
        context, meter, failure = self._context, self._meter, self._end.failure
        exact = True
        try:
            async with self._counting:
                for reading in await meter.finish():
                    await self._count(reading)
        except CmsError as error:
            self._end.note(error)
            exact = False
        exact = exact and meter.exact
        state = context.state
        ledger = msgspec.structs.replace(state.ledger, exact=state.ledger.exact and exact)
        context.state = msgspec.structs.replace(state, ledger=ledger, turns=state.turns + meter.turns)
        self._driver.process_gone()
        outcome, error_text = self._outcome(failure)
        finished = msgspec.structs.replace(
            ended(self.interaction, outcome, error_text, at=context.now()),
            response=meter.answer,
            cost=ledger.spent - self._spent_before,
            cost_exact=exact,
            turns=meter.turns,
            duration=seconds,
            usage=self._usage,
        )
        self._pending.update(finished)
        self._driver.store_end(finished)

    def _outcome(self, failure: CmsError | None) -> tuple[Outcome, str]:
        if failure is not None:
            return Outcome.FAILED, str(failure)
        if self._end.outcome is not None:
            return self._end.outcome, self._end.reason
        if self._end.forced:
            return Outcome.INTERRUPTED, self._end.reason
        return Outcome.COMPLETED, ""
