"""The `cms` command: flags in, one request to the daemon, lines or one JSON object out.

Read in this order:

- `app`: the one place where errors and Ctrl-C become lines and exit codes.
- `commands`: which commands exist. `quick` reads a plain command line, `parser` (cyclopts) any other;
  `declare` has the words with which commands say what they take.
- `flags`, `agent`: what may be typed, made into records of `cms.session.model`, or refused in one line.
- `io`: the one place that opens the client, waits, and prints.
- `delegation`, `spawn`, `sessions`, `status`, `questions`, `logs`, `top`, `audit`, `batch`, `batches`,
  `cost`, `budget`, `config`, `daemon`, `selftest` ...: the commands, a file per noun.
- `render`, `batch_render`: what a person reads. Pure. (What `--json` prints: `cms.json_output`.)
- `complete`: what the shells ask for on TAB (`completion` prints their scripts).
- `terminal`: what a stream can show. `progress`: the status line of a command that waits.
- `foreground`: `delegate --foreground`, the only module here that loads trio, and only when asked.

A command that only asks must be quick, so this package imports nothing by itself, `commands` names the
commands' modules as strings, which are loaded on demand, and `tests/cli/test_fast.py` counts what is
imported.
"""

from __future__ import annotations

import gc
import os
import sys


def _open_standard_streams() -> None:
    """Give a command that was started with a standard stream closed (`>&-`, some crons) the null device.

    Else the next file that is opened, a socket or the store, would be "stdout", and be written to as such.
    Whoever closes a stream wants nothing of it: what goes there is lost, as with `>/dev/null`.
    """
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)  # the lowest number that is free
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)


def _load_msgspec() -> None:
    """Load it without typing_extensions, of which it takes what `typing` has as well, where it is installed.

    That would load `inspect` and all that belongs to it: a sixth of a fast command.
    """
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment] # "there is no such module", in Python's words
    try:
        import msgspec  # noqa: F401 - for whoever imports it next
    finally:
        del sys.modules["typing_extensions"]


def main() -> int:
    """Run the command in `sys.argv` and return its exit status (console script)."""
    # Collections while modules are loaded find nothing and take a twentieth of a fast command; `app` turns
    # them on again before the command itself runs.
    gc.disable()
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_standard_streams()
    if sys.argv[1:2] == ["__complete"]:
        _load_msgspec()
        from cms.cli.complete import main as complete

        os._exit(complete(sys.argv[2:]))
    try:
        _load_msgspec()
        from cms.cli.app import main as run
    except KeyboardInterrupt:
        return 130

    code = run()
    if "trio" not in sys.modules:
        # Everything is flushed and nothing waits for an exit handler. Tearing the interpreter down would
        # free, one by one, what the kernel frees at once: a tenth of what a fast command takes.
        os._exit(code)
    return code
