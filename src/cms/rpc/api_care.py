"""The words for what is done to sessions besides work: pausing, branching, deleting, waiting, figures.

A module of its own because the commands that only ask (`list`, `status`, `output`, `send`) need none of them,
and each record takes time to define. The rules of `api` hold here too.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from cms.rpc.api import AcceptedReply, Nothing, SessionReply
from cms.session.model import Interaction, Receipt, Record, Reply, SessionRecord, TokenUsage
from cms.session.questions import LiveSession, OpenQuestion

# --- the session's life -------------------------------------------------------------------------


class PauseParams(Record, frozen=True):
    """Take no more messages; with `freeze`, also stop the whole process tree at once."""

    name: str
    freeze: bool = False


class ForkParams(Record, frozen=True):
    """Branch a conversation into a new session and send that its first message."""

    name: str
    new_name: str
    message: str
    model: str = ""  # "": the parent's
    wait: bool = True


class DeleteParams(Record, frozen=True):
    name: str
    force: bool = False  # a live session is killed first
    purge: bool = False  # the raw log is removed, not moved to the trash, and the audit log with it


class CleanupParams(Record, frozen=True):
    """Delete what has not changed for so many days."""

    days: Annotated[float, msgspec.Meta(ge=0)]
    dry_run: bool = False
    force: bool = False
    purge: bool = False


class Deleted(Record, frozen=True):
    """A session that is gone (or with `dry_run` would be), and where its logs are now."""

    session: SessionRecord
    log: str  # the path it was moved to; "" if there was none, or it was removed
    log_bytes: int
    receipt: Receipt | None = None  # how a live one was ended
    audited: bool = True  # its audit log is still there


class CleanupReply(Record, frozen=True):
    deleted: tuple[Deleted, ...]
    live: tuple[SessionRecord, ...]  # old enough, but alive: left alone
    trash_files: int = 0  # old logs that were removed from the trash
    trash_bytes: int = 0
    audit_logs: int = 0  # of sessions deleted long ago, that were removed with `purge`


# --- waiting and watching -----------------------------------------------------------------------


class WaitParams(Record, frozen=True):
    """Until the sessions (or the first of them) have nothing left to do."""

    names: tuple[str, ...]
    first: bool = False
    timeout: float | None = None  # seconds


class Waited(Record, frozen=True):
    """A session with nothing left to do, and the last thing that it did."""

    session: SessionRecord
    last: Interaction | None


class WaitReply(Record, frozen=True):
    """Those that are through, in the order asked for; `waiting`: those that are not."""

    done: tuple[Waited, ...]
    waiting: tuple[str, ...] = ()
    timed_out: bool = False


class OverviewReply(Record, frozen=True):
    sessions: tuple[LiveSession, ...]
    spent_today: float
    at: float


# --- questions ----------------------------------------------------------------------------------


class Unanswered(Record, frozen=True):
    """A message that ended because a person was needed: answered by going on with the session."""

    session: SessionRecord
    interaction: Interaction


class AskParams(Record, frozen=True):
    name: str = ""  # "": all sessions


class AskReply(Record, frozen=True):
    open: tuple[OpenQuestion, ...]
    unanswered: tuple[Unanswered, ...]


class AnswerParams(Record, frozen=True):
    """A person's word on a call that waits.

    `texts` for a question: one answer for each, a choice's label or number (several with commas where that
    is allowed) or words of one's own. For a permission: `allow` or `deny`.
    """

    name: str
    texts: tuple[str, ...] = ()
    id: str = ""  # "": the only one that waits
    deny: bool = False
    message: str = ""  # for the model: why not


class AnswerReply(Record, frozen=True):
    session: SessionRecord
    question: OpenQuestion
    left: int  # that still wait in this session


# --- figures ------------------------------------------------------------------------------------

Grouping = Literal["session", "model", "day"]


class CostParams(Record, frozen=True):
    by: Grouping = "session"
    since: float | None = None


class CostRow(Record, frozen=True):
    """`key` is a session's id, a model or a day; `name` the session's name."""

    key: str
    name: str
    usage: TokenUsage
    exact: bool


class CostReply(Record, frozen=True):
    rows: tuple[CostRow, ...]
    total: TokenUsage
    exact: bool


#: As `api.METHODS`.
METHODS: dict[str, tuple[type[Record], tuple[type[Record], ...]]] = {
    "session.pause": (PauseParams, (SessionReply,)),
    "session.fork": (ForkParams, (Reply, AcceptedReply)),
    "session.delete": (DeleteParams, (Deleted,)),
    "session.answer": (AnswerParams, (AnswerReply,)),
    "sessions.cleanup": (CleanupParams, (CleanupReply,)),
    "sessions.wait": (WaitParams, (WaitReply,)),
    "sessions.overview": (Nothing, (OverviewReply,)),
    "sessions.questions": (AskParams, (AskReply,)),
    "ledger.totals": (CostParams, (CostReply,)),
}
