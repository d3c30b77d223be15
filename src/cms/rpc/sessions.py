"""Sessions: made, sent to, ended, looked at, cleared away."""

from __future__ import annotations

from typing import Annotated

import msgspec

from cms.rpc.verbs import Verb
from cms.session.hooks import Hooks
from cms.session.model import (
    Attachment,
    DelegateResult,
    Interaction,
    Order,
    Outcome,
    Receipt,
    Record,
    Reply,
    SessionOptions,
    SessionRecord,
)
from cms.session.terms import Terms

# --- work ---------------------------------------------------------------------------------------


class SpawnParams(Record, frozen=True):
    """Create a session and send it its first prompt."""

    options: SessionOptions
    prompt: str
    stop: bool = False  # stop the process after the answer
    wait: bool = True  # False: answer as soon as the message is accepted
    attachments: tuple[Attachment, ...] = ()  # files that go with it, kept before (`rpc.attachments`)
    hooks: Hooks = Hooks()


class SendParams(Record, frozen=True):
    """Send a message; a session that is not alive is resumed first."""

    name: str
    message: str
    stop: bool = False  # stop the process after the answer
    resume: bool = False  # a paused one goes on first
    wait: bool = True  # False: answer as soon as the message is accepted
    attachments: tuple[Attachment, ...] = ()  # files that go with it, kept before (`rpc.attachments`)
    hooks: Hooks = Hooks()


class ForkParams(Record, frozen=True):
    """Branch a conversation into a new session and send that its first message."""

    name: str
    new_name: str
    message: str
    model: str = ""  # "": the parent's
    wait: bool = True


class DelegateParams(Record, frozen=True):
    """One task under limits. The session is stopped at the end."""

    options: SessionOptions
    task: str
    context: str = ""
    detach: bool = False  # answer once accepted; the work belongs to the daemon
    attachments: tuple[Attachment, ...] = ()  # files that go with it, kept before (`rpc.attachments`)
    hooks: Hooks = Hooks()


class ContinueParams(Terms, frozen=True):
    """A follow-up to a delegated session, under its terms or those given from now on."""

    name: str
    message: str
    detach: bool = False
    attachments: tuple[Attachment, ...] = ()  # files that go with it, kept before (`rpc.attachments`)
    hooks: Hooks = Hooks()


class AttachParams(Record, frozen=True):
    """Have a session's conversation in claude's own interface, on a terminal, until it is left."""

    name: str
    terminal: str  # the device of a pseudo-terminal whose other end the asker holds
    who: str  # has it, for those who find it taken
    max_cost: float | None = None  # USD that the session may cost from now on; None: as before


class AttachResult(Record, frozen=True):
    """It was left. `stopped`: how the process before it was ended, None if there was none."""

    session: SessionRecord
    interaction: Interaction
    receipt: Receipt | None
    stopped: Receipt | None


class AcceptedResult(Record, frozen=True):
    """The answer to a call that did not wait."""

    name: str
    session_id: str
    interaction_id: str


class SessionResult(Record, frozen=True):
    session: SessionRecord
    activity: str = ""  # what it is doing now, in a line


#: Those that do not wait answer `AcceptedResult`, and so they all do when they are cancelled after the
#: message was accepted; but for `delegate` and `continue`, which then answer their result, `interrupted`.
SESSION_SPAWN = Verb("session.spawn", SpawnParams, Reply, cancellable=True, inside=True).or_(AcceptedResult)
SESSION_SEND = Verb("session.send", SendParams, Reply, cancellable=True, inside=True).or_(AcceptedResult)
SESSION_FORK = Verb("session.fork", ForkParams, Reply, cancellable=True).or_(AcceptedResult)
SESSION_DELEGATE = Verb(
    "session.delegate", DelegateParams, DelegateResult, cancellable=True, inside=True
).or_(AcceptedResult)
SESSION_CONTINUE = Verb(
    "session.continue", ContinueParams, DelegateResult, cancellable=True, inside=True
).or_(AcceptedResult)
#: It is accepted when claude is up, and cancelled when the terminal goes away.
SESSION_ATTACH = Verb("session.attach", AttachParams, AttachResult, cancellable=True)


# --- a session's life ---------------------------------------------------------------------------


class NameParams(Record, frozen=True):
    name: str


class PauseParams(Record, frozen=True):
    """Take no more messages; with `freeze`, also stop the whole process tree at once."""

    name: str
    freeze: bool = False


class RenameParams(Record, frozen=True):
    """Another name for a session, alive or not."""

    name: str
    new_name: str


class TagParams(Record, frozen=True):
    """Tags for a session, alive or not; what it has of `remove` it loses."""

    name: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()


class StopParams(Record, frozen=True):
    name: str
    grace: float = 10.0  # seconds for the whole ladder before force


class StopResult(Record, frozen=True):
    session: SessionRecord
    receipt: Receipt | None  # None: nothing was alive


