"""What is known of a live session: its record, its state, and the time.

All parts of a live session read it, and change it through its methods: the state by events alone (`fold`),
the record by `update`. It carries nothing out.

Whoever waits for it to be different waits for `wait_change`; whoever changes what is waited for says
`signal_change`.
"""

from __future__ import annotations

import time

import msgspec
import trio

from cms.live.work_clock import WorkClock
from cms.protocol.messages import Event
from cms.session.audit import AuditEntry, EntryKind
from cms.session.fold import fold
from cms.session.ledger import Ledger
from cms.session.model import Progress, ProgressKind, SessionRecord, SessionStatus
from cms.session.state import Phase, State
from cms.telemetry.session_trace import SessionTrace


class SessionContext:
    """Of one session, for the life of one process.

    Attributes:
        record: the session as it stands.
        state: what its events amount to.
        paused: it takes no messages for now.
        trace: is told what happens; None: nobody wants to know.
        end_status: what it will be once its process has ended.
    """

    def __init__(self, record: SessionRecord, trace: SessionTrace | None = None) -> None:
        self.record = record
        self.trace = trace
        self.state = State(
            conversation_id=record.claude_session_id,
            turns=record.total_turns,
            tool_calls=record.tool_calls,
            ledger=Ledger(spent=record.total_cost_usd, exact=record.cost_exact),
        )
        self.paused = False
        self.end_status = SessionStatus.STOPPED
        self._epoch = time.time() - trio.current_time()
        self._work = WorkClock()
        self._news = trio.Event()

    def __repr__(self) -> str:
        return f"<SessionContext {self.record.name!r} {self.state.phase}>"

    # --- time -------------------------------------------------------------------------------------

    def now(self) -> float:
        """The time on the wall, in seconds since 1970: for rows, days and what people read. It may jump."""
        return time.time()

    def _steady(self) -> float:
        """For spans: seconds that neither a clock that is set nor the machine's sleep add to or take from."""
        return self._epoch + trio.current_time()

    def work_now(self) -> float:
        """The time that the state knows: it stands still while the session is frozen."""
        return self._work.read(self._steady())

    def wall(self, reading: float) -> float:
        """When on the wall the state's time will be, or was, that."""
        steady = self._steady()
        return self.now() + self._work.wall(reading, steady) - steady

    @property
    def frozen(self) -> bool:
        """Whether the state's time stands still."""
        return self._work.halted

    def stop_clock(self) -> None:
        """The session is frozen from now on."""
        self._work.halt(self._steady())
        self.signal_change()

    def start_clock(self) -> None:
        """It is not any more."""
        self._work.go_on(self._steady())
        self.signal_change()

    # --- change -----------------------------------------------------------------------------------

    def signal_change(self) -> None:
        """Something that somebody may wait for is different."""
        self._news.set()
        self._news = trio.Event()

    async def wait_change(self) -> None:
        """Until the next `signal_change`. Look first, then wait, with no other await in between."""
        await self._news.wait()

    def fold(self, event: Event, at: float | None = None) -> None:
        """An event happened, now or (the state's time) at `at`."""
        self.state = fold(self.state, event, self.work_now() if at is None else at)

    def update(self, **changes: object) -> None:
        """The record is different in these fields."""
        self.record = msgspec.structs.replace(self.record, last_saved=self.now(), **changes)

    def set_paused(self, paused: bool) -> None:
        """It takes no messages, or takes them again."""
        self.paused = paused
        self.signal_change()

    def set_end_status(self, status: SessionStatus) -> None:
        """What it will be once its process has ended."""
        self.end_status = status

    # --- telling ----------------------------------------------------------------------------------

    def status(self) -> SessionStatus:
        """What the record is to say. A paused session is paused also while it finishes what it does."""
        match self.state.phase:
            case Phase.STARTING:
                return SessionStatus.STARTING
            case Phase.BUSY:
                return SessionStatus.PAUSED if self.paused or self.frozen else SessionStatus.BUSY
            case Phase.ENDED:
                return self.end_status
            case Phase.READY:
                return SessionStatus.PAUSED if self.paused else SessionStatus.READY

    def progress(self, kind: ProgressKind, text: str = "", *, tool: str = "") -> Progress:
        """A note for those who watch."""
        limits = self.record.options.limits
        return Progress(
            name=self.record.name,
            kind=kind,
            text=text,
            status=self.record.status,
            cost=self.state.ledger.spent,
            max_cost=limits.max_cost,
            turns=self.state.turns,
            max_turns=limits.max_turns,
            tool=tool,
            at=self.now(),
            interaction="" if self.state.turn is None else self.state.turn.id,
        )

    def entry(self, kind: EntryKind, verdict: str, detail: str = "", reason: str = "") -> AuditEntry:
        """An entry of the audit log about now. What the gate decides on a call has its own (driver.py)."""
        turn = self.state.turn
        return AuditEntry(
            session_id=self.record.id,
            interaction_id="" if turn is None else turn.id,
            at=self.now(),
            tool="",
            detail=detail,
            verdict=verdict,
            reason=reason,
            cost=self.state.ledger.spent,
            kind=kind,
        )
