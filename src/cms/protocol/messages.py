"""Every line that `claude` writes and that we write, as typed values.

Decoding is one pass over a union told apart by `type`; only `system` lines, short and few, take a second one
by their `subtype`. A line whose type is new, or whose shape changed beyond what we read of it, becomes
`Unknown`: kept and counted, never an error, since each release of Claude Code brings new ones. A line that is
no JSON object becomes `Noise`.

What cannot be read is looked at again, and damage is mended, because a lost line can mean a tool call that
nobody answers or a turn that never ends: bytes that are no UTF-8, and half of a character (JavaScript cuts
long texts anywhere, and writes a lone surrogate), which become U+FFFD; a result with a field of a new shape,
of which the other fields are kept; and what somebody else wrote in front of the JSON without an end of line
(a wrapper's terminal title, a byte order mark, a message), which is cut off (`split_noise`).

Only fields that somebody uses are named; msgspec skips the rest without building objects. Field names are
claude's own, so a reader can hold them against a raw log.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from cms.errors import UNREADABLE, ProtocolError


class Event(msgspec.Struct, frozen=True, gc=False):
    """The base of everything that can come out of `decode`.

    Nothing in an event can lead back to it, so the garbage collector need not walk it (`gc=False`).
    """


class Head(msgspec.Struct, frozen=True):
    type: str = ""
    subtype: str | None = None


class Unknown(Event, frozen=True):
    """A line of a kind or a shape that this version does not know."""

    type: str
    subtype: str
    raw: bytes


class Noise(Event, frozen=True):
    """Something on stdout that is not a JSON object (a warning, a torn last line)."""

    raw: bytes


# --- content ------------------------------------------------------------------------------------


class TextBlock(msgspec.Struct, frozen=True, gc=False, tag="text"):
    text: str = ""


class ThinkingBlock(msgspec.Struct, frozen=True, gc=False, tag="thinking"):
    thinking: str = ""


class ToolUseBlock(msgspec.Struct, frozen=True, gc=False, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


class ToolResultBlock(msgspec.Struct, frozen=True, gc=False, tag="tool_result"):
    tool_use_id: str = ""
    is_error: bool | None = None
    content: msgspec.Raw = msgspec.Raw(b'""')


Block = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock

_block_decoder = msgspec.json.Decoder(Block)
_content_decoder = msgspec.json.Decoder(str | list[msgspec.Raw])


def blocks_of(content: msgspec.Raw) -> tuple[Block, ...]:
    """The blocks of a message that we know; others (images, server tools ...) are passed over."""
    try:
        decoded = _content_decoder.decode(_in_utf8(content))
    except UNREADABLE:
        return ()
    if isinstance(decoded, str):
        return (TextBlock(decoded),)
    blocks: list[Block] = []
    for raw in decoded:
        try:
            blocks.append(_block_decoder.decode(raw))
        except UNREADABLE:
            continue
    return tuple(blocks)


class ApiUsage(msgspec.Struct, frozen=True, gc=False):
    output_tokens: int = 0


class MessageBody(msgspec.Struct, frozen=True, gc=False):
    content: msgspec.Raw = msgspec.Raw(b"[]")
    id: str = ""
    model: str = ""


# --- the conversation ---------------------------------------------------------------------------


class Init(Event, frozen=True):
    """`system/init`: opens every user turn, not only the first."""

    session_id: str = ""
    model: str = ""
    tools: tuple[str, ...] = ()
    claude_code_version: str = ""
    apiKeySource: str = ""  # noqa: N815 - claude's name
    cwd: str = ""
    mcp_servers: msgspec.Raw = msgspec.Raw(b"[]")

    @property
    def servers_down(self) -> tuple[str, ...]:
        """The MCP servers that should be there and are not, with how claude says so."""
        try:
            servers = _servers_decoder.decode(self.mcp_servers)
        except UNREADABLE:
            return ()
        return tuple(f"{one.name} ({one.status})" for one in servers if one.status in _DOWN)


class _Server(msgspec.Struct, frozen=True):
    name: str = ""
    status: str = ""


_servers_decoder = msgspec.json.Decoder(list[_Server])
_DOWN = frozenset({"failed", "needs-auth"})


class Assistant(Event, frozen=True, tag_field="type", tag="assistant"):
    """One finished content block of the model's; several lines can share `message.id`."""

    message: MessageBody
    parent_tool_use_id: str | None = None  # set: a subagent speaks
    error: str | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        return blocks_of(self.message.content)


