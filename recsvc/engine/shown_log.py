"""Takes shown lists off the request path: a bounded queue, emptied in batches; what does not fit is counted."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Self

import structlog

from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantKey
from recsvc.storage.shown import ShownList, ShownRepository
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_BATCH = 500
_PAUSE_S = 0.2
_STOP_S = 5.0


class ShownLog:
    """An async context manager; leaving it writes what is still queued."""

    def __init__(self, repository: ShownRepository, metrics: Metrics, capacity: int) -> None:
        self._repository = repository
        self._metrics = metrics
        self._queue: asyncio.Queue[tuple[TenantKey, ShownList]] = asyncio.Queue(capacity)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Write the rest and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_STOP_S)
        await self._write_queued()

    def add(self, tenant_key: TenantKey, shown: ShownList) -> None:
        """Queue a list; never waits."""
        try:
            self._queue.put_nowait((tenant_key, shown))
        except asyncio.QueueFull:
            self._metrics.shown_dropped.inc()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_S)
            await self._write_queued()

    async def _write_queued(self) -> None:
        while not self._queue.empty():
            by_tenant: dict[TenantKey, list[ShownList]] = defaultdict(list)
            for _ in range(min(_BATCH, self._queue.qsize())):
                tenant_key, shown = self._queue.get_nowait()
                by_tenant[tenant_key].append(shown)
            for tenant_key, lists in by_tenant.items():
                try:
                    await self._repository.insert(tenant_key, lists)
                except DomainError as error:
                    self._metrics.shown_dropped.inc(len(lists))
                    _log.warning("shown.dropped", lists=len(lists), error=error.reason)
