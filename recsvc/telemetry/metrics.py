"""Every metric of the service, in one registry that is passed in where something is measured.

A gauge says by its mode what the gauges of several workers come to (`telemetry/exposition.py`): the sum of what each of
them holds, the worst of what each of them sees, or the last measurement of what they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

# From a cache hit (well under a millisecond) to an import chunk.
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)

_SUM: Final = "livesum"
_WORST: Final = "livemax"
_LEAST: Final = "livemin"
_LAST: Final = "livemostrecent"
_BREAKER_STATES = ("closed", "half-open", "open")


class Metrics:
    """The metrics, each registered once."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._read_when_asked: list[tuple[Gauge, Callable[[], float]]] = []
        self.call_seconds = Histogram(
            "recsvc_call_seconds",
            "Duration of calls.",
            ["method", "code"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.calls_in_flight = Gauge(
            "recsvc_calls_in_flight", "Calls being answered.", multiprocess_mode=_SUM, registry=self.registry
        )
        self.refusals = Counter(
            "recsvc_refusals_total",
            "Calls refused at the door, by the reason of the error and the limit that was reached, if it was one.",
            ["reason", "limit"],
            registry=self.registry,
        )
        self.cache_lookups = Counter(
            "recsvc_cache_lookups_total", "Look-ups of cached lists.", ["outcome"], registry=self.registry
        )
        self.candidate_questions = Counter(
            "recsvc_candidate_questions_total",
            "Questions for candidates, by what answered them: a snapshot in the process or a search in PostgreSQL.",
            ["by"],
            registry=self.registry,
        )
        self.recommendations = Counter(
            "recsvc_recommendations_total", "Lists served.", ["strategy", "degradation"], registry=self.registry
        )
        self.events = Counter("recsvc_events_total", "Events by outcome.", ["outcome"], registry=self.registry)
        self.events_waiting = Gauge(
            "recsvc_events_waiting",
            "Events that wait or are being written.",
            multiprocess_mode=_SUM,
            registry=self.registry,
        )
        self.event_batch_size = Histogram(
            "recsvc_event_batch_size",
            "Events committed together.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
            registry=self.registry,
        )
        self.folds = Counter(
            "recsvc_user_folds_total", "User states folded in, by who found them dirty.", ["by"], registry=self.registry
        )
        self.dirty_users = Gauge(
            "recsvc_dirty_users",
            "Users of all tenants whose state lags behind their events, counted up to 10,000.",
            multiprocess_mode=_LAST,
            registry=self.registry,
        )
        self.oldest_dirty_user_seconds = Gauge(
            "recsvc_oldest_dirty_user_seconds",
            "How long the state that lags longest has done so; 0 when none does.",
            multiprocess_mode=_LAST,
            registry=self.registry,
        )
        self.watchers = Gauge(
            "recsvc_watchers", "Lists that are being watched.", multiprocess_mode=_SUM, registry=self.registry
        )
        self.watch_updates = Counter(
            "recsvc_watch_updates_total", "Changed lists sent to watchers.", registry=self.registry
        )
        self.shown_dropped = Counter(
            "recsvc_shown_dropped_total", "Shown lists that were not logged.", registry=self.registry
        )
        self.redis_failures = Counter(
            "recsvc_redis_failures_total", "Commands that Redis did not answer.", registry=self.registry
        )
        self.breaker_state = Gauge(
            "recsvc_breaker_state",
            "What is done about a dependency: 0 it is asked, 1 it is being probed, 2 it is left alone.",
            ["dependency"],
            multiprocess_mode=_WORST,
            registry=self.registry,
        )
        self.ready = Gauge(
            "recsvc_ready",
            "Whether calls should come here: 1 or 0.",
            multiprocess_mode=_LEAST,
            registry=self.registry,
        )
        self.dependency_up = Gauge(
            "recsvc_dependency_up",
            "Whether a dependency answered lately and is what is needed: 1 or 0.",
            ["dependency"],
            multiprocess_mode=_LEAST,
            registry=self.registry,
        )
        self.replica_lag_seconds = Gauge(
            "recsvc_replica_lag_seconds",
            "For how long a replica has lacked what the primary had; infinite while it is away.",
            ["replica"],
            registry=self.registry,
        )
        self.reads = Counter(
            "recsvc_reads_total",
            "Reads that may be a little old, by the server that was asked.",
            ["target"],
            registry=self.registry,
        )
        self.degraded = Counter(
            "recsvc_degraded_answers_total",
            "Lists that are less than they could be, by where they came from instead.",
            ["origin"],
            registry=self.registry,
        )

    def read_when_asked(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Have a gauge say what `read` returns, where setting it at each change would cost too much."""
        gauge.set_function(read)
        self._read_when_asked.append((gauge, read))

    def write_gauges(self) -> None:
        """Set such gauges to what they say now: nobody asks a worker, its parent sees only what was set."""
        for gauge, read in self._read_when_asked:
            gauge.set(read())

    def breaker_changed(self, dependency: str) -> Callable[[str], None]:
        """What a breaker tells its state to: "closed", "half-open" or "open"."""
        gauge = self.breaker_state.labels(dependency)
        gauge.set(0)
        return lambda state: gauge.set(_BREAKER_STATES.index(state))
