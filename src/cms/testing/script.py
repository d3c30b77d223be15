"""The script language of rehearsals: what the model is to say, carried in the prompt itself.

`claude` sends the whole conversation with each request, so a script that travels in the prompt needs no
state on a server: the next step is found by counting the assistant messages after it (`locate`). That is
why a script survives `--resume`, `--fork-session`, a restart of the server, several prompts in one
conversation, and subagents, whose conversation begins with the prompt that the `Agent` tool was given.

A script is a list of replies. One reply is one answer of the Messages API: thinking, text, tool calls, what
it costs, and what goes wrong on the way. Written with the builders it reads like the conversation:

    prompt(
        "Fix the bug",
        call("Read", file_path="/src/a.py"),
        call("Bash", command="make test").saying("Now the tests.").costing(0.02),
        say("All green.", cost_usd=0.05),
    )

Pure: no clock, no I/O, msgspec and the standard library only (the simulated agent must start fast).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

FOREVER: Final = 10.0**9
"""Seconds. A stall of this length never ends by itself (JSON has no infinity)."""

_OPEN: Final = "<cms-script>"
_CLOSE: Final = "</cms-script>"
_MARKED: Final = re.compile(re.escape(_OPEN) + r"(.*?)" + re.escape(_CLOSE), re.DOTALL)

# Inside the marker these are written as JSON escapes: `<` so that a nested script's markers are not taken
# for the outer one's end, `@` because `claude` reads `@path` in a prompt as a file to attach.
_ESCAPED: Final = (("<", "\\u003c"), (">", "\\u003e"), ("@", "\\u0040"))

# User-role text that `claude` itself writes into a conversation: never a prompt of its own, so a script
# goes on across it (a background task's notice asks for the script's next reply).
_MACHINE_MADE: Final = (
    "<system-reminder>",
    "<task-notification>",
    "<local-command-",
    "<command-name>",
    "<command-message>",
    "[Request interrupted",
    "This session is being continued from a previous conversation",
    "Output token limit hit.",
    "Your response above was stopped by a safety classifier",
    "[SYSTEM NOTIFICATION",
    "[structured-output-enforce]",
    "Caveat: ",
    "Continue from where you left off.",
    "[Image: source: ",
)

# --- what a script is made of -----------------------------------------------------------------


class Usage(Struct, frozen=True, omit_defaults=True):
    """The token figures of one reply, under the names the API gives them. They set its price."""

    input_tokens: int = 0
    output_tokens: int = 1
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens - other.input_tokens,
            self.output_tokens - other.output_tokens,
            self.cache_creation_input_tokens - other.cache_creation_input_tokens,
            self.cache_read_input_tokens - other.cache_read_input_tokens,
        )


class ToolCall(Struct, frozen=True):
    """A tool the model asks for. Neither the name nor the input needs to be one that exists."""

    name: str
    input: dict[str, object] = {}


Where = Literal["headers", "start", "middle"]
"""Where in an answer something happens: before its HTTP headers, before its first event, or half-way."""


class Stall(Struct, frozen=True):
    """Silence for some seconds; then the answer goes on."""

    where: Where
    seconds: float


class Fail(Struct, frozen=True, omit_defaults=True, tag_field="fault", tag="status"):
    """An attempt answered with an HTTP error status.

    Attributes:
        anywhere: attempts are counted over all conversations with this script, as if the API itself had
            trouble, and not the conversation. (The simulated agent knows only its own.)
    """

    status: int
    times: int = 1
    message: str = ""
    retry_after: float | None = None
    anywhere: bool = False


class Drop(Struct, frozen=True, omit_defaults=True, tag_field="fault", tag="drop"):
    """An attempt whose connection is closed."""

    where: Where = "middle"
    times: int = 1


Fault = Fail | Drop


class RateLimit(Struct, frozen=True, omit_defaults=True):
    """The plan's usage as the API's headers tell it; `claude` reports it with OAuth credentials only."""

    status: Literal["allowed", "allowed_warning", "rejected"] = "allowed"
    utilization: float = 0.0
    resets_in: float = 3600.0
    claim: str = "five_hour"


class Quirk(Struct, frozen=True, omit_defaults=True):
    """A misdeed of the agent process itself. The simulated agent alone does it; the scripted API ignores it.

    Attributes:
        kind: `garbage` writes `text` or bytes that are no JSON; `huge_line` one line of `size` bytes; `flood`
            `size` lines at once; `unknown` a message of a type nobody knows; `die` exits with `status`
            (negative: by that signal); `hang` falls silent for ever, deaf to stdin; `ignore_sigterm` does so.
        when: `init` before the turn's first line, `reply` before this reply's lines, `tools` between a tool
            call's line and the tool, `result` after the turn's result.
    """

    kind: Literal["garbage", "huge_line", "flood", "unknown", "die", "hang", "ignore_sigterm"]
    when: Literal["init", "reply", "tools", "result"] = "reply"
    size: int = 0
    status: int = 0
    text: str = ""


class ScriptedReply(Struct, frozen=True, omit_defaults=True):
    """One answer of the model. Make it with `say` or `call`; each method returns a changed copy."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    thought: str = ""
    usage: Usage = Usage()
    stalls: tuple[Stall, ...] = ()
    faults: tuple[Fault, ...] = ()
    rate_limit: RateLimit | None = None
    chunk: int = 0
    chunk_pause: float = 0.0
    stop_reason: str = ""
    quirks: tuple[Quirk, ...] = ()

    def saying(self, text: str) -> ScriptedReply:
        """With this text before the tool calls."""
        return replace(self, text=text)

    def thinking(self, thought: str) -> ScriptedReply:
        """With a thinking block first."""
        return replace(self, thought=thought)

    def costing(self, amount: float, model: str = "opus") -> ScriptedReply:
        """At this price in dollars, if `model` is the one in use."""
        return replace(self, usage=usd(amount, model))

    def using(self, usage: Usage) -> ScriptedReply:
        """With exactly these token figures."""
        return replace(self, usage=usage)

    def after(self, seconds: float) -> ScriptedReply:
        """By a model that takes so long before it answers at all."""
        return self.stalling("headers", seconds)

    def stalling(self, where: Where = "middle", seconds: float = FOREVER) -> ScriptedReply:
        """Falling silent at a point of the answer, for ever if not told how long."""
        return replace(self, stalls=(*self.stalls, Stall(where, seconds)))

    def chunked(self, size: int, pause: float = 0.0) -> ScriptedReply:
        """Streamed in pieces of `size` characters with `pause` seconds between them."""
        return replace(self, chunk=size, chunk_pause=pause)

    def failing(
        self,
        status: int,
        *,
        times: int = 1,
        message: str = "",
        retry_after: float | None = None,
        anywhere: bool = False,
    ) -> ScriptedReply:
        """Answered with this HTTP status for the next `times` attempts, after the faults given before."""
        return replace(self, faults=(*self.faults, Fail(status, times, message, retry_after, anywhere)))

    def dropping(self, where: Where = "middle", *, times: int = 1) -> ScriptedReply:
        """With the connection closed there for the next `times` attempts, after the faults given before."""
        return replace(self, faults=(*self.faults, Drop(where, times)))

    def limited(
        self,
        status: Literal["allowed", "allowed_warning", "rejected"] = "allowed",
        *,
        utilization: float = 0.0,
        resets_in: float = 3600.0,
        claim: str = "five_hour",
    ) -> ScriptedReply:
        """With the headers of a plan's rate limit; on faults too, so that a 429 can say when it ends."""
        return replace(self, rate_limit=RateLimit(status, utilization, resets_in, claim))

    def ending(self, stop_reason: str) -> ScriptedReply:
        """With this stop reason (`max_tokens`, `refusal`) in place of the natural one."""
        return replace(self, stop_reason=stop_reason)

    def quirky(self, *quirks: Quirk) -> ScriptedReply:
        """With misdeeds of the simulated agent."""
        return replace(self, quirks=(*self.quirks, *quirks))

    def fault(self, attempt: int) -> Fault | None:
        """What goes wrong at this attempt (from 0) at the reply, or None."""
        for fault in self.faults:
            if attempt < fault.times:
                return fault
            attempt -= fault.times
        return None

    @property
    def natural_stop_reason(self) -> str:
        return self.stop_reason or ("tool_use" if self.calls else "end_turn")


