"""PostgreSQL and Redis as this process meets them: connections, waits, how long each kind of question takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import Histogram

from recsvc.telemetry.metrics.registered import SUM, WORST, Registered

# Statements are many: two thirds of the buckets that calls have.
_STATEMENT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2, 10)
_WAIT_SECONDS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2)
_REDIS_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.25)
_BREAKER_STATES: Final = ("closed", "half-open", "open")


class StatementTimes:
    """Durations of statements by their names in the .sql files, of which there are a hundred and some."""

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds
        # To look a metric up by its labels costs as much as to count.
        self._by_name: dict[str, Histogram] = {}

    def observe(self, name: str, duration_s: float) -> None:
        """A statement has been answered, or has failed, after so long."""
        timer = self._by_name.get(name)
        if timer is None:
            timer = self._by_name[name] = self._seconds.labels(name)
        timer.observe(duration_s)


class StorageMetrics(Registered):
    """What is asked of PostgreSQL, its replicas and Redis."""

    def __init__(self) -> None:
        super().__init__()
        self.pool_connections = self._gauge(
            "recsvc_pool_connections", "Connections to PostgreSQL, idle or in use.", "pool", "state", workers=SUM
        )
        self.pool_connections_max = self._gauge(
            "recsvc_pool_connections_max", "How many there may be.", "pool", workers=SUM
        )
        self.pool_waiting = self._gauge(
            "recsvc_pool_waiting", "Questions that wait for a connection.", "pool", workers=SUM
        )
        self.pool_wait_seconds = self._histogram(
            "recsvc_pool_wait_seconds",
            "How long questions waited for a connection before they got one.",
            "pool",
            buckets=_WAIT_SECONDS,
        )
        self.pool_refusals = self._counter(
            "recsvc_pool_refusals_total",
            "Questions that got no connection: none was free in time, or too many waited already.",
            "pool",
        )
        self.statement_seconds = self._histogram(
            "recsvc_statement_seconds",
            "Duration of SQL statements, failed ones too, by their name in the .sql files; for those of a single round"
            " trip, begin and commit are part of it. Not of exports and COPY, which last as long as their readers.",
            "statement",
            buckets=_STATEMENT_SECONDS,
        )
        self.statement_times = StatementTimes(self.statement_seconds)
        self.redis_seconds = self._histogram(
            "recsvc_redis_seconds",
            "Duration of commands to Redis, failed ones too, by what they do.",
            "command",
            buckets=_REDIS_SECONDS,
        )
        self.redis_failures = self._counter("recsvc_redis_failures_total", "Commands that Redis did not answer.")
        self.breaker_state = self._gauge(
            "recsvc_breaker_state",
            "What is done about a dependency: 0 it is asked, 1 it is being probed, 2 it is left alone.",
            "dependency",
            workers=WORST,
        )
        self.breaker_changes = self._counter(
            "recsvc_breaker_changes_total", "Changes of what is done about a dependency.", "dependency", "state"
        )
        self.replica_lag_seconds = self._gauge(
            "recsvc_replica_lag_seconds",
            "For how long a replica has lacked what the primary had; infinite while it is away.",
            "replica",
            workers=WORST,
        )
        self.reads = self._counter(
            "recsvc_reads_total", "Reads that may be a little old, by the server that was asked.", "target"
        )
        self.retries = self._counter(
            "recsvc_retries_total",
            "Further attempts at what had failed: answered or failed; no_time and no_budget for those not made.",
            "operation",
            "outcome",
        )

    def retried(self, operation: str, outcome: str) -> None:
        """Count a further attempt, or that there was none."""
        self.retries.labels(operation, outcome).inc()

    def breaker_changed(self, dependency: str) -> Callable[[str], None]:
        """What a breaker tells its state to: "closed", "half-open" or "open"."""
        gauge = self.breaker_state.labels(dependency)
        gauge.set(0)
        changes = {state: self.breaker_changes.labels(dependency, state) for state in _BREAKER_STATES}

        def changed(state: str) -> None:
            gauge.set(_BREAKER_STATES.index(state))
            changes[state].inc()

        return changed

    def watch_pool(self, name: str, stats: Callable[[], Mapping[str, int]]) -> None:
        """Have the state of a pool told. stats: as psycopg_pool gives them."""

        def in_use() -> int:
            present = stats()
            return present["pool_size"] - present["pool_available"]

        self.read_when_asked(self.pool_connections.labels(name, "idle"), lambda: stats()["pool_available"])
        self.read_when_asked(self.pool_connections.labels(name, "in use"), in_use)
        self.read_when_asked(self.pool_waiting.labels(name), lambda: stats()["requests_waiting"])
        self.pool_connections_max.labels(name).set(stats()["pool_max"])
