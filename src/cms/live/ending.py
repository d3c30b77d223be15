"""Why a session ends: the first reason counts, and every task of it may have one.

Here an end only begins: `runner.run` waits for it and walks down the ladder. What comes while it is under way
may make it quicker, never undo it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import trio

from cms.errors import AgentDied, AgentError, ClaudeUnfit, CmsError, InternalError
from cms.live.context import SessionContext
from cms.live.stop_ladder import Ladder
from cms.session.model import Outcome, SessionStatus


class Ending:
    """The end of one session.

    Attributes:
        failure: what went wrong, or None; the first such thing.
        reason: in words, once it has begun.
        grace: seconds that the whole of it may take.
        outcome: what the messages end with that were never sent, if it is not for its reason to say.
        forced: no politeness.
    """

    def __init__(self, context: SessionContext) -> None:
        self.failure: CmsError | None = None
        self.reason = ""
        self.grace = math.inf
        self.outcome: Outcome | None = None
        self.forced = False
        self._context = context
        self._begun = trio.Event()
        self._ladder: Ladder | None = None

    def __repr__(self) -> str:
        return f"<Ending {self.reason!r}>" if self.has_begun() else "<Ending not begun>"

    def has_begun(self) -> bool:
        """Whether there is a reason: no more messages are taken."""
        return self._begun.is_set()

    async def wait(self) -> None:
        """Until there is a reason."""
        await self._begun.wait()

    def begin(
        self, reason: str, status: SessionStatus, *, grace: float = math.inf, outcome: Outcome | None = None
    ) -> None:
        """A reason to end, within `grace` seconds."""
        if self.has_begun():
            # Under way already; it may have to be quicker.
            if self._ladder is not None:
                self._ladder.hurry_within(grace)
            self.grace = min(self.grace, grace)
            return
        self.reason = reason
        self.grace = grace
        self.outcome = outcome
        self._context.set_end_status(status)
        self._begun.set()
        self._context.signal_change()

    def force(self, reason: str) -> None:
        """A reason to end by force; one that was under way is forceful from now on."""
        self.forced = True
        self.begin(reason, SessionStatus.KILLED)
        self._context.set_end_status(SessionStatus.KILLED)
        self.hurry()

    def fail(self, error: CmsError) -> None:
        """Something went wrong: the first such thing is told, and the end begins.

        That claude is none to work with explains how it died.
        """
        if isinstance(error, ClaudeUnfit) and isinstance(self.failure, AgentDied | ClaudeUnfit):
            self.failure, self.reason = error, str(error)
        if self.has_begun() and isinstance(error, AgentError):
            return  # how a process behaves that is being ended is no news
        self.note(error)
        self.begin(str(error), SessionStatus.FAILED)

    def note(self, error: CmsError) -> None:
        """Something went wrong while it ended, or after: too late to be the reason."""
        self.failure = self.failure or error

    def bug(self, error: Exception) -> InternalError:
        """What to tell of an error that nobody expected."""
        bug = InternalError(f"in session {self._context.record.name!r}: {error!r}")
        bug.__cause__ = error
        return bug

    async def guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run it: its failure is a reason to end, for the session and for nobody else."""
        try:
            await task()
        except CmsError as error:
            self.fail(error)
        except Exception as error:
            self.fail(self.bug(error))

    def use(self, ladder: Ladder) -> None:
        """There is a process, and this is the way down."""
        self._ladder = ladder
        if self.forced:
            ladder.hurry()

    def hurry(self) -> None:
        """There is no point in being polite (any more)."""
        if self._ladder is not None:
            self._ladder.hurry()
