"""Counts, times and logs every call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from recsvc.rpc.calls import Call, Context
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger("recsvc.access")


class Observation:
    """Metrics by method and code, and one log line for each call that failed or was slow."""

    def __init__(self, metrics: Metrics, slow_s: float = 1.0) -> None:
        self._metrics = metrics
        self._slow_s = slow_s

    @asynccontextmanager
    async def around(self, call: Call, context: Context) -> AsyncIterator[None]:
        """Observe the whole call, refusals by later stages included."""
        start = time.perf_counter()
        self._metrics.calls_in_flight.inc()
        try:
            yield
        except asyncio.CancelledError:
            call.code = "CANCELLED"
            raise
        finally:
            duration_s = time.perf_counter() - start
            self._metrics.calls_in_flight.dec()
            self._metrics.call_seconds.labels(call.method, call.code).observe(duration_s)
            if call.code != "OK" or duration_s > self._slow_s:
                _log.info(
                    "call",
                    method=call.method,
                    code=call.code,
                    duration_ms=round(duration_s * 1000, 1),
                    request_id=call.request_id,
                    tenant=call.principal.tenant_id if call.principal else None,
                )
