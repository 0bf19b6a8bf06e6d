"""The span of a call: OpenTelemetry's own interceptor around the pipeline, and what only the pipeline knows of it.

None of this is there while tracing is off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from opentelemetry.trace import Tracer, get_current_span

from recsvc.domain.errors import DomainError
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.rpc.pipeline import Handler, Stage
from recsvc.telemetry.spans import REASON, STATUS_CODE, TENANT
from recsvc.telemetry.stages import opened
from recsvc.telemetry.tracing import Tracing

Interceptor: TypeAlias = "grpc.aio.ServerInterceptor[Any, Any]"
_OURS = "/recsvc.v1."


class DrawnCalls(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Around the pipeline: makes a span of each call of ours that is drawn, in the trace of its caller."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry.instrumentation.grpc import aio_server_interceptor

        from recsvc.telemetry.sampling import Draw

        self._draw = Draw(tracing.settings.ratio, tracing.settings.calls_per_s)
        self._spans: Interceptor = aio_server_interceptor(  # type: ignore[no-untyped-call]
            tracer_provider=tracing.provider
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler, for a call that is drawn within a span; health and reflection have none."""
        is_ours = handler_call_details.method.startswith(_OURS)
        if not is_ours or not self._draw.takes(handler_call_details.invocation_metadata or ()):
            return await continuation(handler_call_details)
        handler: Handler = await self._spans.intercept_service(continuation, handler_call_details)
        return handler


class CallTold:
    """The outermost stage: tells how the call ended. The library sees aborts, but no cancellation and no reason."""

    def concerns(self, policy: MethodPolicy) -> bool:
        """All methods."""
        return True

    def enter(self, call: Call, context: Context) -> None:
        """The span has begun."""

    def leave(self, call: Call, error: DomainError | None) -> None:
        """Tell of the tenant, the code and the reason."""
        span = get_current_span()
        if not span.is_recording():
            return
        span.set_attribute(STATUS_CODE, grpc.StatusCode[call.code].value[0])
        if call.principal is not None:
            span.set_attribute(TENANT, call.principal.tenant_id)
        if error is not None:
            span.set_attribute(REASON, error.reason.value)


class Traced:
    """A stage whose waiting is a span; what it decides at once is none."""

    def __init__(self, stage: Stage, span: str, tracer: Tracer) -> None:
        self._stage = stage
        self._span = span
        self._tracer = tracer
        self.concerns = stage.concerns
        self.leave = stage.leave

    def enter(self, call: Call, context: Context) -> Awaitable[None] | None:
        """Let the call in as the stage does."""
        waiting = self._stage.enter(call, context)
        return waiting if waiting is None or not get_current_span().is_recording() else self._waited(waiting)

    async def _waited(self, waiting: Awaitable[None]) -> None:
        with opened(self._tracer, self._span):
            await waiting
