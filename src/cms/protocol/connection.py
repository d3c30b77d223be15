"""One side of a conversation with `claude`, without I/O.

    lines = connection.receive_data(await stdout.receive_some())   # raw, for the log, before parsing
    while (event := connection.next_event()) is not None:
        ...
    await stdin.send_all(connection.send_message(uuid, text))

Rules it keeps:

- Each control request of ours has an id that nobody can guess; its answer comes out as `Answered` with the
  request that it answers. An answer to nothing we asked, or a second one, is none of claude's: `Tampered`.
- Each request of claude's is answered at most once (`answer`, `refuse`); an answer to a request that it took
  back, or that was answered before, is a bug of ours and raises `InternalError`.
- What claude asked about a tool call is never answered with an error, which some permission modes take for
  consent: `refuse` denies the call instead.
- After end of file, and after all that came before it, every question of ours that is still open comes out
  as `Unanswered`, then `Closed`.

Time-outs are the caller's: the connection knows no clock, `forget` takes a question back. Its answer may
still come, once, as `Unknown`.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence

import msgspec

from cms.errors import InternalError
from cms.protocol.framing import MAX_LINE, LineBuffer
from cms.protocol.messages import (
    Answer,
    Ask,
    CanUseTool,
    ControlCancelRequest,
    ControlResponse,
    Event,
    HookAnswer,
    HookCallback,
    Noise,
    Part,
    PreToolUseOutput,
    RefuseAnswer,
    StreamEvent,
    Unknown,
    UnknownControlRequest,
    decode,
    encode_answer,
    encode_message,
    encode_refusal,
    encode_request,
    split_noise,
)


class Answered(Event, frozen=True):
    """claude answered a control request of ours.

    Attributes:
        ask: what we asked.
        response: the answer's body, "{}" where there is none.
        error: claude's words if it refused, else "".
    """

    request_id: str
    ask: Ask
    response: msgspec.Raw
    error: str = ""


class Tampered(Event, frozen=True):
    """A line that claude did not write: the answer to what we did not ask, or do not ask any more."""

    request_id: str


class Unanswered(Event, frozen=True):
    """The stream ended before this control request of ours was answered."""

    request_id: str
    ask: Ask


class Closed(Event, frozen=True):
    """claude closed its stdout: nothing more will come."""


#: Bytes kept of what is written beside the protocol.
_NOISE_TAIL = 8 * 1024
_OPENS_JSON = b"{"[0]


class Connection:
    """Frames, decodes, and matches questions with answers, both ways.

    Attributes:
        unknown: how many lines of an unknown kind were seen.
        noise: how many lines were no JSON object.
    """

    def __init__(self, max_line: int = MAX_LINE, secret: bytes = b"") -> None:
        """`secret`: makes the ids unguessable; up to 64 bytes."""
        self._buffer = LineBuffer(max_line)
        self._lines: deque[bytes] = deque()
        self._asked: dict[str, Ask] = {}
        self._owed: dict[str, str] = {}  # request id -> subtype
        self._taken_back: set[str] = set()
        self._count = 0
        self._secret = secret
        self._eof = False
        self._ended: deque[Event] | None = None
        self._noise = b""
        self.unknown = 0
        self.noise = 0

    def __repr__(self) -> str:
        return (
            f"<Connection asked={len(self._asked)} owed={len(self._owed)} lines={len(self._lines)} "
            f"pending={self._buffer.pending} unknown={self.unknown} noise={self.noise}>"
        )

    # --- in ---

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take what was read, b"" for end of file; return the raw lines that it completed.

        Raises:
            LineTooLong: the connection is of no use afterwards.
        """
        if data:
            lines = self._buffer.receive(data)
        else:
            rest = self._buffer.close()
            lines = [rest] if rest else []
            self._eof = True
        self._lines.extend(lines)
        return lines

    def next_event(self) -> Event | None:
        """The next event, or None when more data is needed (or, after `Closed`, for ever)."""
        if self._lines:
            line = self._lines.popleft()
            event = decode(line)
            if line[0] != _OPENS_JSON or isinstance(event, Noise):
                self._keep_noise(line)
            return self._interpret(event)
        if self._eof and self._ended is None:
            # Not before all lines are read: the answer may be among the last of them.
            self._ended = deque(Unanswered(key, ask) for key, ask in self._asked.items())
            self._ended.append(Closed())
            self._asked.clear()
            self._owed.clear()
        return self._ended.popleft() if self._ended else None

    @property
    def noise_tail(self) -> str:
        """The last of what was written on stdout beside the protocol: words of a wrapper's, mostly."""
        return self._noise.decode("utf-8", "replace")

    def _keep_noise(self, line: bytes) -> None:
        if words := split_noise(line)[0]:
            self._noise = (self._noise + words + b"\n")[-_NOISE_TAIL:]

    def _interpret(self, line: Event) -> Event:
        match line:
            case StreamEvent():
                pass  # most of all lines
            case ControlResponse(response=reply):
                ask = self._asked.pop(reply.request_id, None)
                if ask is None:
                    self.unknown += 1
                    if reply.request_id not in self._taken_back:
                        return Tampered(reply.request_id)
                    self._taken_back.remove(reply.request_id)
                    return Unknown("control_response", reply.subtype, bytes(reply.response))
                error = reply.error or "unknown error" if reply.subtype != "success" else ""
                return Answered(reply.request_id, ask, reply.response, error)
            case HookCallback():
                self._owed[line.request_id] = "hook_callback"
            case CanUseTool():
                self._owed[line.request_id] = "can_use_tool"
            case UnknownControlRequest(subtype=subtype):
                self._owed[line.request_id] = subtype
            case ControlCancelRequest():
                self._owed.pop(line.request_id, None)
            case Unknown():
                self.unknown += 1
            case Noise():
                self.noise += 1
            case _:
                pass
        return line

    # --- out ---

    def send_message(self, uuid: str, text: str, parts: Sequence[Part] = ()) -> bytes:
        """A user message as bytes to write; `parts` come before its text.

        Raises:
            ProtocolError: the text cannot be put into a line.
        """
        return encode_message(uuid, text, parts)

    def ask(self, ask: Ask) -> tuple[str, bytes]:
        """A control request: its id, by which the answer will be known, and the bytes to write."""
        self._count += 1
        # Who has seen all ids so far does not know the next one.
        request_id = (
            "cms-" + hashlib.blake2b(b"%d" % self._count, key=self._secret, digest_size=16).hexdigest()
        )
        self._asked[request_id] = ask
        return request_id, encode_request(request_id, ask)

    @property
    def waits_for(self) -> str:
        """The request of ours that waits longest for its answer, or ""."""
        return next((str(ask.__struct_config__.tag) for ask in self._asked.values()), "")

    def forget(self, request_id: str) -> None:
        """Give up on an answer (a time-out of the caller's). Should it come, it counts as unknown."""
        if self._asked.pop(request_id, None) is not None:
            self._taken_back.add(request_id)

    def owes(self, request_id: str) -> bool:
        """Whether claude still waits for our answer to this request of its."""
        return request_id in self._owed

    def answer(self, request_id: str, answer: Answer) -> bytes:
        """The answer to a request of claude's, as bytes to write.

        Raises:
            InternalError: nothing is owed under this id.
        """
        self._settle(request_id)
        return encode_answer(request_id, answer)

    def refuse(self, request_id: str, error: str) -> bytes:
        """The answer to a request that we do not know or cannot read: an error, or a denial of a tool call.

        Raises:
            InternalError: nothing is owed under this id.
        """
        match self._settle(request_id):
            case "hook_callback":
                return encode_answer(request_id, HookAnswer(PreToolUseOutput("deny", error)))
            case "can_use_tool":
                return encode_answer(request_id, RefuseAnswer(error))
            case _:
                return encode_refusal(request_id, error)

    def _settle(self, request_id: str) -> str:
        subtype = self._owed.pop(request_id, None)
        if subtype is None:
            raise InternalError(f"an answer to control request {request_id!r}, which waits for none")
        return subtype
