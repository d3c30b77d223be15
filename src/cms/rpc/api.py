"""The words between a command and the daemon: JSON-RPC 2.0, one object a line, over a Unix socket.

A request names a method of `METHODS`; its params and its result are the structs given there. While a
request waits, the daemon may send notifications about it:

- `accepted` (`Accepted`): the message is on disk; from here on it is not lost whatever happens;
- `progress` (`ProgressNote`): what the session is doing; droppable.

A client may send one notification, `cancel` (`Cancel`): stop waiting, and where the request owns its work
(`delegate`, `continue` without `detach`) stop that work too. The request is still answered. A client that
goes away without a word counts as `cancel`.

The first request on a connection must be `hello`. Errors carry `ErrorData`, from which the client builds
the same exception that was raised in the daemon.

Stable across protocol versions, so that an old daemon can always be told to go: the framing, `hello` and
`daemon.stop`. Everything else is refused between two ends that disagree on `PROTOCOL`. Members may be added
anywhere as long as they have a default: both ends ignore what they do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from cms.session.budget import Budget
from cms.session.model import (
    DelegateResult,
    Interaction,
    Limits,
    Progress,
    Receipt,
    Record,
    Reply,
    SessionOptions,
    SessionRecord,
)

#: Raised whenever the meaning of a method changes. Both ends must agree on it.
PROTOCOL = 1

#: A longer line than this is refused by both ends (a prompt of 16 MiB is a mistake).
MAX_LINE = 32 * 1024 * 1024


#: JSON-RPC's own error codes, the one that it leaves to servers, and the one that LSP gave to cancellation.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
REQUEST_CANCELLED = -32800

#: Chosen by the client, unique among its requests under way. Bounded to what every JSON reader keeps exact.
RequestId = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Request(msgspec.Struct, omit_defaults=True):
    """One call, or (without id) one notification."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: RequestId | None = None
    jsonrpc: Literal["2.0"] = "2.0"


class ErrorData(Record, frozen=True):
    """What a client needs to raise the daemon's exception again."""

    code: str
    message: str
    hint: str = ""
    exit_code: int = 1
    fields: Mapping[str, str | int | float | None] = {}  # the exception's own: `name`, `nearest` ...


class RpcError(msgspec.Struct):
    """JSON-RPC's error object. `code` is `SERVER_ERROR` for ours, else one of the standard's."""

    code: int
    message: str
    data: ErrorData | None = None


class Response(msgspec.Struct, omit_defaults=True):
    """The end of one call.

    `kind` names the result's struct where the method has several (`METHODS`). It stands here because the
    structs are records that live without any protocol: tags would follow them into the store and `--json`.
    """

    id: int | None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | None = None
    kind: str = ""
    jsonrpc: Literal["2.0"] = "2.0"


class Readiness(Record, frozen=True):
    """The one line that a daemon writes to whoever started it: I serve, another one does, or I cannot."""

    pid: int  # who serves this home; 0 with `error`
    taken: bool = False  # another daemon had the home already: the one who writes this leaves
    error: ErrorData | None = None


# --- notifications ------------------------------------------------------------------------------


class Accepted(Record, frozen=True):
    request_id: int
    session_id: str
    interaction_id: str
    name: str = ""


class ProgressNote(Record, frozen=True):
    request_id: int
    progress: Progress
    dropped: int = 0  # notes lost just before this one because this client was slow


class Cancel(Record, frozen=True):
    request_id: int


# --- params -------------------------------------------------------------------------------------


class Nothing(Record, frozen=True):
    """No params, or no result worth a word."""


class Hello(Record, frozen=True):
    """Who calls. `environ` is what sessions that this client starts or brings back are started with.

    `depth` is what their `SessionRecord.depth` will be: 0 for a person's commands, 1 for an MCP client's.
    """

    version: str
    protocol: int
    environ: dict[str, str] = msgspec.field(default_factory=dict)
    depth: int = 0


class HelloReply(Record, frozen=True):
    version: str
    protocol: int
    pid: int
    home: str
    stopping: bool = False  # it is about to leave: wait for the end of the connection, then start another


class SpawnParams(Record, frozen=True):
    """Create a session and send it its first prompt."""

    options: SessionOptions
    prompt: str
    stop: bool = False  # stop the process after the answer
    wait: bool = True  # False: answer as soon as the message is accepted


