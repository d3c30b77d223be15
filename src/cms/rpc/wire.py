"""The words between a command and the daemon: JSON-RPC 2.0, one object a line, over a Unix socket.

A request names a verb (`rpc.verbs`), which says what its params and its result are. While a
request waits, the daemon may send notifications about it:

- `accepted` (`Accepted`): the message is on disk; from here on it is not lost whatever happens;
- `progress` (`ProgressNote`): what the session is doing; droppable.

A client may send two notifications. `cancel` (`Cancel`): stop waiting, and where the request owns its work
(`delegate`, `continue` without `detach`) stop that work too. The request is still answered. A client that
goes away without a word counts as `cancel`. `lease` (`Lease`): for a request that was sent with a lease, so
many seconds more. When a lease has run out, that counts as `cancel` too: a client that hangs, or was frozen,
owns nothing for longer than it said. `grace` of a request: seconds for which its work is ended politely.

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

from cms.errors import CmsError, ExitCode
from cms.session.model import Progress, Record

#: Raised whenever the meaning of a verb changes. Both ends must agree on it.
PROTOCOL = 2

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


#: From now on. A week is more than anybody can mean.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=604_800)]


class Request(msgspec.Struct, omit_defaults=True):
    """One call, or (without id) one notification."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: RequestId | None = None
    jsonrpc: Literal["2.0"] = "2.0"
    lease: Seconds | None = None  # cancelled then, unless a `lease` says otherwise; None: never
    grace: Seconds | None = None  # of a cancelled one's end, before it is forced; None: by the settings


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

    `kind` names the struct of the result where the verb has several. It stands here because the
    structs are records that live without any protocol: tags would follow them into the store and `--json`.
    """

    id: int | None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | None = None
    kind: str = ""
    jsonrpc: Literal["2.0"] = "2.0"


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


class Lease(Record, frozen=True):
    request_id: int
    seconds: Seconds


def notification(method: str, params: Record) -> bytes:
    """A notification as a line."""
    return msgspec.json.encode(Request(method, msgspec.Raw(msgspec.json.encode(params)))) + b"\n"


# --- lines ----------------------------------------------------------------------------------------


class OverlongLine(ValueError):
    """The peer wrote a line that passes the limit; what follows cannot be understood any more."""


class LineBuffer:
    """Bytes in, lines out. Bounded, and each byte is looked at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._searched = 0  # no line feed before this index

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | memoryview) -> None:
        self._data += data

    def next_line(self) -> bytes | None:
        """The next whole line without its end, or None when more bytes are needed.

        Raises:
            OverlongLine: more than the limit without a line feed.
        """
        end = self._data.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._data)
        if max(end, self._searched) > self._limit:
            raise OverlongLine(f"a line of more than {self._limit} bytes")
        if end < 0:
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        return line


# --- exceptions -----------------------------------------------------------------------------------


def error_data(error: CmsError) -> ErrorData:
    """An exception as it travels: its text, and those of its own attributes that JSON can carry."""
    return ErrorData(
        code=error.code,
        message=error.message,
        hint=error.hint,
        exit_code=int(error.exit_code),
        fields={
            key: value
            for key, value in vars(error).items()
            if key not in ("message", "hint") and (value is None or isinstance(value, str | int | float))
        },
    )


def error_from(data: ErrorData) -> CmsError:
    """The exception that `error_data` was made from: same class, text and attributes.

    A code that this version does not know (the daemon is a newer one) becomes a `CmsError` with that code
    and exit status, so that programs which look at either still see the truth.
    """
    known = _classes().get(data.code)
    kind = known if known is not None else _unknown_class(data.code, data.exit_code)
    # Not through the constructor: each class has its own, which makes the message that we have already.
    error = kind.__new__(kind)
    CmsError.__init__(error, data.message, hint=data.hint)
    for key, value in data.fields.items():
        setattr(error, key, value)
    return error


def _classes() -> dict[str, type[CmsError]]:
    """Every class of the tree by its code; of those that share one, the nearest to the root."""
    found: dict[str, type[CmsError]] = {}
    level: list[type[CmsError]] = [CmsError]
    while level:
        for kind in level:
            found.setdefault(kind.code, kind)
        level = [child for kind in level for child in kind.__subclasses__()]
    return found


def _unknown_class(code: str, exit_code: int) -> type[CmsError]:
    try:
        status = ExitCode(exit_code)
    except ValueError:
        status = ExitCode.FAILED
    # Not left among CmsError's subclasses: nothing but the instance refers to it.
    return type("UnknownError", (CmsError,), {"code": code, "exit_code": status})