class _ResultMeta(msgspec.Struct, frozen=True):
    id: str = ""
    non_execution_kind: str | None = None


class User(Event, frozen=True, tag_field="type", tag="user"):
    """Tool results and notes, as they go back to the model."""

    message: MessageBody
    parent_tool_use_id: str | None = None
    tool_result_meta: msgspec.Raw = msgspec.Raw(b"[]")

    @property
    def blocks(self) -> tuple[Block, ...]:
        return blocks_of(self.message.content)

    @property
    def not_run(self) -> frozenset[str]:
        """The calls of which claude says that they were refused, and not that they failed."""
        try:
            found = _meta_decoder.decode(_in_utf8(self.tool_result_meta))
        except UNREADABLE:
            return frozenset()
        return frozenset(one.id for one in found if one.non_execution_kind)


_meta_decoder = msgspec.json.Decoder(list[_ResultMeta])


class Delta(msgspec.Struct, frozen=True, gc=False):
    type: str = ""
    text: str = ""
    stop_reason: str | None = None


class EventMessage(msgspec.Struct, frozen=True, gc=False):
    id: str = ""
    model: str = ""
    usage: msgspec.Raw = msgspec.Raw(b"")  # not read here: nothing that is told of it may hide the event


class ApiEvent(msgspec.Struct, frozen=True, gc=False):
    """One server-sent event of the API, as claude passes it on."""

    type: str = ""
    delta: Delta | None = None
    message: EventMessage | None = None
    usage: ApiUsage | None = None


class StreamEvent(Event, frozen=True, tag_field="type", tag="stream_event"):
    """`stream_event`: comes with `--include-partial-messages`, for the main conversation."""

    event: ApiEvent
    parent_tool_use_id: str | None = None


class ModelUsage(msgspec.Struct, frozen=True, rename="camel"):
    """What one model took since the conversation began, subagents included."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cost_usd: float = msgspec.field(default=0.0, name="costUSD")


class DeniedCall(msgspec.Struct, frozen=True):
    tool_name: str = ""
    tool_use_id: str = ""
    tool_input: msgspec.Raw = msgspec.Raw(b"{}")


#: Letters that nobody sees, and that are no space: of width zero, of direction, a soft hyphen.
_UNSEEN = "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\u2066\u2067\u2068\u2069\ufeff "


class Result(Event, frozen=True, tag_field="type", tag="result"):
    """The end of one turn; not always the end of the work (see `session.state`)."""

    subtype: str = ""
    is_error: bool = False
    result: str | None = None
    total_cost_usd: float | None = None  # cumulative, see `session.ledger`
    modelUsage: dict[str, ModelUsage] = {}  # noqa: N815 - claude's name
    terminal_reason: str | None = None
    stop_reason: str | None = None  # of the last reply of the model
    api_error_status: int | None = None
    session_id: str = ""
    errors: tuple[str, ...] = ()
    permission_denials: tuple[DeniedCall, ...] = ()
    structured_output: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def answers(self) -> bool:
        """Whether it holds an answer: a text, or a value of the shape that was asked for."""
        return bool((self.result or "").strip().strip(_UNSEEN).strip() or self.output)

    @property
    def output(self) -> str:
        """The value of the shape that was asked for, as JSON; "": there is none."""
        value = bytes(self.structured_output)
        return "" if value == b"null" or self.is_error else value.decode("utf-8", "replace")


class Informational(Event, frozen=True):
    """What claude tells a person; with `prevent_continuation` why it does not go on."""

    content: str = ""
    prevent_continuation: bool | None = None


class ConversationReset(Event, frozen=True, tag_field="type", tag="conversation_reset"):
    """`/clear`: a new conversation id, and claude's total starts again at 0."""

    new_conversation_id: str = ""


# --- what goes on around it ---------------------------------------------------------------------


class ApiRetry(Event, frozen=True):
    attempt: int = 0
    retry_delay_ms: float = 0.0
    error_status: int | None = None
    error: str | None = None


class RateLimitInfo(msgspec.Struct, frozen=True):
    status: str = ""
    resetsAt: float | None = None  # noqa: N815 - claude's name; epoch seconds
    rateLimitType: str | None = None  # noqa: N815 - claude's name
    utilization: float | None = None
    unifiedWindows: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815 - claude's name; see `session.plan_usage`


class RateLimitEvent(Event, frozen=True, tag_field="type", tag="rate_limit_event"):
    rate_limit_info: RateLimitInfo = RateLimitInfo()


