"""`cms daemon run|status|stop|logs`: the process that owns the live sessions.

None of these is needed in daily use: the first command that needs a daemon starts it, and it leaves when
nothing has been alive for a while.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated, BinaryIO

from cms.cli import flags, io, render
from cms.cli.flags import JsonErrorFlag, JsonFlag
from cms.config import load_settings, load_settings_and_file
from cms.errors import CmsError, DaemonUnavailable, ExitCode
from cms.json_output import json_object
from cms.rpc.client import NoDaemon
from cms.rpc.daemon import DAEMON_STATUS, DAEMON_STOP, DaemonStatus, DaemonStopParams
from cms.rpc.verbs import Nothing
from cms.units import plural, short_span, time_word

_LEAVING = 30.0  # seconds on top of the grace, for force and proof
_POLL = 0.25  # seconds between two looks at the log with --follow


def run(*, json: JsonErrorFlag = False) -> int:  # noqa: ARG001 - `cms.cli.app` looks at it
    """Run the daemon in this terminal until Ctrl-C or `cms daemon stop`.

    Example::

        cms daemon run
    """
    from cms.daemon.main import run_daemon

    run_daemon(load_settings_and_file(), foreground=True)
    return ExitCode.COMPLETED


def unit(*, json: JsonFlag = False) -> int:
    """Print a systemd user unit for the daemon.

    Run by systemd, the daemon has a cgroup of its own (level A in `cms doctor`) and starts when you log in.

    Example::

        cms daemon unit > ~/.config/systemd/user/cms.service
        systemctl --user daemon-reload
        systemctl --user enable --now cms.service
    """
    from cms.daemon.service_unit import unit as text

    if json:
        io.show_json(json_object(name="cms.service", text=text(os.environ)))
    else:
        io.show(text(os.environ))
    return ExitCode.COMPLETED


def status(*, json: JsonFlag = False) -> int:
    """Show whether the daemon runs, and what it does.

    Exits with 11 when none runs. Does not start one.

    Example::

        cms daemon status
    """
    try:
        with io.daemon(start=False) as client:
            reply = client.call(DAEMON_STATUS, Nothing())
    except NoDaemon:
        _show_none(f"no daemon is running for {load_settings().home}", stopped=False, json=json)
        return ExitCode.DAEMON_UNAVAILABLE
    if json:
        io.show_json(json_object(reply, running=True))
    else:
        io.show_lines(_status_lines(reply))
    return ExitCode.COMPLETED


def stop(
    *,
    grace: Annotated[
        float, flags.seconds("--grace", "Give sessions this long to end before they are killed.")
    ] = 10.0,
    json: JsonFlag = False,
) -> int:
    """Stop every session, then the daemon.

    The sessions can be resumed. Works on a daemon of any version; succeeds if none runs.

    Example::

        cms daemon stop
    """
    try:
        with io.daemon(start=False, any_protocol=True) as client:
            pid = client.daemon.pid
            client.hold_process()
            client.call(DAEMON_STOP, DaemonStopParams(grace=grace))
            give_up = time.monotonic() + grace + _LEAVING
            client.wait_until_gone(give_up)
            if time.monotonic() >= give_up:
                raise DaemonUnavailable(
                    f"the daemon (pid {pid}) is still running after {grace + _LEAVING:g} s",
                    hint="`cms daemon logs` shows what it is waiting for",
                )
    except NoDaemon:
        _show_none("no daemon is running", stopped=False, json=json)
        return ExitCode.COMPLETED
    _show_none(f"daemon stopped (pid {pid})", stopped=True, json=json)
    return ExitCode.COMPLETED


def logs(
    *,
    lines: Annotated[int, flags.count("--lines", "Show the last N lines.")] = 50,
    follow: Annotated[bool, flags.follow("Keep printing new lines until Ctrl-C.")] = False,
    json: JsonFlag = False,
) -> int:
    """Show the daemon's own log.

    Example::

        cms daemon logs --lines 100
    """
    path = load_settings().log
    try:
        with path.open("rb") as log:
            last = _tail(log, lines)
            if json:
                io.show_json(json_object(path=str(path), lines=last))
                return ExitCode.COMPLETED
            if last:
                io.show_lines(last)
            while follow:
                sys.stdout.flush()
                text = log.read().decode(errors="replace")
                if text:
                    sys.stdout.write(text)
                else:
                    time.sleep(_POLL)
    except FileNotFoundError:
        raise CmsError(f"there is no log yet: {path}", hint="no daemon has run for this home") from None
    except OSError as error:
        raise CmsError(f"cannot read {path}: {error.strerror}") from None
    return ExitCode.COMPLETED


def _tail(log: BinaryIO, lines: int) -> list[str]:
    """The last lines, reading from the end in growing steps; the file stands at its end afterwards."""
    size = log.seek(0, 2)
    step = 64 * 1024
    while True:
        log.seek(max(0, size - step))
        data = log.read()
        if data.count(b"\n") > lines or step >= size:
            break
        step *= 4
    return data.decode(errors="replace").splitlines()[-lines:]


def _show_none(text: str, *, stopped: bool, json: bool) -> None:
    if json:
        io.show_json(json_object(home=str(load_settings().home), running=False, stopped=stopped))
    else:
        io.show_lines([text])


def _status_lines(status: DaemonStatus) -> list[str]:
    idle = "never" if status.idle_exit is None else f"after {time_word(status.idle_exit)} idle"
    return [
        "daemon running",
        *render.fields(
            (
                ("pid", str(status.pid)),
                ("version", status.version),
                ("home", status.home),
                ("up", short_span(status.uptime)),
                ("live", plural(status.live, "session")),
                ("known", plural(status.sessions, "session")),
                ("clients", str(status.clients)),
                ("containment", status.containment),
                ("claude", status.claude),
                ("leaves", idle),
            )
        ),
    ]
