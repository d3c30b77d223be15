"""The one place that opens the client: ask, or wait with progress. And the one that prints answers.

Two kinds of command. One that only asks sends a request and prints the answer. One that starts work waits
for its end (`work`) and shows on a terminal the answer as it comes. Ctrl-C then asks the daemon to stop
waiting (`Client.call`): a delegation is stopped and still answers with its result, a session works on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from cms.cli import terminal
from cms.config import load_settings
from cms.errors import CmsError, MachineError
from cms.json_output import encode
from cms.rpc.client import Client, connect
from cms.rpc.verbs import P, R, Verb
from cms.session.model import Attachment


@contextmanager
def daemon(*, start: bool = True, any_protocol: bool = False) -> Iterator[Client]:
    """A connection to the daemon, which is started when there is none.

    Raises:
        DaemonUnavailable, HomeUnusable, UsageError: see `cms.rpc.client.connect` and `load_settings`.
    """
    with connect(load_settings(), start=start, any_protocol=any_protocol) as client:
        yield client


#: Says whether an answer stands on the terminal already.
Shows = Callable[[str], bool]


def work(verb: Verb[P, R], params: P, *, name: str, quiet: bool) -> tuple[R, Shows]:
    """One request that takes long; on a terminal the answer is shown as it comes, unless `quiet`."""
    with daemon() as client:
        if quiet or not (sys.stdout.isatty() or terminal.can_rewrite(sys.stderr, os.environ)):
            return client.call(verb, params), shows_nothing
        from cms.cli.progress import live_answer

        with live_answer(name) as live:
            reply = client.call(
                verb, params, on_accepted=lambda it: live.expect(it.interaction_id), on_progress=live.note
            )
        return reply, live.shows


def shows_nothing(_answer: str) -> bool:
    return False


def attached(paths: Sequence[str]) -> tuple[Attachment, ...]:
    """Files that are to go with a message, kept by the daemon.

    Raises:
        UsageError: one cannot be read or attached.
    """
    if not paths:
        return ()
    from cms.rpc.attachments import attach, read_all

    given = read_all(paths)
    with daemon() as client:
        return attach(client.call, given)


# --- printing -------------------------------------------------------------------------------------


def out_style() -> terminal.Style:
    return terminal.style_of(sys.stdout, os.environ)


def show_lines(lines: list[str]) -> None:
    """Lines for a person, on stdout. What the encoding cannot carry is replaced, never an error.

    Raises:
        MachineError: stdout does not take it (a full disk).
        BrokenPipeError: whoever read it has left.
    """
    show("\n".join(lines) + "\n")


def show(text: str) -> None:
    """Text for a person as it is, on stdout at once. Raises as `show_lines`."""
    with _writing():
        sys.stdout.write(terminal.encodable(text, sys.stdout))
        sys.stdout.flush()


def show_json(answer: Mapping[str, object] | msgspec.Struct) -> None:
    """The one object of a command with `--json`, on stdout; always UTF-8. Raises as `show_lines`."""
    show_bytes(encode(answer))


def show_bytes(data: bytes) -> None:
    """What a program reads, on stdout as it is. Raises as `show_lines`."""
    with _writing():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise MachineError(f"cannot write the answer: {error.strerror}") from None


def asks(question: str) -> bool:
    """Whether a person says yes, on the terminal. Who asks knows that there is one."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def error_json(error: CmsError) -> dict[str, object]:
    """An error as `--json` tells it."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def show_error(error: CmsError, *, colour: str = "33") -> None:
    """An error for a person, on stderr: what is wrong, and what to do about it."""
    warn(f"cms: {' '.join(error.message.split())}", colour=colour)
    if error.hint:
        warn(f"     {' '.join(error.hint.split())}")


def warn(text: str, *, colour: str = "33") -> None:
    """A line for a person that is no answer, on stderr.

    On a terminal it is broken between words, and has colour: `cms:` in front, and commands in backticks.
    """
    style = terminal.style_of(sys.stderr, os.environ)
    encoding = "ascii" if terminal.c_locale(os.environ) else sys.stderr.encoding or "ascii"
    if style.tty:
        text = _on_terminal(terminal.neutral(text), style, colour)
    try:
        print(text.encode(encoding, "replace").decode(encoding), file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads it, and the exit code still tells


def _on_terminal(text: str, style: terminal.Style, colour: str) -> str:
    import re
    import textwrap

    # A command stays in one line, to be copied.
    whole = re.sub(r"`[^`]{1,60}`", lambda found: found[0].replace(" ", "\0"), text)
    indent = " " * 5 if text.startswith(("cms: ", " " * 5)) else ""
    lines = textwrap.wrap(
        whole, style.width or 80, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    text = "\n".join(lines).replace("\0", " ")
    text = re.sub(r"`[^`\n]{1,60}`", lambda found: terminal.paint(found[0], "36", style), text)
    return re.sub("^cms:", terminal.paint("cms:", colour, style), text)
