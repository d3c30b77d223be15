"""Where an engine is: `temporal://HOST[:PORT][/NAMESPACE]`, optionally `?heartbeat=SECONDS&ui=URL`.

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
    """An engine's.

    Attributes:
        heartbeat: seconds without a word from a node after which its task is lost.
        ui: where its own web pages are; "" if nobody said.
    """

    target: str
    namespace: str = "default"
    heartbeat: float = _HEARTBEAT
    ui: str = ""

    @property
    def page(self) -> str:
        """The page of the engine that shows the tasks; "" if there is none."""
        return f"{self.ui.rstrip('/')}/namespaces/{self.namespace}/activities" if self.ui else ""

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
    heartbeat, ui = _HEARTBEAT, ""
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key == "ui":
            ui = _page(value)
            continue
        if key != "heartbeat":
            raise UsageError(
                f"{text!r}: an engine address has no option {key!r}",
                hint="the options are heartbeat=60s and ui=https://HOST",
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
    return Address(f"{host}:{port}", namespace, heartbeat, ui)


def _page(text: str) -> str:
    """Where an engine's web pages are.

    Raises:
        UsageError: it is no address of pages, or holds a secret.
    """
    wrong = UsageError(f"ui={text}: not the address of a web page", hint="write ui=https://HOST")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise wrong from None
    odd = parts.username or parts.password or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or odd or not text.isprintable():
        raise wrong
    return text
