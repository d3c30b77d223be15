"""What is written down when a session's process has ended: its record, its receipt, the end of every message.

Whatever happened is written, and whoever waits for a message is told. Where the store cannot be written, what
it missed is kept and written by `save`, before anything new is.
"""

from __future__ import annotations

import msgspec

from cms.errors import CmsError, ControlTimeout, StoreError
from cms.live.context import SessionContext
from cms.live.driver import Driver
from cms.live.ending import Ending
from cms.live.log_rows import entries_of_end
from cms.live.pending import PendingMessages
from cms.live.process import AgentProcess
from cms.live.sender import Sender
from cms.live.stop_ladder import Ladder
from cms.protection.path_guard import PathGuard
from cms.session.model import Outcome, Receipt, SessionStatus, Walls
from cms.store import sessions
from cms.store.store import Store

#: claude's words when it cannot resume, and when it should have.
_NO_CONVERSATION = "No conversation found"
_IN_USE = "is already in use"
#: Failures that may be gone the next time.
_PASSING = StoreError | ControlTimeout


class FinalRecord:
    """Of one process.

    Attributes:
        receipt: how the process ended, once it has.
        unsaved: something of it is not on disk; `save` tries again.
        closed: nobody will look into the queue any more.
    """

    def __init__(
        self,
        context: SessionContext,
        end: Ending,
        driver: Driver,
        sender: Sender,
        *,
        store: Store,
        pending: PendingMessages,
        grace: float,
    ) -> None:
        self.receipt: Receipt | None = None
        self.unsaved = False
        self.closed = False
        self._context = context
        self._end = end
        self._driver = driver
        self._sender = sender
        self._store = store
        self._pending = pending
        self._grace = grace
        self._process: AgentProcess | None = None
        self._process_id = ""
        self._path_guard: PathGuard | None = None
        self._receipt_saved = False
        self._forgotten = False

    def __repr__(self) -> str:
        return f"<FinalRecord unsaved={self.unsaved} closed={self.closed}>"

    def take(self, process: AgentProcess, process_id: str, path_guard: PathGuard) -> None:
        """There is a process, whose end will be written down."""
        self._process = process
        self._process_id = process_id
        self._path_guard = path_guard

    def note_receipt(self, receipt: Receipt) -> None:
        """The process has ended so."""
        self.receipt = receipt

    def note_gone(self) -> None:
        """The process is gone. How it ended is told first: once it is over, anybody may read that."""
        self._tell_end()
        if self._process is not None:
            self._driver.process_gone()

    async def finish(self) -> None:
        """Whatever happened: write down how it ended, and let nobody wait for ever."""
        self.note_gone()
        if self._process is not None:
            self._driver.note_caps()
            await self._look_at_paths()
        self._tell_end()
        self._context.update(status=self._context.end_status, claude_session_id=self._conversation())
        self._driver.note_usage()
        await self.write()

    def _tell_end(self) -> None:
        """How it ended as far as that is known, for the record."""
        failure = self._end.failure
        error = "" if failure is None else str(failure)
        if not self._end.has_begun():
            self._context.set_end_status(SessionStatus.FAILED)
        if self._process is not None and (self.receipt is None or not self.receipt.empty):
            self._context.set_end_status(SessionStatus.ERROR)
            left = ", ".join(self.receipt.left) if self.receipt is not None else ""
            unproved = f"its end is not proved, processes may be left: {left or 'unknown'}"
            error = f"{error}; {unproved}" if error else unproved
        self._context.update(error=error, receipt=self.receipt, pid=None)

    async def _look_at_paths(self) -> None:
        """What became of the protected paths, for the record and the receipt. Not worth the end itself."""
        if self._path_guard is None:
            return
        try:
            walls = await self._path_guard.finish()
        except Exception as error:
            failure = error if isinstance(error, CmsError) else self._end.bug(error)
            self._end.note(failure)
            walls = msgspec.structs.replace(self._context.record.walls or Walls(), unchecked=str(failure))
        self._context.update(walls=walls)
        if self.receipt is not None:
            self.receipt = msgspec.structs.replace(self.receipt, walls=walls)

    @property
    def misled(self) -> bool:
        """Whether claude has said that it took the wrong one of two ways to begin: to resume, or anew."""
        refusal = self._driver.refusal
        return refusal.startswith(_NO_CONVERSATION) or _IN_USE in refusal

    def _conversation(self) -> str:
        """What the next process is to resume; "" for a conversation that never began.

        A message that was written need not have been read. But what claude wrote was read to the end, and
        there it says that it begins one. Where that is lost (a crash of ours) claude itself says that there
        is nothing to resume, or that there is, and the next attempt is right.
        """
        state, refusal = self._context.state, self._driver.refusal
        if refusal.startswith(_NO_CONVERSATION) and state.turns == 0:
            return ""
        begun = self._driver.begun or _IN_USE in refusal
        return state.conversation_id or (self._context.record.id if begun else "")

    async def kill_again(self) -> Receipt:
        """Try once more to end what the end has left alive, and store what came of it, unless it was deleted.

        Only after the end, and only where the receipt does not prove that nothing is left.
        """
        if self._process is None:
            return self.receipt or Receipt("never started", empty=True)
        ladder = Ladder(self._process, grace=self._grace)
        self.receipt = receipt = await ladder.kill("killed again", at=self._context.now())
        if receipt.empty:
            self._context.update(status=SessionStatus.KILLED, error="")
        self._context.update(receipt=receipt)
        self._receipt_saved = False
        if not self._forgotten:
            await self.write()
        return receipt

    def forget(self) -> None:
        """The session is being deleted: what is still to be ended of it is not written down any more."""
        self._forgotten = True

    async def save(self) -> None:
        """Try again to store the end.

        Raises:
            StoreError: it still cannot be written.
        """
        await self.write()
        if self.unsaved:
            raise self._end.failure or StoreError("cannot write the store")

    async def write(self) -> None:
        """Store the session as it ended, and the end of every message that is still owed one."""
        while True:
            self._sender.clear()
            failure = self._end.failure
            outcome = self._end.outcome or (Outcome.INTERRUPTED if failure is None else Outcome.FAILED)
            owed = self._pending.end_all(
                str(failure or self._end.reason),
                outcome,
                # What would only fail once more is not helped by being sent once more.
                again=self._end.outcome is None and isinstance(failure, _PASSING | None),
                at=self._context.now(),
            )
            receipt = None if self._receipt_saved else self.receipt
            error: CmsError | None = None
            try:
                await self._store.write(
                    sessions.save_end,
                    self._context.record,
                    [pending.interaction for pending in owed],
                    receipt,
                    process=self._process_id,
                    entries=() if receipt is None else tuple(entries_of_end(receipt, self._context.entry)),
                )
            except CmsError as refused:
                error = refused
            except Exception as bug:
                error = self._end.bug(bug)
            self._receipt_saved = self._receipt_saved or error is None
            if error is not None:
                self._end.note(error)
                self._context.update(error=str(error))
            # (Any other error than the store's: another cms has the session by now, and it is not ours.)
            self.unsaved = isinstance(error, StoreError)
            for pending in owed:
                self._driver.release(pending, error)
            if not len(self._sender):
                break
        # No await since the queue was seen empty: what comes later sees this.
        self.closed = True
