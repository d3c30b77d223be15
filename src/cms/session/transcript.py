"""A session as a person reads it, from the raw lines in both directions. Pure: lines in, moments out.

The raw log holds everything, mostly what no person wants to see. `Transcript` keeps what they do: each
prompt, the text as it streams, each tool call with its arguments in a line, what was refused and why, what
was asked and answered, retries, and what each message cost. It reads what was written and judges nothing, so
it can be folded over a log of any age, and over one that still grows.

Text of the main conversation is taken from the stream, piece by piece; whole blocks only where no piece of
them was seen (a subagent's are never streamed). The cost of a message is the growth of claude's own total
since the message was sent; the ledger, which knows crashes, may say otherwise.
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from cms.errors import UNREADABLE
from cms.protocol.messages import (
    ApiRetry,
    Assistant,
    CanUseTool,
    ControlResponse,
    ConversationReset,
    Event,
    HookCallback,
    PermissionDenied,
    RateLimitEvent,
    Result,
    StreamEvent,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    UsageReply,
    User,
    decode,
)
from cms.protocol.tools import QUESTION_TOOL
from cms.session.model import Record

MomentKind = Literal[
    "start",
    "prompt",
    "text",
    "tool",
    "failed",
    "refused",
    "asks",
    "answered",
    "retry",
    "note",
    "done",
    "stderr",
]
Direction = Literal["in", "out", "err", "note"]


class Moment(Record, frozen=True):
    """One thing that happened.

    Attributes:
        at: seconds since the epoch.
        text: what was said; of a tool call its arguments in a line; of an end why, if it did not end well.
        tool: the tool that it is about, or "".
        subagent: it happened in a subagent.
        piece: part of a streamed text; the next piece goes on where it stops.
        begins: the first piece of its text.
        cost: US dollars that the message took (`done` only), None where that is not known.
        is_error: an end that was not well.
    """

    at: float
    kind: MomentKind
    text: str = ""
    tool: str = ""
    subagent: bool = False
    piece: bool = False
    begins: bool = False
    cost: float | None = None
    is_error: bool = False


class _Part(msgspec.Struct, frozen=True):
    """A text, or a file that goes with it, whose name the text tells."""

    text: str = ""


class _Said(msgspec.Struct, frozen=True):
    content: str | list[_Part] = ""

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if part.text)


class _AskHead(msgspec.Struct, frozen=True):
    subtype: str = ""


class _Output(msgspec.Struct, frozen=True, rename="camel"):
    permission_decision: str = ""
    permission_decision_reason: str = ""


class _Word(msgspec.Struct, frozen=True, rename="camel"):
    """Our answer to a call at the gate, of either kind."""

    hook_specific_output: _Output | None = None
    behavior: str = ""
    message: str = ""
    updated_input: msgspec.Raw = msgspec.Raw(b"{}")


class _Answer(msgspec.Struct, frozen=True):
    request_id: str = ""
    response: _Word = _Word()


class _Written(msgspec.Struct, frozen=True):
    """A line of ours."""

    type: str = ""
    message: _Said | None = None
    request: _AskHead | None = None
    response: _Answer | None = None


class _Answered(msgspec.Struct, frozen=True):
    answers: dict[str, object] = {}


_written = msgspec.json.Decoder(_Written)


class Transcript:
    """Folds raw lines, oldest first. `read` gives what a line adds.

    Attributes:
        spent: US dollars that claude has counted in what was read, over all its processes.
    """

    def __init__(self) -> None:
        self.spent = 0.0
        self._calls: dict[str, tuple[str, str]] = {}  # request id -> (tool, its arguments)
        self._refused: set[str] = set()  # tool_use_ids
        self._uses: dict[str, str] = {}  # request id -> tool_use_id
        self._streamed = ""  # id of the reply that is being streamed
        self._begins = True  # the next piece is the first of its text
        self._seen: set[str] = set()  # ids of replies of which text was streamed
        self._total: float | None = None
        self._before: float | None = None

    def read(self, at: float, direction: Direction, line: bytes) -> tuple[Moment, ...]:
        """What this line of the log means to a person: mostly nothing. Never raises."""
        try:
            if direction == "in":
                return self._ours(at, line)
            if direction == "out":
                return self._claudes(at, decode(line))
        except UNREADABLE:
            return ()
        if direction == "err":
            text = line.decode("utf-8", "replace").strip()
            return (Moment(at, "stderr", text),) if text else ()
        return (Moment(at, "note", line.decode("utf-8", "replace")),)

    # --- what we wrote ---

    def _ours(self, at: float, line: bytes) -> tuple[Moment, ...]:
        written = _written.decode(line)
        if written.type == "user" and written.message is not None:
            self._before = self._total
            return (Moment(at, "prompt", plain_prompt(written.message.text)),)
        if written.request is not None:
            match written.request.subtype:
                case "initialize":
                    self._total = self._before = None
                    self._calls.clear()
                    return (Moment(at, "start"),)
                case "interrupt":
                    return (Moment(at, "note", "interrupted"),)
        if written.response is not None:
            return self._answered(at, written.response)
        return ()

    def _answered(self, at: float, answer: _Answer) -> tuple[Moment, ...]:
        tool, arguments = self._calls.pop(answer.request_id, ("", ""))
        use = self._uses.pop(answer.request_id, "")
        reply, reason = answer.response, ""
        if (
            reply.hook_specific_output is not None
            and reply.hook_specific_output.permission_decision == "deny"
        ):
            reason = reply.hook_specific_output.permission_decision_reason
        elif reply.behavior == "deny":
            reason = reply.message
        elif reply.behavior == "allow" and tool == QUESTION_TOOL:
            given = msgspec.json.decode(reply.updated_input, type=_Answered).answers
            text = "; ".join(f"{question} {said}" for question, said in given.items())
            return (Moment(at, "answered", text, tool),)
        else:
            return ()
        self._refused.add(use)
        return (Moment(at, "refused", f"{arguments}: {reason}" if arguments else reason, tool),)

    # --- what claude wrote ---

    def _claudes(self, at: float, event: Event) -> tuple[Moment, ...]:
        match event:
            case StreamEvent(parent_tool_use_id=None):
                return self._stream(at, event)
            case Assistant():
                return self._assistant(at, event)
            case User():
                sub = event.parent_tool_use_id is not None
                return tuple(
                    Moment(at, "failed", without_tags(_text_of(block.content)), subagent=sub)
                    for block in event.blocks
                    if isinstance(block, ToolResultBlock)
                    and block.is_error
                    and block.tool_use_id not in self._refused
                )
            case HookCallback(request_id=key, request=hook):
                self._calls[key] = (hook.input.tool_name, arguments_of(hook.input.tool_input))
                self._uses[key] = hook.input.tool_use_id
            case CanUseTool(request_id=key, request=ask):
                self._calls[key] = (ask.tool_name, arguments_of(ask.input))
                self._uses[key] = ask.tool_use_id
                if ask.tool_name == QUESTION_TOOL:
                    return (Moment(at, "asks", arguments_of(ask.input), ask.tool_name),)
            case ControlResponse(response=reply):
                self._count(msgspec.json.decode(reply.response, type=UsageReply).session.total_cost_usd)
                if self._before is None:
                    self._before = self._total
            case PermissionDenied(tool_name=tool, message=message, tool_use_id=use):
                if use not in self._refused:
                    self._refused.add(use)
                    return (Moment(at, "refused", without_tags(message), tool),)
            case Result():
                return (self._done(at, event),)
            case ApiRetry():
                status = event.error_status or event.error or "no answer"
                text = f"the API said {status}; try {event.attempt} in {event.retry_delay_ms / 1000:.0f} s"
                return (Moment(at, "retry", text),)
            case RateLimitEvent(rate_limit_info=info) if info.status != "allowed":
                return (Moment(at, "note", f"rate limit {info.rateLimitType or ''}: {info.status}"),)
            case ConversationReset():
                self._total = self._before = 0.0
                return (Moment(at, "note", "a new conversation begins"),)
            case _:
                pass
        return ()

    def _stream(self, at: float, line: StreamEvent) -> tuple[Moment, ...]:
        event = line.event
        if event.type == "message_start" and event.message is not None:
            self._streamed, self._begins = event.message.id, True
        elif event.type == "content_block_start":
            self._begins = True
        elif event.type == "content_block_delta" and event.delta is not None and event.delta.text:
            self._seen.add(self._streamed)
            begins, self._begins = self._begins, False
            return (Moment(at, "text", event.delta.text, piece=True, begins=begins),)
        return ()

    def _assistant(self, at: float, line: Assistant) -> tuple[Moment, ...]:
        sub = line.parent_tool_use_id is not None
        found = []
        for block in line.blocks:
            if isinstance(block, ToolUseBlock):
                found.append(Moment(at, "tool", arguments_of(block.input), block.name, subagent=sub))
            elif isinstance(block, TextBlock) and block.text and (sub or line.message.id not in self._seen):
                found.append(Moment(at, "text", unwrapped(block.text), subagent=sub))
        return tuple(found)

    def _count(self, total: float) -> None:
        """A reading of claude's own total. The first of a process says where it begins."""
        if self._total is not None:
            self.spent += max(0.0, total - self._total)
        self._total = total

    def _done(self, at: float, result: Result) -> Moment:
        cost = None
        if result.total_cost_usd is not None:
            if self._before is not None:
                cost = max(0.0, result.total_cost_usd - self._before)
            # A later result, unasked, counts from here.
            self._count(result.total_cost_usd)
            self._before = self._total
        self._seen.clear()
        text = ""
        if result.is_error or result.subtype != "success":
            said = " ".join(error for error in result.errors if not error.startswith(_DIAGNOSTIC))
            reason = result.terminal_reason or result.subtype
            text = result.result or said or reason.replace("_", " ")
            text = without_tags(text)
        return Moment(at, "done", text, cost=cost, is_error=result.is_error)


