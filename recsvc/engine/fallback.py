"""What to answer when a fresh list cannot be had in time: the last list for this question, then what is trending.

Each step says in `degradation` what it is. What is answered from here is never kept in a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from recsvc.cache.lists import ListCache
from recsvc.domain.errors import DeadlinePassed, StorageUnavailable
from recsvc.domain.ids import TenantKey
from recsvc.domain.recommendations import (
    Degradation,
    DegradationLevel,
    Recommendations,
    RecommendQuery,
    Strategy,
)
from recsvc.domain.tenancy import TenantProfile
from recsvc.engine.trending_memory import TrendingMemory
from recsvc.telemetry.metrics import Metrics

UNANSWERED = (StorageUnavailable, DeadlinePassed)
"""What a fresh list fails with when the database is away or crawls."""

_AWAY = "the database does not answer"


class Fallback:
    """Answers Recommend when the database does not."""

    def __init__(
        self, cache: ListCache, trending: TrendingMemory, metrics: Metrics, is_slow: Callable[[], bool]
    ) -> None:
        """is_slow: whether the database answers so slowly that it should be waited for only by whom nothing else can
        answer."""
        self._cache = cache
        self._trending = trending
        self._metrics = metrics
        self._is_slow = is_slow

    @property
    def is_preferred(self) -> bool:
        """Whether to look here first."""
        return self._is_slow()

    def keep_up(self, profile: TenantProfile) -> None:
        """Prepare for the time when the database will be away; returns at once."""
        self._trending.keep_up(profile)

    async def find(self, tenant_key: TenantKey, query: RecommendQuery) -> Recommendations | None:
        """The best list that can be had without the database; None when there is not even that."""
        stale = await self._cache.find_stale(tenant_key, query.fingerprint())
        if stale is not None:
            self._metrics.degraded.labels("cache").inc()
            made = stale.generate_time.isoformat(timespec="seconds")
            return replace(stale, degradation=Degradation(DegradationLevel.STALE, f"{_AWAY}; the list is of {made}"))
        now = datetime.now(UTC)
        items = self._trending.find(tenant_key, query, now)
        if not items:
            return None
        self._metrics.degraded.labels("memory").inc()
        return Recommendations(
            items=tuple(items),
            strategy=Strategy.TRENDING,
            model_id="",
            generate_time=now,
            degradation=Degradation(DegradationLevel.FALLBACK, f"{_AWAY}; this is what trended a moment ago"),
        )
