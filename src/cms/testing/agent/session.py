"""Turns of the simulated agent: from a message to its result, with tools, subagents and what goes wrong.

One worker thread plays the turns one after the other; a background subagent or shell has a thread of its own,
and what comes of it is put into the inbox like a message. Stdin is somebody else's (`__main__`), so that
questions, interrupts and a look at the bill work in the middle of a turn.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from cms.testing import events
from cms.testing.script import Block, Drop, Message, Quirk, ScriptedReply, ToolCall, Usage, locate

from . import tools
from .gate import Gate
from .options import Options
from .scope import Interrupted, Scope
from .tasks import Task, Tasks, start_thread
from .transcript import Totals, Transcript
from .voice import Voice, model_usage
from .wire import Line, Wire, new_uuid

_RETRIES: Final = 10
_TRANSIENT: Final = {401: "authentication_failed", 429: "rate_limit", 500: "server_error", 529: "overloaded"}
_FATAL: Final = {400: "invalid_request", 403: "authentication_failed", 404: "invalid_request"}
_STOPPED: Final = "The user doesn't want to proceed with this tool use. The tool use was rejected."


class Incoming(Struct, frozen=True):
    """What starts a turn: a user's message, or (`notice`) that a background task ended."""

    text: str
    uuid: str = ""
    notice: bool = False


class Talk(Struct):
    """One conversation under way: the main one (`task` is None), or a subagent's."""

    transcript: Transcript
    scope: Scope
    task: Task | None = None
    usage: Usage = Usage(output_tokens=0)
    user_lines: int = 0
    rounds: int = 0
    denials: list[Line] = []
    uuids: list[str] = []
    last: ScriptedReply = ScriptedReply()
    answer: Line | None = None
    in_tools: bool = False

    @property
    def parent(self) -> str | None:
        return self.task.tool_use_id if self.task else None

    @property
    def agent_id(self) -> str:
        return self.task.id if self.task else ""


class TurnOver(Exception):
    """A turn ends in another way than by the model's last word.

    Attributes:
        subtype, reason: of the result (`terminal_reason`).
        lifecycle: what becomes of the messages it answered.
    """

    def __init__(
        self,
        subtype: str,
        reason: str,
        *,
        error: str = "",
        prose: str = "",
        status: int | None = None,
        lifecycle: str = "cancelled",
    ) -> None:
        super().__init__(subtype, reason)
        self.subtype = subtype
        self.reason = reason
        self.error = error
        self.prose = prose
        self.status = status
        self.lifecycle = lifecycle


