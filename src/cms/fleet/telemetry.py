"""The traces of one supervisor's sessions and batches: who is traced, below what, and where it goes.

Only sessions that ask for it (`--otel`) are traced, and where to is said by the OTEL_* variables of whoever
asked. Nothing of OpenTelemetry is loaded here, whoever asks: that is the exporters' (`telemetry.exporter`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import trio

from cms.batch.model import BatchRecord, TaskStatus
from cms.errors import UsageError
from cms.session.model import Interaction, SessionOptions, SessionRecord
from cms.telemetry import names
from cms.telemetry.export import Exports, check_library
from cms.telemetry.session_trace import SessionTrace
from cms.telemetry.spans import Span, below, part_of, place_of


class Telemetry:
    """Of one supervisor.

    Attributes:
        exports: where it goes.
    """

    def __init__(self) -> None:
        self.exports = Exports()
        self._traces: dict[str, SessionTrace] = {}  # session id -> that of its newest process

    @staticmethod
    def check(options: SessionOptions, environ: Mapping[str, str]) -> None:
        """Whether what is asked for can be had.

        Raises:
            UsageError: it cannot.
        """
        if options.otel_content and not options.otel:
            raise UsageError("--otel-content needs --otel", hint="add --otel")
        if not options.otel:
            return
        check_library()
        for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
            if protocol := environ.get(name, ""):
                if not protocol.startswith("http/"):
                    raise UsageError(
                        f"--otel exports by OTLP over HTTP, and {name} says {protocol}",
                        hint="set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf, with an endpoint for it",
                    )
                break

    def trace(self, record: SessionRecord, environ: Mapping[str, str]) -> SessionTrace | None:
        """The trace of a process that is about to be started; None: it is not traced."""
        if not record.options.otel:
            return None
        if (before := self._traces.get(record.id)) is not None:
            before.close()
        self._traces = {key: one for key, one in self._traces.items() if not one.broken}
        found = SessionTrace(record, environ, partial(self.exports.span, dict(environ)))
        self._traces[record.id] = found
        return found

    def judged(self, message: Interaction) -> None:
        """A delegation has its verdict."""
        if (trace := self._traces.get(message.session_id)) is not None:
            trace.judged(message)

    @contextmanager
    def batch(self, current: Callable[[], BatchRecord], environ: Mapping[str, str]) -> Iterator[None]:
        """A batch at work, if it is traced: what is started within the block is below it.

        Args:
            current: gives how it stands.
        """
        if not current().options.defaults.otel:
            yield
            return
        parent = part_of.get() or place_of(environ)
        place = below(parent, environ, secrets.token_hex(16), secrets.token_hex(8))
        began = time.time()
        token = part_of.set(place)
        try:
            yield
        finally:
            part_of.reset(token)
            stands = current()
            if place.sampled:
                error = "" if stands.status.value == "completed" else stands.status.value
                span = Span(
                    f"{names.WORKFLOW} {stands.id}",
                    place.trace_id,
                    place.span_id,
                    "" if parent is None else parent.span_id,
                    began,
                    max(time.time(), began),
                    {
                        names.OPERATION_NAME: names.WORKFLOW,
                        names.WORKFLOW_NAME: stands.id,
                        names.STATUS: stands.status.value,
                        names.COST: stands.spent,
                        names.COST_EXACT: stands.exact,
                        names.TASKS: stands.total,
                        names.COMPLETED: stands.counts.get(TaskStatus.COMPLETED, 0),
                        **({names.ERROR_TYPE: error} if error else {}),
                    },
                    error=error,
                )
                self.exports.span(environ, span)

    async def close(self) -> None:
        """Everything has ended: let what there is of it go out, for a few seconds."""
        for trace in self._traces.values():
            trace.close()
        if self.exports:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.exports.close)
