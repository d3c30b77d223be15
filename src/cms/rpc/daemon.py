"""The daemon itself: the handshake, what it says of itself, its end."""

from __future__ import annotations

import msgspec

from cms.rpc.verbs import Nothing, Verb
from cms.rpc.wire import ErrorData
from cms.session.model import Record


class Readiness(Record, frozen=True):
    """The one line that a daemon writes to whoever started it: I serve, another one does, or I cannot."""

    pid: int  # who serves this home; 0 with `error`
    taken: bool = False  # another daemon had the home already: the one who writes this leaves
    error: ErrorData | None = None


class Hello(Record, frozen=True):
    """Who calls. `environ` is what sessions that this client starts or brings back are started with.

    `depth` is what their `SessionRecord.depth` will be: 0 for a person's commands, 1 for an MCP client's.
    """

    version: str
    protocol: int
    environ: dict[str, str] = msgspec.field(default_factory=dict)
    depth: int = 0


class HelloResult(Record, frozen=True):
    version: str
    protocol: int
    pid: int
    home: str
    stopping: bool = False  # it is about to leave: wait for the end of the connection, then start another


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
    idle_exit: float | None  # it leaves after so many idle seconds


class DaemonStopParams(Record, frozen=True):
    """Stop every session gracefully within `grace` seconds, then leave."""

    grace: float = 10.0


HELLO = Verb(
    "hello", Hello, HelloResult, inside=True, idempotent=True, while_stopping=True, any_protocol=True
)
DAEMON_STATUS = Verb("daemon.status", Nothing, DaemonStatus, idempotent=True, while_stopping=True)
DAEMON_STOP = Verb(
    "daemon.stop", DaemonStopParams, Nothing, idempotent=True, while_stopping=True, any_protocol=True
)
