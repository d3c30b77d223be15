"""The program that exports: spans and metrics from stdin to where the OTEL_* variables say, by OTLP.

A process of its own for each set of such variables (`export.py`): the SDK, its protocol buffers and its HTTP
client take 40 MB and their time, they read the variables of their own process, and what hangs here hangs
nobody. A line of JSON on stdin is an `Item`; on stdout a line tells now and then how many went out and how
many were lost. It leaves at the end of its input, after `LAST` seconds at the latest.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from cms._version import __version__
from cms.telemetry.metrics import Family
from cms.telemetry.spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

LAST: Final = 4.0  # seconds for what is left at the end of the input
#: Metrics that wait; the newest are worth the most, but all are worth little.
_MOST_METRICS: Final = 8


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the input: a span, or metrics as of a time."""

    span: Span | None = None
    families: tuple[Family, ...] = ()
    at: float = 0.0
    since: float = 0.0  # from when counters count


class Told(msgspec.Struct, frozen=True):
    """One line of the output.

    Attributes:
        sent, lost: spans, since the last line.
        trouble: why some are lost, in a line.
    """

    sent: int = 0
    lost: int = 0
    trouble: str = ""


def number(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    """A variable that holds a whole number above zero."""
    text = environ.get(name, "").strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) else otherwise


def wants(environ: Mapping[str, str], signal: str) -> bool:
    """Whether `traces` or `metrics` are to go out by OTLP."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    chosen = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp")
    return "otlp" in (word.strip() for word in chosen.split(","))


class Exporter:
    """The queues between the reader of stdin and the network."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        size = number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048)
        self._batch = min(number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512), size)
        self._delay = number(environ, "OTEL_BSP_SCHEDULE_DELAY", 1000) / 1000
        self._spans: queue.Queue[Span] = queue.Queue(size)
        self._metrics: queue.Queue[Item] = queue.Queue(_MOST_METRICS)
        self._news = threading.Event()
        self._over = False
        self._lost = 0

    def read(self, lines: Iterable[bytes]) -> None:
        """Take what comes, and never wait for the network: what has no room is lost, and counted."""
        for line in lines:
            item = msgspec.json.decode(line, type=Item)
            try:
                if item.span is not None:
                    self._spans.put_nowait(item.span)
                else:
                    self._metrics.put_nowait(item)
            except queue.Full:
                self._lost += item.span is not None
            if item.span is None or self._spans.qsize() >= self._batch:
                self._news.set()
        self._over = True
        self._news.set()

    def work(self) -> Iterator[Told]:
        """Export until the input has ended and all is out."""
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics.export import MetricExportResult
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace.export import SpanExportResult

        resource = Resource({"service.name": "cms", "service.version": __version__}).merge(
            Resource.create(_said_by_person(self._environ))
        )
        spans = OTLPSpanExporter() if wants(self._environ, "traces") else None
        metrics = OTLPMetricExporter() if wants(self._environ, "metrics") else None
        while True:
            over = self._over  # looked at first: what comes before the end is taken
            for batch in iter(self._take, []):
                if spans is None:
                    continue
                if spans.export([_readable(one, resource) for one in batch]) is SpanExportResult.SUCCESS:
                    yield Told(sent=len(batch))
                else:
                    yield Told(lost=len(batch), trouble="the collector did not take them")
            while not self._metrics.empty():
                item = self._metrics.get_nowait()
                if metrics is not None:
                    done = metrics.export(_metrics_data(item, resource))
                    if done is not MetricExportResult.SUCCESS:
                        yield Told(trouble="the collector did not take metrics")
            if self._lost:
                lost, self._lost = self._lost, 0
                yield Told(lost=lost, trouble="they came faster than they could be sent")
            if over:
                return
            self._news.wait(self._delay)
            self._news.clear()

    def _take(self) -> list[Span]:
        found: list[Span] = []
        while len(found) < self._batch:
            try:
                found.append(self._spans.get_nowait())
            except queue.Empty:
                break
        return found


def _said_by_person(environ: Mapping[str, str]) -> dict[str, str]:
    """What the variables do not say, and the SDK would make up: a service's name."""
    said = environ.get("OTEL_SERVICE_NAME") or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return {} if said else {"service.name": "cms"}


def _readable(span: Span, resource: Resource) -> ReadableSpan:
    """A span of ours as one of the SDK's."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    def context(span_id: str) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(int(span.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=flags)

    return ReadableSpan(
        name=span.name,
        context=context(span.span_id),
        parent=context(span.parent_id) if span.parent_id else None,
        resource=resource,
        attributes=span.attributes,
        kind=SpanKind.CLIENT if span.kind == "client" else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=round(span.start * 1e9),
        end_time=round(span.end * 1e9),
        instrumentation_scope=InstrumentationScope("cms", __version__),
    )


def _metrics_data(item: Item, resource: Resource) -> MetricsData:
    """Families as the SDK's metrics. Names lose what only Prometheus wants: `_total` of counters."""
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Metric,
        MetricsData,
        NumberDataPoint,
        ResourceMetrics,
        ScopeMetrics,
        Sum,
    )
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    at, since = round(item.at * 1e9), round(item.since * 1e9)
    found: list[Metric] = []
    for family in filter(lambda one: one.samples, item.families):
        points = [NumberDataPoint(dict(one.labels), since, at, one.value) for one in family.samples]
        counter = family.kind == "counter"
        data = Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True) if counter else Gauge(points)
        name = family.name.removesuffix("_total") if counter else family.name
        found.append(Metric(name, family.help, "", data))
    scope = ScopeMetrics(InstrumentationScope("cms", __version__), found, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def main() -> None:
    """The program."""
    exporter = Exporter(os.environ)

    def read() -> None:
        exporter.read(sys.stdin.buffer)
        # Whatever the network does then: nobody waits for it for long.
        timer = threading.Timer(LAST, os._exit, (0,))
        timer.daemon = True
        timer.start()

    threading.Thread(target=read, daemon=True).start()
    for told in exporter.work():
        sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
        sys.stdout.buffer.flush()
    os._exit(0)  # without the SDK's own way to the end, which waits


if __name__ == "__main__":
    main()
