"""A stand-in for an OpenTelemetry collector on loopback: takes OTLP over HTTP, decodes it, keeps it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from receiver import listening

trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
metrics_service = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")


class Got(NamedTuple):
    """One span as it came."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: int
    end: int
    error: str
    attributes: dict[str, Any]
    resource: dict[str, Any]


class Collector:
    """What has come so far."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Got] = []
        self.metrics: dict[str, list[tuple[dict[str, Any], float]]] = {}
        self.headers: list[dict[str, str]] = []
        self.raw: list[bytes] = []
        self.hang = False
        self._news = threading.Condition()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> int:
        while self.hang:
            time.sleep(0.01)
        with self._news:
            self.raw.append(body)
            self.headers.append(headers)
            if path.endswith("/v1/traces"):
                request = trace_service.ExportTraceServiceRequest.FromString(body)
                for group in request.resource_spans:
                    resource = _attributes(group.resource.attributes)
                    self.spans += [_got(one, resource) for scope in group.scope_spans for one in scope.spans]
            else:
                request = metrics_service.ExportMetricsServiceRequest.FromString(body)
                for group in request.resource_metrics:
                    for scope in group.scope_metrics:
                        for metric in scope.metrics:
                            data = metric.sum if metric.HasField("sum") else metric.gauge
                            points = [
                                (_attributes(one.attributes), one.as_double or float(one.as_int))
                                for one in data.data_points
                            ]
                            self.metrics[metric.name] = points
            self._news.notify_all()
        return 200

    def wait(self, name: str, timeout: float = 20) -> Got:
        """The first span whose name begins so, once it is there."""
        end = time.monotonic() + timeout
        with self._news:
            while True:
                for one in self.spans:
                    if one.name.startswith(name):
                        return one
                assert self._news.wait(end - time.monotonic()), (name, [one.name for one in self.spans])

    def named(self, name: str) -> list[Got]:
        return [one for one in self.spans if one.name.startswith(name)]

    @property
    def environ(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "20"}


def _attributes(pairs: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


def _got(span: Any, resource: dict[str, Any]) -> Got:
    error = span.status.message if span.status.code == 2 else ""
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    times = (span.start_time_unix_nano, span.end_time_unix_nano)
    return Got(span.name, *ids, span.kind, *times, error, _attributes(span.attributes), resource)


@contextmanager
def collecting() -> Iterator[Collector]:
    """One that listens for the length of the block."""
    collector = Collector()

    with listening(collector.take) as collector.url:
        try:
            yield collector
        finally:
            collector.hang = False