class Script(Struct, frozen=True):
    """The replies to one prompt, in order."""

    replies: tuple[ScriptedReply, ...]


# --- prices -----------------------------------------------------------------------------------


class Price(Struct, frozen=True):
    """Dollars per million tokens, as `claude` reckons them."""

    input: float
    output: float
    cache_write: float
    cache_read: float

    def of(self, usage: Usage) -> float:
        """Dollars."""
        return (
            usage.input_tokens * self.input
            + usage.output_tokens * self.output
            + usage.cache_creation_input_tokens * self.cache_write
            + usage.cache_read_input_tokens * self.cache_read
        ) / 1e6


# As claude 2.1.330 reckons its current models (measured through the scripted API).
_PRICES: Final = {
    "opus": Price(4.0, 20.0, 5.0, 0.2),
    "sonnet": Price(2.0, 10.0, 2.5, 0.1),
    "haiku": Price(0.1, 0.5, 0.125, 0.01),
    "fable": Price(10.0, 50.0, 12.5, 1.0),
}


def price_of(model: str) -> Price:
    """The price of a model by alias or full id; an unknown one costs what the default model costs."""
    return next((price for children, price in _PRICES.items() if children in model), _PRICES["opus"])


def usd(amount: float, model: str = "opus") -> Usage:
    """Token figures which cost this much: `usd(0.05)` is 2,500 output tokens of the default model."""
    return Usage(output_tokens=round(amount * 1e6 / price_of(model).output))