class Session:
    """The agent without its stdin. `run` is the worker thread's; the rest is for the thread that reads."""

    def __init__(self, options: Options, wire: Wire, transcript: Transcript, session_id: str) -> None:
        self.transcript = transcript
        self.model = options.model
        self.voice = Voice(wire, session_id)
        self.gate = Gate(options, wire, self.voice)
        self.deaf_to_sigterm = False
        self.hung = threading.Event()
        self.last_was_error = False
        self._options = options
        self._wire = wire
        self._cwd = Path.cwd()
        self._began = time.monotonic()
        self._spent = 0.0
        self._retry_seconds = float(os.environ.get("CMS_REHEARSAL_RETRY_MS", "500")) / 1000
        self._inbox: deque[Incoming] = deque()
        self._changed = threading.Condition()
        self.tasks = Tasks(self.voice, self._changed, self._notice)
        self._closed = False
        self._attempts: Counter[str] = Counter()
        self._results = 0
        self._turn: Scope | None = None

    # --- for the thread that reads stdin ------------------------------------------------------

    def deliver(self, text: str, uuid: str) -> None:
        """A user's message came in."""
        with self._changed:
            self.voice.state("running")
            self.voice.lifecycle(uuid, "queued")
            self._inbox.append(Incoming(text, uuid))
            self._changed.notify_all()

    def close(self) -> None:
        """No more messages will come; what is under way is finished."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def waiting(self) -> list[str]:
        """The messages whose turn has not come yet."""
        with self._changed:
            # The worker may not have taken up what has its turn now.
            items = list(self._inbox)[0 if self._turn is not None else 1 :]
        return [item.uuid for item in items if item.uuid]

    def interrupt(self) -> None:
        """End the running turn, or the one that is about to begin; background tasks go on."""
        with self._changed:
            if self._turn is None and self._inbox:
                # Not taken up yet. The real one has by the time it reads the interrupt, and honours it.
                self._turn = Scope()
            turn = self._turn
        if turn is not None:
            turn.cancel()

    def kill_tools(self) -> None:
        """Leave no tool process behind. For signals: no lock, whose holder may be stuck in a full pipe."""
        if (turn := self._turn) is not None:
            turn.cancel()
        self.tasks.cancel()

    def bill(self) -> Line:
        """The answer to `get_usage`."""
        totals = self.transcript.totals
        spent: Line = {
            "total_cost_usd": totals.cost_usd,
            "total_api_duration_ms": 0,
            "total_duration_ms": round((time.monotonic() - self._began) * 1000),
            "total_lines_added": 0,
            "total_lines_removed": 0,
            "model_usage": model_usage(totals),
        }
        no_plan = {"subscription_type": None, "rate_limits_available": False, "rate_limits": None}
        return {"session": spent, **no_plan, "behaviors": None}

    # --- turns, in the worker thread ----------------------------------------------------------

    def run(self) -> None:
        """Play turns until there will be no more."""
        while (item := self._next()) is not None:
            if item.text.strip() == "/clear":
                self._clear(item)
            else:
                self._play(item, Talk(self.transcript, self._turn or Scope()))
            with self._changed:
                self._turn = None
                if not self._inbox and not self.tasks.owe_a_turn():
                    self.voice.state("idle")

    def _next(self) -> Incoming | None:
        with self._changed:
            while not self._inbox:
                if self._closed and not self.tasks:
                    return None
                self._changed.wait()
            self._turn = self._turn or Scope()  # (there is one if it was interrupted before it began)
            return self._inbox.popleft()

    def _notice(self, text: str) -> None:
        self._inbox.append(Incoming(text, notice=True))
        self._changed.notify_all()

    def _play(self, item: Incoming, talk: Talk) -> None:
        began, before = time.monotonic(), self.transcript.totals.copy()
        if item.notice:
            self.voice.state("running")
        else:
            talk.uuids.append(item.uuid)
            self.voice.lifecycle(item.uuid, "started")
            if self._options.replay:
                self.voice.replay(item.text, item.uuid)
        self.transcript.add("user", [Block("text", item.text)])
        over: TurnOver | None = None
        try:
            self._quirks(locate(self.transcript.messages).reply, "init", talk.scope)
            self.voice.init(item.uuid, self.model, self.gate.mode, self._options.tools)
            talk.scope.check()
            self._converse(talk)
        except TurnOver as exc:
            over = exc
        except Interrupted:
            over = self._interrupted(talk)
        # Of several messages the one that began the turn is the last to be receipted, after the result.
        state = over.lifecycle if over else "completed"
        for uuid in talk.uuids[1:]:
            self.voice.lifecycle(uuid, state)
        self._say_result(talk, over, before, time.monotonic() - began, notice=item.notice)
        for uuid in talk.uuids[:1]:
            self.voice.lifecycle(uuid, state)
        self._quirks(talk.last, "result", Scope())

    def _converse(self, talk: Talk) -> None:
        """Reply after reply, until the model makes no more calls."""
        most_rounds = self._options.max_turns
        while True:
            if self._overdrawn:
                error = f"Reached maximum budget (${self._options.max_budget:g})"
                raise TurnOver("error_max_budget_usd", "budget_exhausted", error=error)
            place = locate(talk.transcript.messages)
            reply = talk.last = place.reply
            self._quirks(reply, "reply", talk.scope)
            self._endure(reply, place.key, talk)
            message_id = f"msg_{new_uuid().replace('-', '')[:24]}"
            blocks = self._speak(reply, message_id, talk)
            talk.transcript.add("assistant", blocks)
            if not reply.calls:
                return
            if self._use_tools(reply, message_id, talk):
                raise TurnOver("success", "hook_stopped", lifecycle="completed")
            if talk.answer is not None:
                return  # such an answer is the end of the turn (measured)
            if talk.task is not None:
                continue
            talk.rounds += 1
            if talk.rounds == most_rounds:
                error = f"Reached maximum number of turns ({most_rounds})"
                raise TurnOver("error_max_turns", "max_turns", error=error, lifecycle="completed")
            self._fold(talk)

    @property
    def _overdrawn(self) -> bool:
        return self._options.max_budget is not None and self._spent >= self._options.max_budget

    def _fold(self, talk: Talk) -> None:
        """Messages that came while a tool ran join this turn (measured); notices wait for their own."""
        with self._changed:
            joining = [item for item in self._inbox if not item.notice]
            for item in joining:
                self._inbox.remove(item)
        for item in joining:
            talk.uuids.append(item.uuid)
            self.voice.lifecycle(item.uuid, "started")
            text = f"The user sent a new message while you were working:\n{item.text}"
            talk.transcript.add("system", [Block("text", text)])

    def _interrupted(self, talk: Talk) -> TurnOver:
        """The note the real one leaves, and how the turn ended."""
        note = "[Request interrupted by user" + (" for tool use]" if talk.in_tools else "]")
        self._say_user([{"type": "text", "text": note}], talk)
        talk.transcript.add("user", [Block("text", note)])
        reason = "aborted_tools" if talk.in_tools else "aborted_streaming"
        return TurnOver("error_during_execution", reason, error="[simulated] interrupted")

    def _clear(self, item: Incoming) -> None:
        """`/clear`: a new conversation, whose total starts at nothing."""
        self.voice.lifecycle(item.uuid, "started")
        new_id = new_uuid()
        self.voice.line("conversation_reset", new_conversation_id=new_id, trigger="clear")
        self.voice.session_id = new_id
        path = self.transcript.path
        self.transcript = Transcript(path.with_name(f"{new_id}.jsonl") if path else None)
        self.tasks.list()
        self.voice.init(item.uuid, self.model, self.gate.mode, self._options.tools)
        talk = Talk(self.transcript, Scope(), user_lines=-1, uuids=[item.uuid])
        self._say_result(talk, None, Totals(), 0.0)
        self.voice.lifecycle(item.uuid, "completed")

    # --- one reply ----------------------------------------------------------------------------

    def _endure(self, reply: ScriptedReply, key: str, talk: Talk) -> None:
        """The attempts at a reply that go wrong before it comes."""
        attempt = 0
        while True:
            for stall in reply.stalls:
                if stall.where == "headers":
                    talk.scope.sleep(stall.seconds)
            fault = reply.fault(self._attempts[key])
            if fault is None:
                return
            self._attempts[key] += 1
            attempt += 1
            status, message = (None, "") if isinstance(fault, Drop) else (fault.status, fault.message)
            if status == 400 and attempt == 1:
                continue  # asked once more without a word (measured)
            limit = reply.rate_limit
            if status == 429 and limit is not None and limit.status == "rejected":
                self.voice.rate_limit(limit)
                self._api_error("You've hit your limit", status, "rate_limit", talk)
            kind = (_FATAL | _TRANSIENT).get(status or 0, "unknown")
            if status in _FATAL or attempt > _RETRIES:
                self._api_error(f"API Error: {status or 'Connection error.'} {message}", status, kind, talk)
            delay = self._retry_seconds * 2 ** (attempt - 1)
            self.voice.system(
                "api_retry",
                attempt=attempt,
                max_retries=_RETRIES,
                retry_delay_ms=round(delay * 1000),
                error_status=status,
                error=kind,
            )
            talk.scope.sleep(delay)

    def _api_error(self, prose: str, status: int | None, kind: str, talk: Talk) -> NoReturn:
        """Told as if the model had said it, and again as the result."""
        message = events.message(
            ScriptedReply(text=prose, usage=Usage(output_tokens=0)), new_uuid(), "<synthetic>"
        )
        message |= {"stop_reason": "stop_sequence", "stop_sequence": ""}
        details: Line = {"error": kind, "is_api_error_message": True, "api_error_status": status}
        self.voice.say("assistant", talk.parent, message=message, **details)
        raise TurnOver("success", "api_error", prose=prose, status=status)

    def _speak(self, reply: ScriptedReply, message_id: str, talk: Talk) -> list[Block]:
        """Show a reply as it streams; gives what goes into the transcript."""
        blocks = events.content(reply, message_id)
        streams = self._options.partial and talk.task is None
        # The last word of a subagent that is waited for is told as the tool's result alone (measured).
        hidden = talk.task is not None and not talk.task.background and not reply.calls
        heard = ""
        if streams:
            self.voice.system("status", status="requesting")
        try:
            for item in events.stream(reply, message_id, self.model):
                if isinstance(item, events.Pause):
                    talk.scope.sleep(item.seconds)
                elif isinstance(item, events.Event):
                    match item.data:
                        case {"type": "content_block_delta", "delta": {"text": str(text)}}:
                            heard += text
                        case {"type": "content_block_stop", "index": int(index)}:
                            heard = ""
                            if not hidden:
                                self._say_block(blocks[index], message_id, reply, talk)
                        case {"type": "message_delta"}:
                            self._charge(reply.usage)
                            talk.usage += reply.usage
                    if streams:
                        self.voice.line(
                            "stream_event",
                            event=item.data,
                            parent_tool_use_id=None,
                            api_message_id=message_id,
                        )
        except Interrupted:
            # What was begun is charged with the placeholder for its output (measured).
            self._charge(replace(reply.usage, output_tokens=1))
            if heard and not hidden:
                self._say_block({"type": "text", "text": heard}, message_id, reply, talk)
                talk.transcript.add("assistant", [Block("text", heard)])
            raise
        if reply.rate_limit is not None:
            self.voice.rate_limit(reply.rate_limit)
        return [Block(str(block["type"]), str(block.get("text", ""))) for block in blocks]

    def _charge(self, usage: Usage) -> None:
        with self._changed:  # subagents spend at the same time
            self._spent += self.transcript.totals.add(self.model, usage)

    def _say_block(self, block: Line, message_id: str, reply: ScriptedReply, talk: Talk) -> None:
        message = events.message(reply, message_id, self.model)
        # A placeholder for the output tokens, as in the real one: the true count is in `message_delta`.
        usage = events.figures(reply.usage) | {"output_tokens": 1}
        message |= {"content": [block], "stop_reason": None, "usage": usage}
        self.voice.say("assistant", talk.parent, message=message)

    # --- tools --------------------------------------------------------------------------------

    def _use_tools(self, reply: ScriptedReply, message_id: str, talk: Talk) -> bool:
        """The tool calls of a reply; gives whether the turn is to end after them."""
        talk.in_tools = True
        stop = False
        for number, call in enumerate(reply.calls):
            if talk.task is not None:
                self.voice.system("task_progress", task_id=talk.task.id, last_tool_name=call.name)
            tool_use_id = f"toolu_{message_id.removeprefix('msg_')}_{number}"
            is_answer = bool(self._options.shape) and call.name == "StructuredOutput"
            outcome = None if is_answer else tools.misuse(call, self._options.tools)
            if outcome is None:
                verdict = self.gate.judge(call, tool_use_id, talk.scope, talk.agent_id, self.transcript)
                stop |= verdict.stop
                if verdict.granted:
                    self._quirks(reply, "tools", talk.scope)
                    outcome = self._use(call, verdict.updated or call.input, tool_use_id, talk)
                else:
                    outcome = self._refuse(call, tool_use_id, verdict.source, verdict.reason, talk)
                if verdict.interrupt:
                    self._say_tool_result(outcome, tool_use_id, talk)
                    raise Interrupted
            self._say_tool_result(outcome, tool_use_id, talk)
        talk.in_tools = False
        return stop

    def _refuse(
        self, call: ToolCall, tool_use_id: str, source: str, reason: str, talk: Talk
    ) -> tools.Outcome:
        denial: Line = {"tool_name": call.name, "tool_use_id": tool_use_id}
        if source in ("mode", "rule"):  # a hook or a host knows what it refused
            details: Line = {"decision_reason_type": source, "message": reason}
            self.voice.system("permission_denied", **denial, **details)
        talk.denials.append(denial | {"tool_input": call.input})
        return tools.Outcome(reason, is_error=True, structured=f"Error: {reason}")

    def _use(self, call: ToolCall, given: Line, tool_use_id: str, talk: Talk) -> tools.Outcome:
        in_background = given.get("run_in_background")
        try:
            match tools.canonical(call.name):
                case "Agent":
                    # In the background unless the call says otherwise (measured).
                    return self._delegate(
                        given, tool_use_id, None if in_background is not False else talk.scope
                    )
                case "Bash" if in_background:
                    return self._background_shell(given, tool_use_id)
                case "StructuredOutput":
                    # (It is not held against the schema here.)
                    talk.answer = given
                    return tools.Outcome("Structured output provided successfully")
                case "AskUserQuestion":
                    answers = given.get("answers")
                    return tools.Outcome(f"Your questions have been answered: {answers}", structured=given)
                case name:
                    return tools.use(name, given, talk.scope, self._cwd)
        except Interrupted:
            stopped = tools.Outcome(_STOPPED, is_error=True, structured="User rejected tool use")
            self._say_tool_result(stopped, tool_use_id, talk)
            raise

    def _delegate(self, given: Line, tool_use_id: str, scope: Scope | None) -> tools.Outcome:
        """A subagent: awaited within `scope`, or in the background if that is None."""
        text = str(given["prompt"])
        task = self.tasks.begin("local_agent", str(given["description"]), tool_use_id, scope, text)
        talk = Talk(Transcript(None), task.scope, task)
        talk.transcript.messages.append(Message("user", text))

        def work() -> str:
            status, summary = "completed", ""
            try:
                self._converse(talk)
                summary = talk.last.text
            except TurnOver as exc:
                status, summary = "failed", exc.prose or exc.error
            except Interrupted:
                status = "stopped"
            self.tasks.end(task, status, summary)
            return summary

        structured = {"agentId": task.id, "prompt": text}
        if task.background:
            start_thread(work)
            launched = f"Async agent launched successfully.\nagentId: {task.id}"
            return tools.Outcome(
                launched, structured=structured | {"isAsync": True, "status": "async_launched"}
            )
        said: Line = {"role": "user", "content": [{"type": "text", "text": text}]}
        self.voice.say("user", talk.parent, message=said, agent_id=task.id)
        summary = work()
        task.scope.check()
        return tools.Outcome(
            f"{summary}\nagentId: {task.id}", structured=structured | {"status": "completed"}
        )

    def _background_shell(self, given: Line, tool_use_id: str) -> tools.Outcome:
        command = str(given["command"])
        task = self.tasks.begin("local_bash", command, tool_use_id, None)

        def work() -> None:
            try:
                code, _ = task.scope.run((*tools.SHELL, command), self._cwd)
                status, how = "failed" if code else "completed", f"(exit code {code})"
            except Interrupted:
                status, how = "stopped", ""
            self.tasks.end(task, status, f'Background command "{command}" {status} {how}')

        start_thread(work)
        structured = {"stdout": "", "stderr": "", "interrupted": False, "backgroundTaskId": task.id}
        started = f"Command running in background with ID: {task.id}."
        return tools.Outcome(started, is_error=False, structured=structured)

    # --- misdeeds -----------------------------------------------------------------------------

    def _quirks(self, reply: ScriptedReply, when: str, scope: Scope) -> None:
        for quirk in reply.quirks:
            if quirk.when == when:
                self._misbehave(quirk, scope)

    def _misbehave(self, quirk: Quirk, scope: Scope) -> None:
        match quirk.kind:
            case "garbage":
                self._wire.write_raw(quirk.text.encode() or b"\x00\xff\xfe this is no JSON {\n")
            case "huge_line":
                self.voice.system("huge", padding="x" * quirk.size)
            case "flood":
                for number in range(quirk.size):
                    scope.check()
                    self.voice.system("flood", number=number)
            case "unknown":
                self.voice.line("unheard_of", subtype=quirk.text or "thing", payload={"a": [1, None]})
            case "die" if quirk.status < 0:
                os.kill(os.getpid(), -quirk.status)
                threading.Event().wait()
            case "die":
                os._exit(quirk.status)
            case "hang":
                self.hung.set()
                threading.Event().wait()
            case "ignore_sigterm":
                self.deaf_to_sigterm = True

    # --- lines --------------------------------------------------------------------------------

    def _say_user(self, content: list[Line], talk: Talk, **fields: object) -> None:
        talk.user_lines += 1
        message = {"role": "user", "content": content}
        self.voice.say("user", talk.parent, message=message, **fields)

    def _say_tool_result(self, outcome: tools.Outcome, tool_use_id: str, talk: Talk) -> None:
        if self._overdrawn:
            return  # the tools of the reply that went over the budget run, and nobody is told (measured)
        result: Line = {"tool_use_id": tool_use_id, "type": "tool_result", "content": outcome.content}
        if outcome.is_error is not None:
            result["is_error"] = outcome.is_error
        self._say_user([result], talk, tool_use_result=outcome.structured)
        talk.transcript.add("user", [Block("tool_result")])

    def _say_result(
        self, talk: Talk, over: TurnOver | None, before: Totals, seconds: float, *, notice: bool = False
    ) -> None:
        totals = self.transcript.totals
        self.last_was_error = over is not None and (over.subtype != "success" or over.reason == "api_error")
        line: Line = {
            "is_error": self.last_was_error,
            "duration_ms": round(seconds * 1000),
            "duration_api_ms": 0,
            "num_turns": 1 + talk.user_lines,
            "stop_reason": talk.last.natural_stop_reason,
            "total_cost_usd": totals.cost_usd,
            "usage": events.figures(talk.usage),
            "modelUsage": model_usage(totals),
            "model_usage_since_last_result": model_usage(totals.since(before)),
            "permission_denials": talk.denials,
            "terminal_reason": over.reason if over else "completed",
            "queued_turn_count": len(self._inbox),
            "result_index": self._results,
            "user_message_uuids": talk.uuids,
        }
        if talk.user_lines < 0:  # no turn of the model's, but a command of `claude`'s own
            del line["terminal_reason"]
        if over is None or over.subtype == "success":
            line["result"] = over.prose if over else talk.last.text
            line["api_error_status"] = over.status if over else None
            if talk.answer is not None and over is None:
                line["result"] = msgspec.json.encode(talk.answer).decode()
                line["structured_output"] = talk.answer
        else:
            line["errors"] = [over.error]
        if notice:
            line["origin"] = {"kind": "task-notification"}
        self._results += 1
        self.voice.line("result", subtype=over.subtype if over else "success", **line)
