"""`cms fleet`: the nodes of an engine and what they do."""

from __future__ import annotations

import time
from typing import Annotated

from cms.cli import flags, io, node_render
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode, UsageError


def fleet(
    *,
    on: Annotated[
        str, flags.text_flag("--on", "Address of the engine: temporal://HOST:7233/NAMESPACE.", "URL")
    ] = "",
    json: JsonFlag = False,
) -> int:
    """Show the nodes of an engine and what they do.

    Examples::

        cms fleet --on temporal://127.0.0.1
        cms fleet --on temporal://queue.example:7233/agents --json
    """
    from cms.batch.address import parse
    from cms.nodes.start import missing

    if not on:
        raise UsageError("fleet needs --on URL", hint="the engine that nodes share: docs/scale-out.md")
    address = parse(on)
    try:
        from cms.nodes.look import look
    except ImportError as error:
        raise missing(error) from None
    found = look(address)
    if json:
        io.show_json(node_render.fleet_json(found))
    else:
        io.show_lines(node_render.fleet_lines(found, time.time(), io.out_style()))
    return ExitCode.COMPLETED