# --- writing a script -------------------------------------------------------------------------


def say(text: str, *, cost_usd: float | None = None, model: str = "opus") -> ScriptedReply:
    """The model says this."""
    return ScriptedReply(text=text, usage=Usage() if cost_usd is None else usd(cost_usd, model))


def call(name: str, /, **arguments: object) -> ScriptedReply:
    """The model calls a tool: `call("Bash", command="ls")`. It costs next to nothing; see `costing`."""
    return ScriptedReply(calls=(ToolCall(name, arguments),))


def together(*replies: ScriptedReply) -> ScriptedReply:
    """One reply that makes the tool calls of several, in parallel; the first one's other properties hold."""
    first, *_ = replies
    return replace(first, calls=tuple(tool for reply in replies for tool in reply.calls))


def prompt(text: str, *replies: ScriptedReply) -> str:
    """A prompt that a person could have written, with the script of the answers to it."""
    body = msgspec.json.encode(Script(replies)).decode()
    for character, escape in _ESCAPED:
        body = body.replace(character, escape)
    return f"{text} {_OPEN}{body}{_CLOSE}".lstrip()


# --- reading it back --------------------------------------------------------------------------


class Source(Struct, frozen=True):
    """What an image or a document is, and holds (in base64)."""

    media_type: str = ""
    data: str = ""


class Block(Struct, frozen=True):
    """As much of a content block as scripts need."""

    type: str
    text: str = ""
    source: Source | None = None


class Message(Struct, frozen=True):
    """As much of a conversation's message as scripts need."""

    role: str
    content: str | list[Block]

    def texts(self) -> Iterator[str]:
        """Its text blocks, in order; tool results are none."""
        if isinstance(self.content, str):
            yield self.content
        else:
            for block in self.content:
                if block.type == "text":
                    yield block.text


class Position(Struct, frozen=True):
    """Where a conversation stands.

    Attributes:
        script: the script in force, or None if the last prompt carries none.
        step: how many replies were given since that prompt.
        prompts: how many prompts there were up to and with that one.
        said: that prompt without its script.
    """

    script: Script | None
    step: int
    prompts: int
    said: str

    @property
    def reply(self) -> ScriptedReply:
        """What the model says next: never nothing, for a conversation must be able to go on."""
        if self.script is None and self.said:
            return ScriptedReply(text=f"You said: {self.said[:200]}", usage=Usage(output_tokens=10))
        if self.script is not None and self.step < len(self.script.replies):
            return self.script.replies[self.step]
        return ScriptedReply(text="Done.")

    @property
    def anywhere(self) -> str:
        """Names this step of its script, alike in every conversation."""
        return f"{zlib.crc32(msgspec.json.encode(self.script)):08x}/{self.step}"

    @property
    def key(self) -> str:
        """Names this step within its conversation, alike for every attempt at it."""
        script = zlib.crc32(msgspec.json.encode(self.script))
        return f"{script:08x}/{self.prompts}/{self.step}"


def locate(messages: Iterable[Message]) -> Position:
    """Find the script in force and the step it is at.

    The prompt in force is the last user text that no machine made. `claude` may put several prompts into one
    message (after an interrupt) and its own notes around them, so texts are looked at, not messages. A prompt
    sent while a tool runs comes as a `system` message, and the script in force goes on across it. Only a
    compaction ends a script early: it takes the prompt out of the conversation.
    """
    current, prompts, step = "", 0, 0
    for message in messages:
        if message.role == "assistant":
            step += 1
        elif message.role == "user":
            for text in message.texts():
                if _is_prompt(text):
                    current, prompts, step = text, prompts + 1, 0
    return Position(read(current), step, prompts, _MARKED.sub("", current).strip())


def read(text: str) -> Script | None:
    """The last script that a text carries, or None.

    Raises:
        msgspec.DecodeError: the marker is there, but what is in it is no script.
    """
    found = _MARKED.findall(text)
    return msgspec.json.decode(found[-1], type=Script) if found else None


def scripted(text: str) -> bool:
    """Whether a text carries a script."""
    return _OPEN in text


def _is_prompt(text: str) -> bool:
    return bool(text.strip()) and (scripted(text) or not text.lstrip().startswith(_MACHINE_MADE))


def pieces(text: str, size: int) -> Sequence[str]:
    """The text cut into pieces of `size` characters; whole if `size` is 0."""
    if size <= 0 or not text:
        return (text,)
    return [text[start : start + size] for start in range(0, len(text), size)]