class DeleteParams(Record, frozen=True):
    name: str
    force: bool = False  # a live session is killed first
    purge: bool = False  # the raw log is removed, not moved to the trash, and the audit log with it


class Deleted(Record, frozen=True):
    """A session that is gone (or with `dry_run` would be), and where its logs are now."""

    session: SessionRecord
    log: str  # the path it was moved to; "" if there was none, or it was removed
    log_bytes: int
    receipt: Receipt | None = None  # how a live one was ended
    audited: bool = True  # its audit log is still there


class CleanupParams(Record, frozen=True):
    """Delete what has not changed for so many days."""

    days: Annotated[float, msgspec.Meta(ge=0)]
    dry_run: bool = False
    force: bool = False
    purge: bool = False


class KeptSession(Record, frozen=True):
    """An old session that was left alone. `why`: what would be lost with it, and where that is."""

    name: str
    why: str
    lost: str = ""  # what would be, alone


class CleanupResult(Record, frozen=True):
    deleted: tuple[Deleted, ...]
    live: tuple[SessionRecord, ...]  # old enough, but alive: left alone
    trash_files: int = 0  # old logs that were removed from the trash
    trash_bytes: int = 0
    audit_logs: int = 0  # of sessions deleted long ago, that were removed with `purge`
    kept: tuple[KeptSession, ...] = ()


SESSION_RESUME = Verb("session.resume", NameParams, SessionResult, inside=True, idempotent=True)
SESSION_INTERRUPT = Verb("session.interrupt", NameParams, SessionResult, inside=True)
SESSION_PAUSE = Verb("session.pause", PauseParams, SessionResult, inside=True, idempotent=True)
SESSION_RENAME = Verb("session.rename", RenameParams, SessionResult)
SESSION_TAG = Verb("session.tag", TagParams, SessionResult, idempotent=True)
SESSION_STOP = Verb("session.stop", StopParams, StopResult, inside=True, idempotent=True)
SESSION_KILL = Verb("session.kill", NameParams, StopResult, inside=True, idempotent=True)
SESSION_DELETE = Verb("session.delete", DeleteParams, Deleted)
SESSIONS_CLEANUP = Verb("sessions.cleanup", CleanupParams, CleanupResult)


# --- looking and waiting ------------------------------------------------------------------------


#: Sessions in one answer: what lies in between is an answer of some hundred kilobytes and one of megabytes.
LISTED = 500
MAX_LISTED = 5000


class ListParams(Record, frozen=True):
    """One page: at most `limit` sessions in that order, from behind the one with the name `after` on.

    Attributes:
        status: only those in that status; or an outcome, with which their last message has ended.
        tags: only those that have all of them.
    """

    status: str = ""
    order: Order = "age"
    limit: Annotated[int, msgspec.Meta(ge=1)] = LISTED
    after: str = ""
    tags: tuple[str, ...] = ()


class SessionsResult(Record, frozen=True):
    """`total` and its cost are of all (in that status, with those tags), shown or not.

    Attributes:
        outcomes: by ids of sessions, how the last message of each has ended.
    """

    sessions: tuple[SessionRecord, ...]
    total_cost_usd: float
    total: int
    more: bool = False
    outcomes: dict[str, Outcome] = msgspec.field(default_factory=dict)


class InteractionsParams(Record, frozen=True):
    name: str
    last: int | None = None  # only the newest N


class InteractionsResult(Record, frozen=True):
    session: SessionRecord
    interactions: tuple[Interaction, ...]
    next_step: str | None = None  # after the newest (`session.next_step`)


class WatchParams(Record, frozen=True):
    """Follow a session until it ends or the client leaves."""

    name: str


class WaitParams(Record, frozen=True):
    """Until the sessions (or the first of them) have nothing left to do."""

    names: tuple[str, ...]
    first: bool = False
    timeout: float | None = None  # seconds


class Waited(Record, frozen=True):
    """A session with nothing left to do, and the last thing that it did."""

    session: SessionRecord
    last: Interaction | None
    next_step: str | None = None


class WaitResult(Record, frozen=True):
    """Those that are through, in the order asked for; `waiting`: those that are not."""

    done: tuple[Waited, ...]
    waiting: tuple[str, ...] = ()
    timed_out: bool = False


SESSION_GET = Verb("session.get", NameParams, SessionResult, inside=True, idempotent=True)
SESSION_LIST = Verb("session.list", ListParams, SessionsResult, inside=True, idempotent=True)
SESSION_INTERACTIONS = Verb(
    "session.interactions", InteractionsParams, InteractionsResult, inside=True, idempotent=True
)
SESSION_WATCH = Verb(
    "session.watch", WatchParams, SessionResult, cancellable=True, inside=True, idempotent=True
)
SESSIONS_WAIT = Verb("sessions.wait", WaitParams, WaitResult, cancellable=True, inside=True, idempotent=True)
