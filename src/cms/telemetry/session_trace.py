"""The spans of one session's process: itself, its turns, the model's calls and the tools' below them.

It is told what happens by those who do it (`live.driver`, `fleet.delegation`), and hands on what has ended.
A mistake in here ends the trace and nothing else.
"""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Concatenate, Final, ParamSpec

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.messages import Event, Result, StreamEvent, ToolResultBlock, User
from cms.session.model import DELEGATED, Interaction, Outcome, SessionRecord
from cms.session.state import PendingCall
from cms.telemetry import names
from cms.telemetry.spans import Attribute, Place, Span, below, part_of, place_of

log = logging.getLogger(__name__)

P = ParamSpec("P")

#: Letters of one text that are told where content is.
_MOST_CONTENT: Final = 20_000
#: Tool calls under way that are kept in mind.
_MOST_CALLS: Final = 1000


class _Usage(msgspec.Struct, frozen=True):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Open(msgspec.Struct):
    """A span that has not ended."""

    name: str
    span_id: str
    parent_id: str
    start: float
    attributes: dict[str, Attribute]


def _harmless(
    method: Callable[Concatenate[SessionTrace, P], None],
) -> Callable[Concatenate[SessionTrace, P], None]:
    """A bug of ours in telling is no trouble of the work that is told of."""

    @functools.wraps(method)
    def tell(trace: SessionTrace, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if trace.broken:
            return
        try:
            method(trace, *args, **kwargs)
        except Exception:
            log.exception("the trace of a session broke because of a bug in cms; the session goes on")
            trace.broken = True

    return tell


class SessionTrace:
    """Of one process.

    Attributes:
        place: its own span; claude is told it.
        broken: nothing more is told.
    """

    def __init__(
        self,
        record: SessionRecord,
        environ: Mapping[str, str],
        emit: Callable[[Span], None],
        *,
        now: Callable[[], float] = time.time,
        new_id: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        parent = part_of.get() or place_of(environ)
        self.place: Place = below(parent, environ, new_id(16), new_id(8))
        self.broken = False
        self._emit = emit
        self._now = now
        self._new_id = new_id
        self._content = record.options.otel_content
        self._whole = _Open(
            f"{names.AGENT} {record.name}",
            self.place.span_id,
            "" if parent is None else parent.span_id,
            now(),
            {
                names.OPERATION_NAME: names.AGENT,
                names.PROVIDER_NAME: names.PROVIDER,
                names.AGENT_NAME: record.name,
                names.REQUEST_MODEL: record.options.model,
                names.SESSION_ID: record.id,
            },
        )
        self._turn: _Open | None = None
        self._chat: _Open | None = None
        self._tools: dict[str, _Open] = {}
        self._awaits: str = ""  # the message whose verdict is still to come, once the process has ended
        self._ended = False

    # --- what happens -------------------------------------------------------------------------------

    @_harmless
    def began(self, message: Interaction) -> None:
        """A message is being written."""
        attributes: dict[str, Attribute] = {
            names.MESSAGE_ID: message.id,
            names.MESSAGE_NUMBER: message.number,
            names.MESSAGE_TYPE: message.type,
        }
        if self._content:
            attributes[names.INPUT_MESSAGES] = _as_messages("user", message.prompt)
        self._turn = self._open(names.TURN, self._whole, attributes)

    @_harmless
    def heard(self, event: Event) -> None:
        """claude wrote something."""
        match event:
            case StreamEvent(parent_tool_use_id=None):
                self._stream(event)
            case User():
                for block in event.blocks:
                    if isinstance(block, ToolResultBlock) and block.tool_use_id in self._tools:
                        self._tool_over(block)
            case Result():
                self._chat_over("")

    @_harmless
    def answered(self, call: PendingCall, reason: str, *, allowed: bool) -> None:
        """The gate has let a call pass, or has refused it."""
        tool = self._tools.pop(call.tool_use_id, None) or self._open(
            f"{names.TOOL} {call.tool}",
            self._turn or self._whole,
            {
                names.OPERATION_NAME: names.TOOL,
                names.TOOL_NAME: call.tool,
                names.TOOL_CALL_ID: call.tool_use_id,
                names.TOOL_TYPE: "extension" if call.tool.startswith("mcp__") else "function",
            },
        )
        tool.attributes[names.VERDICT] = "allowed" if allowed else "refused"
        if self._content:
            tool.attributes[names.TOOL_ARGUMENTS] = _cut(bytes(call.input).decode(errors="replace"))
        if not allowed:
            if self._content:
                tool.attributes[names.TOOL_RESULT] = _cut(reason)
            self._close(tool, "refused")
        elif len(self._tools) < _MOST_CALLS:
            self._tools[call.tool_use_id] = tool

    @_harmless
    def settled(self, message: Interaction) -> None:
        """The work on a message has ended."""
        self._chat_over("interrupted")
        for tool in self._tools.values():
            self._close(tool, "not finished")
        self._tools.clear()
        turn, self._turn = self._turn, None
        if turn is None:
            return  # it was refused before it was written
        turn.attributes |= _figures(message)
        if self._content:
            turn.attributes[names.OUTPUT_MESSAGES] = _as_messages("assistant", message.response)
        self._awaits = message.id if message.type in DELEGATED else ""
        self._close(turn, _failure(message.outcome))
        self._whole.attributes |= _verdict(message)

    @_harmless
    def ended(self, record: SessionRecord) -> None:
        """The process has ended. A delegation's span waits for its verdict."""
        self._ended = True
        self._whole.attributes |= {
            names.STATUS: record.status.value,
            names.CONVERSATION_ID: record.conversation,
            names.COST: record.total_cost_usd,
            names.COST_EXACT: record.cost_exact,
            names.TURNS: record.total_turns,
            names.TOOL_CALLS: record.tool_calls,
        }
        if record.receipt is not None:
            self._whole.attributes[names.PROVED] = record.receipt.empty
        if not self._awaits:
            self.close()

    @_harmless
    def judged(self, message: Interaction) -> None:
        """A delegation has its verdict."""
        self._whole.attributes |= _verdict(message)
        self._awaits = ""
        if self._ended:
            self.close()

    @_harmless
    def close(self) -> None:
        """Nothing more will be heard."""
        if not self.broken:
            outcome = self._whole.attributes.get(names.OUTCOME)
            self._close(self._whole, _failure(Outcome(outcome)) if isinstance(outcome, str) else "")
            self.broken = True

    # --- spans --------------------------------------------------------------------------------------

    def _stream(self, line: StreamEvent) -> None:
        api = line.event
        if api.type == "message_start" and api.message is not None:
            self._chat_over("interrupted")
            self._chat = self._open(
                f"{names.CHAT} {api.message.model}".strip(),
                self._turn or self._whole,
                {
                    names.OPERATION_NAME: names.CHAT,
                    names.PROVIDER_NAME: names.PROVIDER,
                    names.REQUEST_MODEL: api.message.model,
                    names.RESPONSE_MODEL: api.message.model,
                    names.RESPONSE_ID: api.message.id,
                    **_tokens(api.message.usage),
                },
            )
        elif self._chat is not None and api.type == "message_delta":
            if api.usage is not None:
                self._chat.attributes[names.OUTPUT_TOKENS] = api.usage.output_tokens
            if api.delta is not None and api.delta.stop_reason:
                self._chat.attributes[names.FINISH_REASONS] = [api.delta.stop_reason]
        elif api.type == "message_stop":
            self._chat_over("")

    def _chat_over(self, error: str) -> None:
        if self._chat is not None:
            chat, self._chat = self._chat, None
            self._close(chat, error, client=True)

    def _tool_over(self, block: ToolResultBlock) -> None:
        tool = self._tools.pop(block.tool_use_id)
        if self._content:
            tool.attributes[names.TOOL_RESULT] = _cut(bytes(block.content).decode(errors="replace"))
        self._close(tool, "tool_error" if block.is_error else "")

    def _open(self, name: str, parent: _Open, attributes: dict[str, Attribute]) -> _Open:
        return _Open(name, self._new_id(8), parent.span_id, self._now(), attributes)

    def _close(self, one: _Open, error: str = "", *, client: bool = False) -> None:
        if not self.place.sampled:
            return
        attributes = {**one.attributes, **({names.ERROR_TYPE: error} if error else {})}
        self._emit(
            Span(
                one.name,
                self.place.trace_id,
                one.span_id,
                one.parent_id,
                one.start,
                max(self._now(), one.start),
                attributes,
                "client" if client else "internal",
                error,
            )
        )


def _failure(outcome: Outcome | None) -> str:
    return "" if outcome in (None, Outcome.COMPLETED) else outcome.value


def _verdict(message: Interaction) -> dict[str, Attribute]:
    return {} if message.outcome is None else {names.OUTCOME: message.outcome.value}


def _figures(message: Interaction) -> dict[str, Attribute]:
    usage = list(message.usage.values())
    read, made = (
        sum(one.cache_read_input_tokens for one in usage),
        sum(one.cache_creation_input_tokens for one in usage),
    )
    return {
        names.COST: message.cost,
        names.COST_EXACT: message.cost_exact,
        names.TURNS: message.turns,
        names.TOOL_CALLS: message.tool_calls,
        names.INPUT_TOKENS: sum(one.input_tokens for one in usage) + read + made,
        names.OUTPUT_TOKENS: sum(one.output_tokens for one in usage),
        names.CACHE_READ_TOKENS: read,
        names.CACHE_CREATION_TOKENS: made,
        **_verdict(message),
    }


def _tokens(raw: msgspec.Raw) -> dict[str, Attribute]:
    """What went into a call of the model, as far as it says so."""
    try:
        usage = msgspec.json.decode(raw or b"{}", type=_Usage)
    except UNREADABLE:
        return {}
    read, made = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return {
        names.INPUT_TOKENS: (usage.input_tokens or 0) + read + made,
        names.CACHE_READ_TOKENS: read,
        names.CACHE_CREATION_TOKENS: made,
    }


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CONTENT else f"{text[:_MOST_CONTENT]}..."


def _as_messages(role: str, text: str) -> str:
    """A text in the form of the conventions."""
    parts = [{"type": "text", "content": _cut(text)}]
    return msgspec.json.encode([{"role": role, "parts": parts}]).decode()
