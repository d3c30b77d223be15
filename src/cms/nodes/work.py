"""One assignment, done through this machine's own daemon: container, limits and receipt as everywhere.

A `Run` is blocking, in a thread of its own. Other threads cancel it and extend its lease. It owns its session
by a lease (`rpc.wire`): where this process is frozen, killed or cut off from its engine, the daemon ends the
session when the lease is over, whoever is left to ask it to.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec

from cms.batch.remote import GRACE, Assignment, Card, Done, Pulse, Trouble
from cms.config import Settings
from cms.errors import (
    ClaudeNotFound,
    ClaudeUnfit,
    CmsError,
    ContainmentError,
    HomeUnusable,
    Interrupted,
    MachineError,
    SessionNotFound,
    UsageError,
    WorkDirError,
)
from cms.nodes import artifacts
from cms.nodes.checkout import Checkout, CheckoutError, check_out, checked_out
from cms.nodes.state import NodeFolder
from cms.rpc.audit import SESSION_AUDIT, AuditParams
from cms.rpc.client import Client, connect
from cms.rpc.sessions import (
    SESSION_CONTINUE,
    SESSION_DELEGATE,
    SESSION_GET,
    AcceptedResult,
    ContinueParams,
    DelegateParams,
    NameParams,
)
from cms.rpc.wire import Accepted, ProgressNote
from cms.session.audit import let_through
from cms.session.model import DelegateResult, Outcome

log = logging.getLogger(__name__)

#: Nothing was begun, and it is this node's fault: another one may take it.
_NOT_HERE = (ContainmentError, ClaudeNotFound, ClaudeUnfit, WorkDirError, HomeUnusable)
#: Words of the activity that are told.
_LONG = 80


class Run:
    """One assignment at work.

    Attributes:
        pulse: what is told of it.
    """

    def __init__(self, settings: Settings, card: Card, job: Assignment, work: Path) -> None:
        self.job = job
        self.session = job.session
        self.pulse = Pulse(card.id, activity="begins")
        self._settings = settings
        self._node, self._work = settings.home / "node", work
        self._checkout: Checkout | None = None
        self._card = card
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._cancelled = ""
        self._accepted = False
        self.lease = 0.0

    def __repr__(self) -> str:
        return f"<Run {self.job.id} {self.pulse.activity}>"

    # --- from other threads -----------------------------------------------------------------------

    def cancel(self, why: str) -> None:
        """End it, in a way that it can go on from."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = why
            if self._client is not None:
                self._client.cancel()

    def extend(self, seconds: float) -> None:
        """Its session may live so many seconds longer."""
        with self._lock:
            self.lease = max(seconds, 0.0)
            if self._client is not None and not self._cancelled:
                self._client.extend(self.lease)

    # --- in its own thread ------------------------------------------------------------------------

    def do(self) -> Done:
        """Do it, to its end. Never raises."""
        try:
            with connect(self._settings) as client:
                with self._lock:
                    if self._cancelled:
                        raise Interrupted(f"cancelled before it started: {self._cancelled}")
                    self._client = client
                try:
                    result = self._ask(client)
                finally:
                    with self._lock:
                        self._client = None
            return self._done(result)
        except CmsError as error:
            return self._failed(error)
        except Exception as error:
            log.exception("assignment %s failed because of a bug in cms", self.job.id)
            return self._failed(CmsError(f"internal error: {type(error).__name__}: {error}"))

    def _ask(self, client: Client) -> DelegateResult:
        job = artifacts.unpacked(self.job)
        if job.go_on:
            if job.repo is not None:
                self._checkout = checked_out(job.repo, self._node, self._work, self.session)
            answer = client.call(
                SESSION_CONTINUE,
                ContinueParams(self.session, job.prompt),
                on_accepted=self._on_accepted,
                on_progress=self._on_progress,
                lease=self.lease,
                grace=GRACE * job.heartbeat,
            )
        else:
            options = msgspec.structs.replace(job.options, name=self.session)
            if job.repo is not None:
                self.pulse = msgspec.structs.replace(self.pulse, activity="checks out its repository")
                self._checkout = check_out(job.repo, self._node, self._work, self.session, job.artifacts)
                options = msgspec.structs.replace(options, work_dir=str(self._checkout.folder))
            if not Path(options.work_dir).is_dir():
                raise WorkDirError(f"there is no folder {options.work_dir} on node {self._card.id}")
            answer = client.call(
                SESSION_DELEGATE,
                DelegateParams(options, job.prompt, job.context),
                on_accepted=self._on_accepted,
                on_progress=self._on_progress,
                lease=self.lease,
                grace=GRACE * job.heartbeat,
            )
        if isinstance(answer, AcceptedResult):
            raise Interrupted("it was not waited for")
        return answer

    def _on_accepted(self, _accepted: Accepted) -> None:
        self._accepted = True

    def _on_progress(self, note: ProgressNote) -> None:
        progress = note.progress
        pulse = msgspec.structs.replace(self.pulse, cost=progress.cost, turns=progress.turns)
        if progress.kind == "retry":
            pulse = msgspec.structs.replace(pulse, retries=pulse.retries + 1)
        elif progress.kind in ("text", "tool", "turn"):
            pulse = msgspec.structs.replace(pulse, answered=True)
        said = progress.tool or progress.text
        if said and progress.kind in ("tool", "status", "retry", "denied", "rate_limit"):
            pulse = msgspec.structs.replace(pulse, activity=said.splitlines()[0][:_LONG])
        self.pulse = pulse

    def _done(self, result: DelegateResult) -> Done:
        if _came_to_nothing(result) and (why := NodeFolder(self._settings.home).disk_trouble()):
            # It was accepted, and then there was no room to begin it: it is not the task that has failed.
            trouble = Trouble(HomeUnusable.code, f"{why}: {result.error}")
            return Done(self._card.id, self._card.host, trouble=trouble, refused=True)
        done = Done(self._card.id, self._card.host, result, begun=True)
        done = msgspec.structs.replace(done, cost=result.cost, exact=result.cost_exact)
        if self._checkout is not None:
            done = self._with_patch(done, result, self._checkout)
        if result.status is Outcome.COMPLETED:
            return done
        return msgspec.structs.replace(done, allowed=self._allowed())

    def _with_patch(self, done: Done, result: DelegateResult, checkout: Checkout) -> Done:
        """With what was changed. Where that cannot be read or pushed, a task that completed has not."""
        job = self.job
        try:
            done = msgspec.structs.replace(done, patch=checkout.patch())
            if done.patch and job.branch and job.repo is not None:
                self.pulse = msgspec.structs.replace(self.pulse, activity="pushes its branch")
                message = f"{job.task}\n\nBatch {job.batch}, session {job.session} at {self._card.host}"
                commit = checkout.push(job.repo.url, job.branch, message)
                done = msgspec.structs.replace(done, branch=job.branch, commit=commit)
            return done
        except CheckoutError as error:
            told = f"{error}; the folder is {checkout.folder} on node {self._card.id}"
            status = Outcome.FAILED if result.status is Outcome.COMPLETED else result.status
            failed = msgspec.structs.replace(result, status=status, error=result.error or told)
            return msgspec.structs.replace(done, result=failed)

    def told(self, done: Done) -> None:
        """The engine has the answer: what a task that completed has left here is of no more use."""
        result = done.result
        if self._checkout is not None and result is not None and result.status is Outcome.COMPLETED:
            self._checkout.remove()

    def _allowed(self) -> tuple[str, ...]:
        """The tools that were let through; "?" where nobody can tell: that may have changed something."""
        try:
            with connect(self._settings) as client:
                log_of_it = client.call(SESSION_AUDIT, AuditParams(self.session))
            return tuple(let_through(row.entry for row in log_of_it.rows).values())
        except CmsError as error:
            log.warning("assignment %s: its audit log cannot be read: %s", self.job.id, error)
            return ("?",)

    def _failed(self, error: CmsError) -> Done:
        trouble = Trouble(error.code, error.message, error.hint)
        done = Done(self._card.id, self._card.host, trouble=trouble)
        if not self._accepted:
            if isinstance(error, _NOT_HERE):
                return msgspec.structs.replace(done, refused=True)
            if isinstance(error, UsageError | artifacts.ArtifactError | CheckoutError):
                return done
            if not isinstance(error, MachineError):
                return msgspec.structs.replace(done, begun=True, exact=False)
        # The daemon died over it, or its disk is full: what it took stands in the store, if anywhere. What
        # does not stand there was never sent.
        try:
            with connect(self._settings) as client:
                session = client.call(SESSION_GET, NameParams(self.session)).session
        except SessionNotFound:
            return msgspec.structs.replace(done, refused=True)
        except CmsError:
            return msgspec.structs.replace(done, begun=True, exact=False, allowed=("?",))
        return msgspec.structs.replace(
            done, begun=True, cost=session.total_cost_usd, exact=False, allowed=self._allowed()
        )


def _came_to_nothing(result: DelegateResult) -> bool:
    """Whether it has failed before the model had said or done anything."""
    did = result.turns or result.tool_calls or result.cost or not result.cost_exact
    return result.status is Outcome.FAILED and not did