class SendParams(Record, frozen=True):
    """Send a message; a session that is not alive is resumed first."""

    name: str
    message: str
    stop: bool = False
    wait: bool = True


class ResumeParams(Record, frozen=True):
    """Bring a stopped or paused session back; with a message, also send it."""

    name: str
    message: str | None = None
    wait: bool = True


class DelegateParams(Record, frozen=True):
    """One task under limits. The session is stopped at the end."""

    options: SessionOptions
    task: str
    context: str = ""
    detach: bool = False  # answer once accepted; the work belongs to the daemon


class ContinueParams(Record, frozen=True):
    """A follow-up to a delegated session, under its limits (or raised ones)."""

    name: str
    message: str
    limits: Limits | None = None
    detach: bool = False


class NameParams(Record, frozen=True):
    name: str


class StopParams(Record, frozen=True):
    name: str
    grace: float = 10.0  # seconds for the whole ladder before force


class ListParams(Record, frozen=True):
    status: str = ""


class InteractionsParams(Record, frozen=True):
    name: str
    last: int | None = None  # only the newest N


class WatchParams(Record, frozen=True):
    """Follow a session until it ends or the client leaves."""

    name: str


class SetBudgetParams(Record, frozen=True):
    """Caps in US dollars, by scope (`session.budget`); null takes one off, what is not named stays."""

    caps: dict[str, Annotated[float, msgspec.Meta(ge=0)] | None]


class DaemonStopParams(Record, frozen=True):
    """Stop every session gracefully within `grace` seconds, then leave."""

    grace: float = 10.0


# --- results ------------------------------------------------------------------------------------


class AcceptedReply(Record, frozen=True):
    """The answer to a call that did not wait."""

    name: str
    session_id: str
    interaction_id: str


class SessionReply(Record, frozen=True):
    session: SessionRecord
    activity: str = ""  # what it is doing now, in a line


class SessionsReply(Record, frozen=True):
    sessions: tuple[SessionRecord, ...]
    total_cost_usd: float


class InteractionsReply(Record, frozen=True):
    session: SessionRecord
    interactions: tuple[Interaction, ...]


class StopReply(Record, frozen=True):
    session: SessionRecord
    receipt: Receipt | None  # None: nothing was alive


class DaemonStatus(Record, frozen=True):
    pid: int
    version: str
    home: str
    uptime: float
    live: int
    sessions: int
    clients: int
    containment: str  # the mechanism and its level
    claude: str  # path of the binary, or what is wrong with it
    idle_exit: float | None  # seconds of idleness after which it leaves


#: What a `cancel` ends early; the answer says so. The others are short, or not to be left half done.
CANCELLABLE = frozenset(
    {
        "session.spawn",
        "session.send",
        "session.resume",
        "session.delegate",
        "session.continue",
        "session.watch",
        "session.fork",
        "sessions.wait",
        "batch.run",
        "batch.follow",
    }
)

#: method -> (params, result). `spawn`, `send`, `resume` answer `AcceptedReply` when they do not wait,
#: and so do `delegate` and `continue` when detached. They also answer so when they are cancelled after the
#: message was accepted; a `delegate` or `continue` that is cancelled answers its result, `interrupted`.
METHODS: dict[str, tuple[type[Record], tuple[type[Record], ...]]] = {
    "hello": (Hello, (HelloReply,)),
    "session.spawn": (SpawnParams, (Reply, AcceptedReply)),
    "session.send": (SendParams, (Reply, AcceptedReply)),
    "session.resume": (ResumeParams, (Reply, AcceptedReply, SessionReply)),
    "session.delegate": (DelegateParams, (DelegateResult, AcceptedReply)),
    "session.continue": (ContinueParams, (DelegateResult, AcceptedReply)),
    "session.interrupt": (NameParams, (SessionReply,)),
    "session.stop": (StopParams, (StopReply,)),
    "session.kill": (NameParams, (StopReply,)),
    "session.get": (NameParams, (SessionReply,)),
    "session.list": (ListParams, (SessionsReply,)),
    "session.interactions": (InteractionsParams, (InteractionsReply,)),
    "session.watch": (WatchParams, (SessionReply,)),
    "budget.get": (Nothing, (Budget,)),
    "budget.set": (SetBudgetParams, (Budget,)),
    "daemon.status": (Nothing, (DaemonStatus,)),
    "daemon.stop": (DaemonStopParams, (Nothing,)),
}
