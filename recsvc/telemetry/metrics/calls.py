"""Calls as their callers see them, and the process that answers them: whether it should, how far behind its loop is."""

from __future__ import annotations

from collections.abc import Callable

from recsvc.telemetry.metrics.registered import LEAST, SUM, Registered

# From a cache hit (well under a millisecond) to an import chunk.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
_LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class CallMetrics(Registered):
    """Rate, errors and duration by method; refusals; readiness; what waits in the process."""

    def __init__(self) -> None:
        super().__init__()
        self.call_seconds = self._histogram(
            "recsvc_call_seconds", "Duration of calls.", "method", "code", buckets=_SECONDS
        )
        self.calls_in_flight = self._gauge("recsvc_calls_in_flight", "Calls being answered.", workers=SUM)
        self.refusals = self._counter(
            "recsvc_refusals_total",
            "Calls refused at the door, by the reason of the error and the limit that was reached, if it was one.",
            "reason",
            "limit",
        )
        self.ready = self._gauge("recsvc_ready", "Whether calls should come here: 1 or 0.", workers=LEAST)
        self.dependency_up = self._gauge(
            "recsvc_dependency_up",
            "Whether a dependency answered lately and is what is needed: 1 or 0.",
            "dependency",
            workers=LEAST,
        )
        self.loop_lag_seconds = self._histogram(
            "recsvc_event_loop_lag_seconds",
            "How late the event loop woke a sleeper: what every call waits for each turn of the loop.",
            buckets=_LAG_SECONDS,
        )
        self.queue_length = self._gauge(
            "recsvc_queue_length",
            "What waits in the process: shown lists to be logged, questions of watchers, searches for candidates,"
            " API keys to be verified.",
            "queue",
            workers=SUM,
        )
        self.queue_capacity = self._gauge(
            "recsvc_queue_capacity",
            "How long such a queue may get; beyond it work is refused or dropped.",
            "queue",
            workers=SUM,
        )
        self.trace_spans = self._counter(
            "recsvc_trace_spans_total",
            "Spans of traces: sent, or lost because the queue was full, the collector did not take them, or the call"
            " had too many.",
            "outcome",
        )

    def watch_queue(self, name: str, length: Callable[[], int], capacity: int | None = None) -> None:
        """Have the length of a queue told. capacity: None of one that only calls in flight bound."""
        self.read_when_asked(self.queue_length.labels(name), length)
        if capacity is not None:
            self.queue_capacity.labels(name).set(capacity)
