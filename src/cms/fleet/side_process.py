"""One question to a module of ours that runs in a process of its own: a library that is large, or input that
could be made to take for ever, has no place in the daemon."""

from __future__ import annotations

import subprocess
import sys
from typing import TypeVar

import msgspec
import trio

T = TypeVar("T")


async def ask_process(module: str, question: msgspec.Struct, answer: type[T], seconds: float) -> T | None:
    """What the module answers; None: it took too long, and was ended.

    Args:
        module: run with `-m`; it reads the question on stdin and writes its answer to stdout, both as JSON.
            What it writes to stderr is told to nobody.

    Raises:
        OSError: it cannot be started.
        msgspec.MsgspecError: it did not answer.
    """
    with trio.move_on_after(seconds):
        done = await trio.run_process(
            [sys.executable, "-P", "-m", module],
            stdin=msgspec.json.encode(question),
            capture_stdout=True,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return msgspec.json.decode(done.stdout, type=answer)
    return None
