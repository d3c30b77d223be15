"""From the words that were typed to an exit code: the one place where what goes wrong becomes lines."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from cms.cli import quick
from cms.errors import CmsError, ExitCode, InternalError, Interrupted, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every way in which it can end has its exit code (`ExitCode`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        result = _run(words)
        sys.stdout.flush()
        return int(result)
    except CmsError as error:
        return _fail(error, words)
    except KeyboardInterrupt:
        return _fail(Interrupted(), words)
    except BrokenPipeError:
        # The reader went away (`cms list | head`): nothing to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        if os.environ.get("CMS_DEBUG"):
            raise
        wrapped = InternalError(
            f"internal error: {type(error).__name__}: {error}",
            hint="please report this bug; CMS_DEBUG=1 shows where it happened",
        )
        return _fail(wrapped, words)


def _check_text(words: Sequence[str]) -> None:
    """What is not text could neither be sent to the daemon nor stored.

    Raises:
        UsageError: a word is not UTF-8.
    """
    for word in words:
        if not word.isascii() and (told := word.encode(errors="backslashreplace").decode()) != word:
            raise UsageError(
                f"{told[:60]} is not valid UTF-8 text", hint="to name such a folder, make a link to it"
            )


def _run(words: list[str]) -> int:
    _check_text(words)
    call = quick.find(words)
    if call is None:
        quick.withdraw()
        from cms.cli import parser

        call = parser.find(words)
    # Off since `cms.cli.main`: what was imported until here is for good, there was nothing to collect.
    gc.freeze()
    gc.enable()
    result = call()
    return result if isinstance(result, int) else ExitCode.COMPLETED


def _fail(error: CmsError, words: Sequence[str]) -> int:
    """Tell the error: lines for a person on stderr and, with `--json`, one object on stdout."""
    from cms.cli import io

    if wants_json(words):
        try:
            io.show_json({"error": io.error_json(error)})
        except (OSError, CmsError):
            pass  # stdout takes nothing any more; stderr and the exit code still tell
    io.show_error(error, colour="1;31")
    return int(error.exit_code)


def wants_json(words: Sequence[str]) -> bool:
    """Whether `--json` was typed as a flag. Looked at by hand because the parse itself may have failed."""
    flags = words[: words.index("--")] if "--" in words else words
    return "--json" in flags
