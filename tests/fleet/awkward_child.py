"""A `claude` that goes wrong where the simulated agent does not: before its first turn, or in its bare pipes.

    python awkward_child.py STAGE [claude's flags ...]

It says what it must to get to the stage named, and then does what the stage is called. Standard library only.
With `as_the_folder_says` its work dir is called like the stage.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

TOTAL: dict[str, object] = {"session": {"total_cost_usd": 0.0, "model_usage": {}}}


def say(line: dict[str, object]) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")


def hear(subtype: str) -> dict[str, object]:
    """The next control request, which must be this one; the end of stdin ends the program in order."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    heard: dict[str, dict[str, object]] = json.loads(line)
    assert heard["request"]["subtype"] == subtype, heard
    return {"request_id": heard["request_id"]}


def answer(request: dict[str, object], response: dict[str, object]) -> None:
    say({"type": "control_response", "response": {"subtype": "success", **request, "response": response}})


def for_ever() -> NoReturn:
    while True:
        time.sleep(3600)


def main(stage: str) -> None:
    if stage == "as_the_folder_says":
        stage = Path.cwd().name
    if stage == "knows_no_flag":
        if "--version" in sys.argv:
            print("2.1.199 (Claude Code)")  # noqa: T201
            sys.exit(0)
        sys.exit("error: option '--permission-mode <mode>' argument 'manual' is invalid.")
    if stage == "dies_at_once":
        sys.exit("no terminal, no home, no hope")
    if stage == "asks_for_login":
        os.write(1, b"\x1b]0;claude\x07\xef\xbb\xbfWelcome!\nPlease run /login")
        sys.exit(1)
    if stage == "asks_and_waits":
        os.write(1, b"\x1b[1mLog in at the door\x1b[0m\n")
        for_ever()
    if stage == "exits_0_at_once":
        sys.exit(0)
    if stage == "never_reads":
        for_ever()
    if stage == "closes_stdout":
        os.close(1)
        for_ever()
    if stage == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for_ever()
    if stage == "garbage":
        os.write(1, os.urandom(200_000) + b"\n")
        for_ever()
    if stage == "endless_line":
        while True:
            os.write(1, b"x" * 65536)
    initialize = hear("initialize")
    if stage == "dies_before_initialized":
        os.kill(os.getpid(), signal.SIGKILL)
    if stage == "refuses_hooks":
        error = {"subtype": "error", **initialize, "error": "hooks are out of order"}
        say({"type": "control_response", "response": error})
        for_ever()
    if stage == "takes_no_gate":
        answer(initialize, {"commands": []})
        for_ever()
    if stage == "is_too_old":
        answer(initialize, {"hooks_applied": True, "claude_code_version": "2.1.208"})
        for_ever()
    answer(initialize, {"hooks_applied": True})
    if stage == "answers_twice":
        answer(initialize, {})
        for_ever()
    if stage == "answers_unasked":
        answer({"request_id": "cms-2"}, TOTAL)
        for_ever()
    usage = hear("get_usage")
    if stage == "dies_before_usage":
        sys.exit(7)
    if stage == "hides_usage":
        for_ever()
    if stage == "odd_usage":
        answer(usage, {"session": "none of your business"})
        for_ever()
    answer(usage, TOTAL)
    for asked in ("get_settings", "mcp_status"):
        answer(hear(asked), {})
    if stage == "dies_idle":
        sys.exit(5)
    if stage == "closes_stdout_idle":
        os.close(1)
        for_ever()
    if stage == "stops_reading":
        for_ever()
    if stage == "dies_on_message":
        sys.stdin.readline()
        sys.exit("the message was too much")
    raise SystemExit(f"no stage {stage}")


if __name__ == "__main__":
    main(sys.argv[1])
