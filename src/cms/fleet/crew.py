"""Who does the tasks of a batch: all that the engine (`batch_engine`) asks for, and who does it here.

The engine decides what is done when, and writes down what came of it. A crew does one try of a task, wherever
that may be, and gives facts: no policy is here. What goes to and fro (`Job`, `batch.ends.Report`,
`batch.retry.Remains`) are plain records.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Protocol

import msgspec
import trio

from cms.batch import retry
from cms.batch.ends import Found, Report, Used
from cms.batch.forecast import View
from cms.batch.model import Place, Task
from cms.errors import ClaudeUnfit, CmsError
from cms.fleet.batch_sessions import BatchSessions, News
from cms.groups import single_error
from cms.session.model import DelegateResult, Outcome, Record, SessionOptions


class Job(Record, frozen=True):
    """A try that is to be made.

    Attributes:
        prompt, context: with everything put in that they want.
        again: an earlier process may have begun to make it: it is followed then (`Crew.goes_on`).
    """

    task: Task
    prompt: str = ""
    context: str = ""
    again: bool = False


class NotDone(CmsError):
    """A try could not be made, or not be watched to its end. `cost`: US dollars that it took, at least.

    Attributes:
        begun: something of it was.
    """

    def __init__(self, error: CmsError, *, begun: bool, cost: float) -> None:
        super().__init__(error.message, hint=error.hint)
        self.error = error
        self.begun = begun
        self.cost = cost


class Elsewhere(CmsError):
    """Nothing of a try was begun: whoever was to make it cannot, and somebody else may."""


class Lost(CmsError):
    """Nobody will know what became of a try. `cost`: US dollars, the last that was heard."""

    def __init__(self, why: str, *, cost: float, place: Place | None) -> None:
        super().__init__(why)
        self.cost = cost
        self.place = place


class Crew(Protocol):
    """What the engine asks for.

    Attributes:
        goes_on: tries go on when nobody of this process looks on any more, and can be followed again.
        known_by: what does the tasks, for whoever goes on with the batch; "": this machine.
    """

    goes_on: bool
    known_by: str

    async def prepare(self) -> None:
        """See that tasks can be done at all, before a batch is begun.

        Raises:
            CmsError: they cannot.
        """

    async def run(
        self, changed: Callable[[], None], /, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Be at work, as long as the batch is; started when it is known whether it can.

        Args:
            changed: called when `room` or `word` may say otherwise.
        """

    def room(self) -> int | None:
        """How many tries at once are of use; None: what this machine bears."""

    def now(self) -> float | None:
        """The time by the clock of what does the tasks, seconds since the epoch; None: by this machine's."""

    def word(self) -> str:
        """Why nothing is done just now, for a person; "" if nothing is in the way."""

    def let_go(self) -> None:
        """From now on a `do` that is cancelled ends nothing: whoever goes on with the batch follows it."""

    async def do(self, job: Job, tell: Callable[[News], None]) -> Report:
        """Make a try, in the conversation of the last where the task says so (`go_on`).

        It is called once for each time that the task was marked as running. Cancelling it ends the try in
        a way that it can go on from; `look` then says what came of it.

        Args:
            tell: what the API does for it meanwhile.

        Raises:
            NotDone: nothing was started, or the house itself failed.
            Elsewhere, Lost: only from afar.
        """

    async def look(self, task: Task, *, check: bool) -> Found:
        """What became of a try whose end nobody saw: it was cancelled, or whoever watched it died.

        Args:
            check: run its checks, which may take a while, if they were cut off.

        Raises:
            Lost: nobody will know.
        """

    async def around(self, task: Task) -> str:
        """What the result of the task will rest on, beside the task itself.

        Raises:
            CmsError: that cannot be told.
        """

    async def slots(self) -> int | None:
        """How many tasks it does at once; None: what this machine bears.

        Raises:
            CmsError: there is nobody who could do one.
        """

    async def view(self, options: SessionOptions) -> View | None:
        """What a task with these options takes of our disk before it writes anything; None: nothing of ours.

        Raises:
            CmsError: it cannot be isolated as it asks.
        """

    async def used(self, task: Task) -> Used:
        """What the session of the task's name has taken so far; nothing if there is none."""

    async def keep(self, task: Task) -> None:
        """Have a process alive for the task's session."""


class LocalCrew:
    """The tasks of one batch as delegations on this machine."""

    goes_on = False
    known_by = ""

    def __init__(self, sessions: BatchSessions) -> None:
        self._sessions = sessions

    async def prepare(self) -> None:
        pass

    async def run(
        self,
        _changed: Callable[[], None],
        /,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        task_status.started()

    def room(self) -> int | None:
        return None

    def now(self) -> float | None:
        return None

    def word(self) -> str:
        return ""

    def let_go(self) -> None:
        pass

    async def do(self, job: Job, tell: Callable[[News], None]) -> Report:
        begun = False
        try:
            with single_error():
                async with trio.open_nursery() as listening:

                    def accepted(_: object) -> None:
                        nonlocal begun
                        begun = True
                        listening.start_soon(self._listen, job.task, tell)

                    result = await self._work(job, accepted)
                    listening.cancel_scope.cancel(reason="the try has ended")
            if (unfit := self._unfit(result)) is not None:
                raise NotDone(unfit, begun=not result.cost_exact, cost=result.cost)
            return await self._seen(job.task, Report(result))
        except NotDone:
            raise
        except CmsError as error:
            cost = 0.0
            if begun:
                with trio.CancelScope(shield=True):
                    cost = max(0.0, (await self.used(job.task)).cost - job.task.paid)
            raise NotDone(error, begun=begun, cost=cost) from error

    def _unfit(self, result: DelegateResult) -> ClaudeUnfit | None:
        return self._sessions.unfit(result.name) if result.status is Outcome.FAILED else None

    async def _work(self, job: Job, accepted: Callable[[object], None]) -> DelegateResult:
        task = job.task
        if task.go_on:
            return await self._sessions.go_on(task.name, retry.GO_ON, accepted)
        if task.before or task.tries > 1:
            await self._sessions.make_room(task.name)
        options = task.options
        return await self._sessions.begin(
            options.session, job.prompt, job.context, accepted, options.attachments
        )

    async def _listen(self, task: Task, tell: Callable[[News], None]) -> None:
        async with aclosing(self._sessions.news(task.name)) as news:
            async for word in news:
                tell(word)

    async def _seen(self, task: Task, report: Report) -> Report:
        """With what it did, where that matters."""
        if not task.options.retries or report.result.status is Outcome.COMPLETED:
            return report
        acted = retry.may_have_acted(await self._sessions.allowed_tools(task.name))
        return msgspec.structs.replace(report, acted=acted)

    async def look(self, task: Task, *, check: bool) -> Found:
        found = await self._sessions.traces(task.name, task.before, task.messages, check=check)
        if isinstance(found, Report) and self._unfit(found.result) is not None and not found.result.turns:
            return None  # it can simply be begun, with another claude
        return await self._seen(task, found) if isinstance(found, Report) else found

    async def around(self, task: Task) -> str:
        return await self._sessions.around(task.options.session.work_dir)

    async def slots(self) -> int | None:
        return None

    async def view(self, options: SessionOptions) -> View | None:
        return await self._sessions.view(options)

    async def used(self, task: Task) -> Used:
        return await self._sessions.used(task.name)

    async def keep(self, task: Task) -> None:
        await self._sessions.keep(task.name)
