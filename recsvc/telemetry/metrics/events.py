"""Events on their way in, and how far what follows from them lags behind."""

from __future__ import annotations

from recsvc.telemetry.metrics.registered import LAST, SUM, Registered


class EventMetrics(Registered):
    """The writer and the projector."""

    def __init__(self) -> None:
        super().__init__()
        self.events = self._counter("recsvc_events_total", "Events by outcome.", "outcome")
        self.events_waiting = self._gauge(
            "recsvc_events_waiting", "Events that wait or are being written.", workers=SUM
        )
        self.events_waiting_limit = self._gauge(
            "recsvc_events_waiting_limit",
            "Events that may wait or be written; unary calls beyond it are refused.",
            workers=SUM,
        )
        self.event_batch_size = self._histogram(
            "recsvc_event_batch_size",
            "Events committed together.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
        )
        self.folds = self._counter("recsvc_user_folds_total", "User states folded in, by who found them dirty.", "by")
        self.dirty_users = self._gauge(
            "recsvc_dirty_users",
            "Users of all tenants whose state lags behind their events, counted up to 10,000.",
            workers=LAST,
        )
        self.oldest_dirty_user_seconds = self._gauge(
            "recsvc_oldest_dirty_user_seconds",
            "How long the state that lags longest has done so; 0 when none does.",
            workers=LAST,
        )
