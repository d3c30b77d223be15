"""The simulated agent's own thread of control: stdin, control requests, signals, the end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

from . import options as command_line
from .gate import Hook
from .options import VERSION, Options
from .session import Session
from .start_hooks import run_start_hooks
from .transcript import Transcript, place
from .wire import Line, NotJSON, Wire, new_uuid

_SIGTERM_STATUS = 143


def main() -> None:
    """Run as `claude` would with this command line."""
    options = command_line.parse(sys.argv[1:])
    if options.version:
        print(f"{VERSION} (Claude Code, simulated by cms)")  # noqa: T201  the program's output
        return
    wire = Wire()
    session = _open(options, wire)
    sys.exit(_serve(session, wire))


def _open(options: Options, wire: Wire) -> Session:
    """The conversation that the flags name, new or old."""
    session_id = options.session_id or new_uuid()
    path = place(session_id)
    if not options.resume:
        if path.exists():
            sys.exit(f"Error: Session ID {session_id} is already in use.")
        return Session(options, wire, Transcript(path if options.persist else None), session_id)
    try:
        transcript = Transcript.load(place(options.resume))
    except FileNotFoundError:
        error = f"No conversation found with session ID: {options.resume}"
        wire.write(
            {
                "type": "result",
                "subtype": "error_during_execution",
                "is_error": True,
                "num_turns": 0,
                "session_id": session_id,
                "total_cost_usd": 0,
                "usage": {},
                "modelUsage": {},
                "permission_denials": [],
                "errors": [error],
                "uuid": new_uuid(),
            }
        )
        sys.exit(1)
    if options.fork:
        transcript.move_to(path)
    else:
        session_id = options.resume
    if not options.persist:
        transcript.path = None
    return Session(options, wire, transcript, session_id)


def _serve(session: Session, wire: Wire) -> int:
    """Until stdin ends and the work is done; gives the exit status."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if not session.deaf_to_sigterm:
            session.kill_tools()
            session.transcript.save_totals()
            os._exit(_SIGTERM_STATUS)

    def work() -> None:
        try:
            session.run()
        except BaseException as exc:
            sys.excepthook(type(exc), exc, exc.__traceback__)
            os._exit(70)

    wakeup, heard = os.pipe()
    for fd in (wakeup, heard):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(heard, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, end)
    # Started with SIGINT ignored (a background job of a shell), it stays so; otherwise it ends like SIGTERM.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        for line in wire.lines(wakeup):
            _receive(line, session, wire)
            if session.hung.is_set():
                threading.Event().wait()
    except NotJSON as exc:
        print(exc, file=sys.stderr)  # noqa: T201  where the real one says it
        session.kill_tools()
        return 1
    wire.close_questions()
    session.close()
    worker.join()
    session.transcript.save_totals()
    return int(session.last_was_error)


def _receive(line: Line, session: Session, wire: Wire) -> None:
    match line.get("type"):
        case "user":
            message = line.get("message")
            if isinstance(message, dict):
                session.deliver(_text(message.get("content")), str(line.get("uuid", "")))
        case "control_response":
            response = line.get("response")
            if isinstance(response, dict):
                wire.answered(response)
        case "control_request":
            request = line.get("request")
            if isinstance(request, dict):
                _control(str(line.get("request_id")), request, session, wire)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))


def _control(request_id: str, request: Line, session: Session, wire: Wire) -> None:
    answer: Line | None
    match request.get("subtype"):
        case "initialize":
            run_start_hooks(session.voice)
            session.gate.hooks = list(_hooks(request.get("hooks")))
            answer = {"commands": [], "agents": [], "models": [], "account": {}, "pid": os.getpid()}
            answer |= {"hooks_applied": True, "claude_code_version": f"{VERSION}-simulated"}
        case "interrupt":
            # The answer comes first, then what the interrupt brings about.
            _succeed(wire, request_id, {"still_queued": session.waiting()})
            session.interrupt()
            return
        case "get_usage":
            answer = session.bill()
        case "get_session_cost":
            answer = {"text": f"Total cost: ${session.transcript.totals.cost_usd:.4f}"}
        case "get_context_usage":
            answer = {"totalTokens": 12_000, "maxTokens": 1_000_000, "percentage": 1, "categories": []}
        case "set_model":
            session.model = command_line.full_model(str(request.get("model") or ""))
            said = f"<local-command-stdout>Set model to `{session.model}`</local-command-stdout>"
            session.voice.replay(said, new_uuid())
            answer = {"model": session.model}
        case "set_permission_mode":
            session.gate.mode = str(request.get("mode"))
            _succeed(wire, request_id, {"mode": session.gate.mode})
            session.voice.system("status", status=None, permissionMode=session.gate.mode)
            return
        case "stop_task":
            session.tasks.cancel(str(request.get("task_id")))
            answer = {}
        case "mcp_status":
            answer = {"mcpServers": []}
        case subtype:
            error = f"Unsupported control request subtype: {subtype}"
            failure = {"subtype": "error", "request_id": request_id, "error": error}
            wire.write(
                {"type": "control_response", "response": failure | {"error_code": "unsupported_request"}}
            )
            return
    _succeed(wire, request_id, answer)


def _succeed(wire: Wire, request_id: str, answer: Line) -> None:
    success = {"subtype": "success", "request_id": request_id, "response": answer}
    wire.write({"type": "control_response", "response": success})


def _hooks(registered: object) -> list[Hook]:
    found: list[Hook] = []
    matchers = registered.get("PreToolUse") if isinstance(registered, dict) else None
    for matcher in matchers if isinstance(matchers, list) else ():
        if isinstance(matcher, dict):
            timeout = matcher.get("timeout")
            seconds = float(timeout) if isinstance(timeout, int | float) else None
            ids = matcher.get("hookCallbackIds")
            found += [Hook(str(id_), seconds) for id_ in (ids if isinstance(ids, list) else ())]
    return found


if __name__ == "__main__":
    main()
