"""Counts and times every call."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import trace

from recsvc.domain.errors import DomainError
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.telemetry.metrics import Metrics


class Observation:
    """Metrics by method and code."""

    def __init__(self, metrics: Metrics, *, are_traced: bool) -> None:
        """are_traced: whether some calls have a span."""
        self._metrics = metrics
        self._are_traced = are_traced
        self._in_flight = 0
        # Read when it is asked for; to set it twice a call would cost more than all else here.
        metrics.read_when_asked(metrics.calls_in_flight, lambda: self._in_flight)
        # To look a metric up by its labels costs as much as to count.
        self._timers: dict[tuple[str, str], Any] = {}
        self._tenants = metrics.tenant_labels
        self._tenant_calls: dict[tuple[str, str], Any] = {}

    def concerns(self, policy: MethodPolicy) -> bool:
        """All methods."""
        return True

    def enter(self, call: Call, context: Context) -> None:
        """The call begins."""
        self._in_flight += 1

    def leave(self, call: Call, error: DomainError | None) -> None:
        """It ended, refusals by later stages included."""
        self._in_flight -= 1
        duration_s = time.perf_counter() - call.started_s
        timer = self._timers.get((call.method, call.code))
        if timer is None:
            timer = self._metrics.call_seconds.labels(call.method, call.code)
            self._timers[call.method, call.code] = timer
        timer.observe(duration_s, _exemplar() if self._are_traced else None)
        if call.principal is not None and self._tenants.are_told_apart:
            self._count_for(call.principal.tenant_id, call.code)
        if error is not None:
            self._metrics.refusals.labels(error.reason.value, error.metadata.get("limit", "")).inc()

    def _count_for(self, tenant_id: str, code: str) -> None:
        key = (self._tenants.of_caller(tenant_id), code)
        calls = self._tenant_calls.get(key)
        if calls is None:
            calls = self._tenant_calls[key] = self._metrics.tenant_calls.labels(*key)
        calls.inc()


def _exemplar() -> dict[str, str] | None:
    """The trace that the call is part of, if it is sampled: leads from a slow bucket to a call that was slow."""
    span = trace.get_current_span()
    if span is trace.INVALID_SPAN:
        return None
    context = span.get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.trace_flags.sampled else None
