"""Every metric of the service, in one registry that is passed in where something is measured.

Each area has a module of its own; `Metrics` is all of them together.
"""

from __future__ import annotations

from recsvc.telemetry.metrics.business import BusinessMetrics
from recsvc.telemetry.metrics.caches import CacheMetrics
from recsvc.telemetry.metrics.calls import CallMetrics
from recsvc.telemetry.metrics.events import EventMetrics
from recsvc.telemetry.metrics.serving import ServingMetrics
from recsvc.telemetry.metrics.storage import StorageMetrics


class Metrics(CallMetrics, StorageMetrics, CacheMetrics, EventMetrics, ServingMetrics, BusinessMetrics):
    """The metrics, each registered once."""
