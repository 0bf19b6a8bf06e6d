"""Traces: one provider per process, made when the service starts and flushed when it stops, if they are wanted at all.

While they are off, neither OpenTelemetry's SDK for traces nor its exporter or instrumentations are imported, and no
function is wrapped: `tests/e2e/test_tracing_off.py`. What is switched on process-wide (marked stages, the propagator)
is switched off again when the block is left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING

from opentelemetry import context, propagate
from opentelemetry.trace import Tracer, get_current_span

from recsvc.settings import TracingSettings
from recsvc.telemetry.metrics import Metrics
from recsvc.telemetry.propagation import propagator
from recsvc.telemetry.stages import opened, traced

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from recsvc.telemetry.outgoing import Outgoing

_CUT_OFF_S = 1.0
_TRACE_CONTEXT = ("traceparent", "tracestate")


@dataclass(frozen=True, slots=True)
class Tracing:
    """Tracing that is on."""

    provider: TracerProvider
    tracer: Tracer
    settings: TracingSettings

    @contextmanager
    def root(self, span: str, environment: Mapping[str, str]) -> Iterator[None]:
        """A span that is no call's around the block, in the trace that an environment names, if it names one.

        Such spans are few: they are recorded whatever the share of calls is, unless it is 0.
        """
        carrier = {name: environment[name.upper()] for name in _TRACE_CONTEXT if name.upper() in environment}
        if not carrier and not self.settings.ratio:
            yield
            return
        token = context.attach(propagator().extract(carrier))
        try:
            with opened(self.tracer, span):
                yield
        finally:
            context.detach(token)

    def tell_past(self, family: str, seconds: Mapping[str, float]) -> None:
        """Spans of stages that came one after the other and have just ended, by name in their order."""
        if not get_current_span().is_recording():
            return
        end_ns = time.time_ns()
        start_ns = end_ns - int(sum(seconds.values()) * 1e9)
        for name, took_s in seconds.items():
            span = self.tracer.start_span(family.format(stage=name), start_time=start_ns)
            start_ns += int(took_s * 1e9)
            span.end(start_ns)

    @staticmethod
    def carried() -> Mapping[str, str]:
        """Variables by which a process that is started now can tell what trace it belongs to."""
        carrier: dict[str, str] = {}
        propagator().inject(carrier)
        return {name.upper(): carrier[name] for name in _TRACE_CONTEXT if name in carrier}


@asynccontextmanager
async def tracing(
    settings: TracingSettings, metrics: Metrics, staged: Iterable[type | ModuleType] = ()
) -> AsyncIterator[Tracing | None]:
    """Record and export spans until the block is left, then send what is left; None while tracing is off.

    staged: whose marked functions become spans. Raises RuntimeError when such a block is open in this process already.
    """
    if not settings.enabled:
        yield None
        return
    with ExitStack() as stack:
        stack.enter_context(_quiet_libraries())
        provider, outgoing = _provider(settings, metrics)
        try:
            tracer = provider.get_tracer("recsvc", version("recsvc"))
            stack.enter_context(_propagating())
            stack.enter_context(traced(tracer, staged))
            yield Tracing(provider, tracer, settings)
        finally:
            await _flush(provider, outgoing, settings.flush_s)


def _provider(settings: TracingSettings, metrics: Metrics) -> tuple[TracerProvider, Outgoing]:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    from recsvc.telemetry.outgoing import BoundedBatches, Outgoing
    from recsvc.telemetry.sampling import Budgets, CallSampler

    is_plain = settings.endpoint.startswith("http://")
    authorities = settings.ca_file.read_bytes() if settings.ca_file is not None else None
    exporter = OTLPSpanExporter(
        endpoint=settings.endpoint,
        insecure=is_plain,
        credentials=None if is_plain else grpc.ssl_channel_credentials(authorities),
        headers=tuple((name, value.get_secret_value()) for name, value in settings.headers.items()),
        timeout=settings.timeout_s,
    )
    budgets = Budgets(settings.spans_per_call)
    counted = metrics.trace_spans
    provider = TracerProvider(
        sampler=CallSampler(budgets, counted.labels("over_budget")),
        resource=Resource.create(
            {
                "service.name": settings.service_name,
                "service.version": version("recsvc"),
                "service.instance.id": f"{settings.instance or socket.gethostname()}-{os.getpid()}",
            }
        ),
        # It would wait for the collector at exit, for as long as it likes.
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_span_attributes=32, max_events=8, max_links=32, max_span_attribute_length=256),
    )
    outgoing = Outgoing(exporter, settings.queue, counted)
    provider.add_span_processor(budgets)
    provider.add_span_processor(
        BoundedBatches(outgoing, queue=settings.queue, batch=settings.batch, every_s=settings.every_s)
    )
    return provider, outgoing


@contextmanager
def _propagating() -> Iterator[None]:
    """Take from callers what we take: the interceptor of gRPC asks the process for a propagator."""
    before = propagate.get_global_textmap()
    propagate.set_global_textmap(propagator())
    try:
        yield
    finally:
        propagate.set_global_textmap(before)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep the libraries from saying something for each batch that fails, and repeating what callers sent."""
    logger = logging.getLogger("opentelemetry")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


async def _flush(provider: TracerProvider, outgoing: Outgoing, at_most_s: float) -> None:
    """Send what waits; what the collector has not taken by then is lost."""
    loop = asyncio.get_running_loop()
    closing = loop.run_in_executor(None, provider.shutdown)
    _, late = await asyncio.wait([closing], timeout=at_most_s)
    if late:
        # With its channel closed the exporter fails at once, and the thread ends.
        await loop.run_in_executor(None, outgoing.shutdown)
        await asyncio.wait([closing], timeout=_CUT_OFF_S)
