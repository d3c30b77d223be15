"""`cms metrics`: what a daemon has counted, for Prometheus and its like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from cms.cli import io
from cms.cli.declare import Parameter, Token
from cms.cli.flags import JsonFlag
from cms.errors import ExitCode
from cms.json_output import json_object
from cms.rpc.metrics import DAEMON_METRICS
from cms.rpc.verbs import Nothing
from cms.telemetry.metrics import text


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def parse_address(word: str) -> Address:
    """`127.0.0.1:9464`, `localhost:9464`, `[::1]:9464`, or a port alone.

    Raises:
        ValueError: it is none, or can be reached from other machines.
    """
    from ipaddress import ip_address

    host, _, port = word.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise ValueError(f"{word!r} is not an address: write 127.0.0.1:9464")
    try:
        local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError(f"{host!r} is not a loopback address; metrics are served only there")
    return Address(host, int(port))


def _to_address(_: object, tokens: Sequence[Token]) -> Address:
    return parse_address(tokens[0].value)


def metrics(
    *,
    listen: Annotated[
        Address | None,
        Parameter(
            name="--listen",
            converter=_to_address,
            metavar="HOST:PORT",
            accepts_keys=False,
            n_tokens=1,
            help="Serve them at http://HOST:PORT/metrics until Ctrl-C; loopback only.",
        ),
    ] = None,
    json: JsonFlag = False,
) -> int:
    """Print metrics in the Prometheus text format, or serve them for a scrape.

    Counters are kept in the store and survive restarts of the daemon. No label is a session's name.

    Examples::

        cms metrics
        cms metrics --listen 127.0.0.1:9464
    """
    if listen is not None:
        from cms.cli.metrics_server import serve

        serve(listen.host, listen.port, json=json)
        return ExitCode.COMPLETED
    with io.daemon() as client:
        found = client.call(DAEMON_METRICS, Nothing())
    if json:
        io.show_json(json_object(found))
    else:
        io.show(text(found.families))
    return ExitCode.COMPLETED
