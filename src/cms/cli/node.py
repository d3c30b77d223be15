"""`cms node`: this machine does tasks of other machines' batches; `drain`, `status`, `unit` look after it."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

from cms.cli import flags, io, node_render
from cms.cli.flags import JsonErrorFlag, JsonFlag
from cms.config import load_settings
from cms.errors import CmsError, ExitCode, UsageError
from cms.folders import check_folder
from cms.json_output import json_object
from cms.nodes.state import NodeFolder, NodeState
from cms.units import parse_count, plural

_LEAVING = 60.0  # seconds that a node without tasks may take to leave: its last polls end
_POLL = 0.1


def run(
    *,
    on: Annotated[
        str,
        flags.text_flag("--on", "Address of the engine: temporal://HOST:7233/NAMESPACE.", "URL"),
    ] = "",
    slots: Annotated[
        str,
        flags.text_flag("--slots", "Tasks to run at once; auto: by memory and cores.", "N"),
    ] = "auto",
    labels: Annotated[str, flags.text_flag("--labels", "What sets this machine apart: gpu,big.", "A,B")] = "",
    work: Annotated[
        str, flags.text_flag("--work", "Check out repositories here. [default: CMS_HOME-work]", "DIR")
    ] = "",
    dev_server: Annotated[
        bool,
        flags.switch("--dev-server", "Also run an engine here, on loopback, for a first try."),
    ] = False,
    port: Annotated[int, flags.count("--port", "Port of the --dev-server.")] = 7233,
    ui_port: Annotated[
        int | None, flags.count("--ui-port", "Also serve that engine's own web pages, at this port.")
    ] = None,
    json: JsonErrorFlag = False,  # noqa: ARG001 - `cms.cli.app` looks at it
) -> int:
    """Run tasks of batches from other machines, taken from an engine.

    This machine's daemon does the tasks. Ctrl-C or SIGTERM drains the node: it takes nothing more and
    finishes what runs; a second one stops that too. A node cut off from its engine ends its sessions before
    anyone counts them as lost.

    Examples::

        cms node --dev-server
        cms node --on temporal://queue.example:7233/agents --slots 8 --labels gpu
    """
    from cms.nodes.start import start

    if bool(on) == dev_server:
        raise UsageError("node needs either --on URL or --dev-server", hint="cms node --help")
    if ui_port is not None and not dev_server:
        raise UsageError("--ui-port is for --dev-server", hint="with --on, add ?ui=https://HOST to the URL")
    return start(
        on,
        slots=None if slots == "auto" else _slots(slots),
        labels=_labels(labels),
        work=check_folder(work, "--work") if work else "",
        dev_port=port if dev_server else None,
        ui_port=ui_port,
        tell=io.warn,
    )


def _slots(text: str) -> int:
    try:
        return parse_count(text)
    except ValueError as error:
        raise UsageError(f"--slots: {error}", hint="a number, or auto") from None


def _labels(text: str) -> tuple[str, ...]:
    from cms.batch.remote import check_labels
    from cms.units import BadValue

    try:
        return check_labels(text)
    except BadValue as error:
        raise UsageError(f"--labels: {error.message}", hint=error.hint) from None


def drain(
    *,
    wait: Annotated[bool, flags.switch("--wait", "Wait until its last task has ended.")] = False,
    json: JsonFlag = False,
) -> int:
    """Have this node take nothing more and leave after its last task.

    Exits with 11 when no node is running.

    Example::

        cms node drain --wait
    """
    folder = NodeFolder(load_settings().home)
    found = _find(folder)
    if found.standing not in ("draining", "stopping"):
        os.kill(found.pid, signal.SIGTERM)
    while wait and (now := folder.running()) is not None and now.pid == found.pid:
        time.sleep(_POLL)
    if json:
        io.show_json(json_object(id=found.card.id, pid=found.pid, tasks=len(found.busy), left=wait))
    else:
        working = bool(found.busy) and not wait
        busy = f"{plural(len(found.busy), 'task')} still running" if working else "nothing left to do"
        io.show_lines([f"node {found.card.id} drains: {busy}"])
    return ExitCode.COMPLETED


def status(*, json: JsonFlag = False) -> int:
    """Show this node and what it does.

    Exits with 11 when no node is running.

    Example::

        cms node status
    """
    found = _find(NodeFolder(load_settings().home))
    if json:
        io.show_json(node_render.node_json(found))
    else:
        io.show_lines(node_render.node_lines(found, time.time(), io.out_style()))
    return ExitCode.COMPLETED


def _find(folder: NodeFolder) -> NodeState:
    found = folder.running()
    if found is None:
        raise NoNode(f"no node is running for {folder.path.parent}", hint="cms node --on URL starts one")
    return found


class NoNode(CmsError):
    """None runs for this home."""

    code = "no_node"
    exit_code = ExitCode.DAEMON_UNAVAILABLE


def unit(*, json: JsonFlag = False) -> int:
    """Print a systemd user unit for a node.

    Example::

        cms node unit > ~/.config/systemd/user/cms-node.service
    """
    from cms.nodes.start import unit as text

    if json:
        io.show_json(json_object(name="cms-node.service", text=text(os.environ)))
    else:
        io.show(text(os.environ))
    return ExitCode.COMPLETED
