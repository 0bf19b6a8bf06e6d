"""What leaves: spans, cut down to what `telemetry/spans.py` declares, out of a bounded queue, to an OTLP collector.

All this runs in the exporter's own thread. A collector that is away costs no call any time: what does not fit into the
queue, and what was not taken in time, is dropped and counted, and the log tells of it once.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence

import structlog
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status
from prometheus_client import Counter

from recsvc.telemetry import spans
from recsvc.telemetry.spans import SPANS

_log = structlog.get_logger(__name__)
_GRPC = "opentelemetry.instrumentation.grpc"
# What we write into a status: the name of a type. Libraries write messages there, with whatever these repeat.
_TYPE_NAME = re.compile(r"[A-Za-z_]{1,64}")


def declared(span: ReadableSpan) -> tuple[str, str] | None:
    """The name in SPANS that a span falls under, and the name that it leaves by; None for what is not declared."""
    scope = span.instrumentation_scope.name if span.instrumentation_scope is not None else ""
    if scope == _GRPC:
        return (spans.CALL, span.name.lstrip("/")) if span.kind is SpanKind.SERVER else None
    if span.name in SPANS:
        return span.name, span.name
    family = f"{span.name.partition(' ')[0]} {{"
    return next(((key, span.name) for key in SPANS if key.startswith(family)), None)


def cut(span: ReadableSpan) -> ReadableSpan | None:
    """The span with what is declared for it and nothing else; None for one that is not declared at all."""
    names = declared(span)
    if names is None:
        return None
    key, name = names
    allowed = SPANS[key].attributes.keys() | {spans.ERROR_TYPE}
    description = span.status.description or ""
    return ReadableSpan(
        name=name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes={at: value for at, value in (span.attributes or {}).items() if at in allowed},
        links=[Link(link.context) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, description if _TYPE_NAME.fullmatch(description) else None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class Outgoing(SpanExporter):
    """Cuts spans down and hands them to another exporter."""

    def __init__(self, exporter: SpanExporter, most: int, counted: Counter) -> None:
        """most: spans that wait to be sent; counted: by what became of them."""
        self._exporter = exporter
        self._most = most
        self._counted = counted
        self._lock = threading.Lock()
        self._waiting = 0
        self._is_away = False

    def take_place(self) -> bool:
        """Whether one more span may wait."""
        with self._lock:
            if self._waiting >= self._most:
                self._counted.labels("queue_full").inc()
                return False
            self._waiting += 1
            return True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; what is not taken in time is lost."""
        with self._lock:
            self._waiting -= len(spans)
        batch = [left for left in map(cut, spans) if left is not None]
        try:
            result = self._exporter.export(batch)
        except Exception:
            # As for a channel that is closed. Nobody but the log could be told, and it is.
            result = SpanExportResult.FAILURE
        is_sent = result is SpanExportResult.SUCCESS
        self._counted.labels("sent" if is_sent else "not_taken").inc(len(batch))
        if is_sent == self._is_away:
            self._is_away = not is_sent
            if is_sent:
                _log.info("tracing.collector_back")
            else:
                _log.warning("tracing.collector_away")
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()


class BoundedBatches(BatchSpanProcessor):
    """Batches of what found a place in the queue."""

    def __init__(self, outgoing: Outgoing, *, queue: int, batch: int, every_s: float) -> None:
        # The library's own bound, beyond ours, is never reached: it would drop without our counting it.
        super().__init__(
            outgoing,
            max_queue_size=queue + batch,
            max_export_batch_size=batch,
            schedule_delay_millis=every_s * 1000,
        )
        self._outgoing = outgoing

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span if there is room."""
        if self._outgoing.take_place():
            super().on_end(span)
