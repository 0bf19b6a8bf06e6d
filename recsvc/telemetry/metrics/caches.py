"""What is kept rather than asked for again: in Redis and in the process, each cache by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from prometheus_client import Counter

from recsvc.telemetry.metrics.registered import SUM, Registered

CacheName: TypeAlias = Literal[
    "lists", "stale_lists", "tenant_versions", "user_keys", "profiles", "api_keys", "snapshots"
]
_READ_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 60)


class LookUps:
    """Counts the look-ups of one cache."""

    def __init__(self, hits: Counter, misses: Counter) -> None:
        self._hits = hits
        self._misses = misses

    def count(self, is_hit: bool) -> None:
        """Somebody looked for something, and it was there or not."""
        (self._hits if is_hit else self._misses).inc()


class CacheMetrics(Registered):
    """Hits and misses by cache, how much each holds, and snapshots."""

    def __init__(self) -> None:
        super().__init__()
        self.cache_lookups = self._counter(
            "recsvc_cache_lookups_total",
            "Look-ups by cache: current lists, lists of any age, and versions of tenants, in Redis; keys of users,"
            " profiles of tenants, verified API keys and snapshots, in the process. Outcome: hit or miss.",
            "cache",
            "outcome",
        )
        self.cache_entries = self._gauge(
            "recsvc_cache_entries", "What the caches in the process hold.", "cache", workers=SUM
        )
        self.snapshot_bytes = self._gauge(
            "recsvc_snapshot_bytes", "Memory of the arrays of snapshots of catalogues and models.", workers=SUM
        )
        self.snapshot_items = self._gauge("recsvc_snapshot_items", "Items of all snapshots that are held.", workers=SUM)
        self.snapshot_read_seconds = self._histogram(
            "recsvc_snapshot_read_seconds", "How long it took to read snapshots.", buckets=_READ_SECONDS
        )

    def look_ups(self, cache: CacheName) -> LookUps:
        """What counts the look-ups of a cache."""
        return LookUps(self.cache_lookups.labels(cache, "hit"), self.cache_lookups.labels(cache, "miss"))

    def watch_entries(self, cache: CacheName, count: Callable[[], int]) -> None:
        """Have it told how much a cache holds."""
        self.read_when_asked(self.cache_entries.labels(cache), count)
