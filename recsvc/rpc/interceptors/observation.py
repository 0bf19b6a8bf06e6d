"""Counts, times and logs every call."""

from __future__ import annotations

import time
from typing import Any

import structlog
from opentelemetry import trace

from recsvc.domain.errors import DomainError
from recsvc.rpc.calls import Call, Context
from recsvc.rpc.methods import MethodPolicy
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger("recsvc.access")


class Observation:
    """Metrics by method and code, and one log line for each call that failed or was slow."""

    def __init__(self, metrics: Metrics, slow_s: float = 1.0) -> None:
        self._metrics = metrics
        self._slow_s = slow_s
        self._in_flight = 0
        # Read when it is asked for; to set it twice a call would cost more than all else here.
        metrics.read_when_asked(metrics.calls_in_flight, lambda: self._in_flight)
        # To look a metric up by its labels costs as much as to count.
        self._timers: dict[tuple[str, str], Any] = {}

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
        timer.observe(duration_s, _exemplar())
        if call.code != "OK" or duration_s > self._slow_s:
            self._tell(call, duration_s, error)

    def _tell(self, call: Call, duration_s: float, error: DomainError | None) -> None:
        if error is not None:
            self._metrics.refusals.labels(error.reason.value, error.metadata.get("limit", "")).inc()
        _log.info(
            "call.ended",
            method=call.method,
            code=call.code,
            reason=error.reason.value if error is not None else None,
            duration_ms=round(duration_s * 1000, 1),
        )


def _exemplar() -> dict[str, str] | None:
    """The trace that the call is part of, if it is sampled: leads from a slow bucket to a call that was slow."""
    span = trace.get_current_span()
    if span is trace.INVALID_SPAN:
        return None
    context = span.get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.trace_flags.sampled else None
