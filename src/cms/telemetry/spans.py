"""Spans as values, and where a trace begins: W3C trace context, sampling. Pure.

A trace is that of whoever asked (`TRACEPARENT` in the environment of the command), else of the batch, else of
the session. Ids are random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Final, Literal

from cms.session.model import Record

Attribute = str | int | float | bool | list[str]

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED: Final = 0x01


class Span(Record, frozen=True):
    """One that has ended.

    Attributes:
        trace_id, span_id, parent_id: in hexadecimal; `parent_id` "" of a root.
        start, end: seconds since the epoch.
        error: what kind of failure it was; "": none.
    """

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    start: float
    end: float
    attributes: dict[str, Attribute]
    kind: Literal["internal", "client"] = "internal"
    error: str = ""


class Place(Record, frozen=True):
    """A span that others are children of."""

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""  # `tracestate`, handed on as it came

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    @property
    def environ(self) -> dict[str, str]:
        """What tells a program that is started below it."""
        return {"TRACEPARENT": self.traceparent, "TRACESTATE": self.state}


#: Below which span the work under way belongs, where it is part of something larger (a batch).
part_of: ContextVar[Place | None] = ContextVar("part_of", default=None)


def place_of(environ: Mapping[str, str]) -> Place | None:
    """Where whoever asked stands in a trace of his own; None: in none, or in what is none."""
    found = _TRACEPARENT.fullmatch(environ.get("TRACEPARENT", ""))
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return Place(found[1], found[2], bool(int(found[3], 16) & _SAMPLED), environ.get("TRACESTATE", ""))


def below(parent: Place | None, environ: Mapping[str, str], trace_id: str, span_id: str) -> Place:
    """The place of a new span.

    Args:
        trace_id: of a new trace, where there is no parent.
    """
    if parent is not None:
        sampled = _is_sampled(environ, parent.trace_id, parent)
        return Place(parent.trace_id, span_id, sampled, parent.state)
    return Place(trace_id, span_id, _is_sampled(environ, trace_id, None))


def _is_sampled(environ: Mapping[str, str], trace_id: str, parent: Place | None) -> bool:
    """By `OTEL_TRACES_SAMPLER`; what we do not know of it samples all."""
    name = environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").strip().lower()
    if name.startswith("parentbased_"):
        if parent is not None:
            return parent.sampled
        name = name.removeprefix("parentbased_")
    if name == "always_off":
        return False
    if name == "traceidratio":
        try:
            share = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
        except ValueError:
            share = 1.0
        return int(trace_id[16:], 16) < share * 2**64
    return True