class PermissionDenied(Event, frozen=True):
    """A tool call that claude refused without asking anybody."""

    tool_name: str = ""
    tool_use_id: str = ""
    message: str = ""


class Task(msgspec.Struct, frozen=True):
    task_id: str
    task_type: str = ""
    description: str = ""


class TasksChanged(Event, frozen=True):
    """`system/background_tasks_changed`: all that runs in the background now."""

    tasks: tuple[Task, ...] = ()


class TaskStarted(Event, frozen=True):
    task_id: str = ""
    task_type: str = ""
    description: str = ""
    tool_use_id: str | None = None  # of the call that began it


class TaskPatch(msgspec.Struct, frozen=True):
    status: str = ""


class TaskUpdated(Event, frozen=True):
    task_id: str = ""
    patch: TaskPatch = TaskPatch()


class TaskNotification(Event, frozen=True):
    task_id: str = ""
    status: str = ""
    summary: str = ""


class SessionState(Event, frozen=True):
    """`running`, `requires_action` or `idle`; idle = no further turn is owed."""

    state: str = ""


class CommandLifecycle(Event, frozen=True, tag_field="type", tag="command_lifecycle"):
    """The delivery receipt of one user message."""

    command_uuid: str = ""
    state: str = ""  # queued, started, completed, cancelled


class HookStarted(Event, frozen=True):
    """claude runs a hook of its user's own, by default told for those of the start alone."""

    hook_id: str = ""
    hook_name: str = ""


class HookEnded(Event, frozen=True):
    """`system/hook_response`: that hook has ended."""

    hook_id: str = ""


class Notice(Event, frozen=True):
    """A known line that says how things go and changes nothing for us."""

    type: str
    subtype: str = ""


# --- the control protocol -----------------------------------------------------------------------


class ControlReply(msgspec.Struct, frozen=True, gc=False):
    subtype: str
    request_id: str
    response: msgspec.Raw = msgspec.Raw(b"{}")
    error: str = ""


class ControlResponse(Event, frozen=True, tag_field="type", tag="control_response"):
    response: ControlReply


class HookInput(msgspec.Struct, frozen=True, gc=False):
    """What a hook is told: of a tool call, or of a work tree that is to be made (`name`)."""

    tool_name: str = ""
    tool_input: msgspec.Raw = msgspec.Raw(b"{}")
    tool_use_id: str = ""
    agent_id: str | None = None
    hook_event_name: str = ""
    cwd: str = ""  # where it would be done
    name: str = ""


class HookRequest(msgspec.Struct, frozen=True, gc=False, tag_field="subtype", tag="hook_callback"):
    callback_id: str
    input: HookInput
    tool_use_id: str | None = None


class PermissionRequest(msgspec.Struct, frozen=True, gc=False, tag_field="subtype", tag="can_use_tool"):
    tool_name: str
    tool_use_id: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    blocked_path: str | None = None
    permission_suggestions: msgspec.Raw = msgspec.Raw(b"[]")  # what it would change if a person agreed


class HookCallback(Event, frozen=True):
    """A tool call stands before its start, or a work tree before it is made, and waits for our answer."""

    request_id: str
    request: HookRequest


class CanUseTool(Event, frozen=True):
    """A permission question, or the model's question to a person (`AskUserQuestion`)."""

    request_id: str
    request: PermissionRequest


class UnknownControlRequest(Event, frozen=True):
    """Something was asked of us that we do not know; it must be answered with an error."""

    request_id: str
    subtype: str


class ControlCancelRequest(Event, frozen=True, tag_field="type", tag="control_cancel_request"):
    """claude takes back a request of its own."""

    request_id: str = ""


# --- reading ------------------------------------------------------------------------------------


class _SystemLine(Event, frozen=True, tag_field="type", tag="system"):
    subtype: str


class _RequestLine(Event, frozen=True, tag_field="type", tag="control_request"):
    request_id: str
    request: HookRequest | PermissionRequest


class _RequestHead(msgspec.Struct, frozen=True):
    request_id: str
    request: Head = Head()


_Line = (
    StreamEvent
    | Assistant
    | User
    | Result
    | RateLimitEvent
    | ConversationReset
    | CommandLifecycle
    | ControlResponse
    | ControlCancelRequest
    | _SystemLine
    | _RequestLine
)
#: The lines that are whole after the first pass: most of all. What is long in them is not looked into yet;
#: whoever reads it sees to its bytes (`blocks_of`).
_WHOLE: frozenset[type[Event]] = frozenset(
    {
        StreamEvent,
        Assistant,
        User,
        RateLimitEvent,
        ConversationReset,
        CommandLifecycle,
        ControlCancelRequest,
    }
)