# --- without tags ---------------------------------------------------------------------------------

#: How a line begins that claude writes for its own makers.
_DIAGNOSTIC: Final = "[ede_diagnostic]"
#: What claude wraps around texts that a machine made; what is in the first kind is for the model alone.
_ASIDE: Final = re.compile(
    r"<(system-reminder|local-command-caveat|command-message)>.*?(?:</\1>|\Z)|\[structured-output-enforce\]",
    re.DOTALL,
)
#: Around what a rehearsal's model is to say (`testing.script`): nobody wrote it for a session to read.
_SCRIPT: Final = ("<cms-script>", "</cms-script>")
_TASK: Final = 200  # characters of a prompt's first line
_WRAPPERS: Final = (
    "tool_use_error|command-name|command-args|local-command-stdout|local-command-stderr"
    "|bash-input|bash-stdout|bash-stderr"
)
_TAG: Final = re.compile(f"</?(?:{_WRAPPERS})>")
_WRAPPED: Final = re.compile(rf"\s*<({_WRAPPERS})>(.*)</\1>\s*\Z", re.DOTALL)


def without_tags(text: str) -> str:
    """A text that claude made for the model, as a person reads it."""
    return _TAG.sub("", _ASIDE.sub("", text)).strip()


def unwrapped(text: str) -> str:
    """The same for what the model may have said itself: only where a tag is around all of it."""
    found = _WRAPPED.match(text)
    return text if found is None else found.group(2)


