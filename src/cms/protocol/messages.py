"""Every line that `claude` writes and that we write, as typed values.

Decoding has two stages, because a line is told apart by `type` and often also by `subtype`, and neither is
always the first key: a `Head` that skips everything else, then the struct that the head names. A line whose
type is new, or whose shape changed beyond what we read of it, becomes `Unknown`: kept and counted, never an
error, since each release of Claude Code brings new ones. A line that is no JSON object becomes `Noise`.

Three kinds of damage are mended first, because a lost line can mean a tool call that nobody answers or a turn
that never ends: half of a character (JavaScript cuts long texts anywhere, and writes a lone surrogate), which
becomes U+FFFD; a result with a field of a new shape, of which the other fields are kept; and what somebody
else wrote in front of the JSON without an end of line (a wrapper's terminal title, a byte order mark, a
message), which is cut off (`split_noise`).

Only fields that somebody uses are named; msgspec skips the rest without building objects. Field names are
claude's own, so a reader can hold them against a raw log.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from cms.errors import UNREADABLE, ProtocolError


class Event(msgspec.Struct, frozen=True):
    """The base of everything that can come out of `decode`."""


class Head(msgspec.Struct, frozen=True):
    type: str = ""
    subtype: str | None = None


class Unknown(Event, frozen=True):
    """A line of a kind or a shape that this version does not know."""

    type: str
    subtype: str
    raw: bytes


class Noise(Event, frozen=True):
    """Something on stdout that is no JSON object (a warning, a torn last line)."""

    raw: bytes


# --- content ------------------------------------------------------------------------------------


class TextBlock(msgspec.Struct, frozen=True, tag="text"):
    text: str = ""


class ThinkingBlock(msgspec.Struct, frozen=True, tag="thinking"):
    thinking: str = ""


class ToolUseBlock(msgspec.Struct, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw = msgspec.Raw(b"{}")


class ToolResultBlock(msgspec.Struct, frozen=True, tag="tool_result"):
    tool_use_id: str = ""
    is_error: bool | None = None
    content: msgspec.Raw = msgspec.Raw(b'""')


Block = TextBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock

_block_decoder = msgspec.json.Decoder(Block)
_content_decoder = msgspec.json.Decoder(str | list[msgspec.Raw])


def blocks_of(content: msgspec.Raw) -> tuple[Block, ...]:
    """The blocks of a message that we know; others (images, server tools ...) are passed over."""
    try:
        decoded = _content_decoder.decode(content)
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


class ApiUsage(msgspec.Struct, frozen=True):
    output_tokens: int = 0


class MessageBody(msgspec.Struct, frozen=True):
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


class Assistant(Event, frozen=True):
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


class User(Event, frozen=True):
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
            found = _meta_decoder.decode(self.tool_result_meta)
        except UNREADABLE:
            return frozenset()
        return frozenset(one.id for one in found if one.non_execution_kind)


_meta_decoder = msgspec.json.Decoder(list[_ResultMeta])


class Delta(msgspec.Struct, frozen=True):
    type: str = ""
    text: str = ""
    stop_reason: str | None = None


class EventMessage(msgspec.Struct, frozen=True):
    id: str = ""
    model: str = ""


class ApiEvent(msgspec.Struct, frozen=True):
    """One server-sent event of the API, as claude passes it on."""

    type: str = ""
    delta: Delta | None = None
    message: EventMessage | None = None
    usage: ApiUsage | None = None


class StreamEvent(Event, frozen=True):
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


class Result(Event, frozen=True):
    """The end of one turn; not always the end of the work (see `session.state`)."""

    subtype: str = ""
    is_error: bool = False
    result: str | None = None
    total_cost_usd: float | None = None  # cumulative, see `session.ledger`
    modelUsage: dict[str, ModelUsage] = {}  # noqa: N815 - claude's name
    terminal_reason: str | None = None
    api_error_status: int | None = None
    session_id: str = ""
    errors: tuple[str, ...] = ()
    permission_denials: tuple[DeniedCall, ...] = ()
    structured_output: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def answers(self) -> bool:
        """Whether it holds an answer: a text, or a value of the shape that was asked for."""
        return bool((self.result or "").strip()) or bytes(self.structured_output) != b"null"


class Informational(Event, frozen=True):
    """What claude tells a person; with `prevent_continuation` why it does not go on."""

    content: str = ""
    prevent_continuation: bool | None = None


class ConversationReset(Event, frozen=True):
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


class RateLimitEvent(Event, frozen=True):
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


class CommandLifecycle(Event, frozen=True):
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


class ControlReply(msgspec.Struct, frozen=True):
    subtype: str
    request_id: str
    response: msgspec.Raw = msgspec.Raw(b"{}")
    error: str = ""


class ControlResponse(Event, frozen=True):
    response: ControlReply


class HookInput(msgspec.Struct, frozen=True):
    tool_name: str = ""
    tool_input: msgspec.Raw = msgspec.Raw(b"{}")
    tool_use_id: str = ""
    agent_id: str | None = None


class HookRequest(msgspec.Struct, frozen=True, tag_field="subtype", tag="hook_callback"):
    callback_id: str
    input: HookInput
    tool_use_id: str | None = None


class PermissionRequest(msgspec.Struct, frozen=True, tag_field="subtype", tag="can_use_tool"):
    tool_name: str
    tool_use_id: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")
    blocked_path: str | None = None


class _HookLine(msgspec.Struct, frozen=True):
    request_id: str
    request: HookRequest | PermissionRequest


class _RequestHead(msgspec.Struct, frozen=True):
    request_id: str
    request: Head = Head()


class HookCallback(Event, frozen=True):
    """A tool call stands before its start and waits for our answer."""

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


class ControlCancelRequest(Event, frozen=True):
    """claude takes back a request of its own."""

    request_id: str = ""


# --- reading ------------------------------------------------------------------------------------

_head_decoder = msgspec.json.Decoder(Head)
_hook_decoder = msgspec.json.Decoder(_HookLine)
_request_head_decoder = msgspec.json.Decoder(_RequestHead)

_Decoders = dict[tuple[str, str], "msgspec.json.Decoder[Event]"]


def _decoder(kind: type[Event]) -> msgspec.json.Decoder[Event]:
    return msgspec.json.Decoder(kind)


#: (type, subtype) -> decoder; the subtype "" stands for all subtypes of that type.
_DECODERS: _Decoders = {
    ("system", "init"): _decoder(Init),
    ("system", "api_retry"): _decoder(ApiRetry),
    ("system", "permission_denied"): _decoder(PermissionDenied),
    ("system", "informational"): _decoder(Informational),
    ("system", "task_started"): _decoder(TaskStarted),
    ("system", "task_updated"): _decoder(TaskUpdated),
    ("system", "task_notification"): _decoder(TaskNotification),
    ("system", "background_tasks_changed"): _decoder(TasksChanged),
    ("system", "session_state_changed"): _decoder(SessionState),
    ("system", "hook_started"): _decoder(HookStarted),
    ("system", "hook_response"): _decoder(HookEnded),
    ("assistant", ""): _decoder(Assistant),
    ("user", ""): _decoder(User),
    ("stream_event", ""): _decoder(StreamEvent),
    ("result", ""): _decoder(Result),
    ("rate_limit_event", ""): _decoder(RateLimitEvent),
    ("conversation_reset", ""): _decoder(ConversationReset),
    ("command_lifecycle", ""): _decoder(CommandLifecycle),
    ("control_response", ""): _decoder(ControlResponse),
    ("control_cancel_request", ""): _decoder(ControlCancelRequest),
}

#: Known lines of which nothing is read.
_NOTICES = frozenset(
    {
        ("system", "compact_boundary"),
        ("system", "status"),
        ("system", "thinking_tokens"),
        ("system", "task_progress"),
        ("tool_progress", ""),
        ("tool_use_summary", ""),
        ("keep_alive", ""),
        ("prompt_suggestion", ""),
    }
)


#: One escape sequence of JSON; the group catches half of a surrogate pair that stands alone.
_ESCAPE = re.compile(
    rb"\\(?:[^u]|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|u)",
    re.DOTALL,
)


_LOST = (Unknown, Noise)


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
    if not line.isascii():
        line = line.decode("utf-8", "replace").encode()
    decoded = _decode(line)
    if isinstance(decoded, _LOST):
        mended = _mend(line)
        if isinstance(decoded, Noise):
            mended = split_noise(mended)[1] or mended
        if mended != line:
            decoded = _decode(mended)
        if isinstance(decoded, Unknown) and decoded.type == "result":
            return _salvage_result(decoded)
    return decoded


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


def _decode(line: bytes) -> Event:
    try:
        head = _head_decoder.decode(line)
    except UNREADABLE:
        return _misfit(line)
    subtype = head.subtype or ""
    key = (head.type, subtype) if head.type == "system" else (head.type, "")
    if key in _NOTICES:
        return Notice(head.type, subtype)
    try:
        if head.type == "control_request":
            return _decode_control_request(line)
        decoder = _DECODERS.get(key)
        if decoder is not None:
            return decoder.decode(line)
    except UNREADABLE:
        pass
    return Unknown(head.type, subtype, line)


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


def _decode_control_request(line: bytes) -> Event:
    head = _request_head_decoder.decode(line)
    subtype = head.request.subtype or ""
    if subtype in ("hook_callback", "can_use_tool"):
        try:
            known = _hook_decoder.decode(line)
        except UNREADABLE:
            # It waits for an answer all the same: `Connection.refuse` denies the call.
            return UnknownControlRequest(head.request_id, subtype)
        if isinstance(known.request, HookRequest):
            return HookCallback(known.request_id, known.request)
        return CanUseTool(known.request_id, known.request)
    return UnknownControlRequest(head.request_id, subtype)


# --- writing ------------------------------------------------------------------------------------


class UserBody(msgspec.Struct):
    content: str
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


Answer = HookAnswer | PermitAnswer | RefuseAnswer


class _Success(msgspec.Struct, tag_field="subtype", tag="success"):
    request_id: str
    response: Answer


class _Failure(msgspec.Struct, tag_field="subtype", tag="error"):
    request_id: str
    error: str


class _ControlAnswer(msgspec.Struct, tag_field="type", tag="control_response"):
    response: _Success | _Failure


_encoder = msgspec.json.Encoder()


def encode_message(uuid: str, text: str) -> bytes:
    """A user message as a line."""
    try:
        return _encoder.encode(UserMessage(uuid, UserBody(text))) + b"\n"
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

    servers: tuple[ServerStatus, ...] = msgspec.field(name="mcpServers", default=())
