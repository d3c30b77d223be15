"""`cms view`: what runs and what ran, on a page in the browser."""

from __future__ import annotations

import importlib.util
import os
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cms.cli import flags, io
from cms.cli.flags import JsonFlag
from cms.config import Settings, load_settings
from cms.errors import ExitCode, MachineError, UsageError
from cms.json_output import json_object
from cms.units import plural

if TYPE_CHECKING:
    from cms.view.guard import Keys


def view(
    *,
    port: Annotated[
        int,
        Parameter(
            name="--port",
            metavar="N",
            show_default=False,
            help="Serve on this port of 127.0.0.1. [default: any free one]",
        ),
    ] = 0,
    no_open: Annotated[
        bool, flags.switch("--no-open", "Print the address without opening a browser.")
    ] = False,
    act: Annotated[bool, flags.switch("--act", "Let the page stop, kill and answer sessions.")] = False,
    export: Annotated[
        str, flags.text_flag("--export", "Write the pages to this new folder instead.", "DIR")
    ] = "",
    json: JsonFlag = False,
) -> int:
    """Show sessions and batches on a page in your browser.

    Live sessions, conversations with their tool calls, cost against limits, changes, questions, batches and
    their time lines. The page is served on this machine only, and its address holds a secret: whoever has it
    can read along. It only shows, unless you start it with --act. Ctrl-C ends it, and nothing else.

    --export writes the same pages as files that need no server, for the artifacts of a CI run.

    Examples::

        cms view
        cms view --act --port 8080
        cms view --export report
    """
    settings = load_settings()
    if settings.inside:
        raise UsageError("a session may not view others", hint="run it in your own shell")
    if export:
        if act or no_open or port:
            raise UsageError("--export excludes --port, --act and --no-open")
        return _export(settings, export, json=json)
    if not 0 <= port <= 65535:
        raise UsageError(f"--port {port} is not a port", hint="use a number from 1 to 65535")
    _check_extra()
    from cms.view.server import run

    def ready(keys: Keys) -> None:
        if json:
            io.show_json(json_object(address=keys.address, port=keys.port, pid=os.getpid(), act=act))
        else:
            io.show_lines([keys.address])
            io.warn("cms: Ctrl-C ends the page, not the sessions")
        if not no_open and _is_window():
            # Some do not come back before they are left.
            threading.Thread(target=webbrowser.open, args=(keys.address_once,), daemon=True).start()

    run(settings, port=port, act=act, ready=ready)
    return ExitCode.COMPLETED


def _is_window() -> bool:
    """Whether the person's browser has a window of its own, or is the one that was asked for ($BROWSER)."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return False
    return bool(os.environ.get("BROWSER")) or type(found) is not webbrowser.GenericBrowser


def _check_extra() -> None:
    if importlib.util.find_spec("starlette") is None or importlib.util.find_spec("hypercorn") is None:
        raise MachineError(
            "the page needs the packages starlette and hypercorn",
            hint="pip install 'claude-multi-session[web]'",
        )


def _export(settings: Settings, folder: str, *, json: bool) -> int:
    from cms.view.ask import Daemon
    from cms.view.export import export

    daemon = Daemon(settings)
    try:
        done = export(daemon, Path(folder).expanduser().absolute(), os.environ)
    finally:
        daemon.close()
    if json:
        io.show_json(done)
    else:
        batches = plural(done.batches, "batch", "batches")
        what = f"{plural(done.sessions, 'session')}, {batches}"
        io.show_lines([f"{what} in {Path(os.path.normpath(done.folder)) / 'index.html'}"])
        if done.left_out:
            io.warn(f"cms: {plural(done.left_out, 'older session')} left out")
    return ExitCode.COMPLETED
