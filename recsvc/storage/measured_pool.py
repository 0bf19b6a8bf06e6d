"""psycopg's pool, which also tells how long its callers wait and how many get nothing."""

from __future__ import annotations

import time

from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from recsvc.storage.connection import Connection
from recsvc.telemetry.metrics import Metrics


class MeasuredPool(AsyncConnectionPool[Connection]):
    """One pool by its name in metrics."""

    def measure(self, metrics: Metrics, name: str) -> None:
        """Tell of it from now on; before any connection is asked for."""
        self._wait_seconds = metrics.pool_wait_seconds.labels(name)
        self._refusals = metrics.pool_refusals.labels(name)
        metrics.watch_pool(name, self.get_stats)

    async def getconn(self, timeout: float | None = None) -> Connection:  # noqa: ASYNC109 - the pool's signature
        """A connection as the pool gives it. Raises PoolTimeout, TooManyRequests and PoolClosed."""
        start = time.perf_counter()
        try:
            connection = await super().getconn(timeout)
        except (PoolTimeout, TooManyRequests):
            self._refusals.inc()
            raise
        self._wait_seconds.observe(time.perf_counter() - start)
        return connection