_line_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(_Line)
_head_decoder = msgspec.json.Decoder(Head)
_request_head_decoder = msgspec.json.Decoder(_RequestHead)


def _decoder(kind: type[Event]) -> msgspec.json.Decoder[Event]:
    return msgspec.json.Decoder(kind)


#: The `system` lines of which something is read, by subtype.
_SYSTEM: dict[str, msgspec.json.Decoder[Event]] = {
    "init": _decoder(Init),
    "api_retry": _decoder(ApiRetry),
    "permission_denied": _decoder(PermissionDenied),
    "informational": _decoder(Informational),
    "task_started": _decoder(TaskStarted),
    "task_updated": _decoder(TaskUpdated),
    "task_notification": _decoder(TaskNotification),
    "background_tasks_changed": _decoder(TasksChanged),
    "session_state_changed": _decoder(SessionState),
    "hook_started": _decoder(HookStarted),
    "hook_response": _decoder(HookEnded),
}

#: Known lines of which nothing is read: subtypes of `system`, and types.
_SYSTEM_NOTICES = frozenset({"compact_boundary", "status", "thinking_tokens", "task_progress"})
_NOTICES = frozenset({"tool_progress", "tool_use_summary", "keep_alive", "prompt_suggestion"})


#: One escape sequence of JSON; the group catches half of a surrogate pair that stands alone.
_ESCAPE = re.compile(
    rb"\\(?:[^u]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|u)",
    re.DOTALL,
)


