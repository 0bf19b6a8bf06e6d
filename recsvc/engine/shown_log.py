"""Takes shown lists off the request path: a bounded queue, emptied in batches.

Two kinds of caller: one that must not wait, whose list is dropped and counted when the queue is full; and one that
answers in bulk, which waits for room, so that no list is lost however fast it is. What the database cannot take at
present stays queued.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Self

import structlog

from recsvc.domain.errors import DomainError, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.engine.coverage import CatalogCoverage
from recsvc.resilience.background import Background
from recsvc.storage.shown import ShownList, ShownRepository
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)
_BATCH = 500
_PAUSE_S = 0.2
# Longer than a batch takes to write; a database that is away for longer is told to the caller.
_ROOM_TIMEOUT_S = 5.0


class ShownLog:
    """An async context manager; leaving it writes what is still queued."""

    def __init__(
        self,
        repository: ShownRepository,
        metrics: Metrics,
        capacity: int,
        coverage: CatalogCoverage | None = None,
    ) -> None:
        """coverage: told which items were shown."""
        self._repository = repository
        self._coverage = coverage
        self._metrics = metrics
        self._queue: asyncio.Queue[tuple[TenantKey, ShownList]] = asyncio.Queue(capacity)
        self._unwritten: dict[TenantKey, list[ShownList]] = {}
        self._background = Background()
        metrics.watch_queue("shown", lambda: self._queue.qsize() + sum(map(len, self._unwritten.values())), capacity)

    async def __aenter__(self) -> Self:
        """Begin to write."""
        self._background.begin([self._run()])
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Write the rest and stop."""
        await self._background.end()
        await self._write_queued()
        self._metrics.shown_dropped.inc(sum(map(len, self._unwritten.values())) + self._queue.qsize())

    def add(self, tenant_key: TenantKey, shown: ShownList) -> None:
        """Queue a list; never waits."""
        try:
            self._queue.put_nowait((tenant_key, shown))
        except asyncio.QueueFull:
            self._metrics.shown_dropped.inc()

    async def add_patiently(self, tenant_key: TenantKey, shown: ShownList) -> None:
        """Queue a list; waits for room. Raises StorageUnavailable when there is none in time."""
        if not self._queue.full():
            self._queue.put_nowait((tenant_key, shown))
            return
        try:
            async with asyncio.timeout(_ROOM_TIMEOUT_S):
                await self._queue.put((tenant_key, shown))
        except TimeoutError:
            raise StorageUnavailable from None

    async def _run(self) -> None:
        while not self._background.is_ending:
            await self._background.rest(_PAUSE_S)
            await self._write_queued()

    async def _write_queued(self) -> None:
        while self._unwritten or not self._queue.empty():
            if not self._unwritten:
                by_tenant: dict[TenantKey, list[ShownList]] = defaultdict(list)
                for _ in range(min(_BATCH, self._queue.qsize())):
                    tenant_key, shown = self._queue.get_nowait()
                    by_tenant[tenant_key].append(shown)
                self._unwritten = dict(by_tenant)
            for tenant_key, lists in list(self._unwritten.items()):
                try:
                    await self._repository.insert(tenant_key, lists)
                    if self._coverage is not None:
                        await self._coverage.add(tenant_key, {item for shown in lists for item in shown.item_ids})
                except StorageUnavailable:
                    # Writing them twice changes nothing, so they wait for the next round.
                    return
                except DomainError as error:
                    self._metrics.shown_dropped.inc(len(lists))
                    _log.warning("shown.dropped", lists=len(lists), error=error.reason)
                except Exception:
                    # What nobody foresaw must neither end the log of all others nor the process in another way.
                    self._metrics.shown_dropped.inc(len(lists))
                    _log.exception("shown.crashed", lists=len(lists))
                del self._unwritten[tenant_key]
