"""The MCP server over stdin and stdout: the one module that imports the `mcp` SDK.

The SDK's low-level server is used: tools come from our own declarations, so its function inspection would be
a second source of the same schemas. It runs on trio (anyio's other backend).

- A tool runs in a worker thread with a connection of its own (`call`), so that a call that waits for an hour
  holds up no other one.
- Progress notes of the daemon become progress notifications: at most a few a second, always the newest, and
  one now and then though there is nothing new, because clients give up on calls that say nothing.
- A cancelled request, and the end of the client, cancel the daemon's request and wait until that has been
  answered: what it started is stopped by then. A client that is killed closes the connection, which the
  daemon takes for the same.
- What goes wrong is a tool error with a word on what to do next, never an error of the protocol: a model can
  act on the first and never sees the second.

Stdout carries the protocol alone. The SDK takes the descriptor away and turns what anybody else prints to
stderr; logging goes to stderr.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import mcp_types as types
import msgspec
import trio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

from cms._version import __version__
from cms.config import Settings
from cms.errors import CmsError, DaemonUnavailable, WrongStatus
from cms.mcp import prompts, resources
from cms.mcp.call import DaemonCall
from cms.mcp.tool import Tool
from cms.mcp.tools import TOOLS
from cms.session.model import Progress
from cms.units import money

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = ServerRequestContext[dict[str, object], object]

#: Calls that work at once; the next ones wait for a thread.
MAX_WORKING = 64
#: Seconds for the daemon to answer a request that was cancelled: the stop ladder, and some.
PATIENCE = 60.0
_PACE = 0.25  # seconds between two progress notifications of one call
_HEARTBEAT = 15.0  # seconds after which there is one without news: clients give up on calls that say nothing

INSTRUCTIONS = """Put other Claude Code agents to work. `delegate` gives one task to an agent of its own, \
under limits, and returns a verdict. Several side by side, or long work: start each with detach, then one \
`wait` for all. `spawn`, `send`, `stop` hold a conversation with a live agent. Agents see nothing of this \
conversation. They cost model calls, up to the maxCost of each."""

#: What a model should do next, by the error's code, where the daemon's hint speaks of the shell.
HINTS: Mapping[str, str] = {
    "name_taken": "choose another name; or go on with it: `continue` for a delegated session, else `send`",
    "not_found": "`list` shows the sessions that there are; the resources list batches too",
    "nothing_asked": "`questions` shows what waits",
    "daemon_unavailable": "call again, a new daemon is started. A session that was at work is kept: `output` "
    "says what became of it, `continue` or `send` goes on",
    "daemon_version": "ask the person to run `cms daemon stop`; its sessions can be resumed",
    "claude_not_found": "ask the person to install Claude Code, or to set CMS_CLAUDE for this server",
    "home_unusable": "ask the person to look at CMS_HOME",
    "store": "ask the person to look at the disk that CMS_HOME is on",
    "work_dir": "give a workDir that exists",
    "internal": "a fault of cms: go on without this call, and tell the person",
}


#: Commands in a hint that are tools too: "`cms stop NAME`", "cms stop NAME".
_COMMANDS = "|".join(tool.name for tool in TOOLS)
_SHELL_LINE = re.compile(rf"`cms ({_COMMANDS})( [^`]*)?`")
_SHELL_WORDS = re.compile(rf"\bcms ({_COMMANDS})\b")


async def serve(settings: Settings) -> None:
    """Serve until stdin ends."""
    server = build(settings)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def build(settings: Settings) -> Server[dict[str, object]]:
    """The server, to be run over any pair of streams."""
    requests = _Requests(settings)
    return Server(
        "cms",
        version=__version__,
        title="Claude multi-session",
        instructions=INSTRUCTIONS,
        on_list_tools=requests.list_tools,
        on_call_tool=requests.call_tool,
        on_list_resources=requests.list_resources,
        on_list_resource_templates=requests.list_templates,
        on_read_resource=requests.read_resource,
        on_list_prompts=requests.list_prompts,
        on_get_prompt=requests.get_prompt,
    )


class _Requests:
    """What a client may ask for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limiter = trio.CapacityLimiter(MAX_WORKING)
        inside = settings.child_socket is not None
        self._tools = {tool.name: tool for tool in TOOLS if tool.inside or not inside}

    async def list_tools(
        self, _context: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in self._tools.values()])

    async def call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = self._tools.get(params.name)
        if tool is None:
            return _failed(f"there is no tool {params.name!r}", f"there are {', '.join(self._tools)}")
        arguments: Mapping[str, object] = params.arguments or {}
        try:
            result = await self._in_thread(
                context, lambda call: msgspec.to_builtins(tool.run(call, arguments))
            )
        except CmsError as error:
            return _failed(error.message, _hint(error))
        except Exception as error:
            log.exception("tool %s failed because of a bug in cms", params.name)
            return _failed(f"{params.name} failed: {type(error).__name__}: {error}", HINTS["internal"])
        text = types.TextContent(type="text", text=msgspec.json.encode(result).decode())
        return types.CallToolResult(content=[text], structured_content=result)

    async def list_resources(
        self, context: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        found = await _or_protocol_error(self._in_thread(context, resources.listed))
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri=one.uri,
                    name=one.name,
                    title=one.title,
                    description=one.description,
                    mime_type=resources.MARKDOWN,
                )
                for one in found
            ]
        )

    async def list_templates(
        self, _context: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        transcript = types.ResourceTemplate(
            uri_template=resources.TRANSCRIPT,
            name="transcript",
            title="A session's transcript",
            description="Everything that a session was asked and answered, as Markdown.",
            mime_type=resources.MARKDOWN,
        )
        report = types.ResourceTemplate(
            uri_template=resources.REPORT,
            name="report",
            title="A batch's report",
            description="Every task with its outcome and cost, each failure with its reason, as Markdown.",
            mime_type=resources.MARKDOWN,
        )
        return types.ListResourceTemplatesResult(resource_templates=[transcript, report])

    async def read_resource(
        self, context: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        uri = str(params.uri)
        text = await _or_protocol_error(self._in_thread(context, lambda call: resources.read(call, uri)))
        content = types.TextResourceContents(uri=uri, mime_type=resources.MARKDOWN, text=text)
        return types.ReadResourceResult(contents=[content])

    async def list_prompts(
        self, _context: Context, _params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        return types.ListPromptsResult(
            prompts=[
                types.Prompt(
                    name=prompt.name,
                    title=prompt.title,
                    description=prompt.description,
                    arguments=[
                        types.PromptArgument(name=a.name, description=a.description, required=a.required)
                        for a in prompt.arguments
                    ],
                )
                for prompt in prompts.PROMPTS
            ]
        )

    async def get_prompt(
        self, _context: Context, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult:
        try:
            prompt, text = prompts.text_of(params.name, params.arguments or {})
        except CmsError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from error
        message = types.PromptMessage(role="user", content=types.TextContent(type="text", text=text))
        return types.GetPromptResult(description=prompt.description, messages=[message])

    async def _in_thread(self, context: Context, work: Callable[[DaemonCall], T]) -> T:
        return await _in_thread(self._settings, self._limiter, context, work)


def main(settings: Settings) -> None:
    """`cms mcp`: serve stdin and stdout until the client leaves."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="cms mcp: %(message)s")
    trio.run(serve, settings)


# --- one call -------------------------------------------------------------------------------------


async def _in_thread(
    settings: Settings, limiter: trio.CapacityLimiter, context: Context, work: Callable[[DaemonCall], T]
) -> T:
    """Run blocking work with a connection to the daemon; cancelled, end what it asked for before going on."""
    notes_in, notes = trio.open_memory_channel[Progress](1)
    token = trio.lowlevel.current_trio_token()

    def put(note: Progress) -> None:
        # The newest is the one that counts.
        try:
            notes.receive_nowait()
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            pass
        try:
            notes_in.send_nowait(note)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def tell(note: Progress) -> None:
        try:
            token.run_sync_soon(put, note)
        except trio.RunFinishedError:
            pass

    call = DaemonCall(settings, tell)

    def run() -> T:
        try:
            return work(call)
        finally:
            call.close()

    results: list[T] = []
    failures: list[Exception] = []  # kept until it is known whether anybody still wants to hear of it
    over = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_report, context, notes)
        with trio.CancelScope(shield=True) as shield:
            nursery.start_soon(_cancel_call, call, over, shield)
            try:
                results.append(await trio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter))
            except Exception as error:
                failures.append(error)
        over.set()
        nursery.cancel_scope.cancel(reason="the work is done")
    # A call that was cancelled while it worked: its answer is for nobody.
    await trio.lowlevel.checkpoint_if_cancelled()
    if failures:
        raise failures[0]
    if not results:
        raise DaemonUnavailable(f"the daemon did not answer within {PATIENCE:g} s")
    return results[0]


async def _cancel_call(call: DaemonCall, over: trio.Event, shield: trio.CancelScope) -> None:
    """Once the client cancels, have the daemon do so; give up its answer if that takes long."""
    try:
        await over.wait()
    finally:
        if not over.is_set():
            call.cancel()
        with trio.move_on_after(PATIENCE, shield=True):
            await over.wait()
        shield.cancel(reason="the daemon does not answer")


async def _report(context: Context, notes: trio.MemoryReceiveChannel[Progress]) -> None:
    told, text, since = 0, "at work", trio.current_time()
    while True:
        with trio.move_on_after(_HEARTBEAT):
            text, since = progress_text(await notes.receive()), trio.current_time()
        told += 1
        quiet = trio.current_time() - since
        await context.session.report_progress(told, None, f"{text}, {quiet:.0f} s" if quiet >= 1 else text)
        await trio.sleep(_PACE)


def progress_text(note: Progress) -> str:
    """A progress note as one short line."""
    turns = f"{note.turns}" if note.max_turns is None else f"{note.turns}/{note.max_turns}"
    cost = money(note.cost) if note.max_cost is None else f"{money(note.cost)}/${note.max_cost:.2f}"
    doing = " ".join(f"{note.tool} {note.text}".split())
    return f"{note.name}: {doing[:100] or note.status} ({turns} turns, {cost})"


async def _or_protocol_error(work: Awaitable[T]) -> T:
    """For what is no tool: there a client expects an error of the protocol."""
    try:
        return await work
    except CmsError as error:
        code = types.INVALID_PARAMS if error.exit_code in (2, 10) else types.INTERNAL_ERROR
        raise MCPError(code, f"{error.message}; {_hint(error)}") from error


def _described(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=tool.open_world,
        ),
    )


def _hint(error: CmsError) -> str:
    nearest: object = getattr(error, "nearest", "")
    if nearest:
        return f"did you mean {nearest!r}?"
    if error.code in HINTS:
        return HINTS[error.code]
    if not error.hint and isinstance(error, WrongStatus):
        return "`status` shows what it is doing, `wait` returns when it is through"
    hint = error.hint.replace("cms ask", "cms questions")
    return _SHELL_WORDS.sub(r"`\1`", _SHELL_LINE.sub(r"`\1`\2", hint))


def _failed(message: str, hint: str) -> types.CallToolResult:
    text = f"{message}. What to do: {hint}." if hint else f"{message}."
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)
