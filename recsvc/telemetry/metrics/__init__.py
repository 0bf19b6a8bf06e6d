"""Every metric of the service, in one registry that is passed in where something is measured.

Each area has a module of its own; `Metrics` is all of them together.
"""

from __future__ import annotations

from recsvc.telemetry.metrics.business import BusinessMetrics
from recsvc.telemetry.metrics.caches import CacheMetrics
from recsvc.telemetry.metrics.calls import CallMetrics
from recsvc.telemetry.metrics.events import EventMetrics
from recsvc.telemetry.metrics.labels import TenantLabels
from recsvc.telemetry.metrics.serving import ServingMetrics
from recsvc.telemetry.metrics.storage import StorageMetrics
from recsvc.telemetry.metrics.tenants import TenantMetrics


class Metrics(CallMetrics, StorageMetrics, CacheMetrics, EventMetrics, ServingMetrics, BusinessMetrics, TenantMetrics):
    """The metrics, each registered once."""

    def __init__(self, named_tenants: int = 0) -> None:
        """named_tenants: how many tenants may be told apart by name."""
        super().__init__()
        self.tenant_labels = TenantLabels(named_tenants)
