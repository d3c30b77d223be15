"""Metrics as values, and as the text that Prometheus reads (exposition format 0.0.4).

Names follow Prometheus: `cms_` first, the unit in the name, `_total` behind what only grows. Labels have few
values each and never a session's name: who scrapes pays for each one for ever.

Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from cms.session.model import Record

#: Of what `text` gives, for HTTP.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

#: Values of one label that others may make up; what is beyond is told together as "other".
MOST: Final = 50


class Sample(Record, frozen=True):
    """One figure of a family, and which one."""

    value: float
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)


class Family(Record, frozen=True):
    """What has one name: the figures of it that there are.

    Attributes:
        kind: a counter only grows, over restarts of the daemon too; a gauge is as of now.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: tuple[Sample, ...]


def gauge(name: str, text: str, value: float) -> Family:
    """A gauge of one figure."""
    return Family(name, "gauge", text, (Sample(value),))


def by_label(
    name: str, kind: Literal["counter", "gauge"], text: str, label: str, values: Mapping[str, float]
) -> Family:
    """A family with one label."""
    samples = tuple(Sample(value, {label: key}) for key, value in sorted(values.items()))
    return Family(name, kind, text, samples)


def text(families: Iterable[Family]) -> str:
    """What a scrape gets."""
    return "".join(line for family in families for line in _lines(family))


def _lines(family: Family) -> Iterable[str]:
    if not family.samples:
        return
    told = family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {told}\n# TYPE {family.name} {family.kind}\n"
    for sample in family.samples:
        labels = ",".join(f'{name}="{_escaped(value)}"' for name, value in sample.labels.items())
        yield f"{family.name}{f'{{{labels}}}' if labels else ''} {_number(sample.value)}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