#: What a terminal reads and a person does not: titles, colours, other control characters. In JSON they stand
#: nowhere, so taking them out of a line takes nothing from it. (A sequence that was cut off ends before `{`.)
_TERMINAL = re.compile(
    rb"\x1b[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-z|}~]"
    rb"|\x1b[ -/]*[0-z|}~]|[\x00-\x08\x0b-\x1f\x7f]"
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: Places in a noisy line at which its JSON may begin that are looked at. Each costs a look at the rest of it.
_BEGINNINGS = 16


def decode(line: bytes) -> Event:
    """One line of claude's stdout as a value. Never raises: see `Unknown` and `Noise`."""
    try:
        first = _line_decoder.decode(line)
        # The shortcut saves a third of the time of a short line.
        return first if type(first) in _WHOLE else _finish(first, line)
    except UNREADABLE:
        return _decode_damaged(line)


def _finish(first: Event, line: bytes) -> Event:
    """The event of a line, after its first pass.

    Raises:
        UNREADABLE: what the first pass passed over cannot be read.
    """
    if not line.isascii():
        line.decode()  # msgspec looks at the texts that it takes out, and not into a `Raw`
    if isinstance(first, _RequestLine):
        if isinstance(first.request, HookRequest):
            return HookCallback(first.request_id, first.request)
        return CanUseTool(first.request_id, first.request)
    if isinstance(first, _SystemLine):
        if first.subtype in _SYSTEM_NOTICES:
            return Notice("system", first.subtype)
        known = _SYSTEM.get(first.subtype)
        return known.decode(line) if known is not None else Unknown("system", first.subtype, line)
    return first


def _decode_damaged(line: bytes) -> Event:
    """A line that could not be read: mended, else told from its `type`."""
    line = _mend(_replace_bad_bytes(line))
    event = _classify(line)
    if isinstance(event, Noise) and (json := split_noise(line)[1]):
        event = _classify(json)
    if isinstance(event, Unknown) and event.type == "result":
        return _salvage_result(event)
    return event


def _replace_bad_bytes(data: bytes) -> bytes:
    return data if data.isascii() else data.decode("utf-8", "replace").encode()


def _in_utf8(raw: msgspec.Raw) -> bytes | msgspec.Raw:
    """A part of a line that was passed over so far, so that what is taken out of it can be read."""
    try:
        str(raw, "utf-8")
    except UnicodeDecodeError:
        return _replace_bad_bytes(bytes(raw))
    return raw


def split_noise(line: bytes) -> tuple[bytes, bytes]:
    """What stands in front of the JSON of a line, without what only a terminal reads, and that JSON, or b"".

    The JSON has a `type` and goes to the end of the line. Any line may have something in front of it, not the
    first alone: nobody but claude and the program that started it can write there, and a line that is lost
    is a session that hangs.
    """
    line = _TERMINAL.sub(b"", _mend(line)).replace(_BYTE_ORDER_MARK, b"", 1)
    at = -1
    for _ in range(_BEGINNINGS):
        at = line.find(b"{", at + 1)
        if at < 0:
            break
        try:
            if _head_decoder.decode(line[at:]).type:
                return line[:at].strip(), line[at:]
        except UNREADABLE:
            if line.startswith(b'{"'):
                break  # a line of claude's that is torn: what stands in it is no line of its own
    return line.strip(), b""


def _mend(line: bytes) -> bytes:
    return _ESCAPE.sub(_whole, line) if rb"\u" in line else line


def _whole(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape[1] else escape[0]


def _classify(line: bytes) -> Event:
    try:
        return _finish(_line_decoder.decode(line), line)
    except UNREADABLE:
        pass
    try:
        head = _head_decoder.decode(line)
    except UNREADABLE:
        return _misfit(line)
    if head.type in _NOTICES:
        return Notice(head.type, head.subtype or "")
    if head.type == "control_request":
        try:
            request = _request_head_decoder.decode(line)
        except UNREADABLE:
            pass
        else:
            # A tool call that cannot be read waits for its answer too: `Connection.refuse` denies it.
            return UnknownControlRequest(request.request_id, request.request.subtype or "")
    return Unknown(head.type, head.subtype or "", line)


def _salvage_result(line: Unknown) -> Event:
    """A result of which some field has changed its shape: every field that can still be read.

    Lost altogether it would leave a turn without an end. Whether it went well is never assumed.
    """
    try:
        raw = msgspec.json.decode(line.raw, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return line
    kept: dict[str, object] = {"is_error": True}
    for field in msgspec.structs.fields(Result):
        try:
            kept[field.name] = msgspec.json.decode(raw[field.encode_name], type=field.type)
        except (KeyError, *UNREADABLE):
            continue
    return msgspec.convert(kept, Result)


def _misfit(line: bytes) -> Event:
    """JSON that is an object but has an odd `type` is unknown; anything else is noise."""
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except UNREADABLE:
        return Noise(line)
    return Unknown("", "", line)


# --- writing ------------------------------------------------------------------------------------


class Base64Source(msgspec.Struct, tag_field="type", tag="base64"):
    media_type: str
    data: bytes  # (msgspec writes it in base64)


class TextPart(msgspec.Struct, tag_field="type", tag="text"):
    text: str


class ImagePart(msgspec.Struct, tag_field="type", tag="image"):
    source: Base64Source


class DocumentPart(msgspec.Struct, tag_field="type", tag="document"):
    source: Base64Source
    title: str


#: A part of what a person says.
Part = TextPart | ImagePart | DocumentPart


class UserBody(msgspec.Struct):
    content: str | list[Part]
    role: Literal["user"] = "user"


class UserMessage(msgspec.Struct, tag_field="type", tag="user"):
    """What a person (or a program) says to the session. `uuid` brings the `command_lifecycle` lines."""

    uuid: str
    message: UserBody


class HookMatcher(msgspec.Struct, rename="camel"):
    hook_callback_ids: tuple[str, ...]
    matcher: str | None = None
    timeout: float | None = None  # seconds; afterwards claude refuses the call


class Initialize(msgspec.Struct, tag_field="subtype", tag="initialize"):
    hooks: dict[str, tuple[HookMatcher, ...]]


class Interrupt(msgspec.Struct, tag_field="subtype", tag="interrupt"):
    pass


class GetUsage(msgspec.Struct, tag_field="subtype", tag="get_usage"):
    skip_behaviors: bool = True


class GetSettings(msgspec.Struct, tag_field="subtype", tag="get_settings"):
    pass


class GetServers(msgspec.Struct, tag_field="subtype", tag="mcp_status"):
    pass


class SetModel(msgspec.Struct, tag_field="subtype", tag="set_model"):
    model: str


class SetPermissionMode(msgspec.Struct, tag_field="subtype", tag="set_permission_mode"):
    mode: str


class StopTask(msgspec.Struct, tag_field="subtype", tag="stop_task"):
    task_id: str


Ask = Initialize | Interrupt | GetUsage | GetSettings | GetServers | SetModel | SetPermissionMode | StopTask


class ControlRequest(msgspec.Struct, tag_field="type", tag="control_request"):
    request_id: str
    request: Ask


class PreToolUseOutput(msgspec.Struct, rename="camel"):
    permission_decision: Literal["allow", "deny"]
    permission_decision_reason: str = ""
    hook_event_name: Literal["PreToolUse"] = "PreToolUse"


class HookAnswer(msgspec.Struct, rename="camel", omit_defaults=True):
    """Our word on one tool call. Empty = no opinion: the permission mode decides."""

    hook_specific_output: PreToolUseOutput | None = None
    continue_: bool = msgspec.field(default=True, name="continue")
    stop_reason: str = ""


class PermitAnswer(msgspec.Struct, rename="camel", tag_field="behavior", tag="allow"):
    updated_input: msgspec.Raw


class RefuseAnswer(msgspec.Struct, tag_field="behavior", tag="deny"):
    message: str
    interrupt: bool = False


class WorktreeOutput(msgspec.Struct, rename="camel"):
    worktree_path: str
    hook_event_name: Literal["WorktreeCreate"] = "WorktreeCreate"


class WorktreeAnswer(msgspec.Struct, rename="camel"):
    """Our word on one work tree: where it is."""

    hook_specific_output: WorktreeOutput


Answer = HookAnswer | WorktreeAnswer | PermitAnswer | RefuseAnswer


class _Success(msgspec.Struct, tag_field="subtype", tag="success"):
    request_id: str
    response: Answer


class _Failure(msgspec.Struct, tag_field="subtype", tag="error"):
    request_id: str
    error: str


class _ControlAnswer(msgspec.Struct, tag_field="type", tag="control_response"):
    response: _Success | _Failure


_encoder = msgspec.json.Encoder()


def encode_message(uuid: str, text: str, parts: Sequence[Part] = ()) -> bytes:
    """A user message as a line; `parts` come before its text."""
    content: str | list[Part] = [*parts, TextPart(text)] if parts else text
    try:
        return _encoder.encode(UserMessage(uuid, UserBody(content))) + b"\n"
    except UnicodeEncodeError as error:
        raise ProtocolError("the message holds half of a character (a lone surrogate)") from error


def encode_request(request_id: str, ask: Ask) -> bytes:
    """A control request as a line."""
    return _encoder.encode(ControlRequest(request_id, ask)) + b"\n"


def encode_answer(request_id: str, answer: Answer) -> bytes:
    """The answer to one of claude's own requests as a line."""
    return _encoder.encode(_ControlAnswer(_Success(request_id, answer))) + b"\n"


def encode_refusal(request_id: str, error: str) -> bytes:
    """The error answer to a request that we do not know."""
    return _encoder.encode(_ControlAnswer(_Failure(request_id, error))) + b"\n"


# --- answers that we read -----------------------------------------------------------------------


class UsageTotals(msgspec.Struct, frozen=True):
    total_cost_usd: float
    model_usage: dict[str, ModelUsage] = {}


class UsageReply(msgspec.Struct, frozen=True):
    """The answer to `get_usage`: exact, also in the middle of a turn."""

    session: UsageTotals


class Agent(msgspec.Struct, frozen=True):
    name: str = ""


class InitializeReply(msgspec.Struct, frozen=True):
    """As much of the answer to `initialize` as we look at."""

    hooks_applied: bool = False
    claude_code_version: str = ""  # newer versions tell it here already
    agents: tuple[Agent, ...] = ()


class SettingsError(msgspec.Struct, frozen=True):
    """Why a file of settings is not in force, or a part of it (`path`)."""

    file: str = ""
    path: str = ""
    message: str = ""


class SettingsSource(msgspec.Struct, frozen=True):
    """What of one source (`userSettings`, `projectSettings`, `flagSettings` ...) is in force."""

    source: str
    settings: dict[str, object] = {}


class AppliedSettings(msgspec.Struct, frozen=True):
    effort: str | None = None


class SettingsReply(msgspec.Struct, frozen=True):
    """The answer to `get_settings`."""

    sources: tuple[SettingsSource, ...] | None = None
    errors: tuple[SettingsError, ...] | None = None
    applied: AppliedSettings = AppliedSettings()


class ServerStatus(msgspec.Struct, frozen=True):
    """An MCP server: `connected`, `pending`, `failed`, `needs-auth`, `disabled`; `scope` says whose it is."""

    name: str
    status: str
    error: str | None = None
    scope: str = ""


class ServersReply(msgspec.Struct, frozen=True):
    """The answer to `mcp_status`."""

    servers: tuple[ServerStatus, ...] | None = msgspec.field(name="mcpServers", default=None)  # None: unsaid
