"""What is told of single tenants, of the busiest by name if that is asked for; and of all that is stored for them."""

from __future__ import annotations

from recsvc.telemetry.metrics.registered import LAST, Registered

_TRAINING_SECONDS = (10, 30, 60, 300, 600, 1800, 3600, 7200, 14_400, 43_200)


class TenantMetrics(Registered):
    """Calls, models and training by tenant; sizes and coverage of all."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant_calls = self._counter(
            "recsvc_tenant_calls_total",
            "Calls of known callers by tenant, if tenants are told apart (RECSVC_METRICS__TENANTS).",
            "tenant",
            "code",
        )
        self.model_age_seconds = self._gauge(
            "recsvc_model_age_seconds",
            "Age of the serving model; of several tenants that are not told apart, of the oldest one.",
            "tenant",
            workers=LAST,
        )
        self.training_progress = self._gauge(
            "recsvc_training_progress_ratio",
            "How far the training run under way is, of several the one that is least far; 1 once there is none.",
            "tenant",
            workers=LAST,
        )
        self.training_runs = self._gauge(
            "recsvc_training_runs_under_way", "Training runs of all tenants that wait or are under way.", workers=LAST
        )
        self.training_seconds = self._histogram(
            "recsvc_training_seconds",
            "Duration of training runs by how they ended: succeeded, failed, or stopped with their server.",
            "outcome",
            buckets=_TRAINING_SECONDS,
        )
        for outcome in ("succeeded", "failed", "stopped"):
            # Of a series that begins with the first failure nobody would see an increase.
            self.training_seconds.labels(outcome)
        self.stored_rows = self._gauge(
            "recsvc_stored_rows",
            "Items, users and events of all tenants, as PostgreSQL estimates their number.",
            "table",
            workers=LAST,
        )
        self.catalog_coverage = self._gauge(
            "recsvc_catalog_coverage_ratio",
            "Share of all items that were in a list since midnight (UTC); both numbers are estimates.",
            workers=LAST,
        )
