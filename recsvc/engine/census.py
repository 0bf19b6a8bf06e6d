"""Looks now and then at what is stored for all tenants, and has metrics tell of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Self

import structlog
from prometheus_client import Gauge

from recsvc.domain.errors import DomainError
from recsvc.domain.ids import TenantId
from recsvc.engine.coverage import CatalogCoverage
from recsvc.resilience.background import Background
from recsvc.storage.statistics import StatisticsRepository
from recsvc.telemetry.metrics import Metrics

_log = structlog.get_logger(__name__)


class Census:
    """An async context manager around the looking."""

    def __init__(
        self, statistics: StatisticsRepository, coverage: CatalogCoverage, metrics: Metrics, every_s: float
    ) -> None:
        self._statistics = statistics
        self._coverage = coverage
        self._metrics = metrics
        self._every_s = every_s
        self._in_training: set[str] = set()
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Begin to look."""
        self._background.begin([self._run()])
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop."""
        await self._background.end()

    async def take_once(self) -> None:
        """Look once. Raises StorageUnavailable."""
        found = await self._statistics.read()
        for table, rows in found.rows.items():
            self._metrics.stored_rows.labels(table).set(rows)
        self._tell(self._metrics.model_age_seconds, found.model_ages_s, max)
        self._metrics.training_runs.set(len(found.progress))
        under_way = self._tell(self._metrics.training_progress, found.progress, min)
        for label in self._in_training - under_way:
            self._metrics.training_progress.labels(label).set(1)
        self._in_training = under_way
        shown = await self._coverage.items()
        if shown is not None:
            self._metrics.catalog_coverage.set(min(1.0, shown / max(1.0, found.rows.get("items", 0.0))))

    def _tell(
        self, gauge: Gauge, by_tenant: Mapping[TenantId, float], of_several: Callable[[Iterable[float]], float]
    ) -> set[str]:
        """Set a gauge by tenant; returns the labels. of_several: what those that share a label come to."""
        shared: dict[str, list[float]] = {}
        for tenant_id, value in by_tenant.items():
            shared.setdefault(self._metrics.tenant_labels.of(tenant_id), []).append(value)
        for label, values in shared.items():
            gauge.labels(label).set(of_several(values))
        return set(shared)

    async def _run(self) -> None:
        while not self._background.is_ending:
            try:
                await self.take_once()
            except DomainError as error:
                _log.warning("census.failed", error=error.reason)
            except Exception:
                _log.exception("census.crashed")
            await self._background.rest(self._every_s)
