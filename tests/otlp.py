"""An OpenTelemetry collector in the test's own process: a gRPC server that keeps the spans that it is sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc

from recsvc.settings import TracingSettings

_SOON_S = 15.0
_LOOK_S = 0.05


@dataclass(frozen=True)
class Received:
    """A span as it came over the wire. text: all of it, resource included, as the collector could show it."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    links: tuple[str, ...]
    is_error: bool
    description: str
    start_ns: int
    end_ns: int
    text: str


@dataclass
class Collector(pb_grpc.TraceServiceServicer):
    """What was received so far."""

    port: int = 0
    spans: list[Received] = field(default_factory=list)
    metadata: list[Mapping[str, Any]] = field(default_factory=list)
    answers_after_s: float = 0.0

    async def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        await asyncio.sleep(self.answers_after_s)
        for resource_spans in request.resource_spans:
            resource = _values(resource_spans.resource.attributes)
            for scope in resource_spans.scope_spans:
                self.spans += [_received(span, resource) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    def settings(self, **changes: Any) -> TracingSettings:
        """Of a service that traces every call and sends its spans here at once."""
        everything = {"ratio": 1.0, "calls_per_s": 1e6, "every_s": 0.05}
        # The collector shares the event loop with the service and the test: it may be slow at times.
        patience = {"timeout_s": 20.0, "flush_s": 20.0}
        endpoint = f"http://127.0.0.1:{self.port}"
        return TracingSettings(**({"enabled": True, "endpoint": endpoint} | everything | patience | changes))

    async def until(self, is_enough: Callable[[list[Received]], bool]) -> list[Received]:
        """The spans, once they are enough."""
        deadline = time.monotonic() + _SOON_S
        while not is_enough(self.spans):
            names = sorted({span.name for span in self.spans})
            assert time.monotonic() < deadline, f"only {len(self.spans)} spans came: {names}"
            await asyncio.sleep(_LOOK_S)
        return self.spans

    async def trace_of(self, method: str, number: int = 1) -> list[Received]:
        """All spans of the trace of the last of so many calls of a method, which have ended; the call's own first."""

        def calls(spans: list[Received]) -> list[Received]:
            return [span for span in spans if span.name.endswith(f"/{method}") and span.kind == SERVER]

        call = calls(await self.until(lambda spans: len(calls(spans)) >= number))[-1]
        await self.settled()
        others = [span for span in self.spans if span.trace_id == call.trace_id and span is not call]
        return [call, *others]

    async def settled(self, quiet_s: float = 0.4) -> None:
        """Wait until nothing has come for a while."""
        count = -1
        while count != len(self.spans):
            count = len(self.spans)
            await asyncio.sleep(quiet_s)


INTERNAL, SERVER, CLIENT = 1, 2, 3


@asynccontextmanager
async def collector(port: int = 0, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Collector]:
    """A collector on a port, or on a free one; credentials: for TLS."""
    kept = Collector()
    server = grpc.aio.server()
    pb_grpc.add_TraceServiceServicer_to_server(kept, server)
    address = f"127.0.0.1:{port}"
    kept.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield kept
    finally:
        await server.stop(0)


def _received(span: Any, resource: Mapping[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        attributes=_values(span.attributes),
        resource=resource,
        links=tuple(link.span_id.hex() for link in span.links),
        is_error=span.status.code == 2,
        description=span.status.message,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        text=f"{resource} {span}",
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
