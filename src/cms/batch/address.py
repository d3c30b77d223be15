"""Where an engine is: `temporal://HOST[:PORT][/NAMESPACE]`, optionally `?heartbeat=SECONDS`.

No secret stands in it: certificates and keys are Temporal's own settings (`TEMPORAL_TLS_*`,
`TEMPORAL_API_KEY` or its `temporal.toml`), read by the process that connects.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from cms import units
from cms.errors import UsageError

_PORT: Final = 7233
_HEARTBEAT: Final = 60.0
_LEAST: Final = 2.0


class Address(msgspec.Struct, frozen=True):
    """`heartbeat`: seconds without a word from a node after which its task is lost."""

    target: str
    namespace: str = "default"
    heartbeat: float = _HEARTBEAT

    def __str__(self) -> str:
        return f"temporal://{self.target}/{self.namespace}"


def parse(text: str) -> Address:
    """An address from its text.

    Raises:
        UsageError: it is none.
    """
    hint = "write temporal://HOST:7233/NAMESPACE"
    try:
        parts = urlsplit(text)
        port = parts.port or _PORT
    except ValueError:
        raise UsageError(f"{text!r} is not an engine address", hint=hint) from None
    if parts.scheme != "temporal" or not parts.hostname or parts.fragment:
        raise UsageError(f"{text!r} is not an engine address", hint=hint)
    if parts.username or parts.password:
        raise UsageError(
            "an engine address must not contain a secret",
            hint="set TEMPORAL_API_KEY or TEMPORAL_TLS_* instead",
        )
    heartbeat = _HEARTBEAT
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key != "heartbeat":
            raise UsageError(
                f"{text!r}: an engine address has no option {key!r}", hint="the only option is heartbeat=60s"
            )
        try:
            heartbeat = units.check_seconds(value)
        except ValueError as error:
            raise UsageError(f"heartbeat={value}: {error}") from None
        if heartbeat < _LEAST:
            raise UsageError(f"heartbeat={value}: less than {_LEAST:g} s is too short for a busy machine")
    namespace = parts.path.strip("/") or "default"
    if "/" in namespace:
        raise UsageError(f"{text!r}: {namespace!r} is not a namespace", hint=hint)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(f"{host}:{port}", namespace, heartbeat)