def plain_prompt(text: str) -> str:
    """A prompt without what a rehearsal's model is to say."""
    # (No pattern: one takes ever longer for each blank before a tag that does not come.)
    opening, closing = _SCRIPT
    parts, at = [], 0
    while (begins := text.find(opening, at)) >= 0 and (ends := text.find(closing, begins)) >= 0:
        parts.append(text[at:begins].rstrip())
        at = ends + len(closing)
    return "".join((*parts, text[at:]))


def first_line(prompt: str) -> str:
    """What a prompt begins with, for where there is a line for it."""
    return next((line for one in plain_prompt(prompt).split("\n") if (line := one.strip())), "")[:_TASK]


# --- arguments in a line --------------------------------------------------------------------------

#: The argument that says most of a call, by what stands first here; it is shown without its name.
_MAIN = ("file_path", "notebook_path", "command", "url", "pattern", "query", "path", "description", "prompt")
_LONGEST = 2000  # characters of one argument; the reader cuts to what its line can hold


def arguments_of(raw: msgspec.Raw) -> str:
    """A call's input in one line: the argument that says most, then the others by name."""
    try:
        given = msgspec.json.decode(raw, type=dict[str, object])
    except UNREADABLE:
        return bytes(raw)[:_LONGEST].decode("utf-8", "replace")
    if isinstance(given.get("questions"), list):
        return _questions(given["questions"])
    main = next((key for key in _MAIN if isinstance(given.get(key), str)), "")
    parts = [_short(given[main])] if main else []
    parts += [f"{key}={_short(value, quote=True)}" for key, value in given.items() if key != main]
    return " ".join(parts)


def _questions(asked: object) -> str:
    words = []
    for one in asked if isinstance(asked, list) else ():
        if isinstance(one, dict):
            options = one.get("options")
            labels = (
                [str(option.get("label", "")) for option in options or () if isinstance(option, dict)]
                if isinstance(options, list)
                else []
            )
            words.append(
                f"{one.get('question', '')} ({' / '.join(labels)})" if labels else str(one.get("question"))
            )
    return " ".join(words)


def _short(value: object, *, quote: bool = False) -> str:
    text = value if isinstance(value, str) and not quote else msgspec.json.encode(value).decode()
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _text_of(content: msgspec.Raw) -> str:
    """The text of a tool's result."""
    try:
        found = msgspec.json.decode(content, type=str | list[dict[str, object]])
    except UNREADABLE:
        return ""
    if isinstance(found, str):
        return found
    return " ".join(str(block["text"]) for block in found if isinstance(block.get("text"), str))
